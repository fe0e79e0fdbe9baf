"""What is planted on the host for hostile cells to reach, and the record of what they reached.

Everything holds random tokens of this run: a token that comes out of a sandbox was got from the host.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio

VARIABLE = "RLM_PRISON_TOKEN"
# how long slow() takes, in seconds: longer than any cell may
SLOW = 30.0


class Opaque:
    """An object of the host that has no form in a sandbox; its text is a token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return f"<Opaque {self.token}>"


class Traps:
    """The planted file, variable, folder, servers and host functions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plant = folder / "planted"
        self.secret = folder / "secret.txt"
        kinds = ("file", "environment", "server", "error text", "host object", "module")
        self.tokens = {kind: f"{kind[:3].upper()}{secrets.token_hex(12)}" for kind in kinds}
        self.arrivals: list[str] = []
        self.heard: list[str] = []
        self.http_port = self.tcp_port = self.udp_port = 0

    def variables(self) -> dict[str, object]:
        """The names under which a cell finds the traps."""
        address = f"http://127.0.0.1:{self.http_port}"
        return {
            "SECRET": str(self.secret),
            "PLANT": str(self.plant),
            "ENV": VARIABLE,
            "HTTP": address,
            "HTTP_PORT": self.http_port,
            "TCP_PORT": self.tcp_port,
            "UDP_PORT": self.udp_port,
            "UNIX": str(self.folder / "unix"),
            "HOSTNAME": socket.gethostname(),
            "JS_READ": f"Deno.readTextFileSync({str(self.secret)!r})",
            "JS_HIT": f"void fetch('{address}/from-javascript')",
        }

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The host functions that a cell is given."""

        def echo(x: Any = None) -> Any:
            self.heard.append(repr(x)[:10_000] if isinstance(x, str | bytes | list | dict) else type(x).__name__)
            return x

        def canary(word: Any = None) -> str:
            self.heard.append(f"canary {str(word)[:100]}")
            return "heard"

        def quick(x: Any = None) -> Any:
            return x

        async def slow(x: Any = None) -> str:
            await anyio.sleep(SLOW)
            return "late"

        def broken() -> None:
            raise ValueError(f"{self.tokens['error text']} in {self.secret}")

        def opaque() -> Opaque:
            return Opaque(self.tokens["host object"])

        return {"echo": echo, "canary": canary, "quick": quick, "slow": slow, "broken": broken, "opaque": opaque}

    def forget(self) -> None:
        """Before a cell: what was recorded belongs to those before it."""
        self.arrivals.clear()
        self.heard.clear()

    def sprung(self, texts: list[str]) -> list[str]:
        """What a cell got, given all the text that came of it."""
        text = "\n".join([*texts, *self.heard])
        reasons = [f"the token of the {kind} came out" for kind, token in self.tokens.items() if token in text]
        reasons += [f"the network: {arrival}" for arrival in self.arrivals[:3]]
        reasons += [f"the canary was called: {word}" for word in self.heard if word == "canary sing"]
        planted = sorted(path.name for path in self.plant.iterdir())
        if planted != ["mine"]:
            reasons.append(f"the planted folder holds {planted}")
            self._plant()
        if self.secret.read_text() != self.tokens["file"]:
            reasons.append("the secret was overwritten")
            self._plant()
        return reasons

    def _plant(self) -> None:
        shutil.rmtree(self.plant, ignore_errors=True)
        self.plant.mkdir(parents=True)
        (self.plant / "mine").write_text("x")
        self.secret.write_text(self.tokens["file"])

    @contextmanager
    def set(self) -> Iterator[Traps]:
        """Plant everything; at the end the servers are closed and the variable is gone."""
        self._plant()
        source = f"CONTENT = {self.tokens['module']!r}\n"
        (self.folder / "planted_module.py").write_text(source)
        with zipfile.ZipFile(self.folder / "planted.zip", "w") as archive:
            archive.writestr("planted.py", source)
        os.environ[VARIABLE] = self.tokens["environment"]
        server = self._serve_http()
        sockets = [self._listen(), self._listen_unix(), self._receive()]
        try:
            yield self
        finally:
            os.environ.pop(VARIABLE, None)
            server.shutdown()
            server.server_close()
            for listening in sockets:
                listening.close()

    def _serve_http(self) -> ThreadingHTTPServer:
        traps = self

        class Recorder(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                traps.arrivals.append(f"{self.command} {self.path[:100]}")
                body = traps.tokens["server"].encode()
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_HEAD = do_OPTIONS = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: what arrives is in `arrivals`."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        self.http_port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _listen(self) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", 0))
        self.tcp_port = listening.getsockname()[1]
        self._record("a TCP connection", listening, lambda: listening.accept()[0].close())
        return listening

    def _listen_unix(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        # a relative path would do where the folder's own is too long for a socket's name
        listening.bind(str(self.folder / "unix"))
        listening.listen()
        self._record("a Unix connection", listening, lambda: listening.accept()[0].close())
        return listening

    def _receive(self) -> socket.socket:
        receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiving.bind(("127.0.0.1", 0))
        self.udp_port = receiving.getsockname()[1]
        self._record("a datagram", receiving, lambda: receiving.recv(100))
        return receiving

    def _record(self, what: str, listening: socket.socket, wait: Callable[[], object]) -> None:
        def record() -> None:
            while True:
                try:
                    wait()
                except TimeoutError:
                    continue
                except OSError:
                    # closed: the traps are taken down
                    return
                self.arrivals.append(what)

        # a wait in a socket that is closed meanwhile would never end
        listening.settimeout(0.2)

        threading.Thread(target=record, daemon=True).start()
