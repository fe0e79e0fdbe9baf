"""Spans: their names, places, times and attributes by the conventions, and that they hold no content unasked."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from rlm_wasm import RLM, ClientError, Limits, Price, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.events import RootAsked, RootReplied, RunStarted
from rlm_wasm.trace.opentelemetry import OpenTelemetryListener

pytestmark = pytest.mark.anyio

KEY = "planted-key-1234567"


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


class Spans:
    """What was exported, by name, and how it is nested."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: Tracer = provider.get_tracer("tests")

    @property
    def all(self) -> list[Any]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.all if span.name == name]

    def tree(self, above: Any = None) -> list[Any]:
        """Names in the order of their starts, each with what is below it."""
        number = None if above is None else above.context.span_id
        below = [span for span in self.all if (span.parent.span_id if span.parent else None) == number]
        return [(span.name, self.tree(span)) for span in below]


@pytest.fixture
def spans() -> Spans:
    return Spans()


async def run(spans: Spans, *replies: Any, model: str = "gpt-5-mini", content: bool = False, **given: Any) -> RLM:
    def answer(prompt: str) -> str:
        if prompt == "fail":
            raise ClientError("refused", status=400)
        return "yes"

    sub = ScriptedClient(rules={"": answer}, model="claude-haiku-4-5")
    listener = OpenTelemetryListener(spans.tracer, content=content, providers={"local": "my.own"})
    rlm = RLM(ScriptedClient(replies, model=model), sub_model=sub, listeners=[listener], **given)
    with anyio.fail_after(60):
        await rlm.acompletion("How many?", context="the secret text")
    return rlm


def lookup(name: str, *, year: int = 0) -> list[int]:
    if not year:
        raise ValueError(name)
    return [year]


CELL = "lookup('x', year=1)\nprint(llm_query_batched(['a', 'b']), rlm_query('And here?', 'text'))"


async def test_spans_are_nested_as_what_they_stand_for(spans: Spans) -> None:
    functions = {"lookup": lookup}
    await run(spans, repl(CELL), repl("FINAL(llm_query('q'))"), repl("FINAL(2)"), functions=functions)
    sub = ("chat claude-haiku-4-5", [])
    child = ("invoke_agent rlm_wasm", [("chat gpt-5-mini", []), ("execute_tool run_python", [sub])])
    assert spans.tree() == [
        (
            "invoke_agent rlm_wasm",
            [
                ("chat gpt-5-mini", []),
                ("execute_tool run_python", [("execute_tool lookup", []), sub, sub, child]),
                ("chat gpt-5-mini", []),
                ("execute_tool run_python", []),
            ],
        )
    ]
    assert len({span.context.trace_id for span in spans.all}) == 1


async def test_spans_have_the_attributes_of_the_conventions(spans: Spans) -> None:
    prices = {"claude-haiku-4-5": Price(1, 5)}
    await run(spans, repl("llm_query('a')"), repl("FINAL(2)"), prices=prices)
    (root,) = spans.named("invoke_agent rlm_wasm")
    assert root.kind == SpanKind.INTERNAL
    told = dict(root.attributes)
    assert told["gen_ai.operation.name"] == "invoke_agent"
    assert told["gen_ai.agent.name"] == "rlm_wasm"
    assert (told["gen_ai.provider.name"], told["gen_ai.request.model"]) == ("openai", "gpt-5-mini")
    assert (told["rlm_wasm.stopped_by"], told["rlm_wasm.calls"], told["rlm_wasm.depth"]) == ("final", 3, 0)
    assert root.status.status_code == StatusCode.UNSET

    first, second = spans.named("chat gpt-5-mini")
    assert first.kind == SpanKind.CLIENT
    assert first.attributes["gen_ai.operation.name"] == "chat"
    assert first.attributes["gen_ai.response.model"] == "gpt-5-mini"
    assert second.attributes["rlm_wasm.iteration"] == 2
    (sub,) = spans.named("chat claude-haiku-4-5")
    assert sub.attributes["gen_ai.provider.name"] == "anthropic"
    assert sub.attributes["rlm_wasm.usd"] == pytest.approx(6e-6)
    for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"):
        assert told[name] == sum(chat.attributes[name] for chat in (first, second, sub))

    tool = spans.named("execute_tool run_python")[0]
    assert (tool.kind, tool.attributes["gen_ai.tool.name"]) == (SpanKind.INTERNAL, "run_python")
    assert (tool.attributes["gen_ai.operation.name"], tool.attributes["gen_ai.tool.type"]) == (
        "execute_tool",
        "function",
    )
    assert len({span.attributes["gen_ai.conversation.id"] for span in spans.all if span.attributes}) == 1


async def test_the_provider_is_told_where_it_is_known(spans: Spans) -> None:
    await run(spans, repl("FINAL(1)"), model="local")
    assert spans.named("chat local")[0].attributes["gen_ai.provider.name"] == "my.own"
    await run(spans, repl("FINAL(1)"), model="nobody-knows")
    assert "gen_ai.provider.name" not in spans.named("chat nobody-knows")[0].attributes


async def test_times_are_those_of_the_events(spans: Spans) -> None:
    listener = OpenTelemetryListener(spans.tracer)
    listener(RunStarted(run="a", wall=100.0, question="?", context="", model="m", sub_model="s"))
    listener(RootAsked(run="a", wall=101.0, same=0, messages=()))
    listener(RootReplied(run="a", wall=103.5, text="", input_tokens=1, output_tokens=1, seconds=2.5))
    (chat,) = spans.named("chat m")
    assert (chat.start_time, chat.end_time) == (101_000_000_000, 103_500_000_000)


async def test_errors_are_told_by_their_kind_and_not_by_their_text(spans: Spans) -> None:
    cells = ["1 / 0", "lookup('y')", "llm_query('fail')", "import time\nraise RuntimeError('x')"]
    await run(spans, *map(repl, cells), repl("FINAL(1)"), functions={"lookup": lookup})
    tools = spans.named("execute_tool run_python")
    assert tools[0].attributes["error.type"] == "ZeroDivisionError"
    assert [span.status.status_code for span in tools] == [StatusCode.ERROR] * 4 + [StatusCode.UNSET]
    assert spans.named("execute_tool lookup")[0].attributes["error.type"] == "ValueError"
    assert spans.named("chat claude-haiku-4-5")[0].attributes["error.type"] == "ClientError"
    assert {span.status.description for span in spans.all} == {None}
    assert spans.named("invoke_agent rlm_wasm")[0].status.status_code == StatusCode.UNSET


async def test_a_run_that_fails_ends_all_of_its_spans(spans: Spans) -> None:
    with pytest.raises(ClientError):
        await run(spans, repl("rlm_query('And here?')"), ClientError("down"), ClientError("down"))
    agents = spans.named("invoke_agent rlm_wasm")
    assert [span.attributes["error.type"] for span in agents] == ["ClientError"] * 2
    assert [span.status.status_code for span in agents] == [StatusCode.ERROR] * 2
    chats = spans.named("chat gpt-5-mini")
    assert [span.attributes.get("error.type") for span in chats] == [None, "ClientError", "ClientError"]


async def test_a_limit_is_no_error(spans: Spans) -> None:
    await run(spans, repl("1"), "a guess", limits=Limits(iterations=1))
    (root,) = spans.named("invoke_agent rlm_wasm")
    assert root.attributes["rlm_wasm.stopped_by"] == "iterations"
    assert root.status.status_code == StatusCode.UNSET


async def test_a_run_is_below_the_span_that_is_current_where_it_begins(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request"):
        await run(spans, repl("FINAL(1)"))
    assert [name for name, _ in spans.tree()] == ["request"]
    assert spans.tree()[0][1][0][0] == "invoke_agent rlm_wasm"


async def test_content_is_there_only_if_it_is_asked_for(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    replies = (repl(f"print('{KEY}', context)\nlookup('z', year=3)"), repl("FINAL({1: (2,)})"))
    await run(spans, *replies, functions={"lookup": lookup})
    plain = str([dict(span.attributes or {}) for span in spans.all])
    for text in ("How many?", "secret text", "FINAL", KEY, "'z'"):
        assert text not in plain
    spans.exporter.clear()

    await run(spans, *replies, functions={"lookup": lookup}, content=True)
    assert KEY not in str([dict(span.attributes or {}) for span in spans.all])
    (root,) = spans.named("invoke_agent rlm_wasm")
    (asked,) = json.loads(root.attributes["gen_ai.input.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "How many?"}]}
    (said,) = json.loads(root.attributes["gen_ai.output.messages"])
    assert said["parts"][0]["content"] == "{'1': [2]}"
    first, second = spans.named("chat gpt-5-mini")
    (instructions,) = json.loads(first.attributes["gen_ai.system_instructions"])
    assert "`context`" in instructions["content"]
    roles = [message["role"] for message in json.loads(second.attributes["gen_ai.input.messages"])]
    assert roles == ["user", "assistant", "user"]
    (reply,) = json.loads(first.attributes["gen_ai.output.messages"])
    assert (reply["role"], reply["finish_reason"]) == ("assistant", "stop")
    tool = spans.named("execute_tool run_python")[0]
    assert "print('[secret left out]'" in json.loads(tool.attributes["gen_ai.tool.call.arguments"])["code"]
    assert "the secret text" in json.loads(tool.attributes["gen_ai.tool.call.result"])
    (own,) = spans.named("execute_tool lookup")
    assert json.loads(own.attributes["gen_ai.tool.call.arguments"]) == {"arguments": ["z"], "year": 3}
    assert json.loads(own.attributes["gen_ai.tool.call.result"]) == [3]


async def test_calls_of_the_native_tool_are_parts_of_messages(spans: Spans) -> None:
    await run(spans, run_python("print(1)"), run_python("FINAL(2)"), act="tool", content=True)
    messages = json.loads(spans.named("chat gpt-5-mini")[1].attributes["gen_ai.input.messages"])
    assert [part["type"] for message in messages for part in message["parts"]] == [
        "text",
        "tool_call",
        "tool_call_response",
    ]
    assert messages[1]["parts"][0]["arguments"] == {"code": "print(1)"}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"pip install 'rlm-wasm\[otel\]'"):
        OpenTelemetryListener()
