"""What alexzhang13/rlm's `completion` gives and raises, made of this runtime's record."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from rlm_wasm.errors import LimitExceeded
from rlm_wasm.limits import ModelUsage, Usage
from rlm_wasm.trajectory import Call, Completion


class BudgetExceededError(LimitExceeded):
    """`max_budget` was reached: `spent` of `budget` US dollars."""

    @property
    def spent(self) -> float:
        """US dollars."""
        return self.used

    @property
    def budget(self) -> float:
        """US dollars."""
        return self.allowed

    @property
    def partial_answer(self) -> str | None:
        """The best answer from what had been seen, if there was one."""
        return _best(self)


class TimeoutExceededError(LimitExceeded):
    """`max_timeout` was reached: `elapsed` of `timeout` seconds."""

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return self.used

    @property
    def timeout(self) -> float:
        """Seconds."""
        return self.allowed

    @property
    def partial_answer(self) -> str | None:
        """The best answer from what had been seen, if there was one."""
        return _best(self)


class TokenLimitExceededError(LimitExceeded):
    """`max_tokens` was reached: `tokens_used` of `token_limit`."""

    @property
    def tokens_used(self) -> float:
        """Input and output tokens."""
        return self.used

    @property
    def token_limit(self) -> float:
        """Input and output tokens."""
        return self.allowed

    @property
    def partial_answer(self) -> str | None:
        """The best answer from what had been seen, if there was one."""
        return _best(self)


class ErrorThresholdExceededError(LimitExceeded):
    """`max_errors` iterations in a row have failed: `error_count` of `threshold`."""

    @property
    def error_count(self) -> float:
        """Iterations in a row."""
        return self.used

    @property
    def threshold(self) -> float:
        """Iterations in a row."""
        return self.allowed

    @property
    def partial_answer(self) -> str | None:
        """The best answer from what had been seen, if there was one."""
        return _best(self)


class CancellationError(LimitExceeded):
    """Somebody stopped the run."""

    @property
    def partial_answer(self) -> str | None:
        """The best answer from what had been seen, if there was one."""
        return _best(self)


_RAISED = {
    "usd": BudgetExceededError,
    "seconds": TimeoutExceededError,
    "tokens": TokenLimitExceededError,
    "errors": ErrorThresholdExceededError,
    "cancelled": CancellationError,
}


def _best(error: LimitExceeded) -> str | None:
    record = cast(Completion, error.partial)
    best = record.partial if record.response is None else record.response
    return None if best is None else _as_text(best)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


class ModelUsageSummary(msgspec.Struct, frozen=True):
    """What the calls of one model took; `total_cost` in US dollars, None if its price is not known."""

    total_calls: int
    total_input_tokens: int
    total_output_tokens: int
    total_cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a dict, without the cost if it is not known."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class UsageSummary(msgspec.Struct, frozen=True):
    """What a completion took, children included, by the names of the models."""

    model_usage_summaries: dict[str, ModelUsageSummary]
    total_cost: float | None = None

    @property
    def total_input_tokens(self) -> int:
        """Of all models."""
        return sum(each.total_input_tokens for each in self.model_usage_summaries.values())

    @property
    def total_output_tokens(self) -> int:
        """Of all models."""
        return sum(each.total_output_tokens for each in self.model_usage_summaries.values())

    def to_dict(self) -> dict[str, Any]:
        """As a dict, without the cost if it is not known."""
        by_model = {model: each.to_dict() for model, each in self.model_usage_summaries.items()}
        cost = {} if self.total_cost is None else {"total_cost": self.total_cost}
        return {"model_usage_summaries": by_model, **cost}


class RLMChatCompletion(msgspec.Struct, frozen=True):
    """An answer: `response` as text, `execution_time` in seconds; `completion_record` is this runtime's own record.

    `completion_record.response` has the answer with its Python type, `completion_record.trajectory` how it was found.
    `metadata` is that as a dict in the other system's words, where there was a logger.
    """

    root_model: str
    prompt: str | list[Any] | dict[Any, Any]
    response: str
    usage_summary: UsageSummary
    execution_time: float
    completion_record: Completion
    metadata: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that the other system has, as a dict."""
        return {
            "root_model": self.root_model,
            "prompt": self.prompt,
            "response": self.response,
            "usage_summary": self.usage_summary.to_dict(),
            "execution_time": self.execution_time,
        }


def result(
    prompt: str | list[Any] | dict[Any, Any], root_model: str, record: Completion, *, logged: bool = False
) -> RLMChatCompletion:
    """A completion as that system gives it, with `metadata` if `logged`. Raises the error above that it raises."""
    raised = _RAISED.get(record.stopped_by)
    if raised is not None:
        limit = record.limit
        used, allowed = (limit.used, limit.allowed) if limit else (record.seconds, record.seconds)
        raise raised(record.stopped_by, used, allowed, partial=record)
    return RLMChatCompletion(
        root_model=root_model,
        prompt=prompt,
        response="" if record.response is None else _as_text(record.response),
        usage_summary=_summary(record.usage),
        execution_time=record.seconds,
        completion_record=record,
        metadata=_metadata(root_model, record) if logged else None,
    )


def _metadata(root_model: str, record: Completion) -> dict[str, Any]:
    """The trajectory in the words of that system's logger, children inside."""
    iterations = [
        {
            "iteration": iteration.number,
            "response": iteration.reply,
            "code_blocks": [
                {
                    "code": cell.code,
                    "result": {
                        "stdout": cell.output,
                        "stderr": cell.error or "",
                        "execution_time": cell.executed.seconds if cell.executed else 0.0,
                    },
                }
                for cell in iteration.cells
            ],
            # which cell made a call is not kept
            "rlm_calls": [_called(call) for call in iteration.calls],
            "final_answer": None,
        }
        for iteration in record.trajectory
    ]
    if iterations and record.response is not None:
        iterations[-1]["final_answer"] = _as_text(record.response)
    return {"run_metadata": {"root_model": root_model, "stopped_by": record.stopped_by}, "iterations": iterations}


def _called(call: Call) -> dict[str, Any]:
    child = {} if call.child is None else {"metadata": _metadata(call.model, call.child)}
    error = {} if call.error is None else {"error": call.error}
    return {
        "root_model": call.model,
        "prompt": call.prompt,
        "response": call.reply,
        "prompt_tokens": call.input_tokens,
        "completion_tokens": call.output_tokens,
        "execution_time": call.seconds,
        **child,
        **error,
    }


def _summary(usage: Usage) -> UsageSummary:
    def of(used: ModelUsage) -> ModelUsageSummary:
        return ModelUsageSummary(used.calls, used.input_tokens, used.output_tokens, used.usd)

    return UsageSummary({model: of(used) for model, used in usage.by_model.items()}, usage.usd)
