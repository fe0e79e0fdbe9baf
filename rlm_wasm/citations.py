"""What an answer rests on, checked: are the words that were cited in the context, and where?

Pure: citations as they came out of a sandbox, which may be anything, and a context as the caller gave it. Compares
words; does not judge whether they bear the answer out.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias, cast

import msgspec

from rlm_wasm.inside.documents import Context

# citations; each is looked for in all of the context, and how many there are is up to model-written code
MOST = 1000
# characters; a place among squeezed spaces is traced back by reading so many
_BLOCK = 1 << 16

_Key: TypeAlias = str | int | None


class Citation(msgspec.Struct, frozen=True):
    """A citation, and where it stands: offsets in characters within `document`.

    `document` is a key, id or index, or None if the context is one text. `exact` is False where the words stand there
    with other whitespace between them.
    """

    text: str
    found: bool
    document: str | int | None = None
    start: int | None = None
    end: int | None = None
    exact: bool = True


def check(citations: Iterable[object], context: object) -> tuple[Citation, ...]:
    """Look for each citation, word for word, in a context: a str, a list or dict of str, or documents.

    A citation is a str, a dict with `text` and if need be `document`, or a pair of both; what is none of these is not
    found. The document that it names is looked at first, then the others: `document` says where the words are. Takes
    the first 1,000 citations, each in time linear in the length of the context, whatever stands in both. Raises
    TypeError for a context that holds no text.
    """
    pieces = dict(_pieces(context))
    known: dict[tuple[str, _Key], Citation] = {}
    checked: list[Citation] = []
    for item in islice(citations, MOST):
        cited = _cited(item)
        if cited not in known:
            known[cited] = _find(*cited, pieces)
        checked.append(known[cited])
    return tuple(checked)


class _Piece:
    """One document: a part of a text, of which no copy is made until its spaces have to be squeezed."""

    def __init__(self, text: str, begin: int = 0, end: int | None = None) -> None:
        self.text = text
        self.begin = begin
        self.end = len(text) if end is None else end
        self._squeezed: str | None = None
        # where in it each block of the text begins
        self._starts: list[int] = []

    def find(self, words: str) -> tuple[int, int] | None:
        """The offsets of the words within this piece."""
        start = self.text.find(words, self.begin, self.end)
        return (start - self.begin, start - self.begin + len(words)) if start >= 0 else None

    def find_spaced(self, words: str) -> tuple[int, int] | None:
        """The same, with any whitespace between the words."""
        # not a regular expression of the words: those of an ill-meaning text take it hours
        if self._squeezed is None:
            self._squeezed = self._squeeze()
        squeezed = " ".join(words.split())
        start = self._squeezed.find(squeezed)
        return (self._offset(start), self._offset(start + len(squeezed) - 1) + 1) if start >= 0 else None

    def _squeeze(self) -> str:
        blocks: list[str] = []
        offset = 0
        last = ""
        for begin in range(self.begin, self.end, _BLOCK):
            block = re.sub(r"\s+", " ", self.text[begin : min(begin + _BLOCK, self.end)])
            if last == " ":
                block = block.removeprefix(" ")
            self._starts.append(offset)
            blocks.append(block)
            offset += len(block)
            last = block[-1:] or last
        return "".join(blocks)

    def _offset(self, place: int) -> int:
        """Where the character that is no space stands in this piece, by its place among squeezed spaces."""
        number = bisect_right(self._starts, place) - 1
        begin = self.begin + number * _BLOCK
        block = self.text[begin : min(begin + _BLOCK, self.end)]
        left = place - self._starts[number]
        if block[:1].isspace() and self._dropped(number):
            left += 1
        for run in re.finditer(r"\s+|\S+", block):
            length = 1 if run[0].isspace() else run.end() - run.start()
            if left < length:
                return begin - self.begin + run.start() + left
            left -= length
        raise AssertionError("a place lies in the block that begins before it")

    def _dropped(self, number: int) -> bool:
        """Whether the space that a block begins with was that which the block before ends with."""
        start = self._starts[number]
        return start > 0 and self._squeezed is not None and self._squeezed[start - 1] == " "


def _cited(item: object) -> tuple[str, _Key]:
    """The words of a citation in any of its forms, "" if there are none, and the document that it names."""
    text, document = item, None
    if isinstance(item, Mapping):
        members = cast("Mapping[object, object]", item)
        text, document = members.get("text"), members.get("document")
    elif isinstance(item, (tuple, list)):
        pair = cast("Sequence[object]", item)
        text, document = (pair[0], pair[-1]) if len(pair) == 2 else (None, None)
    named = document if isinstance(document, (str, int)) and not isinstance(document, bool) else None
    return (text if isinstance(text, str) else ""), named


def _find(words: str, named: _Key, pieces: Mapping[_Key, _Piece]) -> Citation:
    if words.strip():
        for exact in (True, False):
            for key in _in_order(named, pieces):
                span = pieces[key].find(words) if exact else pieces[key].find_spaced(words)
                if span is not None:
                    return Citation(words, True, key, *span, exact=exact)
    return Citation(words, False)


def _in_order(named: _Key, pieces: Mapping[_Key, _Piece]) -> Iterator[_Key]:
    if named in pieces:
        yield named
    yield from (key for key in pieces if key != named)


def _pieces(context: object) -> Iterator[tuple[_Key, _Piece]]:
    """The texts of a context by key, id or index; None is the key of the only text."""
    if isinstance(context, str):
        yield None, _Piece(context)
    elif isinstance(context, Context):
        for number in range(context.num_documents()):
            yield context.metadata(number).get("id", number), _Piece(context.text, *context.span(number))
    elif isinstance(context, (Mapping, list, tuple)):
        for key, item in _items(cast("Mapping[object, object] | Sequence[object]", context)):
            text = _text(item)
            if text is not None:
                yield (key if isinstance(key, int) else str(key)), _Piece(text)
    else:
        raise TypeError(f"a {type(context).__name__} holds no text in which citations could be looked for")


def _items(context: Mapping[object, object] | Sequence[object]) -> Iterable[tuple[object, object]]:
    return context.items() if isinstance(context, Mapping) else enumerate(context)


def _text(item: object) -> str | None:
    """The text of a str or of a dict with `text` or `content`."""
    if isinstance(item, Mapping):
        members = cast("Mapping[object, object]", item)
        item = members.get("text", members.get("content"))
    return item if isinstance(item, str) else None
