"""What happened, as it happens: one stream of facts about a run and its children.

Emitted by the loop and the bridge; kept in a `Record`, and heard by whoever listens. Knows nothing of how a fact is
shown or written down.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypedDict, Unpack, cast

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm.citations import Citation
from rlm_wasm.limits import ModelUsage, Usage
from rlm_wasm.prompts import Message, ToolCall

_log = logging.getLogger(__name__)

# seconds that a run waits at its end for each listener to hear the rest
_HEARD_WITHIN = 5.0
# events that may wait for a slow listener; what comes then is lost to it
_WAITING = 100_000


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="event", omit_defaults=True):
    """The base of all events.

    `run` and `parent` are ids of runs (`parent` None at the root), `depth` is 0 at the root, `iteration` counts from 1
    (0 before the first). `monotonic` is in seconds on this host's monotonic clock, `wall` in seconds since the epoch.
    """

    run: str = ""
    parent: str | None = None
    depth: int = 0
    iteration: int = 0
    monotonic: float = 0.0
    wall: float = 0.0


class Branched(msgspec.Struct, frozen=True):
    """Where a run began that goes on from another: the other's id, and the iteration after which."""

    run: str
    iteration: int


class RunStarted(Event, frozen=True, kw_only=True):
    """A completion begins. `context` is the line that describes it to the model.

    `call` is the number of the parent's call that a child answers. `context_chars` and `context_sha256` tell one
    context from another: the length of a text (of its JSON otherwise), and a digest; `context_value` is the context
    itself where it is small (`has_context`). `settings` are those that a cell can notice: the sandbox's options, the
    dialect's name, limits. `branch` is set of a run that goes on from another; its iterations count on from there.
    """

    question: str
    context: str
    model: str
    sub_model: str
    call: int | None = None
    context_chars: int = 0
    context_sha256: str = ""
    has_context: bool = False
    context_value: Any = None
    settings: Mapping[str, Any] = {}
    branch: Branched | None = None


class IterationStarted(Event, frozen=True, kw_only=True):
    """The root model is about to be asked; `iteration` says for the how-many-th time."""


class IterationFinished(Event, frozen=True, kw_only=True):
    """The reply was read and its cells have run. `seconds` is by the clock, from the asking on.

    `observation` is what the model is shown of it; None if the run ended in it.
    """

    seconds: float
    observation: str | None = None


class RootAsked(Event, frozen=True, kw_only=True):
    """The root model is asked: with the first `same` messages of the last time, and then with `messages`."""

    same: int
    messages: tuple[Message, ...]


class RootStreamed(Event, frozen=True, kw_only=True):
    """A piece of the root model's reply, as it comes; None says that what came so far is void."""

    text: str | None


class RootReplied(Event, frozen=True, kw_only=True):
    """The root model answered. `seconds` is how long it took; `usd` is None if the price is unknown.

    `calls` are its calls of the native tool; `cached` says that the reply was kept from an earlier time.
    """

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float
    model: str = ""
    usd: float | None = None
    cached: bool = False
    calls: tuple[ToolCall, ...] = ()


class CellStarted(Event, frozen=True, kw_only=True):
    """A cell begins to run. `cell` numbers the cells of a run from 1."""

    code: str
    cell: int = 0


class Printed(Event, frozen=True, kw_only=True):
    """The head of a cell's output, as it comes. `stream` is "stdout" or "stderr"."""

    stream: str
    text: str


class CellInterrupted(Event, frozen=True, kw_only=True):
    """A cell was interrupted at its deadline, after `seconds` of computing; its variables are kept."""

    cell: int
    seconds: float


class CellFinished(Event, frozen=True, kw_only=True):
    """A cell ended. `output` is what the model will see of its prints; `seconds` is the time it computed.

    What is here beyond that is as in `Executed`; `stdout` and `stderr` are None where the output is all stdout. `ran`
    is false for a cell that was lost with its sandbox, or was running when its run was stopped.
    """

    output: str
    error: str | None
    seconds: float
    truncated: int
    cell: int = 0
    ran: bool = True
    stdout: str | None = None
    stderr: str | None = None
    value: Any = None
    final: Any = None
    has_final: bool = False
    timed_out: bool = False
    lost: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    kept: int | None = None
    restored: tuple[str, ...] = ()
    repeatable: bool = False


class CallStarted(Event, frozen=True, kw_only=True):
    """A cell asks a sub model or a child. `call` numbers the calls of a run; `of` is the size of its batch."""

    call: int
    function: str
    model: str
    prompt: str
    of: int = 1


class CallFinished(Event, frozen=True, kw_only=True):
    """The call has its answer, or failed: then `error` says how and `reply` is empty.

    `seconds` is how long it took, of which it waited `waited` for a free place; `usd` is None if the price is unknown;
    `cached` says that the reply was kept from an earlier time, and cost nothing; `status` is the HTTP status of a
    failure that had one.
    """

    call: int
    reply: str
    error: str | None
    input_tokens: int
    output_tokens: int
    seconds: float
    waited: float = 0.0
    usd: float | None = None
    cached: bool = False
    status: int | None = None


class FunctionCalled(Event, frozen=True, kw_only=True):
    """A cell called a host function of the caller's own, and it has ended. `value` is what it gave."""

    function: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = {}
    value: Any = None
    error: str | None = None
    seconds: float = 0.0


class BudgetSpent(Event, frozen=True, kw_only=True):
    """A model call was charged. The figures are of the run at the root and all its children so far.

    `left` is what is left of each limit, None where there is no limit.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    left: Mapping[str, float | None]


class SandboxReplaced(Event, frozen=True, kw_only=True):
    """A sandbox was lost, and the run goes on in a fresh one, without the variables `lost`.

    Of the cells before, `checkpointed` are in effect because they are in the checkpoint from which it was begun, and
    `repeated` because they were run again; of `undone` so many are not.
    """

    reason: str
    lost: tuple[str, ...]
    checkpointed: int = 0
    repeated: int = 0
    undone: int = 0


class HistoryShortened(Event, frozen=True, kw_only=True):
    """The root's messages were shortened to fit its model's window, from so many tokens to so many.

    `way` is the last that was needed: old outputs were "cut", or a summary stands for old exchanges ("summarized"), or
    the oldest were "left out".
    """

    way: Literal["cut", "summarized", "left out"]
    tokens_before: int
    tokens_after: int


class RunStopped(Event, frozen=True, kw_only=True):
    """A completion is over. `usd` is None if a price was unknown; the figures include the children's.

    `limit` is the limit that ended it, with what was used and allowed; `failure` what it failed of, where no limit did.
    The other fields are as in `Completion`.
    """

    stopped_by: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    seconds: float
    response: Any = None
    partial: Any = None
    by_model: Mapping[str, ModelUsage] = {}
    estimated: bool = False
    limit: tuple[str, float, float] | None = None
    failure: str | None = None
    citations: tuple[Citation, ...] = ()

    @classmethod
    def of(cls, stopped_by: str, usage: Usage, seconds: float, **more: Any) -> RunStopped:
        """The end of a run that took so much; `more` are the other fields."""
        return cls(
            stopped_by=stopped_by,
            calls=usage.calls,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            usd=usage.usd,
            seconds=seconds,
            by_model=usage.by_model,
            estimated=usage.estimated,
            **more,
        )


Listener = Callable[[Event], object]


def hears_pieces(listener: Listener) -> bool:
    """Whether a listener wants `RootStreamed`, for which clients must be asked to stream: an attribute of this name."""
    return bool(getattr(listener, "hears_pieces", False))


class Record:
    """What is kept of a run and its children, and handed on: to `write` and `hear` at once, to listeners in threads.

    An async context manager. A listener that raises has its exception logged; a slow one keeps nobody waiting, but that
    the end waits up to 5 seconds for it to hear the rest. `write` is called before any listener hears of the event;
    what it raises is logged once, and the run goes on. `hear` is called in the event loop, and may not raise.
    """

    def __init__(
        self, listeners: Sequence[Listener] = (), write: Listener | None = None, hear: Listener | None = None
    ) -> None:
        self.events: list[Event] = []
        self._write = write
        self._hear = hear
        self._ears = [_Ear(listener) for listener in listeners]

    async def __aenter__(self) -> Self:
        for ear in self._ears:
            ear.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        with anyio.CancelScope(shield=True):
            for ear in self._ears:
                await anyio.to_thread.run_sync(ear.stop)

    def enter(self, event: Event) -> None:
        """Keep an event, and hand it on. What is shown for a moment alone (`Printed`, `RootStreamed`) is not kept."""
        if not isinstance(event, (Printed, RootStreamed)):
            self.events.append(event)
        if self._write is not None:
            try:
                self._write(event)
            except Exception:
                _log.exception("the events of run %s are written no further", event.run)
                self._write = None
        if self._hear is not None:
            self._hear(event)
        for ear in self._ears:
            ear.hear(event)


class _Ear:
    """One listener, and the thread in which it hears one event after the other."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._deaf = False
        # what is current where the run begins is current for the listener too: a span, a request's number
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="rlm_wasm listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hear(self, event: Event) -> None:
        if self._waiting.qsize() < _WAITING:
            self._waiting.put(event)
        elif not self._deaf:
            self._deaf = True
            _log.warning("a listener is %s events behind, and misses what comes", f"{_WAITING:,}")

    def stop(self) -> None:
        self._waiting.put(None)
        self._thread.join(_HEARD_WITHIN)
        if self._thread.is_alive():
            _log.warning("a listener is still busy %s seconds after the run's end", _HEARD_WITHIN)

    def _work(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._listener(event)
            except Exception:
                _log.exception("a listener failed on %s", type(event).__name__)


class Emitter:
    """Stamps events with the run they belong to, and enters them in the record of the whole tree."""

    def __init__(self, record: Record, *, run: str, parent: str | None, depth: int) -> None:
        self._record = record
        self._run, self._parent, self._depth = run, parent, depth
        self.iteration = 0

    def emit(self, event: Event) -> None:
        """Stamp and hand out."""
        self._record.enter(
            msgspec.structs.replace(
                event,
                run=self._run,
                parent=self._parent,
                depth=self._depth,
                iteration=self.iteration,
                monotonic=time.monotonic(),
                wall=time.time(),
            )
        )


class Callbacks(TypedDict, total=False):
    """What `callbacks` takes, each given events one by one."""

    on_step: Callable[[RunStarted | CellStarted | CellFinished], object]
    on_iteration: Callable[[IterationStarted | IterationFinished], object]
    on_subcall: Callable[[CallStarted | CallFinished], object]
    on_print: Callable[[Printed], object]


def callbacks(**chosen: Unpack[Callbacks]) -> Listener:
    """A listener that calls plain functions, which are not awaited, with the events of their kind.

    `on_step` is given the beginning of each run, and each cell as it begins and ends; `on_iteration` each iteration,
    `on_subcall` each call of a sub model or child, likewise; `on_print` what cells print, as it comes. All are of a
    child's run too: see `Event.depth`. Raises TypeError for any other name, and for what cannot be called.
    """
    kinds: dict[str, tuple[type[Event], ...]] = {
        "on_step": (RunStarted, CellStarted, CellFinished),
        "on_iteration": (IterationStarted, IterationFinished),
        "on_subcall": (CallStarted, CallFinished),
        "on_print": (Printed,),
    }
    given = {name: function for name, function in chosen.items() if function is not None}
    for name, function in given.items():
        if name not in kinds:
            raise TypeError(f"there is no callback {name!r}: use {', '.join(kinds)}")
        if not callable(function):
            raise TypeError(f"{name} must be a function that is given an event, not {type(function).__name__}")
    by_kind = {kind: cast("Listener", function) for name, function in given.items() for kind in kinds[name]}

    def hear(event: Event) -> None:
        function = by_kind.get(type(event))
        if function is not None:
            function(event)

    return hear
