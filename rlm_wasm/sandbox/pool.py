"""SandboxPool: warm sandboxes, lent once each and then thrown away.

Knows nothing of runs. A sandbox that has seen anybody's data is never lent again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import anyio
import anyio.abc
import msgspec

from rlm_wasm.errors import SandboxError
from rlm_wasm.sandbox.sandbox import Sandbox
from rlm_wasm.sandbox.session import HostFunction, SandboxOptions, background_tasks

# seconds; the run that was just lent one has its first cell before it
_REPLACED_AFTER = 0.1


class _Slot:
    """A sandbox and the task that keeps it open: a task group must be left by the task that entered it."""

    def __init__(self) -> None:
        self.wanted = anyio.Event()
        self.ready = anyio.Event()
        self.done = anyio.Event()
        self.sandbox: Sandbox | None = None
        self.error: SandboxError | None = None


class SandboxPool:
    """Keeps `size` sandboxes booted and ready; with 0 each is started when it is asked for.

        async with SandboxPool(2) as pool, pool.lend() as sandbox:
            await sandbox.execute("1 + 1")

    Takes the fields of `SandboxOptions` as keyword arguments, and gives them to every sandbox.
    """

    def __init__(self, size: int = 1, *, options: SandboxOptions | None = None, **chosen: Any) -> None:
        if size < 0:
            raise ValueError(f"size must be 0 or more, not {size!r}")
        base = options or SandboxOptions()
        self._options = msgspec.structs.replace(base, **chosen) if chosen else base
        self._size = size
        self._slots: list[_Slot] = []
        self._lent = 0
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    def __repr__(self) -> str:
        if self._tasks is None:
            return "<SandboxPool closed>"
        ready = sum(slot.ready.is_set() for slot in self._slots)
        return f"<SandboxPool {ready} ready, {len(self._slots) - ready} starting, {self._lent} lent>"

    @property
    def options(self) -> SandboxOptions:
        """What was chosen for its sandboxes."""
        return self._options

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("this SandboxPool is open already")
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(background_tasks())
            self._refill()
            for slot in self._slots:
                slot.wanted.set()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        self._slots.clear()
        try:
            return await stack.__aexit__(*exception)
        finally:
            self._tasks = None

    @asynccontextmanager
    async def lend(self, functions: Mapping[str, HostFunction] | None = None) -> AsyncGenerator[Sandbox]:
        """A sandbox of the caller's own for as long as the block lasts; it is closed at its end.

        `functions` replaces the functions of the pool's options, name for name. Raises SandboxStartError.
        """
        slot = await self._ready_slot()
        self._lent += 1
        try:
            assert slot.sandbox is not None
            if functions is not None:
                slot.sandbox.bind(functions)
            yield slot.sandbox
        finally:
            self._lent -= 1
            slot.done.set()

    async def _ready_slot(self) -> _Slot:
        while True:
            slot = self._slots.pop(0) if self._slots else self._new_slot()
            slot.wanted.set()
            self._refill()
            try:
                await slot.ready.wait()
            except BaseException:
                slot.done.set()
                raise
            if slot.error is not None:
                raise slot.error
            if slot.sandbox is not None and slot.sandbox.alive:
                return slot
            # it died while it waited: the next one
            slot.done.set()

    def _refill(self) -> None:
        self._slots += [self._new_slot() for _ in range(self._size - len(self._slots))]

    def _new_slot(self) -> _Slot:
        if self._tasks is None:
            raise RuntimeError("this SandboxPool is not open: use 'async with SandboxPool() as pool'")
        slot = _Slot()
        self._tasks.start_soon(self._keep, slot)
        return slot

    async def _keep(self, slot: _Slot) -> None:
        try:
            with anyio.move_on_after(_REPLACED_AFTER):
                await slot.wanted.wait()
            async with Sandbox(options=self._options) as sandbox:
                slot.sandbox = sandbox
                slot.ready.set()
                await slot.done.wait()
        except SandboxError as error:
            slot.error = error
        finally:
            slot.ready.set()


class KeptPool(SandboxPool):
    """A pool that lends the same sandbox to one run after the other; its children, who ask meanwhile, get others.

    `first`: a sandbox that is not open yet, to be the one that is kept; None for a new one.
    """

    def __init__(self, options: SandboxOptions, first: Sandbox | None = None) -> None:
        super().__init__(0, options=options)
        self._first = first
        self._kept: Sandbox | None = None
        self._is_lent = False
        self._lending = AsyncExitStack()

    async def __aexit__(self, *exception: Any) -> bool | None:
        await self._lending.aclose()
        return await super().__aexit__(*exception)

    @property
    def kept(self) -> Sandbox | None:
        """The sandbox that is kept, if one has been lent."""
        return self._kept

    async def load(self, **variables: object) -> None:
        """Set variables in the sandbox that is kept, if there is one yet."""
        if self._kept is not None:
            await self._kept.load(**variables)

    @asynccontextmanager
    async def lend(self, functions: Mapping[str, HostFunction] | None = None) -> AsyncGenerator[Sandbox]:
        """The sandbox that is kept, or another of the caller's own while it is lent. Raises SandboxStartError."""
        if self._is_lent:
            async with super().lend(functions) as other:
                yield other
            return
        self._is_lent = True
        try:
            if self._kept is None:
                lent = super().lend(functions) if self._first is None else self._first
                self._kept = await self._lending.enter_async_context(lent)
                if self._first is not None and functions is not None:
                    self._kept.bind(functions)
            elif functions is not None:
                self._kept.bind(functions)
            yield self._kept
        finally:
            self._is_lent = False
