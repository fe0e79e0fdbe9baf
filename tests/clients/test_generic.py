"""GenericClient against a server with an API of its own: what is sent, what comes back, and what no text may hold."""

from __future__ import annotations

import traceback
from typing import Any

import anyio
import pytest

from rlm_wasm.clients import GenericClient, Message, Reply
from rlm_wasm.errors import ClientError
from tests.clients.server import ChatServer, Serve, Step, answer, cut, drip, hang

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

KEY = "sk-test-0123456789abcdef"
HELLO = [Message("user", "hello")]


def client_of(server: ChatServer, parse: Any = lambda body: body["say"], **options: Any) -> GenericClient:
    return GenericClient(
        "own-model",
        options.pop("url", f"{server.base_url}/ask"),
        lambda messages, limit: {"ask": [each.content for each in messages], "limit": limit},
        parse,
        **{"headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 30, **options},
    )


async def failure_of(server: ChatServer, **options: Any) -> ClientError:
    async with client_of(server, **options) as client:
        with pytest.raises(ClientError) as raised:
            await client.complete(HELLO)
    return raised.value


async def test_what_is_built_is_sent_with_the_headers(serve: Serve) -> None:
    server = serve(answer(200, {"say": "12345678"}))
    async with client_of(server) as client:
        reply = await client.complete([Message("user", "a\ud800b")], max_output_tokens=5)
    assert reply == Reply("12345678", 1, 2, estimated=True)
    (asked,) = server.requests
    assert asked.path == "/v1/ask"
    assert (asked.headers["authorization"], asked.headers["content-type"]) == (f"Bearer {KEY}", "application/json")
    assert asked.body == {"ask": ["a?b"], "limit": 5}


async def test_a_parser_that_knows_the_counts_gives_a_reply(serve: Serve) -> None:
    server = serve(answer(200, {"say": "hi", "in": 7, "out": 3}))
    async with client_of(server, lambda body: Reply(body["say"], body["in"], body["out"])) as client:
        assert await client.complete(HELLO) == Reply("hi", 7, 3)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (answer(200, b"<html>sign in</html>"), "sign in"),
        (answer(200, b""), "no JSON"),
        (answer(200, {"other": 1}), "KeyError: 'say'"),
        (answer(200, [1]), "TypeError"),
    ],
)
async def test_an_answer_that_is_no_reply_is_an_error_with_its_reason(serve: Serve, step: Step, reason: str) -> None:
    error = await failure_of(serve(step))
    assert reason in str(error)
    assert (error.status, error.transient) == (200, False)


async def test_a_parser_that_gives_something_else_is_the_callers_mistake(serve: Serve) -> None:
    async with client_of(serve(answer(200, {})), lambda body: None) as client:
        with pytest.raises(TypeError, match="NoneType"):
            await client.complete(HELLO)


@pytest.mark.parametrize(
    ("status", "transient"), [(302, False), (400, False), (401, False), (404, False), (429, True), (503, True)]
)
async def test_an_error_carries_its_status_and_whether_it_may_pass(serve: Serve, status: int, transient: bool) -> None:
    error = await failure_of(serve(answer(status, {"error": "because"}, Retry_After="7", Location="/elsewhere")))
    assert (error.status, error.transient, error.retry_after) == (status, transient, 7.0 if transient else None)
    assert "because" in str(error)


async def test_a_broken_connection_may_pass_and_a_late_reply_may_not(serve: Serve) -> None:
    error = await failure_of(serve(cut))
    assert (error.status, error.transient) == (None, True)
    for step in (hang, drip):
        error = await failure_of(serve(step), timeout=0.1)
        assert (error.status, error.transient) == (None, False)
        assert "within 0.1 s" in str(error)


@pytest.mark.parametrize("step", [answer(401, {"error": f"no: {KEY}"}), answer(200, f"you sent {KEY}".encode())])
async def test_no_text_holds_a_key(serve: Serve, step: Step) -> None:
    server = serve(step, step)
    address = server.base_url.replace("://", f"://user:{KEY}@") + f"/ask?key={KEY}"
    for options in ({}, {"headers": {"X-Key": KEY}}, {"headers": {}, "url": address}):
        server.steps.append(step)
        error = await failure_of(server, **options)
        told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
        assert KEY[:12] not in told


async def test_no_text_holds_the_key_of_an_address_that_nobody_answers(serve: Serve) -> None:
    server = serve()
    server.close()
    error = await failure_of(server, url=f"{server.base_url}?key={KEY}")
    assert KEY[:12] not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "options",
    [
        {"url": "localhost:80"},
        {"timeout": 0},
        {"headers": {"X-Key": f"{KEY}\n"}},
        {"headers": {"X-Key": f"{KEY}\u2019"}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    arguments = {"url": "http://localhost/", **options}
    with pytest.raises(ValueError, match=r"\w") as raised:
        GenericClient("m", build=lambda messages, limit: {}, parse=str, **arguments)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.filterwarnings("error")
def test_one_client_serves_one_event_loop_after_another_and_leaves_none_open(serve: Serve, backend: str) -> None:
    server = serve(*[answer(200, {"say": "hi"})] * 2)
    client = client_of(server)
    for _ in range(2):
        assert anyio.run(client.complete, HELLO, backend=backend).text == "hi"
        assert server.all_disconnect()


def test_a_repr_shows_model_and_host_only() -> None:
    client = GenericClient("m", f"https://user:{KEY}@example.org/v1?key={KEY}", lambda *_: {}, str)
    assert repr(client) == "GenericClient(model='m', host='example.org')"
