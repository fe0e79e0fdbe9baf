"""How far a batch of questions is, on stderr: a bar where that is a terminal and rich is there, else a line for each.

Owns what is shown. Knows nothing of how the questions are answered.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any, Self

from rlm_wasm.answers_file import Answered
from rlm_wasm.batches import Batch
from rlm_wasm.cards import dollars
from rlm_wasm.trace.lines import escaped, first_line, say
from rlm_wasm.trace.live import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress

# characters of a question, and of what came of it
_QUESTION, _CAME = 60, 100


class BatchView:
    """Shows a batch from `begin` to the end of its own block; `hear` is to be told what was asked."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._bar: Progress | None = None
        self._task: Any = None

    def __repr__(self) -> str:
        return f"<BatchView of {self._batch!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def begin(self, batch: Batch) -> None:
        """Show this batch from now on."""
        self._batch = batch
        if not is_terminal() or importlib.util.find_spec("rich") is None:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(file=sys.stderr),
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=batch.total)
        self._bar.start()

    def hear(self, answered: Answered) -> None:
        """Show what became of a question."""
        assert self._batch is not None
        done = f"[{sum(self._batch.counts.values()):,}/{self._batch.total:,}]"
        line = f"{done} {first_line(answered.question, _QUESTION)} -> {_came(answered)} ({answered.seconds:.1f} s)"
        if self._bar is None:
            say(line)
        elif answered.state != "answered":
            # stays above the bar; the answers are in the file
            self._bar.console.print(escaped(line), markup=False, highlight=False)
        self.refresh()

    def refresh(self) -> None:
        """Show how far it is now."""
        if self._bar is not None and self._batch is not None:
            done = sum(self._batch.counts.values())
            self._bar.update(self._task, completed=done, description=told(self._batch))


def told(batch: Batch) -> str:
    """How far a batch is, in one line: questions, US dollars, and the time that is left."""
    counts = batch.counts
    parts = [f"{counts['answered']:,}/{batch.total:,} answered"]
    parts += [f"{counts[state]:,} {state}" for state in ("stopped", "failed", "not asked") if counts[state]]
    usd = batch.usage.usd
    parts.append("unknown price" if usd is None else dollars(usd))
    if batch.seconds_left:
        parts.append(f"about {_duration(batch.seconds_left)} left")
    return ", ".join(parts)


def _came(answered: Answered) -> str:
    if answered.failure is not None:
        return f"failed: {answered.failure.type}: {first_line(answered.failure.text, _CAME)}"
    if answered.state == "stopped":
        return f"stopped by {answered.stopped_by}"
    return first_line(str(answered.response), _CAME)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
