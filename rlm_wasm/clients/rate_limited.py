"""Keeps a client under its provider's limits by the minute: who may ask now, and who waits for how long.

`Allowance` is the bookkeeping, without I/O or a clock; the client waits as long as it says.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

from rlm_wasm.clients.clock import Clock
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.protocol import Client, Message, OnText, Reply
from rlm_wasm.clients.scripted import estimate_input
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.tools import offered
from rlm_wasm.prompts import Tool

_MINUTE = 60.0  # seconds


class Allowance:
    """A token bucket: holds `per_minute` units at most, is full at first, and fills at that rate.

    It may be in debt, by what was found out afterwards or was more than it can hold; then it is empty until that is
    paid off. `now` is in seconds on any clock, and a clock that goes back is taken to stand still.
    """

    def __init__(self, per_minute: float) -> None:
        self._most = float(per_minute)
        self._left = float(per_minute)
        self._as_of = -math.inf

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may be taken, 0 for now. More than it can hold may be taken when it is full."""
        self._fill(now)
        missing = min(units, self._most) - self._left
        # A millionth, because what was waited for exactly may be short by a rounding.
        return missing * _MINUTE / self._most if missing > self._most * 1e-6 else 0.0

    def take(self, units: float) -> None:
        """Take units out, whether they are there or not; a negative number gives them back."""
        self._left = min(self._most, self._left - units)

    def left(self, now: float) -> float:
        """How much there is, negative for a debt."""
        self._fill(now)
        return self._left

    def _fill(self, now: float) -> None:
        if now > self._as_of:
            self._left = min(self._most, self._left + (now - self._as_of) * self._most / _MINUTE)
            self._as_of = now


class RateLimitedClient:
    """A `Client` that lets at most so many calls and tokens a minute through to `client`; the others wait their turn.

    None is no limit. A minute's worth may go at once, then it comes back evenly over the minute, as Anthropic and
    OpenAI count it. A call is taken to need a token for every 4 characters of its messages, and `max_output_tokens`
    if that is given; when it has a reply, what it really took is put in its place. A cached reply took nothing; a
    call that failed or was cancelled on its way is left at what it was taken to need, because nobody knows.

    Who came first goes first, within an event loop. Who is cancelled while waiting takes nothing. Share one instance
    among all runs under the same limit, also in several threads. Put `CachedClient` around it and `RetryingClient`
    around it too, so that each further attempt waits its turn. Raises ValueError for limits that are not above 0.
    """

    def __init__(
        self,
        client: Client,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        for limit in (requests_per_minute, tokens_per_minute):
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"a limit by the minute is a number above 0, or None for no limit, not {limit!r}")
        self._client = client
        self._requests = None if requests_per_minute is None else Allowance(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Allowance(tokens_per_minute)
        self._clock = clock or Clock()
        self._books = threading.Lock()
        self._turns: WeakKeyDictionary[object, anyio.Lock] = WeakKeyDictionary()

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced: the wrapped client's."""
        return self._client.model

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Wait until the limits allow it, then ask. Raises what the wrapped client raises.

        Raises TypeError, before it waits, for a `tool` that the wrapped client cannot offer.
        """
        telling = Telling(on_text)
        more = {**offered(tool, self._client), **telling.through(self._client)}
        expected = estimate_input(messages) + (max_output_tokens or 0)
        # Only the first in the row looks at the limits: one lock, because anyio's are handed on in order.
        async with self._turns.setdefault(current_token().native_token, anyio.Lock()):
            while (seconds := self._admit(expected)) > 0:
                await self._clock.sleep(seconds)
        reply = await self._client.complete(messages, max_output_tokens=max_output_tokens, **more)
        self._correct(expected, reply)
        telling.finish(reply.text)
        return reply

    def _admit(self, tokens: int) -> float:
        """Take a call's share and return 0, or take nothing and return the seconds until it may be there."""
        with self._books:
            now = self._clock.now()
            shares = [(self._requests, 1), (self._tokens, tokens)]
            wait = max(allowance.wait(units, now) if allowance else 0.0 for allowance, units in shares)
            for allowance, units in shares:
                if allowance and not wait:
                    allowance.take(units)
            return wait

    def _correct(self, expected: int, reply: Reply) -> None:
        with self._books:
            if self._tokens:
                self._tokens.take(reply.input_tokens + reply.output_tokens - expected)
            if self._requests and reply.cached:
                self._requests.take(-1)

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    def __repr__(self) -> str:
        now = self._clock.now()
        with self._books:
            kinds = (("requests", self._requests), ("tokens", self._tokens))
            left = ", ".join(f"{name}_left={each.left(now):.0f}" for name, each in kinds if each)
        return f"RateLimitedClient({self._client!r}{', ' if left else ''}{left})"
