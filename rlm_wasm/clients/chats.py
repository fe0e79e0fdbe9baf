"""Reads what a server of chat completions answers, whole or as a stream of chunks.

Knows nothing of addresses, keys and the ways in which a call can fail before there is an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from rlm_wasm.clients.failures import NOT_JSON, complaint, shown
from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.texts import uncounted
from rlm_wasm.clients.tools import called
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Tool


class _Function(msgspec.Struct):
    arguments: Any = ""  # the API says JSON as a text; Ollama and others have given the object itself


class _Called(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Called] | None = None


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str | None = None


class _Counts(msgspec.Struct):
    # A prompt has tokens: 0 is written by servers that do not count.
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1)]
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)]
    prompt_tokens_details: Any = None  # of another form, or missing, at many compatible servers


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | str | None = None


def read_reply(body: bytes, messages: Sequence[Message], tool: Tool | None) -> Reply:
    """The reply in the body of an answer with status 200. Raises `ClientError` if there is none."""
    start = body[:8000].decode(errors="replace")
    try:
        answer = msgspec.json.decode(body, type=_Body)
    except NOT_JSON as error:
        raise ClientError(f"the answer is no chat completion ({error}): {shown(start)}", status=200) from error
    if not answer.choices:
        # OpenRouter reports the errors of those behind it with status 200.
        why = complaint(start) if answer.error else "its list of choices is empty"
        raise ClientError(f"the answer holds no reply: {why}", status=200)
    said, reason = answer.choices[0].message, answer.choices[0].finish_reason
    if said.refusal:
        raise ClientError(f"the model refused to answer: {shown(said.refusal)}", status=200)
    if reason == "content_filter":
        raise ClientError("the server's content filter stopped the reply", status=200)
    # Without a tool of ours the calls are of one that `parameters` offer, or made up.
    made = said.tool_calls or () if tool else ()
    calls = called(((call.id, call.function.arguments, "") for call in made), messages)
    if not calls and (said.content is None or (not said.content and reason == "length")):
        hint = " (the output tokens were used up, perhaps by thinking)" if reason == "length" else ""
        raise ClientError(f"the reply has no text, finish_reason {reason!r}{hint}", status=200)
    text = said.content or ""
    try:
        counts = msgspec.json.decode(answer.usage, type=_Counts)
    except NOT_JSON:
        return uncounted(text, messages, calls)
    match counts.prompt_tokens_details:
        case {"cached_tokens": int(cached)} if 0 < cached <= counts.prompt_tokens:
            reads = cached
        case _:
            reads = 0
    return Reply(text, counts.prompt_tokens, counts.completion_tokens, calls=calls, cache_reads=reads)


class _CallPiece(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _ChoicePiece(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChoicePiece] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | str | None = None


class ChatHearing:
    """The chunks of the first choice, put together to the body that it would have been without a stream."""

    def __init__(self, telling: Telling) -> None:
        self.is_whole = False
        self._telling = telling
        self._choice: _Choice | None = None
        self._usage = msgspec.Raw(b"null")
        self._texts: list[str] = []
        self._calls: dict[int, int] = {}  # from a server's index to the place of its latest call

    def hear(self, event: str) -> bool:
        if event.startswith("[DONE]"):
            self.is_whole = True
            return True
        try:
            chunk = msgspec.json.decode(event, type=_Chunk)
        except NOT_JSON as error:
            why = f"a chunk of the answer is none of a chat completion ({error}): {shown(event[:8000])}"
            raise ClientError(why, status=200) from error
        if chunk.error:
            raise ClientError(f"the answer broke off: {complaint(event[:8000])}", status=200)
        if chunk.usage != b"null":
            self._usage = chunk.usage
        for piece in chunk.choices or ():
            if piece.index == 0:
                self._take(piece)
        return False

    def body(self) -> bytes:
        choices = [] if self._choice is None else [self._choice]
        if choices and self._texts:
            choices[0].message.content = "".join(self._texts)
        return msgspec.json.encode(_Body(choices, self._usage))

    def _take(self, piece: _ChoicePiece) -> None:
        choice = self._choice = self._choice or _Choice(_Said())
        choice.finish_reason = piece.finish_reason or choice.finish_reason
        self.is_whole = choice.finish_reason is not None
        if (delta := piece.delta) is None:
            return
        if delta.content is not None:
            self._texts.append(delta.content)
            self._telling.tell(delta.content)
        if delta.refusal:
            choice.message.refusal = (choice.message.refusal or "") + delta.refusal
        for call in delta.tool_calls or ():
            choice.message.tool_calls = choice.message.tool_calls or []
            self._join(choice.message.tool_calls, call)

    def _join(self, calls: list[_Called], piece: _CallPiece) -> None:
        index = len(calls) if piece.index is None else piece.index
        place = self._calls.get(index)
        # Some servers give every call the index 0, each whole and with a number of its own.
        if place is None or (piece.id and calls[place].id and piece.id != calls[place].id):
            place = self._calls[index] = len(calls)
            calls.append(_Called(_Function(), piece.id))
        call, more = calls[place], piece.function.arguments if piece.function else ""
        call.id = call.id or piece.id
        if not more:
            return
        together = isinstance(more, str) and isinstance(call.function.arguments, str)
        call.function.arguments = call.function.arguments + more if together else more
