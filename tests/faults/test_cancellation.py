"""Cancellation and Ctrl-C at random points of a sandbox's life: nothing of it is left, and the next one starts."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import rlm_wasm
from rlm_wasm.sandbox import Sandbox
from rlm_wasm.sandbox import sandbox as sandbox_module

pytestmark = pytest.mark.anyio

WITHIN = 60
CONTEXT = "x" * 12_000_000
CELLS = {
    "computing": "while True: pass",
    "waiting": "wait()",
    "batch": "import asyncio\nawait asyncio.gather(*(asyncio.to_thread(wait) for _ in range(8)))",
    "printing": "while True: print('x' * 100)",
}
# seconds within which the fault comes, from the beginning of that part of a life
MOMENTS = {"start": 0.4, "load": 0.05, "execute": 0.1, "close": 0.03}


class Life:
    """A sandbox that is opened, loaded, used and closed; `delay` seconds into one part of that it is cancelled."""

    def __init__(self, part: str, delay: float, code: str = "1 + 1") -> None:
        self._part = part
        self._delay = delay
        self._code = code
        self._scope = anyio.CancelScope()
        self.reached: list[str] = []

    def _begin(self, part: str) -> None:
        self.reached.append(part)
        self._scope.deadline = anyio.current_time() + self._delay if part == self._part else math.inf

    async def live(self) -> None:
        async def wait() -> None:
            await anyio.sleep_forever()

        with self._scope:
            self._begin("start")
            async with Sandbox(functions={"wait": wait}) as sandbox:
                self._begin("load")
                await sandbox.load(context=CONTEXT)
                self._begin("execute")
                await sandbox.execute(self._code if self._part == "execute" else "1 + 1")
                self._begin("close")


@pytest.mark.parametrize("seed", range(1, 21))
async def test_a_life_that_is_cancelled_at_a_random_point_leaves_nothing(place: Any, seed: int) -> None:
    chosen = random.Random(seed)
    part = list(MOMENTS)[seed % len(MOMENTS)]
    life = Life(part, chosen.uniform(0, MOMENTS[part]), chosen.choice(list(CELLS.values())))
    with place.left_clean(), anyio.fail_after(WITHIN):
        await life.live()
    assert part in life.reached


@pytest.mark.both_backends
async def test_lives_that_are_cancelled_from_outside_leave_a_program_that_can_start_another(place: Any) -> None:
    chosen = random.Random(1)
    with place.left_clean(), anyio.fail_after(WITHIN):
        for _ in range(4):
            with anyio.move_on_after(chosen.uniform(0, 0.8)):
                await Life("none", 0).live()
        async with Sandbox() as sandbox:
            assert (await sandbox.execute("6 * 7")).value == 42


async def test_a_cancelled_cell_or_load_leaves_a_sandbox_that_answers(place: Any) -> None:
    chosen = random.Random(2)
    with place.left_clean(), anyio.fail_after(WITHIN):

        async def wait() -> None:
            await anyio.sleep_forever()

        async with Sandbox(functions={"wait": wait}) as sandbox:
            # "batch" is left out: about one in a hundred of its interrupts kills the interpreter
            for number, code in enumerate([CELLS["computing"], CELLS["waiting"], CELLS["printing"]] * 3):
                with anyio.move_on_after(chosen.uniform(0, 0.05)):
                    await sandbox.load(context=CONTEXT)
                with anyio.move_on_after(chosen.uniform(0, 0.05)):
                    await sandbox.execute(code)
                assert (await sandbox.execute(f"{number} + 1")).value == number + 1


async def test_loads_that_are_cancelled_give_their_memory_back(place: Any) -> None:
    with place.left_clean(), anyio.fail_after(WITHIN):
        async with Sandbox(memory_mb=128) as sandbox:
            parts = sandbox_module.Variable.parts
            for _ in range(20):
                with anyio.CancelScope() as scope, pytest.MonkeyPatch.context() as patch:

                    def cut(variable: Any, scope: anyio.CancelScope = scope) -> Iterator[bytes]:
                        yield next(parts(variable))
                        scope.cancel()
                        yield b""

                    patch.setattr(sandbox_module.Variable, "parts", cut)
                    await sandbox.load(context=CONTEXT)
                assert scope.cancelled_caught
            await sandbox.load(context=CONTEXT)
            assert (await sandbox.execute("len(context)")).value == len(CONTEXT)


PROGRAM = """
import sys, time
import anyio
from rlm_wasm import RLM, ScriptedClient

def told(event):
    if type(event).__name__ == MOMENT:
        sys.stdout.write("now\\n")
        sys.stdout.flush()

async def wait():
    await anyio.sleep_forever()

async def never(prompt):
    await anyio.sleep_forever()

sub = ScriptedClient(rules={"": never}, model="sub")
client = ScriptedClient([f"```repl\\n{CELL}\\n```"] * 3)
rlm = RLM(client, sub_model=sub, functions={"wait": wait}, listeners=[told])
try:
    rlm.completion("what?", context="x" * 1_000_000)
except KeyboardInterrupt:
    sys.stdout.write("interrupted\\n")
"""
INTERRUPTED = {
    "starting": ("RunStarted", "1"),
    "computing": ("Printed", "print('here')\nwhile True: pass"),
    "waiting for a host function": ("Printed", "print('here')\nwait()"),
    "waiting for a model": ("CallStarted", "llm_query('x')"),
    "waiting for a child run": ("CellStarted", "rlm_query('x', 'y')"),
}


@pytest.mark.parametrize(("moment", "cell"), INTERRUPTED.values(), ids=INTERRUPTED)
def test_a_completion_that_is_interrupted_by_ctrl_c_leaves_nothing(
    place: Any, moment: str, cell: str, request: pytest.FixtureRequest
) -> None:
    program = f"MOMENT, CELL = {moment!r}, {cell!r}\n{PROGRAM}"
    environment = {**os.environ, "PYTHONPATH": str(Path(rlm_wasm.__file__).parents[1]), "TMPDIR": str(place.folder)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=WITHIN)
        finally:
            process.kill()
    assert said.splitlines()[-1] == "interrupted"
    assert complained == ""
    assert process.returncode == 0
    assert place.processes() == []
    assert os.listdir(place.folder) == []
