"""The contract that every `Client` keeps: those that ask a model, and those that wrap another."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from rlm_wasm.clients import (
    AnthropicClient,
    CachedClient,
    Client,
    FallbackClient,
    GeminiClient,
    GenericClient,
    Message,
    OpenAIClient,
    RateLimitedClient,
    Reply,
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.clients.protocol import ToolClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import RUN_PYTHON
from tests.clients.server import Asked, Handler, Serve, answer, hang

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("system", "You are brief."), Message("user", "hello")]
FAILURE = "I was told to fail"

Make = Callable[[Serve, Path], Client]


def echo(
    prompt_of: Callable[[dict[str, Any]], str], said: Callable[[str], object], did: Callable[[str], object] = str
) -> Callable[[Handler, Asked], None]:
    """A step for ever: "echo" and the prompt, an error for one that holds "fail", no word for one that holds "hang".

    For one that holds "call", where a tool is offered, a call whose code is "echo" and the prompt.
    """

    def step(handler: Handler, asked: Asked) -> None:
        handler.server.steps.append(step)
        prompt = prompt_of(asked.body)
        if "hang" in prompt:
            hang(handler, asked)
        elif "fail" in prompt:
            answer(400, {"error": {"message": FAILURE}})(handler, asked)
        elif "call" in prompt and "tools" in asked.body:
            answer(200, did(f"echo {prompt}"))(handler, asked)
        else:
            answer(200, said(f"echo {prompt}"))(handler, asked)

    return step


def make_openai(serve: Serve, folder: Path) -> Client:
    def said(text: str | None, **more: object) -> object:
        choice = {"message": {"role": "assistant", "content": text, **more}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}

    def did(code: str) -> object:
        function = {"name": "run_python", "arguments": json.dumps({"code": code})}
        return said(None, tool_calls=[{"id": "call_a", "type": "function", "function": function}])

    server = serve(echo(lambda body: body["messages"][-1]["content"], said, did))
    return OpenAIClient("test-model", base_url=server.base_url, timeout=30)


def make_anthropic(serve: Serve, folder: Path) -> Client:
    def body_of(**block: object) -> object:
        return {"content": [block], "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}

    def said(text: str) -> object:
        return body_of(type="text", text=text)

    def did(code: str) -> object:
        return body_of(type="tool_use", id="toolu_a", name="run_python", input={"code": code})

    def prompt_of(body: dict[str, Any]) -> str:
        block = body["messages"][-1]["content"][-1]
        return block["text"] if block["type"] == "text" else block["content"]

    server = serve(echo(prompt_of, said, did))
    return AnthropicClient("test-model", base_url=server.base_url.removesuffix("/v1"), timeout=30)


def make_gemini(serve: Serve, folder: Path) -> Client:
    def body_of(**part: object) -> object:
        candidate = {"content": {"parts": [part], "role": "model"}, "finishReason": "STOP"}
        return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}

    def said(text: str) -> object:
        return body_of(text=text)

    def did(code: str) -> object:
        return body_of(functionCall={"name": "run_python", "args": {"code": code}})

    def prompt_of(body: dict[str, Any]) -> str:
        part = body["contents"][-1]["parts"][-1]
        return part["text"] if "text" in part else part["functionResponse"]["response"]["output"]

    server = serve(echo(prompt_of, said, did))
    return GeminiClient("test-model", base_url=server.base_url.removesuffix("/v1"), timeout=30)


def make_generic(serve: Serve, folder: Path) -> Client:
    server = serve(echo(lambda body: body["ask"], lambda text: {"say": text}))
    return GenericClient(
        "test-model",
        server.base_url,
        lambda messages, limit: {"ask": messages[-1].content, "limit": limit},
        lambda body: body["say"],
        timeout=30,
    )


def make_scripted(serve: Serve, folder: Path) -> Client:
    async def wait(prompt: str) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    def called(prompt: str) -> Reply:
        return run_python(f"echo {prompt}")

    rules = [("hang", wait), ("fail", ClientError(FAILURE)), ("call", called), ("", lambda prompt: f"echo {prompt}")]
    return ScriptedClient(rules=rules, model="test-model")


def make_cached(serve: Serve, folder: Path) -> Client:
    return CachedClient(make_scripted(serve, folder), folder / "replies.sqlite")


def make_retrying(serve: Serve, folder: Path) -> Client:
    return RetryingClient(make_scripted(serve, folder))


def make_fallback(serve: Serve, folder: Path) -> Client:
    down = ScriptedClient(rules={"": ClientError("down")}, model="test-model")
    return FallbackClient(down, make_scripted(serve, folder))


def make_rate_limited(serve: Serve, folder: Path) -> Client:
    return RateLimitedClient(make_scripted(serve, folder), requests_per_minute=1e6, tokens_per_minute=1e6)


def make_all_in_one(serve: Serve, folder: Path) -> Client:
    inner = FallbackClient(RetryingClient(RateLimitedClient(make_openai(serve, folder), requests_per_minute=1e6)))
    return CachedClient(inner, folder / "replies.sqlite")


MAKERS: dict[str, Make] = {
    name.removeprefix("make_"): maker for name, maker in list(globals().items()) if name.startswith("make_")
}


WITHOUT_TOOLS = {"generic"}


@pytest.fixture(params=MAKERS)
def client(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Client:
    return MAKERS[request.param](serve, tmp_path)


@pytest.fixture(params=[name for name in MAKERS if name not in WITHOUT_TOOLS])
def tool_client(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> ToolClient:
    return cast(ToolClient, MAKERS[request.param](serve, tmp_path))


async def test_every_client_answers_and_counts(client: Client) -> None:
    reply = await client.complete(HELLO)
    assert reply.text == "echo hello"
    assert reply.input_tokens > 0
    assert reply.output_tokens > 0
    assert client.model == "test-model"


async def test_every_client_takes_any_sequence_of_messages_and_a_limit(client: Client) -> None:
    talk = (*HELLO, Message("assistant", "hi"), Message("user", "bye"))
    assert (await client.complete(talk, max_output_tokens=100)).text == "echo bye"


async def test_every_client_raises_for_what_is_no_reply_and_answers_the_next(client: Client) -> None:
    with pytest.raises(ClientError, match=FAILURE):
        await client.complete([Message("user", "fail")])
    assert (await client.complete(HELLO)).text == "echo hello"


async def test_every_client_keeps_calls_at_once_apart(client: Client) -> None:
    texts: dict[int, str] = {}

    async def ask(number: int) -> None:
        texts[number] = (await client.complete([Message("user", str(number))])).text

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
    assert texts == {number: f"echo {number}" for number in range(20)}


async def test_every_client_can_be_cancelled_and_answers_the_next(client: Client) -> None:
    with anyio.fail_after(30):
        await client.complete(HELLO)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.complete, [Message("user", "hang")])
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert (await client.complete([Message("user", "again")])).text == "echo again"


async def test_every_client_with_tools_brings_calls_and_takes_what_came_of_them(tool_client: ToolClient) -> None:
    talk = [Message("user", "call")]
    reply = await tool_client.complete(talk, tool=RUN_PYTHON, max_output_tokens=100)
    (call,) = reply.calls
    assert (reply.text, call.code) == ("", "echo call")
    assert call.id
    talk += [Message("assistant", reply.text, calls=reply.calls), Message("tool", "bye", answers=call.id)]
    reply = await tool_client.complete(talk, tool=RUN_PYTHON)
    assert (reply.text, reply.calls) == ("echo bye", ())


async def test_every_client_with_tools_may_be_given_none(tool_client: ToolClient) -> None:
    reply = await tool_client.complete(HELLO, tool=None)
    assert (reply.text, reply.calls) == ("echo hello", ())


@pytest.mark.parametrize("name", MAKERS)
def test_whether_a_client_has_tools_shows_in_its_signature(name: str, serve: Serve, tmp_path: Path) -> None:
    parameters = inspect.signature(MAKERS[name](serve, tmp_path).complete).parameters
    assert ("tool" in parameters) == (name not in WITHOUT_TOOLS)
