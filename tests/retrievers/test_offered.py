"""The host functions of a retriever: hostile arguments go no further, and a back end's words stay on the host."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm.errors import FunctionError, RetrieverError
from rlm_wasm.retrievers import Document, Filters, Hit, Retriever, offered

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


class Recording:
    """A back end that notes what it is asked, and says the same for all."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.failure = failure

    async def search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        self.asked.append(("search", query, k, filters))
        if self.failure is not None:
            raise self.failure
        return [Hit("a", 2.0, "text of a", {"year": 2020}), Hit("b", 1.0, "text of b")]

    async def get(self, id: str) -> Document | None:
        self.asked.append(("get", id))
        if self.failure is not None:
            raise self.failure
        return Document(id, "text", {"year": 2020}) if id == "a" else None


class Vectored(Recording):
    def __init__(self, has_vectors: bool) -> None:
        super().__init__()
        self.has_vectors = has_vectors

    async def vector_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        self.asked.append(("vector_search", query, k, filters))
        return []

    async def hybrid_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        self.asked.append(("hybrid_search", query, k, filters))
        return []


async def test_hits_and_documents_are_plain_dicts() -> None:
    functions = offered(Recording())
    assert await functions["search"]("what") == [
        {"id": "a", "score": 2.0, "preview": "text of a", "metadata": {"year": 2020}},
        {"id": "b", "score": 1.0, "preview": "text of b", "metadata": {}},
    ]
    assert await functions["get_document"]("a") == {"id": "a", "text": "text", "metadata": {"year": 2020}}
    assert await functions["get_document"]("b") is None


async def test_a_search_hands_on_its_arguments_with_their_defaults() -> None:
    retriever = Recording()
    search = offered(retriever)["search"]
    await search("what")
    await search(query="what", k=1_000, filters={"year": [2020, 2021.5, None, True], "place": ("here",)})
    assert retriever.asked == [
        ("search", "what", 10, None),
        ("search", "what", 1_000, {"year": [2020, 2021.5, None, True], "place": ["here"]}),
    ]


async def test_no_more_than_k_hits_come_back_whatever_the_back_end_gives() -> None:
    assert len(await offered(Recording())["search"]("what", k=1)) == 1


@pytest.mark.parametrize(
    ("retriever", "names"),
    [
        (Recording(), {"search", "get_document"}),
        (Vectored(False), {"search", "get_document"}),
        (Vectored(True), {"search", "get_document", "vector_search", "hybrid_search"}),
    ],
    ids=["words alone", "made without vectors", "vectors"],
)
async def test_only_what_a_back_end_has_is_offered(retriever: Retriever, names: set[str]) -> None:
    functions = offered(retriever)
    assert set(functions) == names
    assert all(function.__doc__ for function in functions.values())


async def test_vector_and_hybrid_search_ask_the_back_ends_own() -> None:
    retriever = Vectored(True)
    functions = offered(retriever)
    assert await functions["vector_search"]("what", 3) == []
    assert await functions["hybrid_search"]("what", filters={"a": 1}) == []
    assert retriever.asked == [("vector_search", "what", 3, None), ("hybrid_search", "what", 10, {"a": 1})]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a query that is no text": ({"query": 5}, "query must be a str, not int"),
    "bytes": ({"query": b"x"}, "query must be a str, not bytes"),
    "a query that is too long": ({"query": "x" * 10_001}, "query has 10,001 characters; at most 10,000 are taken"),
    "no hits": ({"k": 0}, "k must be 1 to 1,000"),
    "too many hits": ({"k": 1_001}, "k must be 1 to 1,000"),
    "a number beyond all": ({"k": 10**5_000}, "k must be 1 to 1,000"),
    "a bool": ({"k": True}, "k must be an int, not bool"),
    "half a hit": ({"k": 1.5}, "k must be an int, not float"),
    "filters in a list": ({"filters": ["year"]}, "filters must be a dict from field to value, not list"),
    "filters in a str": ({"filters": "year = 1"}, "filters must be a dict from field to value, not str"),
    "a field that is no text": ({"filters": {1: 1}}, "a field of filters must be a str, not int"),
    "a long field": ({"filters": {"x" * 1_001: 1}}, "a field of filters has 1,001 characters"),
    "a nested filter": ({"filters": {"a": {"gte": 1}}}, "must be a str, a number, a bool or None, not dict"),
    "a list in a list": ({"filters": {"a": [[1]]}}, "must be a str, a number, a bool or None, not list"),
    "a long value": ({"filters": {"a": "x" * 1_001}}, "a filter's value has 1,001 characters"),
    "many fields": ({"filters": {str(number): 1 for number in range(33)}}, "filters has 33 fields; at most 32"),
    "many values": ({"filters": {"a": list(range(1_001))}}, "a filter has 1,001 values; at most 1,000"),
    "a huge int": ({"filters": {"a": 2**63}}, "must fit 64 bits"),
    "not a number": ({"filters": {"a": float("nan")}}, "must be finite"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
async def test_an_argument_that_cannot_be_is_refused_before_the_back_end_sees_it(
    arguments: dict[str, Any], says: str
) -> None:
    retriever = Recording()
    with pytest.raises(FunctionError) as raised:
        await offered(retriever)["search"](**{"query": "what", **arguments})
    assert says in str(raised.value)
    assert retriever.asked == []


@pytest.mark.parametrize("id", [5, None, "x" * 1_001], ids=["int", "None", "long"])
async def test_an_id_that_cannot_be_is_refused(id: object) -> None:
    retriever = Recording()
    with pytest.raises(FunctionError, match="id "):
        await offered(retriever)["get_document"](id)
    assert retriever.asked == []


@pytest.mark.parametrize("failure", [RetrieverError("https://user:secret@host is down"), OSError("/home/someone")])
async def test_what_a_back_end_says_of_its_failure_stays_on_the_host(failure: Exception) -> None:
    functions = offered(Recording(failure))
    for call in (functions["search"]("what"), functions["get_document"]("a")):
        with pytest.raises(FunctionError) as raised:
            await call
        assert str(raised.value) == f"the collection could not be searched ({type(failure).__name__})"
        assert raised.value.__cause__ is failure


async def test_a_back_end_of_the_callers_own_may_choose_what_the_cell_is_told() -> None:
    with pytest.raises(FunctionError, match="ask again tomorrow"):
        await offered(Recording(FunctionError("ask again tomorrow")))["search"]("what")
