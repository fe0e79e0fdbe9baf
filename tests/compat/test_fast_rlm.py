"""The door of fast-rlm: its quick start runs, and every argument is honoured or refused with its reason."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from rlm_wasm import ClientError, Price, ScriptedClient
from rlm_wasm.clients import OpenAIClient
from rlm_wasm.compat import fast_rlm
from rlm_wasm.compat.fast_rlm import CONFIG_REFUSED, REFUSED, RLMConfig, RunFailed

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def config(*replies: Any, **fields: Any) -> RLMConfig:
    return RLMConfig(primary_agent=ScriptedClient(replies, model="root"), **fields)


async def ask(query: Any, *replies: Any, fields: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    with anyio.fail_after(60):
        return await fast_rlm.arun(query, config=config(*replies, **(fields or {})), verbosity="silent", **given)


# --- the quick start -----------------------------------------------------------------------------------------------


def test_the_quick_start_runs_from_plain_code(capfd: pytest.CaptureFixture[str]) -> None:
    chosen = config(repl("names = ['cherry', 'fig']\nprint(names)"), repl("FINAL({n: n.count('r') for n in names})"))
    result = fast_rlm.run("Generate 50 fruits and count number of r", config=chosen)
    assert result["results"] == {"cherry": 2, "fig": 0}
    assert set(result) == {"results", "usage", "log_file"}
    usage = result["usage"]
    assert set(usage) == {
        *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "cost"),
    }
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert (usage["cost"], result["log_file"]) == (None, None)
    out, err = capfd.readouterr()
    assert out == ""
    assert "output: ['cherry', 'fig']" in err


def test_the_quick_start_with_a_configuration_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = RLMConfig.default()
    chosen.primary_agent = ScriptedClient([repl("FINAL(await llm_query('Name a fruit.'))")], model="large")
    chosen.sub_agent = ScriptedClient([repl("FINAL('fig')")], model="small")
    chosen.max_depth = 5
    chosen.max_money_spent = 2.0
    prices = {"large": Price(1, 1), "small": Price(1, 1)}
    result = fast_rlm.run("Count", prefix="r_count", config=chosen, verbose=False, prices=prices)
    assert result["results"] == "fig"
    assert result["usage"]["cost"] > 0
    assert Path(result["log_file"]).name.startswith("r_count_")
    assert Path(result["log_file"]).parent.name == "logs"


async def test_a_dict_is_the_context_and_the_answer_fits_a_model() -> None:
    class Verdict(BaseModel):
        movie: str
        average_score: float

    query = {"task": "Aggregate.", "movie": "Pixels", "reviews": [{"score": 8}, {"score": 6}]}
    final = "FINAL({'movie': context['movie'], 'average_score': sum(r['score'] for r in context['reviews']) / 2})"
    result = await ask(query, repl("FINAL({'movie': 1})"), repl(final), output_schema=Verdict)
    assert Verdict.model_validate(result["results"]).average_score == 7


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        (int, "3"),
        (list, "[1]"),
        ({"type": "array", "items": {"type": "string"}}, "['a']"),
        ("list[Pair]", "[{'a': 1}]"),
    ],
    ids=["type", "list", "schema", "models"],
)
async def test_an_answer_that_does_not_fit_goes_back(schema: Any, right: str) -> None:
    class Pair(BaseModel):
        a: int

    schema = list[Pair] if schema == "list[Pair]" else schema
    result = await ask("x", repl("FINAL('no')"), repl(f"FINAL({right})"), output_schema=schema)
    assert repr(result["results"]) == right


async def test_tools_run_on_the_host_and_the_instruction_is_for_the_root_alone() -> None:
    def filter_short(items: list[str], max_len: int = 3) -> list[str]:
        """Return only items shorter than max_len."""
        return [item for item in items if len(item) < max_len]

    chosen = config(
        repl("FINAL([filter_short(['a', 'long']), await llm_query('b')])"), repl("FINAL(filter_short(['b']))")
    )
    root: Any = chosen.primary_agent
    with anyio.fail_after(60):
        result = await fast_rlm.arun("x", config=chosen, tools=[filter_short], instruction="Be brief.", verbose=False)
    assert result["results"] == [["a"], ["b"]]
    assert "Return only items shorter" in root.calls[0][0].content
    assert "Be brief." in root.calls[0][1].content
    assert "Be brief." not in root.calls[1][1].content


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("a.json", '{"a": [1]}', "{'a': [1]}"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', "[{'a': 1}, {'a': 2}]"),
        ("a.csv", "a,b\n", "'a,b\\n'"),
    ],
)
async def test_a_file_can_be_the_query(name: str, text: str, seen: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    result = await ask(None, repl("FINAL(repr(context))"), input_file=tmp_path / name)
    assert result["results"] == seen


# --- what is told on the way -----------------------------------------------------------------------------------------


async def test_the_log_has_the_lines_that_its_viewers_read(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    replies = [
        repl("print(1)"),
        repl("part = await llm_query('b')\n1 / 0"),
        repl("FINAL('from the child')"),
        repl("FINAL(part)"),
    ]
    result = await ask("x", *replies, log_dir=tmp_path / "new", on_step=heard.append)
    text = await anyio.Path(result["log_file"]).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    kinds = [(line["depth"], line["event_type"], line.get("step")) for line in lines]
    assert kinds == [
        (0, "agent_start", None),
        (0, "execution_result", 0),
        (0, "execution_result", 1),
        (1, "agent_start", None),
        (1, "execution_result", 0),
        (1, "code_generated", 1),
        (1, "final_result", None),
        (1, "agent_end", None),
        (0, "execution_result", 2),
        (0, "code_generated", 3),
        (0, "final_result", None),
        (0, "agent_end", None),
    ]
    root, child = lines[0]["run_id"], lines[3]["run_id"]
    assert {line["run_id"] for line in lines if line["depth"]} == {child} != {root}
    assert {line["parent_run_id"] for line in lines if line["depth"]} == {root}
    assert (lines[2]["output"], lines[2]["hasError"]) == ("1\n", False)
    assert lines[8]["hasError"]
    assert "ZeroDivisionError" in lines[8]["output"]
    assert "output" not in lines[9]
    assert lines[10]["result"] == "from the child"
    assert set(lines[2]["timestamps"]) == {"llm_call_start", "llm_call_end", "execution_start", "execution_end"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    steps = [line for line in lines if line["event_type"] not in ("agent_start", "agent_end")]
    assert [step["event_type"] for step in heard] == [step["event_type"] for step in steps]
    assert heard[-2]["totalUsage"]["total_tokens"] == result["usage"]["total_tokens"]


async def test_what_on_step_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a bug of the caller's")

    assert (await ask("x", repl("FINAL(1)"), on_step=broken))["results"] == 1
    assert "a bug of the caller's" in caplog.text


@pytest.mark.parametrize(("verbosity", "shown"), [("silent", ""), (1, "42\n{'prompt_tokens'"), ("full", "stopped by")])
def test_as_much_is_shown_as_was_asked_for(verbosity: Any, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    fast_rlm.run("x", config=config(repl("FINAL(6 * 7)")), verbosity=verbosity)
    out, err = capfd.readouterr()
    assert (out, shown in err, bool(err)) == ("", True, bool(shown))


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_calls_per_subagent": 1}, "iterations"),
        ({"max_completion_tokens": 1}, "tokens"),
        ({"max_prompt_tokens": 10}, "tokens"),
        ({"max_global_calls": 1}, "calls"),
    ],
)
async def test_a_limit_without_an_answer_is_a_runtime_error(fields: dict[str, Any], limit: str) -> None:
    chosen = config(repl("1"), repl("2"), **fields)
    root: Any = chosen.primary_agent
    with pytest.raises(RuntimeError, match=f"by its limit: {limit}") as caught, anyio.fail_after(60):
        await fast_rlm.arun("x", config=chosen, verbose=False)
    assert isinstance(caught.value, RunFailed)
    assert caught.value.completion is not None
    # one more is for the best answer, where it can be paid
    assert len(root.calls) == (2 if limit == "iterations" else 1)


async def test_a_failure_of_the_model_is_a_runtime_error_with_what_there_was() -> None:
    with pytest.raises(RunFailed, match="no connection") as caught:
        await ask("x", repl("1"), ClientError("no connection"))
    assert caught.value.completion is not None
    assert len(caught.value.completion.trajectory) == 1


async def test_money_is_held_to_where_prices_are_known_and_refused_where_they_are_not() -> None:
    with pytest.raises(RunFailed, match="by its limit: usd"):
        await ask("x", repl("1"), fields={"max_money_spent": 1e-6}, prices={"root": Price(10, 10)})
    with pytest.raises(ValueError, match=r"max_money_spent=2.0 cannot be held to: give prices"):
        await ask("x", fields={"max_money_spent": 2.0})


async def test_how_much_is_shown_and_when_a_child_is_confirmed_can_be_chosen() -> None:
    first = repl("print('y' * 900)\ntry: await llm_query(context)\nexcept ValueError as error: print(error)")
    fields = {"truncate_len": 500, "compression_min_chars": 10, "compression_ratio": 0.5}
    chosen = config(first, repl("FINAL(1)"), **fields)
    root: Any = chosen.primary_agent
    with anyio.fail_after(60):
        await fast_rlm.arun("z" * 40, config=chosen, verbose=False)
    told = root.calls[1][-1].content
    assert told.startswith("[TRUNCATED: Last 500 chars shown].. ")
    assert "this child would get 40 of your 40 characters" in told
    freely = [repl("FINAL(await llm_query(context))"), repl("FINAL(2)")]
    result = await ask("z" * 9000, *freely, fields={"enable_compression_guard": False})
    assert result["results"] == 2


# --- arguments -------------------------------------------------------------------------------------------------------


def test_every_argument_there_is_known_here() -> None:
    theirs = {
        *("prefix", "config", "verbose", "output_schema", "tools", "env_variables", "mcp_servers", "llm_kwargs"),
        *("vertex", "instruction", "input_file", "verbosity", "on_step", "log_dir", "session_dir", "session_id"),
        *("add_session_code_to_context",),
    }
    ours = set(inspect.signature(fast_rlm._prepared).parameters) - {"query", "refused", "prices"}
    assert theirs == ours | set(REFUSED)
    with pytest.raises(TypeError, match="no argument 'promt'"):
        fast_rlm.run("x", config=config(), promt=1)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_that_makes_no_sense_here_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=7 is not possible here: ") as caught:
        fast_rlm.run("x", config=config(), **{name: 7})
    assert REFUSED[name].reason in str(caught.value)


@pytest.mark.parametrize("name", sorted(CONFIG_REFUSED))
def test_a_field_that_makes_no_sense_here_is_refused_with_its_reason(name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(RLMConfig)}
    with pytest.raises(ValueError, match=f"{name}=7 is not possible here: "):
        fast_rlm.run("x", config=config(**{name: 7}))


@pytest.mark.parametrize(
    ("query", "given", "kind", "why"),
    [
        ("x", {}, ValueError, "primary_agent is needed"),
        ("x", {"config": {"max_dept": 3}}, TypeError, "no field 'max_dept'"),
        (None, {"config": config()}, ValueError, "the query or an input_file"),
        ("x", {"config": config(), "input_file": "a"}, ValueError, "the query or an input_file"),
        (3, {"config": config()}, TypeError, "a str, a dict or a list, not int"),
        ("x", {"config": config(), "verbosity": "loud"}, ValueError, "'silent', 'summary' or 'full'"),
        (None, {"config": config(), "input_file": "a.yaml"}, ValueError, "YAML is not read here"),
        ("x", {"config": config(), "output_schema": object()}, TypeError, "object"),
    ],
)
def test_what_cannot_be_is_refused(query: Any, given: dict[str, Any], kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        fast_rlm.run(query, **given)


def test_models_by_name_are_asked_at_openrouter_or_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_MODEL_BASE_URL", raising=False)
    monkeypatch.delenv("RLM_MODEL_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "of another")
    chosen = RLMConfig(primary_agent="z-ai/glm-5", api_timeout_ms=5000)
    with pytest.raises(ValueError, match=r"no key for openrouter.ai: set RLM_MODEL_API_KEY"):
        fast_rlm._client(chosen.primary_agent, chosen, None)
    monkeypatch.setenv("RLM_MODEL_API_KEY", "k" * 9)
    client = fast_rlm._client(chosen.primary_agent, chosen, {"temperature": 0})
    assert isinstance(client, OpenAIClient)
    assert repr(client) == "OpenAIClient(model='z-ai/glm-5', host='openrouter.ai')"
    monkeypatch.setenv("RLM_MODEL_BASE_URL", "http://localhost:8000/v1")
    assert "localhost:8000" in repr(fast_rlm._client(chosen.primary_agent, chosen, None))
