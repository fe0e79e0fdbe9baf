"""Where a pattern stands in a corpus: ripgrep as a child process, whose engine takes time linear in the text.

A pattern comes from a model and is hostile input: a process of its own can be ended at any time, and what it needs of
memory is bounded and is not this process's. ripgrep is told nothing but the pattern, is given the text on its stdin,
and says offsets alone. Plain words are found without it too (`plain.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from rlm_wasm.corpora import plain
from rlm_wasm.corpora.corpus import Corpus
from rlm_wasm.corpora.feed import BLOCK, Feed, Feeding, Hit, feedings
from rlm_wasm.corpora.query import Query, Search
from rlm_wasm.errors import FunctionError

_F_SETPIPE_SZ = 1031


def find_ripgrep() -> str | None:
    """The path of ripgrep: that of this Python's environment, else the system's."""
    return shutil.which("rg", path=sysconfig.get_path("scripts")) or shutil.which("rg")


def hits(corpus: Corpus, query: Query, start: int, end: int, most: int, search: Search) -> Iterator[Hit]:
    """The lines between two offsets in which the query matches, in order, `most` at most.

    Raises FunctionError for a pattern that cannot be used and a file that has changed, Stopped.
    """
    ripgrep = find_ripgrep()
    if ripgrep is None:
        yield from plain.found(corpus, plain.needle_of(query), start, end, most, search)
        return
    last = -1
    for feeding in feedings(corpus, start, end):
        if most <= 0:
            return
        try:
            for hit in _asked(_command(ripgrep, query, most), corpus, feeding, search):
                most, last = most - 1, hit.offset
                yield hit
        except _TooLong:
            careful = feeding._replace(careful=True)
            # its last hit may come once more
            for hit in _asked(_command(ripgrep, query, most + 1), corpus, careful, search):
                if hit.offset > last and most > 0:
                    most, last = most - 1, hit.offset
                    yield hit


def count(corpus: Corpus, query: Query, start: int, end: int, search: Search) -> int:
    """How many matches there are between two offsets, without overlaps. Raises as `hits`."""
    ripgrep = find_ripgrep()
    if ripgrep is None:
        return plain.counted(corpus, plain.needle_of(query), start, end, search)
    command = _command(ripgrep, query, None)
    total = 0
    for feeding in feedings(corpus, start, end):
        try:
            total += _counted(command, corpus, feeding, search)
        except _TooLong:
            total += _counted(command, corpus, feeding._replace(careful=True), search)
    return total


class _TooLong(Exception):
    """ripgrep has died of its text, which it reads line by line: there is one that does not fit its memory."""


def _command(ripgrep: str, query: Query, most: int | None) -> list[str]:
    """To say line and offset of the matches in `most` lines; None: how many matches there are."""
    return [
        *(ripgrep, "--no-config", "--text", "--encoding", "none", "--color", "never", "--no-heading"),
        *("--dfa-size-limit", "20M", "--regex-size-limit", "10M"),
        *(["--count-matches"] if most is None else ["-n", "-b", "-o", "-r", "", "-m", str(most)]),
        *(["-i"] if query.ignore_case else []),
        *([] if query.regex else ["-F"]),
        *("-e", query.pattern, "-"),
    ]


def _asked(command: list[str], corpus: Corpus, feeding: Feeding, search: Search) -> Iterator[Hit]:
    line_before = 0
    with _fed(command, corpus, feeding, search) as (process, place):
        assert process.stdout is not None
        for told in process.stdout:
            line, offset, _ = told.split(b":", 2)
            if int(line) > line_before:
                line_before = int(line)
                yield place(line_before, int(offset))
        _check_end(process, search)


def _counted(command: list[str], corpus: Corpus, feeding: Feeding, search: Search) -> int:
    with _fed(command, corpus, feeding, search) as (process, _):
        assert process.stdout is not None
        told = process.stdout.read()
        _check_end(process, search)
    return int(told or 0)


_Fed = Generator[tuple[subprocess.Popen[bytes], Callable[[int, int], Hit]]]


@contextmanager
def _fed(command: list[str], corpus: Corpus, feeding: Feeding, search: Search) -> _Fed:
    """ripgrep at work, and what makes a Hit of its line and offset. Raises FunctionError if a file has changed."""
    if not feeding.careful:
        [span] = feeding.spans
        begin, end = corpus.span(span.number)
        if span.end == end:
            # it reads to the end by itself, as quickly as ever
            file, numbered = corpus.files[span.number], span.start == begin
            descriptor = file.open_at(span.start - begin)
            try:
                with search.running(command, descriptor) as process:
                    yield process, lambda line, offset: Hit(span.start + offset, line if numbered else None)
            finally:
                os.close(descriptor)
            file.check()
            return
    reading, writing = os.pipe()
    _enlarge(writing)
    feed = Feed(corpus, feeding, writing)
    writer = threading.Thread(target=feed.write, daemon=True)
    try:
        with search.running(command, reading) as process:
            os.close(reading)
            reading = -1
            writer.start()
            yield process, feed.hit
    finally:
        if reading >= 0:
            os.close(reading)
        if writer.ident is None:
            os.close(writing)
        else:
            writer.join()
    if feed.failure is not None:
        raise feed.failure


def _check_end(process: subprocess.Popen[bytes], search: Search) -> None:
    """Raises for an end that is not that of a search which has come to its end: 0 found, 1 not found."""
    assert process.stderr is not None
    said = process.stderr.read().decode("utf-8", "replace")
    code = process.wait()
    search.go_on()
    if code in (0, 1):
        return
    if code < 0 or "memory allocation" in said:
        raise _TooLong
    reason = said.removeprefix("rg: ").strip()[:2000]
    raise FunctionError(f"the pattern cannot be used (it is one of Rust's regex, and is held to one line): {reason}")


def _enlarge(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        # more than the system allows is refused, and costs only speed
        with suppress(OSError):
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, BLOCK)
