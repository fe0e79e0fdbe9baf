"""Locks of files that end with the process that holds them, however that ends. Knows not what a file is for."""

from __future__ import annotations

import sys

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
