"""What a retriever is: a question goes in, the documents that fit it best come out.

For collections that are too many or too large to be loaded as `context`. Knows nothing of the REPL, and of no back end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

FilterValue = str | int | float | bool | None
# A field of the metadata to the value that it must have, or to a list of which it must have one. A field that holds a
# list has each of its values; None is a field that is not there, or null.
Filters = Mapping[str, FilterValue | Sequence[FilterValue]]

Vectors = Sequence[Sequence[float]]
# Texts (N) to as many vectors, in order and all of one length; sync or async.
Embed = Callable[[list[str]], Vectors | Awaitable[Vectors]]


class Hit(msgspec.Struct, frozen=True):
    """A document that was found.

    `score` is comparable within one list of hits only; higher is better. `preview` is plain text of some hundred
    characters, around the match where there is one.
    """

    id: str
    score: float
    preview: str
    metadata: dict[str, Any] = {}


class Document(msgspec.Struct, frozen=True):
    """One text of a collection, as a whole, with its JSON-like metadata."""

    id: str
    text: str
    metadata: dict[str, Any] = {}


class Retriever(Protocol):
    """Finds documents by their words. May be shared by many runs, one event loop after another, and called at once."""

    async def search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents that pass the `filters`, best first. Any text is a query.

        Raises `RetrieverError` if the collection cannot be searched.
        """
        ...

    async def get(self, id: str) -> Document | None:
        """The document with this id, None if there is none. Raises `RetrieverError` as `search` does."""
        ...


@runtime_checkable
class VectorRetriever(Protocol):
    """Finds documents by meaning too. `has_vectors` is False where it was made without what it takes."""

    @property
    def has_vectors(self) -> bool: ...

    async def vector_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """As `search`, by the cosine similarity of vectors. Raises ValueError without `has_vectors`."""
        ...


@runtime_checkable
class HybridRetriever(Protocol):
    """Finds documents by words and meaning at once. `has_vectors` as for a `VectorRetriever`."""

    @property
    def has_vectors(self) -> bool: ...

    async def hybrid_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """As `search`, by words and vectors. Raises ValueError without `has_vectors`."""
        ...
