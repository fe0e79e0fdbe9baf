"""What alexzhang13/rlm tells while it runs, from this runtime's events: callbacks, a log file, lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    Event,
    IterationFinished,
    IterationStarted,
    RootReplied,
    RunStopped,
)

# characters of a prompt that a callback is shown
_PREVIEW = 80


class Callbacks:
    """A listener that calls the four callbacks of that system.

    `on_subcall_start(depth, model, prompt_preview)` and `on_subcall_complete(depth, model, seconds, error_or_none)` are
    for children, `depth` being theirs; `on_iteration_start(depth, iteration)` and `on_iteration_complete(depth,
    iteration, seconds)` for every run. One that raises is logged, and stops nothing.
    """

    def __init__(
        self,
        on_subcall_start: Callable[[int, str, str], object] | None = None,
        on_subcall_complete: Callable[[int, str, float, str | None], object] | None = None,
        on_iteration_start: Callable[[int, int], object] | None = None,
        on_iteration_complete: Callable[[int, int, float], object] | None = None,
    ) -> None:
        self._subcall_started = on_subcall_start
        self._subcall_ended = on_subcall_complete
        self._iteration_started = on_iteration_start
        self._iteration_ended = on_iteration_complete
        self._models: dict[tuple[str, int], str] = {}

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        match event:
            case IterationStarted() if self._iteration_started:
                self._iteration_started(event.depth, event.iteration)
            case IterationFinished() if self._iteration_ended:
                self._iteration_ended(event.depth, event.iteration, event.seconds)
            case CallStarted(function="rlm_query"):
                self._models[event.run, event.call] = event.model
                if self._subcall_started:
                    self._subcall_started(event.depth + 1, event.model, event.prompt[:_PREVIEW])
            case CallFinished():
                model = self._models.pop((event.run, event.call), None)
                if model is not None and self._subcall_ended:
                    self._subcall_ended(event.depth + 1, model, event.seconds, event.error)
            case _:
                pass


class RLMLogger:
    """Writes every event of every run as a line of JSON into a new file of `log_dir`, whose path is `log_file_path`.

    The lines are this runtime's events, not the fields of that system's logger. The folder is made if need be. Without
    `log_dir` nothing is written, and `log_file_path` is None; with a logger of either kind a completion has `metadata`.
    """

    def __init__(self, log_dir: str | Path | None = None, file_name: str = "rlm") -> None:
        made = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S-%f")
        self.log_file_path = None if log_dir is None else str(Path(log_dir) / f"{file_name}_{made}.jsonl")

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if self.log_file_path is None:
            return
        path = Path(self.log_file_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(event) + b"\n")


def tell(event: Event) -> None:
    """Write a line about an event to stderr, for `verbose`."""
    line = _line(event)
    if line:
        printable = "".join(c if c.isprintable() else " " for c in line)
        sys.stderr.write(f"{'  ' * event.depth}[{event.iteration}] {printable[:300]}\n")
        sys.stderr.flush()


def _line(event: Event) -> str:
    match event:
        case RootReplied():
            return f"{event.output_tokens:,} tokens in {event.seconds:.1f} s: {event.text}"
        case CellFinished():
            return f"error: {event.error}" if event.error else f"output: {event.output}"
        case CallStarted():
            return f"{event.function} to {event.model}: {event.prompt}"
        case RunStopped():
            return f"stopped by {event.stopped_by} after {event.seconds:.1f} s and {event.calls} calls"
        case _:
            return ""
