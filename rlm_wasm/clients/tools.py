"""A native tool as servers know it: how its argument is described, what a call of it says, and to whom it is offered.

The words of each vendor's API are the business of that vendor's client.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Any

from rlm_wasm.clients.protocol import Client, Message, ToolCall
from rlm_wasm.clients.texts import encodable
from rlm_wasm.prompts import Tool

ARGUMENTS: Mapping[str, Any] = MappingProxyType(
    {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
)
"""The JSON Schema of a tool's arguments: one text, `code`."""

_JSON = json.JSONDecoder(strict=False)  # models write raw line ends into JSON strings


def offered(tool: Tool | None, *clients: Client) -> dict[str, Any]:
    """The argument `tool` for `complete` of each of `clients`, or none: a client that gets no tool need not know of it.

    Raises TypeError where there is a tool and one of them takes none.
    """
    if tool is None:
        return {}
    for client in clients:
        if "tool" not in inspect.signature(client.complete).parameters:
            raise TypeError(
                f"{client!r} offers no native tools, and is to offer {tool.name!r}: wrap a client whose complete() "
                "takes tool=, or let the model write code in fences"
            )
    return {"tool": tool}


def called(calls: Iterable[tuple[str | None, object, str]], messages: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls in a reply to `messages`: the server's number, the arguments as it gave them, and its signature.

    Where the server gives no number, one that no call before has: `call_1`, `call_2`, over the whole conversation.
    """
    first = 1 + sum(len(message.calls) for message in messages)
    return tuple(
        ToolCall(number or f"call_{place}", encodable(_code(arguments)), signature)
        for place, (number, arguments, signature) in enumerate(calls, start=first)
    )


def _code(arguments: object) -> str:
    """The code in a call's arguments; what is no JSON, or has no code, is itself taken for it: models write that."""
    if isinstance(arguments, str):
        try:
            decoded: object = _JSON.decode(arguments)
        except (ValueError, RecursionError):
            return arguments
    else:
        decoded = arguments
    match decoded:
        case str(code) | {"code": str(code)}:
            return code
        case _:
            return arguments if isinstance(arguments, str) else json.dumps(arguments)


def turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages but the system's. What came of calls, one after another, is one turn: so it was asked for."""
    chat = [message for message in messages if message.role != "system"]
    grouped = (list(group) for _, group in groupby(enumerate(chat), _turn))
    return [[message for _, message in group] for group in grouped]


def _turn(placed: tuple[int, Message]) -> int:
    place, message = placed
    return -1 if message.role == "tool" else place
