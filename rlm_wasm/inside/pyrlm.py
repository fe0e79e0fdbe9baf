"""What pyrlm-runtime offers in its REPL beside `rlm_documents` and `rlm_asking`: `P`, `ctx`, and calls in batches."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlm_host
from rlm_documents import Context

__all__ = ["lenP", "llm_batch", "llm_query", "llm_query_batch"]


def _equip() -> None:
    names = rlm_host.namespace()
    given = names.get("context")
    if isinstance(given, dict):
        given = [(str(key), str(value)) for key, value in given.items()]
    several = isinstance(given, (list, tuple))
    ctx = Context.from_documents(given) if several else Context.from_text("" if given is None else str(given))
    names.update(P=ctx.text, ctx=ctx)
    rlm_host.protect("P")
    rlm_host.protect("ctx")


_equip()


def lenP() -> int:  # the name that it has there
    """How many characters the text has."""
    return len(rlm_host.namespace()["P"])


def llm_query(text: str, model: str | None = None, max_tokens: int | None = None) -> str:
    """Ask a sub model."""
    return rlm_host.llm_query(text, model, max_tokens)


def llm_batch(prompts: Sequence[str], model: str | None = None, max_tokens: int | None = None) -> list[str]:
    """Ask a sub model many prompts at once; answers in order."""
    return rlm_host.llm_query_batched(list(prompts), model, max_tokens)


def llm_query_batch(
    chunks: Sequence[str], model: str | None = None, max_tokens: int | None = None, parallel: Any = None
) -> list[str]:
    """The same; `parallel` is the host's to choose here."""
    return llm_batch(chunks, model, max_tokens)
