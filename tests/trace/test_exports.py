"""Exports: what other systems' viewers ask of their logs, rule by rule, of runs of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Completion, Event, Limits, Price, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.compat.tracing import Trace
from rlm_wasm.events import CellStarted, IterationFinished, RootReplied
from rlm_wasm.trace.fast_rlm_log import export_fast_rlm
from rlm_wasm.trace.pyrlm_log import export_pyrlm
from rlm_wasm.trace.rlm_log import export_rlm, export_rlm_files
from rlm_wasm.trace.told import as_json

pytestmark = pytest.mark.anyio

KEY = "planted-key-1234567"


def repl(*cells: str) -> str:
    return "\n\n".join(f"```repl\n{code}\n```" for code in cells)


def refuse(prompt: str) -> str:
    if prompt == "fail":
        raise ClientError("refused")
    return f"answer to {prompt}"


async def run(*replies: Any, question: str = 'What is "it"?', context: object = "abc", **given: Any) -> Completion:
    sub = ScriptedClient(rules={"": refuse}, model="sub")
    with anyio.fail_after(60):
        return await RLM(ScriptedClient(replies, model="root"), sub_model=sub, **given).acompletion(
            question, context=context
        )


CHILDREN = (
    "First I look.\n" + repl("print(llm_query_batched(['a', 'b']))\nx = 1"),
    repl("print(rlm_query_batched(['One?', 'Two?'], ['1', '2']))"),
    *[repl("print(context)\nFINAL(llm_query('q'))")] * 2,
    "No code.",
    repl("1 / 0"),
    repl("print('last')", "FINAL({'n': (1, 2), 'at': float('nan')})"),
)


async def events_of(name: str) -> Sequence[Event]:
    prices = {"root": Price(1, 2), "sub": Price(0.5, 1)}
    match name:
        case "children":
            done = await run(*CHILDREN, prices=prices)
        case "tool":
            done = await run(run_python("print(1)"), run_python("FINAL(2)"), act="tool")
        case "limit":
            done = await run(repl("print(1)"), "a guess", limits=Limits(iterations=1))
        case "first look":
            done = await run(repl("FINAL(1)"), dialect="fast-rlm")
        case "hostile":
            cell = "print('\\u2028 \\x00 </script>')\nFINAL({(1, 2): 2**100, 'x': {3}})"
            done = await run("lone \ud800" + repl(cell), context={"not": "a text"})
        case _:
            events = (await run(*CHILDREN)).trajectory.events
            cells = [place for place, event in enumerate(events) if isinstance(event, CellStarted)]
            # in the middle of a child's cell
            return events[: cells[2] + 2]
    return done.trajectory.events


KINDS = ["children", "tool", "limit", "first look", "hostile", "cut off"]


# --- alexzhang13/rlm -----------------------------------------------------------------------------------------------

METADATA = {
    "type": str,
    "timestamp": str,
    "root_model": str,
    "max_depth": (int, type(None)),
    "max_iterations": (int, type(None)),
    "backend": str,
    "backend_kwargs": dict,
    "environment_type": str,
    "environment_kwargs": dict,
    "other_backends": (list, type(None)),
}
ITERATION = {
    "type": str,
    "iteration": int,
    "timestamp": str,
    "prompt": list,
    "response": str,
    "code_blocks": list,
    "final_answer": (str, type(None)),
    "iteration_time": float,
}
RESULT = {
    "stdout": str,
    "stderr": str,
    "locals": dict,
    "execution_time": float,
    "rlm_calls": list,
    "final_answer": (str, type(None)),
}
CALL = {
    "root_model": str,
    "prompt": str,
    "response": str,
    "usage_summary": dict,
    "execution_time": float,
    "prompt_tokens": int,
    "completion_tokens": int,
}


def assert_shape(told: dict[str, Any], shape: dict[str, Any], *, optional: Sequence[str] = ()) -> None:
    assert {name for name in told if name not in optional} == set(shape)
    for name, kind in shape.items():
        assert isinstance(told[name], kind), name


def assert_iteration(told: dict[str, Any]) -> None:
    for message in told["prompt"]:
        assert_shape(message, {"role": str, "content": str})
    for block in told["code_blocks"]:
        assert_shape(block, {"code": str, "result": dict})
        assert_shape(block["result"], RESULT)
        for call in block["result"]["rlm_calls"]:
            assert_shape(call, CALL, optional=["metadata", "error"])
            for nested in call.get("metadata", {"iterations": []})["iterations"]:
                assert_shape(nested, {name: kind for name, kind in ITERATION.items() if name != "type"})
                assert_iteration(nested)


def parsed(lines: Any) -> list[dict[str, Any]]:
    def refuse_constant(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    texts = list(lines)
    # neither a line end nor what cannot be written as UTF-8
    assert not any("\n" in text or text.encode().decode() != text for text in texts)
    return [json.loads(text, parse_constant=refuse_constant) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_line_of_an_rlm_log_has_the_fields_and_types_of_one(kind: str) -> None:
    first, *rest = parsed(export_rlm(await events_of(kind)))
    assert_shape(first, METADATA)
    assert first["type"] == "metadata"
    assert rest
    assert [told["iteration"] for told in rest] == list(range(1, len(rest) + 1))
    for told in rest:
        # of another type every line would be taken for an iteration
        assert told["type"] == "iteration"
        assert_shape(told, ITERATION)
        assert_iteration(told)
        first_said = next(message["content"] for message in told["prompt"] if message["role"] == "user")
        # the visualizer's own pattern
        match = re.search(r'original query: "([^"]+)"', first_said)
        assert match is not None
        assert match[1] == "What is 'it'?"
        for block in told["code_blocks"]:
            # shown as the context
            assert isinstance(block["result"]["locals"]["context"], str)
    assert [bool(told["final_answer"]) for told in rest[:-1]] == [False] * (len(rest) - 1)
    assert bool(rest[-1]["final_answer"]) == (kind != "cut off")


async def test_an_rlm_log_says_what_happened() -> None:
    _, first, second, third, fourth, last = parsed(export_rlm(await events_of("children")))
    [block] = first["code_blocks"]
    assert block["result"]["stdout"] == "['answer to a', 'answer to b']\n"
    assert block["result"]["locals"] == {"context": "abc", "x": "(not recorded)"}
    one, _ = block["result"]["rlm_calls"]
    assert (one["prompt"], one["response"], one["prompt_tokens"]) == ("a", "answer to a", 1)
    assert one["usage_summary"]["total_cost"] == pytest.approx(3.5e-6)
    summaries = one["usage_summary"]["model_usage_summaries"]
    assert summaries["sub"] == {
        "total_calls": 1,
        "total_input_tokens": 1,
        "total_output_tokens": 3,
        "total_cost": pytest.approx(3.5e-6),
    }
    child = second["code_blocks"][0]["result"]["rlm_calls"][0]
    assert (child["prompt"], child["response"]) == ("One?", "answer to q")
    assert set(child["usage_summary"]["model_usage_summaries"]) == {"root", "sub"}
    [nested] = child["metadata"]["iterations"]
    assert nested["final_answer"] == "answer to q"
    assert third["code_blocks"] == []
    # a viewer takes whatever stands in stderr for an error
    errors = [block["result"]["stderr"] for told in (first, second, fourth, last) for block in told["code_blocks"]]
    assert [bool(error) for error in errors] == [False, False, True, False, False]
    assert last["final_answer"] == "{'n': (1, 2), 'at': nan}" == last["code_blocks"][1]["result"]["final_answer"]
    # what the root was asked with is there whole, each time
    assert [len(told["prompt"]) for told in (first, second, third)] == [2, 4, 6]


async def test_each_run_can_have_a_file_of_its_own(tmp_path: Path) -> None:
    events = await events_of("children")
    paths = export_rlm_files(events, tmp_path / "logs")
    assert [re.sub(r"[0-9a-f]{8}\.", "ID.", path.name).partition("_")[0] for path in paths] == ["rlm", "child", "child"]
    assert all(path.name.endswith(".jsonl") for path in paths)
    assert paths[0].read_text("utf-8").splitlines() == list(export_rlm(events))
    child = parsed(paths[1].read_text("utf-8").splitlines())
    assert [told["type"] for told in child] == ["metadata", "iteration"]
    assert child == parsed(export_rlm(events, next(event.run for event in events if event.depth)))
    with pytest.raises(ValueError, match="there is no run nobody"):
        export_rlm(events, "nobody")


# --- fast-rlm ------------------------------------------------------------------------------------------------------

USAGE = {
    "prompt_tokens": int,
    "completion_tokens": int,
    "total_tokens": int,
    "cached_tokens": int,
    "reasoning_tokens": int,
    "cost": (int, float),
}
TIMES = ["llm_call_start", "llm_call_end", "execution_start", "execution_end"]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_line_of_a_fast_rlm_log_has_the_fields_and_types_of_one(kind: str) -> None:
    events = await events_of(kind)
    told = parsed(export_fast_rlm(events))
    ids = list(dict.fromkeys(line["run_id"] for line in told))
    for line in told:
        assert line["level"] == 30
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert re.fullmatch(r"\d{13}-[0-9a-z]{9}", line["run_id"])
        assert ("parent_run_id" in line) == (line["depth"] > 0)
        assert line.get("parent_run_id", ids[0]) in ids
        assert line["event_type"] in ("agent_start", "execution_result", "code_generated", "final_result", "agent_end")
        if line["event_type"] in ("execution_result", "code_generated"):
            assert ("output" in line) == (line["event_type"] == "execution_result") == ("hasError" in line)
            assert isinstance(line["step"], int)
            assert isinstance(line["code"], str)
            assert_shape(line["usage"], USAGE)
            assert set(line["timestamps"]) <= set(TIMES)
        else:
            assert "step" not in line
    # what viewers show of an id tells them apart
    assert len({run_id.partition("-")[2][:6] for run_id in ids}) == len(ids) == len({event.run for event in events})
    times = [line["time"] for line in told]
    # compared as texts, and no two alike
    assert times == sorted(set(times))
    for run_id in ids:
        kinds = [line["event_type"] for line in told if line["run_id"] == run_id]
        steps = [line["step"] for line in told if line["run_id"] == run_id and "step" in line]
        assert kinds[0] == "agent_start"
        assert steps == list(range(steps[0] if steps else 0, (steps or [-1])[-1] + 1))
        if kind != "cut off":
            assert kinds[-2:] == ["final_result", "agent_end"]
    # a step comes after its children's
    assert told[-1]["depth"] == 0


async def test_a_child_lies_within_the_time_of_its_parents_step() -> None:
    told = parsed(export_fast_rlm(await events_of("children")))
    steps: dict[str, list[dict[str, Any]]] = {}
    for line in told:
        if "step" in line:
            steps.setdefault(line["run_id"], []).append(line)
    root, *children = steps
    assert len(children) == 2
    # as the viewer finds the children of the second step
    before, own = steps[root][0]["time"], steps[root][1]["time"]
    for child in children:
        assert before <= steps[child][0]["time"] < own
    assert len(steps[root]) == 5


async def test_a_fast_rlm_log_says_what_happened() -> None:
    told = parsed(export_fast_rlm(await events_of("children")))
    steps = [line for line in told if line["depth"] == 0 and "step" in line]
    assert steps[0]["reasoning"] == "First I look."
    assert "reasoning" not in steps[1]
    assert "['answer to a', 'answer to b']" in steps[0]["output"]
    # the sub model's calls are paid for in the step that made them
    own = steps[0]["usage"]
    assert own["total_tokens"] == own["prompt_tokens"] + own["completion_tokens"]
    assert own["completion_tokens"] == 6 + len(CHILDREN[0]) / 4
    assert own["cost"] > 0
    assert [step["hasError"] for step in steps if "output" in step] == [False, False, False, True, False]
    assert list(steps[0]["timestamps"]) == TIMES
    assert (steps[2]["code"], steps[2]["reasoning"]) == ("", "No code.")
    [result] = [line["result"] for line in told if line["event_type"] == "final_result" and line["depth"] == 0]
    assert result == {"n": [1, 2], "at": None}


async def test_a_first_look_is_the_step_0() -> None:
    told = parsed(export_fast_rlm(await events_of("first look")))
    steps = [line for line in told if "step" in line]
    assert [(line["step"], line["event_type"]) for line in steps] == [(0, "execution_result"), (1, "code_generated")]
    assert steps[0]["usage"]["total_tokens"] == 0
    assert "str" in steps[0]["output"]


# --- pyrlm-runtime -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pyrlm_trace_is_read_by_its_own_reader(kind: str) -> None:
    events = await events_of(kind)
    trace = Trace.from_json(export_pyrlm(events))
    assert [step.step_id for step in trace.steps] == list(range(1, len(trace.steps) + 1))
    assert sum(step.kind in ("root_call", "sub_root_call") for step in trace.steps) == sum(
        isinstance(event, RootReplied) for event in events
    )
    if kind == "children":
        assert {"root_call", "repl_exec", "subcall", "recursive_subcall", "sub_root_call", "sub_repl_exec"} < {
            step.kind for step in trace.steps
        }
    assert export_pyrlm([]) == "[]"


# --- all of them ---------------------------------------------------------------------------------------------------


async def test_no_export_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", KEY)
    cells = f"print('{KEY}')\nllm_query('{KEY}')", f"FINAL({{'{KEY}': '{KEY}'}})"
    done = await run(repl(cells[0]), repl(cells[1]), context=KEY, question=f"What about {KEY}?")
    events = done.trajectory.events
    assert KEY in str(events)
    for text in ("".join(export_rlm(events)), "".join(export_fast_rlm(events)), export_pyrlm(events)):
        assert KEY not in text
        assert text.count("[secret left out]") > 5


async def test_events_without_the_beginning_of_their_run_are_passed_over() -> None:
    events = [event for event in await events_of("children") if not event.depth or isinstance(event, IterationFinished)]
    assert len(parsed(export_rlm(events))) == 6
    assert {line["depth"] for line in parsed(export_fast_rlm(events))} == {0}
    assert Trace.from_json(export_pyrlm(events)).steps


def test_values_are_told_as_other_programs_read_them() -> None:
    assert as_json({1: (1, {2}), "b": float("inf")}) == {"1": [1, [2]], "b": None}
    assert as_json({(1, 2): 3}) in ({"(1, 2)": 3}, "{(1, 2): 3}")
    assert as_json([object]) == ["<class 'object'>"]
    assert as_json("lone \ud800") == "'lone \\ud800'"
    assert as_json(2**100) in (2**100, str(2**100))
