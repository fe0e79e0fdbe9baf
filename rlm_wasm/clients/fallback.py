"""Asks one client after another until one has a reply. What each of them is, and why it failed, is theirs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.protocol import Client, Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.tools import offered
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Tool


class FallbackClient:
    """A `Client` that asks the first of `clients`, and upon a `ClientError` the next.

    Every failure leads on: where one model's window is too small or its key refused, another's may do. Every call
    begins with the first client again.

    `model` is the first client's, and all calls are counted and priced under it, whoever answered: with a limit in
    dollars put the dearest first, or give that name the price of the dearest. Tokens are those of the model that
    answered, and `Reply.model` names it. A failed call brings no tokens. Raises TypeError without clients.
    """

    def __init__(self, *clients: Client) -> None:
        if not clients:
            raise TypeError("a FallbackClient needs at least one client")
        self._clients = clients

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced: the first client's."""
        return self._clients[0].model

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Ask until one has a reply. Raises the last client's `ClientError`, with a note for each before it.

        Raises TypeError, before anyone is asked, for a `tool` that not all of the clients can offer.
        """
        more = offered(tool, *self._clients)
        telling = Telling(on_text)
        failures: list[str] = []
        for client in self._clients:
            try:
                options = {**more, **telling.through(client)}
                reply = await client.complete(messages, max_output_tokens=max_output_tokens, **options)
            except ClientError as error:
                if len(failures) == len(self._clients) - 1:
                    for failure in failures:
                        error.add_note(failure)
                    raise
                failures.append(f"before it {client.model!r} failed: {error}")
                telling.tell(None)
            else:
                telling.finish(reply.text)
                return msgspec.structs.replace(reply, model=reply.model or client.model)
        raise AssertionError("the last client returns or raises")

    def held_keys(self) -> set[str]:
        """The keys of the clients that it asks."""
        return held_keys(*self._clients)

    def __repr__(self) -> str:
        return f"FallbackClient({', '.join(map(repr, self._clients))})"
