"""DSPy's PythonInterpreter as a target, run by the Python of an environment in which DSPy is installed.

One function (`readLines`) of its runner's has a local stand-in (`dspy_offline.py`); all else is DSPy's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from tests.dspy_offline import offline
from tests.prison.hostile import tools
from tests.prison.judge import Came
from tests.prison.traps import Traps
from tests.processes import processor_seconds


class DspyInterpreter:
    """One interpreter at a time, in a thread of its own, as it wants. Use `opened`."""

    def __init__(self, module: Any, traps: Traps) -> None:
        self._module = module
        self._traps = traps
        self._interpreter: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self.documented: tuple[type[Exception], ...] = (
            module.CodeInterpreterError,
            module.CodeExecutionError,
            SyntaxError,
        )

    async def _do(self, job: Callable[[], Any]) -> Any:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
            self._interpreter = None
        return await asyncio.wrap_future(self._thread.submit(job))

    def _execute(self, code: str) -> str:
        if self._interpreter is None:
            self._interpreter = self._module.PythonInterpreter(tools=self._traps.functions())
            offline(self._interpreter, self._traps.folder)
            names = "\n".join(f"{name} = {value!r}" for name, value in self._traps.variables().items())
            self._interpreter.execute(f"{names}\n{tools('dspy')}\nNone")
        # what a cell prints is returned only where its last expression has no value
        result = self._interpreter.execute(f"{code}\nNone")
        return str(getattr(result, "output", result))[:1_000_000]

    async def run(self, code: str, timeout: float, other: bool = False) -> Came:
        if other:
            second = DspyInterpreter(self._module, self._traps)
            try:
                return await second.run(code, timeout)
            finally:
                await second.renew()
        try:
            return Came([await self._do(lambda: self._execute(code))])
        except self.documented:
            if self._interpreter is None or self._interpreter._session_ended:
                await self.renew()
            raise

    async def get(self, name: str) -> Came:
        return await self.run(f"import json\nprint(json.dumps({name}))", 30)

    async def load(self) -> Came:
        return await self.run(f"loaded_by_the_host = {'x' * 1000!r}", 30)

    async def works(self) -> bool | None:
        return "probe" in (await self.run("probe = 40 + 2\nprint('probe', probe)", 10)).texts[0]

    async def renew(self) -> None:
        interpreter, thread = self._interpreter, self._thread
        self._interpreter = self._thread = None
        if interpreter is not None and interpreter.deno_process is not None:
            interpreter.deno_process.kill()
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    async def unharmed(self) -> list[str]:
        return []

    def computed(self) -> float | None:
        process = None if self._interpreter is None else self._interpreter.deno_process
        return None if process is None else processor_seconds(process.pid)


@asynccontextmanager
async def opened(traps: Traps, group: str) -> AsyncIterator[DspyInterpreter]:
    """DSPy's interpreter, started. Raises ImportError where DSPy is not installed, and what DSPy raises."""
    from dspy.primitives import python_interpreter  # pyright: ignore[reportMissingImports]  # not of this project

    target = DspyInterpreter(python_interpreter, traps)
    try:
        await target.works()
        yield target
    finally:
        await target.renew()
