"""A clock that a test winds itself, for the clients that wait."""

from __future__ import annotations

import anyio
import pytest

from rlm_wasm.clients import Clock


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
