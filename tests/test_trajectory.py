"""Trajectories: tuples that know their events, and completions made again of a trace, equal to the original."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm import (
    RLM,
    ClientError,
    Completion,
    Limits,
    Price,
    Reply,
    SandboxOptions,
    ScriptedClient,
    Trajectory,
)
from rlm_wasm import trace_file as traces
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.events import IterationFinished, RootReplied, RunStarted
from rlm_wasm.trajectory import Iteration, rebuild

pytestmark = pytest.mark.anyio


def repl(*cells: str) -> str:
    return "\n\n".join(f"```repl\n{code}\n```" for code in cells)


def assert_same(one: Any, other: Any, where: str = "done") -> None:
    """Field by field, so that a difference is told by its place. Limits are errors, and compared by what they say."""
    assert type(one) is type(other), where
    if isinstance(one, msgspec.Struct):
        for name in one.__struct_fields__:
            assert_same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, Exception):
        assert (str(one), vars(one)) == (str(other), vars(other)), where
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other), where
        for number, (item, twin) in enumerate(zip(one, other, strict=True)):
            assert_same(item, twin, f"{where}[{number}]")
    elif isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    else:
        assert one == other, where


class Launch(msgspec.Struct):
    name: str
    revenue: float


_THREE_FAIL = "try:\n    llm_query_batched(['a', 'fail', 'c'])\nexcept Exception as error:\n    print(error)"
_CHILDREN = "print(rlm_query_batched(['One?', 'Two?'], ['1', '2']))"
_DEEP = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()"
RUNS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "an answer at once": ([repl("FINAL((1, {2}, b'x', 2**70, {None: 1.5}))")], {}),
    "plain text, then two cells": (
        ["I think.", repl("x = 1\nx", "import sys\nprint(x, file=sys.stderr)\n1 / 0"), repl("FINAL(4)")],
        {},
    ),
    "a batch of which one fails": ([repl(_THREE_FAIL), repl("FINAL(budget()['calls_left'])")], {}),
    "children": ([repl(_CHILDREN), *[repl("print(context)\nFINAL(llm_query('q'))")] * 2, repl("FINAL(1)")], {}),
    "a grandchild": (
        [repl("FINAL(rlm_query('A?'))"), repl("FINAL(rlm_query('B?'))"), repl("FINAL(rlm_query('C?'))")],
        {"limits": Limits(depth=2)},
    ),
    "a child that fails": (
        [repl("rlm_query('A?')"), ClientError("down"), repl("FINAL(1)")],
        {},
    ),
    "an interrupted cell": (
        [repl("print(1, flush=True)\nwhile True: pass"), repl("FINAL(1)")],
        {"sandbox": SandboxOptions(timeout=0.3)},
    ),
    "a lost sandbox": ([repl("x = 1"), repl(_DEEP), repl("FINAL('x' in globals())")], {}),
    "iterations": ([repl("1"), repl("2"), repl("FINAL('a guess')")], {"limits": Limits(iterations=2)}),
    "a closing answer that cannot be had": ([repl("1"), ClientError("down")], {"limits": Limits(iterations=1)}),
    "calls": ([repl("llm_query('a')\nllm_query('b')"), "a guess"], {"limits": Limits(calls=1)}),
    "errors": ([repl("1 / 0"), "a guess"], {"limits": Limits(errors=1)}),
    "dollars": (
        [repl("print(llm_query('a'))"), repl("FINAL(1)")],
        {"limits": Limits(usd=1.0), "prices": {"root": Price(1, 2), "sub": Price(0.5, 1)}},
    ),
    "a refused answer": ([repl("FINAL('none')"), repl("FINAL(3)")], {"output": int}),
    "an answer that never fits": ([repl("FINAL('none')")] * 3, {"output": int, "limits": Limits(iterations=2)}),
    "a typed answer": ([repl("FINAL({'name': 'x', 'revenue': 2})")], {"output": Launch}),
    "a provider's own cache": ([Reply(repl("FINAL(1)"), 10, 2, cache_reads=5, cache_writes=3)], {}),
    "the tool": ([run_python("print(1)"), run_python("FINAL(2)")], {"act": "tool"}),
    "citations": ([repl("cite('the text')\nFINAL(1)")], {"context": "this is the text"}),
    "a first look": ([repl("FINAL(1)")], {"dialect": "fast-rlm", "context": "abc"}),
    "a summary": (
        [*[repl(f"print('{letter}' * 6000)") for letter in "abcdef"], *["A summary."] * 3, *[repl("FINAL(1)")] * 3],
        {"windows": {"root": 9000}},
    ),
}


# that a run is what its name says
SIGNS: dict[str, Callable[[Completion], object]] = {
    "children": lambda done: len(done.children) == 2,
    "a child that fails": lambda done: done.children[0].stopped_by == "errors",
    "an interrupted cell": lambda done: cells(done)[0].executed.timed_out,
    "a lost sandbox": lambda done: [cell.executed is None for cell in cells(done)] == [False, True, False],
    "iterations": lambda done: (done.stopped_by, done.response) == ("iterations", "a guess"),
    "calls": lambda done: done.limit is not None and done.limit.limit == "calls",
    "a refused answer": lambda done: done.partial == "none",
    "a typed answer": lambda done: isinstance(done.response, Launch),
    "citations": lambda done: done.citations[0].found,
    "a summary": lambda done: any("A summary." in str(event) for event in done.trajectory.events),
}


def cells(done: Completion) -> list[Any]:
    return [cell for iteration in done.trajectory for cell in iteration.cells]


def fails(prompt: str) -> str:
    if prompt == "fail":
        raise ClientError("refused")
    return f"answer to {prompt}"


async def completed(path: Path, replies: list[Any], given: dict[str, Any]) -> Completion:
    asked = {name: given[name] for name in ("context", "output", "stop") if name in given}
    chosen = {name: value for name, value in given.items() if name not in asked}
    sub = ScriptedClient(rules={"": fails}, model="sub")
    rlm = RLM(ScriptedClient(replies, model="root"), sub_model=sub, trace=path, **chosen)
    with anyio.fail_after(120):
        return await rlm.acompletion("How many?", **asked)


@pytest.mark.parametrize("name", list(RUNS))
async def test_a_completion_made_again_of_its_trace_equals_the_original(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.jsonl"
    done = await completed(path, *RUNS[name])
    assert SIGNS.get(name, bool)(done)
    again = Trajectory.load(path).completion
    if name == "a typed answer":
        # a file knows no classes
        assert again.response == {"name": "x", "revenue": 2.0}
        again = msgspec.structs.replace(again, response=done.response)
    assert_same(again, done)
    assert not again.trajectory.cut_off
    if name != "a typed answer":
        assert again.trajectory.events == done.trajectory.events
    # of the events that were kept it is the same without a file
    assert_same(done.trajectory.completion, done)


async def test_a_cancelled_run_and_one_that_failed_come_back_too(tmp_path: Path) -> None:
    stop = anyio.Event()

    async def stopping(prompt: str) -> str:
        stop.set()
        await anyio.sleep_forever()
        return ""

    path = tmp_path / "t.jsonl"
    sub = ScriptedClient(rules={"": stopping}, model="sub")
    cell = "print('seen', flush=True)\nllm_query('a')"
    with anyio.fail_after(60):
        rlm = RLM(ScriptedClient([repl(cell)], model="root"), sub_model=sub, trace=path)
        done = await rlm.acompletion("How many?", stop=stop)
    assert done.stopped_by == "cancelled"
    assert done.trajectory[0].cells[0].output == "seen\n"
    assert_same(Trajectory.load(path).completion, done)

    rlm = RLM(ScriptedClient([repl("1"), ClientError("down")], model="root"), trace=path)
    with anyio.fail_after(60), pytest.raises(ClientError) as failure:
        await rlm.acompletion("How many?")
    assert_same(Trajectory.load(path).completion, failure.value.partial)


async def test_a_run_that_was_cut_off_comes_back_as_far_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    done = await completed(path, *RUNS["children"])
    lines = path.read_text("utf-8").splitlines(keepends=True)
    whole = Trajectory.load(path)
    for length in range(2, len(lines)):
        path.write_text("".join(lines[:length]), "utf-8")
        cut = Trajectory.load(path)
        again = cut.completion
        assert cut.cut_off
        assert (again.stopped_by, again.response, again.question) == ("cancelled", None, "How many?")
        assert again.usage.calls <= done.usage.calls
        assert [iteration.reply for iteration in cut] == [iteration.reply for iteration in whole[: len(cut)]]
        ended = sum(isinstance(event, IterationFinished) and event.depth == 0 for event in cut.events)
        assert_same(tuple(cut)[:ended], tuple(whole)[:ended])
    # all but the end of the root's run is there
    assert again.usage == msgspec.structs.replace(done.usage, estimated=False, by_model=again.usage.by_model)
    assert {name: used.calls for name, used in again.usage.by_model.items()} == {"root": 4, "sub": 2}


async def test_of_a_file_with_several_runs_the_last_or_the_one_named_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = await completed(path, *RUNS["children"])
    last = await completed(path, *RUNS["an answer at once"])
    assert Trajectory.load(path).run == last.run
    assert_same(Trajectory.load(path, first.run).completion, first)
    child = first.children[0]
    assert_same(Trajectory.load(path, child.run).completion, child)
    with pytest.raises(ValueError, match=f"holds no run nobody; the runs in it are: {first.run}, "):
        Trajectory.load(path, "nobody")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="holds no run; the runs in it are: none"):
        Trajectory.load(tmp_path / "empty.jsonl")


async def test_the_events_of_a_run_are_its_own_and_its_childrens(tmp_path: Path) -> None:
    done = await completed(tmp_path / "t.jsonl", *RUNS["a grandchild"])
    (child,) = done.children
    (grandchild,) = child.children
    runs = [done.run, child.run, grandchild.run]
    for number, completion in enumerate((done, child, grandchild)):
        assert {event.run for event in completion.trajectory.events} == set(runs[number:])
        assert isinstance(completion.trajectory.events[0], RunStarted)
        assert completion.trajectory.run == completion.run


async def test_a_trajectory_is_a_tuple_that_can_be_saved_copied_and_pickled(tmp_path: Path) -> None:
    done = await completed(tmp_path / "t.jsonl", *RUNS["children"])
    trajectory = done.trajectory
    assert isinstance(trajectory, tuple)
    assert trajectory == tuple(trajectory)
    assert msgspec.to_builtins(trajectory[:1], enc_hook=str)
    twin = pickle.loads(pickle.dumps(trajectory))
    assert (twin, twin.run, twin.events) == (trajectory, trajectory.run, trajectory.events)

    saved = tmp_path / "folder" / "saved.jsonl"
    trajectory.save(saved)
    done.children[0].trajectory.save(tmp_path / "child.jsonl")
    # again, in its place
    trajectory.save(saved)
    assert traces.read(saved) == list(trajectory.events)
    assert saved.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in saved.parent.iterdir()] == ["saved.jsonl"]
    assert Trajectory.load(tmp_path / "child.jsonl", done.children[0].run) == done.children[0].trajectory


def test_a_trajectory_without_events_has_no_completion() -> None:
    one = Iteration(number=1, reply="", input_tokens=0, output_tokens=0, cells=(), calls=(), observation=None)
    trajectory = Trajectory([one])
    assert (len(trajectory), trajectory.events, trajectory.cut_off) == (1, (), False)
    with pytest.raises(ValueError, match="no beginning of a run"):
        _ = trajectory.completion
    with pytest.raises(ValueError, match="no beginning of a run 'abc'"):
        rebuild([RootReplied(run="abc", text="", input_tokens=0, output_tokens=0, seconds=0)], "abc")
