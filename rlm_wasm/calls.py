"""One call of a cell to the host, from its start to its end: as events, and in the trajectory.

Decides what of a failure a cell may know. Makes no call itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from rlm_wasm.clients.protocol import Reply
from rlm_wasm.errors import ClientError, FunctionError
from rlm_wasm.events import CallFinished, CallStarted, Emitter, FunctionCalled, RootReplied
from rlm_wasm.limits import ModelUsage, Usage
from rlm_wasm.sandbox.session import call as call_function
from rlm_wasm.trajectory import Call, Completion

# characters of a child's answer that the record of the call shows; the child's own has it whole
_REPLY_CHARS = 8_000_000


class Answered(msgspec.Struct, frozen=True):
    """What a model answered, what that took, and for how many seconds it had to wait for a free place."""

    reply: Reply
    took: ModelUsage
    waited: float

    def of_root(self, model: str, seconds: float) -> RootReplied:
        """The event of it, if it is a root model's; `model` is the client's."""
        reply = self.reply
        return RootReplied(
            text=reply.text,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            seconds=seconds,
            model=reply.model or model,
            usd=self.took.usd,
            cached=reply.cached,
            calls=reply.calls,
        )


class CallRecord:
    """One call to a sub model or a child: `call` as it is asked, one of `of` in its batch.

    An async context manager around the asking. `ended` is told what became of it. What a cell may not know of a failure
    is left out of what is raised: a ClientError leaves as a FunctionError.
    """

    def __init__(
        self, call: Call, emitter: Emitter, ended: Callable[[Call, BaseException | None], None], *, of: int
    ) -> None:
        self._call, self._emitter, self._ended, self._of = call, emitter, ended, of
        self._started = 0.0
        self._usd: float | None = 0.0
        self._waited = 0.0
        self._cached = False

    @property
    def number(self) -> int:
        """The number of the call in its run."""
        return self._call.number

    async def __aenter__(self) -> CallRecord:
        self._started = time.monotonic()
        call = self._call
        self._emitter.emit(
            CallStarted(call=call.number, function=call.function, model=call.model, prompt=call.prompt, of=self._of)
        )
        return self

    def answered(self, answered: Answered) -> None:
        """Note the answer and what it took."""
        self._waited, self._cached = answered.waited, answered.reply.cached
        self._note(answered.reply.text, answered.took)

    def child_ended(self, child: Completion) -> None:
        """Note what a child run came to, whether it has an answer or not."""
        no_answer = child.response is None and child.stopped_by != "final"
        self._note("" if no_answer else str(child.response)[:_REPLY_CHARS], child.usage, child)

    def _note(self, reply: str, took: ModelUsage | Usage, child: Completion | None = None) -> None:
        self._usd = took.usd
        self._call = msgspec.structs.replace(
            self._call, reply=reply, input_tokens=took.input_tokens, output_tokens=took.output_tokens, child=child
        )

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        call = msgspec.structs.replace(self._call, error=_told(error), seconds=time.monotonic() - self._started)
        self._ended(call, error)
        self._emitter.emit(
            CallFinished(
                call=call.number,
                reply=call.reply,
                error=call.error,
                input_tokens=call.input_tokens,
                output_tokens=call.output_tokens,
                seconds=call.seconds,
                waited=self._waited,
                usd=self._usd,
                cached=self._cached,
                status=error.status if isinstance(error, ClientError) else None,
            )
        )
        if isinstance(error, ClientError):
            raise FunctionError(_told_of_client(error, len(call.prompt))) from error


def told(functions: Mapping[str, Callable[..., Any]], emitter: Emitter) -> dict[str, Callable[..., Any]]:
    """The caller's own functions, each of whose calls becomes an event."""
    return {name: partial(_call_and_tell, emitter, name, function) for name, function in functions.items()}


async def _call_and_tell(
    emitter: Emitter, name: str, function: Callable[..., Any], /, *given: Any, **named: Any
) -> Any:
    started = time.monotonic()
    value, failure = None, None
    try:
        value = await call_function(function, given, named)
    except BaseException as error:
        failure = error
        raise
    finally:
        seconds = time.monotonic() - started
        emitter.emit(
            FunctionCalled(
                function=name, arguments=given, named=named, value=value, error=_told(failure), seconds=seconds
            )
        )
    return value


def _told(error: BaseException | None) -> str | None:
    if error is None:
        return None
    # a cancellation's own text is the event loop's talk
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "given up: nobody waits for it"


def _told_of_client(error: ClientError, prompt_chars: int) -> str:
    """What a cell may know of a model that could not be asked: never the provider's words, which may hold keys."""
    if error.status in (400, 413):
        return f"the model refused the prompt of {prompt_chars:,} characters (HTTP {error.status}): too long, perhaps"
    status = f" (HTTP {error.status})" if error.status is not None else ""
    return f"the model could not be asked{status}"
