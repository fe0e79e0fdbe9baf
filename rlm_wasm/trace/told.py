"""Runs as their events tell them, put together: prompts whole, cells with their calls. What exports are made of.

Unlike a `Completion` it keeps the times and the prompts. Knows no format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgspec

from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    IterationFinished,
    IterationStarted,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
)
from rlm_wasm.prompts import Message
from rlm_wasm.sandbox.values import well_formed
from rlm_wasm.secrets import Secrets


class ToldCall(msgspec.Struct):
    """A call of a cell; `child` is the run that answers it, where there is one."""

    started: CallStarted
    finished: CallFinished | None = None
    child: ToldRun | None = None


class ToldCell(msgspec.Struct):
    """A cell, and the calls that were begun while it ran."""

    started: CellStarted
    finished: CellFinished | None = None
    calls: list[ToldCall] = []


class Turn(msgspec.Struct):
    """A reply of the root model, what it was asked with, and the cells that followed; `ended` is None if it has no end.

    `replies` are all that were needed for it: summaries of what was said come before the last.
    """

    prompt: tuple[Message, ...] = ()
    asked: RootAsked | None = None
    replies: list[RootReplied] = []
    cells: list[ToldCell] = []
    ended: IterationFinished | RunStopped | None = None

    @property
    def reply(self) -> RootReplied:
        """The reply that was acted upon."""
        return self.replies[-1]

    @property
    def observation(self) -> str | None:
        """What the model was shown of it."""
        return self.ended.observation if isinstance(self.ended, IterationFinished) else None


class ToldRun:
    """A run. `look` are the cells that ran before the first iteration; `turns` grows when a turn has ended."""

    def __init__(self, started: RunStarted, path: tuple[str, ...]) -> None:
        self.started = started
        self.path = path
        """The ids of the runs around it, the root's first, and its own."""
        self.stopped: RunStopped | None = None
        self.look: list[ToldCell] = []
        self.turns: list[Turn] = []
        self._turn = Turn()
        self._prompt: list[Message] = []
        self._calls: dict[int, ToldCall] = {}

    def call(self, number: int | None) -> ToldCall | None:
        """The call of this number, which a child answers."""
        return None if number is None else self._calls.get(number)

    def hear(self, event: Event) -> None:
        """Take in what comes next."""
        match event:
            case IterationStarted():
                self.look += self._turn.cells if not self.turns else []
                self._turn = Turn()
            case RootAsked():
                self._prompt = [*self._prompt[: event.same], *event.messages]
                self._turn.asked = event
                self._turn.prompt = tuple(self._prompt)
            case RootReplied():
                self._turn.replies.append(event)
            case CellStarted():
                self._turn.cells.append(ToldCell(event))
            case CellFinished() if self._turn.cells:
                self._turn.cells[-1].finished = event
            case CallStarted() if self._turn.cells:
                self._calls[event.call] = ToldCall(event)
                self._turn.cells[-1].calls.append(self._calls[event.call])
            case CallFinished() if event.call in self._calls:
                self._calls[event.call].finished = event
            case IterationFinished() | RunStopped():
                self.end_turn(event)
                self.stopped = event if isinstance(event, RunStopped) else None
            case _:
                pass

    def end_turn(self, event: IterationFinished | RunStopped | None) -> None:
        """Enter what was said and done since the last end, if a reply was had."""
        if self._turn.replies:
            self._turn.ended = event
            self.turns.append(self._turn)
        self._turn = Turn()


def follow(events: Iterable[Event]) -> Iterator[tuple[Event, ToldRun]]:
    """Each event with its run, which has heard it. Runs that were cut off have their last turn after the last event."""
    runs: dict[str, ToldRun] = {}
    for event in events:
        if isinstance(event, RunStarted):
            parent = runs.get(event.parent or "")
            runs[event.run] = run = ToldRun(event, (*(parent.path if parent else ()), event.run))
            if parent is not None and (call := parent.call(event.call)) is not None:
                call.child = run
        if event.run in runs:
            runs[event.run].hear(event)
            yield event, runs[event.run]
    for run in runs.values():
        if run.stopped is None:
            run.end_turn(None)


def together(events: Iterable[Event]) -> dict[str, ToldRun]:
    """All runs by their ids, in the order in which they began."""
    return {run.started.run: run for _, run in follow(events)}


def code_of(reply: RootReplied) -> str:
    """The text of a reply, with the code that it gave to the native tool in fences."""
    calls = (f"```repl\n{call.code}\n```" for call in reply.calls)
    return "\n\n".join(part for part in (reply.text, *calls) if part)


def as_json(value: object) -> object:
    """A value as other programs read it: tuples and sets as lists, and what JSON has no word for as the `repr`."""
    try:
        # NaN becomes null, which every parser takes
        return json.loads(msgspec.json.encode(value, enc_hook=repr))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return repr(value)


def line(fields: dict[str, object], secrets: Secrets) -> str:
    """A JSON object as one line of text that every parser takes, without secrets."""
    return well_formed(json.dumps(secrets.hide_in(fields), ensure_ascii=False, default=repr))
