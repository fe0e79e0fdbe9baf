"""Asks any server that speaks OpenAI's chat completions: OpenAI, Azure, vLLM, llama.cpp, Ollama, LM Studio.

Owns where the server is, which key it gets, when a failed call is made again, and what a failure means. The vendor's
SDK carries the bytes; it is imported on first use (0.8 s, measured). Knows nothing of budgets or the loop.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import textwrap
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Self, TypedDict, Unpack
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import msgspec
from anyio import current_time, fail_after, move_on_after, sleep, to_thread
from anyio.abc import AsyncResource
from anyio.lowlevel import current_token

from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.clients.scripted import estimate_tokens
from rlm_wasm.errors import ClientError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# What servers say of a prompt that is too long.
_OVERFLOW = re.compile(
    r"(?:exceed|greater than|longer than|maximum).{0,40}?context[ _](?:length|window|size)"  # OpenAI, llama.cpp, Ollama
    r"|context[ _](?:length|window|size).{0,40}?(?:exceed|only)|context the overflows"  # vLLM, MiniMax, LM Studio
    r"|maximum (?:model|prompt) length|reduce the length of the (?:messages|input|prompt)"  # vLLM, xAI, Groq
    r"|(?:prompt|input|string) (?:is )?too long"  # Anthropic, Bedrock, OpenAI
    r"|token count.{0,40}?exceeds|exceeded model token limit",  # Gemini, Kimi
    re.IGNORECASE,
)
_LOCAL = re.compile(r"(?:.+\.)?localhost|127(?:\.\d+){3}|0\.0\.0\.0|::1?")
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_UNKNOWN_MODEL = re.compile(r"model_not_found|not a valid model|model .{0,80}?does not exist", re.IGNORECASE)


class ClientOptions(TypedDict, total=False):
    """The options of `OpenAIClient` that do not say where the server is."""

    api_key: str | None
    timeout: float
    max_retries: int
    max_retry_seconds: float
    parameters: Mapping[str, object] | None


class OpenAIClient(AsyncResource):
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
        if timeout <= 0 or max_retries < 0 or max_retry_seconds < 0:
            raise ValueError("timeout must be more than 0 seconds, max_retries and max_retry_seconds at least 0")
        if taken := {"model", "messages", "stream"}.intersection(parameters or ()):
            raise ValueError(f"parameters may not hold {', '.join(sorted(taken))}: the client decides it")
        self._model = model
        self._server = _server_at(base_url)
        self._api_key = api_key
        self._timeout = timeout
        self._max_retries = max_retries
        self._max_retry_seconds = max_retry_seconds
        self._parameters = dict(parameters or {})
        self._opened: WeakKeyDictionary[object, tuple[AsyncOpenAI, AsyncGenerator[None]]] = WeakKeyDictionary()

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

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced."""
        return self._model

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask, and ask again where that may help. `max_output_tokens` also counts what a reasoning model thinks.

        Raises `ClientError` for anything that is not a reply, with status 400 where the prompt does not fit the
        model's window; the vendor's error is its `__cause__`. No text of either holds the key.
        """
        sdk = await self._connect()
        try:
            return _read_reply(await self._ask(sdk, self._request(messages, max_output_tokens)), messages)
        except ClientError as error:
            _hide_key(error, sdk.api_key)
            raise

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Used again, the client opens new ones."""
        if opened := self._opened.get(current_token().native_token):
            await opened[1].aclose()

    def __repr__(self) -> str:
        return f"OpenAIClient(model={self._model!r}, host={self._server.host!r})"

    async def _connect(self) -> AsyncOpenAI:
        loop = current_token().native_token
        if loop not in self._opened:
            # In a thread, because it would hold up everything else in the event loop.
            await to_thread.run_sync(import_module, "openai.resources.chat.completions")
        if loop not in self._opened:  # asked again, because another task may have been faster
            sdk = self._server.open(self._find_key())
            lease = self._until_the_loop_ends(loop, sdk)
            self._opened[loop] = sdk, lease
            await anext(lease)
        return self._opened[loop][0]

    async def _until_the_loop_ends(self, loop: object, sdk: AsyncOpenAI) -> AsyncGenerator[None]:
        # asyncio and trio close the async generators that are still open when a loop ends. It is the last moment at
        # which the sockets of an `anyio.run(...)` can be closed: after it they belong to a dead loop.
        try:
            yield
        finally:
            self._opened.pop(loop, None)
            with move_on_after(1, shield=True):
                await sdk.close()

    def _find_key(self) -> str:
        named = ((name, os.environ.get(name)) for name in self._server.key_variables)
        for name, text in (("api_key", self._api_key), *named):
            if key := (text or "").strip():
                if re.fullmatch(r"[!-~]+", key):
                    return key
                # Sent on, it would come back whole in the HTTP library's complaint.
                raise ClientError(f"{name} holds a character that no key has (a space, a line end, a curly quote)")
        if self._server.is_local:
            return "no-key"  # the SDK insists on one
        raise ClientError(
            f"no key for {self._server.host}: set {' or '.join(self._server.key_variables)}, or pass api_key= "
            "(any text will do for a server that wants none)"
        )

    def _request(self, messages: Sequence[Message], max_output_tokens: int | None) -> dict[str, object]:
        extra = dict(self._parameters)
        if max_output_tokens is not None:
            # Whoever wrote one of the two names into `parameters` knows which one the server takes.
            named = [name for name in ("max_completion_tokens", "max_tokens") if name in extra]
            for name in named or [self._server.limit_field]:
                own = extra.get(name)
                extra[name] = min(own, max_output_tokens) if isinstance(own, int) else max_output_tokens
        # A lone surrogate, which a broken corpus or the sandbox may hold, cannot be sent as UTF-8.
        chat = [{"role": each.role, "content": each.content.encode(errors="replace").decode()} for each in messages]
        # extra_body, because the SDK's own arguments do not know what other servers take.
        return {"model": self._server.deployment or self._model, "messages": chat, "extra_body": extra}

    async def _ask(self, sdk: AsyncOpenAI, request: Mapping[str, Any]) -> bytes:
        import openai

        # The SDK's own retries are off: they heed a Retry-After of two minutes at most, put no cap on the sum of the
        # waits, and ask a second time for a reply that was out of time.
        started = current_time()
        for attempt in itertools.count(1):
            try:
                # The SDK's timeout is for each read: a server that drips would never meet it.
                with fail_after(self._timeout):
                    answer = await sdk.chat.completions.with_raw_response.create(**request, stream=False)
                return answer.http_response.content
            except openai.APIStatusError as error:
                cause, failure = error, self._refusal(error.response.headers, error.status_code, error.response.text)
            except openai.APIConnectionError as error:
                reason = error.__cause__ or error
                text = f"no reply from {self._server.host} ({type(reason).__name__}: {_shown(str(reason))})"
                cause, failure = error, _Failure(text, wait=0)
            except TimeoutError as error:
                cause, failure = error, _Failure(f"{self._server.host} gave no reply within {self._timeout:g} s")
            left = self._max_retry_seconds - (current_time() - started)
            pause = failure.wait or _backoff(attempt)
            if failure.wait is None or attempt > self._max_retries or pause > left:
                asked = f"; asked {attempt} times" if attempt > 1 else ""
                raise ClientError(failure.text + asked, status=failure.status) from cause
            await sleep(pause)
        raise AssertionError("the count of attempts has no end")

    def _refusal(self, headers: Mapping[str, str], status: int, text: str) -> _Failure:
        said, host, start = _complaint(text), self._server.host, text[:4000]
        # Not 429: "too many tokens per minute" is said in nearly the same words, and passes.
        if status in (400, 413, 422, 500) and _OVERFLOW.search(start):
            # llama.cpp has the numbers beside its message, not in it.
            numbers = said if re.search(r"\d", said) else _shown(text)
            return _Failure(f"the prompt does not fit the context window of {self._model!r}: {numbers}", 400)
        if status == 404 or (status < 500 and _UNKNOWN_MODEL.search(start)):
            hint = "" if "model" in start.lower() else " (base_url may be wrong: most end in /v1)"
            return _Failure(f"{host} does not serve the model {self._model!r} (HTTP {status}): {said}{hint}", status)
        told = _told_seconds(headers, time.time())
        hint = f"; it asks for a pause of {told:g} s" if told else ""
        if status == 401:
            hint = f"; the key comes from {' or '.join(('api_key', *self._server.key_variables))}"
        # A spent quota is a 429 too, and no wait refills it.
        final = headers.get("x-should-retry") == "false" or "insufficient_quota" in start
        passing = not final and (status in (408, 409, 429) or status >= 500)
        return _Failure(f"{host} answered HTTP {status}: {said}{hint}", status, wait=told if passing else None)


class _Server(msgspec.Struct, frozen=True):
    """Where to ask. `deployment` is set on Azure; with `api_version` its dated API is asked."""

    base_url: str
    key_variables: tuple[str, ...]
    deployment: str | None = None
    api_version: str | None = None

    @property
    def host(self) -> str:
        # Without user and password, which an address may hold.
        return urlsplit(self.base_url).netloc.rpartition("@")[2]

    @property
    def is_local(self) -> bool:
        return _LOCAL.fullmatch(urlsplit(self.base_url).hostname or "") is not None

    @property
    def limit_field(self) -> str:
        # OpenAI's newer models refuse `max_tokens`; most compatible servers know nothing else.
        name = urlsplit(self.base_url).hostname or ""
        own = self.deployment or name.endswith((".openai.com", ".openai.azure.com"))
        return "max_completion_tokens" if own else "max_tokens"

    def open(self, key: str) -> AsyncOpenAI:
        import openai

        # A server that is there accepts within seconds; to wait the whole timeout would hide a wrong address.
        timeout = openai.Timeout(None, connect=10)
        # A proxy of the environment cannot reach this machine, and NO_PROXY is often not set.
        transport = openai.DefaultAsyncHttpxClient(trust_env=not self.is_local)
        # Azure's dated API takes its key in another header, which its own class knows.
        dated = self.api_version and partial(openai.AsyncAzureOpenAI, api_version=self.api_version)
        client = dated or openai.AsyncOpenAI
        return client(base_url=self.base_url, api_key=key, timeout=timeout, max_retries=0, http_client=transport)


class _Failure(msgspec.Struct, frozen=True):
    # An attempt without a reply. `wait`: seconds until it may be asked again, 0 if not said, None for never.
    text: str
    status: int | None = None
    wait: float | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class _Counts(msgspec.Struct):
    # A prompt has tokens: 0 is written by servers that do not count.
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1)]
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)]


class _Body(msgspec.Struct):
    # What is read of an answer, good (choices, usage) or bad (the others, each some server's habit).
    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | str | None = None
    message: str | None = None
    detail: str | None = None


def _server_at(base_url: str | None) -> _Server:
    variables = ("OPENAI_API_KEY", "LLM_API_KEY")
    address = base_url or os.environ.get("OPENAI_BASE_URL")
    if not address and (address := os.environ.get("LLM_BASE_URL")):
        variables = ("LLM_API_KEY", "OPENAI_API_KEY")
    server = _Server((address or "https://api.openai.com/v1").strip(), variables)
    if not re.fullmatch(r"https?://[^/\s]\S*", server.base_url):
        raise ValueError(f"a base_url begins with http:// or https:// and holds no space: {server.base_url[:8]!r}...")
    return server


def _read_reply(body: bytes, messages: Sequence[Message]) -> Reply:
    """The reply in the body of an answer with status 200. Raises `ClientError` if there is none."""
    shown = body[:8000].decode(errors="replace")
    try:
        answer = msgspec.json.decode(body, type=_Body)
    except _NOT_JSON as error:
        raise ClientError(f"the answer is no chat completion ({error}): {_shown(shown)}", status=200) from error
    if not answer.choices:
        # OpenRouter reports the errors of those behind it with status 200.
        why = _complaint(shown) if answer.error else "its list of choices is empty"
        raise ClientError(f"the answer holds no reply: {why}", status=200)
    said, reason = answer.choices[0].message, answer.choices[0].finish_reason
    if said.refusal:
        raise ClientError(f"the model refused to answer: {_shown(said.refusal)}", status=200)
    if reason == "content_filter":
        raise ClientError("the server's content filter stopped the reply", status=200)
    if said.content is None or (not said.content and reason == "length"):
        hint = " (the output tokens were used up, perhaps by thinking)" if reason == "length" else ""
        raise ClientError(f"the reply has no text, finish_reason {reason!r}{hint}", status=200)
    try:
        counts = msgspec.json.decode(answer.usage, type=_Counts)
    except _NOT_JSON:
        asked = estimate_tokens("".join(message.content for message in messages))
        return Reply(said.content, asked, estimate_tokens(said.content), estimated=True)
    return Reply(said.content, counts.prompt_tokens, counts.completion_tokens)


def _complaint(text: str) -> str:
    """What a server's error body says, without its wrapping."""
    try:
        body = msgspec.json.decode(text, type=_Body)
    except _NOT_JSON:
        return _shown(text)
    error = body.error.get("message") if isinstance(body.error, dict) else body.error
    return _shown(str(error or body.message or body.detail or text))


def _shown(text: str) -> str:
    # On one line and printable, because it is another machine's text and goes to terminals and logs. Never cut inside
    # a word: half a key could not be found and hidden any more.
    line = textwrap.shorten(text, 400, placeholder=" [...]", break_long_words=False, break_on_hyphens=False)
    return "".join(character if character.isprintable() else "?" for character in line) or "(nothing)"


def _backoff(attempt: int) -> float:
    # Half a second doubled each time, up to 30. Jitter, or a batch that was refused together comes back together.
    return min(0.5 * 2 ** min(attempt - 1, 16), 30) * random.uniform(0.5, 1)


def _told_seconds(headers: Mapping[str, str], now: float) -> float:
    """What Retry-After asks for, in seconds, 0 for nothing; `now` is in Unix time, for its form as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,300}(\.\d*)?", written := headers.get(name, "").strip()):
            return float(written) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _hide_key(error: BaseException | None, key: str) -> None:
    """Take the key out of the texts of an error and its causes: servers quote what they were sent."""
    while error is not None and len(key) >= 8:  # a shorter one is a placeholder, and may be a plain word
        error.args = tuple(part.replace(key, "[key]") if isinstance(part, str) else part for part in error.args)
        texts = {name: part for name, part in vars(error).items() if isinstance(part, str)}
        vars(error).update({name: part.replace(key, "[key]") for name, part in texts.items()})
        error = error.__cause__
