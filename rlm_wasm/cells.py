"""A run's cells, one after the other: run in its sandbox, told of in events, put into the words that a model reads.

A sandbox that is lost is the cell's misfortune and not the run's. Knows nothing of models, budgets or what ends a run.
"""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from rlm_wasm import prompts
from rlm_wasm.dialects import Dialect
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxError, SandboxTimeout
from rlm_wasm.events import CellFinished, CellInterrupted, CellStarted, Emitter, Printed, SandboxReplaced
from rlm_wasm.guards import Watch
from rlm_wasm.sandbox import Executed, Sandbox
from rlm_wasm.survival import Back, Survivor
from rlm_wasm.trajectory import CellRun


class Cells:
    """The cells of one run in `sandbox`, which `survivor` holds."""

    def __init__(self, sandbox: Sandbox, survivor: Survivor, emitter: Emitter, dialect: Dialect, watch: Watch) -> None:
        self._survivor, self._emitter, self._dialect, self._watch = survivor, emitter, dialect, watch
        self._printed: list[str] = []
        self._came_back: list[str] = []
        self._count = 0
        sandbox.on_print = self._heard
        survivor.on_back = self._back_between_cells

    @property
    def count(self) -> int:
        """How many cells have been begun."""
        return self._count

    def go_on(self, count: int, before: Iterable[CellRun]) -> None:
        """Count on from what an earlier part of the run has run."""
        self._count = count
        for run in before:
            self._watch.ran(run.code, f"{run.output}{run.error}")

    def tell_back(self, back: Back, reason: str) -> str | None:
        """Tell of a REPL that came back; gives what the model is to be told, if anything is undone."""
        self._tell_back(back, reason)
        return prompts.came_back(back.undone, back.lost, died=False) if back.undone else None

    def _heard(self, stream: str, text: str) -> None:
        self._printed.append(text)
        self._emitter.emit(Printed(stream=stream, text=text))

    async def run(self, code: str, ran: list[CellRun]) -> CellRun:
        """Run one cell, and enter it in `ran`, also if the run is stopped meanwhile."""
        self._count += 1
        self._emitter.emit(CellStarted(code=code, cell=self._count))
        self._printed.clear()
        try:
            executed = await self._survivor.execute(code)
            run = CellRun(code=code, executed=executed, output=executed.output, error=executed.error)
        except (SandboxCrashed, SandboxTimeout, ProtocolError) as failure:
            # routine: ordinary code can do this, and the next cell runs in a fresh sandbox
            printed = "".join(self._printed)
            told = await self._back_after(failure)
            # past its first line a failure holds what its process said, which is not for the model
            error = f"{str(failure).splitlines()[0]}\n{told}"
            run = CellRun(code=code, executed=None, output=printed, error=error)
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

    async def _back_after(self, failure: SandboxError) -> str:
        """Get the REPL back that was lost with a cell; gives what the model is told of it."""
        try:
            back = await self._survivor.come_back()
        except SandboxError:
            # the next cell tries once more, and if that fails too the run ends
            return prompts.not_back()
        self._tell_back(back, str(failure))
        return prompts.came_back(back.undone, back.lost, died=True)

    def _back_between_cells(self, back: Back) -> None:
        told = self.tell_back(back, "it ended while no cell ran")
        self._came_back += [told] if told else []

    def _tell_back(self, back: Back, reason: str) -> None:
        self._emitter.emit(
            SandboxReplaced(
                reason=reason,
                lost=back.lost,
                checkpointed=back.checkpointed,
                repeated=back.repeated,
                undone=len(back.undone),
            )
        )

    def shown(self, run: CellRun, *, number: int, of: int) -> str:
        """What the model reads of a cell, the `number`-th `of` so many in its reply."""
        kept = run.executed.kept if run.executed is not None else None
        output = prompts.cell_output(run.output, run.error, number=number, of=of, kept=kept, dialect=self._dialect)
        return "\n\n".join([output, *self._notes(run)])

    def _notes(self, run: CellRun) -> list[str]:
        """What the model is told beside a cell's output."""
        notes, self._came_back = self._came_back, []
        if run.executed is not None and run.executed.restored:
            notes = [*notes, prompts.restored(run.executed.restored)]
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
        repeatable=executed.repeatable,
    )
