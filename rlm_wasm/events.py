"""What happened, as it happens: one stream of facts about a run and its children.

Emitted by the loop, the bridge and the pool; heard by whoever listens. Knows nothing of how a fact is shown or kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec

_log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="event"):
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


class RunStarted(Event, frozen=True, kw_only=True):
    """A completion begins. `context` is the line that describes it to the model."""

    question: str
    context: str
    model: str
    sub_model: str


class IterationStarted(Event, frozen=True, kw_only=True):
    """The root model is about to be asked; `iteration` says for the how-many-th time."""


class IterationFinished(Event, frozen=True, kw_only=True):
    """The reply was read and its cells have run. `seconds` is by the clock, from the asking on."""

    seconds: float


class RootReplied(Event, frozen=True, kw_only=True):
    """The root model answered. `seconds` is how long it took."""

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float


class CellStarted(Event, frozen=True, kw_only=True):
    """A cell begins to run."""

    code: str


class Printed(Event, frozen=True, kw_only=True):
    """The head of a cell's output, as it comes. `stream` is "stdout" or "stderr"."""

    stream: str
    text: str


class CellFinished(Event, frozen=True, kw_only=True):
    """A cell ended. `output` is what the model will see of its prints; `seconds` is the time it computed."""

    output: str
    error: str | None
    seconds: float
    truncated: int


class CallStarted(Event, frozen=True, kw_only=True):
    """A cell asks a sub model or a child. `call` numbers the calls of a run; `of` is the size of its batch."""

    call: int
    function: str
    model: str
    prompt: str
    of: int = 1


class CallFinished(Event, frozen=True, kw_only=True):
    """The call has its answer, or failed: then `error` says how and `reply` is empty."""

    call: int
    reply: str
    error: str | None
    input_tokens: int
    output_tokens: int
    seconds: float


class SandboxReplaced(Event, frozen=True, kw_only=True):
    """A sandbox was lost with the variables named, and the run goes on in a fresh one."""

    reason: str
    lost: tuple[str, ...]


class RunStopped(Event, frozen=True, kw_only=True):
    """A completion is over. `usd` is None if a price was unknown; the figures include the children's."""

    stopped_by: str
    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    seconds: float


Listener = Callable[[Event], object]


class Emitter:
    """Stamps events with the run they belong to, and hands them to the listeners.

    A listener that raises neither stops the run nor the other listeners: its exception is logged.
    """

    def __init__(self, listeners: Sequence[Listener], *, run: str, parent: str | None, depth: int) -> None:
        self._listeners = tuple(listeners)
        self._run, self._parent, self._depth = run, parent, depth
        self.iteration = 0

    def emit(self, event: Event) -> None:
        """Stamp and hand out."""
        if not self._listeners:
            return
        stamped = msgspec.structs.replace(
            event,
            run=self._run,
            parent=self._parent,
            depth=self._depth,
            iteration=self.iteration,
            monotonic=time.monotonic(),
            wall=time.time(),
        )
        for listener in self._listeners:
            try:
                listener(stamped)
            except Exception:
                _log.exception("a listener failed on %s", type(event).__name__)
