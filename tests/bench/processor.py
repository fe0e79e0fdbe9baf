"""The row of the bench that says which part of a start, a cell and a call takes the processor. Linux only.

Where the parts together are more than a goal, no waiting less will reach it on that machine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rlm_wasm.sandbox import Sandbox
from tests.processes import pid_of, processor_by_thread

if TYPE_CHECKING:
    from tests.bench.rows import Bench, Row

# threads of a child by the beginnings of their names; the first is the one that the process begins with
V8 = "V8's compilers and collectors"
PARTS = {"main": "the broker", "worker-": "the jail", "V8 ": V8, "": "reading the pipe"}
ROUND = 500


async def nothing() -> None:
    """A host function that does nothing."""


async def parts(bench: Bench) -> Row:
    """Processor time of each part: of a start (the launcher's is the broker's), of a cell, of a bridged call."""
    from tests.bench.rows import row, told

    samples: dict[str, list[float]] = {}

    def add(what: str, before: dict[str, float], after: dict[str, float], times: int) -> None:
        for part, seconds in after.items():
            samples.setdefault(f"{what}: {part}", []).append((seconds - before.get(part, 0.0)) / times)

    for _ in range(bench.times):
        host = time.process_time()
        async with Sandbox(functions={"nothing": nothing}) as sandbox:
            await sandbox.execute("x = 1")
            add("a start", {"the host": host}, spent(sandbox), 1)

            async def cells(sandbox: Sandbox = sandbox) -> None:
                for _ in range(ROUND):
                    await sandbox.execute("x = 1")

            async def calls(sandbox: Sandbox = sandbox) -> None:
                await sandbox.execute(f"for _ in range({ROUND}): nothing()")

            works: dict[str, Callable[[], Awaitable[None]]] = {"a cell": cells, "a call": calls}
            for what, work in works.items():
                for _ in range(3):
                    await work()
                before = spent(sandbox)
                await work()
                add(what, before, spent(sandbox), ROUND)
    found = row("processor time by part", "s", samples, "where it goes")
    alone = {what: sum(in_turn(found.medians, what)) * 1000 for what in ("a start", "a cell", "a call")}
    measured = ", ".join(f"{what} {milliseconds:.2f} ms" for what, milliseconds in alone.items())
    beside = f"a start with what V8 does beside {sum(all_of(found.medians, 'a start')) * 1000:.0f} ms"
    return told(found, measured, beside)


def all_of(medians: dict[str, float], what: str) -> list[float]:
    return [seconds for name, seconds in medians.items() if name.startswith(what)]


def in_turn(medians: dict[str, float], what: str) -> list[float]:
    """Those of the parts that work one after the other: V8's own threads do so beside."""
    return all_of({name: seconds for name, seconds in medians.items() if V8 not in name}, what)


def spent(sandbox: Sandbox) -> dict[str, float]:
    """Seconds of processor so far, by part: of the child's threads, and of this process."""
    taken = {"the host": time.process_time()}
    for thread, seconds in processor_by_thread(pid_of(sandbox)).items():
        part = next(part for beginning, part in PARTS.items() if thread.startswith(beginning))
        taken[part] = taken.get(part, 0.0) + seconds
    return taken
