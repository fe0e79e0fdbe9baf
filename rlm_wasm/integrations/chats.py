"""The chat-completions protocol as far as it is answered: what is asked, what of it is context, and the replies.

Decides without I/O. The specification is OpenAI's API reference, "Chat"; an answer has one field more, `rlm`, which
says how it was got.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from rlm_wasm.clients.protocol import Message
from rlm_wasm.limits import Usage

# Characters of messages that stand in a question; what is longer is context, and the question has its two ends.
TOLD_CHARS = 8000
_END_CHARS = 1500

Answered: TypeAlias = Literal["plain", "rlm"]


class Refused(Exception):
    """A request that has no answer: the HTTP status, and what stands in the error that its client gets."""

    def __init__(self, status: int, message: str, code: str, *, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code, self.kind = status, code, kind

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}}


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Said(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Schema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[_Said]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: int | None = 1
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: _Format | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None


class Chat(msgspec.Struct, frozen=True):
    """A request that can be answered. `schema`: the JSON Schema that the answer must fit, None for any text."""

    model: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    max_output_tokens: int | None
    schema: dict[str, Any] | None

    @property
    def chars(self) -> int:
        """Characters of all messages together."""
        return sum(len(message.content) for message in self.messages)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to, by a plain call or by a run; `stopped_by` as in `Completion`."""

    text: str
    route: Answered
    stopped_by: str
    usage: Usage
    iterations: int = 0

    def how(self) -> dict[str, Any]:
        """The field `rlm` of a response."""
        return {
            "route": self.route,
            "stopped_by": self.stopped_by,
            "iterations": self.iterations,
            "calls": self.usage.calls,
            "usd": self.usage.usd,
        }

    @property
    def finish_reason(self) -> str:
        """As the protocol has it: a limit is a length that was reached."""
        return "stop" if self.stopped_by == "final" else "length"


def read(body: bytes) -> Chat:
    """The request in a body. Raises Refused for what is none, or asks for what is not offered here."""
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the request cannot be read: {str(error)[:500]}", "invalid_request") from None
    for name, wanted in {
        "tools": request.tools,
        "functions": request.functions,
        "n above 1": (request.n or 1) > 1,
    }.items():
        if wanted:
            raise Refused(400, f"{name}: not offered here", "unsupported_parameter")
    most = request.max_completion_tokens or request.max_tokens
    if most is not None and most < 1:
        raise Refused(400, "max_completion_tokens must be above 0", "invalid_request")
    messages = tuple(map(_message, request.messages))
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise Refused(400, "there is no message of a user with text in it", "invalid_request")
    options = request.stream_options
    return Chat(
        model=request.model,
        messages=messages,
        stream=bool(request.stream),
        include_usage=options is not None and options.include_usage,
        max_output_tokens=most,
        schema=_schema(request.response_format),
    )


def _schema(wanted: _Format | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.type != "json_schema" or wanted.json_schema is None or wanted.json_schema.schema is None:
        raise Refused(400, f"response_format {wanted.type[:100]!r}: not offered here", "unsupported_parameter")
    return wanted.json_schema.schema


def _message(said: _Said) -> Message:
    content = said.content or ""
    if not isinstance(content, str):
        other = next((part.type for part in content if part.type not in ("text", "refusal")), None)
        if other is not None:
            raise Refused(400, f"a part of type {other[:100]!r}: text alone is taken here", "unsupported_content")
        content = "\n".join(part.text for part in content)
    match said.role:
        case "system" | "developer":
            return Message("system", content)
        case "user":
            return Message("user", content)
        case "assistant":
            return Message("assistant", content)
        case _:
            raise Refused(400, f"a message of role {said.role[:100]!r}: not taken here", "unsupported_role")


class Task(msgspec.Struct, frozen=True):
    """A conversation as an RLM takes it."""

    question: str
    context: object


def as_task(messages: Sequence[Message]) -> Task:
    """The last message of the user as the question, all before it as the context; what comes after it is left out.

    Instructions (system messages) stand in the question, and in the context too where there is more. A context of one
    message is its text, of several a list of dicts with `role` and `content`. A last message that is too long for a
    question is the end of the context, and the question has its beginning and its end.
    """
    last = max(number for number, message in enumerate(messages) if message.role == "user" and message.content.strip())
    asked, before = messages[last].content, [message for message in messages[:last] if message.content]
    instructions = "\n\n".join(message.content for message in before if message.role == "system")
    parts: list[str] = []
    if len(instructions) > TOLD_CHARS:
        parts.append(f"Instructions, shortened here and whole in `context`:\n{_ends(instructions)}")
    else:
        before = [message for message in before if message.role != "system"]
        parts += [f"Instructions:\n{instructions}"] if instructions else []
    if len(asked) > TOLD_CHARS:
        before.append(messages[last])
        where = "`context`" if len(before) == 1 else "the last message of `context`"
        parts.append(f"Do what the user's message asks. It is long: all of it is {where}.\n{_ends(asked)}")
    else:
        parts += [f"Question:\n{asked}" if parts else asked]
    if len(before) == 1:
        return Task("\n\n".join(parts), before[0].content)
    told = [{"role": message.role, "content": message.content} for message in before]
    return Task("\n\n".join(parts), told or None)


def _ends(text: str) -> str:
    return f"It begins:\n{text[:_END_CHARS]}\n\nIt ends:\n{text[-_END_CHARS:]}"


def response(chat: Chat, answer: Answer) -> dict[str, Any]:
    """The body of a response that comes whole."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return {
        **_head("chat.completion", chat.model, new_id()),
        "choices": [choice],
        "usage": _usage(answer.usage),
        "rlm": answer.how(),
    }


def new_id() -> str:
    """An id for a response; the chunks of one have it in common."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def piece(chat: Chat, id: str, text: str, *, first: bool) -> dict[str, Any]:
    """A chunk with a piece of the answer's text."""
    delta = {"role": "assistant", "content": text} if first else {"content": text}
    return _chunk(chat, id, [{"index": 0, "delta": delta, "finish_reason": None}])


def ending(chat: Chat, id: str, answer: Answer) -> list[dict[str, Any]]:
    """The chunks that end a stream: why it ended and how it was got, then the usage where it was asked for."""
    last = _chunk(chat, id, [{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}])
    chunks = [{**last, "rlm": answer.how()}]
    if chat.include_usage:
        chunks.append({**_chunk(chat, id, []), "usage": _usage(answer.usage)})
    return chunks


def models(names: Sequence[str]) -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": [model(name) for name in names]}


def model(name: str) -> dict[str, Any]:
    """One model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "rlm_wasm"}


def _chunk(chat: Chat, id: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_head("chat.completion.chunk", chat.model, id), "choices": choices}


def _head(kind: str, model: str, id: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def _usage(usage: Usage) -> Mapping[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
