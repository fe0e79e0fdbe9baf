"""Asks a client again where that may help: when, how often and for how long.

Whether a failure may pass is said by the `ClientError`; what the failure was is the business of the wrapped client.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from rlm_wasm.clients.clock import Clock
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.protocol import Client, Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.tools import offered
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Tool

_FIRST = 0.5  # seconds: what the SDKs of OpenAI and Anthropic begin with
_LONGEST = 30.0  # seconds: rate limits are counted by the minute, so some of it is free again by then


class Patience(msgspec.Struct, frozen=True):
    """How long to go on: at most `attempts` calls, none begun later than `max_seconds` after the first was."""

    attempts: int
    max_seconds: float

    def pause(self, error: ClientError, attempt: int, elapsed: float, draw: float) -> float | None:
        """Seconds to wait after `attempt` calls (1 or more) of which the last raised `error`; None to give up.

        `elapsed` is in seconds since the first call began, `draw` from 0 to 1. Full jitter: anything from 0 to a bound
        that doubles with every attempt, so that a batch which was refused together does not come back together (M.
        Brooker, Exponential Backoff And Jitter, AWS 2015). Never less than what the server asked for.
        """
        if not error.transient or attempt >= self.attempts:
            return None
        bound = min(_FIRST * 2 ** min(attempt - 1, 16), _LONGEST)
        seconds = max(draw * bound, error.retry_after or 0.0)
        return seconds if elapsed + seconds <= self.max_seconds else None


class RetryingClient:
    """A `Client` that asks `client` again after a failure that may pass: 408, 409, 429, 5xx, a broken connection.

    It makes at most `attempts` calls, none later than `max_seconds` (seconds) after the first began; a server that
    asks for a longer pause than is left is not asked again. To a run's `Budget` they are all one call, because those
    that failed brought no tokens.

    `OpenAIClient` asks again by itself: give it `max_retries=0` within this, or the attempts multiply. Raises
    ValueError for options that make no sense.
    """

    def __init__(
        self,
        client: Client,
        *,
        attempts: int = 6,  # the pauses add up to 15.5 s at most, to half of it on average
        max_seconds: float = 120.0,  # rate limits are counted by the minute
        clock: Clock | None = None,
    ) -> None:
        if attempts < 1 or not max_seconds >= 0:
            raise ValueError("attempts must be 1 or more, max_seconds 0 or more")
        self._client = client
        self._patience = Patience(attempts, max_seconds)
        self._clock = clock or Clock()

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
        """Ask until there is a reply. Raises the last `ClientError`, with a note of how often it was asked.

        Raises TypeError for a `tool` that the wrapped client cannot offer.
        """
        telling = Telling(on_text)
        more = {**offered(tool, self._client), **telling.through(self._client)}
        started = self._clock.now()
        for attempt in itertools.count(1):
            try:
                reply = await self._client.complete(messages, max_output_tokens=max_output_tokens, **more)
            except ClientError as error:
                elapsed = self._clock.now() - started
                pause = self._patience.pause(error, attempt, elapsed, self._clock.draw())
                if pause is None:
                    if attempt > 1:
                        error.add_note(f"asked {attempt} times in {elapsed:.1f} s")
                    raise
            else:
                telling.finish(reply.text)
                return reply
            telling.tell(None)
            await self._clock.sleep(pause)
        raise AssertionError("the count of attempts has no end")

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    def __repr__(self) -> str:
        limits = f"attempts={self._patience.attempts}, max_seconds={self._patience.max_seconds:g}"
        return f"RetryingClient({self._client!r}, {limits})"
