"""The time that waiting clients go by: what it is, and how to let it pass. A test hands in one of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable

import anyio
import msgspec


class Clock(msgspec.Struct, frozen=True):
    """`now` gives seconds from any fixed start, `sleep` waits that many, `draw` is a random number from 0 to 1.

    The time is the process's own, not an event loop's, so that loops in several threads agree on it.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    draw: Callable[[], float] = random.random
