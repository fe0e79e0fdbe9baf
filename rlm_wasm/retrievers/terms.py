"""From any text to the words and quoted phrases that are looked for. Pure; knows no back end's syntax."""

from __future__ import annotations

import re
import unicodedata

import msgspec

# Each costs a walk over all documents that have it, and a question has no more. It also stays below the number of
# clauses that Elasticsearch takes in one query.
MAX_WORDS = 256
_QUOTED = re.compile(r'"([^"]*)"')


class Terms(msgspec.Struct, frozen=True):
    """What a query looks for: single words, and phrases of two words or more, in the order of the query.

    A word holds letters, digits and their marks only, so that none can be an operator or end a quotation.
    """

    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


def terms_of(query: str) -> Terms:
    """The distinct words of a text, and the phrases that stand in double quotes; the first 256 words count."""
    words: dict[str, None] = {}
    phrases: dict[str, None] = {}
    left = MAX_WORDS
    for index, part in enumerate(_QUOTED.split(query)):
        found = _words(part)
        # every second part stood in quotes
        if index % 2 and len(found) > 1:
            taken = found[:left]
            phrases[" ".join(taken)] = None
        else:
            taken = [word for word in dict.fromkeys(found) if word not in words][:left]
            words |= dict.fromkeys(taken)
        left -= len(taken)
        if left <= 0:
            break
    return Terms(tuple(words), tuple(phrases))


def _words(text: str) -> list[str]:
    return "".join(letter if _in_word(letter) else " " for letter in text).split()


def _in_word(letter: str) -> bool:
    # as unicode61, SQLite's tokenizer, has it: letters, numbers and private use; marks belong to the letter they follow
    category = unicodedata.category(letter)
    return category[0] in "LNM" or category == "Co"
