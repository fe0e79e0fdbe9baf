"""Runs a hostile cell against a target and says by what it succeeded. Knows nothing of what the target is.

A cell has succeeded if any of these is true of it or of its `then`: a token of the host came out; something arrived at
the host's servers or in its planted folder; the canary heard what it must not; the host process grew or its event loop
stood still; the cell outlived its deadline and grace; the target raised what it does not document, or gave more than
it agreed to; another sandbox is not what it was; no next cell works; something goes on computing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from tests.prison.hostile import Cell
from tests.prison.traps import Traps
from tests.processes import forget_peak, memory_mb

# beyond the cell's own timeout: 2 s of the broker, 7 s of the host, its clock of 2 s, and a shared machine
GRACE = 15.0
# what may stay with the host after a cell, and what it may take for a moment (a message may have 64 MiB, and is held
# as bytes, text and value at once)
KEPT_MB, PEAK_MB = 64, 512
# how long the event loop may stand still: the other sandboxes of the host wait as long
STILL = 5.0
# what may be computed in half a second, 2 s after a cell that must leave nothing behind, in seconds
RESTING = 0.05
PROBE = "probe = 40 + 2\nprint('probe')\nprobe;"


@dataclass
class Came:
    """What came out of one cell: every text, and what the target gave beyond what it agreed to."""

    texts: list[str]
    beyond: list[str] = field(default_factory=list)


class Target(Protocol):
    """Something that runs cells. `documented`: the exceptions that it may raise."""

    @property
    def documented(self) -> tuple[type[Exception], ...]: ...

    async def run(self, code: str, timeout: float, other: bool = False) -> Came:
        """Run a cell; with `other` in a second sandbox, fresh for each cell."""
        ...

    async def get(self, name: str) -> Came: ...

    async def load(self) -> Came: ...

    async def works(self) -> bool | None:
        """Whether `PROBE` gives what it must; None if the sandbox said that it is lost. Raises nothing documented."""
        ...

    async def renew(self) -> None:
        """Throw the sandbox away: the next cell has a fresh one."""
        ...

    async def unharmed(self) -> list[str]:
        """What is no longer true of the target's other sandboxes, in words."""
        ...

    def computed(self) -> float | None:
        """Seconds of processor time of the sandbox that ran last; None if it has ended."""
        ...


@dataclass
class Verdict:
    """How one cell fared. It succeeded if there are `reasons`."""

    cell: Cell
    reasons: list[str]
    seconds: float


async def attack(target: Target, cell: Cell, traps: Traps) -> Verdict:
    """Run one cell and judge it."""
    traps.forget()
    trial = _Trial(target, cell)
    memory = Memory()
    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trial.watch_loop)
        await trial.run()
        # the loop's own lateness is noticed by its next turn
        await anyio.sleep(0.02)
        trial.reasons += traps.sprung(trial.texts)
        tasks.cancel_scope.cancel()
    trial.reasons += memory.grown()
    if trial.still > STILL:
        trial.reasons.append(f"the host's event loop stood still for {trial.still:.0f} s")
    # a reason may be true of more than one step
    return Verdict(cell, list(dict.fromkeys(trial.reasons)), time.monotonic() - started)


class _Trial:
    """The steps of one cell, and what is found on the way."""

    def __init__(self, target: Target, cell: Cell) -> None:
        self.target = target
        self.cell = cell
        self.texts: list[str] = []
        self.reasons: list[str] = []
        self.still = 0.0

    async def watch_loop(self) -> None:
        while True:
            since = time.monotonic()
            await anyio.sleep(0.05)
            self.still = max(self.still, time.monotonic() - since - 0.05)

    async def run(self) -> None:
        cell, target = self.cell, self.target
        first = await self.step(lambda: target.run(cell.code, cell.timeout), cell.timeout)
        if cell.pause:
            await anyio.sleep(cell.pause)
        if cell.calm:
            await self.rest()
        name = cell.get
        if name is not None:
            # reading has the target's own deadline, of 30 s
            await self.step(lambda: target.get(name), 30.0)
        if cell.load:
            await self.step(target.load, 30.0)
        then = cell.then
        if then is not None:
            other = cell.where == "other"
            second = await self.step(lambda: target.run(then, cell.timeout, other), cell.timeout)
            shared = _shared(first) & _shared(second)
            if shared:
                self.reasons.append(f"two sandboxes drew the same: {sorted(shared)}")
        await self.aftermath()

    async def step(self, act: Callable[[], Awaitable[Came]], timeout: float) -> list[str]:
        """One thing that is done to the target; gives the text that came of it."""
        started = time.monotonic()
        texts: list[str] = []
        try:
            # a target that never ends is ended; one that merely takes too long is found below
            with anyio.fail_after(timeout + GRACE + 1):
                came = await act()
            texts, self.reasons[len(self.reasons) :] = came.texts, came.beyond
        except self.target.documented as error:
            texts = _texts_of(error)
        except TimeoutError:
            await self.target.renew()
        except Exception as error:
            self.reasons.append(f"the host raised {type(error).__name__}: {str(error)[:150]}")
            await self.target.renew()
        took = time.monotonic() - started
        if took > timeout + GRACE:
            self.reasons.append(f"it took {took:.0f} s with a deadline of {timeout:g} s")
        self.reasons += [line[:200] for text in texts for line in text.splitlines() if line.startswith("BREACH: ")]
        self.texts += texts
        return texts

    async def rest(self) -> None:
        """Two seconds after it ended, nothing of a cell may compute."""
        await anyio.sleep(2.0)
        before = self.target.computed()
        await anyio.sleep(0.5)
        after = self.target.computed()
        if before is not None and after is not None and after - before > RESTING:
            self.reasons.append(f"it computed for {after - before:.2f} s of half a second, 2 s after it had ended")

    async def aftermath(self) -> None:
        """A next cell works, in this sandbox or in the one that takes its place; and the others are as they were."""
        target = self.target
        if self.cell.spoils or self.cell.calm:
            await target.renew()
        worked = await self.probe()
        if worked is None:
            # its loss was said: now there is another
            worked = await self.probe()
        if not worked:
            self.reasons.append("the next cell did not work")
            await target.renew()
            if not await self.probe():
                self.reasons.append("nor did one of a fresh sandbox")
        self.reasons += await target.unharmed()

    async def probe(self) -> bool | None:
        try:
            with anyio.fail_after(GRACE + 10):
                return await self.target.works()
        except self.target.documented:
            return None
        except TimeoutError:
            return False
        except Exception as error:
            self.reasons.append(f"the host raised {type(error).__name__}: {str(error)[:150]}")
            return False


def _texts_of(error: BaseException) -> list[str]:
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 50:
        parts += [str(seen), repr(seen), *(str(value) for value in vars(seen).values())]
        seen = seen.__cause__ or seen.__context__
    return parts


def _shared(texts: list[str]) -> set[str]:
    """What a cell drew, as it printed it: `SHARED word word`."""
    words: set[str] = set()
    for text in texts:
        for line in text.splitlines():
            if line.startswith("SHARED "):
                words.update(line.split()[1:])
    return words


class Memory:
    """The host's own memory from when it was made, in MB; Linux only, elsewhere it sees nothing."""

    def __init__(self) -> None:
        self._resident: float | None = None
        with contextlib.suppress(OSError):
            forget_peak()
            self._resident = memory_mb("VmRSS")

    def grown(self) -> list[str]:
        """In words, if more was kept or taken than is allowed."""
        if self._resident is None:
            return []
        peak = memory_mb("VmHWM") - self._resident
        _give_back()
        kept = memory_mb("VmRSS") - self._resident
        reasons = [f"the host kept {kept:.0f} MB more"] if kept > KEPT_MB else []
        return reasons + ([f"the host took {peak:.0f} MB for a time"] if peak > PEAK_MB else [])


def _give_back() -> None:
    """Let the allocator return what is free: what stays is held by somebody."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        # another C library
        return
