"""Recorded runs, run again: the same where they are the same, the first difference where not; traces as fixtures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm import RLM, ClientError, Completion, Dialect, Limits, SandboxOptions, ScriptedClient, Trajectory
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.dialects import HOUSE
from rlm_wasm.events import CellFinished, Event, RunStarted
from rlm_wasm.trace.replay import Replayed, replay

pytestmark = pytest.mark.anyio

SEEDED = SandboxOptions(seed=3, clock=1_795_000_000.0)


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def recorded(
    path: Path, *replies: Any, rules: Any = None, context: Any = "abc", output: Any = None, **given: Any
) -> Completion:
    sub = ScriptedClient(rules=rules or {"": lambda prompt: prompt.upper()}, model="sub")
    rlm = RLM(ScriptedClient(replies, model="root"), sub_model=sub, trace=path, **given)
    with anyio.fail_after(60):
        return await rlm.acompletion("How many?", context=context, output=output)


async def again(path: Path, **given: Any) -> Replayed:
    with anyio.fail_after(60):
        return await replay(Trajectory.load(path).events, **given)


RUN = [
    repl(
        "import random, time, uuid, os\n"
        "print(random.random(), time.time(), uuid.uuid4(), os.urandom(4), {'a', 'b', 'c'})\n"
        "answers = llm_query_batched(['one', 'two', 'one'])\nprint(answers, lookup('x', year=2))"
    ),
    repl(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: print(list(pool.map(llm_query, 'abcdefgh')))\n1 / 0"
    ),
    repl("child = rlm_query_batched(['And here?', 'And there?'], ['left', 'right'])"),
    # the children's
    repl("print(llm_query(context)); FINAL(context)"),
    repl("print(llm_query(context)); FINAL(context)"),
    repl("FINAL({'answers': answers, 'child': child})"),
]


async def lookup(name: str, *, year: int) -> list[Any]:
    return [name, year]


async def test_a_seeded_run_is_the_same_when_it_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = await recorded(path, *RUN, functions={"lookup": lookup}, sandbox=SEEDED)
    assert done.response == {"answers": ["ONE", "TWO", "ONE"], "child": ["left", "right"]}
    same = await again(path)
    assert same.difference is None
    assert same.completion is not None
    assert same.completion.response == done.response
    assert (same.cells, same.calls) == (6, 3 + 1 + 8 + 2 + 2)


async def test_without_a_seed_the_first_difference_is_where_chance_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await recorded(path, repl("x = 1"), repl("import random\nprint(x)\nprint(random.random())"), repl("FINAL(2)"))
    difference = (await again(path)).difference
    assert difference is not None
    assert (difference.what, difference.depth, difference.iteration) == ("the output of a cell", 0, 2)
    shown = str(difference).splitlines()
    assert shown[0] == "iteration 2: the output of a cell differs"
    assert [line[:3] for line in shown[3:]] == ["@@ ", " 1", "-0.", "+0."]


async def test_what_a_changed_trace_says_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await recorded(path, repl("print(llm_query('one'))"), repl("FINAL(llm_query('two'))"))
    events = list(Trajectory.load(path).events)
    place = next(number for number, event in enumerate(events) if isinstance(event, CellFinished))
    events[place] = msgspec.structs.replace(events[place], output="TWO\n")
    with anyio.fail_after(60):
        difference = (await replay(events)).difference
    assert difference is not None
    assert (difference.recorded, difference.replayed) == ("TWO\n", "ONE\n")


@pytest.mark.parametrize(
    "given",
    [{"limits": Limits(iterations=2)}, {"limits": Limits(calls=2)}, {"limits": Limits(errors=1)}],
    ids=["iterations", "calls", "errors"],
)
async def test_runs_that_ended_otherwise_are_run_again_too(tmp_path: Path, given: dict[str, Any]) -> None:
    path = tmp_path / "run.jsonl"
    code = "llm_query_batched(['a', 'b', 'c'])"
    replies = [repl(code), repl("1 / 0"), "a guess", "a guess", "a guess"]
    done = await recorded(path, *replies, **given)
    same = await again(path)
    assert same.difference is None
    assert same.completion is not None
    assert (same.completion.stopped_by, same.completion.response) == (done.stopped_by, done.response)


async def test_a_run_that_acts_by_a_tool_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = await recorded(path, run_python("x = llm_query('one')"), run_python("FINAL(x)"), act="tool")
    assert done.response == "ONE"
    assert (await again(path)).difference is None


async def test_failures_of_models_are_recorded_answers_too(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    code = "try:\n    llm_query('x')\nexcept Exception as error:\n    print(error)\nFINAL(1)"
    await recorded(path, repl(code), rules={"": ClientError("overloaded", status=529)})
    assert (await again(path)).difference is None

    failed = tmp_path / "failed.jsonl"
    with pytest.raises(ClientError):
        await recorded(failed, repl("x = 1"), ClientError("down"))
    assert (await again(failed)).difference is None


async def test_a_typed_answer_and_a_large_context_are_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    text = "".join(random.Random(1).choices("abc \n", k=200_000))
    await recorded(path, repl("FINAL('many')"), repl("FINAL(len(context))"), context=text, output=int)
    with pytest.raises(ValueError, match="too large to be recorded"):
        await again(path)
    with pytest.raises(ValueError, match="not the one of the recorded run"):
        await again(path, context=text + "x")
    assert (await again(path, context=text)).difference is None


async def test_a_dialect_of_ones_own_has_to_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    own: Dialect = msgspec.structs.replace(HOUSE, name="mine")
    await recorded(path, repl("FINAL(1)"), dialect=own)
    with pytest.raises(ValueError, match="'mine' is one of the caller's own"):
        await again(path)
    assert (await again(path, dialect=own)).difference is None


async def test_a_trace_that_cannot_be_run_again_says_why(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await recorded(path, repl("FINAL(1)"))
    events = list(Trajectory.load(path).events)
    with pytest.raises(ValueError, match="this one has 2"):
        await replay([*events, *events])
    with pytest.raises(ValueError, match="this one has 0"):
        await replay([event for event in events if not isinstance(event, RunStarted)])
    plain: list[Event] = [
        msgspec.structs.replace(event, settings={}) if isinstance(event, RunStarted) else event for event in events
    ]
    with pytest.raises(ValueError, match="of a plain call"):
        await replay(plain)


# --- a trace as a fixture ------------------------------------------------------------------------------------------


async def test_any_trace_is_a_client_for_a_test(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = await recorded(path, *RUN, functions={"lookup": lookup})
    client = ScriptedClient.from_trace(path)
    assert client.model == "root"
    with anyio.fail_after(60):
        same = await RLM(client, functions={"lookup": lookup}).acompletion("How many?", context="abc")
    assert same.response == done.response
    # the root's 4, the children's 2, and what cells have asked
    assert len(client.calls) == 4 + 2 + 3 + 8 + 2


async def test_what_was_not_asked_then_has_no_reply_now(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await recorded(path, repl("FINAL(llm_query('one'))"))
    rlm = RLM(ScriptedClient.from_trace(path), limits=Limits(iterations=1))
    with anyio.fail_after(60), pytest.raises(ClientError, match="the recorded run has no reply"):
        await rlm.acompletion("Another question?", context="abc", output=int)
    with pytest.raises(FileNotFoundError):
        ScriptedClient.from_trace(tmp_path / "none.jsonl")
