"""A run's cells, one after the other: run in its sandbox, told of in events, put into the words that a model reads.

A sandbox that is lost is the cell's misfortune and not the run's. Knows nothing of models, budgets or what ends a run.
"""

from __future__ import annotations

import anyio

from rlm_wasm import prompts
from rlm_wasm.dialects import Dialect
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxError, SandboxTimeout
from rlm_wasm.events import CellFinished, CellInterrupted, CellStarted, Emitter, Printed, SandboxReplaced
from rlm_wasm.guards import Watch
from rlm_wasm.sandbox import Executed, Sandbox
from rlm_wasm.trajectory import CellRun


class Cells:
    """The cells of one run in `sandbox`."""

    def __init__(self, sandbox: Sandbox, emitter: Emitter, dialect: Dialect, watch: Watch) -> None:
        self._sandbox, self._emitter, self._dialect, self._watch = sandbox, emitter, dialect, watch
        self._printed: list[str] = []
        self._told_lost: tuple[str, ...] = ()
        self._count = 0
        sandbox.on_print = self._heard

    def _heard(self, stream: str, text: str) -> None:
        self._printed.append(text)
        self._emitter.emit(Printed(stream=stream, text=text))

    async def run(self, code: str, ran: list[CellRun]) -> CellRun:
        """Run one cell, and enter it in `ran`, also if the run is stopped meanwhile."""
        self._count += 1
        self._emitter.emit(CellStarted(code=code, cell=self._count))
        self._printed.clear()
        try:
            executed = await self._sandbox.execute(code)
            run = CellRun(code=code, executed=executed, output=executed.output, error=executed.error)
        except (SandboxCrashed, SandboxTimeout) as failure:
            # routine: ordinary code can do this, and the next cell runs in a fresh sandbox
            self._told_lost = failure.lost
            run = self._lost_with_its_sandbox(code, failure, failure.lost)
        except ProtocolError as failure:
            run = self._lost_with_its_sandbox(code, failure, None)
        except anyio.get_cancelled_exc_class():
            error = "(the run was stopped while this cell ran)"
            ran.append(CellRun(code=code, executed=None, output="".join(self._printed), error=error))
            self._tell(ran[-1])
            raise
        ran.append(run)
        self._tell(run)
        return run

    def _tell(self, run: CellRun) -> None:
        executed = run.executed
        if executed is None:
            event = CellFinished(
                cell=self._count, output=run.output, error=run.error, seconds=0.0, truncated=0, ran=False
            )
            self._emitter.emit(event)
            return
        if executed.timed_out:
            self._emitter.emit(CellInterrupted(cell=self._count, seconds=executed.seconds))
        self._emitter.emit(_finished(executed, self._count))

    def _lost_with_its_sandbox(self, code: str, failure: SandboxError, lost: tuple[str, ...] | None) -> CellRun:
        self._emitter.emit(SandboxReplaced(reason=str(failure), lost=lost or ()))
        # past its first line a failure holds what its process said, which is not for the model
        error = f"{str(failure).splitlines()[0]}\n{prompts.lost_variables(lost)}"
        return CellRun(code=code, executed=None, output="".join(self._printed), error=error)

    def shown(self, run: CellRun, *, number: int, of: int) -> str:
        """What the model reads of a cell, the `number`-th `of` so many in its reply."""
        kept = run.executed.kept if run.executed is not None else None
        output = prompts.cell_output(run.output, run.error, number=number, of=of, kept=kept, dialect=self._dialect)
        return "\n\n".join([output, *self._notes(run)])

    def _notes(self, run: CellRun) -> list[str]:
        """What the model is told beside a cell's output."""
        notes: list[str] = []
        if run.executed is not None:
            lost = [name for name in run.executed.lost if name not in self._told_lost]
            notes += [prompts.lost_variables(lost)] if lost else []
            notes += [prompts.restored(run.executed.restored)] if run.executed.restored else []
            self._told_lost = ()
        repeated = self._watch.ran(run.code, f"{run.output}{run.error}")
        return [*notes, repeated] if repeated else notes


def _finished(executed: Executed, cell: int) -> CellFinished:
    plain = not executed.stderr and executed.stdout == executed.output
    return CellFinished(
        cell=cell,
        output=executed.output,
        error=executed.error,
        seconds=executed.seconds,
        truncated=executed.truncated,
        stdout=None if plain else executed.stdout,
        stderr=None if plain else executed.stderr,
        value=executed.value,
        final=executed.final,
        has_final=executed.has_final,
        timed_out=executed.timed_out,
        lost=executed.lost,
        names=executed.names,
        kept=executed.kept,
        restored=executed.restored,
    )
