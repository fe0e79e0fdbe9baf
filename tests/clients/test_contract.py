"""The contract that every `Client` keeps: those that ask a model, and those that wrap another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.errors import ClientError
from tests.clients.server import Asked, Handler, Serve, answer, hang

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("system", "You are brief."), Message("user", "hello")]
FAILURE = "I was told to fail"

Make = Callable[[Serve, Path], Client]


def echo(prompt_of: Callable[[dict[str, Any]], str], said: Callable[[str], object]) -> Callable[[Handler, Asked], None]:
    """A step for ever: "echo" and the prompt, an error for one that holds "fail", no word for one that holds "hang"."""

    def step(handler: Handler, asked: Asked) -> None:
        handler.server.steps.append(step)
        prompt = prompt_of(asked.body)
        if "hang" in prompt:
            hang(handler, asked)
        elif "fail" in prompt:
            answer(400, {"error": {"message": FAILURE}})(handler, asked)
        else:
            answer(200, said(f"echo {prompt}"))(handler, asked)

    return step


def make_openai(serve: Serve, folder: Path) -> Client:
    def said(text: str) -> object:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}

    server = serve(echo(lambda body: body["messages"][-1]["content"], said))
    return OpenAIClient("test-model", base_url=server.base_url, timeout=30)


def make_anthropic(serve: Serve, folder: Path) -> Client:
    def said(text: str) -> object:
        return {
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }

    server = serve(echo(lambda body: body["messages"][-1]["content"][-1]["text"], said))
    return AnthropicClient("test-model", base_url=server.base_url.removesuffix("/v1"), timeout=30)


def make_gemini(serve: Serve, folder: Path) -> Client:
    def said(text: str) -> object:
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP"}
        return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}

    server = serve(echo(lambda body: body["contents"][-1]["parts"][-1]["text"], said))
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

    rules = [("hang", wait), ("fail", ClientError(FAILURE)), ("", lambda prompt: f"echo {prompt}")]
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
    inner = FallbackClient(RetryingClient(RateLimitedClient(make_generic(serve, folder), requests_per_minute=1e6)))
    return CachedClient(inner, folder / "replies.sqlite")


MAKERS: dict[str, Make] = {
    name.removeprefix("make_"): maker for name, maker in list(globals().items()) if name.startswith("make_")
}


@pytest.fixture(params=MAKERS)
def client(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Client:
    return MAKERS[request.param](serve, tmp_path)


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
