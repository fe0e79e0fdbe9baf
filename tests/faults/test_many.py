"""Many sandboxes at once, and many cells in one: all answer, and nothing grows."""

from __future__ import annotations

import os
import random
from typing import Any

import anyio
import pytest

from rlm_wasm.sandbox import Executed, Sandbox
from tests.processes import memory_mb

pytestmark = pytest.mark.anyio

WITHIN = 120
CELLS = 1_000
SETTLED = 200


async def test_twenty_sandboxes_started_at_once_all_answer(place: Any) -> None:
    found: dict[int, object] = {}
    all_there = anyio.Event()

    async def start(number: int) -> None:
        async with Sandbox(memory_mb=64, functions={"twice": lambda value: 2 * value}) as sandbox:
            await sandbox.load(context="x" * number)
            found[number] = (await sandbox.execute("twice(len(context))")).value
            if len(found) == 20:
                all_there.set()
            # none leaves before the last has come
            await all_there.wait()

    with place.left_clean(), anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(start, number)
    assert found == {number: 2 * number for number in range(20)}


# a cell by its number, and what of it must come back
KINDS = [
    ("{0} * 2", lambda run, number: run.value == number * 2),
    ("print('{0}' * 50)", lambda run, number: run.stdout == f"{number}" * 50 + "\n"),
    ("print('x' * 200_000)", lambda run, number: run.truncated > 0),
    ("undefined_{0}", lambda run, number: "NameError" in run.error),
    ("twice({0})", lambda run, number: run.value == 2 * number),
    ("fail()", lambda run, number: "ValueError" in run.error and "/" not in run.error.splitlines()[-1]),
    ("len([object() for _ in range(20_000)])", lambda run, number: run.value == 20_000),
    ("len(context.replace('a', 'b')) + {0}", lambda run, number: run.value == 1_000_000 + number),
    ("def function_{0}(): return {0}\nfunction_{0}()", lambda run, number: run.value == number),
    ("from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(4).map(twice, range(4)))",
     lambda run, number: run.value == [0, 2, 4, 6]),
    ("FINAL({{'number': {0}}})", lambda run, number: run.final == {"number": number}),
]  # fmt: skip


async def test_a_thousand_cells_in_one_sandbox_all_answer_and_nothing_grows(place: Any) -> None:
    def fail() -> None:
        raise ValueError("a secret in /home/user")

    chosen = random.Random(7)
    host: list[float] = []
    child: list[float] = []
    with place.left_clean(), anyio.fail_after(WITHIN):
        async with Sandbox(functions={"twice": lambda value: 2 * value, "fail": fail}) as sandbox:
            await sandbox.load(context="a" * 1_000_000)
            [pid] = place.processes()
            descriptors = 0
            for number in range(1, CELLS + 1):
                code, holds = chosen.choice(KINDS)
                run: Executed = await sandbox.execute(code.format(number))
                assert holds(run, number), (code, run)
                if number == SETTLED:
                    descriptors = len(os.listdir("/proc/self/fd"))
                if number >= SETTLED and number % 50 == 0:
                    host.append(memory_mb("VmRSS"))
                    child.append(memory_mb("VmRSS", pid))
            assert place.processes() == [pid]
            assert len(os.listdir("/proc/self/fd")) == descriptors
    assert max(host) - host[0] < 30
    assert max(child) - child[0] < 60
