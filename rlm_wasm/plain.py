"""One call of a root model without a sandbox, told of and charged as a run of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import anyio

from rlm_wasm.beginnings import new_id
from rlm_wasm.bounds import EndedEarly, within
from rlm_wasm.bridge import Bridge, Models
from rlm_wasm.calls import Answered
from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.errors import LimitExceeded
from rlm_wasm.events import Emitter, Record, RootAsked, RunStarted, RunStopped
from rlm_wasm.limits import Budget, Usage


class PlainCall:
    """A call of `models.root`, within a budget. `usage` is what it took, a call that failed included."""

    def __init__(self, models: Models, budget: Budget, record: Record) -> None:
        self._models, self._budget, self._record = models, budget, record
        self.usage = Usage()

    async def ask(
        self, messages: Sequence[Message], *, question: str, context: str, stop: anyio.Event | None = None
    ) -> Reply:
        """The reply. `question` and `context`, a line that describes it, are what is recorded of the run.

        Raises LimitExceeded, ClientError, and EndedEarly if `stop` is set.
        """
        root, started = self._models.root, time.monotonic()
        emitter = Emitter(self._record, run=new_id(), parent=None, depth=0)
        places = anyio.Semaphore(1)
        # the bridge reserves, settles and counts a call, one that fails too
        bridge = Bridge(self._models, self._budget, emitter, max_concurrency=1, model_calls=places, run_child=None)
        emitter.emit(RunStarted(question=question, context=context, model=root.model, sub_model=self._models.sub.model))
        stopped_by, said = "cancelled", None
        emitter.emit(RootAsked(same=0, messages=tuple(messages)))
        try:
            answered = await self._in_time(bridge, messages, stop)
            stopped_by, said = "final", answered.reply.text
            emitter.emit(answered.of_root(root.model, time.monotonic() - started))
            return answered.reply
        except Exception as error:
            stopped_by = error.limit if isinstance(error, LimitExceeded) else "errors"
            stopped_by = "cancelled" if isinstance(error, EndedEarly) else stopped_by
            raise
        finally:
            self.usage = bridge.usage
            seconds = time.monotonic() - started
            emitter.emit(RunStopped.of(stopped_by, bridge.usage, seconds, response=said))

    async def _in_time(self, bridge: Bridge, messages: Sequence[Message], stop: anyio.Event | None) -> Answered:
        """The reply, within the seconds that are left and until somebody says stop."""
        complete = partial(bridge.complete, messages, self._models.root, inside=False)
        try:
            return await within(complete, seconds=self._budget.seconds_left(), stop=stop)
        except EndedEarly as early:
            if early.by == "cancelled":
                raise
        allowed = self._budget.seconds_limit or 0.0
        raise LimitExceeded("seconds", allowed, allowed)
