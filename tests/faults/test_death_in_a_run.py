"""Runs whose sandboxes are killed or stopped at random points: there is an answer, or an error that loses nothing."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Limits
from rlm_wasm.clients import Message
from rlm_wasm.clients.protocol import Reply
from rlm_wasm.errors import RLMError
from rlm_wasm.events import CellStarted
from rlm_wasm.sandbox import sandbox as sandbox_module
from rlm_wasm.sandbox.session import Session, background_tasks
from rlm_wasm.trajectory import Completion

pytestmark = pytest.mark.anyio

WITHIN = 60
CONTEXT = "a line of the corpus\n" * 5_000
# each needs what those before it have made
CELLS = [
    "trail = [[len(context[start::3]) for start in range(3)]]\nprint(len(trail))",
    "trail.append(llm_query('piece: ' + context[:40]))\nprint(len(trail))",
    "trail += [llm_query_batched([f'piece: {number}' for number in range(6)])]\nprint(len(trail))",
    "trail.append(rlm_query('how long is it?', context[:1000]))\nprint(len(trail))",
    "trail.append(sum(number * number for number in range(200_000)))\nprint(len(trail))",
    "FINAL([*trail, len(context)])",
]
TRAIL = [[35_000] * 3, "heard", ["heard"] * 6, 1000, sum(number * number for number in range(200_000))]
CHILD_CELLS = ["print(llm_query('piece: ' + context[:20]))", "FINAL(len(context))"]


class Model:
    """Root model, child's model and sub model in one; knows where it is by the messages alone.

    A cell that was lost it writes again, and the cells before it if they are said to be undone.
    """

    model = "faulty"

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        await anyio.sleep(0.005)
        if messages[-1].content.startswith("piece: "):
            return Reply("heard", 10, 1)
        cells = CHILD_CELLS if any("how long is it?" in message.content for message in messages[:2]) else CELLS
        step = 0
        for message in messages:
            if message.role == "user" and "REPL output" in message.content:
                undone = re.search(r"is also what the (\d+ )?cells? before it", message.content)
                step += "What this cell did is undone" not in message.content
                step -= 0 if undone is None else int(undone[1] or 1)
        return Reply(f"```repl\n{cells[min(step, len(cells) - 1)]}\n```", 100, 20)


class Saboteur:
    """Sends a signal to one of the sandboxes, a few milliseconds after each of some events of the run.

    `targets` gives the processes that may be hit.
    """

    def __init__(self, targets: Callable[[], list[int]], number: signal.Signals, seed: int) -> None:
        self._targets = targets
        self._number = number
        self._random = random.Random(seed)
        self._at = {self._random.randrange(2, 28) for _ in range(2)}
        self._due = anyio.Semaphore(0)
        self.events: list[object] = []
        self.sent = 0

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        if len(self.events) in self._at:
            self._due.release()

    async def work(self) -> None:
        while True:
            await self._due.acquire()
            await anyio.sleep(self._random.uniform(0, 0.03))
            found = self._targets()
            if found:
                with suppress(ProcessLookupError):
                    os.kill(self._random.choice(found), self._number)
                    self.sent += 1


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_PING_EVERY", 0.1)
    monkeypatch.setattr(sandbox_module, "_PING_WITHIN", 1.0)


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The children that have answered their greeting."""
    found: set[int] = set()
    initialize = sandbox_module.initialize

    async def noted(session: Session, *arguments: Any) -> Any:
        done = await initialize(session, *arguments)
        found.add(session._child.pid)
        return done

    monkeypatch.setattr(sandbox_module, "initialize", noted)
    return found


async def run_under_fire(saboteur: Saboteur) -> Completion:
    rlm = RLM(Model(), limits=Limits(iterations=20), listeners=[saboteur])
    with anyio.fail_after(WITHIN):
        async with background_tasks() as tasks:
            tasks.start_soon(saboteur.work)
            try:
                return await rlm.acompletion("what is in it?", context=CONTEXT)
            except RLMError as error:
                partial = error.partial
    # only before the first cell is a lost sandbox the end of a run
    assert not any(isinstance(event, CellStarted) for event in saboteur.events)
    assert isinstance(partial, Completion)
    return partial


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("seed", range(1, 9))
async def test_a_run_whose_sandboxes_are_lost_at_random_points_has_its_answer_all_the_same(
    place: Any, booted: set[int], seed: int
) -> None:
    number = signal.SIGKILL if seed % 2 else signal.SIGSTOP
    # a start that is lost costs seconds, because another is made without the image: some of them are enough
    with_starts = seed in (1, 5)
    with place.left_clean():
        saboteur = Saboteur(
            lambda: [pid for pid in place.processes() if with_starts or pid in booted],
            number,
            seed,
        )
        completion = await run_under_fire(saboteur)
    assert saboteur.sent > 0
    assert (completion.usage.calls > 0) == bool(completion.trajectory)
    if completion.trajectory:
        assert (completion.stopped_by, completion.response) == ("final", [*TRAIL, len(CONTEXT)])
        assert completion.usage.calls >= len(completion.trajectory) >= len(CELLS)
        lost = [cell for iteration in completion.trajectory for cell in iteration.cells if cell.executed is None]
        assert len(lost) <= saboteur.sent
        assert all(cell.error for cell in lost)
