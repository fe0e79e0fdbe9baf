"""Corpora that stay on the host: files one after the other as one text, of which nothing is held in memory.

Owns positions, which are offsets in bytes: those can be had without reading what stands before them. Knows nothing of
patterns (`search.py`) or cells (`answering.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Self, cast

from rlm_wasm.corpora.files import CorpusFile
from rlm_wasm.errors import FunctionError
from rlm_wasm.files.limits import FileLimits
from rlm_wasm.files.naming import listed

# files that are kept open; of a corpus of more, each is opened when it is read
_OPEN = 200
_SHOWN_NAMES = 10
REFERENCE = "rlm_wasm_corpus"
"""The one key of the dict by which a cell names the corpus of its run."""


class Corpus:
    """A text that is read where it lies: one or several files, in order, with nothing between them.

    All offsets and sizes are in bytes. `errors` is what to do with bytes that are not UTF-8, as in `bytes.decode`. What
    a file holds must not change: what did is a FunctionError when it is read. A context manager, which closes files.
    """

    def __init__(self, files: Sequence[CorpusFile], errors: str = "strict") -> None:
        self.files = tuple(files)
        self.errors = errors
        self._measure()

    @classmethod
    def open(cls, paths: Path | Sequence[Path], errors: str = "strict") -> Self:
        """The corpus of a file, of a folder's files, or of a list of both. Raises FileNotFoundError, ValueError."""
        return cls.of(files_of(paths), errors)

    @classmethod
    def of(cls, found: Mapping[str, Path], errors: str = "strict") -> Self:
        """The corpus of files by name. Raises OSError, ValueError."""
        return cls([CorpusFile(name, path, keep_open=len(found) <= _OPEN) for name, path in found.items()], errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Corpus of {self.size:,} bytes in {_counted(len(self.files), 'file')}>"

    def __len__(self) -> int:
        return self.size

    def close(self) -> None:
        """Close what is open; what is read later is opened again."""
        for file in self.files:
            file.close()

    def _measure(self) -> None:
        self._starts = list(accumulate((file.size for file in self.files), initial=0))
        self.size = self._starts.pop()

    def know_again(self) -> None:
        """Take all files as they are now. Raises FunctionError if one is gone."""
        try:
            for file in self.files:
                file.know_again()
        finally:
            self._measure()

    # --- what it holds ---------------------------------------------------------------------------------------------

    def locate(self, offset: int) -> tuple[int, int]:
        """The number of the file that holds an offset, and the offset in it."""
        number = max(0, bisect_right(self._starts, offset) - 1)
        return number, offset - self._starts[number]

    def span(self, number: int) -> tuple[int, int]:
        """The offsets at which a file begins and ends."""
        return self._starts[number], self._starts[number] + self.files[number].size

    def part(self, number: int) -> Corpus:
        """One file of it, as a corpus."""
        return Corpus([self.files[number]], self.errors)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, as far as there are so many. Raises FunctionError."""
        start, end = max(0, start), min(end, self.size)
        pieces: list[bytes] = []
        while start < end:
            number, at = self.locate(start)
            upto = min(self.files[number].size, at + end - start)
            pieces.append(self.files[number].read(at, upto))
            start += upto - at
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def text(self, start: int, end: int, errors: str = "strict") -> str:
        """The characters that begin from `start` to before `end`: never half of one, and adjacent texts make the whole.

        Raises FunctionError, which says which byte is not UTF-8.
        """
        if start >= min(end, self.size):
            return ""
        first = max(0, start - 3)
        raw = self.read(first, end + 3)
        begin, stop = (_whole(raw, place - first) for place in (start, min(end, self.size)))
        try:
            return raw[begin:stop].decode("utf-8", errors)
        except UnicodeDecodeError as error:
            at = first + begin + error.start
            raise FunctionError(
                f"byte 0x{raw[begin + error.start]:02x} at offset {at:,} ({self.files[self.locate(at)[0]].name!r}) is "
                "not UTF-8: set context.errors = 'replace' to read it as U+FFFD"
            ) from None

    # --- what is told of it ----------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """What the sandbox gets in its place: the names and sizes of its files."""
        return {"files": [[file.name, file.size] for file in self.files], "errors": self.errors}

    def described(self) -> str:
        """One line for the model: sizes, names, and how it is read."""
        names = ", ".join(repr(file.name[-80:]) for file in self.files[:_SHOWN_NAMES])
        more = f" and {len(self.files) - _SHOWN_NAMES:,} more" if len(self.files) > _SHOWN_NAMES else ""
        return (
            f"`context` is {_LAZY.format(size=self.size, files=_counted(len(self.files), 'file'), names=names + more)}"
        )

    def reference(self) -> dict[str, Any]:
        """It as it is written down with a run, from which `taken_up` makes it again."""
        files = [[file.name, str(file.path.resolve()), list(file.identity[:2])] for file in self.files]
        return {REFERENCE: {"files": files, "errors": self.errors}}

    @staticmethod
    def is_reference(written: Mapping[str, Any]) -> bool:
        """Whether it is what `reference` gives."""
        return list(written) == [REFERENCE] and isinstance(written[REFERENCE], dict)

    @classmethod
    def taken_up(cls, written: Mapping[str, Any]) -> Self:
        """The corpus of a `reference`. Raises FileNotFoundError, or ValueError if a file is not what it was."""
        several = written[REFERENCE]["files"]
        files = [CorpusFile(name, Path(path), keep_open=len(several) <= _OPEN) for name, path, _ in several]
        for file, (_, path, identity) in zip(files, several, strict=True):
            if list(file.identity[:2]) != identity:
                raise ValueError(f"{path} has changed since the run began, which cannot go on with it")
        return cls(files, written[REFERENCE]["errors"])


_LAZY = (
    "a text of {size:,} bytes in {files} ({names}) that stays outside the REPL and is read piece by piece. All "
    "positions are bytes. `len(context)`; `context[a:b]` is a str; `context.grep(regex, ignore_case=False, "
    "context_lines=0, limit=100, start=0)` lists matching lines as (offset, line, text, document); "
    "`context.find(text, start=0)` is an offset or -1; `context.count(text)`; both take regex=True; `for line in "
    "context.lines(start=0)`; `for piece in context.chunk(size)`; `context.sample(n)`, `context.head()`, "
    "`context.tail()`; `context.documents` are its files by name, which can do the same. Give parts to sub models as "
    "str; `rlm_query(question, context=context)` hands all of it to a child. str(context) is an error"
)


def files_of(paths: Path | Sequence[Path], *, hidden: bool = False) -> dict[str, Path]:
    """The files that are meant, by name, as `naming.listed` names them. Raises FileNotFoundError, ValueError."""
    several = [paths] if isinstance(paths, Path) else list(paths)
    listing = listed(several, several=not isinstance(paths, Path), hidden=hidden, at_most=FileLimits().files)
    return {found.name: found.path for found in listing.found}


def referred(value: object, corpus: object) -> object:
    """What a cell means by a value that it hands on: `corpus` or a file of it, if the value names that.

    Raises FunctionError for a file that there is not.
    """
    if not isinstance(corpus, Corpus) or not isinstance(value, Mapping):
        return value
    named = cast("Mapping[object, object]", value)
    if list(named) != [REFERENCE]:
        return named
    return chosen(corpus, named[REFERENCE])


def chosen(corpus: Corpus, number: object) -> Corpus:
    """All of a corpus (None), or the file of that number. Raises FunctionError for one that there is not."""
    if number is None:
        return corpus
    if type(number) is not int or not 0 <= number < len(corpus.files):
        raise FunctionError(f"there is no document {str(number)[:100]} in the context")
    return corpus.part(number)


def _whole(raw: bytes, place: int) -> int:
    """`place`, or the end of the character that it would cut."""
    for back in range(1, min(3, place) + 1):
        byte = raw[place - back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            end = place - back + length
            rest = raw[place:end]
            return end if end > place and len(rest) == end - place and all(0x80 <= b < 0xC0 for b in rest) else place
        if byte < 0x80:
            break
    return place


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
