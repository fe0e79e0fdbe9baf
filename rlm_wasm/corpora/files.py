"""One file of a corpus: read by position, and known again, so that what changed is never taken for what was there.

It is read by `pread` and not through a memory map: a page of a file that somebody cuts short would end this process by
a signal, and what was touched of a map counts as this process's memory. Knows nothing of texts, lines or patterns.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlm_wasm.errors import FunctionError

_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


# bytes; what goes into a pipe at once
_POURED = 1 << 20


class CorpusFile:
    """A file by the name that cells know. `keep_open`: from the first reading to `close`, not for each reading anew.

    Raises OSError if there is no such file, ValueError if it is no regular one. What is read later is of the file as it
    was now, or it is a FunctionError: its text may go down to a cell, and holds no path.
    """

    def __init__(self, name: str, path: Path, *, keep_open: bool = True) -> None:
        self.name, self.path = name, path
        self._keep_open = keep_open
        self._held: int | None = None
        self._lock = threading.Lock()
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{str(path)!r} is no regular file, and only those can stay on the host")
        self._known = _identity(status)

    def __del__(self) -> None:
        # what several share is nobody's to close
        if hasattr(self, "_known"):
            self.close()

    def __repr__(self) -> str:
        return f"<CorpusFile {self.name!r} of {self.size:,} bytes>"

    @property
    def size(self) -> int:
        """Its length in bytes, as it was when it became known."""
        return self._known[0]

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """Size, time of change (nanoseconds), device and inode."""
        return self._known

    def know_again(self) -> None:
        """Take the file as it is now. Raises FunctionError if it is gone."""
        self.close()
        try:
            self._known = _identity(self.path.stat())
        except OSError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Give up what is open."""
        with self._lock:
            if self._held is not None:
                os.close(self._held)
            self._held = None

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, both within the file."""
        with self._opened() as descriptor:
            pieces: list[bytes] = []
            while start < end:
                piece = _read_at(descriptor, start, end - start, self._lock)
                if not piece:
                    break
                pieces.append(piece)
                start += len(piece)
            self._check(os.fstat(descriptor))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self) -> None:
        """Raises FunctionError if the file is not what it was."""
        with self._opened() as descriptor:
            self._check(os.fstat(descriptor))

    def open_at(self, start: int) -> int:
        """A descriptor of the caller's own, whose next reading begins at `start`. Raises FunctionError."""
        try:
            descriptor = os.open(self.path, _FLAGS)
        except OSError as error:
            raise self._gone(error) from error
        try:
            self._check(os.fstat(descriptor), of_path=True)
            os.lseek(descriptor, start, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def pour(self, start: int, end: int, pipe: int) -> None:
        """Write the bytes from `start` to before `end` to a pipe. Raises FunctionError, BrokenPipeError."""
        descriptor = self.open_at(start)
        try:
            while start < end:
                written = _poured(descriptor, pipe, min(_POURED, end - start))
                if not written:
                    break
                start += written
            self._check(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches between `start` and `end` that hold data: holes of a sparse file are left out."""
        with self._opened() as descriptor:
            while start < end:
                stretch = _next_data(descriptor, start, end)
                if stretch is None:
                    return
                yield stretch
                start = stretch[1]

    @contextmanager
    def _opened(self) -> Generator[int]:
        with self._lock:
            descriptor = self._held
            if descriptor is None:
                try:
                    descriptor = os.open(self.path, _FLAGS)
                except OSError as error:
                    raise self._gone(error) from error
                if self._keep_open:
                    self._held = descriptor
        try:
            self._check(os.fstat(descriptor))
            yield descriptor
        finally:
            if not self._keep_open:
                os.close(descriptor)

    def _check(self, status: os.stat_result, *, of_path: bool = False) -> None:
        now = _identity(status)
        if now == self._known:
            return
        if now[0] != self._known[0]:
            how = f"it had {self._known[0]:,} bytes and has {now[0]:,} now"
        else:
            how = "another file stands in its place" if of_path and now[2:] != self._known[2:] else "it was written to"
        raise FunctionError(
            f"the file {self.name!r} has changed since it became known ({how}), so nothing of it can be read as it "
            "was; reopen() takes all files as they are now, with offsets of their own"
        )

    def _gone(self, error: OSError) -> FunctionError:
        reason = "is gone" if isinstance(error, FileNotFoundError) else f"cannot be opened ({type(error).__name__})"
        return FunctionError(f"the file {self.name!r} {reason}; what was read of it before is what it was")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def _read_at(descriptor: int, start: int, length: int, lock: threading.Lock) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, start)
    with lock:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, length)


def _poured(descriptor: int, pipe: int, most: int) -> int:
    """Some bytes brought from a file to a pipe, through this process only where the system knows no other way."""
    if sys.platform == "linux":
        return os.splice(descriptor, pipe, most)
    content = memoryview(os.read(descriptor, most))
    written = 0
    while written < len(content):
        written += os.write(pipe, content[written:])
    return written


def _next_data(descriptor: int, start: int, end: int) -> tuple[int, int] | None:
    """The next stretch of data; all of it where the system does not tell holes."""
    if not hasattr(os, "SEEK_DATA"):
        return start, end
    try:
        begin = os.lseek(descriptor, start, os.SEEK_DATA)
        return (begin, min(end, os.lseek(descriptor, begin, os.SEEK_HOLE))) if begin < end else None
    except OSError as error:
        # ENXIO: there is a hole to the end
        return None if error.errno == errno.ENXIO else (start, end)
