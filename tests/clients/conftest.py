"""A clock that a test winds itself, servers that play a provider, all providers, all wrappers, and no keys around."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from rlm_wasm.clients import Clock
from tests.clients.providers import PROVIDERS, Provider
from tests.clients.server import ChatServer, Serve, Step
from tests.clients.wrappers import WRAPPERS, Wrap


class Watch:
    """Stands in for the time: its sleeps are kept in `pauses` (seconds), end at once and move `now`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.draw = 0.5
        self.pauses: list[float] = []
        self.clock = Clock(now=lambda: self.now, sleep=self._sleep, draw=lambda: self.draw)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await anyio.lowlevel.checkpoint()
        self.now += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return PROVIDERS[request.param]


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest, tmp_path: Path) -> Wrap:
    return lambda client: WRAPPERS[request.param](client, tmp_path)


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ChatServer] = []

    def start(*steps: Step) -> ChatServer:
        servers.append(ChatServer(steps))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = (
        *("OPENAI_", "AZURE_", "LLM_", "ANTHROPIC_", "GEMINI_", "GOOGLE_"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    )
    for name in [name for name in os.environ if name.upper().startswith(prefixes)]:
        monkeypatch.delenv(name)
