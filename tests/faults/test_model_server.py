"""A model server that fails in the middle of a run in every way that HTTP knows."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm import RLM
from rlm_wasm.clients import OpenAIClient, ScriptedClient
from rlm_wasm.clients import openai as openai_module
from rlm_wasm.errors import ClientError
from rlm_wasm.trajectory import Completion

pytestmark = pytest.mark.anyio

WITHIN = 60
# seconds for one attempt: only what hangs comes near it
TIMEOUT = 0.5


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        self.server.answer(self, body["messages"][-1]["content"])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers by `answer`, which is given the handler and the text of the last message."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Handler, str], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked = 0
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of these tests


@contextmanager
def served(answer: Callable[[Handler, str], None]) -> Generator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def send(handler: Handler, status: int, raw: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)


def say(handler: Handler, text: str) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    send(handler, 200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode())


def refuse(status: int) -> Callable[[Handler], None]:
    return lambda handler: send(handler, status, json.dumps({"error": {"message": "no", "type": "test"}}).encode())


def redirect(handler: Handler) -> None:
    send(handler, 307, b"", Location=handler.path)


def reset(handler: Handler) -> None:
    # closed with linger 0: the client gets RST, not FIN
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut_chunks(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'c\r\n{"choices": \r\n400\r\n[{"ind')
    handler.close_connection = True


def bad_chunks(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"not a length\r\n{}\r\n0\r\n\r\n")
    handler.close_connection = True


def not_http(handler: Handler) -> None:
    handler.wfile.write(b"\x16\x03\x01\x02\x00 this is no HTTP at all\r\n\r\n")
    handler.close_connection = True


def not_gzip(handler: Handler) -> None:
    send(handler, 200, b"these bytes are no gzip", Content_Encoding="gzip")


def hang(handler: Handler) -> None:
    handler.server.released.wait(timeout=WITHIN)
    handler.close_connection = True


def drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.released.wait(timeout=0.02):
        handler.wfile.write(b"X-Slow: yes\r\n")


Failures = dict[str, tuple[int | None, Callable[[Handler], None]]]
FAILURES: Failures = {
    **{str(status): (status, refuse(status)) for status in (400, 401, 403, 404, 408, 409, 413, 429)},
    **{str(status): (status, refuse(status)) for status in (500, 502, 503, 504)},
    "an empty body": (200, lambda handler: send(handler, 200, b"")),
    "a web page": (200, lambda handler: send(handler, 200, b"<html>sign in</html>", Content_Type="text/html")),
    "a reset": (None, reset),
    "cut chunks": (None, cut_chunks),
    "slow headers": (None, drip_headers),
}
# what a sub model may do besides: that costs no sandbox of its own
MORE_FAILURES: Failures = {
    **{str(status): (status, refuse(status)) for status in (405, 418, 422, 501, 529)},
    "a web page as an error": (502, lambda handler: send(handler, 502, b"<html>oops</html>", Content_Type="text/html")),
    "half of JSON": (200, lambda handler: send(handler, 200, b'{"choices": [{"mess')),
    "not gzip": (None, not_gzip),
    "a redirect for ever": (None, redirect),
    "an end": (None, hang_up),
    "not HTTP": (None, not_http),
    "bad chunks": (None, bad_chunks),
    "no word": (None, hang),
}
ALL_FAILURES = FAILURES | MORE_FAILURES


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy or key of the user's, and pauses between two attempts that take no time."""
    prefixes = ("OPENAI_", "AZURE_", "LLM_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in [name for name in openai_module.os.environ if name.upper().startswith(prefixes)]:
        monkeypatch.delenv(name)

    async def no_pause(seconds: float) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(openai_module, "sleep", no_pause)


def client_of(server: Server, max_retries: int) -> OpenAIClient:
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return OpenAIClient("test-model", base_url=address, timeout=TIMEOUT, max_retries=max_retries)


FIRST = "found = llm_query('how many?')\nprint(found)"


@pytest.mark.parametrize(("status", "fail"), FAILURES.values(), ids=FAILURES)
async def test_a_root_model_that_fails_in_the_middle_ends_the_run_with_what_it_had(
    place: Any, status: int | None, fail: Callable[[Handler], None]
) -> None:
    def answer(handler: Handler, prompt: str) -> None:
        if prompt == "how many?":
            say(handler, "seven")
        elif handler.server.asked == 1:
            say(handler, f"```repl\n{FIRST}\n```")
        else:
            fail(handler)

    with served(answer) as server, anyio.fail_after(WITHIN):
        async with client_of(server, max_retries=1) as client:
            with pytest.raises(ClientError) as raised:
                await RLM(client).acompletion("how many are there?", context="seven")
    assert raised.value.status == status
    completion = raised.value.partial
    assert isinstance(completion, Completion)
    [iteration] = completion.trajectory
    assert iteration.observation is not None
    assert "seven" in iteration.observation
    assert [call.reply for call in iteration.calls] == ["seven"]
    # the failed call is counted too; what it took nobody has said
    assert completion.usage.calls == 3
    assert completion.usage.input_tokens >= 200
    assert place.processes() == []


ASK_ALL = """
for name in {names!r}:
    try:
        print(name, "|", llm_query(name))
    except Exception as error:
        print(name, "|", type(error).__name__, "|", error)
"""


async def test_a_sub_model_that_fails_is_an_exception_in_the_cell_and_the_run_goes_on(place: Any) -> None:
    def answer(handler: Handler, prompt: str) -> None:
        ALL_FAILURES[prompt][1](handler)

    names = list(ALL_FAILURES)
    root = ScriptedClient([f"```repl\n{ASK_ALL.format(names=names)}```", "```repl\nFINAL('went on')\n```"])
    with served(answer) as server, anyio.fail_after(WITHIN):
        async with client_of(server, max_retries=0) as client:
            completion = await RLM(root, sub_model=client).acompletion("how many are there?", context="seven")
    assert (completion.response, completion.stopped_by) == ("went on", "final")
    calls = completion.trajectory[0].calls
    assert [call.prompt for call in calls] == names
    assert all((call.error or "").startswith("ClientError: ") for call in calls)
    lines = [line.split(" | ") for line in completion.trajectory[0].cells[0].output.splitlines()]
    assert [line[0] for line in lines] == names
    assert all("the model" in line[-1] for line in lines)
    assert completion.usage.calls == len(names) + 2
    assert place.processes() == []


async def test_a_batch_of_which_every_second_one_fails_keeps_the_answers_of_the_others(place: Any) -> None:
    failures = list(ALL_FAILURES.values())

    def answer(handler: Handler, prompt: str) -> None:
        number = int(prompt)
        if number % 2:
            failures[number // 2 % len(failures)][1](handler)
        else:
            say(handler, f"answer {number}")

    cell = (
        "try:\n    llm_query_batched([str(number) for number in range(52)])\n"
        "except Exception as error:\n    FINAL(error.partial)"
    )
    with served(answer) as server, anyio.fail_after(WITHIN):
        async with client_of(server, max_retries=0) as client:
            rlm = RLM(ScriptedClient([f"```repl\n{cell}\n```"]), sub_model=client)
            completion = await rlm.acompletion("how many are there?", context="seven")
    assert completion.response == [None if number % 2 else f"answer {number}" for number in range(52)]
    assert completion.usage.calls == 53
    assert place.processes() == []
