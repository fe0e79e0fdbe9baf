"""The contract that every `Client` keeps: those that ask a model, and those that wrap another."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from rlm_wasm.clients import (
    CachedClient,
    Client,
    FallbackClient,
    GenericClient,
    GenericToolClient,
    Message,
    RateLimitedClient,
    Reply,
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.clients.protocol import StreamingClient, ToolClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall
from tests.clients.providers import ANTHROPIC, GEMINI, OPENAI, Provider
from tests.clients.server import Asked, Handler, Serve, Step, answer, cut, drip, hang, stream

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("system", "You are brief."), Message("user", "hello")]
FAILURE = "I was told to fail"
KEY = "sk-test-0123456789abcdef"

Make = Callable[[Serve, Path], Any]


def echo(
    prompt_of: Callable[[dict[str, Any]], str],
    said: Callable[[str], dict[str, Any]],
    provider: Provider | None = None,
    did: Callable[[str], dict[str, Any]] | None = None,
) -> Callable[[Handler, Asked], None]:
    """A step for ever: "echo" and the prompt, an error for one that holds "fail", no word for one that holds "hang".

    For one that holds "call", where a tool is offered, a call by `did`, the provider's if there is one, whose code is
    "echo" and the prompt. Of a `provider` that is asked for a stream, a stream.
    """
    acted = provider.did if provider else did

    def step(handler: Handler, asked: Asked) -> None:
        handler.server.steps.append(step)
        prompt = prompt_of(asked.body)
        if "hang" in prompt:
            hang(handler, asked)
        elif "fail" in prompt:
            answer(400, {"error": {"message": FAILURE}})(handler, asked)
        else:
            called = "call" in prompt and "tools" in asked.body
            body = acted(f"echo {prompt}") if acted and called else said(f"echo {prompt}")
            streamed = provider and provider.is_streamed(asked)
            (stream(*provider.events(body)) if provider and streamed else answer(200, body))(handler, asked)

    return step


def make_openai(serve: Serve, folder: Path) -> Client:
    return OPENAI.client_of(serve(echo(OPENAI.prompt_of, OPENAI.said, OPENAI)))


def make_anthropic(serve: Serve, folder: Path) -> Client:
    return ANTHROPIC.client_of(serve(echo(ANTHROPIC.prompt_of, ANTHROPIC.said, ANTHROPIC)))


def make_gemini(serve: Serve, folder: Path) -> Client:
    return GEMINI.client_of(serve(echo(GEMINI.prompt_of, GEMINI.said, GEMINI)))


def make_generic(serve: Serve, folder: Path) -> Client:
    server = serve(echo(lambda body: body["ask"], lambda text: {"say": text}))
    return GenericClient(
        "test-model",
        server.base_url,
        lambda messages, limit: {"ask": messages[-1].content, "limit": limit},
        lambda body: body["say"],
        timeout=30,
    )


def make_generic_tools(serve: Serve, folder: Path) -> Client:
    def build(messages: Sequence[Message], limit: int | None, tool: Tool | None) -> object:
        asked = {"ask": messages[-1].content, "results": [each.answers for each in messages if each.answers]}
        return asked if tool is None else {**asked, "tools": [tool.name]}

    def parse(body: dict[str, str]) -> Reply:
        calls = (ToolCall("1", body["run"]),) if "run" in body else ()
        return Reply(body.get("say", ""), 3, 2, calls=calls)

    server = serve(echo(lambda body: body["ask"], lambda text: {"say": text}, did=lambda code: {"run": code}))
    return GenericToolClient("test-model", server.base_url, build, parse, timeout=30)


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
def client(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> StreamingClient:
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


async def test_every_client_tells_the_text_while_it_comes_and_brings_the_same_reply(client: StreamingClient) -> None:
    told: list[str | None] = []
    talk = [Message("user", "a long story")]
    reply = await client.complete(talk, on_text=told.append)
    assert "".join(piece or "" for piece in told) == "echo a long story"
    assert all(told)
    again = await client.complete(talk)
    assert again in (reply, Reply(reply.text, 0, 0, cached=True, model=reply.model))


STREAMING = [name for name in MAKERS if not name.startswith("generic")]


@pytest.mark.parametrize("name", STREAMING)
async def test_every_client_with_streams_tells_a_text_in_pieces(name: str, serve: Serve, tmp_path: Path) -> None:
    told: list[str | None] = []
    await MAKERS[name](serve, tmp_path).complete([Message("user", "a long story")], on_text=told.append)
    assert len(told) > 1


async def test_every_client_with_tools_tells_no_calls(tool_client: Any) -> None:
    told: list[str | None] = []
    reply = await tool_client.complete([Message("user", "call")], tool=RUN_PYTHON, on_text=told.append)
    assert ([call.code for call in reply.calls], told) == (["echo call"], [])


async def test_every_client_that_streams_raises_for_what_is_no_reply(client: StreamingClient) -> None:
    told: list[str | None] = []
    with pytest.raises(ClientError, match=FAILURE):
        await client.complete([Message("user", "fail")], on_text=told.append)
    assert told == []
    assert (await client.complete(HELLO, on_text=told.append)).text == "".join(piece or "" for piece in told)


@pytest.mark.parametrize("error", [ValueError, KeyError, TimeoutError, OSError])
async def test_every_client_raises_what_its_listener_raises_and_answers_the_next(
    client: StreamingClient, error: type[Exception]
) -> None:
    def listen(piece: str | None) -> None:
        raise error("not for me")

    with pytest.raises(error, match="not for me"):
        await client.complete(HELLO, on_text=listen)
    assert (await client.complete(HELLO)).text == "echo hello"


# The clients of vendors


async def test_a_broken_connection_may_pass_and_a_late_reply_may_not(serve: Serve, provider: Provider) -> None:
    server = serve(cut)
    error = await provider.failure_of(server)
    assert (error.status, error.transient, len(server.requests)) == (None, True, 1)
    assert "no reply from 127.0.0.1" in str(error)
    assert error.__cause__ is not None
    for step in (hang, drip):
        error = await provider.failure_of(serve(step), timeout=0.1)
        assert (error.status, error.transient) == (None, False)
        assert "within 0.1 s" in str(error)


@pytest.mark.parametrize(
    "step", [answer(401, {"error": {"message": f"bad key {KEY}"}}), answer(200, f"you sent {KEY}".encode())]
)
async def test_a_key_that_the_server_quotes_is_in_no_text(serve: Serve, provider: Provider, step: Step) -> None:
    error = await provider.failure_of(serve(step), api_key=KEY)
    assert KEY[:12] not in "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


async def test_no_key_names_the_variables_to_set(provider: Provider) -> None:
    with pytest.raises(ClientError, match=" or ".join(provider.key_variables)):
        await provider.client("test-model").complete(HELLO)


@pytest.mark.parametrize("place", [0, -1])
async def test_address_and_key_come_from_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, provider: Provider, place: int
) -> None:
    server = serve(answer(200, provider.said("hi")))
    monkeypatch.setenv(provider.address_variable, provider.address(server))
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    # a line end after a key is forgiven
    monkeypatch.setenv(provider.key_variables[place], f"{KEY}\n")
    async with provider.client("test-model", timeout=30) as client:
        await client.complete(HELLO)
    assert provider.key_of(server.requests[0]) == KEY


async def test_a_missing_sdk_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{provider.sdk}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, provider.sdk, None)
    with pytest.raises(ClientError, match=f"{provider.client.__name__} needs .*pip install {provider.extra}"):
        await provider.client("test-model", api_key=KEY).complete(HELLO)


def test_options_that_make_no_sense_are_refused(provider: Provider) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"base_url": "localhost"}, "base_url begins with"),
        ({"timeout": 0}, "timeout must be"),
        ({"parameters": {provider.decided: "mine"}}, f"may not hold {provider.decided}"),
    ]
    for options, reason in refused:
        with pytest.raises(ValueError, match=reason):
            provider.client("test-model", **options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("told", [{}, {"on_text": lambda piece: None}], ids=["whole", "streamed"])
@pytest.mark.filterwarnings("error")
def test_one_client_serves_one_event_loop_after_another_and_leaves_none_open(
    serve: Serve, provider: Provider, backend: str, told: dict[str, Any]
) -> None:
    bodies = [provider.said(f"reply {number}") for number in range(3)]
    server = serve(*[stream(*provider.events(body)) if told else answer(200, body) for body in bodies])
    client = provider.client_of(server)
    for number in range(3):
        reply = anyio.run(partial(client.complete, HELLO, **told), backend=backend)
        assert reply.text == f"reply {number}"
        assert server.all_disconnect()
    assert repr(client) == f"{provider.client.__name__}(model='test-model', host='127.0.0.1:{server.server_port}')"
