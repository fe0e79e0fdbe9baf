"""Runs on disk: a folder for each, from which one whose host was ended goes on after its last finished iteration.

    STORE/RUN/asked.json     the question, the context, and what the run was set up with
    STORE/RUN/trace.jsonl    its events (`trace_file.py`)
    STORE/RUN/state.json     where it stands; written whole or not at all, after each iteration
    STORE/RUN/ID.checkpoint  the sandbox's memory, to which `state.json` refers
    STORE/RUN/summary.json   what is listed of it (`runs.py`)
    STORE/RUN/lock           held by the process that runs it

The state and the checkpoint of a run that is over are removed: its trace has all there is to know.

Folders can be entered by their owner alone. But for the trace nothing is left out of them: what a model was told and
what its cells hold is there as it is. Knows nothing of how a run goes.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from rlm_wasm import trace_file
from rlm_wasm.contexts import Context, kept, taken_up
from rlm_wasm.events import CallFinished, CallStarted, Event, IterationFinished, RootReplied, RunStarted, RunStopped
from rlm_wasm.limits import ModelUsage, Spent, Usage
from rlm_wasm.locks import lock
from rlm_wasm.prompts import Message
from rlm_wasm.sandbox import Checkpoint
from rlm_wasm.sandbox.values import decode, encode
from rlm_wasm.survival import Saved
from rlm_wasm.tables import Tables
from rlm_wasm.whole_file import written_whole
from rlm_wasm.windows import Exchange

ID = re.compile(r"[0-9a-f]{12}")

# characters of a question that are listed
_LISTED = 500

Kept = TypeVar("Kept")


class RunBusy(ValueError):
    """The run goes on in another process, or elsewhere in this one."""


class Asked(msgspec.Struct, frozen=True):
    """What a run is asked: `context` is a text as in `values.py`, `settings` those of `RunStarted` as such a text.

    `description` and `beside` are those of the context, the second as such a text too; `tables`: its value is a
    `Tables`, by its `to_value`.
    """

    question: str
    context: str
    settings: str
    description: str = ""
    beside: str = "{}"
    tables: bool = False

    @classmethod
    def of(cls, question: str, context: Context | None, settings: Mapping[str, Any]) -> Asked:
        """Raises TypeError for a context that has no form on disk."""
        held = context or Context(None, "")
        plain, tabular = encode(msgspec.to_builtins(dict(settings))), isinstance(held.value, Tables)
        value = held.value.to_value() if isinstance(held.value, Tables) else kept(held.value)
        return cls(question, encode(value), plain, held.description, encode(held.beside), tables=tabular)

    @property
    def prepared(self) -> Context:
        """The context."""
        value = decode(self.context)
        found = Tables.from_value(value) if self.tables else taken_up(value)
        return Context(found, self.description, decode(self.beside))


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands after `number` iterations: what was said, spent and done."""

    number: int
    opening: list[Message]
    exchanges: list[Exchange]
    history: list[tuple[str, str]]
    shortened: bool
    errors_in_a_row: int
    refused_literal: bool
    partial: str
    spent: Spent
    usage: dict[str, ModelUsage]
    calls: int
    cells: int
    repl: Saved
    checkpoint: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is listed of a run: the beginning of its question, how far it is and what it took so far.

    `began` is in seconds since 1970; `usd` is None where a price is not known; `stopped_by` is "" while it is not over.
    """

    question: str
    began: float
    iterations: int = 0
    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    stopped_by: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return bool(self.stopped_by)


class RunFolder:
    """The folder of one run, while it goes on: a context manager, in which nobody else can enter it.

    Raises RunBusy if it is entered by another, OSError where it cannot be had.
    """

    def __init__(self, store: Path, run: str) -> None:
        if not ID.fullmatch(run):
            raise ValueError(f"{run!r} is no id of a run: those have 12 of the characters 0-9 and a-f")
        self.run = run
        self.path = store / run
        self._checkpoint: Checkpoint | None = None
        self._name = ""
        self._lock: int | None = None
        self._summary: Summary | None = None

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}{' (locked)' if self._lock is not None else ''}>"

    def make(self, asked: Asked) -> None:
        """Make the folder of a run that begins."""
        self.path.mkdir(mode=0o700, parents=True)
        _write(self.path / "asked.json", msgspec.json.encode(asked))
        self._sum_up(Summary(question=asked.question[:_LISTED], began=time.time()))

    def __enter__(self) -> Self:
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no run {self.run} in {self.path.parent}")
        file = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(file)
        except OSError:
            os.close(file)
            raise RunBusy(f"run {self.run} goes on elsewhere already: wait for its end, or end that program") from None
        self._lock = file
        return self

    def __exit__(self, *exception: object) -> None:
        file, self._lock = self._lock, None
        if file is not None:
            os.close(file)

    @property
    def busy(self) -> bool:
        """Whether somebody is in it now."""
        if not (self.path / "lock").exists():
            return False
        try:
            with self:
                return False
        except RunBusy:
            return True

    @property
    def trace(self) -> Path:
        """The file of its events."""
        return self.path / "trace.jsonl"

    def asked(self) -> Asked:
        """What the run was asked. Raises ValueError for a file that is damaged."""
        return _read(self.path / "asked.json", Asked)

    def keep(self, state: State, checkpoint: Checkpoint | None) -> None:
        """Write down where the run stands. Raises OSError, ValueError for a text that cannot be written."""
        if checkpoint is not None and checkpoint is not self._checkpoint:
            # a name of its own: until the state is written, the one before must be what it says
            self._name = f"{uuid.uuid4().hex[:12]}.checkpoint"
            checkpoint.save(self.path / self._name)
            self._checkpoint = checkpoint
        _write(self.path / "state.json", msgspec.json.encode(msgspec.structs.replace(state, checkpoint=self._name)))
        self._clear(self._name)
        usage = Usage.of(state.usage)
        summary = msgspec.structs.replace(self.summary(), iterations=state.number, calls=usage.calls)
        self._sum_up(msgspec.structs.replace(summary, tokens=usage.tokens, usd=usage.usd))

    def close(self, stopped_by: str, iterations: int, usage: Usage, *, over: bool) -> None:
        """Write down how the run has ended: for good if it is `over`, else it can go on. Raises OSError, ValueError."""
        summary = msgspec.structs.replace(self.summary(), iterations=iterations, calls=usage.calls)
        ended = stopped_by if over else ""
        self._sum_up(msgspec.structs.replace(summary, tokens=usage.tokens, usd=usage.usd, stopped_by=ended))
        if over:
            self._clear()
            (self.path / "state.json").unlink(missing_ok=True)

    def _clear(self, but: str = "") -> None:
        """Remove the checkpoints, but for one."""
        for old in self.path.glob("*.checkpoint"):
            if old.name != but:
                old.unlink(missing_ok=True)

    def summary(self) -> Summary:
        """What is listed of it. Raises OSError, and ValueError for a file that is damaged."""
        if self._summary is None or self._lock is None:
            self._summary = _read(self.path / "summary.json", Summary)
        return self._summary

    def _sum_up(self, summary: Summary) -> None:
        self._summary = summary
        _write(self.path / "summary.json", msgspec.json.encode(summary))

    def stand(self) -> tuple[State, Checkpoint | None] | None:
        """Where the run stood; None if it has not finished an iteration. Raises ValueError for damaged files."""
        if not (self.path / "state.json").exists():
            return None
        state = _read(self.path / "state.json", State)
        self._name = state.checkpoint
        self._checkpoint = Checkpoint.load(self.path / Path(state.checkpoint).name) if state.checkpoint else None
        return state, self._checkpoint

    def events(self) -> list[Event]:
        """All that was written of the run."""
        return trace_file.read(self.trace) if self.trace.exists() else []


def is_over(events: Sequence[Event], run: str) -> bool:
    """Whether the run has ended for good. One that somebody stopped can go on, and one that failed of a provider."""
    ends = [event for event in events if isinstance(event, RunStopped) and event.run == run]
    return bool(ends) and ends_for_good(ends[-1].stopped_by, failed=ends[-1].failure is not None)


def ends_for_good(stopped_by: str, *, failed: bool) -> bool:
    """Whether a run that ended so cannot go on."""
    return not failed and stopped_by != "cancelled"


def until(events: Sequence[Event], run: str, number: int) -> tuple[list[Event], list[Event]]:
    """The events up to the end of the `number`-th iteration, and those after it.

    With 0, or the iteration from which the run branched off another, up to the run's beginning.
    """
    for place, event in enumerate(events):
        begun = isinstance(event, RunStarted) and number == (event.branch.iteration if event.branch else 0)
        done = isinstance(event, IterationFinished) and event.iteration == number
        if event.run == run and (begun or done):
            return list(events[: place + 1]), list(events[place + 1 :])
    raise ValueError(f"the trace of run {run} does not tell of its iteration {number}")


def paid(events: Sequence[Event]) -> tuple[dict[str, ModelUsage], int]:
    """What calls took that were answered in these events, by model, and how many were made for cells."""
    took: dict[str, ModelUsage] = {}
    models: dict[tuple[str, int], str] = {}
    inside = 0
    for event in events:
        if isinstance(event, CallStarted) and event.function == "llm_query":
            models[event.run, event.call] = event.model
            inside += 1
        if isinstance(event, CallFinished):
            name = models.get((event.run, event.call), "")
        elif isinstance(event, RootReplied):
            name = event.model
            inside += event.depth > 0
        else:
            continue
        if name:
            usage = ModelUsage(1, event.input_tokens, event.output_tokens, event.usd)
            took[name] = took.get(name, ModelUsage()) + usage
    return took, inside


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as file:
        file.write(content)


def _read(path: Path, kind: type[Kept]) -> Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is damaged, or of another version of rlm_wasm: {error}") from None
