"""Asks Google's Gemini API.

Owns the translation to that API and back. The vendor's SDK (the extra `gemini`) carries the bytes; it is imported on
first use. Knows nothing of budgets or the loop.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlm_wasm.clients.failures import Failure, shown
from rlm_wasm.clients.protocol import Message, OnText, Reply
from rlm_wasm.clients.streams import Telling, drain
from rlm_wasm.clients.texts import encodable, sendable, uncounted
from rlm_wasm.clients.tools import ARGUMENTS, called, turns
from rlm_wasm.clients.vendor import Server, VendorClient
from rlm_wasm.errors import ClientError
from rlm_wasm.images import Image
from rlm_wasm.prompts import RUN_PYTHON, Tool

if TYPE_CHECKING:
    import httpx2
    from google.genai import Client as GenaiClient
    from google.genai.types import FunctionCall, GenerateContentConfig, GenerateContentResponse, Part

_VENDOR = "gemini"  # whose signature a call bears: it may be sent to a client of another's
_WHOLE = ("STOP", "MAX_TOKENS", "FINISH_REASON_UNSPECIFIED")
# Where Google says how long to wait: in the body, not in a header (google.rpc.RetryInfo).
_RETRY_DELAY = re.compile(r'"retryDelay":\s*"(\d{1,9}(?:\.\d+)?)s"')


class GeminiClient(VendorClient["_Opened"]):
    """A `Client` for Gemini by Google's own API, under asyncio and trio. Needs the extra `rlm-wasm[gemini]`.

    `base_url` if not given is GOOGLE_GEMINI_BASE_URL, else Google's own; `api_key` if not given is GEMINI_API_KEY,
    then GOOGLE_API_KEY, read on first use. `parameters` are further fields of the SDK's GenerateContentConfig:
    temperature, thinking_config, max_output_tokens. `timeout` is in seconds, for the whole call. System messages are
    sent as the system instruction, wherever they stand.

    Google caches prompts that begin alike by itself; what was read from its cache is counted with the other input
    tokens, and a `Price` with `cache_read` charges it as it is. Thoughts count as output.

    Nothing is asked again by itself: `RetryingClient(GeminiClient(...))` does. One instance may serve many tasks, and
    one event loop after another. Connections are opened on first use, closed by `aclose()`, by `async with`, or when
    their event loop ends. Raises ValueError for options that make no sense.
    """

    _modules = ("google.genai",)
    _needs = "Google's SDK: pip install 'rlm-wasm[gemini]'"
    _decided = frozenset({"system_instruction", "http_options", "tools"})

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,  # reasoning models think for minutes before they say a word
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        address = base_url or os.environ.get("GOOGLE_GEMINI_BASE_URL") or "https://generativelanguage.googleapis.com"
        server = Server(address, ("GEMINI_API_KEY", "GOOGLE_API_KEY"))
        super().__init__(model, server, api_key, timeout, parameters)

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Ask once. `max_output_tokens` also counts what the model thinks.

        With `tool` it is the one tool offered; without it a reply has no calls. `on_text` is that of `StreamingClient`.

        Raises `ClientError` for anything that is not a reply, with status 400 where the prompt does not fit the
        model's window; the SDK's error is its `__cause__`. No text of either holds the key. Raises ValueError for
        `parameters` that the SDK does not know.
        """
        async with self._opened() as opened:
            config = self._config(messages, max_output_tokens, tool)
            chat = _contents(messages, (tool or RUN_PYTHON).name)
            telling = Telling(on_text)
            reply = _read_reply(await self._ask(opened, config, chat, telling), messages, tool)
        telling.finish(reply.text)
        return reply

    def _open(self, key: str) -> _Opened:
        return _Opened(self._server.base_url, key, trust_env=not self._server.is_local)

    def _config(
        self, messages: Sequence[Message], max_output_tokens: int | None, tool: Tool | None
    ) -> GenerateContentConfig:
        from google.genai.types import GenerateContentConfig

        fields: dict[str, Any] = {"automatic_function_calling": {"disable": True}, **self._parameters}
        if max_output_tokens is not None:
            own = fields.get("max_output_tokens")
            fields["max_output_tokens"] = min(own, max_output_tokens) if isinstance(own, int) else max_output_tokens
        if system := [sendable(each.content) for each in messages if each.role == "system"]:
            fields["system_instruction"] = {"parts": [{"text": text} for text in system]}
        if tool is not None:
            function = {"name": tool.name, "description": tool.description, "parameters": dict(ARGUMENTS)}
            fields["tools"] = [{"function_declarations": [function]}]
        return GenerateContentConfig(**fields)

    async def _ask(
        self, opened: _Opened, config: GenerateContentConfig, chat: Sequence[object], telling: Telling
    ) -> GenerateContentResponse:
        models: Any = opened.sdk.aio.models  # its types name packages that are not installed
        asked: dict[str, object] = {"model": self._model, "contents": chat, "config": config}
        if telling.is_wanted:
            return await self._hear_chunks(models.generate_content_stream(**asked), telling)
        return await self._before(self._deadline(), models.generate_content(**asked))

    async def _hear_chunks(self, asking: Awaitable[Any], telling: Telling) -> GenerateContentResponse:
        """What the chunks of a stream make up: all parts, and what the last of them says of the rest."""
        from google.genai.types import Candidate, Content, GenerateContentResponse

        deadline = self._deadline()
        chunks: AsyncIterator[GenerateContentResponse] = await self._before(deadline, asking)
        parts: list[Part] = []
        whole = GenerateContentResponse()
        reason = None
        try:
            while (chunk := await self._before(deadline, anext(chunks, None))) is not None:
                whole.usage_metadata = chunk.usage_metadata or whole.usage_metadata
                whole.prompt_feedback = chunk.prompt_feedback or whole.prompt_feedback
                for candidate in (chunk.candidates or ())[:1]:
                    reason = candidate.finish_reason or reason
                    fresh = (candidate.content.parts if candidate.content else None) or []
                    parts += fresh
                    for part in fresh:
                        telling.tell(part.text if part.text and not part.thought else "")
        finally:
            await drain(chunks, 0)
        if reason is not None:
            whole.candidates = [Candidate(content=Content(parts=parts), finish_reason=reason)]
        elif whole.prompt_feedback is None:
            raise self._unfinished().error()
        return whole

    def _failure(self, error: Exception) -> Failure | None:
        from google.genai.errors import APIError

        match error:
            case APIError():
                return self._refusal(error)
            case ValueError() | TypeError() | AttributeError() | KeyError() | RecursionError():
                # The SDK reads a body with status 200 as if it must be right.
                why = shown(f"{type(error).__name__}: {error}")
                return Failure(f"the answer is no response of Gemini's ({why})", 200)
            case _:
                return None

    def _refusal(self, error: Any) -> Failure:
        import httpx2

        # In the middle of a stream there is no body, only what the SDK has read of it.
        whole = isinstance(error.response, httpx2.Response)
        text, headers = error.response.text if whole else json.dumps(error.details), dict(error.response.headers)
        if (told := _RETRY_DELAY.search(text)) and "retry-after" not in headers:
            headers["retry-after"] = told[1]
        return self._refused(error.code, headers, text)


class _Opened:
    """The SDK and its connections, which it does not close itself because they were handed to it."""

    def __init__(self, base_url: str, key: str, *, trust_env: bool) -> None:
        import httpx2
        from google.genai import Client
        from google.genai.types import HttpOptions

        self.key = key
        # Handed in, because the SDK's own belong to asyncio. The SDK gives every request a timeout of its own: none.
        self._http: httpx2.AsyncClient = httpx2.AsyncClient(trust_env=trust_env)
        options = HttpOptions(base_url=base_url, httpx_async_client=self._http)
        # False, or an environment variable would turn it to Vertex AI.
        self.sdk: GenaiClient = Client(vertexai=False, api_key=key, http_options=options)

    async def close(self) -> None:
        """Close the connections. The SDK's second, blocking client has none."""
        self.sdk.close()
        await self._http.aclose()


def _contents(messages: Sequence[Message], name: str) -> list[dict[str, object]]:
    """The conversation as the API has it; `name` is the tool's."""
    return [
        {
            "role": "model" if turn[0].role == "assistant" else "user",
            "parts": [part for each in turn for part in _parts(each, name)],
        }
        for turn in turns(messages)
    ]


def _parts(message: Message, name: str) -> list[dict[str, object]]:
    if message.role == "tool":
        response = {"output": sendable(message.content)}
        return [{"function_response": {"id": message.answers, "name": name, "response": response}}]
    parts = [_seen(image) for image in message.images]
    if message.content.strip() or not message.calls:
        parts.append({"text": sendable(message.content)})
    for call in message.calls:
        part: dict[str, object] = {
            "function_call": {"id": call.id, "name": name, "args": {"code": encodable(call.code)}}
        }
        vendor, _, signature = call.signature.partition(" ")
        parts.append(part | ({"thought_signature": b64decode(signature)} if vendor == _VENDOR else {}))
    return parts


def _seen(image: Image) -> dict[str, object]:
    if image.url:
        return {"file_data": {"file_uri": image.url}}
    return {"inline_data": {"data": image.content, "mime_type": image.media_type}}


def _call(part: Part, made: FunctionCall) -> tuple[str | None, object, str]:
    # From Gemini 3 on, the API refuses what came of a call whose signature is not given back.
    signature = f"{_VENDOR} {b64encode(part.thought_signature).decode()}" if part.thought_signature else ""
    return made.id, made.args or {}, signature


def _read_reply(answer: GenerateContentResponse, messages: Sequence[Message], tool: Tool | None) -> Reply:
    """The reply in an answer with status 200. Raises `ClientError` if there is none."""
    if not answer.candidates:
        blocked = answer.prompt_feedback and answer.prompt_feedback.block_reason
        why = f"the prompt was blocked ({blocked.value})" if blocked else "its list of candidates is empty"
        raise ClientError(f"the answer holds no reply: {why}", status=200)
    candidate = answer.candidates[0]
    reason = candidate.finish_reason.value if candidate.finish_reason else "STOP"
    if reason not in _WHOLE:
        # A call that the model wrote wrongly is thrown away by the server: asked again, it may write it well.
        again = reason == "MALFORMED_FUNCTION_CALL"
        raise ClientError(f"the server stopped the reply, finish_reason {reason!r}", status=200, transient=again)
    parts = (candidate.content.parts if candidate.content else None) or []
    made = [_call(part, part.function_call) for part in parts if part.function_call] if tool else []
    calls = called(made, messages)
    texts = [part.text for part in parts if part.text is not None and not part.thought]
    text = "".join(texts)
    if not calls and (not texts or (not text and reason == "MAX_TOKENS")):
        hint = " (the output tokens were used up, perhaps by thinking)" if reason == "MAX_TOKENS" else ""
        raise ClientError(f"the reply has no text, finish_reason {reason!r}{hint}", status=200)
    counts = answer.usage_metadata
    if counts is None or not counts.prompt_token_count or counts.prompt_token_count < 0:
        return uncounted(text, messages, calls)
    # What the cache held is in the prompt's count; thoughts are beside the candidates'.
    output = (counts.candidates_token_count or 0) + (counts.thoughts_token_count or 0)
    asked = counts.prompt_token_count + (counts.tool_use_prompt_token_count or 0)
    reads = min(max(counts.cached_content_token_count or 0, 0), asked)
    return Reply(text, asked, max(output, 0), calls=calls, cache_reads=reads)
