"""The door of pyrlm-runtime: its quick start runs, and every argument is honoured or refused with its reason."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import Message, ScriptedClient
from rlm_wasm.clients import OpenAIClient
from rlm_wasm.compat.adapters import AdapterClient, client_over
from rlm_wasm.compat.policy import RootClient
from rlm_wasm.compat.pyrlm import (
    REFUSED,
    RLM,
    ROUTER_REFUSED,
    AzureOpenAIAdapter,
    Context,
    ExecutionProfile,
    FakeAdapter,
    FileCache,
    GenericChatAdapter,
    MaxRecursionExceeded,
    MaxStepsExceeded,
    MaxSubcallsExceeded,
    MaxTokensExceeded,
    ModelResponse,
    OpenAICompatAdapter,
    Policy,
    PolicyError,
    RLMEvent,
    RouterConfig,
    SmartRouter,
    Trace,
    TraceStep,
    Usage,
)
from rlm_wasm.retrievers import Document, Hit
from tests.clients.server import ChatServer, answer

pytestmark = pytest.mark.anyio

TEXT = Context.from_text("The code word is heron.")


def fake(*script: str, **rules: str) -> FakeAdapter:
    """An adapter with a script for the root model, and "yes" for its sub model."""
    adapter = FakeAdapter(script=script)
    adapter.add_rule("You are a sub-LLM", rules.get("sub", "yes"))
    return adapter


async def run(adapter: Any, context: Any = TEXT, **given: Any) -> tuple[str, Trace]:
    with anyio.fail_after(60):
        return await RLM(adapter, **given).arun("Which word?", context)


def kinds(trace: Trace) -> list[tuple[str, int]]:
    return [(step.kind, step.depth) for step in trace.steps]


# --- the quick start -----------------------------------------------------------------------------------------------


def test_the_quick_start_without_an_api_runs_from_plain_code() -> None:
    adapter = FakeAdapter(
        script=[
            "start = peek(80)\nshort = llm_query(f'Make it short: {start}')\nanswer = f'In short: {short}'",
            "FINAL_VAR: answer",
        ]
    )
    adapter.add_rule("You are a sub-LLM", "a prompt is a variable")
    context = Context.from_text("Recursive models keep long prompts in an environment.")
    output, trace = RLM(adapter=adapter).run("What is it, in short?", context)
    assert output == "In short: a prompt is a variable"
    assert kinds(trace)[:4] == [("root_call", 0), ("subcall", 1), ("repl_exec", 0), ("root_call", 0)]
    assert trace.steps[0].usage
    assert trace.steps[1].output == "a prompt is a variable"
    assert (trace.steps[2].code or "").startswith("start = peek(80)")
    assert len(adapter.call_log) == 3


def test_the_quick_start_over_many_documents_has_a_cache_and_children(tmp_path: Path) -> None:
    context = Context.from_documents([f"Document {number}." for number in range(3)])
    adapter = FakeAdapter(
        script=["answers = llm_batch([ctx.get_document(i) for i in range(2)])\nprint(P)", "FINAL_VAR: answers"],
        model="large",
    )
    sub = FakeAdapter(model="small")
    sub.add_rule("Begin by looking", "FINAL: read")
    rlm = RLM(
        adapter=adapter,
        subcall_adapter=sub,
        cache=FileCache(root=tmp_path / "cache"),
        recursive_subcalls=True,
        parallel_subcalls=True,
    )
    output, trace = rlm.run("What are the themes?", context)
    assert output == "['read', 'read']"
    assert [step.kind for step in trace.steps].count("recursive_subcall") == 2
    assert {step.model for step in trace.steps if step.depth} == {"small"}
    # a child has its prompt as its context; what two are told alike is asked once
    assert "Document" not in str(sub.call_log)
    assert len(sub.call_log) == 1


# --- how a run ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "given", "output"),
    [
        (["FINAL: heron"], {}, "heron"),
        (["word = P[-6:-1]", "FINAL_VAR: word"], {}, "heron"),
        (["print(lenP())", "answer = extract_after('word is ')"], {"auto_finalize_var": "answer"}, "heron."),
        (["answer = 'h'", "answer = 'heron'"], {"auto_finalize_var": "answer", "auto_finalize_min_length": 3}, "heron"),
        (
            ["answer = 'as above'", "answer = 'heron'"],
            {"auto_finalize_var": "answer", "auto_finalize_reject_patterns": ["above"]},
            "heron",
        ),
    ],
)
async def test_an_answer_is_given_in_each_of_the_three_ways(script: list[str], given: Any, output: str) -> None:
    assert (await run(fake(*script), **given))[0] == output


async def test_after_a_limit_the_answer_is_the_best_that_there_was() -> None:
    output, trace = await run(fake("print(1)", "print(2)", "FINAL: perhaps heron"), policy=Policy(max_steps=2))
    assert output == "perhaps heron"
    assert [step.kind for step in trace.steps].count("root_call") == 3


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (Policy(max_steps=1), MaxStepsExceeded),
        (Policy(max_subcalls=1), MaxSubcallsExceeded),
        (Policy(max_recursion_depth=0), MaxRecursionExceeded),
        (Policy(max_total_tokens=900), MaxTokensExceeded),
        (Policy(max_subcall_tokens=30), MaxTokensExceeded),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_limit_without_an_answer_is_the_exception_of_that_limit(policy: Policy, error: type[Any]) -> None:
    with pytest.raises(error) as caught:
        await run(fake("a = llm_query('?')\nb = llm_query('?')"), policy=policy)
    assert isinstance(caught.value, PolicyError)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.trace is not None
    assert caught.value.completion is not None


async def test_a_policy_is_one_budget_for_all_the_runs_that_it_is_given_to() -> None:
    policy = Policy(max_steps=3, max_subcalls=2)
    rlm = RLM(fake("a = llm_query('?')", "FINAL: 1", "FINAL: 2"), policy=policy)
    with anyio.fail_after(60):
        _, first = await rlm.arun("?", TEXT)
        assert (policy.steps, policy.subcalls, policy.subcall_tokens > 0) == (2, 1, True)
        assert policy.total_tokens == first.tokens()
        await rlm.arun("?", TEXT)
        with pytest.raises(MaxStepsExceeded, match="used up"):
            await rlm.arun("?", TEXT)


async def test_without_a_context_there_is_no_run() -> None:
    with pytest.raises(ValueError, match="a context is needed"):
        await run(fake(), None)


# --- arguments -------------------------------------------------------------------------------------------------------


def test_every_argument_there_is_known_here() -> None:
    theirs = {
        *("adapter", "policy", "cache", "max_output_tokens", "system_prompt", "repl_backend", "conversation_history"),
        *("compaction", "compaction_threshold_pct", "max_history_tokens", "retriever", "subcall_adapter"),
        *("recursive_subcalls", "max_recursion_depth", "parallel_subcalls", "require_repl_before_final"),
        *("require_subcall_before_final", "invalid_response_limit", "fallback_code", "auto_finalize_var"),
        *("auto_finalize_min_length", "auto_finalize_reject_patterns", "logger", "repl_error_limit", "min_steps"),
        *("subcall_guard_steps", "fallback_guard_steps", "recursive_subcall_system_prompt", "event_listener"),
        *("recursive_subcall_max_steps", "max_concurrent_subcalls", "rlm_diagnostics", "repl_extensions"),
        *("system_prompt_supplement", "subcall_system_prompt", "cache_dir", "max_tokens", "subcall_max_tokens"),
        *("subcall_max_output_tokens", "log_truncate_code", "log_truncate_output"),
    }
    assert theirs <= set(inspect.signature(RLM.__init__).parameters) | set(REFUSED)
    with pytest.raises(TypeError, match="no argument 'max_step'"):
        RLM(fake(), max_step=1)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_that_makes_no_sense_here_is_refused_with_its_reason(name: str) -> None:
    unchanged: Any = REFUSED[name].unchanged
    RLM(fake(), **{name: unchanged})
    other: Any = 7
    with pytest.raises(ValueError, match=f"{name}=7 is not possible here: ") as caught:
        RLM(fake(), **{name: other})
    assert REFUSED[name].reason in str(caught.value)


@pytest.mark.parametrize("name", sorted(ROUTER_REFUSED))
def test_a_routers_argument_that_makes_no_sense_here_is_refused(name: str) -> None:
    given: Any = {name: 7}
    with pytest.raises(ValueError, match=f"{name}=7 is not possible here: "):
        RouterConfig(**given)


async def test_either_repl_backend_is_the_sandbox_and_no_other_is_there() -> None:
    assert (await run(fake("FINAL: x"), repl_backend="monty"))[0] == "x"
    with pytest.raises(ValueError, match="'python' or 'monty'"):
        RLM(fake(), repl_backend="docker")
    with pytest.raises(TypeError, match="an adapter has a method complete"):
        RLM(object())


async def test_the_guards_hold_an_answer_back() -> None:
    adapter = fake("FINAL: a", "b = llm_query('?')", "FINAL: c")
    output, _ = await run(adapter, require_repl_before_final=True, require_subcall_before_final=True)
    assert output == "c"
    assert "no code has been run yet" in adapter.call_log[1][-1]["content"]


async def test_after_replies_without_code_the_fallback_runs_or_the_run_ends() -> None:
    given: dict[str, Any] = {"invalid_response_limit": 1, "auto_finalize_var": "answer"}
    assert (await run(fake("I think so."), fallback_code="answer = P[-6:]", **given))[0] == "heron."
    assert (await run(fake("So.", "So!"), fallback_code="answer = P[-6:]", auto_finalize_var="answer"))[0] == "heron."
    with pytest.raises(PolicyError, match="errors"):
        await run(fake("I think so.", ""), **given)


async def test_the_fallback_of_its_readme_asks_every_document() -> None:
    adapter = fake("I think so.")
    context = Context.from_documents(["It is a heron.", "It flies."])
    code = "answer = pick_first_answer(ask_chunks('answer?', ctx))"
    output, trace = await run(
        adapter, context, invalid_response_limit=1, fallback_code=code, auto_finalize_var="answer"
    )
    assert (output, [step.kind for step in trace.steps].count("subcall")) == ("yes", 2)


async def test_system_prompts_are_said_word_for_word() -> None:
    adapter = fake("FINAL: 1")
    await run(adapter, system_prompt="Be {brief}.", system_prompt_supplement="And {kind}.")
    assert adapter.call_log[0][0]["content"] == "Be {brief}.\n\nAnd {kind}."
    adapter = fake("a = llm_query('?')", "FINAL: 1")
    adapter.add_rule("Be short", "ok")
    await run(adapter, system_prompt_supplement="And {kind}.", subcall_system_prompt="Be short.")
    assert adapter.call_log[0][0]["content"].rstrip().endswith("And {kind}.")
    assert [message["role"] for message in adapter.call_log[1]] == ["system", "user"]


async def test_children_answer_where_calls_are_recursive_and_calls_below_them_are_plain() -> None:
    sub = FakeAdapter(model="small", script=["part = llm_query(P)", "FINAL_VAR: part"])
    sub.add_rule("You are a sub-LLM", "deep")
    adapter = FakeAdapter(model="large", script=["a = ask('Which?', P)", "FINAL_VAR: a"])
    output, trace = await run(adapter, subcall_adapter=sub, recursive_subcalls=True)
    assert output == "deep"
    assert kinds(trace) == [
        ("root_call", 0),
        ("sub_root_call", 1),
        ("sub_subcall", 2),
        ("sub_repl_exec", 1),
        ("sub_root_call", 1),
        ("sub_repl_exec", 1),
        ("recursive_subcall", 1),
        ("repl_exec", 0),
        ("root_call", 0),
        ("repl_exec", 0),
    ]
    paid = [step for step in trace.steps if step.usage and step.kind != "recursive_subcall"]
    assert trace.tokens() == sum(step.usage.total_tokens for step in paid if step.usage)


@pytest.mark.parametrize(
    ("given", "code", "most"),
    [
        ({"parallel_subcalls": True}, "ask_chunks('?', ['a'] * 4)", 4),
        ({}, "ask_chunks('?', ['a'] * 4)", 1),
        ({}, "llm_query_batch(['a'] * 4)", 1),
        ({}, "llm_query_batch(['a'] * 4, parallel=2)", 2),
        ({}, "llm_batch(['a'] * 4)", 4),
        ({"max_concurrent_subcalls": 3}, "llm_batch(['a'] * 3)", 3),
        ({"max_concurrent_subcalls": 1}, "llm_batch(['a'] * 3)", 1),
    ],
)
async def test_batches_are_asked_at_once_or_one_by_one(given: Any, code: str, most: int) -> None:
    running = seen = 0
    full = anyio.Event()

    async def reply(_: str) -> str:
        nonlocal running, seen
        running += 1
        seen = max(seen, running)
        if running == most:
            full.set()
        await full.wait()
        running -= 1
        return "x"

    sub = ScriptedClient(rules={"": reply}, model="sub")
    output, _ = await run(fake(f"n = len({code})", "FINAL_VAR: n"), subcall_adapter=sub, **given)
    assert int(output) >= 3
    assert seen == most


def told(given: dict[str, Any], *contents: str) -> list[str]:
    roles: list[Any] = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [Message(role, text) for role, text in zip(roles, contents, strict=False)]
    options: dict[str, Any] = {"max_output_tokens": 9, "history": True, "max_history_tokens": 0, **given}
    return [message.content for message in RootClient(ScriptedClient(), **options).remembered(messages)]


def test_of_a_conversation_the_first_two_messages_and_the_last_exchange_stay() -> None:
    six = ("s", "q", "a1", "o1", "a2", "o2")
    assert told({}, *six) == list(six)
    assert told({"history": False}, *six) == ["s", "q", "a2", "o2"]
    assert told({"max_history_tokens": 6}, *six) == list(six)
    assert told({"max_history_tokens": 5}, *six) == ["s", "q", "a2", "o2"]
    assert told({"max_history_tokens": 1}, *six) == ["s", "q", "a2", "o2"]
    assert told({"history": False}, "s", "q") == ["s", "q"]


async def test_without_history_the_model_is_told_of_its_last_cell_alone() -> None:
    adapter = fake("print(1)", "print(2)", "FINAL: 3")
    await run(adapter, conversation_history=False)
    assert [len(chat) for chat in adapter.call_log] == [2, 4, 4]
    adapter = fake("print('x' * 4000)", "print(2)", "FINAL: 3")
    await run(adapter, max_history_tokens=1000)
    assert [len(chat) for chat in adapter.call_log] == [2, 4, 4]


@pytest.mark.parametrize(
    "given",
    [
        {"compaction_threshold_tokens": 5000},
        {"compaction_threshold_pct": 0.5, "compaction_model_context_limit": 10_000},
        {"compaction_threshold_pct": 0.005, "compaction_model_name": "gemini-2.5-pro"},
    ],
)
async def test_with_compaction_old_messages_give_way_and_the_trace_says_so(given: dict[str, Any]) -> None:
    adapter = fake(*["print('x' * 8000)"] * 3, "answer = len(history[0][1]) > 8000", "FINAL_VAR: answer")
    output, trace = await run(adapter, compaction=True, **given)
    assert output == "True"
    steps = [step for step in trace.steps if step.kind == "compaction"]
    assert steps
    assert (steps[0].output or "").startswith("cut: ")
    assert Trace.from_json(trace.to_json()) == trace
    assert sum(len(message["content"]) for message in adapter.call_log[-1]) < 4 * 6000


async def test_how_much_a_model_may_write_is_told_to_its_adapter() -> None:
    most: list[int] = []
    replies = ["a = llm_query('?') + llm_query('?', max_tokens=5)", "x", "y", "FINAL_VAR: a"]

    class Mine:
        model_name = "mine"

        def complete(self, messages: Any, *, max_tokens: int = 1, temperature: float = 0.0) -> ModelResponse:
            most.append(max_tokens)
            return ModelResponse(replies[len(most) - 1], Usage.of(1, 1))

    await run(Mine(), max_output_tokens=77, subcall_max_output_tokens=33)
    assert most == [77, 33, 5, 77]


# --- the cache, the trace, events ------------------------------------------------------------------------------------


async def test_a_reply_of_a_sub_model_is_kept_and_asked_for_once(tmp_path: Path) -> None:
    cache = FileCache(root=tmp_path / "new" / "cache")
    for hit in (False, True):
        adapter = fake("a = llm_query('?')", "FINAL_VAR: a")
        output, trace = await run(adapter, cache=cache)
        assert (output, len(adapter.call_log)) == ("yes", 2 if hit else 3)
        assert [step.cache_hit for step in trace.steps if step.kind == "subcall"] == [hit]


async def test_a_trace_goes_to_json_and_back() -> None:
    _, trace = await run(fake("llm_batch(['a', 'b'])\n1 / 0", "FINAL: 1"))
    assert Trace.from_json(trace.to_json()) == trace
    assert [step.step_id for step in trace.steps] == [1, 2, 3, 4, 5]
    assert [step.parallel_total for step in trace.steps if step.kind == "subcall"] == [2, 2]
    (cell,) = [step for step in trace.steps if step.kind == "repl_exec"]
    assert "ZeroDivisionError" in (cell.error or "")


async def test_a_listener_hears_the_run_begin_its_steps_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[RLMEvent] = []

    class Listener:
        def handle(self, event: RLMEvent) -> None:
            heard.append(event)
            raise RuntimeError("a bug of the listener's")

    logger = logging.getLogger("test")
    with caplog.at_level(logging.DEBUG, "test"):
        output, trace = await run(fake("print(1)", "FINAL: 2"), event_listener=Listener(), logger=logger)
    assert output == "2"
    assert [event.kind for event in heard] == ["run_started", *["step_completed"] * 3, "run_finished"]
    assert heard[0].context_metadata == {"documents": 1, "characters": 23}
    assert [event.step for event in heard[1:-1]] == trace.steps
    last = heard[-1]
    assert (last.output, last.total_steps, last.tokens_used) == ("2", 3, trace.tokens())
    assert "a bug of the listener's" in caplog.text
    assert "RunStopped" in caplog.text


# --- context ---------------------------------------------------------------------------------------------------------


async def test_documents_reach_the_repl_with_their_metadata_and_the_same_text() -> None:
    context = Context.from_documents([{"id": "a", "text": "one", "year": 7}, {"id": "b", "text": "two"}])
    assert context.text == "one\n\n---\n\ntwo"
    code = "a = [P, ctx.metadata('a')['metadata']['year'], ctx.num_documents(), ctx.len_chars(), lenP(), peek(3)]"
    output, _ = await run(fake(code, "FINAL_VAR: a"), context)
    assert output == str([context.text, 7, 2, 13, 13, "one"])


async def test_with_a_retriever_cells_search_and_there_need_be_no_context() -> None:
    class Shelf:
        async def search(self, query: str, k: int = 10, filters: Any = None) -> list[Hit]:
            return [Hit("a", 1.5, f"{query}: here", {"n": 1})]

        async def get(self, id: str) -> Document | None:
            return Document(id, "all of it", {})

    code = "hit = es_search('heron', top_k=3)[0]\na = [hit['doc_id'], hit['preview'], es_get('a')['content']]"
    output, _ = await run(fake(code, "FINAL_VAR: a"), None, retriever=Shelf())
    assert output == str(["a", "heron: here", "all of it"])
    with pytest.raises(TypeError, match="which are async"):
        RLM(fake(), retriever=object())  # pyright: ignore[reportArgumentType]


# --- adapters --------------------------------------------------------------------------------------------------------


async def test_an_adapter_of_the_callers_own_is_asked_and_its_failure_told() -> None:
    class Broken:
        def complete(self, messages: Any, **_: Any) -> ModelResponse:
            raise KeyError("choices")

    client = client_over(Broken())
    assert isinstance(client, AdapterClient)
    assert client.model == "Broken"
    with pytest.raises(Exception, match="Broken: KeyError: 'choices'"):
        await run(Broken())


def test_adapters_by_name_are_clients_at_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "LLM_BASE_URL", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    assert repr(OpenAICompatAdapter(model="m").client) == "OpenAIClient(model='m', host='api.openai.com')"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert "localhost:1" in repr(OpenAICompatAdapter(model="m").client)
    monkeypatch.setenv("LLM_BASE_URL", "http://localhost:2/v1")
    assert "localhost:2" in repr(OpenAICompatAdapter(model="m").client)
    assert "localhost:3" in repr(OpenAICompatAdapter(model="m", base_url="http://localhost:3/v1").client)
    monkeypatch.setenv("OPENAI_ENDPOINT", "https://n.openai.azure.com")
    azure = AzureOpenAIAdapter(model="m")
    assert isinstance(azure.client, OpenAIClient)
    assert repr(azure.client) == "OpenAIClient(model='m', host='n.openai.azure.com')"
    with pytest.raises(ValueError, match="endpoint or base_url is needed"):
        GenericChatAdapter()


async def test_a_generic_adapter_speaks_a_servers_own_form(serve: Any) -> None:
    server: ChatServer = serve(answer(200, {"said": "heron", "tokens": [3, 4]}))
    adapter = GenericChatAdapter(
        endpoint=server.base_url,
        model="own",
        api_key="k" * 12,
        headers={"X-Own": "1"},
        payload_builder=lambda messages, most, _, model: {"ask": messages[-1]["content"], "n": most, "who": model},
        response_parser=lambda answer: (answer["said"], Usage.of(*answer["tokens"])),
    )
    reply = await adapter.client.complete([Message("user", "which?")], max_output_tokens=8)
    assert (reply.text, reply.input_tokens, reply.output_tokens) == ("heron", 3, 4)


async def test_a_fake_adapter_answers_by_rules_then_from_its_script() -> None:
    adapter = FakeAdapter(script=["scripted"])
    adapter.add_rule(r"h\w+n", "by a rule", regex=True, once=True, usage=Usage.of(5, 6))
    asked = [{"role": "user", "content": "a heron"}]
    assert adapter.complete(asked).usage.total_tokens == 11
    assert adapter.complete(asked).text == "scripted"
    with pytest.raises(RuntimeError, match="the script is at its end"):
        adapter.complete(asked)


# --- the router ------------------------------------------------------------------------------------------------------


def test_a_short_context_is_a_plain_call_and_a_long_one_a_run() -> None:
    adapter = fake("heron", "word = P[-6:-1]", "FINAL_VAR: word")
    router = SmartRouter(adapter, config=RouterConfig(baseline_threshold=23))
    short = router.run("Which word?", Context.from_text("It is heron."))
    assert (short.method, short.output, short.context_chars) == ("baseline", "heron", 12)
    assert [step.kind for step in short.trace.steps] == ["baseline_call"]
    long = router.run("Which word?", TEXT, profile=ExecutionProfile.VERIFY)
    assert (long.method, long.output, long.profile) == ("rlm", "heron", ExecutionProfile.VERIFY)
    assert "must be certain" in adapter.call_log[1][1]["content"]
    assert long.tokens_used == long.trace.tokens() > 0


async def test_a_way_can_be_forced_and_guards_hold_in_runs() -> None:
    router = SmartRouter(fake("FINAL: guessed", "print(P)", "FINAL: heron"), auto_finalize_var="answer")
    with anyio.fail_after(60):
        result = await router.arun("Which word?", TEXT, force_method="rlm")
        assert (result.method, result.output) == ("rlm", "heron")
        with pytest.raises(ValueError, match="force_method"):
            await router.arun("Which word?", TEXT, force_method="both")


def test_a_step_knows_what_it_was_when_read_from_json() -> None:
    step = TraceStep(step_id=1, kind="repl_exec", code="1")
    assert Trace.from_json(Trace([step]).to_json()).steps == [step]
