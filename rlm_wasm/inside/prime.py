"""What Prime Intellect's harness offers in its REPL: calls in batches, and children that are awaited."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import rlm_host

__all__ = ["llm_batch", "rlm"]


def llm_batch(prompts: Sequence[str], model: str | None = None) -> list[str]:
    """Ask sub models many prompts at once; answers in order."""
    return rlm_host.llm_query_batched(list(prompts), model)


async def rlm(task: str, context: Any = None) -> Any:
    """Give a task to a child with a REPL of its own; its answer."""
    return await asyncio.to_thread(rlm_host.rlm_query, task, context)
