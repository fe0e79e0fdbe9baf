"""Runs that go on from where another stood: by hand, with another question or model, and as several samples."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import (
    RLM,
    CachedClient,
    Checkpoints,
    ClientError,
    Completion,
    Limits,
    Message,
    Reply,
    Samples,
    ScriptedClient,
    Trajectory,
)
from rlm_wasm.events import RunStarted, SandboxReplaced

pytestmark = pytest.mark.anyio

SHARED = "import random\nrows = [llm_query(p) for p in ('a', 'b')]\nlucky = random.random()\nprint(rows, lucky)"
THEN = "rows.append(len(context))\nprint(rows)"


class Model:
    """Writes `cells` in order, by how many replies it is shown; a list in their place is taken from in turn."""

    def __init__(self, *cells: str | list[str | Exception], model: str = "model") -> None:
        self.model = model
        self.cells = cells
        self.root: list[Sequence[Message]] = []
        self.sub: list[str] = []

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        await anyio.lowlevel.checkpoint()
        if len(messages) == 1:
            self.sub.append(messages[0].content)
            return Reply(messages[0].content.upper(), 10, 1)
        cell = self.cells[sum(message.role == "assistant" for message in messages)]
        self.root.append(messages)
        code = cell.pop(0) if isinstance(cell, list) else cell
        if isinstance(code, Exception):
            raise code
        return Reply(f"```repl\n{code}\n```", 100, 20)


async def ran(model: Model, **given: Any) -> Completion:
    with anyio.fail_after(60):
        return await RLM(model, **given).acompletion("what?", context="the context")


# --- by hand -------------------------------------------------------------------------------------------------------


async def test_each_iteration_can_be_looked_into_as_it_was_and_nobody_is_asked_again() -> None:
    model = Model(SHARED, THEN, "rows.clear()", "FINAL('done')")
    done = await ran(model)
    asked = len(model.root), len(model.sub)
    rows: list[Any] = []
    lucky: set[float] = set()
    for iteration in done.trajectory:
        with anyio.fail_after(60):
            async with iteration.fork() as sandbox:
                rows.append(await sandbox.get("rows"))
                lucky.add(await sandbox.get("lucky"))
                assert (await sandbox.execute("print(context, lucky)")).error is None
    assert rows == [["A", "B"], ["A", "B", 11], [], []]
    assert len(lucky) == 1
    assert (len(model.root), len(model.sub)) == asked


async def test_a_fork_calls_the_callers_own_functions_and_no_model() -> None:
    asked: list[str] = []

    def lookup(key: str) -> str:
        asked.append(key)
        return key * 2

    done = await ran(Model("found = lookup('x')", "FINAL(found)"), functions={"lookup": lookup})
    with anyio.fail_after(60):
        async with done.trajectory[0].fork() as sandbox:
            assert asked == ["x"]
            run = await sandbox.execute("print(found, lookup('y'))\nllm_query('z')")
    assert run.output.startswith("xx yy")
    assert run.error is not None
    assert "a fork outside of a run" in run.error
    assert asked == ["x", "y"]


async def test_an_iteration_that_used_the_clock_is_forked_from_a_checkpoint_or_refused() -> None:
    cells = ["import time\nbegan = time.time()", "now = began + 1", "FINAL(now)"]
    done = await ran(Model(*cells), checkpoints=Checkpoints(cells=1, keep=True))
    with anyio.fail_after(60):
        async with done.trajectory[1].fork() as sandbox:
            assert await sandbox.get("now") == done.response
    done = await ran(Model(*cells))
    with pytest.raises(ValueError, match=r"'import time' would not come to the same.*keep=True"), anyio.fail_after(60):
        async with done.trajectory[1].fork():
            pass


async def test_what_did_not_run_here_says_so(tmp_path: Path) -> None:
    done = await ran(Model("x = 1", "FINAL(x)"))
    done.trajectory.save(tmp_path / "run.jsonl")
    for copy in (Trajectory.load(tmp_path / "run.jsonl"), pickle.loads(pickle.dumps(done)).trajectory):
        assert list(copy) == list(done.trajectory)
        with pytest.raises(ValueError, match="cannot be forked"):
            copy[0].fork()


async def test_a_childs_iterations_and_the_last_of_a_run_that_was_stopped_can_be_forked() -> None:
    child = "```repl\ny = len(context)\nFINAL(y)\n```"

    class Root(Model):
        async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
            if "of the child" in messages[1].content:
                return Reply(child, 1, 1)
            return await super().complete(messages)

    done = await ran(Root("v = rlm_query('of the child', 'four')", "w = 2", "w = 3"), limits=Limits(iterations=2))
    assert done.stopped_by == "iterations"
    with anyio.fail_after(60):
        async with done.children[0].trajectory[0].fork() as sandbox:
            assert await sandbox.get("y") == 4
        assert [len(done.trajectory), done.trajectory[-1].number] == [3, 3]
        for index, w in ((1, 2), (2, 3)):
            async with done.trajectory[index].fork() as sandbox:
                assert [await sandbox.get(name) for name in ("v", "w")] == [4, w]


# --- with another model, question or prompt ------------------------------------------------------------------------


async def test_another_model_goes_on_from_an_iteration() -> None:
    first, other = Model(SHARED, THEN, "FINAL(1)"), Model("never", "FINAL([rows, lucky])", model="other")
    done = await ran(first)
    with anyio.fail_after(60):
        branched = await RLM(other).branch(done.trajectory[0])
    assert branched.response[0] == ["A", "B"]
    assert str(branched.response[1]) in done.trajectory[0].cells[0].output
    assert [iteration.number for iteration in branched.trajectory] == [1, 2]
    assert branched.trajectory[0] == done.trajectory[0]
    # what was shared was not asked or paid again, and the model is shown the same
    assert (first.sub, other.sub, len(other.root)) == (["a", "b"], [], 1)
    assert other.root[0] == first.root[1]
    assert (branched.usage.calls, branched.usage.input_tokens) == (1, 100)
    assert set(branched.usage.by_model) == {"other"}


async def test_another_question_is_asked_of_the_same_variables() -> None:
    model = Model("x = len(context)", "FINAL(x)", "FINAL({'twice': 2 * x})")
    done = await ran(model)
    with anyio.fail_after(60):
        more = await RLM(model).branch(done.trajectory[-1], question="and twice that?", output=dict[str, int])
    assert (done.response, more.response, more.question) == (11, {"twice": 22}, "and twice that?")
    last = model.root[-1][-1]
    assert last.role == "user"
    assert "was accepted" in last.content
    assert last.content.endswith("Question: and twice that?")
    assert [iteration.number for iteration in more.trajectory] == [1, 2, 3]


async def test_a_note_is_told_and_limits_count_from_the_branch() -> None:
    model = Model("x = 1", "x = 2", "x = 3", "FINAL('best')")
    done = await ran(model, limits=Limits(iterations=2))
    told: list[Sequence[Message]] = []
    with anyio.fail_after(60):
        rlm = RLM(Model("", "x = 10", "x += 1", "FINAL(x)"), limits=Limits(iterations=2))
        branched = await rlm.branch(done.trajectory[0], note="Hurry up.")
        told += rlm.models.root.root  # type: ignore[attr-defined]
    assert (branched.response, branched.stopped_by) == (11, "iterations")
    assert "Hurry up." in told[0][-1].content
    with pytest.raises(ValueError, match="empty"), anyio.fail_after(60):
        await rlm.branch(done.trajectory[0], question=" ")


@pytest.mark.parametrize("act", ["fences", "tool"])
async def test_every_way_to_act_can_be_gone_on_with(act: Literal["fences", "tool"]) -> None:
    script = ["```repl\nx = 5\n```", "```repl\nFINAL(x)\n```", "```repl\nFINAL(x + 1)\n```"]
    with anyio.fail_after(60):
        rlm = RLM(ScriptedClient(script), act=act)
        done = await rlm.acompletion("what?", context="c")
        more = await rlm.branch(done.trajectory[-1], question="more?")
    assert (done.response, more.response) == (5, 6)


async def test_a_branch_of_a_branch_and_its_trace(tmp_path: Path) -> None:
    trace = tmp_path / "all.jsonl"
    model = Model("x = [1]", "x.append(2)\nprint(x)", "x.append(3)\nFINAL(x)")
    done = await ran(model, trace=trace)
    with anyio.fail_after(60):
        rlm = RLM(model, trace=trace)
        one = await rlm.branch(done.trajectory[0])
        two = await rlm.branch(one.trajectory[1])
    assert two.response == [1, 2, 3]
    for each in (done, one, two):
        loaded = Trajectory.load(trace, each.run)
        assert list(loaded) == list(each.trajectory)
        assert loaded.completion == each
        each.trajectory.save(tmp_path / "one.jsonl")
        assert Trajectory.load(tmp_path / "one.jsonl").completion == each
    begun = [event for event in Trajectory.load(trace, two.run).events if isinstance(event, RunStarted)]
    assert [(event.branch.run, event.branch.iteration) for event in begun if event.branch] == [(one.run, 2)]
    assert not any(isinstance(event, SandboxReplaced) for event in two.trajectory.events)


async def test_a_sandbox_that_dies_in_a_branch_comes_back() -> None:
    done = await ran(Model("x = [1]\nllm_query('a')", "FINAL(x)"))
    killer = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()"
    model = Model("", killer, "FINAL(x)")
    with anyio.fail_after(60):
        branched = await RLM(model).branch(done.trajectory[0])
    assert (branched.response, model.sub) == ([1], [])


# --- samples -------------------------------------------------------------------------------------------------------


async def sampled(model: Model, samples: int | Samples, **given: Any) -> Completion:
    with anyio.fail_after(90):
        return await RLM(model, **given).acompletion("what?", context="the context", samples=samples)


async def test_samples_share_the_first_iteration_and_the_vote_decides() -> None:
    model = Model(SHARED, ["FINAL('six')", "FINAL(['seven', lucky])", "FINAL(['seven', lucky])"])
    done = await sampled(model, 3)
    assert done.response[0] == "seven"
    assert sorted(str(one.response)[:2] for one in done.samples) == ["['", "['", "si"]
    # the first iteration was had once, with its two calls
    assert (len(model.root), model.sub) == (4, ["a", "b"])
    assert (done.usage.calls, done.usage.input_tokens) == (6, 420)
    assert [one.trajectory[0] for one in done.samples] == [done.trajectory[0]] * 3
    assert len({one.run for one in done.samples}) == 3


async def test_a_run_that_ends_at_once_is_one_of_the_samples() -> None:
    model = Model(["FINAL(1)", "FINAL(2)", "FINAL(2)"])
    done = await sampled(model, 3)
    assert (done.response, len(model.root), len(done.samples)) == (2, 3, 3)


async def test_samples_may_share_the_context_alone() -> None:
    model = Model(["x = 1", "x = 2"], "FINAL(x)")
    done = await sampled(model, Samples(count=2, after=0))
    assert sorted(one.response for one in done.samples) == [1, 2]


async def test_a_function_or_a_judge_chooses() -> None:
    def longest(done: Sequence[Completion]) -> int:
        return max(range(len(done)), key=lambda index: len(done[index].response))

    answers = ["FINAL('a')", "FINAL('abc')", "FINAL('ab')"]
    done = await sampled(Model("x = 1", [*answers]), Samples(count=3, choose=longest))
    assert done.response == "abc"

    class Judge:
        model = "judge"
        asked = ""

        async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
            self.asked = messages[0].content
            number = self.asked[: self.asked.index("\nab\n")].rindex("Answer ") + len("Answer ")
            return Reply(f"The second looks well. {self.asked[number]}", 7, 3)

    judge = Judge()
    done = await sampled(Model("x = 1", [*answers]), Samples(count=3, choose=judge))
    assert done.response == "ab"
    assert "Question: what?" in judge.asked
    assert done.usage.by_model["judge"].input_tokens == 7
    # with one answer there is nothing to judge
    judge.asked = ""
    done = await sampled(Model("x = 1", "FINAL('ab')"), Samples(count=2, choose=judge))
    assert (done.response, judge.asked) == ("ab", "")


async def test_samples_that_fail_leave_the_others_and_all_together_fail() -> None:
    away = ClientError("away")
    done = await sampled(Model("x = 1", ["FINAL('a')", away, "FINAL('a')"]), 3)
    assert (done.response, [one.stopped_by for one in done.samples].count("errors")) == ("a", 1)
    with pytest.raises(ClientError, match="away"):
        await sampled(Model([away, away]), 2)


async def test_one_budget_holds_over_all_samples() -> None:
    model = Model(SHARED, "y = [llm_query(str(i)) for i in range(3)]", "FINAL(len(y))")
    done = await sampled(model, 3, limits=Limits(calls=6))
    assert len(model.sub) == 6
    assert {one.stopped_by for one in done.samples} <= {"final", "calls"}
    assert "calls" in {one.stopped_by for one in done.samples}


async def test_bad_samples_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        await sampled(Model(), 0)
    with pytest.raises(ValueError, match="0 or more"):
        Samples(count=2, after=-1)
    with pytest.raises(ValueError, match="store"):
        await sampled(Model(), 2, store=tmp_path)
    with pytest.raises(TypeError, match="index of a completion"):
        await sampled(Model("x = 1", "FINAL(x)"), Samples(count=2, choose=lambda done: "first"))  # type: ignore[arg-type, return-value]


async def test_a_branch_may_have_samples_too() -> None:
    done = await ran(Model("import random\nx = random.random()", "FINAL(x)"))
    model = Model("", ["FINAL([x, 1])", "FINAL([x, 2])", "FINAL([x, 2])"])
    with anyio.fail_after(90):
        branched = await RLM(model).branch(done.trajectory[0], samples=3)
    assert branched.response == [done.response, 2]


async def test_the_sub_models_cache_serves_every_sample(tmp_path: Path) -> None:
    model = Model("x = 1", "FINAL(llm_query('same'))")
    cached = CachedClient(model, tmp_path / "cache.sqlite")
    with anyio.fail_after(90):
        done = await RLM(model, sub_model=cached).acompletion("?", context="c", samples=2)
    assert (done.response, model.sub) == ("SAME", ["same"])
