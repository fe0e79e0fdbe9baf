"""A reply as it comes: who is told its pieces, and how a text that begins again is told.

Knows nothing of vendors: what a piece of a stream says is read by each vendor's client.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from anyio import move_on_after

from rlm_wasm.clients.protocol import Client, OnText


class Telling:
    """Passes the pieces of one call's reply on to `on_text`, if there is one.

    No empty piece is passed on, and nothing is taken back where nothing was told.
    """

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self._told = False

    @property
    def is_wanted(self) -> bool:
        """Whether anybody listens."""
        return self._on_text is not None

    def tell(self, piece: str | None) -> None:
        """Pass a piece on, or None for all before it being void. Raises what `on_text` raises."""
        if self._on_text is not None and (piece or (piece is None and self._told)):
            self._told = piece is not None
            self._on_text(piece)

    def finish(self, text: str) -> None:
        """Tell the whole text of the reply, where it came in no pieces."""
        if not self._told:
            self.tell(text)

    def through(self, client: Client) -> dict[str, Any]:
        """The argument `on_text` for `complete` of `client`, or none: a client without streams need not know of it."""
        known = self.is_wanted and "on_text" in inspect.signature(client.complete).parameters
        return {"on_text": self.tell} if known else {}


class Hearing(Protocol):
    """Puts the events of a stream together."""

    @property
    def is_whole(self) -> bool:
        """Whether the reply has had its end."""
        ...

    def hear(self, event: str) -> bool:
        """Take an event's data, and say whether it was the stream's last. Raises `ClientError` for what is none."""
        ...

    def body(self) -> bytes:
        """The body of the same reply as it would have come without a stream."""
        ...


async def drain(events: AsyncIterator[object], seconds: float) -> None:
    """Read a stream to its end where that comes within `seconds`, and give it up where it does not.

    With 0 it is given up at the next wait. What goes wrong is of no interest any more.
    """
    # Not merely closed: of generators in generators only the outermost would be, and the others left to chance.
    with move_on_after(seconds, shield=True), suppress(Exception):
        async for _ in events:
            pass
