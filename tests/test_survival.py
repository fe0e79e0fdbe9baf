"""A REPL that outlives its sandboxes: what comes back, what is said to be gone, and how often it is saved."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from rlm_wasm.errors import FunctionError, SandboxCrashed
from rlm_wasm.sandbox import Sandbox
from rlm_wasm.survival import Back, Checkpoints, Schedule, Survivor
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

DEADLY = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"
OVERLAPPING = """
from concurrent.futures import ThreadPoolExecutor, as_completed
with ThreadPoolExecutor(4) as pool:
    came = [done.result() for done in as_completed([pool.submit(ask, n) for n in (3, 1, 2)])]
"""


class Host:
    """Functions for cells, whose answers are never the same twice; answers later, the larger `number` is."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def ask(self, number: int) -> list[int]:
        self.asked["ask"] += 1
        count = self.asked["ask"]
        await anyio.sleep(number / 50)
        return [number, count]

    def refuse(self) -> None:
        self.asked["refuse"] += 1
        raise FunctionError(f"no, for the {self.asked['refuse']}. time")


class Repl:
    """A Survivor, its sandbox, and what it told of having come back."""

    def __init__(self, host: Host, sandbox: Sandbox, survivor: Survivor) -> None:
        self.host, self.sandbox, self.survivor = host, sandbox, survivor
        self.told: list[Back] = []
        survivor.on_back = self.told.append

    async def run(self, code: str) -> Any:
        with anyio.fail_after(60):
            done = await self.survivor.execute(code)
        assert done.error is None, done.error
        return done.value

    async def kill(self) -> None:
        """Kill its process, and wait until that is noticed."""
        os.kill(pid_of(self.sandbox), signal.SIGKILL)
        with anyio.fail_after(60):
            while self.sandbox.alive:
                await anyio.lowlevel.checkpoint()

    async def save(self) -> None:
        """Be asked for a checkpoint, as when a model is asked."""
        with anyio.fail_after(60):
            async with self.survivor.saving():
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def opened(checkpoints: Checkpoints | None = None) -> AsyncGenerator[Repl]:
    host = Host()
    survivor = Survivor({"ask": host.ask, "refuse": host.refuse}, checkpoints)
    async with Sandbox(functions=survivor.answers.functions) as sandbox:
        await sandbox.load(context="the context")
        await survivor.hold(sandbox)
        yield Repl(host, sandbox, survivor)


# --- when a checkpoint is due --------------------------------------------------------------------------------------


def test_checkpoints_cost_no_more_than_their_share_of_what_cells_compute() -> None:
    schedule, computed, cost = Schedule(Checkpoints(share=0.05)), 0.0, 0.0
    taken = 0
    for _ in range(2000):
        schedule.ran(1.0, repeatable=True)
        computed += 1
        if schedule.due(elapsed=10 * computed):
            schedule.took(0.7, taken=True)
            cost, taken = cost + 0.7, taken + 1
            assert cost <= 0.05 * computed + 0.7
    assert 0.04 * computed < cost <= 0.05 * computed
    assert taken > 100


def test_after_a_cell_that_cannot_be_repeated_the_whole_time_of_the_run_counts() -> None:
    schedule = Schedule(Checkpoints(share=0.05))
    schedule.ran(0.01, repeatable=True)
    assert not schedule.due(elapsed=1000)
    schedule.ran(0.01, repeatable=False)
    assert not schedule.due(elapsed=9)
    assert schedule.due(elapsed=10)
    schedule.took(1.0, taken=True)
    schedule.ran(0.01, repeatable=False)
    assert not schedule.due(elapsed=39)
    assert schedule.due(elapsed=40)


def test_none_is_due_before_a_cell_has_run_nor_twice_where_one_was_refused() -> None:
    schedule = Schedule(Checkpoints(cells=2))
    assert not schedule.due(elapsed=1000)
    schedule.ran(0.01, repeatable=True)
    assert not schedule.due(elapsed=1)
    schedule.ran(0.01, repeatable=True)
    assert schedule.due(elapsed=1)
    schedule.took(0.1, taken=False)
    assert not schedule.due(elapsed=1)
    schedule.ran(0.01, repeatable=True)
    assert schedule.due(elapsed=1)


@pytest.mark.parametrize("wrong", [{"share": -0.1}, {"share": 2}, {"cells": 0}, {"mb": 0}])
def test_checkpoints_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"share|cells|mb"):
        Checkpoints(**wrong)


async def test_a_memory_of_more_than_was_allowed_is_not_held_and_comes_back_by_its_cells() -> None:
    async with opened(Checkpoints(cells=1, mb=20)) as repl:
        await repl.run("small = 1")
        await repl.save()
        assert repl.survivor.saved()[1] is not None
        await repl.run("large = b'x' * 30_000_000")
        await repl.save()
        saved, checkpoint = repl.survivor.saved()
        assert checkpoint is not None
        assert (checkpoint.size < 20_000_000, len(saved.steps)) == (True, 1)
        await repl.kill()
        assert await repl.run("[small, len(large)]") == [1, 30_000_000]


# --- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_cells_are_run_again_with_the_answers_that_they_had_and_nobody_is_asked_again() -> None:
    async with opened() as repl:
        await repl.run("import random\nchance = random.random()\nasked = [ask(0), ask(0)]")
        await repl.run("try:\n    refuse()\nexcept FunctionError as error:\n    refusal = str(error)")
        await repl.run(OVERLAPPING)
        before = await repl.run("[chance, asked, refusal, came, random.random()]")
        # which of the threads is answered first is the scheduler's affair, and must be the same again
        assert sorted(number for number, _ in before[3]) == [1, 2, 3]
        assert sorted(place for _, place in before[3]) == [3, 4, 5]
        await repl.kill()
        assert await repl.run("[chance, asked, refusal, came]") == before[:4]
        assert repl.host.asked == {"ask": 5, "refuse": 1}
        # and goes on as it would have
        assert await repl.run("ask(0)") == [0, 6]
    [back] = repl.told
    assert back == Back(checkpointed=0, repeated=4)


async def test_a_cell_that_kills_its_interpreter_is_not_run_again() -> None:
    async with opened() as repl:
        await repl.run("mine = [1]")
        for _ in range(2):
            with pytest.raises(SandboxCrashed):
                await repl.run(f"mine.append(2)\n{DEADLY}")
            assert await repl.survivor.come_back() == Back(checkpointed=0, repeated=1)
        assert await repl.run("mine") == [1]
    assert repl.told == []


async def test_a_cell_that_read_the_clock_is_undone_with_all_after_it() -> None:
    async with opened() as repl:
        await repl.run("kept = 1")
        await repl.run("import time\nbegan = time.time()")
        await repl.run("kept = 2; later = 3")
        await repl.kill()
        assert await repl.run("[kept, 'began' in globals(), 'later' in globals()]") == [1, False, False]
    [back] = repl.told
    assert (back.repeated, back.lost) == (1, ("began", "later"))
    assert back.undone == ("import time\nbegan = time.time()", "kept = 2; later = 3")


async def test_a_checkpoint_keeps_what_cannot_be_repeated_and_only_later_cells_are_run_again() -> None:
    async with opened(Checkpoints(cells=2)) as repl:
        await repl.run("import time\nbegan = time.time()")
        await repl.save()
        value = await repl.run("asked = ask(0)\nbegan")
        await repl.save()
        await repl.run("later = ask(0)")
        for _ in range(2):
            await repl.kill()
            assert await repl.run("[began, asked, later, context]") == [value, [0, 1], [0, 2], "the context"]
    assert repl.told == [Back(checkpointed=2, repeated=1), Back(checkpointed=2, repeated=2)]


async def test_a_child_that_dies_while_it_is_saved_costs_nothing() -> None:
    async with opened(Checkpoints(cells=1)) as repl:
        await repl.run("mine = ask(0)")
        with anyio.fail_after(60):
            async with repl.survivor.saving():
                os.kill(pid_of(repl.sandbox), signal.SIGKILL)
        assert await repl.run("mine") == [0, 1]
    assert repl.told == [Back(checkpointed=0, repeated=1)]


@pytest.mark.parametrize("changed", ["mine = 5\nprint('other')", DEADLY, "mine = 5\nask(8)", "mine = 5"])
async def test_where_a_cell_comes_to_something_else_it_and_what_follows_are_undone(changed: str) -> None:
    async with opened() as repl:
        await repl.run("mine = 1")
        await repl.run("mine = 5; more = ask(0)\nprint('one')")
        await repl.run("last = 6")
        # as if the same code did something else this time
        steps = repl.survivor._done
        steps[1] = msgspec.structs.replace(steps[1], code=changed)
        await repl.kill()
        assert await repl.run("[mine, 'more' in globals(), 'last' in globals()]") == [1, False, False]
        assert repl.host.asked == {"ask": 1}
    [back] = repl.told
    assert (back.repeated, back.lost, back.undone) == (1, ("more", "last"), (changed, "last = 6"))


async def test_what_the_host_has_set_is_there_again_in_its_place_among_the_cells() -> None:
    async with opened() as repl:
        await repl.survivor.load(history=["a"])
        await repl.run("seen = len(history)")
        await repl.survivor.load(history=["a", "b"])
        await repl.kill()
        assert await repl.run("[seen, history]") == [1, ["a", "b"]]
        await repl.run("import time; time.time()")
        await repl.survivor.load(history=["a", "b", "c"])
        await repl.kill()
        assert await repl.run("[seen, history]") == [1, ["a", "b", "c"]]


async def test_an_answer_that_a_cell_did_not_wait_for_makes_it_one_that_is_not_repeated() -> None:
    async with opened() as repl:
        await repl.run("import threading\nthreading.Thread(target=ask, args=(50,)).start()\nmine = 1")
        await repl.kill()
        assert await repl.run("'mine' in globals()") is False
    assert repl.told[0].lost == ("mine",)
