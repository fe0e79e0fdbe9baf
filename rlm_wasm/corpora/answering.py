"""What cells may ask of the corpus of their run: one host function, which believes no argument and bounds each answer.

Its other side is `rlm_wasm/inside/corpus.py`. Nothing of it is charged, and nothing is recorded to be repeated: the
files are held to be what they were, so that a cell that is run again may ask again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread

from rlm_wasm.corpora.corpus import Corpus, chosen
from rlm_wasm.corpora.feed import Hit
from rlm_wasm.corpora.query import Query, Search, Stopped
from rlm_wasm.corpora.search import count, hits
from rlm_wasm.errors import FunctionError

FUNCTION = "_corpus"
"""The name of the host function."""
# bytes that are read for one answer
MAX_READ = 4 << 20
MAX_HITS = 1000
MAX_CONTEXT_LINES = 50
MAX_PATTERN_CHARS = 10_000
# characters of the lines of one answer
_MAX_CHARS = 1_000_000
# bytes of a line that are shown on each side of a match
_AROUND = 400
# seconds that a search may take; a run with a limit of its own ends it sooner
_SECONDS = 900.0

HostFunction = Callable[..., Awaitable[Any]]


def answering(corpus: object) -> HostFunction:
    """The host function for a corpus; for anything else one that says that there is none."""

    async def answer(operation: object, number: object = None, *given: object) -> Any:
        if not isinstance(corpus, Corpus):
            raise FunctionError("the context of this run is not one that stays on the host")
        asked = _OPERATIONS.get(operation if isinstance(operation, str) else "")
        if asked is None:
            raise FunctionError(f"there is no operation {str(operation)[:100]!r}")
        if operation == "reopen":
            # of the whole: its parts are those of now afterwards
            return await anyio.to_thread.run_sync(_reopen, corpus)
        search = Search()
        try:
            with anyio.fail_after(_SECONDS):
                work = partial(asked, chosen(corpus, number), search, *given)
                return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except TimeoutError:
            raise FunctionError(f"not done within {_SECONDS:g} s: look at a part, with start= and end=") from None
        except (Stopped, OSError, TypeError) as error:
            raise FunctionError(f"the context could not be read ({type(error).__name__})") from error
        finally:
            search.stop()

    return answer


def _reopen(corpus: Corpus) -> dict[str, Any]:
    corpus.know_again()
    return corpus.told()


def _text(corpus: Corpus, search: Search, start: object, end: object, errors: object) -> str:
    first, last = _span(corpus, start, end)
    if errors not in ("strict", "replace", "ignore", "backslashreplace"):
        raise FunctionError("errors must be 'strict', 'replace', 'ignore' or 'backslashreplace'")
    return corpus.text(first, min(last, first + MAX_READ), errors)


def _count(
    corpus: Corpus, search: Search, pattern: object, regex: object, ignore_case: object, start: object, end: object
) -> int:
    return count(corpus, _query(pattern, regex, ignore_case), *_span(corpus, start, end), search)


def _find(
    corpus: Corpus, search: Search, pattern: object, regex: object, ignore_case: object, start: object, end: object
) -> int:
    query = _query(pattern, regex, ignore_case)
    found = next(hits(corpus, query, *_span(corpus, start, end), 1, search), None)
    return -1 if found is None else found.offset


def _grep(
    corpus: Corpus,
    search: Search,
    pattern: object,
    ignore_case: object,
    context_lines: object,
    limit: object,
    start: object,
    end: object,
) -> dict[str, Any]:
    """Hits as lists of offset, line, text and the document's number; `more`: where to go on if there may be more."""
    beside = _number(context_lines, "context_lines", MAX_CONTEXT_LINES)
    most = max(1, _number(limit, "limit", MAX_HITS))
    first, last = _span(corpus, start, end)
    shown: list[list[Any]] = []
    chars = 0
    for hit in hits(corpus, _query(pattern, True, ignore_case), first, last, most, search):
        shown.append(_shown(corpus, hit, beside))
        chars += len(shown[-1][2])
        if chars > _MAX_CHARS:
            break
    full = len(shown) == most or chars > _MAX_CHARS
    return {"hits": shown, "more": _next_line(corpus, shown[-1][0], last) if full else None}


def _lines_at(corpus: Corpus, search: Search, offsets: object) -> list[list[Any]]:
    """The lines that stand at offsets, as those of `_grep`."""
    if not isinstance(offsets, list) or len(cast("list[object]", offsets)) > MAX_HITS:
        raise FunctionError(f"the offsets must be a list of {MAX_HITS:,} at most")
    places = [min(_number(offset, "an offset"), corpus.size - 1) for offset in cast("list[object]", offsets)]
    return [_shown(corpus, Hit(place, None), 0) for place in places] if corpus.size else []


def _shown(corpus: Corpus, hit: Hit, beside: int) -> list[Any]:
    """A hit with the text of its line, cut around the match if it is long, and with the lines beside it."""
    number, _ = corpus.locate(hit.offset)
    low, high = corpus.span(number)
    reach = _AROUND * (2 * beside + 1)
    first = max(low, hit.offset - reach)
    raw = corpus.read(first, min(high, hit.offset + reach))
    at = hit.offset - first
    begin = raw.rfind(b"\n", 0, at) + 1
    end = raw.find(b"\n", at)
    end = len(raw) if end < 0 else end
    cut_before = begin == 0 and first > low
    cut_after = end == len(raw) and first + end < high
    line = raw[max(begin, at - _AROUND) : min(end, at + _AROUND)].decode("utf-8", "replace").removesuffix("\r")
    cut_before, cut_after = cut_before or begin < at - _AROUND, cut_after or end > at + _AROUND
    text = f"{'[...]' * cut_before}{line}{'[...]' * cut_after}"
    if beside:
        before = [] if begin == 0 else raw[: begin - 1].split(b"\n")[-beside:]
        after = raw[end + 1 :].split(b"\n")[:beside] if end < len(raw) else []
        text = "\n".join([*map(_cut, before), text, *map(_cut, after)])
    return [hit.offset, hit.line, text, number]


def _cut(line: bytes) -> str:
    text = line[: 2 * _AROUND].decode("utf-8", "replace").removesuffix("\r")
    return text if len(line) <= 2 * _AROUND else f"{text}[...]"


def _next_line(corpus: Corpus, offset: int, end: int) -> int | None:
    """Where the line after the one at an offset begins; of a very long one, a place in it."""
    raw = corpus.read(offset, min(offset + MAX_READ, end))
    found = raw.find(b"\n")
    after = offset + (found + 1 if found >= 0 else len(raw))
    return after if after < end else None


def _query(pattern: object, regex: object, ignore_case: object) -> Query:
    if not isinstance(pattern, str) or not pattern:
        raise FunctionError(f"the pattern must be a str that is not empty, not {type(pattern).__name__}")
    if len(pattern) > MAX_PATTERN_CHARS:
        raise FunctionError(f"the pattern has {len(pattern):,} characters; at most {MAX_PATTERN_CHARS:,} are taken")
    if "\n" in pattern or "\0" in pattern:
        raise FunctionError("a pattern is held to one line: it may hold neither a newline nor a NUL")
    return Query(pattern, bool(regex), bool(ignore_case))


def _span(corpus: Corpus, start: object, end: object) -> tuple[int, int]:
    last = corpus.size if end is None else min(corpus.size, _number(end, "end"))
    return min(_number(start, "start"), last), last


def _number(value: object, name: str, most: int = 1 << 62) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FunctionError(f"{name} must be a whole number from 0 to {most:,}, not {str(value)[:50]}")
    return value


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "text": _text,
    "find": _find,
    "count": _count,
    "grep": _grep,
    "lines_at": _lines_at,
    "reopen": _reopen,
}
