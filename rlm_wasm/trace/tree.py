"""Runs that are under way, as a tree to be drawn: what happened so far, cut to what can be shown.

Fed one event after the other; what an event costs and what is kept have bounds that no run can move. Knows nothing
of terminals. Its texts are not escaped yet.
"""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Callable

import msgspec

from rlm_wasm.events import (
    BudgetSpent,
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    FunctionCalled,
    HistoryShortened,
    IterationFinished,
    Printed,
    RootAsked,
    RootReplied,
    RootStreamed,
    RunStarted,
    RunStopped,
    SandboxReplaced,
)

# what is kept of one text; more than fits the largest window
_CHARS = 12_000
_STEPS = 100  # of a run
_CELLS = 12  # of an iteration
_KINDS = 12  # of calls, of a cell
_OPEN = 64  # calls that are told apart while they are under way

# of a large answer the beginning, at the cost of the beginning
_SHORT = reprlib.Repr()
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 20
_SHORT.maxstring, _SHORT.maxother = 200, 500


class Calls(msgspec.Struct):
    """Calls of one function and one model by a cell: one batch of `of`, or any number of single ones."""

    function: str
    model: str
    of: int
    prompt: str = ""
    begun: int = 0
    finished: int = 0
    failed: int = 0
    seconds: float = 0.0
    said: str = ""
    children: dict[int, RunNode] = {}

    @property
    def under_way(self) -> int:
        """How many have begun and not ended."""
        return self.begun - self.finished


class CellNode(msgspec.Struct):
    """A cell. `printed` is the end of what it printed while it runs, and the beginning once it has ended."""

    code: str
    printed: str = ""
    error: str | None = None
    seconds: float | None = None
    calls: list[Calls] = []


class Step(msgspec.Struct):
    """An iteration. `doing` is "asking", "writing", "running" or "" once it is over; `since` is when it began."""

    number: int
    since: float
    doing: str = "asking"
    written: str = ""
    said: str = ""
    seconds: float | None = None
    cells: list[CellNode] = []
    notes: list[str] = []


class RunNode(msgspec.Struct):
    """A run. `spent` is the last that was told of the budget of its whole tree, at `spent_at`; at the root alone."""

    started: RunStarted
    since: float
    parent: RunNode | None = None
    steps: deque[Step] = msgspec.field(default_factory=lambda: deque(maxlen=_STEPS))
    steps_before: int = 0
    spent: BudgetSpent | None = None
    spent_at: float = 0.0
    stopped: RunStopped | None = None
    open_calls: dict[int, Calls] = {}

    @property
    def root(self) -> RunNode:
        """The run at the root of its tree."""
        return self if self.parent is None else self.parent.root


class Tree:
    """The runs that have begun and were not taken out. `clock` gives seconds; what happens, happens when it is told."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: dict[str, RunNode] = {}
        self.roots: dict[str, RunNode] = {}

    def take_out(self, run: str) -> RunNode | None:
        """Forget the tree of a root, and give it."""
        root = self.roots.pop(run, None)
        if root is not None:
            self._runs = {name: node for name, node in self._runs.items() if node.root is not root}
        return root

    def add(self, event: Event) -> None:
        """Enter an event. One of a run whose beginning was not heard is of no use, and passed over."""
        if isinstance(event, RunStarted):
            self._begin(event)
            return
        run = self._runs.get(event.run)
        if run is None:
            return
        match event:
            case BudgetSpent():
                run.root.spent, run.root.spent_at = event, self._clock()
            case CallFinished():
                _finish_call(run, event)
            case RunStopped():
                self._end(run, event)
            case _:
                self._add_to_step(run, event)

    def _begin(self, event: RunStarted) -> None:
        parent = None if event.parent is None else self._runs.get(event.parent)
        if event.parent is not None and parent is None:
            return
        lean = msgspec.structs.replace(event, context_value=None, question=event.question[:_CHARS])
        node = self._runs[event.run] = RunNode(lean, self._clock(), parent)
        if parent is None:
            self.roots[event.run] = node
        elif event.call in parent.open_calls:
            calls = parent.open_calls[event.call]
            if len(calls.children) < _OPEN:
                calls.children[event.call] = node

    def _end(self, run: RunNode, event: RunStopped) -> None:
        run.stopped = msgspec.structs.replace(
            event, response=_as_text(event.response), partial=_as_text(event.partial), citations=()
        )
        if run.parent is not None:
            # its place in the tree is with its call, until that ends
            self._runs.pop(event.run, None)

    def _add_to_step(self, run: RunNode, event: Event) -> None:
        step = self._step(run, event.iteration)
        match event:
            case RootAsked():
                step.doing, step.written = "asking", ""
            case RootStreamed():
                step.doing = "writing"
                step.written = "" if event.text is None else (step.written + event.text)[-_CHARS:]
            case RootReplied():
                step.doing, step.written, step.said = "running", "", event.text[:_CHARS]
            case CellStarted():
                step.doing = "running"
                step.cells.append(CellNode(event.code[:_CHARS]))
                del step.cells[:-_CELLS]
            case Printed() if step.cells:
                step.cells[-1].printed = (step.cells[-1].printed + event.text)[-_CHARS:]
            case CellFinished() if step.cells:
                cell = step.cells[-1]
                cell.printed, cell.seconds = event.output[:_CHARS], event.seconds
                cell.error = None if event.error is None else event.error[-_CHARS:]
            case CallStarted():
                _begin_call(run, step, event)
            case FunctionCalled():
                _add_function(step, event)
            case SandboxReplaced():
                step.notes = [f"sandbox replaced: {event.reason[:_CHARS]}"]
            case HistoryShortened():
                step.notes = [f"messages {event.way}: {event.tokens_before:,} tokens to {event.tokens_after:,}"]
            case IterationFinished():
                step.doing, step.written, step.seconds = "", "", event.seconds
            case _:
                pass

    def _step(self, run: RunNode, number: int) -> Step:
        if not run.steps or run.steps[-1].number != number:
            run.steps_before += len(run.steps) == _STEPS
            run.steps.append(Step(number, self._clock()))
        return run.steps[-1]


def _begin_call(run: RunNode, step: Step, event: CallStarted) -> None:
    if step.cells:
        calls = run.open_calls[event.call] = _kind(step.cells[-1], event.function, event.model, event.of)
        calls.prompt = calls.prompt or event.prompt[:_CHARS]
        calls.begun += 1


def _add_function(step: Step, event: FunctionCalled) -> None:
    """A host function is told of when it has ended."""
    if step.cells:
        calls = _kind(step.cells[-1], event.function, "", 1)
        calls.begun += 1
        calls.finished += 1
        calls.failed += event.error is not None
        calls.seconds += event.seconds
        calls.said = (event.error or "")[:_CHARS]


def _kind(cell: CellNode, function: str, model: str, of: int) -> Calls:
    """Where a call belongs that begins now: a batch that is not full, the single ones of its kind, or something new."""
    for calls in reversed(cell.calls):
        if (calls.function, calls.model, calls.of) == (function, model, of) and (of == 1 or calls.begun < of):
            return calls
    cell.calls.append(Calls(function, model, of))
    del cell.calls[:-_KINDS]
    return cell.calls[-1]


def _finish_call(run: RunNode, event: CallFinished) -> None:
    calls = run.open_calls.pop(event.call, None)
    if calls is None:
        return
    calls.finished += 1
    calls.failed += event.error is not None
    calls.seconds = max(calls.seconds, event.seconds)
    calls.said = (event.reply if event.error is None else event.error)[:_CHARS]
    calls.children.pop(event.call, None)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else value[:_CHARS]
    return _SHORT.repr(value)[:_CHARS]
