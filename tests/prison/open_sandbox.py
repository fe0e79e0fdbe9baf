"""A deliberately open sandbox as a target: plain Pyodide in Deno with read, net and env allowed.

It is what many a tutorial builds: cells by runPythonAsync in the main thread, JSON lines on stdin and stdout, a host
that takes them at their word. Its use is to show that the hostile suite can fail.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from tests.prison.hostile import tools
from tests.prison.judge import PROBE, Came
from tests.prison.traps import Traps
from tests.processes import processor_seconds

PYODIDE = Path(__file__).parents[2] / "deno" / "pyodide"
PROGRAM = Path(__file__).with_name("open_sandbox.mjs")
# Pyodide boots from nothing, on a machine that does other things
_START_WITHIN = 60


class ProcessEnded(Exception):
    """The process of the sandbox is gone."""


class OpenSandbox:
    """One process at a time. Use `opened`."""

    documented: tuple[type[Exception], ...] = (ProcessEnded,)

    def __init__(self, deno: Path, traps: Traps) -> None:
        self._deno = deno
        self._traps = traps
        self._functions = traps.functions()
        self._process: anyio.abc.Process | None = None
        self._unread = b""

    async def _started(self) -> anyio.abc.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self.renew()
        allowed = ("--allow-read", "--allow-net", "--allow-env")
        line = [self._deno, "run", "--no-prompt", "--no-config", "--no-lock", *allowed, PROGRAM, PYODIDE]
        self._process = await anyio.open_process([os.fspath(part) for part in line], stderr=subprocess.DEVNULL)
        names = "\n".join(f"{name} = {value!r}" for name, value in self._traps.variables().items())
        with anyio.fail_after(_START_WITHIN):
            equipped = await self._unpacked(self._process, f"{names}\n{tools('open')}")
        assert not any("Error" in text for text in equipped.texts), equipped.texts
        return self._process

    async def _run(self, process: anyio.abc.Process, code: str) -> Came:
        await self._send(process, {"code": code})
        came: Came | None = None
        texts: list[str] = []
        async with anyio.create_task_group() as tasks:
            while came is None:
                message = json.loads(await self._line(process))
                if "call" in message:
                    tasks.start_soon(self._answer, process, message)
                elif "final" in message:
                    texts.append(str(json.loads(message["final"]))[:1_000_000])
                elif "printed" in message:
                    texts.append(str(message["printed"][1]))
                elif message["done"]:
                    came = Came([*texts, str(message["output"]), str(message["value"]), str(message["error"])])
            tasks.cancel_scope.cancel()
        assert came is not None
        return came

    async def _answer(self, process: anyio.abc.Process, message: dict[str, Any]) -> None:
        name, args, kwargs = json.loads(message["call"])
        try:
            result = self._functions[name](*args, **kwargs)
            reply = json.dumps(await result if inspect.isawaitable(result) else result, default=repr)
        except Exception as error:
            reply = json.dumps(f"{type(error).__name__}: {error}")
        await self._send(process, {"id": message["id"], "reply": reply})

    async def _send(self, process: anyio.abc.Process, message: object) -> None:
        assert process.stdin is not None
        try:
            await process.stdin.send(json.dumps(message).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ProcessEnded from None

    async def _line(self, process: anyio.abc.Process) -> bytes:
        assert process.stdout is not None
        chunks = [self._unread]
        while b"\n" not in chunks[-1]:
            try:
                chunks.append(await process.stdout.receive())
            except anyio.EndOfStream:
                raise ProcessEnded from None
        line, _, self._unread = b"".join(chunks).partition(b"\n")
        return line

    async def run(self, code: str, timeout: float, other: bool = False) -> Came:
        if not other:
            return await self._unpacked(await self._started(), code)
        second = OpenSandbox(self._deno, self._traps)
        try:
            return await second.run(code, timeout)
        finally:
            await second.renew()

    async def _unpacked(self, process: anyio.abc.Process, code: str) -> Came:
        failure: Exception | None = None
        try:
            return await self._run(process, code)
        except ExceptionGroup as group:
            # one failure, of reading or of answering, ends the cell
            failure = group.exceptions[0]
        except ProcessEnded as error:
            failure = error
        await self.renew()
        raise failure

    async def get(self, name: str) -> Came:
        return await self.run(f"import json\nprint(json.dumps({name}))", 30)

    async def load(self) -> Came:
        return await self.run(f"loaded_by_the_host = {'x' * 1000!r}", 30)

    async def works(self) -> bool | None:
        came = await self.run(PROBE.replace("probe;", "probe"), 10)
        return "probe\n" in came.texts and "42" in came.texts

    async def renew(self) -> None:
        process, self._process, self._unread = self._process, None, b""
        if process is not None:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()

    async def unharmed(self) -> list[str]:
        return []

    def computed(self) -> float | None:
        return None if self._process is None else processor_seconds(self._process.pid)


@asynccontextmanager
async def opened(traps: Traps, group: str) -> AsyncIterator[OpenSandbox]:
    """The open sandbox, started."""
    # only this target and the shipped one have the package beside them
    from rlm_wasm.sandbox.process import find_deno

    target = OpenSandbox(find_deno(), traps)
    try:
        await target.works()
        yield target
    finally:
        await target.renew()
