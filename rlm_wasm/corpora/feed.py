"""What of a corpus is brought to a program that reads one text line by line, and what stands where in that text.

Stretches of data follow one another, each a line's end: what lies in the holes of a sparse file is left out. Knows
nothing of patterns.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from rlm_wasm.corpora.corpus import Corpus

# bytes; a stretch that is as large has a process of its own, and smaller ones have one together
LARGE = 32 << 20
# bytes; a longer line is cut at a blank, and the cut is an end of a line to the pattern
LONGEST_LINE = 16 << 20
BLOCK = 1 << 20
# bytes; where such a line is cut, a blank is looked for so far back
_WORD = 4096


class Hit(NamedTuple):
    """The offset of the first match in a line, and the line's number in its document if that is known."""

    offset: int
    line: int | None


class Span(NamedTuple):
    """A stretch of one file, by offsets in the corpus."""

    number: int
    start: int
    end: int


class Feeding(NamedTuple):
    """What one process is given. `careful`: lines are counted, and cut where they are too long."""

    spans: Iterable[Span]
    careful: bool


def spans_of(corpus: Corpus, start: int, end: int) -> Iterator[Span]:
    """The stretches between two offsets that hold data."""
    first, _ = corpus.locate(start)
    for number in range(first, len(corpus.files)):
        begin, stop = corpus.span(number)
        if begin >= end:
            return
        for low, high in corpus.files[number].data(max(start, begin) - begin, min(end, stop) - begin):
            yield Span(number, begin + low, begin + high)


def feedings(corpus: Corpus, start: int, end: int) -> Iterator[Feeding]:
    """What there is between two offsets, by the processes that are given it."""
    spans = spans_of(corpus, start, end)
    for span in spans:
        if span.end - span.start >= LARGE:
            yield Feeding([span], careful=False)
            continue
        large: list[Span] = []
        yield Feeding(chain([span], _until_large(spans, large)), careful=True)
        if large:
            yield Feeding(large, careful=False)


def _until_large(spans: Iterator[Span], large: list[Span]) -> Iterator[Span]:
    for span in spans:
        if span.end - span.start >= LARGE:
            large.append(span)
            return
        yield span


class Feed:
    """Stretches of files written to a pipe one after the other, each a line's end; knows what stands where."""

    def __init__(self, corpus: Corpus, feeding: Feeding, pipe: int) -> None:
        self._corpus, self._feeding, self._pipe = corpus, feeding, pipe
        self._written = self._lines = 0
        # by what was written before: the offset in the corpus, and the line of its document if that is known
        self._places = [0]
        self._known: list[tuple[int, int, int | None]] = []
        self.failure: Exception | None = None

    def write(self) -> None:
        """Write all of it. A reader that has enough ends it; any other failure is kept."""
        try:
            before: Span | None = None
            line: int | None = None
            for span in self._feeding.spans:
                begin, _ = self._corpus.span(span.number)
                line = 1 if span.start == begin else line if before and before.number == span.number else None
                if not self._feeding.careful:
                    self._mark(span.start, line)
                    self._corpus.files[span.number].pour(span.start - begin, span.end - begin, self._pipe)
                    return
                line = self._write_span(span, line)
                before = span
        except BrokenPipeError:
            pass
        except Exception as error:
            self.failure = error
        finally:
            os.close(self._pipe)

    def _write_span(self, span: Span, line: int | None) -> int | None:
        at, since = span.start, 0
        self._mark(at, line)
        block = b""
        while at < span.end:
            block = self._corpus.read(at, min(at + BLOCK, span.end))
            newlines = block.count(b"\n")
            since = len(block) - 1 - block.rfind(b"\n") if newlines else since + len(block)
            too_long = since > LONGEST_LINE
            if too_long:
                block = block[: block.rfind(b" ", len(block) - _WORD) + 1] or block
            at += len(block)
            self._put(block, newlines)
            line = None if line is None else line + newlines
            if too_long:
                since = 0
                self._put(b"\n", 1)
                self._mark(at, line)
        if not block.endswith(b"\n"):
            self._put(b"\n", 1)
        return line

    def _mark(self, offset: int, line: int | None) -> None:
        self._known.append((offset, self._lines, line))
        if len(self._known) > 1:
            self._places.append(self._written)

    def _put(self, content: bytes, newlines: int) -> None:
        self._written += len(content)
        self._lines += newlines
        view = memoryview(content)
        while view:
            view = view[os.write(self._pipe, view) :]

    def hit(self, line: int, place: int) -> Hit:
        """What ripgrep's line and offset are in the corpus."""
        index = bisect_right(self._places, place) - 1
        offset, lines, known = self._known[index]
        return Hit(offset + place - self._places[index], None if known is None else known + line - 1 - lines)
