"""`context` where it stays on the host: a text of any length that is read, cut and searched piece by piece.

Made in the place of what the host loads under that name: names and sizes. All else is asked of the host function
`_corpus`, whose answers are bounded. All positions are offsets in bytes.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import builtins
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import rlm_host

__all__: list[str] = []

# bytes that are fetched at once, and of the largest slice
PIECE = 1 << 20
MOST = 256 << 20
# characters; a longer line comes in parts
LONGEST_LINE = 8 << 20
# lines that one answer of the host holds at most
HITS = 1000


class Line(NamedTuple):
    """A line in which a pattern was found: the match's offset, the line's number in its document, if known, from 1."""

    offset: int
    line: int | None
    text: str
    document: str


class Lines(list[Line]):
    """What was found. `more` is the offset from which to go on, None if there is nothing more."""

    more: int | None = None

    def __repr__(self) -> str:
        rest = [] if self.more is None else [f"(there may be more: go on with start={self.more})"]
        return "\n".join([*(f"{line.offset}: {line.text}" for line in self), *rest]) or "(nothing was found)"


@dataclass(eq=False, repr=False)
class Corpus:
    """The context, or one document of it. What is handed to a child names it, and is not its text."""

    rlm_wasm_corpus: int | None

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Its length in bytes."""
        files: list[tuple[str, int]] = Told.files
        if self.rlm_wasm_corpus is None:
            return sum(size for _, size in files)
        return files[self.rlm_wasm_corpus][1]

    @property
    def documents(self) -> dict[str, Corpus]:
        """Its files by name, each of which can do the same."""
        if self.rlm_wasm_corpus is not None:
            return {Told.files[self.rlm_wasm_corpus][0]: self}
        return {name: Corpus(number) for number, (name, _) in enumerate(Told.files)}

    @property
    def errors(self) -> str:
        """What is done about bytes that are not UTF-8: "strict", "replace", "ignore" or "backslashreplace"."""
        return Told.errors

    @errors.setter
    def errors(self, value: str) -> None:
        Told.errors = value

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return self.size > 0

    def __repr__(self) -> str:
        files = f" in {len(Told.files):,} documents" if self.rlm_wasm_corpus is None and len(Told.files) > 1 else ""
        return f"<Corpus of {self.size:,} bytes{files}>"

    def __str__(self) -> str:
        raise ValueError(
            f"the context has {self.size:,} bytes and stays outside: it cannot become one str. Take parts: "
            "context[a:b], context.grep(pattern), context.find(text), context.lines(), context.chunk(size), "
            "context.sample(10); or hand it to a child: rlm_query(question, context=context)"
        )

    def __format__(self, form: str) -> str:
        return str(self)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the context is no str and has no {name!r}: it has find, count, grep, lines, chunk, sample, head, tail "
            "and documents; context[a:b] is a str"
        )

    # --- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, place: Any) -> Any:
        """A slice is a str of the characters that begin in it; a name is the document of that name."""
        if isinstance(place, str):
            if place not in self.documents:
                raise KeyError(f"there is no document {place[:100]!r}: see context.documents")
            return self.documents[place]
        if not isinstance(place, slice):
            raise TypeError("take a slice, context[a:b] (positions are bytes), or a document by its name")
        if place.step not in (None, 1):
            raise ValueError("a slice of the context has no step")
        start, end, _ = place.indices(self.size)
        if end - start > MOST:
            raise ValueError(
                f"a slice of {end - start:,} bytes is more than the {MOST:,} that fit in here: use context.chunk(size) "
                "or context.lines()"
            )
        return "".join(self._pieces(start, end))

    def _pieces(self, start: int, end: int) -> Iterator[str]:
        for at in range(start, end, PIECE):
            yield self._ask("text", at, min(at + PIECE, end), self.errors)

    def head(self, size: int = 1000) -> str:
        """The first characters, of so many bytes."""
        return self[:size]

    def tail(self, size: int = 1000) -> str:
        """The last characters, of so many bytes."""
        return self[max(0, self.size - size) :]

    def __iter__(self) -> Iterator[str]:
        return self.lines()

    def lines(self, start: int = 0, end: int | None = None) -> Iterator[str]:
        """The lines, without their ends; one of over 8 million characters comes in parts. A file's end ends one."""
        start, end, _ = slice(start, end).indices(self.size)
        for low, high in self._bounds(start, end):
            rest: list[str] = []
            waiting = 0
            for piece in self._pieces(low, high):
                lines = piece.split("\n")
                if len(lines) > 1:
                    yield "".join([*rest, lines[0]])
                    yield from lines[1:-1]
                    rest, waiting = [], 0
                rest.append(lines[-1])
                waiting += len(lines[-1])
                if waiting > LONGEST_LINE:
                    yield "".join(rest)
                    rest, waiting = [], 0
            if waiting:
                yield "".join(rest)

    def _bounds(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches of single files between two offsets."""
        begin = 0
        for size in [self.size] if self.rlm_wasm_corpus is not None else [size for _, size in Told.files]:
            low, high = max(start, begin), min(end, begin + size)
            if low < high:
                yield low, high
            begin += size

    def chunk(self, size: int, overlap: int = 0) -> Iterator[str]:
        """Pieces of so many bytes one after the other, each fetched when it is asked for."""
        if not 0 < size <= MOST or not 0 <= overlap < size:
            raise ValueError(f"size must be from 1 to {MOST:,} bytes, and overlap from 0 to less than it")
        last = max(1, self.size - overlap)
        return (self[start : start + size] for start in range(0, last if self.size else 0, size - overlap))

    def sample(self, n: int = 10, seed: int = 0) -> Lines:
        """Lines at `n` places that are chosen by chance, the same ones for the same seed, in order."""
        if not 0 < n <= HITS:
            raise ValueError(f"n must be from 1 to {HITS:,}")
        chance = random.Random(seed)
        return self._lines(self._ask("lines_at", sorted(chance.randrange(self.size) for _ in range(n if self else 0))))

    # --- searching -------------------------------------------------------------------------------------------------

    def __contains__(self, text: str) -> bool:
        return self.find(text) >= 0

    def find(
        self, pattern: str, start: int = 0, end: int | None = None, *, regex: bool = False, ignore_case: bool = False
    ) -> int:
        """The offset at which `pattern` first stands, -1 if nowhere."""
        start, end, _ = slice(start, end).indices(self.size)
        return self._ask("find", pattern, regex, ignore_case, start, end)

    def count(
        self, pattern: str, start: int = 0, end: int | None = None, *, regex: bool = False, ignore_case: bool = False
    ) -> int:
        """How often `pattern` stands there, without overlaps. All of the text is read for it."""
        start, end, _ = slice(start, end).indices(self.size)
        return self._ask("count", pattern, regex, ignore_case, start, end)

    def grep(
        self,
        pattern: str,
        ignore_case: bool = False,
        context_lines: int = 0,
        limit: int | None = 100,
        start: int = 0,
        end: int | None = None,
    ) -> Lines:
        """The lines in which a regular expression matches, `limit` at most (None: all), in the syntax of Rust's regex.

        `context_lines` as many lines before and after are in the text too; a long line is cut around its match.
        """
        start, end, _ = slice(start, end).indices(self.size)
        found = Lines()
        more: int | None = start
        while more is not None and (limit is None or len(found) < limit):
            most = HITS if limit is None else min(HITS, limit - len(found))
            answer = self._ask("grep", pattern, ignore_case, context_lines, most, more, end)
            found += self._lines(answer["hits"])
            more = answer["more"]
        found.more = more
        return found

    def reopen(self) -> Corpus:
        """Take all files as they are now: sizes and offsets are then others."""
        Told.take(rlm_host._corpus("reopen"))
        return self

    # --- of the host -----------------------------------------------------------------------------------------------

    def _ask(self, operation: str, *given: Any) -> Any:
        try:
            return rlm_host._corpus(operation, self.rlm_wasm_corpus, *given)
        except RuntimeError as error:
            # it begins with the function's name, which nobody here has called
            error.args = (str(error).removeprefix("_corpus: "),)
            raise

    def _lines(self, hits: list[Any]) -> Lines:
        part = self.rlm_wasm_corpus
        return Lines(
            Line(offset, line, text, Told.files[number if part is None else part][0])
            for offset, line, text, number in hits
        )


class Told:
    """What the host has told of the files: their names and sizes."""

    files: ClassVar[list[tuple[str, int]]] = []
    errors: ClassVar[str] = "strict"

    @classmethod
    def take(cls, told: dict[str, Any]) -> None:
        """Take what is told of them."""
        cls.files = [(name, size) for name, size in told["files"]]


def length(value: Any, /) -> int:
    """`len`, which in a 32-bit interpreter tells no more than 2,147,483,647."""
    return value.size if type(value) is Corpus else builtins.len(value)


def begin() -> None:
    """Put the lazy context in the place of what was loaded."""
    names = rlm_host.namespace()
    told = names["context"]
    Told.take(told)
    Told.errors = told["errors"]
    names["context"] = Corpus(None)


begin()
if sys.maxsize < 1 << 32:
    rlm_host.namespace()["len"] = length
