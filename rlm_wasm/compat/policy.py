"""pyrlm-runtime's limits: `Policy`, its exceptions, and the clients that keep to what this runtime's `Limits` lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlm_wasm.clients import Client, Message, Reply
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.scripted import estimate_tokens
from rlm_wasm.compat.tracing import Trace
from rlm_wasm.errors import LimitExceeded
from rlm_wasm.limits import Limits
from rlm_wasm.trajectory import Completion


class PolicyError(RuntimeError):
    """A run was stopped before it had an answer. `trace` is what had happened by then, `completion` its record."""

    def __init__(self, message: str, trace: Trace | None = None, completion: Completion | None = None) -> None:
        super().__init__(message)
        self.trace = trace
        self.completion = completion


class MaxStepsExceeded(PolicyError):
    """`max_steps` was reached."""


class MaxSubcallsExceeded(PolicyError):
    """`max_subcalls` was reached."""


class MaxRecursionExceeded(PolicyError):
    """A call would have been deeper than `max_recursion_depth`."""


class MaxTokensExceeded(PolicyError):
    """`max_total_tokens` or `max_subcall_tokens` was reached."""


_RAISED = {
    "iterations": MaxStepsExceeded,
    "calls": MaxSubcallsExceeded,
    "depth": MaxRecursionExceeded,
    "tokens": MaxTokensExceeded,
}


def stopped(limit: str, trace: Trace, completion: Completion | None = None) -> PolicyError:
    """The exception for a run that a limit has ended without an answer."""
    return _RAISED.get(limit, PolicyError)(f"stopped without an answer, by its limit: {limit}", trace, completion)


@dataclass
class Policy:
    """What runs may take, and what they took: a policy that several runs are given is one budget for all of them.

    `max_steps` counts the root model's replies, `max_subcalls` the model calls from inside the sandbox, those of
    children included. `max_recursion_depth` is how deep calls may nest: 1 for sub models and children that have none
    of their own, 0 for no calls at all. None is no limit.
    """

    max_steps: int = 40
    max_subcalls: int = 200
    max_recursion_depth: int = 1
    max_total_tokens: int | None = None
    max_subcall_tokens: int | None = None
    steps: int = 0
    subcalls: int = 0
    total_tokens: int = 0
    subcall_tokens: int = 0

    def limits(self, depth: int) -> Limits:
        """What is left of it, for a run whose children nest `depth` deep. Raises the exception of what is used up."""
        if self.steps >= self.max_steps:
            raise MaxStepsExceeded("max_steps are used up")
        if self.subcalls >= self.max_subcalls:
            raise MaxSubcallsExceeded("max_subcalls are used up")
        tokens = None if self.max_total_tokens is None else self.max_total_tokens - self.total_tokens
        if tokens is not None and tokens <= 0:
            raise MaxTokensExceeded("max_total_tokens are used up")
        return Limits(
            iterations=self.max_steps - self.steps,
            calls=self.max_subcalls - self.subcalls,
            tokens=tokens,
            errors=None,  # as there: what bounds a run that only fails is max_steps
            depth=min(depth, self.max_recursion_depth),
        )

    def account(self, trace: Trace) -> None:
        """Enter what a run took."""
        kinds = [step.kind for step in trace.steps]
        self.steps += kinds.count("root_call")
        self.subcalls += sum(kinds.count(kind) for kind in ("subcall", "sub_subcall", "sub_root_call"))
        self.total_tokens += trace.tokens()
        self.subcall_tokens += trace.tokens("subcall", "sub_subcall", "sub_root_call")


class RootClient:
    """A root model's client: how much it may write, and how much of the conversation it is told again.

    The system message, the first message of the user's and the last exchange always are. `history`: whether more than
    that; `max_history_tokens`: about how much, the oldest going first (0 for all). Tokens are estimated.
    """

    def __init__(self, client: Client, *, max_output_tokens: int, history: bool, max_history_tokens: int) -> None:
        self._client = client
        self._max_output_tokens = max_output_tokens
        self._history = history
        self._max_history_tokens = max_history_tokens

    @property
    def model(self) -> str:
        """The wrapped client's."""
        return self._client.model

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask about what is remembered."""
        most = self._max_output_tokens if max_output_tokens is None else max_output_tokens
        return await self._client.complete(self.remembered(messages), max_output_tokens=most)

    def remembered(self, messages: Sequence[Message]) -> list[Message]:
        """The messages that are sent."""
        first, rest = list(messages[:2]), list(messages[2:])
        if not self._history:
            return first + rest[-2:]
        if self._max_history_tokens:
            # exchanges, so that two messages of one role never meet
            while len(rest) > 2 and _tokens(first + rest) > self._max_history_tokens:
                del rest[:2]
        return first + rest


def _tokens(messages: Sequence[Message]) -> int:
    return sum(estimate_tokens(message.content) for message in messages)


class SubClient:
    """A sub model's client, for one run: its instruction, how much it may write, and the limits on calls of it alone.

    `max_tokens` are those of all its calls together. Raises LimitExceeded where there are none left, or `allowed` says
    that there may be no calls at all.
    """

    def __init__(
        self, client: Client, *, instruction: str, max_output_tokens: int, max_tokens: int | None, allowed: bool
    ) -> None:
        self._client = client
        self._instruction = instruction
        self._max_output_tokens = max_output_tokens
        self._max_tokens = max_tokens
        self._allowed = allowed
        self._used = 0
        self._reserved = 0

    @property
    def model(self) -> str:
        """The wrapped client's."""
        return self._client.model

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask, within what is left."""
        if not self._allowed:
            raise LimitExceeded("depth", 1, 0)
        # a child's root model has an instruction of its own
        told = messages[0].role == "system"
        asked = list(messages) if told else [Message("system", self._instruction), *messages]
        expected = _tokens(asked)
        before = self._used + self._reserved
        if self._max_tokens is not None and before + expected > self._max_tokens:
            raise LimitExceeded("tokens", before, self._max_tokens)
        self._reserved += expected
        try:
            most = self._max_output_tokens if max_output_tokens is None else max_output_tokens
            reply = await self._client.complete(asked, max_output_tokens=most)
        finally:
            self._reserved -= expected
        self._used += reply.input_tokens + reply.output_tokens
        return reply
