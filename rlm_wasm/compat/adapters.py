"""pyrlm-runtime's adapters over this runtime's clients, and an adapter of anybody's as a client."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm.clients import Client, GenericClient, Message, OpenAIClient, Reply, RetryingClient
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.scripted import estimate_tokens
from rlm_wasm.errors import ClientError

Chat = list[dict[str, str]]


class Usage(msgspec.Struct, frozen=True):
    """The tokens of one call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Usage:
        """The usage of a call, with the sum."""
        return cls(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Usage:  # the name that the argument has there
        """The usage in an answer of a server; what is missing is 0."""
        prompt, completion = int(data.get("prompt_tokens") or 0), int(data.get("completion_tokens") or 0)
        return cls(prompt, completion, int(data.get("total_tokens") or 0) or prompt + completion)

    def to_dict(self) -> dict[str, int]:
        """As a dict."""
        return msgspec.structs.asdict(self)


class ModelResponse(msgspec.Struct, frozen=True):
    """What an adapter gives."""

    text: str
    usage: Usage
    model_id: str | None = None
    meta: dict[str, Any] | None = None


class ModelAdapter(Protocol):
    """What pyrlm-runtime asks models by."""

    def complete(self, messages: Chat, *, max_tokens: int = 512, temperature: float = 0.0) -> ModelResponse: ...


class AdapterClient:
    """A `Client` over an adapter. One that may block is called in a thread; what it raises becomes a ClientError."""

    def __init__(self, adapter: ModelAdapter, *, blocks: bool = True) -> None:
        self._adapter = adapter
        self._blocks = blocks
        named = (getattr(adapter, name, None) for name in ("model_id", "model_name", "model"))
        self._model = next((str(name) for name in named if name), type(adapter).__name__)

    @property
    def model(self) -> str:
        """The adapter's `model_id`, `model_name` or `model`, or else the name of its class."""
        return self._model

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask once. Raises ClientError."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        most: dict[str, Any] = {} if max_output_tokens is None else {"max_tokens": max_output_tokens}
        try:
            if self._blocks:
                answer = await anyio.to_thread.run_sync(lambda: self._adapter.complete(chat, **most))
            else:
                await anyio.lowlevel.checkpoint()
                answer = self._adapter.complete(chat, **most)
        except ClientError:
            raise
        except Exception as error:
            raise ClientError(f"{type(self._adapter).__name__}: {type(error).__name__}: {error}") from error
        return Reply(answer.text, answer.usage.prompt_tokens, answer.usage.completion_tokens)

    def held_keys(self) -> set[str]:
        """The keys of the adapter, if it says which it holds."""
        return held_keys(self._adapter)

    def __repr__(self) -> str:
        return f"AdapterClient({type(self._adapter).__name__}, model={self._model!r})"


class _Over:
    """An adapter over a client of this runtime."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.client.model

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self.client)

    def complete(self, messages: Chat, *, max_tokens: int = 512, temperature: float | None = None) -> ModelResponse:
        """Ask once, from plain code where no event loop runs. Raises ClientError, and ValueError for a temperature."""
        if temperature is not None:
            raise ValueError("temperature is set in the client's parameters here, for all calls alike")
        asked = [Message(cast(Any, each["role"]), each["content"]) for each in messages]

        async def ask() -> Reply:
            return await self.client.complete(asked, max_output_tokens=max_tokens)

        reply = anyio.run(ask)
        return ModelResponse(reply.text, Usage.of(reply.input_tokens, reply.output_tokens), self.model)


class OpenAICompatAdapter(_Over):
    """An adapter for any server that speaks OpenAI's chat completions.

    `base_url` if not given is LLM_BASE_URL, then OPENAI_BASE_URL; the key is LLM_API_KEY, then OPENAI_API_KEY.
    """

    def __init__(self, *, model: str, base_url: str | None = None) -> None:
        address = base_url or os.environ.get("LLM_BASE_URL")
        super().__init__(OpenAIClient(model, base_url=address, api_key=os.environ.get("LLM_API_KEY")))


class AzureOpenAIAdapter(_Over):
    """An adapter for a deployment on Azure.

    Reads AZURE_OPENAI_API_KEY and OPENAI_ENDPOINT or AZURE_ACCOUNT_NAME. An endpoint with a path is the v1 API; else
    the dated one is asked, of `api_version`, AZURE_OPENAI_API_VERSION or 2024-10-21. `timeout` is in seconds.
    """

    def __init__(self, *, model: str, api_version: str | None = None, timeout: float = 180.0) -> None:
        endpoint = os.environ.get("OPENAI_ENDPOINT")
        has_path = re.fullmatch(r"https?://[^/]+/*", endpoint or "https://none") is None
        version = api_version or os.environ.get("AZURE_OPENAI_API_VERSION") or (None if has_path else "2024-10-21")
        super().__init__(OpenAIClient.azure(model, endpoint=endpoint, api_version=version, timeout=timeout))


class GenericChatAdapter(_Over):
    """An adapter for a server with a form of its own.

    The address is `endpoint`, or `base_url` and `path`. `payload_builder(messages, max_tokens, temperature, model)`
    gives what to send, `response_parser(answer)` the text and the `Usage`, or None to have it estimated; without them
    the form is that of chat completions. `timeout` is in seconds; `max_retries` how often it is asked again.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        base_url: str | None = None,
        path: str = "/chat/completions",
        model: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        payload_builder: Callable[[Chat, int, float | None, str | None], dict[str, Any]] | None = None,
        response_parser: Callable[[dict[str, Any]], tuple[str, Usage | None]] | None = None,
        timeout: float = 60.0,
        max_retries: int = 3,
    ) -> None:
        if endpoint is None and not base_url:
            raise ValueError("endpoint or base_url is needed")
        url = endpoint or f"{(base_url or '').rstrip('/')}/{path.lstrip('/')}"
        build_payload, parse_answer = payload_builder or _chat_payload, response_parser or _chat_answer

        def build(messages: Sequence[Message], max_output_tokens: int | None) -> object:
            chat = [{"role": message.role, "content": message.content} for message in messages]
            # what is sent there where nobody says otherwise
            return build_payload(chat, max_output_tokens or 512, 0.0, model)

        def parse(answer: dict[str, Any]) -> str | Reply:
            text, usage = parse_answer(answer)
            return text if usage is None else Reply(text, usage.prompt_tokens, usage.completion_tokens)

        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        client = GenericClient(
            model or "generic", url, build, parse, headers={**(headers or {}), **key}, timeout=timeout
        )
        super().__init__(RetryingClient(client, attempts=max_retries + 1))


def _chat_payload(messages: Chat, max_tokens: int, temperature: float | None, model: str | None) -> dict[str, Any]:
    named = {"model": model} if model else {}
    warm = {} if temperature is None else {"temperature": temperature}
    return {"messages": messages, "max_tokens": max_tokens, **warm, **named}


def _chat_answer(answer: dict[str, Any]) -> tuple[str, Usage | None]:
    content = answer["choices"][0]["message"].get("content") or ""
    parts: object = cast(object, content) if isinstance(content, list) else [{"text": content}]
    text = "\n".join(str(part["text"]) for part in cast("list[dict[str, Any]]", parts) if part.get("text"))
    return text, Usage.from_dict(answer["usage"]) if answer.get("usage") else None


class FakeRule(msgspec.Struct):
    """A rule of `FakeAdapter`: `matcher` is given all messages as one text; with `once` it answers one time."""

    matcher: Callable[[str], bool]
    response: str
    once: bool = False
    usage: Usage | None = None


class FakeAdapter:
    """An adapter that answers by rules over the text of all messages, then from a script; notes all in `call_log`."""

    def __init__(
        self, *, rules: Iterable[FakeRule] | None = None, script: Iterable[str] | None = None, model: str | None = None
    ) -> None:
        self._rules = list(rules or ())
        self._script = list(script or ())
        self.model = model
        self.call_log: list[Chat] = []
        # in the event loop itself, so that replies keep the order of the calls
        self.client: Client = AdapterClient(self, blocks=False)

    def add_rule(
        self, pattern: str, response: str, *, regex: bool = False, once: bool = False, usage: Usage | None = None
    ) -> None:
        """Answer prompts that hold `pattern` (a regular expression with `regex`), before the script is asked."""

        def matches(prompt: str) -> bool:
            return bool(re.search(pattern, prompt)) if regex else pattern in prompt

        self._rules.append(FakeRule(matches, response, once, usage))

    def complete(self, messages: Chat, *, max_tokens: int = 512, temperature: float = 0.0) -> ModelResponse:
        """Answer. Raises RuntimeError where neither a rule nor the script has an answer."""
        self.call_log.append(list(messages))
        prompt = "\n".join(message["content"] for message in messages)
        rule = next((rule for rule in self._rules if rule.matcher(prompt)), None)
        if rule is None and not self._script:
            raise RuntimeError(f"no rule matches and the script is at its end; the prompt ends {prompt[-200:]!r}")
        if rule is not None and rule.once:
            self._rules.remove(rule)
        text = self._script.pop(0) if rule is None else rule.response
        usage = rule.usage if rule is not None else None
        return ModelResponse(text, usage or Usage.of(estimate_tokens(prompt), estimate_tokens(text)), self.model)


def client_over(adapter: object) -> Client:
    """The client of an adapter of this module, a client of this runtime as it is, and any other adapter as a client.

    Raises TypeError for what has no `complete`.
    """
    own = getattr(adapter, "client", None)
    if own is not None and isinstance(adapter, (_Over, FakeAdapter)):
        return cast(Client, own)
    complete = getattr(adapter, "complete", None)
    if not callable(complete):
        raise TypeError(f"an adapter has a method complete(messages, ...), and {type(adapter).__name__} has none")
    if inspect.iscoroutinefunction(complete):
        return cast(Client, adapter)
    return AdapterClient(cast(ModelAdapter, adapter))
