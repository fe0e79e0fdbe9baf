"""Streams: what the clients of vendors make of good and bad ones, and how wrappers take back a text that is void."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.clients import (
    CachedClient,
    FallbackClient,
    Message,
    Reply,
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.clients.streams import Telling
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import RUN_PYTHON, ToolCall
from tests.clients.providers import OPENAI, PROVIDERS, Provider, chat, chat_events, event
from tests.clients.server import Asked, Handler, Serve, Step, answer, hang, hang_up, stream
from tests.clients.wrappers import Wrap

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("user", "hello")]
KEY = "sk-test-0123456789abcdef"


def started(provider: Provider, *events: str, then: Step | None = None) -> Step:
    """A stream up to the last piece of its text, and what comes then."""
    whole = provider.events(provider.said("half and half"))
    last = max(place for place, each in enumerate(whole) if "half" in each)
    return stream(*whole[:last], *events, then=then)


async def failure_of(provider: Provider, server: Any, **options: Any) -> tuple[ClientError, list[str | None]]:
    told: list[str | None] = []
    return await provider.failure_of(server, on_text=told.append, **options), told


# Of every vendor


@pytest.mark.parametrize("text", ["hi", "half\u2028 and \x85half", "a" * 100_000, "\U0001f600\n\r\n"])
async def test_a_stream_and_a_whole_answer_are_the_same_reply(serve: Serve, provider: Provider, text: str) -> None:
    body = provider.said(text)
    server = serve(stream(*provider.events(body)), answer(200, body))
    told: list[str | None] = []
    async with provider.client_of(server) as client:
        streamed = await client.complete(HELLO, on_text=told.append)
        assert streamed == await client.complete(HELLO) == Reply(text, 3, 2)
    assert "".join(piece or "" for piece in told) == text
    assert [provider.is_streamed(asked) for asked in server.requests] == [True, False]


async def test_a_call_in_a_stream_is_the_same_as_in_a_whole_answer(serve: Serve, provider: Provider) -> None:
    body = provider.did("print('a\\nb')")
    server = serve(stream(*provider.events(body)), answer(200, body))
    async with provider.client_of(server) as client:
        streamed = await client.complete(HELLO, tool=RUN_PYTHON, on_text=lambda piece: None)
        whole = await client.complete(HELLO, tool=RUN_PYTHON)
    assert [call.code for call in streamed.calls] == ["print('a\\nb')"]
    assert [(call.id, call.code) for call in streamed.calls] == [(call.id, call.code) for call in whole.calls]
    if provider is PROVIDERS["anthropic"]:
        talk = [[*HELLO, Message("assistant", "", calls=reply.calls)] for reply in (streamed, whole)]
        async with provider.client_of(again := serve(*[answer(200, body)] * 2)) as client:
            for messages in talk:
                await client.complete(messages, tool=RUN_PYTHON)
        assert again.requests[0].body == again.requests[1].body


async def test_a_stream_without_counts_is_estimated(serve: Serve, provider: Provider) -> None:
    body = provider.uncounted(provider.said("12345678"))
    async with provider.client_of(serve(stream(*provider.events(body)))) as client:
        reply = await client.complete([Message("user", "1234")], on_text=lambda piece: None)
    assert reply == Reply("12345678", 1, 2, estimated=True)


async def test_an_answer_that_is_no_stream_is_read_all_the_same(serve: Serve, provider: Provider) -> None:
    told: list[str | None] = []
    async with provider.client_of(serve(answer(200, provider.said("at once")))) as client:
        assert (await client.complete(HELLO, on_text=told.append)).text == "at once"
    assert told == ["at once"]


async def test_a_stream_that_is_cut_may_pass(serve: Serve, provider: Provider) -> None:
    error, told = await failure_of(provider, serve(started(provider, then=hang_up)))
    assert (error.status, error.transient, told) == (None, True, ["half a"])
    assert "no reply from 127.0.0.1" in str(error)
    assert error.__cause__ is not None


async def test_a_stream_that_ends_too_early_may_pass(serve: Serve, provider: Provider) -> None:
    for step in (started(provider), stream()):
        error, _ = await failure_of(provider, serve(step))
        assert (error.status, error.transient) == (None, True)
        assert "ended before the reply did" in str(error)


async def test_a_stream_that_stalls_is_out_of_time_and_may_not_pass(serve: Serve, provider: Provider) -> None:
    error, told = await failure_of(provider, serve(started(provider, then=hang)), timeout=0.3)
    assert (error.status, error.transient, told) == (None, False, ["half a"])
    assert "within 0.3 s" in str(error)
    assert isinstance(error.__cause__, TimeoutError)


async def test_a_stream_that_drips_meets_the_deadline_too(serve: Serve, provider: Provider) -> None:
    def drip_events(handler: Handler, asked: Asked) -> None:
        while not handler.server.released.wait(timeout=0.01):
            handler.wfile.write(b"1\r\n\n\r\n")

    error, _ = await failure_of(provider, serve(started(provider, then=drip_events)), timeout=0.3)
    assert "within 0.3 s" in str(error)


@pytest.mark.parametrize(
    "bad", ["{not json", '{"choices": 1, "type": 1, "candidates": 1}', '{"x": ' + "[" * 100_000, "<html>proxy</html>"]
)
async def test_a_malformed_piece_is_an_error(serve: Serve, provider: Provider, bad: str) -> None:
    kind = "event: content_block_delta\n" if provider is PROVIDERS["anthropic"] else ""
    error, told = await failure_of(provider, serve(started(provider, f"{kind}data: {bad}\n\n")))
    assert (error.status, error.transient, told) == (200, False, ["half a"])


async def test_an_error_told_in_a_stream_is_raised_with_its_reason(serve: Serve, provider: Provider) -> None:
    error, told = await failure_of(provider, serve(started(provider, provider.broken_off)))
    assert "upstream is down" in str(error)
    assert (error.transient, told) == (False, ["half a"])


async def test_a_key_that_a_stream_quotes_is_in_no_text(serve: Serve, provider: Provider) -> None:
    for bad in (f"data: {{you sent {KEY}\n\n", provider.broken_off.replace("upstream", KEY)):
        error, _ = await failure_of(provider, serve(started(provider, bad)), api_key=KEY)
        assert KEY[:12] not in "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


async def test_the_connection_of_a_stream_is_used_again(serve: Serve, provider: Provider) -> None:
    peers: list[object] = []
    step = stream(*provider.events(provider.said("hi")))

    def noted(handler: Handler, asked: Asked) -> None:
        peers.append(handler.client_address)
        step(handler, asked)

    async with provider.client_of(serve(noted, noted)) as client:
        for _ in range(2):
            await client.complete(HELLO, on_text=lambda piece: None)
    assert peers[0] == peers[1]


# OpenAI and those that are compatible


async def test_counts_are_asked_for_with_the_stream(serve: Serve) -> None:
    server = serve(stream(*chat_events(chat("hi"))))
    async with OPENAI.client_of(server, parameters={"temperature": 0}) as client:
        await client.complete(HELLO, on_text=lambda piece: None)
    body = server.requests[0].body
    assert (body["stream"], body["stream_options"], body["temperature"]) == (True, {"include_usage": True}, 0)


@pytest.mark.parametrize("status", [400, 422, 501])
async def test_a_server_that_refuses_a_stream_is_asked_without_then_and_ever_after(serve: Serve, status: int) -> None:
    refusal = answer(status, {"error": {"message": "Unrecognized field: stream_options"}})
    server = serve(refusal, answer(200, chat("whole")), answer(200, chat("again")))
    told: list[str | None] = []
    async with OPENAI.client_of(server) as client:
        for _ in range(2):
            await client.complete(HELLO, on_text=told.append)
    assert told == ["whole", "again"]
    assert [asked.body["stream"] for asked in server.requests] == [True, False, False]
    assert "stream_options" not in server.requests[1].body


async def test_a_refusal_of_something_else_is_no_refusal_of_streams(serve: Serve) -> None:
    server = serve(answer(400, {"error": "no such field: top_k"}), stream(*chat_events(chat("hi"))))
    async with OPENAI.client_of(server) as client:
        with pytest.raises(ClientError, match="top_k"):
            await client.complete(HELLO, on_text=lambda piece: None)
        await client.complete(HELLO, on_text=lambda piece: None)
    assert [asked.body["stream"] for asked in server.requests] == [True, True]


async def test_a_stream_that_is_cut_and_asked_for_again_begins_its_text_again(serve: Serve) -> None:
    server = serve(started(OPENAI, then=hang_up), stream(*chat_events(chat("whole"))))
    told: list[str | None] = []
    async with OPENAI.client_of(server, max_retries=1) as client:
        assert (await client.complete(HELLO, on_text=told.append)).text == "whole"
    assert told == ["half a", None, "wh", "ole"]


async def test_calls_that_all_have_the_index_0_are_told_apart_by_their_numbers(serve: Serve) -> None:
    calls = [
        {"index": 0, "id": f"call_{name}", "function": {"name": "run_python", "arguments": f'{{"code": "{name}"}}'}}
        for name in "ab"
    ]
    chunks = [event({"choices": [{"delta": {"tool_calls": [call]}}]}) for call in calls]
    end = event({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": None}]}, "finish_reason": "stop"}]})
    async with OPENAI.client_of(serve(stream(*chunks, end))) as client:
        reply = await client.complete(HELLO, tool=RUN_PYTHON, on_text=lambda piece: None)
    assert reply.calls == (ToolCall("call_a", "a"), ToolCall("call_b", "b"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (chat(None), "no text"),
        (chat("", "length"), "output tokens were used up"),
        (chat("half of", "content_filter"), "content filter"),
    ],
)
async def test_a_stream_that_is_no_reply_is_an_error_as_a_whole_answer_is(
    serve: Serve, body: dict[str, Any], reason: str
) -> None:
    error, _ = await failure_of(OPENAI, serve(stream(*chat_events(body))))
    assert (reason in str(error), error.status) == (True, 200)


async def test_an_overload_told_in_a_stream_of_anthropics_may_pass(serve: Serve) -> None:
    provider = PROVIDERS["anthropic"]
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    error, _ = await failure_of(provider, serve(started(provider, event(overloaded, "error"))))
    assert (error.status, error.transient) == (529, True)


# The wrappers


class Halting:
    """Tells half a text and fails, as often as it is told to, then tells a whole one."""

    model = "halting"

    def __init__(self, failing: int) -> None:
        self.failing = failing

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None, on_text: Any = None) -> Reply:
        tell = on_text or (lambda piece: None)
        tell("half")
        if self.failing:
            self.failing -= 1
            raise ClientError("cut", transient=True)
        tell(" and half")
        return Reply("half and half", 1, 1)


class Plain:
    """A client from before there were streams."""

    model = "plain"

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
        return Reply("at once", 1, 1)


async def test_a_wrapper_passes_the_pieces_on(wrap: Wrap) -> None:
    told: list[str | None] = []
    assert (await wrap(Halting(0)).complete(HELLO, on_text=told.append)).text == "half and half"
    assert told == ["half", " and half"]


async def test_a_wrapper_of_a_client_without_streams_tells_the_text_in_one_piece(wrap: Wrap) -> None:
    told: list[str | None] = []
    await wrap(Plain()).complete(HELLO, on_text=told.append)
    assert told == ["at once"]


async def test_a_text_that_is_asked_for_again_is_taken_back(watch: Any) -> None:
    told: list[str | None] = []
    await RetryingClient(Halting(2), clock=watch.clock).complete(HELLO, on_text=told.append)
    assert told == ["half", None, "half", None, "half", " and half"]


async def test_a_fallback_takes_back_what_the_first_has_told() -> None:
    told: list[str | None] = []
    await FallbackClient(Halting(1), ScriptedClient([ClientError("no")]), Plain()).complete(HELLO, on_text=told.append)
    assert told == ["half", None, "at once"]


async def test_nothing_is_taken_back_where_nothing_was_told_or_no_attempt_follows(watch: Any) -> None:
    told: list[str | None] = []
    await RetryingClient(ScriptedClient([ClientError("no", status=500), "yes"]), clock=watch.clock).complete(
        HELLO, on_text=told.append
    )
    with pytest.raises(ClientError):
        await RetryingClient(Halting(9), attempts=1).complete(HELLO, on_text=told.append)
    assert told == ["y", "e", "s", "half"]


async def test_wrappers_one_around_the_other_take_a_text_back_once(watch: Any) -> None:
    told: list[str | None] = []
    inner = RetryingClient(Halting(2), attempts=2, clock=watch.clock)
    await RetryingClient(inner, clock=watch.clock).complete(HELLO, on_text=told.append)
    assert told == ["half", None, "half", None, "half", " and half"]


async def test_a_reply_from_the_cache_is_told_in_one_piece(tmp_path: Path) -> None:
    async with CachedClient(Halting(0), tmp_path / "replies.sqlite") as client:
        await client.complete(HELLO)
        told: list[str | None] = []
        assert (await client.complete(HELLO, on_text=told.append)).cached
    assert told == ["half and half"]


def test_telling_without_a_listener_does_nothing() -> None:
    telling = Telling(None)
    for piece in ("a", None, ""):
        telling.tell(piece)
    telling.finish("a")
    assert telling.through(ScriptedClient()) == {}
