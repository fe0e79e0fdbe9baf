"""The record of a run: what was asked, run, seen and spent, in order, with its children inside.

Data: the loop and the bridge fill it in, or it is made again of a run's events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import msgspec

from rlm_wasm import trace_file
from rlm_wasm.cards import card, dollars, text_of
from rlm_wasm.citations import Citation
from rlm_wasm.errors import LimitExceeded
from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    IterationFinished,
    IterationStarted,
    Printed,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
)
from rlm_wasm.limits import ModelUsage, Usage
from rlm_wasm.sandbox import Executed, Sandbox
from rlm_wasm.secrets import Secrets

if TYPE_CHECKING:
    from rlm_wasm.branches import Moment

# of a trajectory's card: iterations, and characters of the code and of the output of each
_SHOWN_ITERATIONS, _SHOWN_CHARS = 12, 1000

StoppedBy = Literal["final", "iterations", "seconds", "tokens", "usd", "calls", "errors", "cancelled"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a cell to a sub model or a child.

    `number` counts the calls of a run from 1. `function` is "llm_query" or "rlm_query"; `error` is None if it was
    answered; `seconds` is how long it took, its wait for a free place included; `child` is the child's run where there
    was one.
    """

    number: int = 0
    function: str
    model: str
    prompt: str
    reply: str = ""
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    child: Completion | None = None


class CellRun(msgspec.Struct, frozen=True, kw_only=True):
    """One cell and what became of it; `executed` is None if it was lost with its sandbox, and `error` says how."""

    code: str
    executed: Executed | None
    output: str
    error: str | None


class Iteration(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One reply of the root model, its cells, the calls that they made, and what the model was then shown.

    One that ran in this program can be forked: it holds where the run stood after it, and with that the context.
    """

    number: int
    reply: str
    input_tokens: int
    output_tokens: int
    cells: tuple[CellRun, ...]
    calls: tuple[Call, ...]
    observation: str | None

    def hold(self, moment: Moment) -> None:
        """Remember where the run stood after it. That is no part of the record: it is not compared, and not written."""
        vars(self)["moment"] = moment

    @property
    def moment(self) -> Moment:
        """Where the run stood after it. Raises ValueError if that is not known: of a trace, say."""
        known = vars(self).get("moment")
        if known is None:
            raise ValueError(
                f"iteration {self.number} cannot be forked: it was not run to its end in this program, or it is a copy "
                "(of a trace, a pickle, a completion of a store)"
            )
        return known

    def fork(self) -> AbstractAsyncContextManager[Sandbox]:
        """A live sandbox as it was after this iteration, to look into; `RLM.branch` goes on from there with a model.

            async with done.trajectory[2].fork() as sandbox:
                print((await sandbox.execute("rows[:3]")).value)

        Its cells are run again with the answers that they had, or it comes from a checkpoint that was kept; nothing is
        asked or paid. In it the functions of models raise, the caller's own are called. Raises ValueError that says why
        where it cannot be had again as it was, and SandboxStartError.
        """
        return self.moment.fork()


class Trajectory(tuple[Iteration, ...]):
    """The iterations of a run in order, as a tuple, and what they were made of.

    done.trajectory.save("run.jsonl")
    Trajectory.load("run.jsonl").completion   # the same completion once more, children inside
    """

    def __new__(
        cls,
        iterations: Iterable[Iteration] = (),
        *,
        run: str = "",
        events: Sequence[Event] = (),
        secrets: Secrets | None = None,
    ) -> Self:
        made = super().__new__(cls, iterations)
        made.run = run
        made._told, made._secrets = events, secrets
        return made

    run: str
    """The run's id."""
    _told: Sequence[Event]
    _secrets: Secrets | None

    @classmethod
    def load(cls, path: str | Path, run: str | None = None) -> Trajectory:
        """The trajectory of the last root run of a trace, or of the one whose id is `run`.

        Structs and models that were answers are dicts; what has no form in a trace is the text of its `repr`. Raises
        FileNotFoundError, and ValueError for a file that is damaged, of a later format, or without such a run.
        """
        told = trace_file.read(path)
        began = [event for event in told if isinstance(event, RunStarted)]
        chosen = [event.run for event in began if (event.parent is None if run is None else event.run == run)]
        if not chosen:
            known = ", ".join(event.run for event in began) or "none"
            raise ValueError(f"{path} holds no run{'' if run is None else f' {run}'}; the runs in it are: {known}")
        return rebuild(told, chosen[-1]).trajectory

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of this run and its children, in order; none of what is shown for a moment alone."""
        family = {self.run}
        for event in self._told:
            if event.parent in family:
                family.add(event.run)
        return tuple(event for event in self._told if event.run in family)

    @property
    def cut_off(self) -> bool:
        """Whether the run's end is not in its events: the program that ran it was ended, or runs still."""
        ended = any(isinstance(event, RunStopped) and event.run == self.run for event in self._told)
        return bool(self._told) and not ended

    @property
    def completion(self) -> Completion:
        """The whole completion, made again of the events. Raises ValueError if there are none. See `rebuild`."""
        return rebuild(self._told, self.run)

    def _repr_html_(self) -> str:
        """What a notebook shows: of each iteration its code and what came of it, the last ones where there are many."""
        left = max(0, len(self) - _SHOWN_ITERATIONS)
        texts: list[tuple[str, str]] = [("", f"{left:,} earlier iterations are not shown")] if left else []
        for iteration in self[left:]:
            cells = "\n\n".join(cell.code for cell in iteration.cells)
            came = "\n".join(f"{cell.output}{cell.error or ''}" for cell in iteration.cells).strip()
            calls = f", {len(iteration.calls):,} calls" if iteration.calls else ""
            shown = [part[:_SHOWN_CHARS] for part in (cells or iteration.reply, came) if part]
            texts.append((f"iteration {iteration.number}{calls}", "\n\n".join(shown)))
        calls = sum(len(iteration.calls) for iteration in self)
        return card("trajectory", {"iterations": f"{len(self):,}", "calls of cells": f"{calls:,}"}, texts)

    def save(self, path: str | Path) -> None:
        """Write the events as a trace, in the place of a file that is there; secrets are left out of it.

        Of a run that went on from another, what it went on from is written before it.
        """
        trace_file.save(path, [*self._origins(), *self.events], self._secrets)

    def _origins(self) -> list[Event]:
        begun = (event for event in self._told if isinstance(event, RunStarted) and event.run == self.run)
        branch = next((event.branch for event in begun), None)
        if branch is None:
            return []
        origin = Trajectory(run=branch.run, events=self._told)
        return [*origin._origins(), *origin.events]


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One whole run, from question to answer.

    `response` is the answer: what the code gave to FINAL with its type, or the type asked for; None if the run was
    stopped before it had one. `stopped_by` is "final", or the limit that ended it. After a stop other than "final",
    `response` is the best answer that the model could give from what it had seen, if there was one, and `partial` what
    else came nearest (a refused FINAL, a reply that did not fit the type). `usage` includes the children's, `seconds`
    is by the clock. `citations` are the passages that the answer is said to rest on, each looked for in the context.
    `samples` are all the runs that were made of the question where there were several, this one among them; `usage` is
    then that of all, and of the judge's call.
    """

    question: str
    response: Any
    stopped_by: StoppedBy
    usage: Usage
    trajectory: Trajectory
    seconds: float
    run: str
    depth: int = 0
    partial: Any = None
    limit: LimitExceeded | None = None
    citations: tuple[Citation, ...] = ()
    samples: tuple[Completion, ...] = ()

    @property
    def children(self) -> tuple[Completion, ...]:
        """The runs of `rlm_query`, in the order in which they were answered."""
        calls = (call for iteration in self.trajectory for call in iteration.calls)
        return tuple(call.child for call in calls if call.child is not None)

    def raise_for_stop(self) -> Completion:
        """Itself if `stopped_by` is "final"; otherwise raises LimitExceeded, whose `partial` is this completion."""
        if self.stopped_by == "final":
            return self
        if self.limit is not None:
            raise LimitExceeded(self.limit.limit, self.limit.used, self.limit.allowed, partial=self)
        # somebody stopped it: there is no figure that was passed
        raise LimitExceeded(self.stopped_by, self.seconds, self.seconds, partial=self)

    def report(self, path: str | Path) -> None:
        """Write one HTML file that shows the run: its answer and cost, a timeline, every reply, cell and call.

        It loads nothing and can be opened anywhere. Raises OSError.
        """
        from rlm_wasm.trace import html

        html.report(self.trajectory.events, path)

    def _repr_html_(self) -> str:
        """What a notebook shows: the question, the answer, what ended the run and what it took."""
        usage, found = self.usage, sum(citation.found for citation in self.citations)
        facts = {
            "stopped by": self.stopped_by,
            "seconds": f"{self.seconds:.1f}",
            "iterations": f"{len(self.trajectory):,}",
            "model calls": f"{usage.calls:,}",
            "tokens": f"{usage.input_tokens:,} in, {usage.output_tokens:,} out",
            "dollars": dollars(usage.usd),
        }
        if self.children:
            facts["child runs"] = f"{len(self.children):,}"
        if self.citations:
            facts["citations"] = f"{found:,} of {len(self.citations):,} found in the context"
        answer = ("", text_of(self.response)) if self.response is not None else ("no answer", text_of(self.partial))
        return card(self.question, facts, [answer])


def rebuild(told: Sequence[Event], run: str) -> Completion:
    """The completion of a run, made of the events of it and its children.

    It equals the one that the run gave. A run that was cut off comes as far as it went: `stopped_by` is "cancelled",
    the usage is that of the calls that were answered, and an `error` says so of the cell and the calls that were under
    way. Raises ValueError if the run's beginning is not among the events.
    """
    tales: dict[str, _Tale] = {}
    for event in told:
        if isinstance(event, RunStarted):
            tale = tales[event.run] = _Tale(event)
            if event.parent in tales:
                tales[event.parent].children.append(tale)
            if event.branch is not None and event.branch.run in tales:
                tale.begin_after(tales[event.branch.run], event.branch.iteration)
        if event.run in tales:
            tales[event.run].hear(event)
    if run not in tales:
        raise ValueError(f"there is no beginning of a run {run!r} among the events")
    return tales[run].completion(told)


class _Turn(msgspec.Struct):
    """An iteration as it is told: its reply, and what was run and asked by then."""

    reply: RootReplied | None = None
    cells: list[CellRun] = []
    calls: list[tuple[CallStarted, CallFinished | None]] = []
    observation: str | None = None


class _Tale:
    """A run as its events tell it."""

    def __init__(self, begun: RunStarted) -> None:
        self.children: list[_Tale] = []
        self._begun, self._last = begun, begun.monotonic
        self._stopped: RunStopped | None = None
        self._turns: list[_Turn] = []
        self._turn = _Turn()
        self._cell: CellStarted | None = None
        self._printed: list[str] = []
        self._open: dict[int, CallStarted] = {}
        self._usage = Usage()
        self._before: tuple[_Tale, int] | None = None

    def begin_after(self, other: _Tale, iteration: int) -> None:
        """It goes on from another, after so many of its iterations."""
        self._before = other, iteration

    def _iterations(self, told: Sequence[Event]) -> list[Iteration]:
        before: list[Iteration] = []
        if self._before is not None:
            other, upto = self._before
            before = other._iterations(told)[:upto]
        first = 1 if self._begun.branch is None else self._begun.branch.iteration + 1
        return before + [self._iteration(number, turn, told) for number, turn in enumerate(self._turns, start=first)]

    def hear(self, event: Event) -> None:
        """Hear what comes next."""
        self._last = event.monotonic
        match event:
            case IterationStarted() | RootAsked():
                # what was asked before was a summary, or never answered; a cell before was a first look
                self._turn.reply, self._turn.cells = None, []
            case RootReplied():
                self._turn.reply = event
                self._took(self._begun.model, event)
            case CellStarted():
                self._cell, self._printed = event, []
            case Printed():
                self._printed.append(event.text)
            case CellFinished() if self._cell is not None:
                self._turn.cells.append(_cell_run(self._cell.code, event))
                self._cell = None
            case CallStarted():
                self._open[event.call] = event
            case CallFinished() if event.call in self._open:
                asked = self._open.pop(event.call)
                self._turn.calls.append((asked, event))
                if event.error is None and asked.function == "llm_query":
                    self._took(asked.model, event)
            case IterationFinished():
                self._close(event.observation)
            case RunStopped():
                self._close(None)
                self._stopped = event
            case _:
                pass

    def _took(self, model: str, event: RootReplied | CallFinished) -> None:
        took = ModelUsage(1, event.input_tokens, event.output_tokens, event.usd)
        self._usage += Usage.of({model: took})

    def _close(self, observation: str | None) -> None:
        """Enter an iteration, if there is a reply that makes one; calls that ended without one are of the next."""
        if self._turn.reply is not None:
            self._turn.observation = observation
            self._turns.append(self._turn)
            self._turn = _Turn()
        self._turn.cells = []

    def _call(self, asked: CallStarted, finished: CallFinished | None, told: Sequence[Event]) -> Call:
        children = (tale for tale in self.children if tale._begun.call == asked.call)
        child = next((tale.completion(told) for tale in children), None)
        call = Call(number=asked.call, function=asked.function, model=asked.model, prompt=asked.prompt, child=child)
        if finished is None:
            return msgspec.structs.replace(call, error=_CUT_OFF, seconds=self._last - asked.monotonic)
        fields = ("reply", "error", "input_tokens", "output_tokens", "seconds")
        return msgspec.structs.replace(call, **{name: getattr(finished, name) for name in fields})

    def _iteration(self, number: int, turn: _Turn, told: Sequence[Event]) -> Iteration:
        assert turn.reply is not None
        return Iteration(
            number=number,
            reply=turn.reply.text,
            input_tokens=turn.reply.input_tokens,
            output_tokens=turn.reply.output_tokens,
            cells=tuple(turn.cells),
            calls=tuple(self._call(*call, told) for call in turn.calls),
            observation=turn.observation,
        )

    def completion(self, told: Sequence[Event]) -> Completion:
        """What the run came to; `told` are all events."""
        if self._stopped is None:
            self._cut_off()
        begun, stopped = self._begun, self._stopped
        usage = self._spent() if stopped is None else Usage.of(stopped.by_model)
        iterations = self._iterations(told)
        limit = None if stopped is None or stopped.limit is None else LimitExceeded(*stopped.limit)
        return Completion(
            question=begun.question,
            response=None if stopped is None else stopped.response,
            stopped_by="cancelled" if stopped is None else cast(StoppedBy, stopped.stopped_by),
            usage=usage,
            trajectory=Trajectory(iterations, run=begun.run, events=told),
            seconds=self._last - begun.monotonic if stopped is None else stopped.seconds,
            run=begun.run,
            depth=begun.depth,
            partial=None if stopped is None else stopped.partial,
            limit=limit,
            citations=() if stopped is None else stopped.citations,
        )

    def _cut_off(self) -> None:
        """End what was under way where the events end."""
        if self._cell is not None:
            output = "".join(self._printed)
            self._turn.cells.append(CellRun(code=self._cell.code, executed=None, output=output, error=_CUT_OFF))
            self._cell = None
        self._turn.calls += [(asked, None) for asked in self._open.values()]
        self._open.clear()
        self._close(None)

    def _spent(self) -> Usage:
        return sum((child._spent() for child in self.children), self._usage)


_CUT_OFF = "(the trace ends before this does)"


def _cell_run(code: str, event: CellFinished) -> CellRun:
    if not event.ran:
        return CellRun(code=code, executed=None, output=event.output, error=event.error)
    own = {field: getattr(event, field) for field in Executed.__struct_fields__ if field not in ("stdout", "stderr")}
    stdout = event.output if event.stdout is None else event.stdout
    executed = Executed(stdout=stdout, stderr=event.stderr or "", **own)
    return CellRun(code=code, executed=executed, output=event.output, error=event.error)
