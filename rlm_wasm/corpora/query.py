"""What is looked for, and a search that somebody waits for and may stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

import msgspec

_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")
# of a child: what it is itself, and a line of tens of megabytes
_MEMORY = 512 << 20
# without it no process starts on Windows
_ENVIRONMENT = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


class Query(msgspec.Struct, frozen=True):
    """What is looked for: plain words, or with `regex` a regular expression in the syntax of Rust's crate."""

    pattern: str
    regex: bool = False
    ignore_case: bool = False

    @property
    def needle(self) -> bytes | None:
        """The bytes that a match is, if it can be nothing else."""
        plain = not self.ignore_case and not (self.regex and _SPECIAL.search(self.pattern))
        return self.pattern.encode(errors="replace") if plain else None


class Stopped(Exception):
    """The search was ended by `Search.stop`."""


class Search:
    """One search, which another thread may stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def stop(self) -> None:
        """End it: what waits for it gets Stopped."""
        with self._lock:
            self.stopped = True
            if self._process is not None:
                self._process.kill()

    def go_on(self) -> None:
        """Raises Stopped if it is to end."""
        if self.stopped:
            raise Stopped

    @contextmanager
    def running(self, command: list[str], stdin: int) -> Generator[subprocess.Popen[bytes]]:
        """A child process of bounded memory, which has ended after the block."""
        with self._lock:
            self.go_on()
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_ENVIRONMENT
            )
            self._process = process
        try:
            _bound_memory(process.pid)
            yield process
        finally:
            with self._lock:
                self._process = None
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def _bound_memory(pid: int) -> None:
    if sys.platform == "linux":
        import resource

        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
