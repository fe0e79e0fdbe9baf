"""Where a run stood after an iteration, from which another can go on, or a sandbox be had as it was.

Knows how the REPL comes back. How a run goes on is in `run.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from rlm_wasm.contexts import Context
from rlm_wasm.dialects import Dialect
from rlm_wasm.errors import FunctionError
from rlm_wasm.events import Branched, Event
from rlm_wasm.sandbox import Checkpoint, Sandbox, SandboxOptions
from rlm_wasm.sandbox.session import HostFunction
from rlm_wasm.store import State, until
from rlm_wasm.survival import Back, Survivor
from rlm_wasm.trajectory import Iteration


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run `run` stood: `state` is what was said and done, `checkpoint` the memory to which that refers.

    The rest is what the run was set up with; `told` are the events of its record, which may go on.
    """

    run: str
    question: str
    output: Any
    context: Context
    variables: Mapping[str, object]
    dialect: Dialect
    own_functions: Mapping[str, Callable[..., Any]]
    options: SandboxOptions
    iterations: tuple[Iteration, ...]
    state: State
    checkpoint: Checkpoint | None
    told: Sequence[Event]

    @property
    def branch(self) -> Branched:
        """What an event says of it."""
        return Branched(self.run, self.state.number)

    @property
    def events(self) -> list[Event]:
        """What was told up to then."""
        return until(self.told, self.run, self.state.number)[0]

    @asynccontextmanager
    async def fork(self) -> AsyncGenerator[Sandbox]:
        """See `Iteration.fork`."""
        functions = {**dict.fromkeys(self.options.functions, _no_run), **self.own_functions}
        survivor = Survivor(functions, None)
        answered = {**survivor.answers.functions, **self.context.functions}
        async with begun(self.options, answered, self.checkpoint) as sandbox:
            survivor.begin_as(self.state.repl)
            await furnish(
                sandbox, survivor, self.context, self.variables, self.dialect, restored=self.checkpoint is not None
            )
            self.check(await survivor.go_on(self.state.repl, self.checkpoint))
            # what was recorded is answered; what is asked now is not
            survivor.answers.record()
            yield sandbox

    def check(self, back: Back) -> None:
        """Raise ValueError if the REPL did not come back as it was."""
        if back.undone:
            cell = next((line for line in back.undone[0].splitlines() if line.strip()), "")
            raise ValueError(
                f"the sandbox after iteration {self.state.number} cannot be had again: run again, the cell that begins "
                f"{cell[:60]!r} would not come to the same, since it made use of time or chance; "
                "RLM(checkpoints=Checkpoints(cells=1, keep=True)) keeps what is needed for that"
            )


def begun(options: SandboxOptions, functions: Mapping[str, HostFunction], checkpoint: Checkpoint | None) -> Sandbox:
    """A sandbox, to be opened, that begins with a checkpoint, or empty; `functions` are those of the options by name.

    Raises ValueError for a checkpoint of another build.
    """
    own = msgspec.structs.replace(options, functions=functions)
    return Sandbox(options=own) if checkpoint is None else Sandbox.restore(checkpoint, options=own)


async def furnish(
    sandbox: Sandbox,
    survivor: Survivor,
    context: Context,
    variables: Mapping[str, object],
    dialect: Dialect,
    *,
    restored: bool,
    used: bool = False,
) -> None:
    """Put into a sandbox what stands there before a run's first cell, and let `survivor` hold it.

    One that was `restored` of a checkpoint, or that earlier questions have `used`, has it already.
    """
    if not (restored or used):
        await sandbox.load(**context.among(variables))
        await sandbox.equip((*context.equipment, *dialect.equipment), dialect.library)
    await survivor.hold(sandbox, seeded=restored or sandbox.options.seed is not None, used=used)


def _no_run(*_: object, **__: object) -> None:
    raise FunctionError("this sandbox is a fork outside of a run: RLM.branch(iteration) goes on from it with a model")
