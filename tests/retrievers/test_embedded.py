"""The retriever without a server: how it is made, and what its index knows of words."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers import Document, EmbeddedRetriever
from rlm_wasm.retrievers.terms import MAX_WORDS
from tests.retrievers.sea import DOCUMENTS, embed

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


def files_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_documents_are_texts_mappings_or_documents() -> None:
    given = ["one fish", {"text": "two fish"}, {"text": "red fish", "id": 7}, Document("blue", "blue fish", {"a": 1})]
    async with await EmbeddedRetriever.from_documents(given) as retriever:
        assert {hit.id for hit in await retriever.search("fish")} == {"0", "1", "7", "blue"}
        assert await retriever.get("7") == Document("7", "red fish", {})
        assert await retriever.get("blue") == given[3]


@pytest.mark.parametrize(
    ("documents", "error", "says"),
    [
        ("one text", TypeError, "not a single one"),
        ({"text": "a"}, TypeError, "not a single one"),
        (["a", 5], TypeError, "document 1 must be a str, a mapping or a Document, not int"),
        (["a", {"id": "x"}], TypeError, "the text of document 1 must be a str, not NoneType"),
        ([{"text": "a", "id": 1.5}], TypeError, "the id of document 0"),
        ([{"text": "a", "metadata": ["year"]}], TypeError, "the metadata of document 0 must be a mapping, not list"),
        ([{"text": "a", "year": 1}], ValueError, "document 0 has year: put what is not text or id into metadata"),
        ([{"text": "a", "metadata": {"when": {1, 2}}}], ValueError, "the metadata of document '0' is not JSON-like"),
        ([{"text": "a", "metadata": {"x": float("nan")}}], ValueError, "the metadata of document '0' is not JSON-like"),
        (["a", {"text": "b", "id": 0}], ValueError, "there are two documents with the id '0'"),
    ],
)
async def test_what_is_no_document_is_named_and_leaves_no_file_behind(
    tmp_path: Path, documents: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await EmbeddedRetriever.from_documents(documents, tmp_path / "index.db")
    assert files_in(tmp_path) == []


async def test_no_documents_are_a_collection_in_which_nothing_is_found() -> None:
    async with await EmbeddedRetriever.from_documents([], embed=embed) as retriever:
        assert await retriever.search("anything") == []
        assert await retriever.hybrid_search("anything") == []
        assert await retriever.get("0") is None


async def test_case_and_accents_do_not_count() -> None:
    async with await EmbeddedRetriever.from_documents(["Über den Fluß", "cafe\N{COMBINING ACUTE ACCENT}"]) as retriever:
        assert [hit.id for hit in await retriever.search("UBER")] == ["0"]
        assert [hit.id for hit in await retriever.search("Café")] == ["1"]
        assert [hit.id for hit in await retriever.search("fluß")] == ["0"]


async def test_a_word_of_another_script_is_found() -> None:
    async with await EmbeddedRetriever.from_documents(["यह हिन्दी है", "это русский", "漢字 かな"]) as retriever:
        for number, word in enumerate(("हिन्दी", "РУССКИЙ", "漢字")):
            assert [hit.id for hit in await retriever.search(word)] == [str(number)]


async def test_texts_and_ids_of_any_characters_come_back_as_they_were_but_for_lone_surrogates() -> None:
    odd = [
        Document("a\0b", "before\0after \N{SNOWMAN}", {'"key"\n\0': "\0"}),
        Document("\ud800", "x\udfff", {"\ud800": 1}),
    ]
    async with await EmbeddedRetriever.from_documents(odd) as retriever:
        assert await retriever.get("a\0b") == odd[0]
        assert await retriever.get("\ud800") == Document("\ufffd", "x\ufffd", {"\ufffd": 1})
        assert [hit.id for hit in await retriever.search("after")] == ["a\0b"]


async def test_as_many_words_as_count_are_looked_for() -> None:
    async with await EmbeddedRetriever.from_documents([f"w{number}" for number in range(1_000)]) as retriever:
        hits = await retriever.search(" ".join(f"w{number}" for number in range(1_000)), k=1_000)
        assert len(hits) == MAX_WORDS


async def test_more_documents_than_go_in_at_once_are_all_there() -> None:
    asked: list[int] = []

    def counted(texts: list[str]) -> list[list[float]]:
        asked.append(len(texts))
        return [[float(text.split()[1]), 1.0] for text in texts]

    documents = (f"number {number}" for number in range(600))
    async with await EmbeddedRetriever.from_documents(documents, embed=counted) as retriever:
        assert asked == [256, 256, 88]
        assert len(await retriever.search("number", k=1_000)) == 600
        assert [hit.id for hit in await retriever.vector_search("number 0", k=1)] == ["0"]
        assert len(await retriever.vector_search("number 0", k=1_000)) == 600


async def test_files_are_read_from_what_is_named_and_nowhere_else(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.txt"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.md").write_text("a fish")
    (folder / "deeper" / "b.txt").write_text("another fish")
    outside.write_text("a fish outside")
    (folder / "link.txt").symlink_to(outside)
    async with await EmbeddedRetriever.from_paths(folder) as retriever:
        hits = await retriever.search("fish")
        assert {hit.id for hit in hits} == {"a.md", "deeper/b.txt"}
        assert hits[0].metadata == {"path": "a.md", "suffix": ".md"}
    async with await EmbeddedRetriever.from_paths([str(folder / "a.md"), outside]) as retriever:
        assert {hit.id for hit in await retriever.search("fish")} == {str(folder / "a.md"), str(outside)}
    with pytest.raises(FileNotFoundError):
        await EmbeddedRetriever.from_paths(tmp_path / "nowhere")


async def test_a_file_is_made_once_and_read_by_many(tmp_path: Path) -> None:
    path = tmp_path / "a #1?.db"
    async with await EmbeddedRetriever.from_documents(DOCUMENTS, path, embed):
        pass
    with pytest.raises(FileExistsError, match=r"EmbeddedRetriever\.open"):
        await EmbeddedRetriever.from_documents(DOCUMENTS, path)
    async with await EmbeddedRetriever.open(path) as one, await EmbeddedRetriever.open(path, embed) as other:
        assert (one.has_vectors, other.has_vectors) == (False, True)
        assert await one.search("whale") == await other.search("whale")
    assert files_in(tmp_path) == [path.name]


async def test_a_file_that_is_no_index_of_ours_is_not_opened(tmp_path: Path) -> None:
    text, foreign, bare = tmp_path / "text", tmp_path / "foreign.db", tmp_path / "bare.db"
    text.write_text("this is no database at all, however long it is " * 50)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE documents (id)")
    connection.close()
    async with await EmbeddedRetriever.from_documents(DOCUMENTS, bare):
        pass
    with pytest.raises(FileNotFoundError):
        await EmbeddedRetriever.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no index"):
        await EmbeddedRetriever.open(text)
    with pytest.raises(ValueError, match="another program"):
        await EmbeddedRetriever.open(foreign)
    with pytest.raises(ValueError, match="without embed"):
        await EmbeddedRetriever.open(bare, embed)


async def test_a_place_that_cannot_be_written_is_a_retriever_error(tmp_path: Path) -> None:
    with pytest.raises(RetrieverError, match="could not be made"):
        await EmbeddedRetriever.from_documents(["a"], tmp_path / "no" / "such" / "folder.db")


async def test_a_file_that_is_damaged_is_a_retriever_error(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    async with await EmbeddedRetriever.from_documents([f"fish {number}" for number in range(5_000)], path):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    async with await EmbeddedRetriever.open(path) as retriever:
        with pytest.raises(RetrieverError, match="could not be read"):
            await retriever.search("fish")


async def test_an_embed_that_fails_half_way_leaves_no_file_behind(tmp_path: Path) -> None:
    def fail(texts: list[str]) -> list[list[float]]:
        if "number 300" in texts:
            raise OSError("no connection")
        return [[1.0]] * len(texts)

    documents = [f"number {number}" for number in range(600)]
    with pytest.raises(RetrieverError, match="embed failed on 256 texts"):
        await EmbeddedRetriever.from_documents(documents, tmp_path / "index.db", fail)
    assert files_in(tmp_path) == []


async def test_a_closed_one_says_so_and_may_be_closed_again() -> None:
    retriever = await EmbeddedRetriever.from_documents(["a fish"])
    assert repr(retriever) == "<EmbeddedRetriever :memory: (words alone)>"
    await retriever.aclose()
    await retriever.aclose()
    assert "closed" in repr(retriever)
    with pytest.raises(RuntimeError, match="closed"):
        await retriever.search("fish")


def test_one_retriever_serves_one_event_loop_after_another() -> None:
    retriever = anyio.run(partial(EmbeddedRetriever.from_documents, ["a fish"]))
    for backend in ("asyncio", "trio", "asyncio"):
        [hit] = anyio.run(retriever.search, "fish", backend=backend)
        assert hit.preview == "a fish"
    anyio.run(retriever.aclose, backend="trio")
