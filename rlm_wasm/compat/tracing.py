"""pyrlm-runtime's trace and events, made of this runtime's events as they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from rlm_wasm.compat.adapters import Usage
from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    HistoryShortened,
    RootReplied,
    RunStarted,
)

Kind = Literal[
    "root_call",
    "repl_exec",
    "subcall",
    "recursive_subcall",
    "sub_root_call",
    "sub_repl_exec",
    "sub_subcall",
    "baseline_call",
    "compaction",
]
# characters of a prompt that a step shows
_SUMMARY = 200


class TraceStep(msgspec.Struct, kw_only=True):
    """One step: a reply of a root model, a cell, or a call of a sub model or child. `elapsed` is in seconds."""

    step_id: int
    kind: Kind
    depth: int = 0
    prompt_summary: str | None = None
    code: str | None = None
    output: str | None = None
    stdout: str | None = None
    error: str | None = None
    usage: Usage | None = None
    model: str | None = None
    elapsed: float | None = None
    cache_hit: bool = False
    input_hash: str | None = None
    output_hash: str | None = None
    cache_key: str | None = None
    parallel_group_id: str | None = None
    parallel_index: int | None = None
    parallel_total: int | None = None


class Trace(msgspec.Struct):
    """The steps of a run and its children, in the order in which they ended."""

    steps: list[TraceStep] = msgspec.field(default_factory=list[TraceStep])

    def add(self, step: TraceStep) -> None:
        """Put a step behind the others."""
        self.steps.append(step)

    def to_json(self) -> str:
        """The steps as a JSON list."""
        return msgspec.json.format(msgspec.json.encode(self.steps), indent=2).decode()

    @classmethod
    def from_json(cls, raw: str) -> Trace:
        """The trace of which `to_json` made a text. Raises msgspec.DecodeError for anything else."""
        return cls(msgspec.json.decode(raw, type=list[TraceStep]))

    def tokens(self, *kinds: Kind) -> int:
        """The tokens of all steps of these kinds; of all model calls without any.

        A child's tokens are in its own steps, and not counted a second time in the call that made it.
        """
        own = [step for step in self.steps if (step.kind in kinds if kinds else step.kind != "recursive_subcall")]
        return sum(step.usage.total_tokens for step in own if step.usage)


class RLMEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener is given: a run has begun, a step is done, the run is over. `elapsed` is in seconds."""

    kind: Literal["run_started", "step_completed", "run_finished"]
    query: str | None = None
    step: TraceStep | None = None
    context_metadata: Mapping[str, Any] | None = None
    repl_backend: str | None = None
    output: str | None = None
    total_steps: int | None = None
    tokens_used: int | None = None
    elapsed: float | None = None


class RLMEventListener(Protocol):
    """Whoever wants to hear them."""

    def handle(self, event: RLMEvent) -> object: ...


class Tracing:
    """A listener of this runtime's events that writes `trace`, and tells `listener` of each step."""

    def __init__(self, query: str, listener: RLMEventListener | None = None) -> None:
        self.trace = Trace()
        self._query = query
        self._listener = listener
        self._runs: dict[str, RunStarted] = {}
        self._cells: dict[str, str] = {}
        self._calls: dict[tuple[str, int], CallStarted] = {}

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        match event:
            case RunStarted():
                self._runs[event.run] = event
            case CellStarted():
                self._cells[event.run] = event.code
            case CallStarted():
                self._calls[event.run, event.call] = event
            case RootReplied():
                self._add(self._root_call(event))
            case CellFinished():
                self._add(self._cell(event))
            case HistoryShortened():
                shortened = f"{event.way}: {event.tokens_before} tokens became {event.tokens_after}"
                self._add(self._step("compaction", event, output=shortened, model=self._runs[event.run].model))
            case CallFinished():
                self._add(self._call(event, self._calls.pop((event.run, event.call))))
            case _:
                pass

    def _add(self, step: TraceStep) -> None:
        self.trace.add(step)
        if self._listener is not None:
            self._listener.handle(RLMEvent(kind="step_completed", query=self._query, step=step))

    def _step(self, kind: Kind, event: Event, **fields: Any) -> TraceStep:
        return TraceStep(step_id=len(self.trace.steps) + 1, kind=kind, depth=event.depth, **fields)

    def _root_call(self, event: RootReplied) -> TraceStep:
        run = self._runs[event.run]
        # a plain call has no iterations
        kind: Kind = "sub_root_call" if event.depth else "root_call" if event.iteration else "baseline_call"
        return self._step(
            kind,
            event,
            prompt_summary=run.question[:_SUMMARY],
            output=event.text,
            usage=Usage.of(event.input_tokens, event.output_tokens),
            model=run.model,
            elapsed=event.seconds,
        )

    def _cell(self, event: CellFinished) -> TraceStep:
        return self._step(
            "sub_repl_exec" if event.depth else "repl_exec",
            event,
            code=self._cells.pop(event.run, None),
            stdout=event.output,
            error=event.error,
            elapsed=event.seconds,
        )

    def _call(self, event: CallFinished, asked: CallStarted) -> TraceStep:
        tokens = event.input_tokens + event.output_tokens
        kind: Kind = "sub_subcall" if event.depth else "subcall"
        step = self._step(
            "recursive_subcall" if asked.function == "rlm_query" else kind,
            event,
            prompt_summary=asked.prompt[:_SUMMARY],
            output=event.reply or None,
            error=event.error,
            usage=Usage.of(event.input_tokens, event.output_tokens),
            model=asked.model,
            elapsed=event.seconds,
            # what was paid for has tokens
            cache_hit=event.error is None and tokens == 0,
            parallel_total=asked.of if asked.of > 1 else None,
        )
        # it is one deeper than the cell that made it
        step.depth += 1
        return step
