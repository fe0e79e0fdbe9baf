"""What a run begins with: what it shares with its children, where it goes on, and who goes on from its beginning."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import msgspec

from rlm_wasm.branches import Moment
from rlm_wasm.bridge import Models
from rlm_wasm.dialects import HOUSE, Dialect
from rlm_wasm.events import Event, Record
from rlm_wasm.guards import Guards
from rlm_wasm.limits import Budget, Limits
from rlm_wasm.sandbox import Checkpoint, SandboxPool
from rlm_wasm.secrets import Secrets
from rlm_wasm.store import State
from rlm_wasm.survival import Checkpoints
from rlm_wasm.trajectory import Iteration
from rlm_wasm.windows import Cutting


class Shared(msgspec.Struct, frozen=True):
    """What a run and all its children have in common."""

    models: Models
    limits: Limits
    own_functions: Mapping[str, Callable[..., Any]]
    record: Record
    max_concurrency: int
    budget: Budget
    pool: SandboxPool
    model_calls: anyio.Semaphore
    stop: anyio.Event | None
    dialect: Dialect = HOUSE
    guards: Guards = Guards()
    cutting: Cutting = Cutting()
    variables: Mapping[str, object] = {}
    settings: Mapping[str, Any] = {}
    # of a session, whose sandbox holds context and equipment since its first question, and what was said before this
    held: bool = False
    said: Sequence[tuple[str, str]] = ()
    streaming: bool = False
    checkpoints: Checkpoints | None = Checkpoints()
    secrets: Secrets | None = None


class Resumed(msgspec.Struct, frozen=True):
    """Where a run goes on: after the `iterations`, as of `state`.

    With `moment` it is another run that branches off there: its usage is its own, `more` is how many iterations it may
    have beyond the limit, and `said` is what the model is told before it goes on.
    """

    state: State
    checkpoint: Checkpoint | None
    iterations: tuple[Iteration, ...]
    events: tuple[Event, ...]
    moment: Moment | None = None
    more: int = 0
    said: str = ""

    @classmethod
    def branch(cls, moment: Moment, *, more: int = 0, said: str = "") -> Resumed:
        """A run that branches off another."""
        state, checkpoint, iterations = moment.state, moment.checkpoint, moment.iterations
        return cls(state, checkpoint, iterations, tuple(moment.events), moment, more, said)


class Sharing:
    """A run whose beginning others share: after `after` of its iterations, or fewer if it ends before.

    `ready` is set then, and `moment` is where they may go on; None if it did not begin.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.ready = anyio.Event()
        self.moment: Moment | None = None


def new_id() -> str:
    """An id for a run."""
    return uuid.uuid4().hex[:12]
