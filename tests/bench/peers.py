"""Other systems that the bench measures beside ours, each in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import anyio.to_thread

from rlm_wasm.sandbox.process import find_deno

# seconds for one answer
WITHIN = 120
ROOT = Path(__file__).parents[2]


class PeerMissing(Exception):
    """The peer does not start here; says why."""


class Dspy:
    """DSPy's interpreter in a process of its own, which measures itself when it is told to.

    Raises PeerMissing when entered, if it does not start.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self.version = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="bench")
        path = f"{find_deno().parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._process = subprocess.Popen(
            [self._python, "-m", "tests.bench.dspy_peer", self._folder.name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path},
        )
        try:
            self.version = str(self._answer())
        except PeerMissing:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        # what hangs is ended, and then says nothing
        patience = threading.Timer(WITHIN, self._process.kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        if not line:
            said = self._process.communicate()[1].strip().splitlines()
            raise PeerMissing(said[-1] if said else f"exit code {self._process.returncode}")
        return json.loads(line)

    async def ask(self, word: str) -> float:
        """Seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return float(str(await anyio.to_thread.run_sync(self._answer)))

    def asking(self, word: str) -> Callable[[], Awaitable[float]]:
        return lambda: self.ask(word)
