"""AnthropicClient against a real HTTP server on loopback that plays Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.clients import AnthropicClient, Message, Reply
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall
from tests.clients.providers import ANTHROPIC
from tests.clients.server import ChatServer, Serve, Step, answer

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

KEY = "sk-ant-test-0123456789abcdef"
HELLO = [Message("system", "You are brief."), Message("user", "hello")]
USAGE = {"input_tokens": 11, "output_tokens": 7}
CACHED = {"cache_control": {"type": "ephemeral"}}


def message(*texts: str, usage: object = USAGE, stop_reason: str = "end_turn") -> Step:
    content = [{"type": "thinking", "thinking": "hm", "signature": "x"}, *({"type": "text", "text": t} for t in texts)]
    body = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": stop_reason}
    return answer(200, {**body, "content": content, "usage": usage})


def trouble(status: int, kind: str, text: str, **headers: str) -> Step:
    return answer(status, {"type": "error", "error": {"type": kind, "message": text}}, **headers)


def client_of(server: ChatServer, **options: Any) -> AnthropicClient:
    address = server.base_url.removesuffix("/v1")
    return AnthropicClient("claude-test", **{"base_url": address, "api_key": KEY, "timeout": 30, **options})


async def test_a_request_marks_the_system_prompt_and_the_last_message_for_the_cache(serve: Serve) -> None:
    server = serve(message("hi"))
    talk = [*HELLO, Message("assistant", ""), Message("user", "a\ud800b")]
    async with client_of(server, parameters={"temperature": 0}) as client:
        assert await client.complete(talk, max_output_tokens=50) == Reply("hi", 11, 7)
    (asked,) = server.requests
    assert asked.path == "/v1/messages"
    assert ANTHROPIC.key_of(asked) == KEY
    assert asked.body == {
        "model": "claude-test",
        "system": [{"type": "text", "text": "You are brief.", **CACHED}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "(empty)"}]},
            {"role": "user", "content": [{"type": "text", "text": "a?b", **CACHED}]},
        ],
        "max_tokens": 50,
        "temperature": 0,
    }


async def test_a_single_message_is_not_marked_for_the_cache(serve: Serve) -> None:
    server = serve(message("hi"))
    async with client_of(server) as client:
        await client.complete([Message("user", "how many?")])
    assert "cache_control" not in str(server.requests[0].body)
    assert "system" not in server.requests[0].body


async def test_the_smaller_of_two_limits_is_sent_and_one_in_any_case(serve: Serve) -> None:
    server = serve(*[message("hi")] * 3)
    async with client_of(server, parameters={"max_tokens": 100}) as client:
        await client.complete(HELLO, max_output_tokens=50)
        await client.complete(HELLO, max_output_tokens=500)
    async with client_of(server) as client:
        await client.complete(HELLO)
    assert [asked.body["max_tokens"] for asked in server.requests] == [50, 100, 8192]


async def test_what_was_written_to_the_cache_and_read_from_it_counts_as_input(serve: Serve) -> None:
    usage = {**USAGE, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000}
    async with client_of(serve(message("one, ", "two", usage=usage))) as client:
        assert await client.complete(HELLO) == Reply("one, two", 1111, 7, cache_reads=1000, cache_writes=100)


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": "many", "output_tokens": 1}, -1])
async def test_counts_that_are_missing_or_no_counts_are_estimated(serve: Serve, usage: object) -> None:
    async with client_of(serve(message("12345678", usage=usage))) as client:
        assert await client.complete([Message("user", "1234")]) == Reply("12345678", 1, 2, estimated=True)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (message(), "no text, stop_reason 'end_turn'"),
        (message(stop_reason="max_tokens"), "output tokens were used up"),
        (message("I will", stop_reason="refusal"), "refused to answer"),
        (answer(200, b"<html>proxy</html>"), "proxy"),
        (answer(200, {"content": "none"}), "no message of Anthropic's"),
    ],
)
async def test_an_answer_that_is_no_reply_is_an_error_with_its_reason(serve: Serve, step: Step, reason: str) -> None:
    error = await ANTHROPIC.failure_of(serve(step))
    assert reason in str(error)
    assert (error.status, error.transient) == (200, False)


@pytest.mark.parametrize(
    ("step", "status", "transient", "text"),
    [
        (trouble(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), 400, False, "does not fit"),
        (trouble(401, "authentication_error", "invalid x-api-key"), 401, False, "ANTHROPIC_API_KEY"),
        (trouble(404, "not_found_error", "model: claude-test"), 404, False, "does not serve the model"),
        (trouble(429, "rate_limit_error", "slow down", Retry_After="7"), 429, True, "a pause of 7 s"),
        (trouble(500, "api_error", "oops"), 500, True, "oops"),
        (trouble(529, "overloaded_error", "Overloaded"), 529, True, "Overloaded"),
        (answer(502, b"<html>bad gateway</html>"), 502, True, "bad gateway"),
    ],
)
async def test_an_error_carries_its_status_and_whether_it_may_pass(
    serve: Serve, step: Step, status: int, transient: bool, text: str
) -> None:
    server = serve(step)
    error = await ANTHROPIC.failure_of(server)
    assert (error.status, error.transient, len(server.requests)) == (status, transient, 1)
    assert error.retry_after == (7.0 if status == 429 else None)
    assert text in str(error)
    assert error.__cause__ is not None


# The tool

CALLS = (ToolCall("toolu_a", "print(1)"), ToolCall("toolu_b", "print('\ud800')"))
TALK = [
    *HELLO,
    Message("assistant", "I look.", calls=CALLS),
    Message("tool", "1", answers="toolu_a"),
    Message("tool", "", answers="toolu_b"),
]


def used(*blocks: object, usage: object = USAGE, stop_reason: str = "tool_use") -> Step:
    body = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_reason": stop_reason}
    return answer(200, {**body, "content": list(blocks), "usage": usage})


def tool_use(number: str, given: object) -> dict[str, object]:
    return {"type": "tool_use", "id": number, "name": "run_python", "input": given}


async def test_a_tool_its_calls_and_what_came_of_them_are_sent_as_blocks(serve: Serve) -> None:
    server = serve(message("hi"))
    async with client_of(server) as client:
        await client.complete(TALK, tool=Tool("work", "Works."))
    body = server.requests[0].body
    schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    assert body["tools"] == [{"name": "work", "description": "Works.", "input_schema": schema}]
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_a", "name": "work", "input": {"code": "print(1)"}},
                {"type": "tool_use", "id": "toolu_b", "name": "work", "input": {"code": "print('?')"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_a", "content": "1"},
                {"type": "tool_result", "tool_use_id": "toolu_b", "content": "(empty)", **CACHED},
            ],
        },
    ]


async def test_without_a_tool_none_is_sent_and_no_call_is_read(serve: Serve) -> None:
    server = serve(used({"type": "text", "text": "hi"}, tool_use("toolu_a", {"code": "1"})))
    async with client_of(server) as client:
        assert await client.complete(HELLO) == Reply("hi", 11, 7)
    assert "tools" not in server.requests[0].body


async def test_the_calls_in_a_reply_keep_their_order(serve: Serve) -> None:
    text = {"type": "text", "text": "I look."}
    first, second = tool_use("toolu_b", {"code": "print(2)"}), tool_use("toolu_a", {"code": "print(1)"})
    async with client_of(serve(used(text, first, second), used(second), used(second, usage=None))) as client:
        both, alone, uncounted = [await client.complete(HELLO, tool=RUN_PYTHON) for _ in range(3)]
    calls = (ToolCall("toolu_b", "print(2)"), ToolCall("toolu_a", "print(1)"))
    assert both == Reply("I look.", 11, 7, calls=calls)
    assert alone == Reply("", 11, 7, calls=calls[1:])
    assert uncounted == Reply("", 5, 2, estimated=True, calls=calls[1:])


async def test_the_thoughts_before_a_call_are_given_back_as_they_were(serve: Serve) -> None:
    thoughts = [
        {"type": "thinking", "thinking": "hm, ä", "signature": "x=="},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "thinking", "thinking": "and", "signature": "y=="},
    ]
    text = {"type": "text", "text": "I look."}
    first, second = tool_use("toolu_a", {"code": "1"}), tool_use("toolu_b", {"code": "2"})
    said = [*thoughts[:2], text, first, thoughts[2], second]
    server = serve(used(*said), message("hi"))
    async with client_of(server) as client:
        reply = await client.complete(HELLO, tool=RUN_PYTHON)
        results = [Message("tool", "1", answers=call.id) for call in reply.calls]
        await client.complete([*HELLO, Message("assistant", reply.text, calls=reply.calls), *results], tool=RUN_PYTHON)
    assert server.requests[1].body["messages"][1] == {"role": "assistant", "content": said}


async def test_what_another_provider_wants_given_back_is_not_sent(serve: Serve) -> None:
    server = serve(message("hi"))
    async with client_of(server) as client:
        await client.complete([Message("assistant", "", calls=(ToolCall("a", "1", "gemini eA=="),))], tool=RUN_PYTHON)
    assert server.requests[0].body["messages"][0]["content"] == [tool_use("a", {"code": "1"})]
