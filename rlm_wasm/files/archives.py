"""What is in archives: the files in a .zip or .tar, and what a .gz, .bz2 or .xz holds, read as a stream within limits.

Nothing is written to disk, nothing that an archive says of sizes is believed, and no link in it is followed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Protocol, cast

import msgspec

from rlm_wasm.files.limits import Ledger, TooMuch, Unpacking


class _Stream(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...
    def close(self) -> None: ...


_OPENERS: dict[str, tuple[bytes, Callable[[io.BytesIO], _Stream]]] = {
    ".gz": (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": (b"BZh", bz2.BZ2File),
    ".xz": (b"\xfd7zXZ\x00", lzma.LZMAFile),
}
_SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz"}
# what damaged or unknown content makes the readers raise
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
    RuntimeError,
)
_CHUNK = 1 << 20
# where a stream ends before it should, what the reading of a piece has found is lost
_SMALL_CHUNK = 1 << 13


class Member(msgspec.Struct, frozen=True):
    """A file in an archive: its name there, `content` None where it was not read, and the note why, or what is odd."""

    name: str
    content: bytes | None
    modified: datetime | None = None
    note: str = ""
    size: int = 0


def kind_of(name: str, content: bytes) -> str | None:
    """Which archive it is by its name and first bytes: "zip", "tar", "gz", "bz2", "xz", "tar.gz" and so on, or None."""
    lower = name.lower()
    for short, suffix in _SHORT.items():
        lower = lower.removesuffix(short) + suffix if lower.endswith(short) else lower
    suffix = PurePosixPath(lower).suffix
    if suffix == ".zip":
        return "zip" if content.startswith((b"PK\x03\x04", b"PK\x05\x06")) else None
    if suffix == ".tar":
        return "tar" if content[257:262] == b"ustar" else None
    if suffix in _OPENERS and content.startswith(_OPENERS[suffix][0]):
        inner = PurePosixPath(lower).stem
        return f"tar{suffix}" if inner.endswith(".tar") else suffix[1:]
    return None


def is_stream(kind: str) -> bool:
    """Whether an archive of this kind holds one thing without a name, and is read as if it were that."""
    return kind in ("gz", "bz2", "xz")


def unpacked(kind: str, content: bytes, unpacking: Unpacking) -> tuple[bytes, str]:
    """What a .gz, .bz2 or .xz holds, and what is to be said of it. Raises TooMuch, and those of `BROKEN`.

    Of one that is cut short it is what can be had of it.
    """
    _, opened = _OPENERS[f".{kind}"]
    pieces: list[bytes] = []
    with closing(opened(io.BytesIO(content))) as stream:
        try:
            _read_into(pieces, stream, unpacking, _SMALL_CHUNK)
        except EOFError:
            if not pieces:
                raise
            return b"".join(pieces), "it is cut short, and this is what there is of it"
    return b"".join(pieces), ""


def members(kind: str, content: bytes, ledger: Ledger, unpacking: Unpacking) -> Iterator[Member]:
    """The files in a .zip or a .tar, packed or not, in their order. Raises TooMuch, and those of `BROKEN`."""
    if kind == "zip":
        yield from _of_zip(content, ledger, unpacking)
        return
    packed = kind.partition(".")[2]
    whole = io.BytesIO(content)
    stream: _Stream = _Counted(_OPENERS[f".{packed}"][1](whole), unpacking) if packed else whole
    with closing(stream):
        yield from _of_tar(stream, ledger, unpacking if not packed else None)


def _of_zip(content: bytes, ledger: Ledger, unpacking: Unpacking) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            ledger.file()
            mode = info.external_attr >> 16
            # 0 where it was made without modes
            refused = _refused(info.filename, stat.S_ISLNK(mode), mode == 0 or stat.S_IFMT(mode) in (0, stat.S_IFREG))
            if refused is None and info.flag_bits & 1:
                refused = "it is encrypted"
            if refused is not None:
                yield Member(info.filename, None, note=refused, size=info.file_size)
                continue
            try:
                with archive.open(info) as stream:
                    held = _read(stream, unpacking)
            except TooMuch:
                raise
            except BROKEN as error:
                yield Member(info.filename, None, note=damaged(error), size=info.file_size)
                continue
            yield Member(_tidy(info.filename), held, _moment(info.date_time))


def _of_tar(stream: _Stream, ledger: Ledger, unpacking: Unpacking | None) -> Iterator[Member]:
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
        for info in archive:
            if info.isdir():
                continue
            ledger.file()
            refused = _refused(info.name, info.issym() or info.islnk(), info.isreg())
            if refused is None and info.issparse():
                refused = "it is sparse"
            if refused is not None:
                yield Member(info.name, None, note=refused, size=info.size)
                continue
            file = archive.extractfile(info)
            held = b"" if file is None else _read(file, unpacking)
            yield Member(_tidy(info.name), held, moment_of(info.mtime))


def _refused(name: str, is_link: bool, is_file: bool) -> str | None:
    """Why a member is not read, if it is not."""
    if is_link:
        return "it is a link"
    if not is_file:
        return "it is a device or a pipe"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "its path leads out of the archive"
    return None


def _tidy(name: str) -> str:
    return PurePosixPath(name).as_posix()


def _read(stream: _Stream, unpacking: Unpacking | None) -> bytes:
    """All of a stream, counted as it comes."""
    pieces: list[bytes] = []
    _read_into(pieces, stream, unpacking, _CHUNK)
    return b"".join(pieces)


def _read_into(pieces: list[bytes], stream: _Stream, unpacking: Unpacking | None, chunk: int) -> None:
    while piece := stream.read(chunk):
        if unpacking is not None:
            unpacking.made(len(piece))
        pieces.append(piece)


class _Counted:
    """A stream that counts what is read of it, a piece at a time, whatever is asked for at once."""

    def __init__(self, stream: _Stream, unpacking: Unpacking) -> None:
        self._stream = stream
        self._unpacking = unpacking

    def read(self, size: int = -1, /) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left and (piece := self._stream.read(_CHUNK if left < 0 else min(left, _CHUNK))):
            self._unpacking.made(len(piece))
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def close(self) -> None:
        self._stream.close()


def damaged(error: BaseException) -> str:
    """What is said of an archive, or of a file in it, that cannot be read."""
    said = " ".join(str(error).split())[:200]
    return f"it is damaged, or of a kind that is not read ({said or type(error).__name__})"


def _moment(parts: tuple[int, int, int, int, int, int]) -> datetime | None:
    try:
        return datetime(*parts, tzinfo=UTC)
    except ValueError:
        return None


def moment_of(seconds: float) -> datetime | None:
    """A time of change; None for one that no calendar has, as what is damaged or foreign may say."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
