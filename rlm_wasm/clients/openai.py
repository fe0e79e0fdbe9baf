"""Asks any server that speaks OpenAI's chat completions: OpenAI, Azure, vLLM, llama.cpp, Ollama, LM Studio.

Owns where the server is, which key it gets, and when a failed call is made again. The vendor's SDK carries the bytes;
it is imported on first use (0.8 s, measured). Knows nothing of budgets or the loop.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack
from urllib.parse import urlsplit

from anyio import current_time, sleep

from rlm_wasm.clients.chats import ChatHearing, read_reply
from rlm_wasm.clients.failures import Failure, broken
from rlm_wasm.clients.protocol import Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.texts import encodable
from rlm_wasm.clients.tools import ARGUMENTS
from rlm_wasm.clients.vendor import Server, VendorClient
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import RUN_PYTHON, Tool

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class ClientOptions(TypedDict, total=False):
    """The options of `OpenAIClient` that do not say where the server is."""

    api_key: str | None
    timeout: float
    max_retries: int
    max_retry_seconds: float
    parameters: Mapping[str, object] | None


class OpenAIClient(VendorClient["AsyncOpenAI"]):
    """A `Client` for any server that speaks chat completions, under asyncio and trio.

    `base_url` is the server's root, usually ending in /v1; if not given OPENAI_BASE_URL, then LLM_BASE_URL, then
    OpenAI's own. `api_key` if not given is OPENAI_API_KEY, then LLM_API_KEY (LLM_API_KEY first where the address came
    from LLM_BASE_URL), read on first use; a server on this machine needs none. `parameters` are further fields of
    every request: temperature, reasoning_effort, a server's own.

    `timeout` is in seconds, for one attempt as a whole. 408, 409, 429, 5xx and broken connections are tried again, at
    most `max_retries` times, and not later than `max_retry_seconds` after the first attempt began. A reply that is out
    of time is not asked for again: the server goes on with the first, and bills both.

    One instance may serve many tasks, and one event loop after another. Connections are opened on first use, closed by
    `aclose()`, by `async with`, or when their event loop ends. Raises ValueError for options that make no sense; what
    goes wrong in a call is a `ClientError`.
    """

    _modules = ("openai.resources.chat.completions",)
    _needs = "OpenAI's SDK: pip install openai"
    _decided = frozenset({"model", "messages", "stream"})
    _key_hint = " (any text will do for a server that wants none)"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,  # reasoning models think for minutes before they say a word
        max_retries: int = 6,  # the backoffs add up to about half a minute
        max_retry_seconds: float = 120.0,  # rate limits are counted by the minute
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        if max_retries < 0 or max_retry_seconds < 0:
            raise ValueError("max_retries and max_retry_seconds must be at least 0")
        super().__init__(model, _server_at(base_url), api_key, timeout, parameters)
        self._server: _Server
        self._max_retries = max_retries
        self._max_retry_seconds = max_retry_seconds
        self._streams = True

    @classmethod
    def azure(
        cls,
        deployment: str,
        *,
        model: str | None = None,
        endpoint: str | None = None,
        api_version: str | None = None,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """A client for a deployment on Azure. `model` is the name to count and price it under, if it is another.

        `endpoint` is https://NAME.openai.azure.com; if not given AZURE_OPENAI_ENDPOINT, OPENAI_ENDPOINT, or the NAME in
        AZURE_ACCOUNT_NAME. With `api_version` (or AZURE_OPENAI_API_VERSION, OPENAI_API_VERSION) the dated API is asked,
        else the v1 API. The key is `api_key` or AZURE_OPENAI_API_KEY. Raises ValueError if no endpoint is known.
        """
        account = os.environ.get("AZURE_ACCOUNT_NAME")
        root = endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or os.environ.get("OPENAI_ENDPOINT")
        root = root or (account and f"https://{account}.openai.azure.com")
        if not root:
            raise ValueError("no Azure endpoint: pass endpoint=, or set AZURE_OPENAI_ENDPOINT or AZURE_ACCOUNT_NAME")
        root = root.rstrip("/").removesuffix("/v1").removesuffix("/openai")
        version = api_version or os.environ.get("AZURE_OPENAI_API_VERSION") or os.environ.get("OPENAI_API_VERSION")
        base_url = f"{root}/openai/deployments/{deployment}" if version else f"{root}/openai/v1"
        client = cls(model or deployment, base_url=base_url, **options)
        client._server = _Server(base_url, ("AZURE_OPENAI_API_KEY",), deployment, version)
        return client

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Ask, and ask again where that may help. `max_output_tokens` also counts what a reasoning model thinks.

        With `tool` it is the one tool offered, whatever `parameters` say; without it a reply has no calls. `on_text` is
        that of `StreamingClient`; a server that refuses to stream is asked without, then and ever after, and the counts
        of one that gives none with a stream are estimated.

        Raises `ClientError` for anything that is not a reply, with status 400 where the prompt does not fit the
        model's window; the vendor's error is its `__cause__`. No text of either holds the key.
        """
        async with self._opened() as sdk:
            telling = Telling(on_text)
            body = await self._ask(sdk, self._request(messages, max_output_tokens, tool), telling)
            reply = read_reply(body, messages, tool)
        telling.finish(reply.text)
        return reply

    def _open(self, key: str) -> AsyncOpenAI:
        import openai

        server = self._server
        # A server that is there accepts within seconds; to wait the whole timeout would hide a wrong address.
        timeout = openai.Timeout(None, connect=10)
        # A proxy of the environment cannot reach this machine, and NO_PROXY is often not set.
        transport = openai.DefaultAsyncHttpxClient(trust_env=not server.is_local)
        # Azure's dated API takes its key in another header, which its own class knows.
        dated = server.api_version and partial(openai.AsyncAzureOpenAI, api_version=server.api_version)
        client = dated or openai.AsyncOpenAI
        return client(base_url=server.base_url, api_key=key, timeout=timeout, max_retries=0, http_client=transport)

    def _request(
        self, messages: Sequence[Message], max_output_tokens: int | None, tool: Tool | None
    ) -> dict[str, object]:
        extra = dict(self._parameters)
        if tool is not None:
            extra["tools"] = [_described(tool)]
        if max_output_tokens is not None:
            # Whoever wrote one of the two names into `parameters` knows which one the server takes.
            named = [name for name in ("max_completion_tokens", "max_tokens") if name in extra]
            for name in named or [self._server.limit_field]:
                own = extra.get(name)
                extra[name] = min(own, max_output_tokens) if isinstance(own, int) else max_output_tokens
        chat = [_chat_message(each, (tool or RUN_PYTHON).name) for each in messages]
        # extra_body, because the SDK's own arguments do not know what other servers take.
        return {"model": self._server.deployment or self._model, "messages": chat, "extra_body": extra}

    async def _ask(self, sdk: AsyncOpenAI, request: dict[str, Any], telling: Telling) -> bytes:
        # The SDK's own retries are off: they heed a Retry-After of two minutes at most, put no cap on the sum of the
        # waits, and ask a second time for a reply that was out of time.
        started = current_time()
        for attempt in itertools.count(1):
            try:
                return await self._ask_once(sdk, request, telling)
            except ClientError as error:
                left = self._max_retry_seconds - (current_time() - started)
                pause = error.retry_after or _backoff(attempt)
                if not error.transient or attempt > self._max_retries or pause > left:
                    asked = f"; asked {attempt} times" if attempt > 1 else ""
                    error.args = (f"{error}{asked}",)
                    raise
            telling.tell(None)
            await sleep(pause)
        raise AssertionError("the count of attempts has no end")

    async def _ask_once(self, sdk: AsyncOpenAI, request: dict[str, Any], telling: Telling) -> bytes:
        create: Any = sdk.chat.completions.with_raw_response.create
        refused = False
        if telling.is_wanted and self._streams:
            deadline = self._deadline()
            extra = {"stream_options": {"include_usage": True}, **request["extra_body"]}
            try:
                answer = await self._before(deadline, create(**{**request, "extra_body": extra}, stream=True))
                return await self._hear(answer.http_response, deadline, ChatHearing(telling))
            except ClientError as error:
                # Some servers know no streams, some no stream_options, and OpenAI streams some models to few.
                refused = error.status in (400, 422, 501) and "stream" in str(error).lower()
                if not refused:
                    raise
        answer = await self._before(self._deadline(), create(**request, stream=False))
        self._streams = self._streams and not refused
        return answer.http_response.content

    def _failure(self, error: Exception) -> Failure | None:
        import openai

        match error:
            case openai.APIStatusError():
                hint = " (base_url may be wrong: most end in /v1)"
                return self._refused(error.status_code, error.response.headers, error.response.text, hint)
            case openai.APIConnectionError():
                return broken(self._server.host, error.__cause__ or error)
            case _:
                return None


class _Server(Server, frozen=True):
    """`deployment` is set on Azure; with `api_version` its dated API is asked."""

    deployment: str | None = None
    api_version: str | None = None

    @property
    def limit_field(self) -> str:
        # OpenAI's newer models refuse `max_tokens`; most compatible servers know nothing else.
        name = urlsplit(self.base_url).hostname or ""
        own = self.deployment or name.endswith((".openai.com", ".openai.azure.com"))
        return "max_completion_tokens" if own else "max_tokens"


def _described(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(ARGUMENTS)}
    return {"type": "function", "function": function}


def _chat_message(message: Message, name: str) -> dict[str, object]:
    """A message as the API has it; `name` is the tool's."""
    sent: dict[str, object] = {"role": message.role, "content": encodable(message.content)}
    if message.images:
        # a data address for what is not fetched
        addresses = [each.url or f"data:{each.media_type};base64,{each.base64}" for each in message.images]
        shown = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
        sent["content"] = [*shown, {"type": "text", "text": encodable(message.content)}]
    if message.calls:
        sent["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": name, "arguments": _arguments(call.code)}}
            for call in message.calls
        ]
    if message.role == "tool":
        sent["tool_call_id"] = message.answers
    return sent


def _arguments(code: str) -> str:
    return json.dumps({"code": encodable(code)})


def _server_at(base_url: str | None) -> _Server:
    variables = ("OPENAI_API_KEY", "LLM_API_KEY")
    address = base_url or os.environ.get("OPENAI_BASE_URL")
    if not address and (address := os.environ.get("LLM_BASE_URL")):
        variables = ("LLM_API_KEY", "OPENAI_API_KEY")
    return _Server(address or "https://api.openai.com/v1", variables)


def _backoff(attempt: int) -> float:
    # Half a second doubled each time, up to 30. Jitter, or a batch that was refused together comes back together.
    return min(0.5 * 2 ** min(attempt - 1, 16), 30) * random.uniform(0.5, 1)
