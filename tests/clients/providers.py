"""The providers with a client of their own: how each says a reply, whole and as a stream, and where its key is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pytest

from rlm_wasm.clients import AnthropicClient, GeminiClient, Message, OpenAIClient
from rlm_wasm.errors import ClientError
from tests.clients.server import Asked, ChatServer

Body: TypeAlias = dict[str, Any]


class Provider(NamedTuple):
    """`said` and `did` give the body of a reply with a text and with a call; `events` the same as a stream.

    `broken_off` is an event that tells of an error, `decided` a field that no parameters may hold, `once` the options
    with which the client asks once.
    """

    client: type[OpenAIClient | AnthropicClient | GeminiClient]
    suffix: str
    key_variables: tuple[str, ...]
    address_variable: str
    extra: str
    sdk: str
    said: Callable[[str], Body]
    did: Callable[[str], Body]
    uncounted: Callable[[Body], Body]
    events: Callable[[Body], list[str]]
    broken_off: str
    prompt_of: Callable[[Body], str]
    is_streamed: Callable[[Asked], bool]
    key_of: Callable[[Asked], str]
    decided: str
    once: Body

    def address(self, server: ChatServer) -> str:
        return server.base_url.removesuffix("/v1") + self.suffix

    def client_of(self, server: ChatServer, **options: Any) -> Any:
        given = {"base_url": self.address(server), "timeout": 30, **self.once, **options}
        return self.client("test-model", **given)

    async def failure_of(self, server: ChatServer, **options: Any) -> ClientError:
        """The error with which a call ends; `on_text` is for the call, all else for the client."""
        more = {"on_text": options.pop("on_text")} if "on_text" in options else {}
        async with self.client_of(server, **options) as client:
            with pytest.raises(ClientError) as raised:
                await client.complete([Message("user", "hello")], **more)
        return raised.value


def event(body: object, kind: str | None = None) -> str:
    named = f"event: {kind}\n" if kind else ""
    return f"{named}data: {json.dumps(body)}\n\n"


def halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def without(body: Body, name: str) -> Body:
    return {field: value for field, value in body.items() if field != name}


# OpenAI


def chat(text: str | None, reason: str = "stop", **more: object) -> Body:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": reason}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def chat_call(code: str) -> Body:
    function = {"name": "run_python", "arguments": json.dumps({"code": code})}
    return chat(None, "tool_calls", tool_calls=[{"id": "call_a", "type": "function", "function": function}])


def chat_events(body: Body) -> list[str]:
    def chunk(reason: str | None = None, **delta: object) -> str:
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None})

    (choice,) = body["choices"]
    said = choice["message"]
    chunks = [": wait", chunk(role="assistant", content=said["content"] and "")]
    chunks += [chunk(content=piece) for piece in halves(said["content"] or "") if piece]
    for index, call in enumerate(said.get("tool_calls", ())):
        name, arguments = call["function"].values()
        chunks.append(chunk(tool_calls=[{"index": index, **call, "function": {"name": name, "arguments": ""}}]))
        pieces = ({"index": index, "function": {"arguments": piece}} for piece in halves(arguments))
        chunks += [chunk(tool_calls=[piece]) for piece in pieces]
    chunks.append(chunk(choice["finish_reason"]))
    chunks += [event({"choices": [], "usage": body["usage"]})] if "usage" in body else []
    return [*chunks, "data: [DONE]\n\n"]


# Anthropic


def message(stop_reason: str = "end_turn", *blocks: object) -> Body:
    thought = {"type": "thinking", "thinking": "hm", "signature": "x=="}
    usage = {"input_tokens": 3, "output_tokens": 2}
    return {"content": [thought, *blocks], "stop_reason": stop_reason, "usage": usage}


def message_call(code: str) -> Body:
    return message("tool_use", {"type": "tool_use", "id": "a", "name": "run_python", "input": {"code": code}})


def message_events(body: Body) -> list[str]:
    usage = body.get("usage", {})
    at_first = {"input_tokens": usage["input_tokens"], "output_tokens": 1} if usage else {}
    told: list[Body] = [{"type": "message_start", "message": {"content": [], "usage": at_first}}, {"type": "ping"}]
    for index, block in enumerate(body["content"]):
        start: Body
        match block["type"]:
            case "text":
                start, grown = {"text": ""}, [("text_delta", "text", piece) for piece in halves(block["text"])]
            case "thinking":
                start = {"thinking": "", "signature": ""}
                grown = [("thinking_delta", "thinking", piece) for piece in halves(block["thinking"])]
                grown.append(("signature_delta", "signature", block["signature"]))
            case _:
                start, pieces = {**block, "input": {}}, halves(json.dumps(block["input"]))
                grown = [("input_json_delta", "partial_json", piece) for piece in pieces]
        start = {"type": block["type"], **start}
        told.append({"type": "content_block_start", "index": index, "content_block": start})
        deltas = ({"type": kind, field: piece} for kind, field, piece in grown)
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    counted = {"usage": {"output_tokens": usage["output_tokens"]}} if usage else {}
    told.append({"type": "message_delta", "delta": {"stop_reason": body["stop_reason"]}, **counted})
    return [event(each, each["type"]) for each in [*told, {"type": "message_stop"}]]


def message_prompt(body: Body) -> str:
    block = body["messages"][-1]["content"][-1]
    return block["text"] if block["type"] == "text" else block["content"]


# Gemini


def content(*parts: object, reason: str = "STOP") -> Body:
    thought = {"text": "hm", "thought": True}
    candidate = {"content": {"parts": [thought, *parts], "role": "model"}, "finishReason": reason}
    return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}


def content_events(body: Body) -> list[str]:
    (candidate,) = body["candidates"]
    thought, *parts = candidate["content"]["parts"]
    pieces: list[Body] = [thought]
    for part in parts:
        pieces += [{"text": piece} for piece in halves(part["text"])] if "text" in part else [part]
    chunks: list[Body] = [{"candidates": [{"content": {"parts": [piece], "role": "model"}}]} for piece in pieces]
    chunks[0] |= {"usageMetadata": {"promptTokenCount": 3}} if "usageMetadata" in body else {}
    chunks[-1]["candidates"][0]["finishReason"] = candidate["finishReason"]
    chunks[-1] |= {"usageMetadata": body["usageMetadata"]} if "usageMetadata" in body else {}
    return [event(chunk) for chunk in chunks]


def content_prompt(body: Body) -> str:
    part = body["contents"][-1]["parts"][-1]
    return part["text"] if "text" in part else part["functionResponse"]["response"]["output"]


OPENAI = Provider(
    client=OpenAIClient,
    suffix="/v1",
    key_variables=("OPENAI_API_KEY", "LLM_API_KEY"),
    address_variable="OPENAI_BASE_URL",
    extra="openai",
    sdk="openai",
    said=chat,
    did=chat_call,
    uncounted=lambda body: without(body, "usage"),
    events=chat_events,
    broken_off=event({"error": {"message": "upstream is down", "code": 502}}),
    prompt_of=lambda body: body["messages"][-1]["content"],
    is_streamed=lambda asked: asked.body["stream"],
    key_of=lambda asked: asked.headers["authorization"].removeprefix("Bearer "),
    decided="stream",
    once={"max_retries": 0},
)

ANTHROPIC = Provider(
    client=AnthropicClient,
    suffix="",
    key_variables=("ANTHROPIC_API_KEY",),
    address_variable="ANTHROPIC_BASE_URL",
    extra=r"'rlm-wasm\[anthropic\]'",
    sdk="anthropic",
    said=lambda text: message("end_turn", {"type": "text", "text": text}),
    did=message_call,
    uncounted=lambda body: without(body, "usage"),
    events=message_events,
    broken_off=event({"type": "error", "error": {"type": "other", "message": "upstream is down"}}, "error"),
    prompt_of=message_prompt,
    is_streamed=lambda asked: asked.body.get("stream", False),
    # in which of the two it goes is the SDK's choice, and has changed
    key_of=lambda asked: asked.headers.get("x-api-key") or asked.headers["authorization"].removeprefix("Bearer "),
    decided="system",
    once={},
)

GEMINI = Provider(
    client=GeminiClient,
    suffix="",
    key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    address_variable="GOOGLE_GEMINI_BASE_URL",
    extra=r"'rlm-wasm\[gemini\]'",
    sdk="google.genai",
    said=lambda text: content({"text": text}),
    did=lambda code: content({"functionCall": {"name": "run_python", "args": {"code": code}}}),
    uncounted=lambda body: without(body, "usageMetadata"),
    events=content_events,
    broken_off=event({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "upstream is down"}}),
    prompt_of=content_prompt,
    is_streamed=lambda asked: "streamGenerateContent" in asked.path,
    key_of=lambda asked: asked.headers["x-goog-api-key"],
    decided="system_instruction",
    once={},
)

PROVIDERS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}
