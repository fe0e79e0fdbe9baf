"""What pyrlm-runtime offers in its REPL beside `rlm_documents` and `rlm_asking`: `P`, `ctx`, and calls in batches."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rlm_host
from rlm_documents import Context
from rlm_given import PARALLEL, SEPARATOR

__all__ = ["ask_chunks", "ctx", "lenP", "llm_batch", "llm_query", "llm_query_batch"]


def _equip() -> Any:
    names = rlm_host.namespace()
    ctx = Context.of(names.get("context"), SEPARATOR)
    names["P"] = ctx.text
    rlm_host.protect("P")
    return ctx


ctx = _equip()


def _searching(name: str) -> Any:
    def search(query: str, top_k: int = 10, filters: Any = None) -> list[dict[str, Any]]:
        found = getattr(rlm_host, name)(query, top_k, filters)
        return [{("doc_id" if key == "id" else key): value for key, value in hit.items()} for hit in found]

    return search


# where the host has a retriever
for _name in ("search", "vector_search", "hybrid_search"):
    if hasattr(rlm_host, _name):
        globals()[f"es_{_name}"] = _searching(_name)
        __all__.append(f"es_{_name}")  # pyright: ignore[reportUnsupportedDunderAll]
if hasattr(rlm_host, "get_document"):
    __all__.append("es_get")  # pyright: ignore[reportUnsupportedDunderAll]


def es_get(doc_id: str) -> dict[str, Any] | None:
    """A document of the collection: its `doc_id`, `content` and `metadata`; None if there is none."""
    found: dict[str, Any] | None = rlm_host.get_document(doc_id)
    named = {"id": "doc_id", "text": "content"}
    return None if found is None else {named.get(key, key): value for key, value in found.items()}


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
    chunks: Sequence[str], model: str | None = None, max_tokens: int | None = None, parallel: int | bool | None = None
) -> list[str]:
    """The same; with a number in `parallel` at most so many at a time, with False one by one."""
    chunks = list(chunks)
    size = _at_once(len(chunks), parallel)
    answers: list[str] = []
    for first in range(0, len(chunks), size):
        answers += llm_batch(chunks[first : first + size], model, max_tokens)
    return answers


def ask_chunks(
    question: str,
    chunks: Sequence[str],
    model: str | None = None,
    parallel: int | bool | None = None,
    *,
    max_tokens: int | None = None,
) -> list[str]:
    """The answers to `question` from each of `chunks`, in their order; `parallel` as in `llm_query_batch`."""
    # of the library, which is read when it is first used
    import rlm_asking

    chunks = list(chunks)
    return rlm_asking.ask_chunks(question, chunks, model, _at_once(len(chunks), parallel), max_tokens=max_tokens)


def _at_once(number: int, parallel: int | bool | None) -> int:
    if parallel is None:
        parallel = bool(PARALLEL)
    return max(1, number if parallel is True else int(parallel))
