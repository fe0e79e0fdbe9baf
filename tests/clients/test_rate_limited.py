"""RateLimitedClient: the bookkeeping of an allowance, and who waits for how long. No test waits itself."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.clients import Clock, Message, RateLimitedClient, Reply, ScriptedClient
from rlm_wasm.clients.rate_limited import Allowance
from rlm_wasm.errors import ClientError

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


class Counting:
    """A client that took `took` tokens for every call, and keeps what it was asked in order."""

    model = "counting"

    def __init__(self, took: int = 0, cached: bool = False) -> None:
        self.asked: list[str] = []
        self._reply = Reply("yes", took, 0, cached=cached)

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
        self.asked.append(messages[-1].content)
        await anyio.lowlevel.checkpoint()
        return self._reply


def asking(text: str) -> list[Message]:
    return [Message("user", text)]


# The bookkeeping


def test_a_minutes_worth_may_go_at_once_and_comes_back_over_the_minute() -> None:
    allowance = Allowance(60)
    for _ in range(60):
        assert allowance.wait(1, now=5.0) == 0
        allowance.take(1)
    assert allowance.wait(1, now=5.0) == pytest.approx(1.0)
    assert allowance.wait(30, now=15.0) == pytest.approx(20.0)
    assert allowance.left(now=1000.0) == 60


def test_more_than_it_holds_waits_until_it_is_full_and_leaves_a_debt() -> None:
    allowance = Allowance(100)
    allowance.take(50)
    allowance.left(now=0.0)
    allowance.take(50)
    assert allowance.wait(250, now=0.0) == pytest.approx(30.0)
    allowance.take(250)
    assert allowance.left(now=60.0) == pytest.approx(-100)
    assert allowance.wait(1, now=60.0) == pytest.approx(60.6)


def test_a_clock_that_goes_back_stands_still() -> None:
    allowance = Allowance(60)
    allowance.left(now=10.0)
    allowance.take(10)
    assert allowance.left(now=4.0) == 50
    assert allowance.left(now=11.0) == 51


@given(st.floats(0.1, 1e6), st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 600)), max_size=40))
def test_no_more_is_let_through_than_the_start_and_what_came_back(
    per_minute: float, calls: list[tuple[float, float]]
) -> None:
    allowance, now, taken = Allowance(per_minute), 0.0, 0.0
    for units, later in calls:
        now += later
        now += allowance.wait(units, now)
        assert allowance.wait(units, now) == 0, "who has waited as long as told may go"
        # only what comes before the last one: that may leave a debt
        assert taken <= per_minute * (1 + now / 60) * 1.001
        allowance.take(units)
        taken += units


# The client


async def test_calls_beyond_the_limit_wait_for_their_turn(watch: Any) -> None:
    inner = Counting()
    client = RateLimitedClient(inner, requests_per_minute=2, clock=watch.clock)
    for _ in range(4):
        await client.complete(asking("?"))
    assert watch.pauses == [pytest.approx(30), pytest.approx(30)]
    assert len(inner.asked) == 4


async def test_tokens_are_expected_from_the_text_and_corrected_by_the_reply(watch: Any) -> None:
    client = RateLimitedClient(Counting(took=40), tokens_per_minute=120, clock=watch.clock)
    await client.complete(asking("a" * 40), max_output_tokens=70)  # 80 expected, 40 taken
    assert "tokens_left=80" in repr(client)
    await client.complete(asking("a" * 40), max_output_tokens=70)
    assert watch.pauses == []
    await client.complete(asking("a" * 40), max_output_tokens=70)
    assert watch.pauses == [pytest.approx(20)]


async def test_a_reply_longer_than_expected_is_paid_off_by_those_who_come_after(watch: Any) -> None:
    client = RateLimitedClient(Counting(took=180), tokens_per_minute=60, clock=watch.clock)
    await client.complete(asking("abcd"))
    await client.complete(asking("abcd"))
    assert watch.pauses == [pytest.approx(121)]


async def test_a_cached_reply_takes_nothing(watch: Any) -> None:
    client = RateLimitedClient(Counting(cached=True), requests_per_minute=1, tokens_per_minute=10, clock=watch.clock)
    for _ in range(5):
        await client.complete(asking("a" * 40))
    assert watch.pauses == []


async def test_a_call_that_fails_has_used_its_share(watch: Any) -> None:
    inner = ScriptedClient([ClientError("no", status=500), "yes"])
    client = RateLimitedClient(inner, requests_per_minute=1, clock=watch.clock)
    with pytest.raises(ClientError):
        await client.complete(asking("?"))
    await client.complete(asking("?"))
    assert watch.pauses == [pytest.approx(60)]


async def test_who_comes_first_goes_first(watch: Any) -> None:
    inner = Counting()
    client = RateLimitedClient(inner, tokens_per_minute=100, clock=watch.clock)
    # a long one is not overtaken by the short ones behind it
    texts = [f"{number} ".ljust(400 if number % 3 == 0 else 4) for number in range(9)]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for text in texts:
                tasks.start_soon(client.complete, asking(text))
                await anyio.lowlevel.checkpoint()
    assert sorted(inner.asked) == sorted(texts)
    assert inner.asked == sorted(texts)


async def test_who_is_cancelled_while_waiting_takes_nothing_and_lets_the_next_go() -> None:
    now, waiting, released = 0.0, anyio.Event(), anyio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await released.wait()

    inner = Counting()
    client = RateLimitedClient(inner, requests_per_minute=1, clock=Clock(now=lambda: now, sleep=sleep))
    scope = anyio.CancelScope()

    async def wait_in_vain() -> None:
        with scope:
            await client.complete(asking("cancelled"))

    with anyio.fail_after(30):
        await client.complete(asking("first"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_in_vain)
            await waiting.wait()
            tasks.start_soon(client.complete, asking("next"))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            now = 60.0
            released.set()
    assert inner.asked == ["first", "next"]
    assert "requests_left=0" in repr(client)


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_limits_that_make_no_sense_are_refused(name: str, limit: float) -> None:
    options: dict[str, Any] = {name: limit}
    with pytest.raises(ValueError, match="above 0"):
        RateLimitedClient(ScriptedClient(), **options)


async def test_without_limits_nothing_waits(watch: Any) -> None:
    client = RateLimitedClient(ScriptedClient(["a", "b"], model="m"), clock=watch.clock)
    assert [(await client.complete(asking("?"))).text for _ in range(2)] == ["a", "b"]
    assert (client.model, watch.pauses) == ("m", [])
