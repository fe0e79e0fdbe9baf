"""The files of an index as it reads them: which there are, and each in pieces of a size that a search can show.

Reads no more of a file than a piece and a block at a time. Knows no index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rlm_wasm.sandbox.values import well_formed

# bytes: a document is as much of a file at most. What is found is read as a whole, and models that embed take 8,000
# tokens at most.
PIECE_BYTES = 16 * 1024
_BLOCK = 1024 * 1024


class Named(NamedTuple):
    """A file by its name in the index, as it was found."""

    name: str
    path: Path
    size: int
    modified: int


class LeftOut(Exception):
    """The file cannot be taken; the text says why."""


def named_files(paths: Sequence[Path], index: Path) -> tuple[list[Named], list[tuple[str, str]]]:
    """The files that are named or in folders that are, by name. Raises FileNotFoundError for what is not there."""
    found: dict[str, Path] = {}
    folder, own = index.parent.resolve(), (index.name, f".{index.name}.")
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {str(path)!r} to index")
        if not path.is_dir():
            found[str(path)] = path
            continue
        root = path.resolve()
        for inner in sorted(root.rglob("*")):
            if inner.parent == folder and inner.name.startswith(own):
                continue
            # a link may lead out of the folder that was named
            if inner.is_file() and inner.resolve().is_relative_to(root):
                within = inner.relative_to(root).as_posix()
                found[within if len(paths) == 1 else str(path / within)] = inner
    listed: list[Named] = []
    left_out: list[tuple[str, str]] = []
    for name, path in found.items():
        try:
            status = path.stat()
            listed.append(Named(well_formed(name), path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            left_out.append((name, reason(error)))
    return listed, left_out


def pieces(file: BinaryIO, hear: Callable[[bytes], object]) -> Iterator[tuple[int, bytes]]:
    """A file in pieces with their offsets, cut where a line ends if one does; `hear` is given all of it in order."""
    start, rest = 0, b""
    while True:
        block = file.read(_BLOCK)
        hear(block)
        rest += block
        place = 0
        while len(rest) - place > PIECE_BYTES or (not block and place < len(rest)):
            end = place + _cut(rest[place : place + PIECE_BYTES + 1])
            yield start + place, rest[place:end]
            place = end
        start, rest = start + place, rest[place:]
        if not block:
            return


def _cut(piece: bytes) -> int:
    """How much of a piece is taken: up to the end of a paragraph, a line, a word or a character, in its second half."""
    if len(piece) <= PIECE_BYTES:
        return len(piece)
    half = PIECE_BYTES // 2
    for mark in (b"\n\n", b"\n", b" "):
        place = piece.rfind(mark, half, PIECE_BYTES)
        if place >= 0:
            return place + len(mark)
    end = PIECE_BYTES
    # not within a character, whose later bytes begin with the bits 10
    while end > PIECE_BYTES - 4 and piece[end] & 0xC0 == 0x80:
        end -= 1
    return end


def reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
