"""A run's REPL outlives the sandboxes it is in: checkpoints, and the cells since the last one run again.

What comes back is what was there, or it is said to be gone; nothing comes back changed. Knows nothing of models, events
or money, and puts nothing into words.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from rlm_wasm.answers import Answer, Answers
from rlm_wasm.dialects.dialect import inside
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxError, SandboxTimeout
from rlm_wasm.sandbox import Checkpoint, Executed, Sandbox
from rlm_wasm.sandbox.sandbox import ChildGone
from rlm_wasm.sandbox.session import HostFunction
from rlm_wasm.sandbox.values import decode, encode

# seconds that the first checkpoint of a run is taken to cost
_FIRST_COST = 0.5
# a start that fails once may have been hit by what killed the child before it
_STARTS = 2
# of a cell, each in a child that is there when it begins
_TRIES = 3


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """When the REPL of a run is saved, so that little is to be done again when its sandbox is lost.

    `share`: what checkpoints may cost of the time in which cells compute. After a cell that cannot be run again, since
    it made use of time or chance, one is taken as soon as they cost no more than that share of the run's whole time.
    `cells`: take one after so many cells whatever it costs; None for no such rule. They are taken while the root model
    is asked, and each holds the sandbox's memory (without empty pages) in the host's, in the place of the one before.
    `keep`: none takes the place of another, so that every iteration can be forked (`Iteration.fork`), also one whose
    cells would not do the same again; they are held as long as the run's trajectory is.
    `mb`: a memory of more (1,000,000 bytes) is not held, and the REPL comes back by its cells; None is no such bound.
    Raises ValueError for a value that makes no sense.
    """

    share: float = 0.05
    cells: int | None = None
    keep: bool = False
    mb: float | None = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"Checkpoints.share must be from 0 to 1, not {self.share!r}")
        if self.cells is not None and self.cells < 1:
            raise ValueError(f"Checkpoints.cells must be 1 or more, or None, not {self.cells!r}")
        if self.mb is not None and not self.mb > 0:
            raise ValueError(f"Checkpoints.mb must be above 0, or None, not {self.mb!r}")


class Schedule:
    """Whether a checkpoint is due, by what cells and checkpoints took so far. All times in seconds."""

    def __init__(self, chosen: Checkpoints) -> None:
        self._chosen = chosen
        self._computed = 0.0
        self._cost = 0.0
        self._expected = _FIRST_COST
        self._cells = 0
        self._unrepeatable = False
        self._refused = False

    def ran(self, seconds: float, *, repeatable: bool) -> None:
        """A cell has computed for so long."""
        self._cells += 1
        self._computed += seconds
        self._unrepeatable = self._unrepeatable or not repeatable
        self._refused = False

    def took(self, seconds: float, *, taken: bool) -> None:
        """A checkpoint has cost so much, whether it could be taken or not."""
        self._cost += seconds
        self._expected = seconds
        self._refused = not taken
        if taken:
            self._cells, self._unrepeatable = 0, False

    def due(self, elapsed: float) -> bool:
        """Whether one is to be taken now, so long after the run's beginning."""
        if not self._cells or self._refused:
            return False
        if self._chosen.cells is not None and self._cells >= self._chosen.cells:
            return True
        time_of = elapsed if self._unrepeatable else self._computed
        return self._cost + self._expected <= self._chosen.share * time_of


class Back(msgspec.Struct, frozen=True, kw_only=True):
    """What came back of a REPL whose sandbox was lost.

    `checkpointed` cells are in effect because they are in a checkpoint, `repeated` because they were run again.
    `undone` is the code of those that are not in effect any more, and `lost` the names of variables that are not there
    any more; what is there is as it was after the last cell that is in effect.
    """

    checkpointed: int
    repeated: int
    undone: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """What was done in the sandbox: a cell, or variables that the host set (a text as in `values.py`).

    The `value` and `final` of `executed` are such texts too.
    """

    code: str = ""
    executed: Executed | None = None
    answers: list[Answer] = []
    variables: str = "{}"
    repeatable: bool = True


class Saved(msgspec.Struct, frozen=True):
    """A REPL as it can be written down, beside its checkpoint: what `Survivor.go_on` takes."""

    chance: int | None
    checkpointed: int
    names: tuple[str, ...]
    steps: list[Step]


class Survivor:
    """The sandbox of one run as the run sees it: lost children are replaced, and the REPL is what it was.

    `functions` are what its cells may call; the sandbox is to be opened with `answers.functions` in their place.
    `checkpoints` None takes none: the REPL then comes back by its cells alone. `on_back` is told when it did, in a
    moment in which no cell ran, `on_saved` when there is a new checkpoint.
    """

    def __init__(
        self,
        functions: Mapping[str, HostFunction],
        checkpoints: Checkpoints | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.answers = Answers(functions)
        self.on_back: Callable[[Back], object] = lambda _: None
        self.on_saved: Callable[[], Awaitable[None]] = _nothing
        self._schedule = None if checkpoints is None else Schedule(checkpoints)
        self._keeps_all = checkpoints is not None and checkpoints.keep
        self._at_most_mb = None if checkpoints is None else checkpoints.mb
        self._clock = clock
        self._began = clock()
        # what was done since the last checkpoint that is kept for good, or from the beginning, and the cells before it
        self._done: list[Step] = []
        self._base: Checkpoint | None = None
        self._before_base = 0
        # how much of that is in the last checkpoint
        self._in_checkpoint = 0
        self._names: tuple[str, ...] = ()
        self._chance: int | None = None
        self._checkpoint: Checkpoint | None = None

    async def hold(self, sandbox: Sandbox, *, seeded: bool = False, used: bool = False) -> None:
        """Begin with a sandbox. `seeded`: its chance is the same each time as it is.

        `used`: cells have been run in it that are not known here. They cannot be run again: a checkpoint may keep them.
        """
        if used:
            self._names = sandbox.names
            self._done.append(Step(_EARLIER, _NOTHING, repeatable=False))
            if self._schedule is not None:
                self._schedule.ran(0.0, repeatable=False)
        elif not seeded:
            if self._chance is None:
                self._chance = random.SystemRandom().randrange(1 << 63)
            await sandbox.load(rlm_chance=self._chance)
            await sandbox.equip(inside("chance"))
        self._sandbox = sandbox
        self._child: int | None = sandbox.child

    def saved(self) -> tuple[Saved, Checkpoint | None]:
        """The REPL as it is now."""
        return Saved(self._chance, self._checkpointed, self._names, self._steps), self._checkpoint

    def moment(self) -> tuple[Saved, Checkpoint | None]:
        """The REPL as it is now, as it can be had again later too: of what is kept for good."""
        return Saved(self._chance, self._before_base, self._names, list(self._done)), self._base

    def begin_as(self, saved: Saved) -> None:
        """Before `hold`: the sandbox is to begin with the chance of an earlier one."""
        self._chance = saved.chance

    async def go_on(self, saved: Saved, checkpoint: Checkpoint | None) -> Back:
        """After `hold`: be the REPL that was saved, in a sandbox that has begun with that checkpoint, if there is one.

        Raises SandboxError.
        """
        self._checkpoint = self._base = checkpoint
        self._before_base, self._in_checkpoint = saved.checkpointed, 0
        self._names, self._done = saved.names, list(saved.steps)
        fresh, self._child = self._child, None
        return await self.come_back(fresh)

    # --- what a run does -------------------------------------------------------------------------------------------

    async def execute(self, code: str) -> Executed:
        """Run a cell, where the REPL is what it was. Raises what `Sandbox.execute` does if its sandbox is lost."""
        for _ in range(_TRIES):
            child = await self._here()
            answers = self.answers.record()
            try:
                executed = await self._sandbox.execute(code, child=child)
            except ChildGone:
                self._child = None
                continue
            except (SandboxCrashed, SandboxTimeout, ProtocolError):
                self._child = None
                raise
            # what a cell asked for and did not wait for may come sooner another time
            repeatable = executed.repeatable and all(answer.place >= 0 for answer in answers)
            self._done.append(Step(code, _plain(executed), answers, repeatable=repeatable))
            self._names = executed.names
            if self._schedule is not None:
                self._schedule.ran(executed.seconds, repeatable=repeatable)
            return executed
        raise SandboxCrashed(f"{_TRIES} sandboxes one after the other ended before they ran a cell")

    async def load(self, **variables: object) -> None:
        """Set variables. Raises what `Sandbox.load` raises."""
        await self._here()
        await self._sandbox.load_once(**variables)
        self._done.append(Step(variables=encode(variables)))

    @property
    def _steps(self) -> list[Step]:
        """What was done since the last checkpoint."""
        return self._done[self._in_checkpoint :]

    @property
    def _checkpointed(self) -> int:
        """How many cells are in the last checkpoint."""
        return self._before_base + _cells(self._done[: self._in_checkpoint])

    async def get(self, name: str) -> Any:
        """The value of a variable. Raises what `Sandbox.get` raises."""
        try:
            return await self._sandbox.get(name, child=await self._here())
        except ChildGone:
            return await self._sandbox.get(name, child=await self._here())

    async def _here(self) -> int:
        """The number of the child that holds the REPL."""
        if self._child is None or not self._sandbox.alive or self._sandbox.child != self._child:
            self._child = None
            self.on_back(await self.come_back())
        assert self._child is not None
        return self._child

    # --- checkpoints -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def saving(self) -> AsyncGenerator[None]:
        """Take a checkpoint beside what the block waits for, if one is due; the block's end waits for it."""
        if self._schedule is None or not self._schedule.due(self._clock() - self._began):
            yield
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._save, self._schedule)
            try:
                yield
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    async def _save(self, schedule: Schedule) -> None:
        began, taken = self._clock(), False
        try:
            taken = await self.save(keep=self._keeps_all)
        finally:
            schedule.took(self._clock() - began, taken=taken)

    async def save(self, *, keep: bool) -> bool:
        """Take a checkpoint now, which is kept for good or takes the place of the last; False if none can be had."""
        try:
            if self._child is None:
                return False
            checkpoint = await self._sandbox.checkpoint(child=self._child, at_most_mb=self._at_most_mb)
        except (ValueError, SandboxError, ChildGone):
            # a thread that waits, say, or a child that is gone: the cells are known all the same
            return False
        self._sandbox.start_from(checkpoint)
        self._checkpoint, self._in_checkpoint = checkpoint, len(self._done)
        if keep:
            self._before_base, self._base = self._checkpointed, checkpoint
            self._done, self._in_checkpoint = [], 0
        await self.on_saved()
        return True

    # --- coming back -----------------------------------------------------------------------------------------------

    async def come_back(self, fresh: int | None = None) -> Back:
        """Go on in a fresh child, in which the REPL is what it was, as far as cells do again what they did.

        `fresh`: one that is there already. Raises SandboxError if no child could be started.
        """
        steps = self._steps
        upto = next((index for index, step in enumerate(steps) if not step.repeatable), len(steps))
        heard, self._sandbox.on_print = self._sandbox.on_print, None
        try:
            while True:
                child = await self._restarted() if fresh is None else fresh
                fresh = None
                done = await self._repeat(upto, child)
                if done == upto:
                    break
                # what the next cell did is in the memory now, and not what it was: begin anew, and stop before it
                upto = done
        finally:
            self._sandbox.on_print = heard
        undone = steps[upto:]
        del self._done[self._in_checkpoint + upto :]
        names = self._sandbox.names
        lost, self._names = tuple(name for name in self._names if name not in names), names
        self._child = child
        await self._load_again(undone)
        return Back(
            checkpointed=self._checkpointed,
            repeated=_cells(self._steps),
            undone=tuple(step.code for step in undone if step.executed is not None),
            lost=lost,
        )

    async def _restarted(self) -> int:
        for _ in range(_STARTS - 1):
            try:
                return await self._sandbox.restart()
            except SandboxError:
                continue
        return await self._sandbox.restart()

    async def _repeat(self, upto: int, child: int) -> int:
        """Do the first `upto` steps again; gives how many of them came to what they had come to."""
        for index, step in enumerate(self._steps[:upto]):
            try:
                if step.executed is None:
                    await self._sandbox.load_once(**decode(step.variables))
                    if self._sandbox.child != child:
                        return index
                    continue
                self.answers.repeat(step.answers)
                # the machine may be slower now
                seconds = 2 * self._sandbox.options.timeout
                executed = await self._sandbox.execute(step.code, timeout=seconds, child=child)
            except (SandboxError, ValueError, ChildGone):
                return index
            if self._schedule is not None:
                self._schedule.ran(executed.seconds, repeatable=True)
            if _told(_plain(executed)) != _told(step.executed) or not self.answers.the_same:
                return index
        return upto

    async def _load_again(self, undone: list[Step]) -> None:
        """Set what the host had set after the last cell that is in effect: it is no cell's, and as it was."""
        variables = {name: value for step in undone for name, value in decode(step.variables).items()}
        if not variables:
            return
        try:
            await self._sandbox.load_once(**variables)
            self._done.append(Step(variables=encode(variables)))
        except (SandboxError, ValueError):
            # if the child is gone, the next cell finds that out
            return


_EARLIER = "(the cells of earlier questions)"
_NOTHING = Executed(
    stdout="",
    stderr="",
    output="",
    truncated=0,
    error=None,
    value="null",
    final="null",
    has_final=False,
    seconds=0.0,
    timed_out=False,
)


async def _nothing() -> None:
    pass


def _cells(steps: list[Step]) -> int:
    return sum(step.executed is not None for step in steps)


def _told(executed: Executed) -> tuple[object, ...]:
    """What a cell has told of itself, but for the time that it took."""
    names = executed.names, executed.restored, executed.kept, executed.truncated, executed.repeatable
    return executed.output, executed.error, executed.value, executed.has_final, executed.final, *names


def _plain(executed: Executed) -> Executed:
    return msgspec.structs.replace(executed, value=encode(executed.value), final=encode(executed.final))
