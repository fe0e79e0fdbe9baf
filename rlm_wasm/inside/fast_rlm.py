"""What fast-rlm offers in its REPL: children that are awaited, alone or several at once."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import rlm_host

__all__ = ["batch_llm_query", "llm_query"]

_TASK = "Do the task that `context` states, with the data that stands in it."
# a child that is given nearly all that its parent has makes no progress
_MUST_SHRINK_TO = 0.6
_confirmed: set[str] = set()


async def llm_query(context: Any, schema: Any = None, *, tools: Any = None, instruction: str | None = None) -> Any:
    """A whole child over `context`: its answer, which fits the JSON Schema `schema` if there is one.

    The first time that a child is to be given most of this one's own context it is refused: asked again, it is done.
    """
    if tools:
        raise ValueError("tools= is not to be had here: the child has the functions that you have")
    own, given = len(str(rlm_host.namespace().get("context", ""))), str(context)
    if len(given) > 1000 and len(given) >= _MUST_SHRINK_TO * own and given not in _confirmed:
        _confirmed.add(given)
        raise ValueError(
            f"this child would get {len(given):,} of your {own:,} characters: give it less, or ask the same again if "
            "you mean it"
        )
    return await asyncio.to_thread(rlm_host.rlm_query, instruction or _TASK, context, schema=schema)


async def batch_llm_query(*calls: Awaitable[Any]) -> list[Any]:
    """The answers of several calls of `llm_query`, made at once, in their order."""
    several = calls[0] if len(calls) == 1 and isinstance(calls[0], (list, tuple)) else calls
    return list(await asyncio.gather(*several))
