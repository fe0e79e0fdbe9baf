"""Progress in a notebook: what a run is doing, in one place that changes while it goes on.

Owns what is shown of it. IPython is asked for only when there is something to show; it comes with the extra `notebook`.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from rlm_wasm.cards import card, dollars
from rlm_wasm.events import (
    BudgetSpent,
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
)


class _Place(Protocol):
    """IPython's DisplayHandle, as far as it is used."""

    def display(self, obj: Any, *, raw: bool) -> None: ...

    def update(self, obj: Any, *, raw: bool) -> None: ...


class NotebookProgress:
    """A listener that shows a run in the notebook's cell that runs it, and changes it in place.

        rlm = RLM("gpt-5-mini", listeners=[NotebookProgress()])

    It may hear any number of runs, one after the other or at once; each has a place of its own. A place changes at most
    once in `every` seconds, and when the run ends. Raises ImportError where IPython is not installed.
    """

    def __init__(self, *, every: float = 0.2, clock: Callable[[], float] = time.monotonic) -> None:
        if importlib.util.find_spec("IPython") is None:
            raise ImportError("IPython is not installed: pip install 'rlm-wasm[notebook]' brings what notebooks need")
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: dict[str, _Shown] = {}

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        with self._lock:
            if isinstance(event, RunStarted):
                above = self._shown.get(event.parent or "")
                self._shown[event.run] = above or _Shown(event)
            shown = self._shown.get(event.run)
            if shown is None:
                return
            shown.hear(event)
            ended = isinstance(event, RunStopped) and event.run == shown.root
            if ended or shown.drawn is None or self._clock() - shown.drawn >= self._every:
                shown.drawn = self._clock()
                shown.draw()
            if ended:
                self._shown = {run: other for run, other in self._shown.items() if other is not shown}


class _Shown:
    """What is shown of a run and its children, and where."""

    def __init__(self, started: RunStarted) -> None:
        self.root = started.run
        self.drawn: float | None = None
        self._question = started.question
        self._began = self._now = started.monotonic
        self._iteration = 0
        self._children = 0
        self._calls = 0
        self._under_way = 0
        self._tokens = 0
        self._usd: float | None = 0.0
        self._doing = "starting"
        self._code = ""
        self._place: _Place | None = None

    def hear(self, event: Event) -> None:
        self._now = max(self._now, event.monotonic)
        match event:
            case RunStarted(parent=parent) if parent is not None:
                self._children += 1
            case BudgetSpent():
                self._calls, self._usd = event.calls, event.usd
                self._tokens = event.input_tokens + event.output_tokens
            case CallStarted():
                self._under_way += 1
            case CallFinished():
                self._under_way -= 1
            case RunStopped() if event.run == self.root:
                self._doing = f"stopped by {event.stopped_by}"
                self._calls, self._usd = event.calls, event.usd
                self._tokens = event.input_tokens + event.output_tokens
            case _ if event.run == self.root:
                self._hear_of_root(event)
            case _:
                pass

    def _hear_of_root(self, event: Event) -> None:
        self._iteration = event.iteration
        match event:
            case RootAsked():
                self._doing = "asking the root model"
            case RootReplied():
                self._doing = "reading its reply"
            case CellStarted(code=code):
                self._doing, self._code = "running a cell", code
            case CellFinished():
                self._doing = "a cell has run"
            case _:
                pass

    def draw(self) -> None:
        waiting = f", {self._under_way:,} calls under way" if self._under_way > 0 else ""
        facts = {
            "iteration": str(self._iteration),
            "model calls": f"{self._calls:,}",
            "tokens": f"{self._tokens:,}",
            "dollars": dollars(self._usd),
            "seconds": f"{self._now - self._began:.1f}",
        }
        if self._children:
            facts["child runs"] = f"{self._children:,}"
        words = f"{self._question[:200]}: {self._doing}{waiting}"
        said = {"text/html": card(self._question, {"": f"{self._doing}{waiting}", **facts}, self._texts())}
        said["text/plain"] = ascii(words)[1:-1]
        if self._place is None:
            from IPython.display import DisplayHandle

            self._place = cast(_Place, DisplayHandle())
            self._place.display(said, raw=True)
        else:
            self._place.update(said, raw=True)

    def _texts(self) -> list[tuple[str, str]]:
        lines = self._code.strip().splitlines()
        return [("", "\n".join([*lines[:6], "\u2026"] if len(lines) > 7 else lines))] if lines else []
