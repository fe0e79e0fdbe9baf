"""A retriever over an index of Elasticsearch, through its official client.

Owns the requests that are made and what of an answer is believed. The client carries the bytes and asks again where a
node fails; it is an extra, imported on first use. Knows nothing of how the index was made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from anyio import fail_after
from anyio.abc import AsyncResource

from rlm_wasm.clients.connections import Connections, host_of
from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers.filters import Wanted, wanted
from rlm_wasm.retrievers.fusion import depth, fused
from rlm_wasm.retrievers.protocol import Document, Embed, Filters, Hit
from rlm_wasm.retrievers.terms import MAX_WORDS, terms_of
from rlm_wasm.retrievers.vectors import embedded
from rlm_wasm.sandbox.values import well_formed

if TYPE_CHECKING:
    from elasticsearch import AsyncElasticsearch

_PREVIEW_CHARS = 400
# what Elasticsearch reads of a text at most to find the match in it; of a longer one it would refuse the request
_ANALYZED_CHARS = 1_000_000
# neighbours that each shard looks at: more find better ones, and 10,000 is the most that is taken
_MIN_CANDIDATES, _MAX_CANDIDATES = 100, 10_000


class ElasticsearchRetriever(AsyncResource):
    """A `Retriever` over an index, or over what an alias or a pattern of names stands for.

    `client_or_url` is an `elasticsearch.AsyncElasticsearch` of the caller's, who closes it, or the address of a
    cluster, http or https, to which `api_key` is sent; under trio a client must be made with `node_class="httpxasync"`,
    as those for an address are. `text_field` holds the text; all other fields but `vector_field` are metadata, and
    filters are on them. `keyword_suffix` is put behind the fields that are filtered by a text: ".keyword" for an index
    whose mapping Elasticsearch has made by itself.

    With `embed`, the one by which the `dense_vector` field `vector_field` was filled, it is a `VectorRetriever` and a
    `HybridRetriever` too. `timeout` is in seconds, for one search with all its attempts. Connections are closed by
    `aclose()`, by `async with`, or when their event loop ends. Raises ValueError for options that make no sense.
    """

    def __init__(
        self,
        client_or_url: AsyncElasticsearch | str,
        index: str,
        *,
        text_field: str = "content",
        vector_field: str = "embedding",
        keyword_suffix: str = "",
        embed: Embed | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,  # a search takes well under a second, a cold index some
    ) -> None:
        if isinstance(client_or_url, str) and not re.fullmatch(r"https?://[^/\s]\S*", client_or_url):
            raise ValueError(f"the address begins with http:// or https:// and has no space: {client_or_url[:8]!r}...")
        if not index or timeout <= 0:
            raise ValueError("index must be a name, and timeout more than 0 seconds")
        if api_key is not None and not isinstance(client_or_url, str):
            raise ValueError("api_key goes with an address: a client has its own")
        self._server = client_or_url
        self._index = index
        self._text_field, self._vector_field, self._keyword_suffix = text_field, vector_field, keyword_suffix
        self._embed = embed
        self._api_key = api_key
        self._timeout = timeout
        self._connections = Connections(("elasticsearch", "httpx"), self._open, _close)

    @property
    def has_vectors(self) -> bool:
        """True if it was made with `embed`."""
        return self._embed is not None

    async def search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents by the index's own ranking, BM25 if nobody has chosen another. Raises RetrieverError.

        Words are looked for each by itself, what stands in double quotes as a phrase.
        """
        terms = terms_of(query)
        if not terms.words and not terms.phrases:
            return []
        # as it is written, because an analyzer may know more of words than we do
        text = " ".join(terms.words) if terms.phrases else " ".join(well_formed(query).split()[:MAX_WORDS])
        looked_for: list[dict[str, Any]] = [{"match_phrase": {self._text_field: phrase}} for phrase in terms.phrases]
        if terms.words:
            looked_for.append({"match": {self._text_field: {"query": text}}})
        conditions = [self._condition(each) for each in wanted(filters)]
        return await self._hits(k, query={"bool": {"must": [_any_of(looked_for)], "filter": conditions}})

    async def vector_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` nearest documents by the field's similarity. Raises ValueError without `embed`, RetrieverError."""
        if self._embed is None:
            raise ValueError("this ElasticsearchRetriever was made without embed, and has no vectors")
        [vector] = await embedded(self._embed, [well_formed(query)])
        nearest = {
            "field": self._vector_field,
            "query_vector": vector,
            "k": k,
            "num_candidates": min(max(2 * k, _MIN_CANDIDATES), _MAX_CANDIDATES),
            "filter": [self._condition(each) for each in wanted(filters)],
        }
        return await self._hits(k, knn=nearest)

    async def hybrid_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents of both rankings, by reciprocal-rank fusion. Raises as `vector_search` does.

        Fused here: Elasticsearch's own `rrf` retriever is not in its free license.
        """
        by_vectors = await self.vector_search(query, depth(k), filters)
        return fused([await self.search(query, depth(k), filters), by_vectors], k)

    async def get(self, id: str) -> Document | None:
        """The document with this id, None if there is none. Raises RetrieverError."""
        if not id:
            return None
        # not by GET index/_doc/id: an id of a cell's making has no place in a path, and an alias may be many indices
        asked = {"ids": {"values": [well_formed(id)]}}
        found = await self._ask(size=1, query=asked, source={"excludes": [self._vector_field]})
        if not found:
            return None
        fields = dict(found[0].source)
        text = fields.pop(self._text_field, None)
        if not isinstance(text, str):
            raise RetrieverError(f"a document of {self._index!r} has no text in its field {self._text_field!r}")
        return Document(found[0].id, text, fields)

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Used again, the retriever opens new ones."""
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"ElasticsearchRetriever(index={self._index!r}, host={self._host!r})"

    @property
    def _host(self) -> str:
        return host_of(self._server) if isinstance(self._server, str) else "its client's"

    def _condition(self, each: Wanted) -> dict[str, Any]:
        texts = [value for value in each.values if isinstance(value, str)]
        others = [value for value in each.values if not isinstance(value, str)]
        ways: list[dict[str, Any]] = [
            {"term": {field: values[0]}} if len(values) == 1 else {"terms": {field: values}}
            for field, values in ((each.field + self._keyword_suffix, texts), (each.field, others))
            if values
        ]
        if each.missing:
            ways.append({"bool": {"must_not": [{"exists": {"field": each.field}}]}})
        return _any_of(ways) if ways else {"match_none": {}}

    async def _hits(self, k: int, **asked: Any) -> list[Hit]:
        preview = {
            "fragment_size": _PREVIEW_CHARS,
            "number_of_fragments": 1,
            "no_match_size": _PREVIEW_CHARS,
            "max_analyzed_offset": _ANALYZED_CHARS,
            # plain text: the tags are those around a match
            "pre_tags": [""],
            "post_tags": [""],
        }
        found = await self._ask(
            size=k,
            source={"excludes": [self._text_field, self._vector_field]},
            highlight={"fields": {self._text_field: preview}},
            **asked,
        )
        # a fragment ends with a sentence, and so may be longer than was asked for
        previews = [" … ".join(each.highlight.get(self._text_field, []))[:_PREVIEW_CHARS] for each in found]
        return [
            Hit(each.id, each.score or 0.0, preview, each.source) for each, preview in zip(found, previews, strict=True)
        ]

    async def _ask(self, **asked: Any) -> list[_Found]:
        client = await self._connect()
        from elasticsearch import ApiError, TransportError

        try:
            with fail_after(self._timeout):
                # half of an answer would look like a whole one
                answer = await client.search(
                    index=self._index, allow_partial_search_results=False, track_total_hits=False, **asked
                )
            return msgspec.convert(answer.body, _Answer).hits.hits
        except ApiError as error:
            # of what a server says its own name for it: the rest may quote requests, or be a web page
            kind = error.message if re.fullmatch(r"\w{1,80}", error.message) else "no error of Elasticsearch's"
            raise RetrieverError(f"{self._place} answered HTTP {error.meta.status} ({kind})") from error
        except TransportError as error:
            raise RetrieverError(f"{self._place} gave no answer ({type(error).__name__})") from error
        except TimeoutError as error:
            raise RetrieverError(f"{self._place} gave no answer within {self._timeout:g} s") from error
        except msgspec.ValidationError as error:
            raise RetrieverError(f"the answer from {self._place} is none of a search: {error}") from error

    @property
    def _place(self) -> str:
        return f"{self._host}, index {self._index!r},"

    async def _connect(self) -> AsyncElasticsearch:
        if not isinstance(self._server, str):
            return self._server
        try:
            return await self._connections.connect()
        except ImportError as error:
            raise RetrieverError(
                f"{error.name} is not installed: pip install 'rlm-wasm[elasticsearch]' brings what Elasticsearch needs"
            ) from error

    def _open(self) -> AsyncElasticsearch:
        from elastic_transport import HttpxAsyncHttpNode
        from elasticsearch import AsyncElasticsearch

        try:
            # of the client's ways to speak HTTP the one that knows asyncio and trio
            return AsyncElasticsearch(
                cast(str, self._server),
                api_key=self._api_key,
                node_class=HttpxAsyncHttpNode,
                request_timeout=self._timeout,
            )
        except ValueError as error:
            raise RetrieverError(f"the client cannot be made for {self._host}: {error}") from None


class _Found(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    score: float | None = msgspec.field(name="_score", default=None)
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict[str, Any])
    highlight: dict[str, list[str]] = {}


class _Hits(msgspec.Struct):
    hits: list[_Found]


class _Answer(msgspec.Struct):
    hits: _Hits


def _any_of(clauses: list[dict[str, Any]]) -> dict[str, Any]:
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses, "minimum_should_match": 1}}


async def _close(client: AsyncElasticsearch) -> None:
    await client.close()
