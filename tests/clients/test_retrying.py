"""RetryingClient: which failures are asked again, how long it waits between two calls, and when it gives up."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.clients import Message, RetryingClient, ScriptedClient
from rlm_wasm.clients.retrying import Patience
from rlm_wasm.errors import ClientError

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("user", "hello")]
OVERLOADED = ClientError("overloaded", status=529)

SECONDS = st.floats(0, 1000)
PATIENCE = st.builds(Patience, st.integers(1, 50), SECONDS)
ERRORS = st.builds(
    ClientError, st.just("no"), transient=st.booleans(), retry_after=st.one_of(st.none(), st.floats(0.001, 1000))
)
ATTEMPTS = st.integers(1, 60)
DRAWS = st.floats(0, 1)


# The decision


@given(PATIENCE, ERRORS, ATTEMPTS, SECONDS, DRAWS)
def test_a_pause_keeps_every_cap(
    patience: Patience, error: ClientError, attempt: int, elapsed: float, draw: float
) -> None:
    pause = patience.pause(error, attempt, elapsed, draw)
    if pause is None:
        return
    assert error.transient
    assert attempt < patience.attempts
    assert elapsed + pause <= patience.max_seconds
    assert (error.retry_after or 0.0) <= pause <= max(30.0, error.retry_after or 0.0)


@given(ATTEMPTS, DRAWS)
def test_with_patience_left_a_failure_that_may_pass_is_asked_again(attempt: int, draw: float) -> None:
    pause = Patience(100, math.inf).pause(OVERLOADED, attempt, 0.0, draw)
    assert pause is not None
    assert 0 <= pause <= 0.5 * 2 ** (attempt - 1)


@given(ATTEMPTS, DRAWS, DRAWS)
def test_a_later_attempt_waits_no_less_at_the_same_draw(attempt: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    patience = Patience(100, math.inf)
    sooner = patience.pause(OVERLOADED, attempt, 0.0, low)
    later = patience.pause(OVERLOADED, attempt + 1, 0.0, high)
    assert sooner is not None
    assert later is not None
    assert sooner <= later


# The client


async def test_a_failure_that_passes_is_not_seen(watch: Any) -> None:
    inner = ScriptedClient([OVERLOADED, OVERLOADED, "at last"], model="m")
    client = RetryingClient(inner, clock=watch.clock)
    assert (await client.complete(HELLO)).text == "at last"
    assert (client.model, len(inner.calls), watch.pauses) == ("m", 3, [0.25, 0.5])


async def test_a_pause_that_the_server_asks_for_is_kept_to(watch: Any) -> None:
    told = ClientError("slow down", status=429, retry_after=7.0)
    await RetryingClient(ScriptedClient([told, "yes"]), clock=watch.clock).complete(HELLO)
    assert watch.pauses == [7.0]


async def test_a_pause_longer_than_the_rest_of_the_time_is_not_waited_for(watch: Any) -> None:
    told = ClientError("come back tomorrow", status=429, retry_after=3600.0)
    with pytest.raises(ClientError, match="tomorrow"):
        await RetryingClient(ScriptedClient([told, "yes"]), clock=watch.clock).complete(HELLO)
    assert watch.pauses == []


async def test_the_time_that_the_calls_take_counts(watch: Any) -> None:
    def take_long(messages: object) -> str:
        watch.now += 50
        raise ClientError("late", status=503)

    inner = ScriptedClient([take_long] * 9)
    with pytest.raises(ClientError) as raised:
        await RetryingClient(inner, attempts=9, max_seconds=120, clock=watch.clock).complete(HELLO)
    assert len(inner.calls) == 3
    assert raised.value.__notes__ == ["asked 3 times in 150.8 s"]


@pytest.mark.parametrize(
    "error",
    [
        ClientError("bad key", status=401),
        ClientError("no such field", status=400),
        ClientError("no text", status=200),
        ClientError("out of time"),
        ClientError("quota spent", status=429, transient=False),
    ],
    ids=str,
)
async def test_what_cannot_pass_is_not_asked_again(watch: Any, error: ClientError) -> None:
    inner = ScriptedClient([error, "never"])
    with pytest.raises(ClientError) as raised:
        await RetryingClient(inner, clock=watch.clock).complete(HELLO)
    assert raised.value is error
    assert (len(inner.calls), watch.pauses) == (1, [])


async def test_a_broken_connection_is_asked_again(watch: Any) -> None:
    inner = ScriptedClient([ClientError("reset by peer", transient=True), "yes"])
    assert (await RetryingClient(inner, clock=watch.clock).complete(HELLO)).text == "yes"


async def test_attempts_end_with_the_last_failure(watch: Any) -> None:
    inner = ScriptedClient([ClientError(f"failure {number}", status=500) for number in range(9)])
    with pytest.raises(ClientError, match="failure 2"):
        await RetryingClient(inner, attempts=3, clock=watch.clock).complete(HELLO)
    assert len(inner.calls) == 3


async def test_other_errors_pass_through(watch: Any) -> None:
    with pytest.raises(OSError, match="no route"):
        await RetryingClient(ScriptedClient([OSError("no route"), "never"]), clock=watch.clock).complete(HELLO)


async def test_it_can_be_cancelled_while_it_waits() -> None:
    client = RetryingClient(ScriptedClient([ClientError("busy", status=429, retry_after=60.0), "never"]))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.complete, HELLO)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("options", [{"attempts": 0}, {"max_seconds": -1}, {"max_seconds": math.nan}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attempts"):
        RetryingClient(ScriptedClient(), **options)


def test_its_repr_shows_what_it_wraps() -> None:
    inner = ScriptedClient()
    assert repr(RetryingClient(inner)) == f"RetryingClient({inner!r}, attempts=6, max_seconds=120)"
