"""Native tools: what OpenAIClient sends and reads of them, and what the wrappers pass on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.clients import (
    Client,
    FallbackClient,
    Message,
    OpenAIClient,
    RateLimitedClient,
    Reply,
    ScriptedClient,
)
from rlm_wasm.clients.tools import called
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall
from tests.clients.server import ChatServer, Serve, Step, answer
from tests.clients.wrappers import WRAPPERS, Wrap

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("user", "hello")]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
CALLS = (ToolCall("call_a", "print(1)"), ToolCall("call_b", "print('ä')"))
TALK = [
    *HELLO,
    Message("assistant", "I look.", calls=CALLS),
    Message("tool", "1", answers="call_a"),
    Message("tool", "ä", answers="call_b"),
]


def tool_call(arguments: object, **fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "run_python", "arguments": arguments}, **fields}


def completion(*calls: object, text: str | None = None, usage: object = USAGE) -> Step:
    message = {"role": "assistant", "content": text, "tool_calls": list(calls)}
    return answer(200, {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage})


def client_of(server: ChatServer, **options: Any) -> OpenAIClient:
    return OpenAIClient("test-model", **{"base_url": server.base_url, "timeout": 30, "max_retries": 0, **options})


async def codes_of(serve: Serve, *calls: object) -> list[str]:
    async with client_of(serve(completion(*calls))) as client:
        return [call.code for call in (await client.complete(HELLO, tool=RUN_PYTHON)).calls]


# What is sent


async def test_a_tool_is_described_with_its_one_argument(serve: Serve) -> None:
    server = serve(completion(text="hi"))
    async with client_of(server, parameters={"tools": ["mine"]}) as client:
        await client.complete(HELLO, tool=Tool("work", "Works."))
    schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    function = {"name": "work", "description": "Works.", "parameters": schema}
    assert server.requests[0].body["tools"] == [{"type": "function", "function": function}]


async def test_without_a_tool_none_is_sent(serve: Serve) -> None:
    server = serve(completion(text="hi"))
    async with client_of(server) as client:
        await client.complete(HELLO)
    assert "tools" not in server.requests[0].body


@pytest.mark.parametrize(("tool", "name"), [(None, "run_python"), (Tool("work", "Works."), "work")])
async def test_calls_and_what_came_of_them_are_sent_by_their_numbers(
    serve: Serve, tool: Tool | None, name: str
) -> None:
    server = serve(completion(text="hi"))
    async with client_of(server) as client:
        await client.complete(TALK, tool=tool)
    _, said, first, second = server.requests[0].body["messages"]
    arguments = [json.dumps({"code": call.code}) for call in CALLS]
    functions = [{"name": name, "arguments": text} for text in arguments]
    calls = [{"id": call.id, "type": "function", "function": it} for call, it in zip(CALLS, functions, strict=True)]
    assert said == {"role": "assistant", "content": "I look.", "tool_calls": calls}
    assert first == {"role": "tool", "content": "1", "tool_call_id": "call_a"}
    assert second == {"role": "tool", "content": "ä", "tool_call_id": "call_b"}


async def test_code_that_has_no_utf8_is_sent_with_question_marks(serve: Serve) -> None:
    server = serve(completion(text="hi"))
    async with client_of(server) as client:
        await client.complete([Message("assistant", "", calls=(ToolCall("a", "'\ud800'"),))], tool=RUN_PYTHON)
    (call,) = server.requests[0].body["messages"][0]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"code": "'?'"}


# What is read


async def test_a_reply_of_calls_alone_has_no_text_and_keeps_their_order(serve: Serve) -> None:
    calls = [tool_call(json.dumps({"code": f"print({number})"}), id=f"call_{number}") for number in (3, 1, 2)]
    async with client_of(serve(completion(*calls))) as client:
        reply = await client.complete(HELLO, tool=RUN_PYTHON)
    made = tuple(ToolCall(f"call_{number}", f"print({number})") for number in (3, 1, 2))
    assert reply == Reply("", 11, 7, calls=made)


async def test_a_text_beside_the_calls_is_kept(serve: Serve) -> None:
    async with client_of(serve(completion(tool_call('{"code": "1"}', id="a"), text="I look."))) as client:
        reply = await client.complete(HELLO, tool=RUN_PYTHON)
    assert (reply.text, reply.calls) == ("I look.", (ToolCall("a", "1"),))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("print(1)", "print(1)"),
        ('{"code": "print(1', '{"code": "print(1'),
        ('"print(1)"', "print(1)"),
        ('{"code": "a = 1\nb = 2"}', "a = 1\nb = 2"),
        ('{"code": "a = 1\\nb = 2"}', "a = 1\nb = 2"),
        ('{"code": "\\ud83d\\ude00 \\ud800"}', "😀 ?"),
        ({"code": "print(1)"}, "print(1)"),
        ('{"source": "print(1)"}', '{"source": "print(1)"}'),
        ({"source": "print(1)"}, '{"source": "print(1)"}'),
        ('{"code": ["print(1)"]}', '{"code": ["print(1)"]}'),
        ("[" * 100_000, "[" * 100_000),
        ("42", "42"),
        ("", ""),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_arguments_that_are_no_json_with_code_are_taken_for_the_code(
    serve: Serve, arguments: object, code: str
) -> None:
    assert await codes_of(serve, tool_call(arguments, id="a")) == [code]


async def test_missing_numbers_are_given_over_the_whole_conversation(serve: Serve) -> None:
    calls = [tool_call('{"code": "1"}'), tool_call('{"code": "2"}', id="mine"), tool_call('{"code": "3"}', id=None)]
    async with client_of(serve(completion(*calls), completion(*calls))) as client:
        first = await client.complete(HELLO, tool=RUN_PYTHON)
        second = await client.complete(TALK, tool=RUN_PYTHON)
    assert [call.id for call in first.calls] == ["call_1", "mine", "call_3"]
    assert [call.id for call in second.calls] == ["call_3", "mine", "call_5"]


async def test_calls_of_a_server_that_does_not_count_are_estimated_with_their_code(serve: Serve) -> None:
    async with client_of(serve(completion(tool_call('{"code": "12345678"}'), usage=None))) as client:
        reply = await client.complete([*HELLO, Message("assistant", "", calls=CALLS)], tool=RUN_PYTHON)
    assert (reply.estimated, reply.output_tokens) == (True, 2)
    assert reply.input_tokens == -(-len("hello" + "print(1)" + "print('ä')") // 4)


async def test_calls_of_a_tool_that_was_not_offered_are_no_part_of_the_reply(serve: Serve) -> None:
    async with client_of(serve(completion(tool_call('{"code": "1"}', id="a"), text="hi"))) as client:
        assert await client.complete(HELLO) == Reply("hi", 11, 7)


def test_a_reply_without_calls_has_none() -> None:
    assert called([], TALK) == ()


# The wrappers


class Plain:
    """A client without tools."""

    model = "plain"

    def __init__(self) -> None:
        self.asked = 0

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
        self.asked += 1
        return Reply("hi", 1, 1)


class Offering:
    """A client that keeps the tools that it was told to offer."""

    model = "offering"

    def __init__(self) -> None:
        self.offered: list[Tool | None] = []

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None, tool: Tool | None = None) -> Reply:
        self.offered.append(tool)
        return Reply("", 1, 1, calls=CALLS)


async def test_a_wrapper_passes_the_tool_on_and_brings_the_calls_back(wrap: Wrap) -> None:
    inner = Offering()
    reply = await wrap(inner).complete(TALK, tool=RUN_PYTHON)
    assert reply.calls == CALLS
    assert inner.offered == [RUN_PYTHON]


async def test_a_wrapper_of_a_client_without_tools_works_without_one(wrap: Wrap) -> None:
    client = wrap(Plain())
    assert (await client.complete(HELLO)).text == "hi"
    assert (await client.complete([Message("user", "once more")], tool=None)).text == "hi"


async def test_a_wrapper_of_a_client_without_tools_says_so_before_it_asks(
    wrap: Wrap,
) -> None:
    inner = Plain()
    client = wrap(inner)
    await client.complete(HELLO)
    with pytest.raises(TypeError, match=r"Plain object.* offers no native tools, and is to offer 'run_python'"):
        await client.complete(HELLO, tool=RUN_PYTHON)
    assert inner.asked == 1


async def test_a_fallback_to_a_client_without_tools_is_told_before_the_first_is_asked() -> None:
    inner = Offering()
    with pytest.raises(TypeError, match="Plain"):
        await FallbackClient(inner, Plain()).complete(HELLO, tool=RUN_PYTHON)
    assert inner.offered == []


async def test_the_wrappers_one_around_the_other_pass_the_tool_on(tmp_path: Path) -> None:
    inner = Offering()
    client: Client = inner
    for make in WRAPPERS.values():
        client = make(client, tmp_path)
    assert (await client.complete(HELLO, tool=RUN_PYTHON)).calls == CALLS  # pyright: ignore[reportCallIssue]
    assert inner.offered == [RUN_PYTHON]


async def test_code_in_calls_counts_towards_the_limit_by_the_minute() -> None:
    client = RateLimitedClient(ScriptedClient(["hi"]), tokens_per_minute=100)
    talk = [Message("assistant", "", calls=(ToolCall("a", "x" * 200),))]
    await client.complete(talk, tool=RUN_PYTHON)
    assert "tokens_left=49" in repr(client)
