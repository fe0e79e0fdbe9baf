"""Locks of files that end with the process that holds them, however that ends. Knows not what a file is for."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

if sys.platform == "win32":

    def lock(file: int) -> None:
        """Hold a file that is open alone, until it is closed. Raises OSError, at once, where it is held elsewhere."""
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:

    def lock(file: int) -> None:
        """Hold a file that is open alone, until it is closed. Raises OSError, at once, where it is held elsewhere."""
        import fcntl

        # ends with the process, however that ends
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Taken(OSError):
    """Another holds the lock."""


class LockBeside:
    """Who writes a file holds another beside it, which goes at the end: a context manager. Raises Taken, OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        self._held: int | None = None

    def __repr__(self) -> str:
        return f"<LockBeside {self._path}{' (held)' if self._held is not None else ''}>"

    def __enter__(self) -> Self:
        while True:
            held = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                lock(held)
            except OSError:
                os.close(held)
                raise Taken(f"{self._path} is held by another") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held), self._path.stat()):
                    self._held = held
                    return self
            # whoever held it has removed it meanwhile
            os.close(held)

    def __exit__(self, *exception: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            # Windows removes no file that is open, and then it stays
            with suppress(OSError):
                self._path.unlink()
            os.close(held)
