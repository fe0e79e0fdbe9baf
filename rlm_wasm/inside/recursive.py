"""For pyrlm-runtime's `recursive_subcalls`: calls of sub models are children, each with a REPL of its own."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlm_host
from rlm_given import PARALLEL, SUB_MODEL

__all__ = ["ask", "ask_chunks", "llm_batch", "llm_query", "llm_query_batch"]

TASK = "The context is a prompt: a task, and perhaps text that it is about. Do the task."


def llm_query(text: str, model: str | None = None, max_tokens: int | None = None) -> str:
    """Give a prompt to a child; how long its answer is, is its own affair."""
    return ask(TASK, text, model)


def llm_batch(prompts: Sequence[str], model: str | None = None, max_tokens: int | None = None) -> list[str]:
    """Give many prompts to as many children at once; answers in order."""
    return ask_chunks(TASK, prompts, model, True)


def llm_query_batch(
    chunks: Sequence[str], model: str | None = None, max_tokens: int | None = None, parallel: Any = None
) -> list[str]:
    """The same; with a number in `parallel` at most so many at a time, with False one by one."""
    return ask_chunks(TASK, chunks, model, parallel)


def ask(question: str, text: str, model: str | None = None, *, max_tokens: int | None = None) -> str:
    """A child's answer to a question from a text."""
    return str(rlm_host.rlm_query(question, text, model or SUB_MODEL or None))


def ask_chunks(
    question: str,
    chunks: Sequence[str],
    model: str | None = None,
    parallel: Any = None,
    *,
    max_tokens: int | None = None,
) -> list[str]:
    """The answers of as many children to a question from each of `chunks`; `parallel` as in `llm_query_batch`."""
    chunks = list(chunks)
    if parallel is None:
        parallel = bool(PARALLEL)
    size = max(1, len(chunks) if parallel is True else int(parallel))
    answers: list[str] = []
    for first in range(0, len(chunks), size):
        batch = chunks[first : first + size]
        found = rlm_host.rlm_query_batched([question] * len(batch), batch, model or SUB_MODEL or None)
        answers += [str(answer) for answer in found]
    return answers
