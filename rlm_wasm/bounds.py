"""Work that ends by itself, at the end of its seconds, or when somebody says stop. Knows nothing of what is done."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import anyio

Result = TypeVar("Result")


class EndedEarly(Exception):
    """The work was ended: `by` is "seconds" or "cancelled"."""

    def __init__(self, by: Literal["seconds", "cancelled"]) -> None:
        super().__init__(by)
        self.by: Literal["seconds", "cancelled"] = by


async def within(work: Callable[[], Awaitable[Result]], *, seconds: float | None, stop: anyio.Event | None) -> Result:
    """What `work` gives. Raises what it raises, by itself and in no group, and EndedEarly; None is no bound."""
    results: list[Result] = []
    failure: Exception | None = None
    clock = anyio.CancelScope(deadline=math.inf if seconds is None else anyio.current_time() + seconds)
    async with anyio.create_task_group() as tasks:
        if stop is not None:
            tasks.start_soon(_cancel_when, stop, tasks.cancel_scope)
        with clock:
            try:
                results.append(await work())
            except Exception as error:
                # out of the group it would come in a group
                failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if results:
        return results[0]
    raise EndedEarly("seconds" if clock.cancelled_caught else "cancelled")


async def _cancel_when(stop: anyio.Event, scope: anyio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()
