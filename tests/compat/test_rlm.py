"""The door of alexzhang13/rlm: its quick start runs, and every argument is honoured or refused with its reason."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import Client, Completion, Event, Price, ScriptedClient
from rlm_wasm.clients import AnthropicClient, GeminiClient, OpenAIClient, RetryingClient
from rlm_wasm.compat.backends import BACKENDS, client_of
from rlm_wasm.compat.rlm import (
    ENVIRONMENTS,
    NO_QUESTION,
    REFUSED,
    RLM,
    BudgetExceededError,
    ErrorThresholdExceededError,
    RLMChatCompletion,
    RLMLogger,
    TimeoutExceededError,
    TokenLimitExceededError,
)

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def ready(value: str) -> str:
    return repl(f"answer['content'] = {value}\nanswer['ready'] = True")


def scripted(*replies: Any, model: str = "root", **rules: Any) -> dict[str, Any]:
    """`backend_kwargs` with a scripted client."""
    return {"client": ScriptedClient(replies, model=model, **rules)}


def said(given: dict[str, Any], call: int = -1) -> str:
    return "\n".join(message.content for message in given["client"].calls[call])


async def ask(rlm: RLM, prompt: Any = "abc", question: str | None = "How many?") -> RLMChatCompletion:
    with anyio.fail_after(60):
        return await rlm.acompletion(prompt, question)


# --- the quick start -----------------------------------------------------------------------------------------------


def test_the_quick_start_runs_from_plain_code(capfd: pytest.CaptureFixture[str]) -> None:
    given = scripted(repl("print(len(context))"), ready("[2**power for power in range(3)]"))
    rlm = RLM(backend="openai", backend_kwargs=given, verbose=True)
    done = rlm.completion("Print me the first three powers of two, one a line.")
    assert done.response == "[1, 2, 4]"
    assert done.completion_record.response == [1, 2, 4]
    assert done.root_model == "root"
    assert done.prompt == "Print me the first three powers of two, one a line."
    assert 0 < done.execution_time == done.completion_record.seconds
    assert NO_QUESTION in said(given, 0)
    assert "powers" not in said(given, 0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "output: 51" in err
    assert "stopped by final" in err


async def test_the_usage_names_each_model_with_its_calls_and_tokens() -> None:
    sub = scripted(model="sub", rules={"": "yes"})
    rlm = RLM(
        backend_kwargs=scripted(ready("llm_query('Is it?') + llm_query('Is it?', model='sub')")),
        other_backends=["openai"],
        other_backend_kwargs=[sub],
        prices={"root": Price(1, 1), "sub": Price(2, 2)},
    )
    done = await ask(rlm)
    assert done.response == "yesyes"
    root, other = (done.usage_summary.model_usage_summaries[name] for name in ("root", "sub"))
    assert (root.total_calls, other.total_calls) == (1, 2)
    assert (other.total_input_tokens, other.total_output_tokens) == (4, 2)
    assert done.usage_summary.total_input_tokens == done.completion_record.usage.input_tokens
    assert done.usage_summary.total_output_tokens == done.completion_record.usage.output_tokens
    told = done.to_dict()["usage_summary"]
    assert told["model_usage_summaries"]["sub"] == {
        "total_calls": 2,
        "total_input_tokens": 4,
        "total_output_tokens": 2,
        "total_cost": pytest.approx(12e-6),
    }
    assert told["total_cost"] == pytest.approx(done.completion_record.usage.usd)


@pytest.mark.parametrize("prompt", ["text", ["one", "two"], {"a": "one"}], ids=["str", "list", "dict"])
async def test_the_prompt_is_the_context_and_the_root_prompt_the_question(prompt: Any) -> None:
    given = scripted(ready("context"))
    done = await ask(RLM(backend_kwargs=given), prompt, "What is in it?")
    assert done.completion_record.response == prompt
    assert done.completion_record.question == "What is in it?"
    assert "Query: What is in it?" in said(given)


async def test_a_prompt_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="a str, a list or a dict, not int"):
        await ask(RLM(backend_kwargs=scripted()), 3)


# --- backends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "given", "variables", "host"),
    [
        ("openai", {}, {}, "api.openai.com"),
        ("openai", {"base_url": "http://localhost:1/v1"}, {}, "localhost:1"),
        ("vllm", {"base_url": "http://localhost:8000/v1"}, {}, "localhost:8000"),
        ("openrouter", {"api_key": "k" * 9}, {}, "openrouter.ai"),
        ("openrouter", {}, {"OPENROUTER_API_KEY": "k" * 9}, "openrouter.ai"),
        ("vercel", {}, {"AI_GATEWAY_API_KEY": "k" * 9}, "ai-gateway.vercel.sh"),
        ("portkey", {}, {"PORTKEY_API_KEY": "k" * 9}, "api.portkey.ai"),
        ("portkey", {"base_url": "http://localhost:2/v1"}, {}, "localhost:2"),
        ("azure_openai", {"azure_endpoint": "https://n.openai.azure.com"}, {}, "n.openai.azure.com"),
        ("azure_openai", {"azure_deployment": "d"}, {"AZURE_OPENAI_ENDPOINT": "https://m.com"}, "m.com"),
    ],
)
def test_a_backend_is_a_client_at_its_address(
    backend: str, given: dict[str, str], variables: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "LLM_BASE_URL", "OPENAI_ENDPOINT", "AZURE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = client_of(backend, {"model_name": "m", **given})
    assert isinstance(client, OpenAIClient)
    assert repr(client) == f"OpenAIClient(model='m', host='{host}')"


def test_the_backends_with_an_api_of_their_own_have_clients_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    for backend, kind, given in (("anthropic", AnthropicClient, {"max_tokens": 99}), ("gemini", GeminiClient, {})):
        client = client_of(backend, {"model_name": "m", "api_key": "k", "timeout": 5, **given})
        assert isinstance(client, RetryingClient)
        assert kind.__name__ in repr(client)
    assert set(BACKENDS) >= {"openai", "portkey", "openrouter", "vercel", "vllm", "anthropic", "azure_openai", "gemini"}


@pytest.mark.parametrize(
    ("backend", "given", "kind", "why"),
    [
        ("openai", None, ValueError, "needs the model_name"),
        ("vllm", {"model_name": "m"}, ValueError, "needs the base_url of the vLLM server"),
        ("openrouter", {"model_name": "m"}, ValueError, "no key for openrouter: set OPENROUTER_API_KEY"),
        ("litellm", {"model_name": "m"}, ValueError, "run LiteLLM's proxy"),
        ("other", {"model_name": "m"}, ValueError, "there is no backend 'other'"),
        ("openai", {"model_name": "m", "temperature": 0}, TypeError, "not temperature: .* goes into 'parameters'"),
        ("openai", {"model_name": "m", "client": 1}, TypeError, "'client' stands alone, without model_name"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(
    backend: str, given: Any, kind: type[Exception], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    with pytest.raises(kind, match=why):
        RLM(backend, given)


async def test_of_other_backends_the_first_answers_sub_calls() -> None:
    rlm = RLM(
        backend_kwargs=scripted(ready("llm_query('?') + llm_query('?', model='third')")),
        other_backends=["openai", "openai"],
        other_backend_kwargs=[scripted("two", model="second"), scripted("three", model="third")],
    )
    assert (await ask(rlm)).response == "twothree"
    with pytest.raises(ValueError, match="go in pairs"):
        RLM(backend_kwargs=scripted(), other_backends=["openai"])


# --- arguments that are refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("depth", 1)],
)
def test_an_argument_that_makes_no_sense_here_is_refused_with_its_reason(name: str, value: Any) -> None:
    unchanged: Any = REFUSED[name].unchanged
    RLM(backend_kwargs=scripted(), **{name: unchanged})
    with pytest.raises(ValueError, match=f"{name}={value!r} is not possible here: ") as caught:
        RLM(backend_kwargs=scripted(), **{name: value})
    assert REFUSED[name].reason in str(caught.value)


def test_every_argument_there_is_known_here() -> None:
    theirs = {
        *("backend", "backend_kwargs", "environment", "environment_kwargs", "depth", "max_depth", "max_iterations"),
        *("max_budget", "max_timeout", "max_tokens", "max_errors", "custom_system_prompt", "other_backends"),
        *("other_backend_kwargs", "logger", "verbose", "persistent", "custom_tools", "custom_sub_tools", "compaction"),
        *("compaction_threshold_pct", "max_concurrent_subcalls", "on_subcall_start", "on_subcall_complete"),
        *("on_iteration_start", "on_iteration_complete"),
    }
    ours = set(inspect.signature(RLM.__init__).parameters) - {"self", "refused"}
    assert theirs == (ours - {"prices", "windows"}) | set(REFUSED)
    with pytest.raises(TypeError, match="no argument 'max_iteration'"):
        RLM(backend_kwargs=scripted(), max_iteration=3)


@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS))
def test_a_remote_environment_is_refused_with_its_reason(environment: str) -> None:
    with pytest.raises(ValueError, match=f"environment='{environment}' is not possible here: code runs in a sandbox"):
        RLM(backend_kwargs=scripted(), environment=environment)


@pytest.mark.parametrize(
    ("given", "kind", "why"),
    [
        ({"environment": "moon"}, ValueError, "there is no environment 'moon'"),
        ({"environment_kwargs": {"image": "python"}}, ValueError, "image is not possible here"),
        ({"max_depth": 0}, ValueError, "max_depth=0 is a plain model call"),
        ({"custom_tools": {"a": len}, "custom_sub_tools": {}}, ValueError, "children have their parent's tools"),
        ({"custom_tools": {"a": object()}}, TypeError, r"custom_tools\['a'\] is neither a function"),
        ({"custom_tools": {"llm_query": len}}, ValueError, "llm_query has a meaning"),
        ({"logger": object()}, TypeError, "logger must be an RLMLogger"),
        ({"max_iterations": 0}, ValueError, "iterations must be a positive number"),
        ({"max_budget": 1.0}, None, ""),
    ],
)
async def test_a_value_that_cannot_be_is_refused(given: Any, kind: type[Exception] | None, why: str) -> None:
    if kind is None:
        with pytest.raises(ValueError, match="price of model 'root' is not known"):
            await ask(RLM(backend_kwargs=scripted(), **given))
        return
    with pytest.raises(kind, match=why):
        RLM(backend_kwargs=scripted(), **given)


# --- arguments that are honoured -------------------------------------------------------------------------------------


async def test_tools_are_functions_on_the_host_and_values_in_the_repl_and_told_to_the_model() -> None:
    def area(side: float) -> float:
        """The area of a square."""
        return side * side

    async def name() -> str:
        return "host"

    tools = {
        "area": area,
        "name": {"tool": name, "description": "Where it runs."},
        "rates": {"EUR": 1.1},
        "limit": {"tool": 7, "description": "The most there may be."},
    }
    given = scripted(ready("[area(3), name(), rates['EUR'], limit]"))
    done = await ask(RLM(backend_kwargs=given, custom_tools=tools, custom_sub_tools=tools))
    assert done.completion_record.response == [9, "host", 1.1, 7]
    for line in (
        "area(side: 'float') -> 'float'`: The area",
        "`: Where it runs",
        "`limit`: The most",
        "`rates`: a dict",
    ):
        assert line in said(given)


async def test_a_system_prompt_of_the_callers_is_said_with_its_tools_below() -> None:
    given = scripted(ready("area(2)"))
    await ask(RLM(backend_kwargs=given, custom_system_prompt="Be {brief}.", custom_tools={"area": abs, "n": 1}))
    system = given["client"].calls[0][0].content
    assert system.startswith("Be {brief}.\n\nIn the REPL there are also:\n- `n`: a int")
    assert "- `area" in system


async def test_setup_code_is_run_first_in_either_environment() -> None:
    for environment in ("local", "docker"):
        given = scripted(ready("table[0]"))
        rlm = RLM(
            backend_kwargs=given, environment=environment, environment_kwargs={"setup_code": "import re\ntable = [5]"}
        )
        assert (await ask(rlm)).completion_record.response == 5


async def test_with_compaction_the_messages_give_way_at_a_share_of_the_window_and_history_has_them() -> None:
    given = scripted(*[repl("print('x' * 8000)")] * 3, ready("len(history[0][1]) > 8000"))
    rlm = RLM(backend_kwargs=given, compaction=True, compaction_threshold_pct=0.5, windows={"root": 12_000})
    done = await ask(rlm)
    assert done.completion_record.response is True
    assert sum(len(message.content) for message in given["client"].calls[-1]) < 4 * 6000 + 4000
    assert rlm.runtime.models.windows == {"root": 8000}
    assert RLM(backend_kwargs=scripted(model="gpt-5-mini"), compaction=True).runtime.models.windows == {
        "gpt-5-mini": 272_000 * 85 // 100 + 16_000
    }
    assert RLM(backend_kwargs=scripted()).runtime.models.windows == {}
    with pytest.raises(ValueError, match="compaction_threshold_pct must be above 0"):
        RLM(backend_kwargs=scripted(), compaction=True, compaction_threshold_pct=0)


def test_a_persistent_repl_keeps_variables_contexts_and_what_was_said_over_completions() -> None:
    given = scripted(
        repl("def twice(x): return 2 * x\nkept = len(context)\nprint(context_0 == context)"),
        ready("kept"),
        repl("print(twice(kept), context_1, context, history_0[0]['content'])"),
        ready("len(history_0)"),
        ready("[context_2, context_1, context_0, len(history_1), kept]"),
    )
    with RLM(backend_kwargs=given, persistent=True) as rlm:
        first = rlm.completion("abc", root_prompt="How long is it?")
        second = rlm.completion(["d"], root_prompt="And this?")
        third = rlm.completion({"e": 1})
    assert (first.response, second.response) == ("3", "4")
    assert first.completion_record.trajectory[0].cells[0].output == "True\n"
    assert second.completion_record.trajectory[0].cells[0].output == "6 ['d'] abc How long is it?\n"
    assert third.completion_record.response == [{"e": 1}, ["d"], "abc", 4, 3]
    assert "its data is `context_1`" in said(given, 2)
    assert "its data" not in said(given, 0)
    with pytest.raises(ValueError, match="persistent keeps a REPL open"):
        rlm.completion("x")


async def test_a_persistent_repl_is_there_for_async_code_and_children_have_their_own() -> None:
    setup = {"setup_code": "table = [5]"}
    given = scripted(
        repl("kept = rlm_query('And here?', context='x')\ntable.append(6)"),
        ready("'table' in globals()"),
        ready("kept"),
        ready("[kept, table]"),
    )
    async with RLM(backend_kwargs=given, persistent=True, max_depth=2, environment_kwargs=setup) as rlm:
        assert (await ask(rlm)).completion_record.response is True
        assert (await ask(rlm)).completion_record.response == [True, [5, 6]]
        with pytest.raises(ValueError, match="'async with' for acompletion"):
            rlm.completion("x")
    with pytest.raises(ValueError, match="persistent keeps a REPL open"):
        await rlm.acompletion("x")


async def test_a_persistent_repl_that_is_lost_is_replaced_with_what_was_given() -> None:
    deadly = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()"
    given = scripted(ready("1"), repl(deadly), ready("[context, context_1, len(history_0)]"))
    async with RLM(backend_kwargs=given, persistent=True) as rlm:
        await ask(rlm, "abc")
        assert (await ask(rlm, "def")).completion_record.response == ["abc", "def", 2]


def test_without_persistent_a_with_statement_changes_nothing() -> None:
    with RLM(backend_kwargs=scripted(ready("1"))) as rlm:
        assert rlm.completion("x").response == "1"
    rlm.close()


async def test_children_are_there_from_a_depth_of_two() -> None:
    asks = ready("rlm_query('And here?', context='x')")
    shallow = scripted(asks, "a plain reply")
    done = await ask(RLM(backend_kwargs=shallow))
    assert (done.response, done.completion_record.children) == ("a plain reply", ())
    assert "rlm_query" not in said(shallow, 0)
    deep = scripted(asks, ready("'from ' + context"))
    done = await ask(RLM(backend_kwargs=deep, max_depth=2))
    assert (done.response, len(done.completion_record.children)) == ("from x", 1)


async def test_so_many_sub_calls_run_at_once_and_no_more() -> None:
    most = running = 0
    full = anyio.Event()

    async def reply(_: str) -> str:
        nonlocal most, running
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await full.wait()
        running -= 1
        return "x"

    rlm = RLM(
        backend_kwargs=scripted(ready("len(llm_query_batched(['?'] * 9))")),
        other_backends=["openai"],
        other_backend_kwargs=[scripted(model="sub", rules={"": reply})],
        max_concurrent_subcalls=3,
    )
    assert (await ask(rlm)).response == "9"
    assert most == 3


async def test_events_go_to_a_logger_by_line_or_to_a_function(tmp_path: Path) -> None:
    logger = RLMLogger(log_dir=tmp_path / "logs")
    await ask(RLM(backend_kwargs=scripted(ready("1")), logger=logger))
    assert logger.log_file_path is not None
    written = await anyio.Path(logger.log_file_path).read_text("utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("RunStarted", "RunStopped")
    heard: list[Event] = []
    await ask(RLM(backend_kwargs=scripted(ready("1")), logger=heard.append))
    assert len(heard) == len(lines)


async def test_with_a_logger_in_memory_a_completion_has_its_trajectory_and_without_one_none() -> None:
    replies = [repl("print(rlm_query('And here?', context='x'))\n1 / 0"), ready("'x'"), ready("llm_query('?')"), "sub"]
    logger = RLMLogger()
    done = await ask(RLM(backend_kwargs=scripted(*replies), max_depth=2, logger=logger))
    assert logger.log_file_path is None
    assert done.metadata is not None
    assert done.metadata["run_metadata"]["root_model"] == "root"
    first, last = done.metadata["iterations"]
    block = first["code_blocks"][0]
    assert block["result"]["stdout"] == "x\n"
    assert "ZeroDivisionError" in block["result"]["stderr"]
    assert first["rlm_calls"][0]["metadata"]["iterations"][0]["final_answer"] == "x"
    assert (last["final_answer"], last["rlm_calls"][0]["response"]) == ("sub", "sub")
    assert json.loads(json.dumps(done.metadata)) == done.metadata
    assert (await ask(RLM(backend_kwargs=scripted(ready("1"))))).metadata is None


# --- limits --------------------------------------------------------------------------------------------------------


async def test_at_the_end_of_the_iterations_the_best_answer_is_the_response() -> None:
    rlm = RLM(backend_kwargs=scripted(repl("print(1)"), repl("print(2)"), "About three."), max_iterations=2)
    done = await ask(rlm)
    assert (done.response, done.completion_record.stopped_by) == ("About three.", "iterations")


@pytest.mark.parametrize(
    ("given", "error", "used"),
    [
        ({"max_errors": 1}, ErrorThresholdExceededError, "error_count"),
        ({"max_tokens": 3000}, TokenLimitExceededError, "tokens_used"),
        ({"max_budget": 0.003, "prices": {"root": Price(1, 1)}}, BudgetExceededError, "spent"),
        ({"max_timeout": 2.0}, TimeoutExceededError, "elapsed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_any_other_limit_is_the_error_that_it_is_there(given: Any, error: type[Any], used: str) -> None:
    slow = "import time\ntime.sleep(60)" if "max_timeout" in given else f"x = '{'y' * 9000}'\n1 / 0"
    rlm = RLM(backend_kwargs=scripted(repl(slow), "About three.", "About three."), **given)
    with pytest.raises(error) as caught:
        await ask(rlm)
    assert getattr(caught.value, used) > 0
    assert isinstance(caught.value.partial, Completion)
    assert caught.value.partial_answer == ("About three." if "max_errors" in given else None)


# --- callbacks -----------------------------------------------------------------------------------------------------


async def test_callbacks_hear_of_iterations_and_of_children() -> None:
    heard: list[tuple[Any, ...]] = []

    def note(name: str) -> Any:
        return lambda *told: heard.append((name, *told))

    root = scripted(repl("part = rlm_query('And here?', context='x')"), ready("'x'"), ready("part"))
    rlm = RLM(
        backend_kwargs=root,
        max_depth=2,
        on_subcall_start=note("subcall"),
        on_subcall_complete=note("subcall ended"),
        on_iteration_start=note("iteration"),
        on_iteration_complete=note("iteration ended"),
    )
    await ask(rlm)
    assert [each[:3] for each in heard] == [
        ("iteration", 0, 1),
        ("subcall", 1, "root"),
        ("iteration", 1, 1),
        ("iteration ended", 1, 1),
        ("subcall ended", 1, "root"),
        ("iteration ended", 0, 1),
        ("iteration", 0, 2),
        ("iteration ended", 0, 2),
    ]
    assert heard[1][3] == "And here?"
    assert heard[4][3] > 0
    assert heard[4][4] is None
    assert heard[5][3] > 0


async def test_a_callback_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug of the caller's")

    rlm = RLM(backend_kwargs=scripted(ready("1")), on_iteration_start=broken, on_iteration_complete=broken)
    assert (await ask(rlm)).response == "1"
    assert "a bug of the caller's" in caplog.text


def test_a_client_of_the_callers_own_is_taken_as_it_is() -> None:
    client: Client = ScriptedClient([])
    assert client_of("openai", {"client": client}) is client
