"""A run as an asynchronous iterator of its events.

The run is a task of its own beside the code that iterates, so that no scope of it is open while that code is at work.
Owns this task: its start, its end, and that it ends when nobody listens any more. Knows nothing of what runs in it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

import anyio
from anyio.lowlevel import current_token

from rlm_wasm.events import Event, Listener
from rlm_wasm.trajectory import Completion

# seconds that a run which was told to stop may take before it is cancelled, and as many until nobody waits any more: an
# interrupted cell is given 2.5, and a host function that blocks its thread cannot be ended
_STOPS_WITHIN = 10.0

Begin = Callable[[Listener, anyio.Event], Awaitable[Completion]]
"""Begins a run, which tells the listener of each event at once and ends early when the event is set."""


class Stream:
    """The events of a run, as they come.

        async for event in rlm.stream("Which launch had the largest revenue?", context=text):
            ...

    The last one is the `RunStopped` of the run itself; after it, `completion` is what the run came to. What
    `RLM.acompletion` raises is raised after the events that came before. Leaving the loop early ends the run. To have
    its completion then, or to go on in another loop, hold it by `async with`, whose end waits for the run's:

        async with rlm.stream("Which?", context=text) as stream:
            async for event in stream:
                if isinstance(event, CallStarted):
                    break
        stream.completion.stopped_by   # "cancelled"

    The run begins with the loop, or with `async with`. For asyncio and trio.
    """

    def __init__(self, begin: Begin) -> None:
        self._running = _Running(begin)
        self._held = False

    def __repr__(self) -> str:
        running = self._running
        return f"<Stream {'over' if running.over else 'running' if running.begun else 'not begun'}>"

    @property
    def completion(self) -> Completion:
        """What the run came to. Raises RuntimeError before its end, and what it failed of if it failed."""
        return self._running.result()

    async def __aenter__(self) -> Self:
        self._held = True
        self._running.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run, if it is not over, and wait until it has ended, but no longer than 20 seconds."""
        await self._running.aclose()

    def __aiter__(self) -> _Loop:
        return _Loop(self._running, ends=not self._held)


class _Loop:
    """One loop over a run. Where the loop `ends` the run, that is when nobody refers to it any more."""

    def __init__(self, running: _Running, *, ends: bool) -> None:
        self._running, self._ends = running, ends

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        self._running.start()
        return await self._running.next()

    def __del__(self) -> None:
        if self._ends:
            self._running.abandon()


class _Running:
    """The task of a run, and the events that nobody has asked for yet."""

    # nothing here refers to the Stream or the loop: the task would keep them alive, and so itself

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._waiting: deque[Event] = deque()
        self._outcome: Completion | BaseException | None = None
        self._task: object = None
        self.begun = self.over = False

    def start(self) -> None:
        """Start the task, once."""
        if self.begun:
            return
        # made here and not before, because they belong to an event loop
        self._stop, self._ended, self._came = anyio.Event(), anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()
        self._loop = current_token().native_token
        self.begun = True
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            # kept, because the loop itself refers to its tasks only weakly
            self._task = asyncio.create_task(self._run())
        else:
            from trio.lowlevel import spawn_system_task

            spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        try:
            with self._scope:
                self._outcome = await self._begin(self._hear, self._stop)
        except BaseException as error:
            self._outcome = error
            if not isinstance(error, Exception):
                # a cancellation is the event loop's own
                raise
        finally:
            self.over = True
            self._ended.set()
            self._came.set()

    def _hear(self, event: Event) -> None:
        self._waiting.append(event)
        self._came.set()

    async def next(self) -> Event:
        """The next event. Raises StopAsyncIteration after the last, or what the run failed of."""
        while not self._waiting:
            if self.over:
                self.result()
                raise StopAsyncIteration
            if self._came.is_set():
                self._came = anyio.Event()
            await self._came.wait()
        return self._waiting.popleft()

    def result(self) -> Completion:
        if isinstance(self._outcome, Completion):
            return self._outcome
        if isinstance(self._outcome, Exception):
            raise self._outcome
        raise RuntimeError("the run was cancelled" if self.over else "the run is not over")

    async def aclose(self) -> None:
        if not self.begun:
            return
        self._stop.set()
        for _ in range(2):
            with anyio.move_on_after(_STOPS_WITHIN, shield=True):
                await self._ended.wait()
                return
            self._scope.cancel()

    def abandon(self) -> None:
        """Tell the run to end, from wherever the last reference to it was dropped."""
        if not self.begun or self.over:
            return
        # the event loop may be over already
        with suppress(RuntimeError):
            if isinstance(self._loop, asyncio.AbstractEventLoop):
                self._loop.call_soon_threadsafe(self._stop.set)
            else:
                # a trio.lowlevel.TrioToken
                self._loop.run_sync_soon(self._stop.set)  # pyright: ignore
