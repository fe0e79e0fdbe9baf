"""The record of a run: what was asked, run, seen and spent, in order, with its children inside.

Pure data: the loop and the bridge fill it in, callers and traces read it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from rlm_wasm.cards import card, dollars, text_of
from rlm_wasm.citations import Citation
from rlm_wasm.errors import LimitExceeded
from rlm_wasm.limits import Usage
from rlm_wasm.sandbox import Executed

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


class Iteration(msgspec.Struct, frozen=True, kw_only=True):
    """One reply of the root model, its cells, the calls that they made, and what the model was then shown."""

    number: int
    reply: str
    input_tokens: int
    output_tokens: int
    cells: tuple[CellRun, ...]
    calls: tuple[Call, ...]
    observation: str | None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One whole run, from question to answer.

    `response` is the answer: what the code gave to FINAL with its type, or the type asked for; None if the run was
    stopped before it had one. `stopped_by` is "final", or the limit that ended it. After a stop other than "final",
    `response` is the best answer that the model could give from what it had seen, if there was one, and `partial` what
    else came nearest (a refused FINAL, a reply that did not fit the type). `usage` includes the children's, `seconds`
    is by the clock. `citations` are the passages that the answer is said to rest on, each looked for in the context.
    """

    question: str
    response: Any
    stopped_by: StoppedBy
    usage: Usage
    trajectory: tuple[Iteration, ...]
    seconds: float
    run: str
    depth: int = 0
    partial: Any = None
    limit: LimitExceeded | None = None
    citations: tuple[Citation, ...] = ()

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
