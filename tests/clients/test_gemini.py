"""GeminiClient against a real HTTP server on loopback that plays Google's Gemini API."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.clients import GeminiClient, Message, Reply
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall
from tests.clients.providers import GEMINI
from tests.clients.server import ChatServer, Serve, Step, answer

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

KEY = "AIza-test-0123456789abcdef"
HELLO = [Message("system", "You are brief."), Message("user", "hello")]
USAGE = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}


def content(*parts: object, usage: object = USAGE, reason: str = "STOP", **more: object) -> Step:
    shown = [{"text": part} if isinstance(part, str) else part for part in parts]
    candidate = {"content": {"role": "model", "parts": shown}, "finishReason": reason, "index": 0}
    return answer(200, {"candidates": [candidate], "usageMetadata": usage, "responseId": "new field", **more})


def trouble(status: int, name: str, text: str, *details: object, **headers: str) -> Step:
    body = {"error": {"code": status, "status": name, "message": text, "details": list(details)}}
    return answer(status, body, **headers)


def client_of(server: ChatServer, **options: Any) -> GeminiClient:
    address = server.base_url.removesuffix("/v1")
    return GeminiClient("gemini-test", **{"base_url": address, "api_key": KEY, "timeout": 30, **options})


async def test_a_request_carries_the_messages_the_parameters_and_the_key(serve: Serve) -> None:
    server = serve(content("hi"))
    talk = [*HELLO, Message("assistant", ""), Message("user", "a\ud800b")]
    async with client_of(server, parameters={"temperature": 0, "thinking_config": {"thinking_budget": 5}}) as client:
        assert await client.complete(talk, max_output_tokens=50) == Reply("hi", 11, 7)
    (asked,) = server.requests
    assert asked.path.endswith("/models/gemini-test:generateContent")
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.body["contents"] == [
        {"role": "user", "parts": [{"text": "hello"}]},
        {"role": "model", "parts": [{"text": "(empty)"}]},
        {"role": "user", "parts": [{"text": "a?b"}]},
    ]
    assert asked.body["systemInstruction"]["parts"] == [{"text": "You are brief."}]
    assert asked.body["generationConfig"].keys() == {"temperature", "maxOutputTokens", "thinkingConfig"}
    assert asked.body["generationConfig"]["maxOutputTokens"] == 50


async def test_the_smaller_of_two_limits_is_sent(serve: Serve) -> None:
    server = serve(*[content("hi")] * 2)
    async with client_of(server, parameters={"max_output_tokens": 100}) as client:
        await client.complete(HELLO, max_output_tokens=50)
        await client.complete(HELLO, max_output_tokens=500)
    assert [asked.body["generationConfig"]["maxOutputTokens"] for asked in server.requests] == [50, 100]


async def test_thoughts_are_counted_as_output_and_are_no_part_of_the_text(serve: Serve) -> None:
    usage = {**USAGE, "thoughtsTokenCount": 100, "cachedContentTokenCount": 5, "toolUsePromptTokenCount": 2}
    async with client_of(serve(content({"text": "hm", "thought": True}, "one, ", "two", usage=usage))) as client:
        assert await client.complete(HELLO) == Reply("one, two", 13, 107, cache_reads=5)


@pytest.mark.parametrize("usage", [None, {}, {"promptTokenCount": 0}])
async def test_counts_that_are_missing_are_estimated(serve: Serve, usage: object) -> None:
    async with client_of(serve(content("12345678", usage=usage))) as client:
        assert await client.complete([Message("user", "1234")]) == Reply("12345678", 1, 2, estimated=True)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (content(), "no text, finish_reason 'STOP'"),
        (content(reason="MAX_TOKENS"), "output tokens were used up"),
        (content("half of", reason="SAFETY"), "finish_reason 'SAFETY'"),
        (content("half of", reason="NEWER_THAN_THE_SDK"), "NEWER_THAN_THE_SDK"),
        (answer(200, {"candidates": []}), "list of candidates is empty"),
        (answer(200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}), "blocked (PROHIBITED_CONTENT)"),
        (answer(200, b"<html>proxy</html>"), "no response of Gemini's"),
        (answer(200, {"candidates": 1}), "no response of Gemini's"),
        (answer(200, [1, 2]), "list of candidates is empty"),
        (answer(200, b""), "list of candidates is empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:NEWER_THAN_THE_SDK")
async def test_an_answer_that_is_no_reply_is_an_error_with_its_reason(serve: Serve, step: Step, reason: str) -> None:
    error = await GEMINI.failure_of(serve(step))
    assert reason in str(error)
    assert (error.status, error.transient) == (200, False)


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
TOO_LONG = "The input token count (9000) exceeds the maximum number of tokens allowed (8192)."


@pytest.mark.parametrize(
    ("step", "status", "transient", "text"),
    [
        (trouble(400, "INVALID_ARGUMENT", TOO_LONG), 400, False, "does not fit"),
        (trouble(400, "INVALID_ARGUMENT", "API key not valid."), 400, False, "not valid"),
        (trouble(401, "UNAUTHENTICATED", "no"), 401, False, "GEMINI_API_KEY or GOOGLE_API_KEY"),
        (trouble(404, "NOT_FOUND", "models/gemini-test is not found"), 404, False, "does not serve the model"),
        (trouble(429, "RESOURCE_EXHAUSTED", "slow down", RETRY_INFO), 429, True, "a pause of 34.5 s"),
        (trouble(500, "INTERNAL", "oops"), 500, True, "oops"),
        (trouble(503, "UNAVAILABLE", "The model is overloaded."), 503, True, "overloaded"),
        (answer(502, b"<html>bad gateway</html>"), 502, True, "bad gateway"),
        (answer(302, b"", Location="/elsewhere"), 302, False, "302"),
    ],
)
async def test_an_error_carries_its_status_and_whether_it_may_pass(
    serve: Serve, step: Step, status: int, transient: bool, text: str
) -> None:
    server = serve(step)
    error = await GEMINI.failure_of(server)
    assert (error.status, error.transient, len(server.requests)) == (status, transient, 1)
    assert error.retry_after == (34.5 if status == 429 else None)
    assert text in str(error)
    assert error.__cause__ is not None


async def test_parameters_that_the_sdk_does_not_know_are_refused(serve: Serve) -> None:
    async with client_of(serve(), parameters={"temperatur": 0}) as client:
        with pytest.raises(ValueError, match="temperatur"):
            await client.complete(HELLO)


# The tool

CALLS = (ToolCall("a", "print(1)"), ToolCall("b", "print('\ud800')"))
TALK = [
    *HELLO,
    Message("assistant", "I look.", calls=CALLS),
    Message("tool", "1", answers="a"),
    Message("tool", "", answers="b"),
]


def function_call(code: str, **more: object) -> dict[str, object]:
    return {"name": "run_python", "args": {"code": code}, **more}


async def test_a_tool_its_calls_and_what_came_of_them_are_sent_as_parts(serve: Serve) -> None:
    server = serve(content("hi"))
    async with client_of(server) as client:
        await client.complete(TALK, tool=Tool("work", "Works."))
    body = server.requests[0].body
    (declared,) = body["tools"][0]["functionDeclarations"]
    schema = {"type": "OBJECT", "properties": {"code": {"type": "STRING"}}, "required": ["code"]}
    assert declared == {"name": "work", "description": "Works.", "parameters": schema}
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "I look."},
                {"functionCall": {"id": "a", "name": "work", "args": {"code": "print(1)"}}},
                {"functionCall": {"id": "b", "name": "work", "args": {"code": "print('?')"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "work", "response": {"output": "1"}}},
                {"functionResponse": {"id": "b", "name": "work", "response": {"output": "(empty)"}}},
            ],
        },
    ]


async def test_without_a_tool_none_is_sent_and_no_call_is_read(serve: Serve) -> None:
    server = serve(content("hi", {"functionCall": function_call("1")}))
    async with client_of(server) as client:
        assert await client.complete(HELLO) == Reply("hi", 11, 7)
    assert "tools" not in server.requests[0].body


async def test_the_calls_in_a_reply_keep_their_order_and_get_numbers(serve: Serve) -> None:
    parts = [{"functionCall": function_call("print(2)")}, {"functionCall": function_call("print(1)", id="mine")}]
    async with client_of(serve(content("I look.", *parts), content(*parts), content(*parts, usage=None))) as client:
        both, alone, uncounted = [await client.complete(HELLO, tool=RUN_PYTHON) for _ in range(3)]
    calls = (ToolCall("call_1", "print(2)"), ToolCall("mine", "print(1)"))
    assert both == Reply("I look.", 11, 7, calls=calls)
    assert alone == Reply("", 11, 7, calls=calls)
    assert uncounted == Reply("", 5, 4, estimated=True, calls=calls)


async def test_the_signature_of_a_call_is_given_back_as_it_was(serve: Serve) -> None:
    said = [
        {"functionCall": function_call("1", id="a"), "thoughtSignature": "/+A="},
        {"functionCall": function_call("2", id="b")},
    ]
    server = serve(content({"text": "hm", "thought": True}, *said), content("hi"))
    async with client_of(server) as client:
        reply = await client.complete(HELLO, tool=RUN_PYTHON)
        results = [Message("tool", "1", answers=call.id) for call in reply.calls]
        await client.complete([*HELLO, Message("assistant", reply.text, calls=reply.calls), *results], tool=RUN_PYTHON)
    sent = server.requests[1].body["contents"][1]["parts"]
    # URL-safe or not, Google takes both
    sent[0]["thoughtSignature"] = sent[0]["thoughtSignature"].replace("_", "/").replace("-", "+")
    assert sent == said


async def test_what_another_provider_wants_given_back_is_not_sent(serve: Serve) -> None:
    server = serve(content("hi"))
    calls = (ToolCall("a", "1", "anthropic []"),)
    async with client_of(server) as client:
        await client.complete([Message("assistant", "", calls=calls)], tool=RUN_PYTHON)
    assert server.requests[0].body["contents"][0]["parts"] == [{"functionCall": function_call("1", id="a")}]


async def test_a_call_that_the_model_wrote_wrongly_may_pass(serve: Serve) -> None:
    error = await GEMINI.failure_of(serve(content(reason="MALFORMED_FUNCTION_CALL")))
    assert (error.status, error.transient) == (200, True)
