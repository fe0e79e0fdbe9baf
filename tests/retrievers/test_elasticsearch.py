"""What Elasticsearch is asked by ElasticsearchRetriever, and what becomes of an answer that is none."""

from __future__ import annotations

import base64
import json
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from elastic_transport import HttpxAsyncHttpNode
from elasticsearch import AsyncElasticsearch

from rlm_wasm.errors import FunctionError, RetrieverError
from rlm_wasm.retrievers import ElasticsearchRetriever, offered
from rlm_wasm.retrievers.terms import MAX_WORDS
from tests.retrievers.elastic_server import Handler, Server, served
from tests.retrievers.sea import embed

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends, pytest.mark.usefixtures("no_proxy")]

KEY = "VuaCfGcBCdbkQm-e5aOx:ui2lp2axTNmsyakw9tvNnw"
WITHIN = 30


@pytest.fixture
def server() -> Iterator[Server]:
    with served() as running:
        yield running


async def test_a_search_is_a_match_query_with_filters_beside_it(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers", api_key=KEY) as retriever:
        await retriever.search(
            "What of the e-mail?", k=3, filters={"topic": "money", "year": [2019, 2020], "seen": True}
        )
    [asked] = server.requests
    assert asked.method == "POST"
    assert asked.target == "/papers/_search?allow_partial_search_results=false"
    assert asked.headers["authorization"] == f"ApiKey {KEY}"
    assert asked.body["query"] == {
        "bool": {
            "must": [{"match": {"content": {"query": "What of the e-mail?"}}}],
            "filter": [{"term": {"topic": "money"}}, {"terms": {"year": [2019, 2020]}}, {"term": {"seen": True}}],
        }
    }
    assert asked.body["size"] == 3
    assert asked.body["_source"] == {"excludes": ["content", "embedding"]}


async def test_a_phrase_is_a_phrase_query_beside_the_words(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers") as retriever:
        await retriever.search('rates "central bank"')
    [must] = server.requests[0].body["query"]["bool"]["must"]
    assert must["bool"]["should"] == [
        {"match_phrase": {"content": "central bank"}},
        {"match": {"content": {"query": "rates"}}},
    ]


async def test_the_fields_are_those_that_were_named(server: Server) -> None:
    fields: dict[str, Any] = {"text_field": "body", "vector_field": "meaning", "keyword_suffix": ".keyword"}
    server.step = lambda handler: handler.say(200, {"hits": {"hits": []}})
    async with ElasticsearchRetriever(server.url, "other", embed=embed, **fields) as retriever:
        filters = {"topic": ["a", 1, None], "year": 2020, "nothing": []}
        assert await retriever.search("whale", filters=filters) == []
        assert await retriever.vector_search("sea", k=70, filters={"topic": "a"}) == []
        assert await retriever.get("x") is None
    words, nearest, one = [asked.body for asked in server.requests]
    assert words["query"]["bool"]["must"] == [{"match": {"body": {"query": "whale"}}}]
    ways = [
        {"term": {"topic.keyword": "a"}},
        {"term": {"topic": 1}},
        {"bool": {"must_not": [{"exists": {"field": "topic"}}]}},
    ]
    assert words["query"]["bool"]["filter"] == [
        {"bool": {"should": ways, "minimum_should_match": 1}},
        {"term": {"year": 2020}},
        {"match_none": {}},
    ]
    assert list(words["highlight"]["fields"]) == ["body"]
    assert nearest["knn"] == {
        "field": "meaning",
        "query_vector": [1.0, 0.0, 0.0, 0.1],
        "k": 70,
        "num_candidates": 140,
        "filter": [{"term": {"topic.keyword": "a"}}],
    }
    assert one["query"] == {"ids": {"values": ["x"]}}
    assert one["_source"] == {"excludes": ["meaning"]}


async def test_an_id_of_a_cells_making_is_never_part_of_a_path(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers") as retriever:
        for id in ("../_cluster/settings", "..", "a/b?c=d", "%2e%2e", "\n"):
            await retriever.get(id)
    assert {asked.target.partition("?")[0] for asked in server.requests} == {"/papers/_search"}


async def test_more_words_than_one_query_takes_are_not_sent(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers") as retriever:
        await retriever.search(" ".join(f"w{number}" for number in range(5_000)))
    [must] = server.requests[0].body["query"]["bool"]["must"]
    assert len(must["match"]["content"]["query"].split()) == MAX_WORDS


async def test_a_client_of_the_callers_is_used_and_left_open(server: Server) -> None:
    client = AsyncElasticsearch(server.url, basic_auth=("me", "secret"), node_class=HttpxAsyncHttpNode)
    async with ElasticsearchRetriever(client, "papers") as retriever:
        assert [hit.id for hit in await retriever.search("whale")] == ["whale"]
    assert [hit.id for hit in await retriever.search("treasure")] == ["long"]
    await client.close()
    assert server.requests[0].headers["authorization"].startswith("Basic ")


async def test_user_and_password_of_an_address_are_sent_and_never_shown(server: Server) -> None:
    url = server.url.replace("//", "//me:s3cret-word@")
    async with ElasticsearchRetriever(url, "nowhere") as retriever:
        with pytest.raises(RetrieverError) as raised:
            await retriever.search("whale")
    assert server.requests[0].headers["authorization"] == f"Basic {base64.b64encode(b'me:s3cret-word').decode()}"
    told = "".join(traceback.format_exception(raised.value)) + repr(retriever)
    assert "s3cret-word" not in told
    assert str(raised.value) == f"{server.url[7:]}, index 'nowhere', answered HTTP 404 (index_not_found_exception)"


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


FAILURES: dict[str, tuple[Callable[[Handler], None], str]] = {
    "no rights": (
        lambda handler: handler.say(403, {"error": {"type": "security_exception", "reason": "no", "root_cause": [{}]}}),
        r"answered HTTP 403 \(security_exception\)",
    ),
    "overload": (lambda handler: handler.say(503, {"error": {"type": "busy"}}), r"answered HTTP 503 \(busy\)"),
    "a web page as an error": (
        lambda handler: handler.send(502, b"<html>oops</html>", Content_Type="text/html"),
        r"gave no answer \(SerializationError\)",
    ),
    "another product": (
        lambda handler: handler.send(200, b'{"hits": {"hits": []}}'),
        r"answered HTTP 200 \(no error of Elasticsearch's\)",
    ),
    "half of JSON": (
        lambda handler: handler.send(200, b'{"hits": {"hi', X_Elastic_Product="Elasticsearch"),
        r"gave no answer \(SerializationError\)",
    ),
    "another answer": (lambda handler: handler.say(200, {"hits": [1]}), "is none of a search: Expected `object`"),
    "hits of another kind": (
        lambda handler: handler.say(200, {"hits": {"hits": [{"_id": 5}]}}),
        "is none of a search: Expected `str`, got `int`",
    ),
    "no word": (hang_up, r"gave no answer \(ConnectionError\)"),
}


@pytest.mark.parametrize(("step", "says"), FAILURES.values(), ids=FAILURES)
async def test_what_is_no_answer_is_a_retriever_error_that_holds_no_key(
    server: Server, step: Callable[[Handler], None], says: str
) -> None:
    server.step = step
    async with ElasticsearchRetriever(server.url, "papers", api_key=KEY, embed=embed) as retriever:
        with anyio.fail_after(WITHIN):
            for search in (retriever.search, retriever.vector_search, retriever.hybrid_search, retriever.get):
                with pytest.raises(RetrieverError, match=says) as raised:
                    await search("whale")
                assert KEY not in "".join(traceback.format_exception(raised.value))
                assert raised.value.__cause__ is not None
            with pytest.raises(FunctionError) as told:
                await offered(retriever)["search"]("whale")
            assert str(told.value) == "the collection could not be searched (RetrieverError)"


async def test_a_server_that_is_not_there_is_a_retriever_error() -> None:
    with served() as gone:
        url = gone.url
    async with ElasticsearchRetriever(url, "papers") as retriever:
        with (
            anyio.fail_after(WITHIN),
            pytest.raises(RetrieverError, match=r"127\.0\.0\.1:\d+, index 'papers', gave no answer"),
        ):
            await retriever.search("whale")


async def test_a_server_that_says_nothing_is_not_waited_for_longer_than_the_timeout(server: Server) -> None:
    def hang(handler: Handler) -> None:
        server.released.wait(WITHIN)
        handler.close_connection = True

    server.step = hang
    async with ElasticsearchRetriever(server.url, "papers", timeout=0.2) as retriever:
        with anyio.fail_after(WITHIN), pytest.raises(RetrieverError, match=r"within 0\.2 s|ConnectionTimeout"):
            await retriever.search("whale")


async def test_a_document_without_its_text_is_a_retriever_error(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers", text_field="body") as retriever:
        with pytest.raises(RetrieverError, match="a document of 'papers' has no text in its field 'body'"):
            await retriever.get("whale")


async def test_a_hit_without_source_or_highlight_is_a_hit_all_the_same(server: Server) -> None:
    server.step = lambda handler: handler.say(200, {"hits": {"hits": [{"_id": "a", "_score": None}]}})
    async with ElasticsearchRetriever(server.url, "papers") as retriever:
        [hit] = await retriever.search("whale")
    assert (hit.id, hit.score, hit.preview, hit.metadata) == ("a", 0.0, "", {})


async def test_without_the_extra_the_error_names_the_command(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("elasticsearch", "httpx"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            async with ElasticsearchRetriever(server.url, "papers") as retriever:
                with pytest.raises(RetrieverError, match=r"pip install 'rlm-wasm\[elasticsearch\]'"):
                    await retriever.search("whale")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"client_or_url": "localhost:9200"}, "begins with http"),
        ({"client_or_url": "https://a b"}, "begins with http"),
        ({"index": ""}, "index must be a name"),
        ({"timeout": 0}, "timeout more than 0"),
        ({"client_or_url": object(), "api_key": KEY}, "api_key goes with an address"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ElasticsearchRetriever(**{"client_or_url": "http://localhost:9200", "index": "papers", **arguments})


def test_one_retriever_serves_one_event_loop_after_another(server: Server) -> None:
    retriever = ElasticsearchRetriever(server.url, "papers")
    for backend in ("asyncio", "trio", "asyncio"):
        [hit] = anyio.run(retriever.search, "whale", backend=backend)
        assert hit.id == "whale"
    assert repr(retriever) == f"ElasticsearchRetriever(index='papers', host={server.url[7:]!r})"


async def test_numbers_that_no_field_holds_are_not_sent(server: Server) -> None:
    async with ElasticsearchRetriever(server.url, "papers") as retriever:
        filters = {"year": [float("nan"), float("inf"), 10**5_000, 2019]}
        assert [hit.id for hit in await retriever.search("whale", filters=filters)] == ["whale"]
    assert server.requests[0].body["query"]["bool"]["filter"] == [{"term": {"year": 2019}}]
    assert "Infinity" not in json.dumps(server.requests[0].body)
