"""A model's reply as JSON: asked for, found among prose and fences, checked against a schema, and asked for again.

Owns the words of that question, and the part of JSON Schema that is checked. Model calls go through `rlm_host`, whose
errors (FunctionError, LimitExceeded) pass through here. Knows nothing of the host.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from rlm_host import llm_query
from rlm_schemas import fault as _fault

__all__ = ["llm_query_json"]

fault = cast("Callable[[Any, Any], str | None]", _fault)
_llm_query = cast("Callable[..., str]", llm_query)

_SHOWN_REPLY = 4000
# characters that are read in all when JSON is looked for, so that a reply full of brackets ends in time
_MOST_READ = 1_000_000
# as deep as a value may be that is sent out of the sandbox
_DEEPEST = 100


class ReplyError(ValueError):
    """No reply held the JSON that was asked for. `reply` is the last of them, whole."""

    def __init__(self, message: str, reply: str) -> None:
        super().__init__(message)
        self.reply = reply


def llm_query_json(
    prompt: str,
    schema: dict[str, Any] | bool | None = None,
    model: str | None = None,
    attempts: int = 3,
    *,
    images: Any = None,
) -> Any:
    """The JSON value in a model's reply to `prompt`, which fits the JSON Schema if one is given.

    The model is told the schema, and of a reply that does not fit it what is wrong; then it is asked again, at most
    `attempts` times in all. Raises ValueError that holds the last reply. Of JSON Schema the keywords in `fault` count.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1; it is {attempts}")
    told = f"{prompt}\n\nReply with one JSON value and nothing else."
    if schema is not None:
        told += f" It has to fit this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    asked, reply, wrong = told, "", ""
    for _ in range(attempts):
        reply = _llm_query(asked, model, **({} if images is None else {"images": images}))
        try:
            return json_in(reply, schema)
        except ReplyError as error:
            wrong = str(error)
        asked = (
            f"{told}\n\nThis reply was refused, because {wrong}:\n<reply>\n{_cut(reply)}\n</reply>\n"
            "Correct it, and reply with the JSON value alone."
        )
    raise ReplyError(f"after {attempts} attempts {wrong}; the last reply: {_cut(reply)}", reply)


def json_in(reply: str, schema: Any = None) -> Any:
    """The JSON value in a reply: the whole of it, what is in a fence, or what stands amid prose; the first that fits.

    Raises ReplyError, a ValueError, that says what is wrong with the likeliest.
    """
    first: str | None = None
    for value in _candidates(reply):
        wrong = None if schema is None else fault(value, schema)
        if wrong is None:
            return value
        first = first or wrong
    raise ReplyError(first or "there is no JSON value in it", reply)


def _candidates(reply: str) -> Iterator[Any]:
    """The JSON values in a reply, likeliest first: all of it, the fences from the last, then the longest in prose."""
    text = reply.rpartition("</think>")[2].strip()
    fences = re.findall(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    for whole in (text, *fences[::-1]):
        try:
            value = _decoded(whole.strip())
        except ValueError:
            continue
        yield value
    # sorted() keeps the order of equals
    for _, value in sorted(_within(text), key=lambda found: -found[0]):
        yield value


def _within(text: str) -> Iterator[tuple[int, Any]]:
    """The outermost objects and arrays in a text, each with its length in characters."""
    read = at = 0
    while read < _MOST_READ and (opening := _OPENING.search(text, at)):
        at = opening.start()
        end, closed = _extent(text, at)
        read += end - at
        try:
            # what is not closed need not be read
            value = _decoder.decode(text[at:end] if closed else "")
        except ValueError:
            at += 1
        else:
            yield end - at, value
            at = end


def _decoded(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, or is nested too deeply."""
    if _OPENING.match(text) and _extent(text, 0) != (len(text), True):
        raise ValueError("this is more than one value, or less")
    return _decoder.decode(text)


def _extent(text: str, at: int) -> tuple[int, bool]:
    """Where the bracket at an offset is closed; or how far one read, and False, if it is not or nesting is too deep.

    The decoder recurses in C, and in WebAssembly the end of that stack is the end of the interpreter.
    """
    depth = 0
    for mark in _MARK.finditer(text, at):
        if mark[0] in "{[":
            depth += 1
        elif mark[0] in "}]":
            depth -= 1
        if depth == 0 or depth > _DEEPEST:
            return mark.end(), depth == 0
    return len(text), False


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_OPENING = re.compile(r"[{\[]")
# a bracket, or a whole string, in which brackets do not count
_MARK = re.compile(r'[{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_decoder = json.JSONDecoder(parse_constant=_no_constant)


def _cut(reply: str) -> str:
    left_out = len(reply) - _SHOWN_REPLY
    return reply if left_out <= 0 else f"{reply[:_SHOWN_REPLY]} [... {left_out:,} characters left out]"


# --- JSON Schema ---------------------------------------------------------------------------------------------------
