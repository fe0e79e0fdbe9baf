"""A real HTTP server on loopback that plays a provider: each request is answered by the next of its steps."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


Step = Callable[["Handler", Asked], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChatServer

    def setup(self) -> None:
        super().setup()
        self.server.connected()

    def finish(self) -> None:
        super().finish()
        self.server.disconnected()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.server.requests.append(asked)
        step = self.server.steps.popleft() if self.server.steps else answer(599, {"error": "the test has no step left"})
        step(self, asked)

    def log_message(self, format: str, *args: object) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """Answers each request by the next of its steps, and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 64  # with the usual 5, twenty calls at once wait a second for their SYN to be sent again

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps = deque(steps)
        self.requests: list[Asked] = []
        self.released = threading.Event()
        self._open = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=partial(self.serve_forever, poll_interval=0.01), daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def connected(self) -> None:
        with self._changed:
            self._open += 1

    def disconnected(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def all_disconnect(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout=10)

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
        self._thread.join(timeout=10)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of these tests


def answer(status: int, body: object, **headers: str) -> Step:
    def step(handler: Handler, asked: Asked) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return step


def stream(*events: str, then: Step | None = None) -> Step:
    """Sends each event by itself; `then` is done in the place of the stream's end."""

    def step(handler: Handler, asked: Asked) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for raw in (event.encode() for event in events):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        if then is None:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            then(handler, asked)

    return step


def hang_up(handler: Handler, asked: Asked) -> None:
    handler.close_connection = True


def cut(handler: Handler, asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang(handler: Handler, asked: Asked) -> None:
    handler.server.released.wait(timeout=30)
    handler.close_connection = True


def drip(handler: Handler, asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.released.wait(timeout=0.01):
        handler.wfile.write(b" ")


Serve = Callable[..., ChatServer]
