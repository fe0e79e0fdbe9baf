"""The runs of a store: what is listed of them, and which are removed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Limits, Message, Price, Reply, Store, contexts
from rlm_wasm.runs import StoredRun, listed, pruned, remove
from rlm_wasm.store import Asked, RunBusy, RunFolder

pytestmark = pytest.mark.anyio

DAY = 86_400


class Model:
    """Prints, then says FINAL, but for the step at which it fails or sets `stop`."""

    model = "model"

    def __init__(self, fails: int = 99, stops: int = 99) -> None:
        self.fails, self.stops = fails, stops
        self.stop = anyio.Event()

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        step = sum(message.role == "assistant" for message in messages)
        if step == self.fails:
            raise ClientError("the provider is away")
        if step == self.stops:
            self.stop.set()
            await anyio.sleep_forever()
        code = "print(1)" if step < 1 else "FINAL('seen')"
        return Reply(f"```repl\n{code}\n```", 1000, 10)


def folder(store: Path, number: int, *, age: float = 0, size: int = 0) -> str:
    """A run in a store that has begun, and was last changed so many days ago (of 1,000,000 s since 1970)."""
    run = f"{number:012x}"
    made = RunFolder(store, run)
    made.make(Asked.of(f"question {number}", contexts.Context("x" * size, ""), {}))
    for file in made.path.iterdir():
        os.utime(file, times=(1_000_000 - age * DAY, 1_000_000 - age * DAY))
    return run


async def test_what_became_of_each_run_is_listed(tmp_path: Path) -> None:
    price = {"model": Price(1, 10)}
    with anyio.fail_after(60):
        done = await RLM(Model(), store=tmp_path, prices=price).acompletion("what is it?", context="c")
        with pytest.raises(ClientError):
            await RLM(Model(fails=1), store=tmp_path).acompletion("fails")
        stopping = Model(stops=1)
        stopped = await RLM(stopping, store=tmp_path).acompletion("is stopped", stop=stopping.stop)
        limited = await RLM(Model(), store=tmp_path, limits=Limits(iterations=1)).acompletion("is limited")
    runs = {run.summary.question: run for run in listed(tmp_path) if run.summary is not None}
    assert {name: run.standing for name, run in runs.items()} == {
        "what is it?": "over",
        "fails": "unfinished",
        "is stopped": "unfinished",
        "is limited": "over",
    }
    summary = runs["what is it?"].summary
    assert summary is not None
    assert (summary.iterations, summary.calls, summary.tokens) == (2, 2, 2020)
    assert summary.usd == done.usage.usd == 2020 / 1e6 + 180 / 1e6
    assert (runs["what is it?"].run, summary.stopped_by) == (done.run, "final")
    assert (stopped.stopped_by, limited.stopped_by) == ("cancelled", "iterations")
    assert all(run.size > 100 for run in runs.values())
    # of a run that is over the trace has all there is to know
    assert sorted(os.listdir(tmp_path / done.run)) == ["asked.json", "lock", "summary.json", "trace.jsonl"]


async def test_a_run_that_was_stopped_can_be_resumed(tmp_path: Path) -> None:
    stopping = Model(stops=1)
    with anyio.fail_after(60):
        stopped = await RLM(stopping, store=tmp_path).acompletion("?", stop=stopping.stop)
        assert stopped.response is None
        done = await RLM(Model(), store=tmp_path).resume(stopped.run)
    assert (done.response, done.stopped_by, len(done.trajectory)) == ("seen", "final", 2)


def test_old_runs_are_removed_and_then_the_oldest_of_too_many(tmp_path: Path) -> None:
    ages = [0, 1, 2, 40]
    runs = [folder(tmp_path, number, age=age, size=1_000_000) for number, age in enumerate(ages)]
    assert [run.run for run in listed(tmp_path)] == runs
    assert ids(pruned(Store(tmp_path, days=None, mb=None), now=1_000_000)) == []
    assert ids(pruned(Store(tmp_path), now=1_000_000)) == runs[3:]
    assert ids(pruned(Store(tmp_path, mb=2.5), now=1_000_000)) == runs[2:3]
    assert ids(pruned(Store(tmp_path, mb=0), now=1_000_000)) == runs[:2]
    assert os.listdir(tmp_path) == []


def test_a_run_that_goes_on_is_never_removed(tmp_path: Path) -> None:
    run = folder(tmp_path, 1, age=400)
    with RunFolder(tmp_path, run):
        assert [one.standing for one in listed(tmp_path)] == ["running"]
        assert pruned(Store(tmp_path, mb=0), now=1_000_000) == []
        assert not remove(tmp_path, run)
    assert remove(tmp_path, run)
    with pytest.raises(FileNotFoundError, match="no run"):
        remove(tmp_path, run)


async def test_a_run_that_begins_removes_what_is_too_old(tmp_path: Path) -> None:
    old, other = folder(tmp_path, 1, age=1), tmp_path / "notes"
    other.mkdir()
    with anyio.fail_after(60):
        done = await RLM(Model(), store=Store(tmp_path, mb=0)).acompletion("?")
    assert done.stopped_by == "final"
    assert sorted(os.listdir(tmp_path)) == sorted([done.run, "notes"]), old


def test_a_damaged_run_is_listed_as_such_and_can_be_removed(tmp_path: Path) -> None:
    run = folder(tmp_path, 1)
    (tmp_path / run / "summary.json").write_text("{")
    (tmp_path / "not-a-run").mkdir()
    assert [(one.run, one.standing, one.summary) for one in listed(tmp_path)] == [(run, "damaged", None)]
    assert remove(tmp_path, run)
    with pytest.raises(FileNotFoundError, match="no store"):
        listed(tmp_path / "missing")


@pytest.mark.parametrize("wrong", [{"days": -1}, {"mb": float("nan")}])
def test_a_bound_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        Store(Path("x"), **wrong)


def test_a_busy_run_cannot_be_entered(tmp_path: Path) -> None:
    run = folder(tmp_path, 1)
    with RunFolder(tmp_path, run), pytest.raises(RunBusy), RunFolder(tmp_path, run):
        pass


def ids(runs: Sequence[StoredRun]) -> list[str]:
    return [run.run for run in runs]
