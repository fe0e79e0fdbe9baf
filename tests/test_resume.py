"""Runs that go on after the program that ran them was ended."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Checkpoints, ClientError, Completion, Limits, Message, Reply
from rlm_wasm.store import RunBusy, RunFolder

pytestmark = pytest.mark.anyio

CELLS = [
    "import time\nbegan = time.time()\ntrail = [llm_query('first')]\nprint(len(context))",
    "trail.append(llm_query('second'))\nprint(trail)",
    "trail.append(llm_query('third'))\nprint(trail)",
    "FINAL([trail, type(began).__name__, len(context)])",
]


KILLED = """
import os, signal, sys
import anyio
from pathlib import Path
from tests.test_resume import Model, rlm

def hear(event):
    if type(event).__name__ == "CallFinished" and event.call == 3:
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(lambda: rlm(Model(), Path(sys.argv[1]), listeners=[hear]).acompletion("what?", context="the context"))
"""


class Model:
    """Writes the cells in order, and fails instead of the `last`, from 0; notes what it is asked."""

    model = "model"

    def __init__(self, last: int = 99, failure: Exception | None = None) -> None:
        self.last, self.failure = last, failure or AssertionError()
        self.root: list[int] = []
        self.sub: list[str] = []

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        await anyio.sleep(0.01)
        if len(messages) == 1:
            self.sub.append(messages[0].content)
            return Reply(messages[0].content.upper(), 10, 1)
        step = sum(message.role == "assistant" for message in messages)
        if step >= self.last:
            raise self.failure
        self.root.append(step)
        return Reply(f"```repl\n{CELLS[step]}\n```", 100, 20)


def rlm(model: Model, store: Path, **given: Any) -> RLM:
    return RLM(model, store=store, checkpoints=Checkpoints(cells=1), **given)


async def begin(model: Model, store: Path, **given: Any) -> str:
    """Begin a run that does not end; gives its id."""
    with pytest.raises(ClientError), anyio.fail_after(60):
        await rlm(model, store, **given).acompletion("what?", context="the context")
    [run] = os.listdir(store)
    return run


async def resume(model: Model, store: Path, run: str, **given: Any) -> Completion:
    with anyio.fail_after(60):
        return await rlm(model, store, **given).resume(run)


@pytest.mark.parametrize("last", [0, 1, 2, 3])
async def test_a_run_goes_on_after_its_last_iteration_and_pays_nothing_twice(tmp_path: Path, last: int) -> None:
    store = tmp_path / "runs"
    first = Model(last, ClientError("the provider is away"))
    run = await begin(first, store)
    assert stat.S_IMODE((store / run).stat().st_mode) == 0o700
    second = Model()
    done = await resume(second, store, run)
    assert (done.stopped_by, done.run) == ("final", run)
    assert done.response == [["FIRST", "SECOND", "THIRD"], "float", 11]
    assert first.root + second.root == [0, 1, 2, 3]
    assert first.sub + second.sub == ["first", "second", "third"]
    assert [step.number for step in done.trajectory] == [1, 2, 3, 4]
    assert [len(step.calls) for step in done.trajectory] == [1, 1, 1, 0]
    assert (done.usage.input_tokens, done.usage.output_tokens) == (430, 83)
    # it is over: nobody is asked, and its completion is what it was
    third = Model()
    again = await resume(third, store, run)
    assert (again.response, again.usage.tokens, third.root) == (done.response, done.usage.tokens, [])
    assert [step.reply for step in again.trajectory] == [step.reply for step in done.trajectory]


async def test_a_run_whose_host_was_killed_goes_on_in_another_process(tmp_path: Path) -> None:
    program = [sys.executable, "-c", KILLED, str(tmp_path)]
    folder = Path(__file__).parent.parent
    with anyio.fail_after(120):
        ended = await anyio.run_process(program, check=False, cwd=folder)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    [run] = os.listdir(tmp_path)
    model = Model()
    done = await resume(model, tmp_path, run)
    assert done.response == [["FIRST", "SECOND", "THIRD"], "float", 11]
    # what the killed one had asked after its second iteration is asked again, and was charged
    assert (model.root, model.sub) == ([2, 3], ["third"])
    assert done.usage.calls == 4 + 3 + 2


async def test_two_cannot_go_on_with_one_run_at_once(tmp_path: Path) -> None:
    run = await begin(Model(1, ClientError("away")), tmp_path)
    with RunFolder(tmp_path, run), pytest.raises(RunBusy, match="goes on elsewhere"):
        await resume(Model(), tmp_path, run)
    assert (await resume(Model(), tmp_path, run)).stopped_by == "final"


async def test_what_was_spent_counts_against_the_limits(tmp_path: Path) -> None:
    limits = Limits(calls=2)
    run = await begin(Model(2, ClientError("away")), tmp_path, limits=limits)
    done = await resume(Model(), tmp_path, run, limits=limits)
    assert done.stopped_by == "calls"


async def test_a_run_of_another_setting_or_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = await begin(Model(1, ClientError("away")), tmp_path)
    with pytest.raises(ValueError, match="set up otherwise"):
        await resume(Model(), tmp_path, run, limits=Limits(calls=3))
    with pytest.raises(FileNotFoundError, match="no run"):
        await resume(Model(), tmp_path, "0123456789ab")
    for wrong in ("../" + run, ""):
        with pytest.raises(ValueError, match="no id"):
            await resume(Model(), tmp_path, wrong)
    with pytest.raises(ValueError, match="no store"):
        await RLM(Model()).resume(run)


async def test_a_full_disk_costs_only_that_the_run_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: RunFolder, state: Any, checkpoint: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, "keep", full)
    with anyio.fail_after(60):
        done = await rlm(Model(), tmp_path).acompletion("what?", context="the context")
    assert done.stopped_by == "final"
    assert f"run {done.run} is not kept as of iteration 1" in caplog.text
    assert "No space left" in caplog.text
