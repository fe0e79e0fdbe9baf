"""What every retriever does, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_wasm.retrievers import (
    Document,
    ElasticsearchRetriever,
    EmbeddedRetriever,
    Hit,
    HybridRetriever,
    VectorRetriever,
    offered,
)
from tests.retrievers.elastic_server import Server, served
from tests.retrievers.sea import DOCUMENTS, embed

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

WITHIN = 30
BACK_ENDS = ["memory", "file", "elasticsearch"]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def elastic() -> Iterator[Server]:
    with served() as server:
        yield server


@pytest.fixture(params=BACK_ENDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path, elastic: Server, no_proxy: None) -> Open:
    """Opens a retriever of one kind over the documents: `await opened(stack, embed=None)`. The stack closes it."""

    async def open_one(stack: AsyncExitStack, embed: Any = None) -> Any:
        if request.param == "elasticsearch":
            return await stack.enter_async_context(ElasticsearchRetriever(elastic.url, "papers", embed=embed))
        path = tmp_path / "index.db" if request.param == "file" else None
        made = await EmbeddedRetriever.from_documents(DOCUMENTS, path, embed)
        if path is not None:
            # what a file is for
            await made.aclose()
            made = await EmbeddedRetriever.open(path, embed)
        return await stack.enter_async_context(made)

    return open_one


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


async def test_any_of_the_words_is_enough_and_more_of_them_rank_higher(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        hits = await retriever.search("which FISH of the cold sea?")
        assert ids(hits)[:2] == ["cod", "whale"]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert ids(await retriever.search("treasure")) == ["long"]


async def test_no_more_than_k_hits_are_found_and_the_best_of_them(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        assert ids(await retriever.search("cold fish of the sea", k=1)) == ["cod"]
        assert len(await retriever.search("the", k=2)) == 2
        assert set(ids(await retriever.search("the", k=1_000))) == {"whale", "cod", "bank", "long", "a/b?c=d"}


@pytest.mark.parametrize("query", ["zeppelin", "", "   ", "?!", '"', '""', "\0", "*", "\ud800"], ids=repr)
async def test_what_no_document_has_finds_nothing(opened: Open, query: str) -> None:
    async with AsyncExitStack() as stack:
        assert await (await opened(stack)).search(query) == []


async def test_a_quoted_phrase_is_looked_for_as_a_whole(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        assert ids(await retriever.search('"central bank"')) == ["bank"]
        assert set(ids(await retriever.search('"central bank" whale'))) == {"bank", "whale"}
        assert await retriever.search('"bank central"') == []


FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "none": ({}, {"whale", "cod", "bank", "long", "a/b?c=d"}),
    "a number": ({"year": 2020}, {"cod", "bank"}),
    "a float": ({"weight": 149.5}, {"whale"}),
    "a text": ({"topic": "animals"}, {"whale", "cod"}),
    "a bool": ({"seen": True}, {"whale"}),
    "one of several": ({"year": [2019, 2021]}, {"whale", "long"}),
    "one of several, or nothing there": ({"topic": ["money", None]}, {"bank", "long", "a/b?c=d"}),
    "one of none": ({"year": []}, set()),
    "an element of a list": ({"tags": "sea"}, {"whale", "cod"}),
    "some element of a list": ({"tags": ["food", "unknown"]}, {"cod"}),
    "nothing there": ({"topic": None}, {"long", "a/b?c=d"}),
    "nothing there, or null": ({"editor": None}, {"whale", "cod", "bank", "long"}),
    "two at once": ({"year": 2020, "topic": "money"}, {"bank"}),
    "two that exclude each other": ({"year": 2019, "topic": "money"}, set()),
    "an unknown field": ({"no such field": 1}, set()),
    "another type": ({"topic": 2020}, set()),
    "quotes": ({"editor": 'the "one"'}, {"a/b?c=d"}),
    "SQL": ({"year') OR 1=1 --": "x' OR '1'='1"}, set()),
    "a path": ({'$."year"': 2020}, set()),
}


@pytest.mark.parametrize(("filters", "found"), FILTERS.values(), ids=FILTERS)
async def test_a_filter_is_equality_or_membership_in_a_list(
    opened: Open, filters: dict[str, Any], found: set[str]
) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack, embed)
        assert set(ids(await retriever.search("the", filters=filters))) == found
        assert set(ids(await retriever.vector_search("the", filters=filters))) == found
        assert set(ids(await retriever.hybrid_search("the", filters=filters))) == found


async def test_a_hit_carries_its_metadata_and_the_text_around_the_match(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        [whale] = await retriever.search("whale")
        assert whale.metadata == DOCUMENTS[0]["metadata"]
        assert "blue whale" in whale.preview
        [long] = await retriever.search("treasure")
        assert "The treasure is" in long.preview
        assert len(long.preview) <= 400


async def test_a_document_is_had_whole_by_its_id(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        for given in DOCUMENTS:
            assert await retriever.get(given["id"]) == Document(given["id"], given["text"], given["metadata"])


HOSTILE = ["", " ", "whales", "..", "../_search", "*", "_all", "whale' OR '1'='1", "whale\0", "\ud800", "x" * 1_000]


@pytest.mark.parametrize("id", HOSTILE, ids=[repr(id)[:20] for id in HOSTILE])
async def test_an_id_that_no_document_has_is_none(opened: Open, id: str) -> None:
    async with AsyncExitStack() as stack:
        assert await (await opened(stack)).get(id) is None


async def test_a_vector_search_finds_by_meaning_what_shares_no_word(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack, embed)
        hits = await retriever.vector_search("finance", k=2)
        assert set(ids(hits)) == {"bank", "a/b?c=d"}
        assert hits[0].score >= hits[1].score
        assert await retriever.search("finance") == []
        [ocean] = await retriever.vector_search("ocean", k=1, filters={"year": 2019})
        assert ocean.id == "whale"
        assert ocean.metadata == DOCUMENTS[0]["metadata"]
        assert ocean.preview.startswith("The blue whale")


async def test_a_hybrid_search_ranks_what_both_searches_find_first(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack, embed)
        hits = await retriever.hybrid_search("marine animal", k=3)
        assert hits[0].id == "whale"
        assert {"whale", "cod"} < set(ids(hits))
        assert hits[0].score == pytest.approx(1 / 61 + 1 / 61, rel=0.05)


async def test_without_embed_there_are_no_vectors_to_search(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        assert not retriever.has_vectors
        assert set(offered(retriever)) == {"search", "get_document"}
        for search in (retriever.vector_search, retriever.hybrid_search):
            with pytest.raises(ValueError, match="without embed"):
                await search("the sea")


async def test_the_host_functions_of_a_retriever_answer_in_plain_values(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack, embed)
        functions = offered(retriever)
        assert set(functions) == {"search", "get_document", "vector_search", "hybrid_search"}
        [found] = await functions["search"]("whale", k=5, filters={"tags": ("large", "small")})
        assert (found["id"], found["metadata"]) == ("whale", DOCUMENTS[0]["metadata"])
        assert await functions["get_document"]("bank") == DOCUMENTS[2]
        assert [hit["id"] for hit in await functions["hybrid_search"]("whale", 1)] == ["whale"]
        assert isinstance(retriever, VectorRetriever)
        assert isinstance(retriever, HybridRetriever)


async def test_many_searches_at_once_do_not_disturb_each_other(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack, embed)
        found: dict[int, list[str]] = {}

        async def ask(number: int) -> None:
            query, search = [("treasure", retriever.search), ("whale", retriever.hybrid_search)][number % 2]
            found[number] = ids(await search(query, k=1))

        with anyio.fail_after(WITHIN):
            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(ask, number)
        assert found == {number: [["long"], ["whale"]][number % 2] for number in range(60)}


async def test_a_search_that_is_given_up_does_no_harm(opened: Open) -> None:
    async with AsyncExitStack() as stack:
        retriever = await opened(stack)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await retriever.search("whale")
        assert scope.cancelled_caught
        assert ids(await retriever.search("whale")) == ["whale"]


TEXTS = st.text() | st.text(alphabet="\"*^(){}:+-'\\. \0\nANDORTNEARa\ud800é़ह漢字𞤀", max_size=40)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
FIELDS = st.dictionaries(TEXTS | st.just("year"), VALUES | st.lists(VALUES, max_size=3), max_size=3)


def test_no_text_breaks_a_search_a_filter_or_an_id(opened: Open) -> None:
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
        resources = stack.enter_context(portal.wrap_async_context_manager(AsyncExitStack()))
        retriever = portal.call(opened, resources, embed)

        @given(TEXTS, FIELDS)
        @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
        def try_text(text: str, filters: dict[str, Any]) -> None:
            assert len(portal.call(partial(retriever.search, text, 3))) <= 3
            assert portal.call(partial(retriever.search, "whale", 3, filters)) is not None
            assert len(portal.call(partial(retriever.hybrid_search, text, 3, filters))) <= 3
            portal.call(retriever.get, text)

        try_text()
