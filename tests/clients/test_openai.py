"""OpenAIClient against a real HTTP server on loopback that speaks chat completions well and badly."""

from __future__ import annotations

import email.utils
import subprocess
import sys
import traceback
from typing import Any

import anyio
import pytest

from rlm_wasm.clients import Message, OpenAIClient, failures
from rlm_wasm.clients import openai as openai_module
from rlm_wasm.errors import ClientError
from tests.clients.server import Asked, ChatServer, Handler, Serve, Step, answer, cut, hang

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

KEY = "sk-test-0123456789abcdef"
HELLO = [Message("system", "You are brief."), Message("user", "hello")]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def completion(text: str | None = "hi", usage: object = USAGE, finish_reason: str = "stop", **said: object) -> Step:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **said}, "finish_reason": finish_reason}
    return answer(200, {"object": "chat.completion", "choices": [choice], "usage": usage})


def trouble(status: int, message: str, code: str | None = None, **headers: str) -> Step:
    return answer(status, {"error": {"message": message, "code": code, "type": "test"}}, **headers)


class Clock:
    """Stands in for the client's clock: its sleeps take no time and are kept in `pauses` (seconds)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(openai_module, "sleep", clock.sleep)
    monkeypatch.setattr(openai_module, "current_time", lambda: clock.now)
    return clock


def client_of(server: ChatServer, **options: Any) -> OpenAIClient:
    return OpenAIClient("test-model", **{"base_url": server.base_url, "api_key": KEY, "timeout": 30, **options})


async def failure_of(server: ChatServer, **options: Any) -> ClientError:
    async with client_of(server, **{"max_retries": 0, **options}) as client:
        with pytest.raises(ClientError) as raised:
            await client.complete(HELLO)
    return raised.value


# A good call


async def test_a_reply_brings_the_providers_own_counts(serve: Serve) -> None:
    server = serve(completion("hi there"))
    async with client_of(server) as client:
        reply = await client.complete(HELLO)
    assert (reply.text, reply.input_tokens, reply.output_tokens, reply.estimated) == ("hi there", 11, 7, False)


async def test_a_request_carries_the_messages_the_parameters_and_the_key(serve: Serve) -> None:
    server = serve(completion())
    async with client_of(server, parameters={"temperature": 0, "top_k": 3}) as client:
        await client.complete(HELLO, max_output_tokens=50)
    (asked,) = server.requests
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "test-model",
        "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "hello"}],
        "max_tokens": 50,
        "temperature": 0,
        "top_k": 3,
        "stream": False,
    }


async def test_the_smaller_limit_goes_under_the_name_that_the_parameters_use(serve: Serve) -> None:
    server = serve(completion(), completion())
    async with client_of(server, parameters={"max_completion_tokens": 100}) as client:
        await client.complete(HELLO, max_output_tokens=50)
        await client.complete(HELLO, max_output_tokens=500)
    assert [asked.body["max_completion_tokens"] for asked in server.requests] == [50, 100]
    assert all("max_tokens" not in asked.body for asked in server.requests)


@pytest.mark.parametrize(
    ("base_url", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://name.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://openrouter.ai/api/v1", "max_tokens"),
        ("https://not-openai.com/v1", "max_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
    ],
)
def test_only_openais_own_hosts_are_sent_the_newer_limit(base_url: str, field: str) -> None:
    assert openai_module._server_at(base_url).limit_field == field


@pytest.mark.parametrize(
    ("details", "reads"),
    [
        ({"cached_tokens": 1024, "audio_tokens": 0}, 1024),
        ({"cached_tokens": 0}, 0),
        ({"cached_tokens": None}, 0),
        ({"cached_tokens": 5000}, 0),
        ({"cached_tokens": -1}, 0),
        (None, 0),
        ("none", 0),
    ],
)
async def test_what_the_provider_read_from_its_cache_is_a_part_of_the_input(
    serve: Serve, details: object, reads: int
) -> None:
    usage = {"prompt_tokens": 2000, "completion_tokens": 3, "prompt_tokens_details": details}
    async with client_of(serve(completion("hi", usage=usage))) as client:
        reply = await client.complete([Message("user", "1234")])
    assert (reply.input_tokens, reply.output_tokens, reply.cache_reads, reply.estimated) == (2000, 3, reads, False)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": "many"}, [], -1]
)
async def test_counts_that_are_missing_or_no_counts_are_estimated(serve: Serve, usage: object) -> None:
    server = serve(completion("12345678", usage=usage))
    async with client_of(server) as client:
        reply = await client.complete([Message("user", "1234")])
    assert (reply.text, reply.input_tokens, reply.output_tokens, reply.estimated) == ("12345678", 1, 2, True)


async def test_a_lone_surrogate_is_sent_as_a_question_mark(serve: Serve) -> None:
    server = serve(completion())
    async with client_of(server) as client:
        await client.complete([Message("user", "a\ud800b")])
    assert server.requests[0].body["messages"][0]["content"] == "a?b"


# Asked again


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry_After": "7"}, 7.0), ({"Retry_After": "9", "retry_after_ms": "1500"}, 1.5)]
)
async def test_a_429_waits_as_long_as_it_was_told(
    serve: Serve, clock: Clock, headers: dict[str, str], seconds: float
) -> None:
    server = serve(trouble(429, "slow down", **headers), completion("after the wait"))
    async with client_of(server) as client:
        reply = await client.complete(HELLO)
    assert reply.text == "after the wait"
    assert clock.pauses == [seconds]
    assert len(server.requests) == 2


async def test_a_429_may_name_a_date(serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures.time, "time", lambda: 1_900_000_000.0)
    server = serve(trouble(429, "later", Retry_After=email.utils.formatdate(1_900_000_025, usegmt=True)), completion())
    async with client_of(server) as client:
        await client.complete(HELLO)
    assert clock.pauses == [25.0]


@pytest.mark.parametrize("written", ["", "soon", "-5", "nan", "0", "Thu, 01 Jan 1970 00:00:10 GMT", "9" * 400])
async def test_a_retry_after_that_says_nothing_backs_off_as_usual(serve: Serve, clock: Clock, written: str) -> None:
    server = serve(trouble(429, "slow down", Retry_After=written), completion())
    async with client_of(server) as client:
        await client.complete(HELLO)
    (pause,) = clock.pauses
    assert 0.25 <= pause <= 0.5


async def test_pauses_grow_when_the_server_names_none(serve: Serve, clock: Clock) -> None:
    server = serve(*[trouble(500, "oops")] * 4, completion("at last"))
    async with client_of(server) as client:
        assert (await client.complete(HELLO)).text == "at last"
    assert len(server.requests) == 5
    assert all(base / 2 <= pause <= base for base, pause in zip((0.5, 1.0, 2.0, 4.0), clock.pauses, strict=True)), (
        clock.pauses
    )


async def test_a_pause_beyond_the_cap_is_refused_at_once(serve: Serve, clock: Clock) -> None:
    server = serve(trouble(429, "come back tomorrow", Retry_After="3600"))
    error = await failure_of(server, max_retries=5, max_retry_seconds=60)
    assert (error.status, clock.pauses, len(server.requests)) == (429, [], 1)
    assert "3600 s" in str(error)


async def test_the_cap_is_on_the_sum_of_the_pauses(serve: Serve, clock: Clock) -> None:
    server = serve(*[trouble(429, "slow down", Retry_After="25")] * 9)
    error = await failure_of(server, max_retries=8, max_retry_seconds=60)
    assert (clock.pauses, len(server.requests)) == ([25.0, 25.0], 3)
    assert "asked 3 times" in str(error)


async def test_retries_end_with_the_last_failure(serve: Serve, clock: Clock) -> None:
    server = serve(trouble(500, "first"), trouble(503, "second"), trouble(502, "third"))
    error = await failure_of(server, max_retries=2)
    assert (error.status, len(server.requests), len(clock.pauses)) == (502, 3, 2)
    assert "third" in str(error)


@pytest.mark.parametrize(
    "step",
    [
        trouble(400, "no such field"),
        trouble(401, "bad key"),
        trouble(429, "You exceeded your current quota", "insufficient_quota"),
        trouble(500, "broken for good", x_should_retry="false"),
    ],
)
async def test_what_cannot_pass_is_not_asked_again(serve: Serve, clock: Clock, step: Step) -> None:
    server = serve(step)
    await failure_of(server, max_retries=3)
    assert (len(server.requests), clock.pauses) == (1, [])


async def test_a_connection_cut_in_the_body_is_asked_again(serve: Serve, clock: Clock) -> None:
    server = serve(cut, completion("whole"))
    async with client_of(server) as client:
        assert (await client.complete(HELLO)).text == "whole"
    assert (len(server.requests), len(clock.pauses)) == (2, 1)


# What is no reply


async def test_a_server_that_is_not_there_is_an_error(serve: Serve) -> None:
    server = serve()
    server.close()
    assert "ConnectError" in str(await failure_of(server))


async def test_a_reply_slower_than_the_deadline_is_an_error_and_not_asked_again(serve: Serve, clock: Clock) -> None:
    server = serve(hang, hang)
    error = await failure_of(server, timeout=0.05, max_retries=3)
    assert "within 0.05 s" in str(error)
    assert isinstance(error.__cause__, TimeoutError)
    assert (clock.pauses, len(server.requests) <= 1) == ([], True)


async def test_a_call_that_is_cancelled_ends_and_leaves_the_client_usable(serve: Serve) -> None:
    def step(handler: Handler, asked: Asked) -> None:
        (hang if asked.body["messages"][0]["content"] == "hang" else completion("usable"))(handler, asked)

    async with client_of(serve(step, step)) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.complete([Message("user", "hang")])
        assert scope.cancelled_caught
        assert (await client.complete(HELLO)).text == "usable"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (answer(200, b"<html>Welcome to the proxy</html>", Content_Type="text/html"), "Welcome to the proxy"),
        (answer(200, b"{not json"), "no chat completion"),
        (answer(200, b"\xff\xfe"), "no chat completion"),
        (answer(200, b""), "no chat completion"),
        (answer(200, b'{"x": ' + b"[" * 100_000), "no chat completion"),
        (answer(200, {"choices": "none"}), "no chat completion"),
        (answer(200, {"choices": []}), "list of choices is empty"),
        (answer(200, {"error": {"message": "upstream is down", "code": 502}}), "upstream is down"),
        (completion(None), "no text"),
        (completion(None, finish_reason="tool_calls"), "tool_calls"),
        (completion("", finish_reason="length"), "output tokens were used up"),
        (completion("half of", finish_reason="content_filter"), "content filter"),
        (completion(None, refusal="I will not."), "I will not."),
    ],
)
async def test_an_answer_that_is_no_reply_is_an_error_with_its_reason(serve: Serve, step: Step, reason: str) -> None:
    error = await failure_of(serve(step))
    assert reason in str(error)
    assert error.status == 200


OVERFLOWS = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "You passed 9000 input tokens and requested 10 output tokens. However, the model's context length is only 8192 "
    "tokens, resulting in a maximum input length of 8182 tokens.",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "the input length exceeds the context length",
    "The number of tokens to keep from the initial prompt is greater than the context length (n_ctx: 8192)",
    "Trying to keep the first 9000 tokens when context the overflows.",
    "prompt is too long: 9000 tokens > 8192 maximum",
    "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
    "Input length (9000) exceeds model's maximum context length (8192).",
    "Please reduce the length of the messages or completion.",
]


@pytest.mark.parametrize("message", OVERFLOWS)
async def test_a_prompt_that_does_not_fit_is_told_plainly(serve: Serve, message: str) -> None:
    error = await failure_of(serve(trouble(400, message)))
    assert error.status == 400
    assert "does not fit the context window of 'test-model'" in str(error)
    assert message in str(error)


async def test_an_overflow_is_known_by_its_code_and_at_any_status(serve: Serve) -> None:
    error = await failure_of(serve(trouble(500, "no", "context_length_exceeded")), max_retries=3)
    assert (error.status, "does not fit" in str(error)) == (400, True)


async def test_numbers_beside_the_message_are_shown_too(serve: Serve) -> None:
    body = {"code": 400, "message": "the request exceeds the available context size, try increasing it"}
    error = await failure_of(serve(answer(400, {"error": {**body, "n_prompt_tokens": 9000, "n_ctx": 8192}})))
    assert "9000" in str(error)
    assert "8192" in str(error)


async def test_a_rate_limit_on_tokens_is_no_overflow(serve: Serve) -> None:
    error = await failure_of(serve(trouble(429, "Request too large: exceeds the token count limit per minute")))
    assert error.status == 429
    assert "does not fit" not in str(error)


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (trouble(404, "The model `test-model` does not exist."), 404),
        (answer(404, {"error": "model 'test-model' not found, try pulling it first"}), 404),
        (trouble(403, "Project has no access", "model_not_found"), 403),
        (trouble(400, "test-model is not a valid model ID"), 400),
    ],
)
async def test_a_refused_model_is_named_with_its_server(serve: Serve, step: Step, status: int) -> None:
    server = serve(step)
    error = await failure_of(server)
    assert error.status == status
    assert f"127.0.0.1:{server.server_port} does not serve the model 'test-model'" in str(error)


async def test_a_404_of_another_kind_points_to_the_address(serve: Serve) -> None:
    assert "/v1" in str(await failure_of(serve(answer(404, {"detail": "Not Found"}))))


# Keys and addresses


@pytest.mark.parametrize(
    "step",
    [
        trouble(401, f"Incorrect API key provided: {KEY}."),
        trouble(400, f"bad header Authorization: Bearer {KEY} " + "x " * 500),
        trouble(400, "x" * 362 + f" ends within the key: {KEY}"),
        answer(200, f"<html>you sent {KEY}</html>".encode()),
        answer(502, f"upstream said {KEY}".encode()),
    ],
)
async def test_a_key_that_the_server_quotes_is_in_no_text(serve: Serve, step: Step) -> None:
    error = await failure_of(serve(step))
    told = "".join(traceback.format_exception(error))
    assert KEY[:12] not in told + repr(error) + repr(error.__cause__)


async def test_a_key_that_is_no_header_is_refused_before_it_is_sent(serve: Serve) -> None:
    server = serve()
    error = await failure_of(server, api_key=f"{KEY}\nX-Other: yes")
    assert server.requests == []
    assert KEY not in "".join(traceback.format_exception(error))


def test_a_repr_shows_model_and_host_only() -> None:
    client = OpenAIClient("m", base_url="https://user:secret@example.org:8443/v1?key=hidden", api_key=KEY)
    assert repr(client) == "OpenAIClient(model='m', host='example.org:8443')"


async def test_no_key_for_a_remote_server_names_the_variable_to_set() -> None:
    with pytest.raises(ClientError, match="OPENAI_API_KEY or LLM_API_KEY"):
        await OpenAIClient("m", base_url="https://example.org/v1").complete(HELLO)
    with pytest.raises(ClientError, match=r"api\.openai\.com"):
        await OpenAIClient("m").complete(HELLO)


async def test_a_server_on_this_machine_needs_no_key(serve: Serve) -> None:
    server = serve(completion("local"))
    async with client_of(server, api_key=None) as client:
        assert (await client.complete(HELLO)).text == "local"


async def test_a_server_on_this_machine_is_not_asked_through_a_proxy(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with client_of(serve(completion("direct")), max_retries=0) as client:
        assert (await client.complete(HELLO)).text == "direct"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3", True),
        ("[::1]:8080", True),
        ("0.0.0.0:8000", True),
        ("127.0.0.1.example.org", False),
        ("localhost.example.org", False),
        ("192.168.1.5:8000", False),
    ],
)
def test_only_loopback_is_this_machine(host: str, local: bool) -> None:
    assert openai_module._server_at(f"http://{host}/v1").is_local is local


@pytest.mark.parametrize(("family", "other"), [("OPENAI", "LLM"), ("LLM", "OPENAI")])
async def test_address_and_key_of_one_family_of_variables_go_together(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, family: str, other: str
) -> None:
    server = serve(completion())
    monkeypatch.setenv(f"{family}_BASE_URL", server.base_url)
    monkeypatch.setenv(f"{family}_API_KEY", f"key-of-{family}")
    monkeypatch.setenv(f"{other}_API_KEY", f"key-of-{other}")
    async with OpenAIClient("m", timeout=30) as client:
        await client.complete(HELLO)
    assert server.requests[0].headers["authorization"] == f"Bearer key-of-{family}"


async def test_azure_without_a_version_is_asked_by_its_v1_api(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(completion())
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.base_url.removesuffix("/v1"))
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    async with OpenAIClient.azure("my-deployment", model="gpt-5-mini", timeout=30) as client:
        await client.complete(HELLO, max_output_tokens=5)
    (asked,) = server.requests
    assert asked.path == "/openai/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer azure-key"
    assert (asked.body["model"], asked.body["max_completion_tokens"]) == ("my-deployment", 5)
    assert client.model == "gpt-5-mini"


async def test_azure_with_a_version_is_asked_by_its_dated_api(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(completion())
    monkeypatch.setenv("AZURE_OPENAI_API_VERSION", "2024-10-21")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key")
    endpoint = server.base_url.removesuffix("/v1")
    async with OpenAIClient.azure("my-deployment", endpoint=endpoint, timeout=30) as client:
        await client.complete(HELLO)
    (asked,) = server.requests
    assert asked.path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert asked.headers["api-key"] == "azure-key"
    assert "authorization" not in asked.headers


def test_azure_finds_its_endpoint_by_the_name_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="AZURE_OPENAI_ENDPOINT"):
        OpenAIClient.azure("d")
    monkeypatch.setenv("AZURE_ACCOUNT_NAME", "my-account")
    assert repr(OpenAIClient.azure("d")) == "OpenAIClient(model='d', host='my-account.openai.azure.com')"


async def test_azure_without_a_key_names_azures_variable() -> None:
    with pytest.raises(ClientError, match="AZURE_OPENAI_API_KEY"):
        await OpenAIClient.azure("d", endpoint="https://name.openai.azure.com").complete(HELLO)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "localhost:8000/v1"},
        {"base_url": "ftp://example.org"},
        {"timeout": 0},
        {"max_retries": -1},
        {"max_retry_seconds": -1},
        {"parameters": {"stream": True}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        OpenAIClient("m", **options)


# Its life


async def test_a_closed_client_opens_again(serve: Serve) -> None:
    server = serve(completion("first"), completion("second"))
    client = client_of(server)
    await client.aclose()
    assert (await client.complete(HELLO)).text == "first"
    await client.aclose()
    await client.aclose()
    assert await anyio.to_thread.run_sync(server.all_disconnect)
    assert (await client.complete(HELLO)).text == "second"
    await client.aclose()


async def test_many_first_calls_at_once_open_one_client(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    really_open = OpenAIClient._open

    def counted(client: OpenAIClient, key: str) -> object:
        opened.append(key)
        return really_open(client, key)

    monkeypatch.setattr(OpenAIClient, "_open", counted)
    server = serve(*[completion()] * 8)
    async with client_of(server) as client, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(client.complete, HELLO)
    assert (opened, len(server.requests)) == ([KEY], 8)


def test_importing_and_making_a_client_imports_no_sdk() -> None:
    program = "import sys; from rlm_wasm.clients import OpenAIClient; OpenAIClient('m'); print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
