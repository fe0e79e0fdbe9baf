"""Asks any server that takes JSON by POST and answers with JSON, in a form that the caller knows.

Owns the request's way there and back and what a failure means. What is in it, in both directions, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from anyio import fail_after
from anyio.abc import AsyncResource

from rlm_wasm.clients.connections import Connections, checked_address, host_of, is_local
from rlm_wasm.clients.failures import NOT_JSON, broken, late, refused, shown
from rlm_wasm.clients.keys import hide_key
from rlm_wasm.clients.protocol import Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.texts import encodable, uncounted
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Tool

if TYPE_CHECKING:
    import httpx2

# Every other header may hold a key.
_PLAIN_HEADERS = {"accept", "content-type", "user-agent"}


class GenericClient(AsyncResource):
    """A `Client` for a server with an API of its own, under asyncio and trio. It offers no native tools: with it as the
    root model a dialect carries code in fences (`act="fences"`), or `GenericToolClient` asks.

    `build(messages, max_output_tokens)` gives what to send, JSON-like; `parse(body)` is given what came back, decoded,
    and gives the reply's text, or a `Reply` where it knows the counts too (they are estimated otherwise). It may raise
    whatever it likes for a body that holds no reply: that becomes a `ClientError`. A text that is no Unicode (a lone
    surrogate) reaches `build` with question marks.

    `url` is the whole address to POST to, `headers` go with every request and may hold the key. `timeout` is in
    seconds, for the whole call. Nothing is asked again, which is what `RetryingClient` is for, and no redirect is
    followed, because it would carry the key along.

    One instance may serve many tasks, and one event loop after another. Connections are opened on first use, closed by
    `aclose()`, by `async with`, or when their event loop ends. Raises ValueError for options that make no sense.
    """

    def __init__(
        self,
        model: str,
        url: str,
        build: Callable[[Sequence[Message], int | None], object],
        parse: Callable[[Any], str | Reply],
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 600.0,  # reasoning models think for minutes before they say a word
    ) -> None:
        if timeout <= 0:
            raise ValueError("timeout must be more than 0 seconds")
        for name, value in (headers or {}).items():
            # The HTTP library would quote the value, and so the key, in its complaint.
            if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
                raise ValueError(f"the header {name!r} holds a character that no header has")
        self._model = model
        self._url = checked_address(url, "url")
        self._build = build
        self._parse = parse
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout = timeout
        self._connections = Connections(("httpx2",), self._open, _close)

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced."""
        return self._model

    async def complete(
        self, messages: Sequence[Message], *, max_output_tokens: int | None = None, on_text: OnText | None = None
    ) -> Reply:
        """Ask once; `on_text` is told the text in one piece.

        Raises `ClientError` for anything that is not a reply; no text of it holds a header's value.

        Raises what `build` raises, and TypeError where it or `parse` gives what it may not.
        """
        reply = await self._send(self._build(_sendable(messages), max_output_tokens), messages)
        Telling(on_text).finish(reply.text)
        return reply

    async def _send(self, request: object, messages: Sequence[Message]) -> Reply:
        sent = msgspec.json.encode(request)
        http = await self._connections.connect()
        try:
            return self._read_reply(await self._ask(http, sent), messages)
        except ClientError as error:
            for secret in sorted(self._secrets(), key=len, reverse=True):
                hide_key(error, secret)
            raise

    def held_keys(self) -> set[str]:
        """What may be a key of what it sends."""
        return self._secrets()

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Used again, the client opens new ones."""
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, host={host_of(self._url)!r})"

    def _open(self) -> httpx2.AsyncClient:
        import httpx2

        # As in OpenAIClient: a server that is there accepts within seconds, and no proxy reaches this machine.
        timeout = httpx2.Timeout(None, connect=10)
        return httpx2.AsyncClient(headers=self._headers, timeout=timeout, trust_env=not is_local(self._url))

    async def _ask(self, http: httpx2.AsyncClient, sent: bytes) -> bytes:
        import httpx2

        host = host_of(self._url)
        try:
            with fail_after(self._timeout):
                answer = await http.post(self._url, content=sent)
        except httpx2.HTTPError as error:
            raise broken(host, error).error() from error
        except TimeoutError as error:
            raise late(host, self._timeout).error() from error
        if answer.is_success:
            return answer.content
        raise refused(
            answer.status_code, answer.headers, answer.text, model=self._model, host=host, keys="headers="
        ).error()

    def _read_reply(self, body: bytes, messages: Sequence[Message]) -> Reply:
        start = shown(body[:8000].decode(errors="replace"))
        try:
            answer = msgspec.json.decode(body)
        except NOT_JSON as error:
            raise ClientError(f"the answer is no JSON ({error}): {start}", status=200) from error
        try:
            reply = self._parse(answer)
        except ClientError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise ClientError(f"no reply was found in the answer ({why}): {start}", status=200) from error
        if isinstance(reply, str):
            return uncounted(reply, messages)
        if not isinstance(reply, Reply):  # pyright: ignore[reportUnnecessaryIsInstance]: callers' functions are often untyped
            raise TypeError(f"parse gives a str or a Reply, not {type(reply).__name__}")
        return reply

    def _secrets(self) -> set[str]:
        """What may be a key: the headers' values and their words, and what the address holds besides the place."""
        address = urlsplit(self._url)
        secrets = {value for _, value in parse_qsl(address.query)} | {address.username or "", address.password or ""}
        for name, value in self._headers.items():
            if name.lower() not in _PLAIN_HEADERS:
                secrets |= {value, *value.split()}
        return secrets


class GenericToolClient(GenericClient):
    """A `GenericClient` that offers a native tool: a root model for dialects that act by one.

    `build(messages, max_output_tokens, tool)` gives what to send; `tool` is the one tool to offer, None where there is
    none. A message of role "assistant" may have `calls` of it, and one of role "tool" is what came of the call whose
    `id` it `answers`. `parse(body)` gives a text, or a `Reply` whose `calls` are `ToolCall(id, code)`; without a tool
    they are left out.
    """

    def __init__(
        self,
        model: str,
        url: str,
        build: Callable[[Sequence[Message], int | None, Tool | None], object],
        parse: Callable[[Any], str | Reply],
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 600.0,
    ) -> None:
        super().__init__(
            model, url, lambda chat, most: build(chat, most, None), parse, headers=headers, timeout=timeout
        )
        self._build_with = build

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """As in `GenericClient`; with `tool` it is offered, and its calls are in the reply."""
        reply = await self._send(self._build_with(_sendable(messages), max_output_tokens, tool), messages)
        Telling(on_text).finish(reply.text)
        return reply if tool is not None else msgspec.structs.replace(reply, calls=())


def _sendable(messages: Sequence[Message]) -> list[Message]:
    return [
        msgspec.structs.replace(
            each,
            content=encodable(each.content),
            calls=tuple(msgspec.structs.replace(call, code=encodable(call.code)) for call in each.calls),
        )
        for each in messages
    ]


async def _close(http: httpx2.AsyncClient) -> None:
    await http.aclose()
