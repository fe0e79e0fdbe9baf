"""The server, asked by OpenAI's own client over a socket, with a scripted model behind it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import openai
import pytest

from rlm_wasm import RLM, Limits, ScriptedClient
from rlm_wasm.errors import ClientError
from rlm_wasm.integrations import serve as serving
from rlm_wasm.integrations.serve import ChatServer, serve

Message = dict[str, str]
LONG = "The contract was signed by Ada. " * 1000
Serve = Callable[..., openai.OpenAI]


class Slow:
    """A model that never answers; it says when it is asked, and when nobody waits any more."""

    model = "m"

    def __init__(self) -> None:
        self.asked, self.cancelled = threading.Event(), threading.Event()

    async def complete(self, messages: object, *, max_output_tokens: int | None = None) -> Any:
        """Wait to be cancelled."""
        self.asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


@pytest.fixture
def served() -> Iterator[Serve]:
    """Starts a server of an RLM, and gives a client of it; `.options` of the server go by their names."""
    with anyio.from_thread.start_blocking_portal() as portal:
        stops: list[anyio.Event] = []
        ends: list[Any] = []

        def start(client: Any, *, limits: Limits | None = None, key: str = "none", **options: Any) -> openai.OpenAI:
            began: Any = threading.Event()
            urls: list[str] = []

            def tell(url: str) -> None:
                urls.append(url)
                began.set()

            server = ChatServer({"m": RLM(client, limits=limits)}, **options)
            stops.append(portal.call(anyio.Event))
            run = partial(serve, server, host="127.0.0.1", port=0, stop=stops[-1], began=tell)
            ends.append(portal.start_task_soon(run))
            assert began.wait(30)
            return openai.OpenAI(base_url=urls[0], api_key=key, timeout=60, max_retries=2)

        yield start
        for stop in stops:
            portal.call(stop.set)
        for end in ends:
            end.result(30)


def ask(client: openai.OpenAI, *messages: tuple[str, str], **options: Any) -> Any:
    told: Any = [{"role": role, "content": content} for role, content in messages]
    return client.chat.completions.create(model="m", messages=told, **options)


# --- plain calls and runs ------------------------------------------------------------------------------------------


def test_a_short_conversation_is_one_call_with_its_messages_as_they_are(served: Serve) -> None:
    model = ScriptedClient(["Ada."])
    done = ask(served(model), ("system", "Be brief."), ("user", "hello"), ("assistant", "hi"), ("user", "Who?"))
    assert done.choices[0].message.content == "Ada."
    assert done.choices[0].finish_reason == "stop"
    assert (done.model, done.object) == ("m", "chat.completion")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0
    assert done.rlm["route"] == "plain"
    assert [(message.role, message.content) for message in model.calls[0]] == [
        ("system", "Be brief."),
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "Who?"),
    ]


def test_a_long_one_is_a_run_whose_context_is_the_long_part(served: Serve) -> None:
    model = ScriptedClient([repl("print(len(context), context[:12])"), repl("FINAL(context.count('Ada'))")])
    done = ask(served(model), ("system", "Be brief."), ("user", LONG), ("user", "How often is Ada in it?"))
    assert done.choices[0].message.content == "1000"
    assert (done.rlm["route"], done.rlm["iterations"], done.rlm["stopped_by"]) == ("rlm", 2, "final")
    asked = "".join(message.content for message in model.calls[1])
    assert "How often is Ada in it?" in asked
    assert "Be brief." in asked
    assert "32000 The contract" in asked
    assert LONG[:500] not in asked


def test_what_was_said_before_is_a_list_of_messages(served: Serve) -> None:
    model = ScriptedClient([repl("FINAL([[m['role'], len(m['content'])] for m in context])")])
    done = ask(served(model), ("user", LONG), ("assistant", "Read."), ("user", "And?"))
    assert json.loads(done.choices[0].message.content) == [["user", 32000], ["assistant", 5]]


def test_a_question_at_the_end_of_a_long_message_is_seen(served: Serve) -> None:
    model = ScriptedClient([repl("FINAL(len(context))")])
    done = ask(served(model), ("user", f"{LONG}\n\nWho signed it?"))
    assert done.choices[0].message.content == str(len(LONG) + 16)
    asked = "".join(message.content for message in model.calls[0])
    assert "Who signed it?" in asked
    assert len(asked) < 20_000


def test_parts_of_text_are_text_and_other_parts_are_refused(served: Serve) -> None:
    client = served(ScriptedClient(["yes"]))
    parts: Any = [{"type": "text", "text": "is it?"}]
    assert ask(client, ("user", parts)).choices[0].message.content == "yes"
    image: Any = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    with pytest.raises(openai.BadRequestError, match="image_url"):
        ask(client, ("user", image))


def test_a_schema_is_what_the_answer_of_a_run_fits(served: Serve) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    model = ScriptedClient([repl("FINAL({'n': 'three'})"), repl("FINAL({'n': 3})")])
    done = ask(served(model), ("user", "How many?"), response_format=wanted)
    assert json.loads(done.choices[0].message.content) == {"n": 3}


def test_the_models_are_listed(served: Serve) -> None:
    client = served(ScriptedClient())
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("x")


# --- streams -------------------------------------------------------------------------------------------------------


def test_a_plain_call_streams_as_it_comes_with_its_usage_at_the_end(served: Serve) -> None:
    chunks = list(
        ask(
            served(ScriptedClient(["one two three"])),
            ("user", "x"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in texts) == "one two three"
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_run_streams_its_answer_and_signs_of_life_before_it(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_BEAT_EVERY", 0.01)
    model = ScriptedClient([repl("import time\ntime.sleep(0.3)\nFINAL('Ada')")])
    client = served(model)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": LONG}]}
    raw = client.post("/chat/completions", cast_to=str, body=body)
    assert raw.startswith(": at work\n\n")
    events = [line.removeprefix("data: ") for line in raw.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["choices"][0]["delta"]["content"] == "Ada"
    assert json.loads(events[-2])["rlm"]["route"] == "rlm"


def test_a_failure_in_a_stream_is_an_error_for_the_client(served: Serve) -> None:
    client = served(ScriptedClient([ClientError("no such model", status=404)]))
    with pytest.raises(openai.APIError, match="no such model"):
        list(ask(client, ("user", "x"), stream=True))


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 2}, "n above 1"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"max_tokens": -1}, "above 0"),
        ({"response_format": {"type": "x"}}, "response_format 'x'"),
    ],
)
def test_what_is_not_offered_is_a_bad_request(served: Serve, options: dict[str, Any], told: str) -> None:
    model = ScriptedClient(["x"])
    with pytest.raises(openai.BadRequestError, match=told):
        ask(served(model), ("user", "x"), **options)
    assert model.calls == []


def test_bad_bodies_and_paths_are_errors_in_openais_form(served: Serve) -> None:
    client = served(ScriptedClient(["x"]))
    for messages in ([], [{"role": "user", "content": ""}], [{"role": "tool", "content": "x"}], "x", [{}]):
        with pytest.raises(openai.BadRequestError) as failure:
            client.post("/chat/completions", cast_to=str, body={"model": "m", "messages": messages})
        assert failure.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="does not exist") as missing:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.APIStatusError) as form:
        client.post("/chat/completions", cast_to=str, body={}, options={"headers": {"content-type": "text/plain"}})
    assert form.value.status_code == 415


def test_a_wrong_token_is_401_and_the_right_one_is_answered(served: Serve) -> None:
    model = ScriptedClient(["x"])
    client = served(model, token="secret", key="secret")
    for key in ("wrong", "secre", "secret "):
        with pytest.raises(openai.AuthenticationError) as failure:
            ask(client.with_options(api_key=f"{key}x"), ("user", "x"))
        assert failure.value.code == "invalid_api_key"
    assert model.calls == []
    assert ask(client, ("user", "x")).choices[0].message.content == "x"


def test_without_a_token_another_name_for_this_machine_is_refused(served: Serve) -> None:
    client = served(ScriptedClient(["x"]))
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        with pytest.raises(openai.PermissionDeniedError):
            ask(client, ("user", "x"), extra_headers={"host": host})
    for host in ("localhost:1", "[::1]:5"):
        assert client.get("/models", cast_to=str, options={"headers": {"host": host}})


def test_too_large_a_request_is_413(served: Serve) -> None:
    model = ScriptedClient(["x"])
    client = served(model, max_request_mb=1)
    for size in (2**20, 4 * 2**20):
        with pytest.raises(openai.APIStatusError) as failure:
            ask(client, ("user", "x" * size))
        assert failure.value.status_code == 413
        assert failure.value.code == "request_too_large"
    assert model.calls == []


def test_a_limit_is_an_error_that_is_not_tried_again(served: Serve) -> None:
    model = ScriptedClient([repl("print(1)")] * 9)
    with pytest.raises(openai.UnprocessableEntityError, match="iterations") as failure:
        ask(served(model, limits=Limits(iterations=2)), ("user", LONG))
    assert failure.value.code == "limit_reached"
    # one beyond the iterations is asked for the best answer that there is
    assert len(model.calls) == 3


def test_a_failure_of_the_model_is_told_without_keys_and_not_tried_again(
    served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "hidden-thing-123456")
    model = ScriptedClient([ClientError("bad key hidden-thing-123456", status=500)] * 3)
    with pytest.raises(openai.APIStatusError) as failure:
        ask(served(model), ("user", "x"))
    assert failure.value.status_code == 502
    assert "bad key" in str(failure.value)
    assert "hidden-thing" not in str(failure.value)
    assert len(model.calls) == 1


@pytest.mark.parametrize("content", ["x", LONG])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_the_work(served: Serve, content: str, stream: bool) -> None:
    model = Slow()
    client = served(model)
    port = client.base_url.port
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert model.asked.wait(30)
        assert not model.cancelled.is_set()
    assert model.cancelled.wait(30)


def test_bad_options_are_the_callers_error() -> None:
    rlm = RLM(ScriptedClient())
    for options in ({"rlms": {}}, {"token": " "}, {"threshold_chars": -1}):
        with pytest.raises(ValueError, match=r"."):
            ChatServer(**{"rlms": {"m": rlm}, **options})
