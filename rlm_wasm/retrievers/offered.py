"""What of a retriever the code in a sandbox may call: its searches and its documents, as host functions.

Believes no argument: each is checked and bounded here. What a back end says of a failure stays on the host, because it
may hold addresses and keys. Knows nothing of budgets, or of how a call gets here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from rlm_wasm.errors import FunctionError
from rlm_wasm.retrievers.protocol import Filters, FilterValue, Hit, HybridRetriever, Retriever, VectorRetriever

# more than any question has; a document as a query would be slow in every back end
MAX_QUERY_CHARS = 10_000
MAX_HITS = 1_000
# for an id, and for the names and texts in filters
MAX_NAME_CHARS = 1_000
MAX_FILTERS = 32
MAX_FILTER_VALUES = 1_000

HostFunction = Callable[..., Awaitable[Any]]
_Search = Callable[[str, int, Filters | None], Awaitable[list[Hit]]]
_Answer = TypeVar("_Answer")


def offered(retriever: Retriever) -> dict[str, HostFunction]:
    """The host functions of a retriever by the names that cells know.

    `search(query, k=10, filters=None)` is a list of dicts with id, score, preview and metadata, best first;
    `get_document(id)` is a dict with id, text and metadata, or None; `vector_search` and `hybrid_search` are there if
    the back end has them. All raise FunctionError with a text of ours.
    """

    async def get_document(id: object) -> dict[str, Any] | None:
        """The document with this id: a dict with id, text and metadata, or None"""
        document = await _asked(retriever.get(_checked_text(id, "id", MAX_NAME_CHARS)))
        return None if document is None else msgspec.structs.asdict(document)

    functions: dict[str, HostFunction] = {
        "search": _searching(retriever.search, "Find documents by their words"),
        "get_document": get_document,
    }
    if isinstance(retriever, VectorRetriever) and retriever.has_vectors:
        functions["vector_search"] = _searching(retriever.vector_search, "Find documents by their meaning")
    if isinstance(retriever, HybridRetriever) and retriever.has_vectors:
        functions["hybrid_search"] = _searching(retriever.hybrid_search, "Find documents by words and meaning")
    return functions


def _searching(ask: _Search, purpose: str) -> HostFunction:
    async def search(query: object, k: object = 10, filters: object = None) -> list[dict[str, Any]]:
        text, count, checked = _checked_text(query, "query", MAX_QUERY_CHARS), _checked_count(k), _checked(filters)
        hits = await _asked(ask(text, count, checked))
        return [msgspec.structs.asdict(hit) for hit in hits[:count]]

    search.__doc__ = f"{purpose}: a list of at most k dicts with id, score, preview and metadata, best first"
    return search


async def _asked(answer: Awaitable[_Answer]) -> _Answer:
    try:
        return await answer
    except FunctionError:
        # of a caller's own retriever: a text that is meant for the cell
        raise
    except Exception as error:
        raise FunctionError(f"the collection could not be searched ({type(error).__name__})") from error


def _checked_text(text: object, name: str, allowed: int) -> str:
    if not isinstance(text, str):
        raise FunctionError(f"{name} must be a str, not {type(text).__name__}")
    if len(text) > allowed:
        raise FunctionError(f"{name} has {len(text):,} characters; at most {allowed:,} are taken")
    return text


def _checked_count(k: object) -> int:
    if not isinstance(k, int) or isinstance(k, bool):
        raise FunctionError(f"k must be an int, not {type(k).__name__}")
    if not 1 <= k <= MAX_HITS:
        raise FunctionError(f"k must be 1 to {MAX_HITS:,}")
    return k


def _checked(filters: object) -> Filters | None:
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise FunctionError(f"filters must be a dict from field to value, not {type(filters).__name__}")
    fields = cast("Mapping[object, object]", filters)
    if len(fields) > MAX_FILTERS:
        raise FunctionError(f"filters has {len(fields):,} fields; at most {MAX_FILTERS} are taken")
    return {_checked_text(field, "a field of filters", MAX_NAME_CHARS): _wanted(fields[field]) for field in fields}


def _wanted(value: object) -> FilterValue | list[FilterValue]:
    if not isinstance(value, (list, tuple)):
        return _checked_value(value)
    values = cast("Sequence[object]", value)
    if len(values) > MAX_FILTER_VALUES:
        raise FunctionError(f"a filter has {len(values):,} values; at most {MAX_FILTER_VALUES:,} are taken")
    return [_checked_value(each) for each in values]


def _checked_value(value: object) -> FilterValue:
    if isinstance(value, str):
        return _checked_text(value, "a filter's value", MAX_NAME_CHARS)
    if isinstance(value, float) and not math.isfinite(value):
        raise FunctionError("a filter's value must be finite")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise FunctionError("a filter's value must fit 64 bits")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise FunctionError(f"a filter's value must be a str, a number, a bool or None, not {type(value).__name__}")
