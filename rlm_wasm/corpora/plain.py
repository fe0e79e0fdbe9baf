"""Plain words found without ripgrep, by Python's own search: slower, and with their case alone."""

from __future__ import annotations

from collections.abc import Iterator

from rlm_wasm.corpora.corpus import Corpus
from rlm_wasm.corpora.feed import BLOCK, Hit, spans_of
from rlm_wasm.corpora.query import Query, Search
from rlm_wasm.errors import FunctionError


def needle_of(query: Query) -> bytes:
    needle = query.needle
    if needle is None:
        raise FunctionError(
            "only plain words can be looked for here, with their case: regular expressions need ripgrep on the host "
            "(pip install 'rlm-wasm[lazy]', or the system's package ripgrep)"
        )
    return needle


def _blocks(corpus: Corpus, start: int, end: int, extra: int, search: Search) -> Iterator[tuple[int, bytes]]:
    """Pieces that overlap by `extra` bytes, each with its offset."""
    for span in spans_of(corpus, start, end):
        for at in range(span.start, span.end, BLOCK):
            search.go_on()
            yield at, corpus.read(at, min(at + BLOCK + extra, span.end))


def found(corpus: Corpus, needle: bytes, start: int, end: int, most: int, search: Search) -> Iterator[Hit]:
    ended = True
    for at, block in _blocks(corpus, start, end, len(needle) - 1, search):
        place = 0 if ended else block.find(b"\n")
        while place >= 0 and most > 0:
            place = block.find(needle, place)
            if place < 0:
                ended = True
                break
            yield Hit(at + place, None)
            most -= 1
            # the next of another line
            place = block.find(b"\n", place)
            ended = place >= 0
        if most <= 0:
            return


def counted(corpus: Corpus, needle: bytes, start: int, end: int, search: Search) -> int:
    total, past = 0, start
    for at, block in _blocks(corpus, start, end, len(needle) - 1, search):
        place = block.find(needle, max(0, past - at))
        while 0 <= place < BLOCK:
            total += 1
            past = at + place + len(needle)
            place = block.find(needle, place + len(needle))
    return total
