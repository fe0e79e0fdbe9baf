"""Asks Anthropic's Messages API, with prompt caching.

Owns the translation to that API and back. The vendor's SDK (the extra `anthropic`) carries the bytes; it is imported
on first use. Knows nothing of budgets or the loop.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from rlm_wasm.clients.failures import NOT_JSON, Failure, broken, complaint, shown
from rlm_wasm.clients.protocol import Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.texts import encodable, sendable, uncounted
from rlm_wasm.clients.tools import ARGUMENTS, called, turns
from rlm_wasm.clients.vendor import Server, VendorClient
from rlm_wasm.errors import ClientError
from rlm_wasm.images import Image
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_OUTPUT_TOKENS = 8192  # the API wants a number; every model since Claude 3.5 can put out as much
_CACHED = {"cache_control": {"type": "ephemeral"}}
# The field of a block that grows in a stream, by the block's type.
_GROWING = {"text": "text", "thinking": "thinking", "tool_use": "input"}
_STATUS = {"rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529}
_VENDOR = "anthropic"  # whose signature a call bears: it may be sent to a client of another's


class AnthropicClient(VendorClient["AsyncAnthropic"]):
    """A `Client` for Claude by Anthropic's own API, under asyncio and trio. Needs the extra `rlm-wasm[anthropic]`.

    `base_url` if not given is ANTHROPIC_BASE_URL, else Anthropic's own; `api_key` if not given is ANTHROPIC_API_KEY,
    read on first use. `parameters` are further fields of every request: thinking, temperature, max_tokens (8192
    without it). `timeout` is in seconds, for the whole call. System messages are sent first, wherever they stand.

    The system prompt and the last message of a conversation are marked for the provider's cache, so that the next
    iteration reads what came before at a tenth of the price; a single message is not, because to write the cache costs
    a quarter more and nobody would read it. All three kinds of input tokens are counted together; a `Price` with
    `cache_read` and `cache_write` charges each as it is.

    Nothing is asked again by itself: `RetryingClient(AnthropicClient(...))` does. One instance may serve many tasks,
    and one event loop after another. Connections are opened on first use, closed by `aclose()`, by `async with`, or
    when their event loop ends. Raises ValueError for options that make no sense.
    """

    _modules = ("anthropic.resources.messages",)
    _needs = "Anthropic's SDK: pip install 'rlm-wasm[anthropic]'"
    _decided = frozenset({"model", "messages", "system", "stream"})

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,  # reasoning models think for minutes before they say a word
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        address = base_url or os.environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
        super().__init__(model, Server(address, ("ANTHROPIC_API_KEY",)), api_key, timeout, parameters)

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Ask once. `max_output_tokens` also counts what the model thinks.

        With `tool` it is the one tool offered, whatever `parameters` say; without it a reply has no calls. `on_text` is
        that of `StreamingClient`.

        Raises `ClientError` for anything that is not a reply, with status 400 where the prompt does not fit the
        model's window; the SDK's error is its `__cause__`. No text of either holds the key.
        """
        async with self._opened() as sdk:
            telling = Telling(on_text)
            body = await self._ask(sdk, self._request(messages, max_output_tokens, tool), telling)
            reply = _read_reply(body, messages, tool)
        telling.finish(reply.text)
        return reply

    def _open(self, key: str) -> AsyncAnthropic:
        import anthropic

        # As in OpenAIClient: a server that is there accepts within seconds, and no proxy reaches this machine.
        return anthropic.AsyncAnthropic(
            api_key=key,
            base_url=self._server.base_url,
            timeout=anthropic.Timeout(None, connect=10),
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(trust_env=not self._server.is_local),
        )

    def _request(
        self, messages: Sequence[Message], max_output_tokens: int | None, tool: Tool | None
    ) -> dict[str, object]:
        extra = dict(self._parameters)
        own = extra.pop("max_tokens", None)
        limits = [limit for limit in (own, max_output_tokens) if isinstance(limit, int)]
        system = [_block(each.content) for each in messages if each.role == "system"]
        name = (tool or RUN_PYTHON).name
        chat = [
            (
                "assistant" if turn[0].role == "assistant" else "user",
                [it for each in turn for it in _blocks(each, name)],
            )
            for turn in turns(messages)
        ]
        if tool is not None:
            extra["tools"] = [{"name": name, "description": tool.description, "input_schema": dict(ARGUMENTS)}]
        if system:
            system[-1] |= _CACHED
        if len(messages) > 1 and chat and chat[-1][0] == "user":
            chat[-1][1][-1] |= _CACHED
        request: dict[str, object] = {
            "model": self._model,
            "messages": [{"role": role, "content": blocks} for role, blocks in chat],
            "max_tokens": min(limits, default=_OUTPUT_TOKENS),
            # extra_body, because the SDK's own arguments do not know what is newer than it.
            "extra_body": extra,
        }
        return request | ({"system": system} if system else {})

    async def _ask(self, sdk: AsyncAnthropic, request: Mapping[str, Any], telling: Telling) -> bytes:
        untyped: Any = sdk
        create = untyped.messages.with_raw_response.create
        deadline = self._deadline()
        if telling.is_wanted:
            answer = await self._before(deadline, create(**request, stream=True))
            return await self._hear(answer.http_response, deadline, _Hearing(telling))
        answer = await self._before(deadline, create(**request))
        return answer.http_response.content

    def _failure(self, error: Exception) -> Failure | None:
        import anthropic

        match error:
            case anthropic.APIStatusError():
                return self._refused(error.status_code, error.response.headers, error.response.text)
            case anthropic.APIConnectionError():
                return broken(self._server.host, error.__cause__ or error)
            case _:
                return None


class _Block(msgspec.Struct):
    # Thinking and whatever else is newer have other fields, and are no part of the reply.
    type: str
    text: str = ""
    id: str | None = None
    input: Any = None


class _Body(msgspec.Struct):
    content: list[msgspec.Raw]
    stop_reason: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Counts(msgspec.Struct):
    input_tokens: _Count
    output_tokens: _Count
    cache_creation_input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str | None = None
    stop_reason: str | None = None


class _Begun(msgspec.Struct):
    usage: dict[str, Any] | None = None


class _Trouble(msgspec.Struct):
    type: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Begun | None = None
    content_block: dict[str, Any] | None = None
    delta: _Delta | None = None
    usage: dict[str, Any] | None = None
    error: _Trouble | None = None


class _Hearing:
    """The events of a stream, put together to the body that the message would have been without one."""

    def __init__(self, telling: Telling) -> None:
        self.is_whole = False
        self._telling = telling
        self._blocks: dict[int, dict[str, Any]] = {}
        self._grown: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._stop_reason: str | None = None

    def hear(self, event: str) -> bool:
        try:
            told = msgspec.json.decode(event, type=_Event)
            text = self._take(told)
        except (*NOT_JSON, KeyError) as error:
            why = f"an event of the answer is none of Anthropic's ({error!r}): {shown(event[:8000])}"
            raise ClientError(why, status=200) from error
        if told.error:
            # An error that has a status of its own where there is no stream.
            status = _STATUS.get(told.error.type or "", 200)
            raise ClientError(f"the answer broke off: {complaint(event[:8000])}", status=status)
        self._telling.tell(text)
        return told.type == "message_stop"

    def body(self) -> bytes:
        for place, pieces in self._grown.items():
            block, grown = self._blocks[place], "".join(pieces)
            field = _GROWING.get(block["type"])
            if grown and field:
                block[field] = grown if field == "input" else block.get(field, "") + grown
        content = [self._blocks[place] for place in sorted(self._blocks)]
        return msgspec.json.encode({"content": content, "stop_reason": self._stop_reason, "usage": self._usage or None})

    def _take(self, told: _Event) -> str:
        """Put an event to the others; the text that is new."""
        counts = (told.message and told.message.usage) or told.usage or {}
        self._usage |= {name: count for name, count in counts.items() if count is not None}
        if told.content_block is not None:
            self._blocks[told.index] = {"type": "", **told.content_block}
            self._grown[told.index] = []
        if (delta := told.delta) is not None:
            self._stop_reason = delta.stop_reason or self._stop_reason
            if told.type == "content_block_delta":
                self._grown[told.index].append(delta.text or delta.thinking or delta.partial_json)
            if delta.signature is not None:
                self._blocks[told.index]["signature"] = delta.signature
        self.is_whole = self._stop_reason is not None or told.type == "message_stop"
        return told.delta.text if told.delta else ""


def _block(text: str) -> dict[str, object]:
    return {"type": "text", "text": sendable(text)}


def _blocks(message: Message, name: str) -> list[dict[str, object]]:
    """A message as the API has it; `name` is the tool's."""
    if message.role == "tool":
        content = sendable(message.content)
        return [{"type": "tool_result", "tool_use_id": message.answers, "content": content}]
    text = [_block(message.content)] if message.content.strip() or not message.calls else []
    # The thoughts before the first call were before the text too, if there were any.
    images: list[dict[str, object]] = [{"type": "image", "source": _source(image)} for image in message.images]
    blocks = [*(_thoughts(message.calls[0]) if message.calls else ()), *images, *text]
    for place, call in enumerate(message.calls):
        blocks += _thoughts(call) if place else ()
        blocks.append({"type": "tool_use", "id": call.id, "name": name, "input": {"code": encodable(call.code)}})
    return blocks


def _source(image: Image) -> dict[str, object]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.base64}


def _thoughts(call: ToolCall) -> list[dict[str, object]]:
    """The blocks of thinking before a call. Another provider's call has none."""
    vendor, _, written = call.signature.partition(" ")
    return json.loads(written) if vendor == _VENDOR else []


def _calls(answer: Iterable[tuple[_Block, msgspec.Raw]]) -> Iterator[tuple[str | None, object, str]]:
    # With thinking on, the API refuses the result of a call whose thoughts are not given back to the letter.
    thoughts: list[str] = []
    for block, raw in answer:
        if block.type in ("thinking", "redacted_thinking"):
            thoughts.append(bytes(raw).decode())
        elif block.type == "tool_use":
            yield block.id, block.input, f"{_VENDOR} [{','.join(thoughts)}]" if thoughts else ""
            thoughts = []


def _read_reply(body: bytes, messages: Sequence[Message], tool: Tool | None) -> Reply:
    """The reply in the body of an answer with status 200. Raises `ClientError` if there is none."""
    start = body[:8000].decode(errors="replace")
    try:
        answer = msgspec.json.decode(body, type=_Body)
        content = [(msgspec.json.decode(raw, type=_Block), raw) for raw in answer.content]
    except NOT_JSON as error:
        raise ClientError(f"the answer is no message of Anthropic's ({error}): {shown(start)}", status=200) from error
    reason = answer.stop_reason
    if reason == "refusal":
        raise ClientError("the model refused to answer", status=200)
    calls = called(_calls(content) if tool else (), messages)
    texts = [block.text for block, _ in content if block.type == "text"]
    text = "".join(texts)
    if not calls and (not texts or (not text and reason == "max_tokens")):
        hint = " (the output tokens were used up, perhaps by thinking)" if reason == "max_tokens" else ""
        raise ClientError(f"the reply has no text, stop_reason {reason!r}{hint}", status=200)
    try:
        counts = msgspec.json.decode(answer.usage, type=_Counts)
    except NOT_JSON:
        return uncounted(text, messages, calls)
    writes, reads = counts.cache_creation_input_tokens or 0, counts.cache_read_input_tokens or 0
    asked = counts.input_tokens + writes + reads
    return Reply(text, asked, counts.output_tokens, calls=calls, cache_reads=reads, cache_writes=writes)
