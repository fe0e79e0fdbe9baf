"""Sandboxes with a seed: chance and time are the same each time, and differ with the seed and the clock."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rlm_wasm.sandbox import Sandbox

pytestmark = pytest.mark.anyio

CHANCE = """
import os, random, secrets, tempfile, uuid
[random.random(), random.SystemRandom().random(), os.urandom(8).hex(), secrets.token_hex(), str(uuid.uuid4()),
 tempfile.mktemp(), hash("text"), str({"a", "b", "c", "d"})]
"""
TIME = """
import datetime, time
before = time.perf_counter()
for number in range(100_000):
    pass
passed = time.perf_counter() - before
time.sleep(0.01)
[time.time(), time.monotonic(), passed, str(datetime.datetime.now(datetime.timezone.utc))]
"""


async def value(code: str, **options: Any) -> Any:
    async with Sandbox(**options) as sandbox:
        with anyio.fail_after(60):
            done = await sandbox.execute(code)
    assert done.error is None, done.error
    return done.value


async def test_two_sandboxes_of_one_seed_draw_the_same_and_of_another_not() -> None:
    one, again = await value(CHANCE, seed=7), await value(CHANCE, seed=7, use_image=False)
    assert one == again
    other = await value(CHANCE, seed=8)
    # all but the hashes, which are the same in all sandboxes
    assert [mine == theirs for mine, theirs in zip(one, other, strict=True)] == [False] * 6 + [True] * 2
    assert one != await value(CHANCE)


async def test_the_clock_of_a_seeded_sandbox_begins_where_it_is_said_and_only_counts() -> None:
    one = await value(TIME, seed=0, clock=1_800_000_000.5)
    assert one == await value(TIME, seed=3, clock=1_800_000_000.5)
    now, since_start, passed, shown = one
    assert now == pytest.approx(1_800_000_000.51, abs=0.001)
    assert since_start == pytest.approx(0.01, abs=0.001)
    assert passed == pytest.approx(0, abs=0.0001)
    assert shown.startswith("2027-01-15 08:00:00.51")
    assert (await value(TIME, seed=0))[0] == pytest.approx(1_767_225_600.01, abs=0.001)


async def test_a_seeded_sandbox_still_has_its_deadline() -> None:
    async with Sandbox(seed=1, timeout=0.3) as sandbox:
        with anyio.fail_after(60):
            done = await sandbox.execute("import time\nwhile time.monotonic() < 1000: pass")
        assert done.timed_out
        assert (await sandbox.execute("1")).value == 1


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": 1 << 53}, {"clock": 5.0}, {"seed": 1, "clock": -5.0}])
def test_a_seed_or_clock_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"seed|clock"):
        Sandbox(**options)
