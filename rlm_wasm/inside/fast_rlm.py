"""What fast-rlm offers in its REPL: children that are awaited, alone or several at once."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import inspect
import textwrap
from collections.abc import Awaitable
from typing import Any

import rlm_host
from rlm_given import SHRINK_FROM, SHRINK_TO_PERCENT, SUB_MODEL

__all__ = ["batch_llm_query", "llm_query"]

_TASK = "Do the task that `context` states, with the data that stands in it."
_confirmed: set[str] = set()


async def llm_query(context: Any, schema: Any = None, *, tools: Any = None, instruction: str | None = None) -> Any:
    """A whole child over `context`: its answer, which fits the JSON Schema `schema` if there is one.

    `tools` are functions that it is to have: those that a cell has defined travel as their source, and stand alone
    there; the host's it has anyway. The first time that a child is to be given most of this one's own context it is
    refused: asked again, it is done.
    """
    own, given = len(str(rlm_host.namespace().get("context", ""))), str(context)
    # a child that is given nearly all that its parent has makes no progress
    if len(given) >= SHRINK_FROM and 100 * len(given) >= SHRINK_TO_PERCENT * own and given not in _confirmed:
        _confirmed.add(given)
        raise ValueError(
            f"this child would get {len(given):,} of your {own:,} characters: give it less, or ask the same again if "
            "you mean it"
        )
    sources = [_source(tool) for tool in tools or () if not _is_of_the_host(tool)]
    more = {"tools": sources} if sources else {}
    return await asyncio.to_thread(
        rlm_host.rlm_query, instruction or _TASK, context, model=SUB_MODEL or None, schema=schema, **more
    )


def _is_of_the_host(tool: Any) -> bool:
    return getattr(rlm_host, getattr(tool, "__name__", ""), rlm_host) is tool


def _source(tool: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(tool))
    except (OSError, TypeError):
        raise ValueError(f"tools= takes functions that were made by `def` in a cell, and {tool!r} was not") from None


async def batch_llm_query(*calls: Awaitable[Any]) -> list[Any]:
    """The answers of several calls of `llm_query`, made at once, in their order."""
    several = calls[0] if len(calls) == 1 and isinstance(calls[0], (list, tuple)) else calls
    return list(await asyncio.gather(*several))
