"""An index of files that is kept on disk: what is read of them, when, and what is left by all that can go wrong."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sqlite3
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers import EmbeddedRetriever
from rlm_wasm.retrievers.indexing import Indexed, Indexing
from rlm_wasm.retrievers.pieces import PIECE_BYTES
from tests.retrievers.sea import embed

pytestmark = pytest.mark.anyio


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with three files that were not written just now."""
    folder = tmp_path / "corpus"
    (folder / "deeper").mkdir(parents=True)
    for name, text in {"a.md": "a fish", "deeper/b.txt": "a whale of the sea", "c.txt": "a bank"}.items():
        write(folder / name, text)
    return folder


def write(path: Path, text: str | bytes, *, age: int = 60) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    long_ago = path.stat().st_mtime - age
    os.utime(path, (long_ago, long_ago))


async def index(corpus: Path, **given: Any) -> Indexed:
    async with await EmbeddedRetriever.index(corpus, corpus.parent / "corpus.index", **given) as retriever:
        return retriever.indexed


async def found(corpus: Path, query: str, **given: Any) -> list[str]:
    async with await EmbeddedRetriever.open(corpus.parent / "corpus.index", **given) as retriever:
        return [hit.id for hit in await retriever.search(query)]


def took(indexed: Indexed) -> tuple[int, int, int]:
    return indexed.added, indexed.changed, indexed.removed


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened from now on."""
    names: list[str] = []
    opened: Callable[..., Any] = Path.open

    def noted(path: Path, *given: Any, **named: Any) -> Any:
        if "corpus.index" not in path.name:
            names.append(path.name)
        return opened(path, *given, **named)

    monkeypatch.setattr(Path, "open", noted)
    return names


@pytest.mark.both_backends
async def test_only_what_is_new_or_changed_is_read_and_what_is_gone_is_dropped(corpus: Path, reads: list[str]) -> None:
    first = await index(corpus)
    assert (first.files, first.documents, took(first), first.rebuilt) == (3, 3, (3, 0, 0), None)
    reads.clear()
    assert took(await index(corpus)) == (0, 0, 0)
    assert reads == []
    write(corpus / "a.md", "a cod", age=30)
    write(corpus / "new.txt", "a new fish")
    (corpus / "c.txt").unlink()
    assert took(await index(corpus)) == (1, 1, 1)
    assert set(reads) == {"a.md", "new.txt"}
    assert await found(corpus, "fish bank") == ["new.txt"]
    assert await found(corpus, "cod") == ["a.md"]
    assert sorted(os.listdir(corpus.parent)) == ["corpus", "corpus.index"]


async def test_a_file_with_another_date_and_the_same_content_is_the_same(corpus: Path) -> None:
    await index(corpus)
    write(corpus / "a.md", "a fish", age=10)
    assert took(await index(corpus)) == (0, 0, 0)
    # of the same size, and changed in the moment in which it was read
    (corpus / "a.md").write_text("a carp")
    status = (corpus / "a.md").stat()
    await index(corpus)
    (corpus / "a.md").write_text("a pike")
    os.utime(corpus / "a.md", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert took(await index(corpus)) == (0, 1, 0)
    assert await found(corpus, "pike carp") == ["a.md"]


async def test_a_large_file_is_several_documents_that_say_where_they_are(corpus: Path) -> None:
    lines = "".join(f"line {number} of a long file äöü\n" for number in range(10_000))
    write(corpus / "long.txt", lines)
    write(corpus / "dense.txt", "ä" * PIECE_BYTES)
    async with await EmbeddedRetriever.index(corpus, corpus.parent / "corpus.index") as retriever:
        [hit] = await retriever.search('"line 9000"')
        document = await retriever.get(hit.id)
        pieces = await retriever.search("äöü", k=100)
        dense = [await retriever.get(f"dense.txt[{start}:{end}]") for start, end in cut(PIECE_BYTES, 2 * PIECE_BYTES)]
    assert document is not None
    assert "line 9000 of" in document.text
    raw = lines.encode()[hit.metadata["start"] : hit.metadata["end"]]
    assert document.text == raw.decode()
    assert (hit.metadata["path"], document.text.startswith("line"), document.text[-1]) == ("long.txt", True, "\n")
    places = sorted((piece.metadata["start"], piece.metadata["end"]) for piece in pieces)
    assert [end for _, end in places] == [*(start for start, _ in places[1:]), len(lines.encode())]
    assert all(end - start <= PIECE_BYTES for start, end in places)
    assert "".join(each.text for each in dense if each is not None) == "ä" * PIECE_BYTES


def cut(size: int, whole: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, whole)) for start in range(0, whole, size)]


async def test_memory_is_bounded_by_no_files_size(corpus: Path) -> None:
    with (corpus / "one line").open("wb") as file:
        for _ in range(24):
            file.write(b"word " * 200_000)
    tracemalloc.start()
    try:
        indexed = await index(corpus)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert indexed.files == 4
    # of a file of 24 MB
    assert most < 8_000_000


async def test_progress_tells_files_and_bytes_and_then_vectors(corpus: Path) -> None:
    write(corpus / "long.txt", "a long text " * 2_000_000)
    told: list[Indexing] = []
    await index(corpus, embed=lambda texts: [[1.0]] * len(texts), progress=told.append)
    sizes = 24_000_000 + len("a fish" + "a whale of the sea" + "a bank")
    assert (told[-1].files, told[-1].bytes) == (4, sizes)
    assert {(each.of_files, each.of_bytes) for each in told} == {(4, sizes)}
    assert [each.bytes for each in told] == sorted(each.bytes for each in told)
    assert len({each.bytes for each in told}) > 2
    assert told[-1].embedded == told[-1].of_embedded > 300


async def test_what_is_no_text_is_left_out_and_said(corpus: Path) -> None:
    write(corpus / "latin.txt", b"a fish\ncaf\xe9")
    write(corpus / "binary.bin", b"\0\1\2 fish")
    (corpus / "outside").symlink_to(Path(__file__))
    indexed = await index(corpus)
    assert (indexed.files, dict(indexed.left_out)) == (
        3,
        {"binary.bin": "it is no text: it holds a NUL", "latin.txt": "byte 0xe9 at offset 10 is not UTF-8"},
    )
    again = await index(corpus, errors="replace")
    assert (took(again), again.left_out) == ((2, 0, 0), ())
    # a file that was text and is not any more is gone
    write(corpus / "a.md", b"\xff\xff", age=20)
    spoiled = await index(corpus)
    assert [name for name, _ in spoiled.left_out] == ["a.md"]
    assert spoiled.removed == 1
    assert "a.md" not in await found(corpus, "fish")


async def test_an_index_may_lie_in_the_folder_that_it_is_of(corpus: Path) -> None:
    for _ in range(2):
        async with await EmbeddedRetriever.index(corpus, corpus / "own.index") as retriever:
            assert (retriever.indexed.files, retriever.indexed.left_out) == (3, ())


async def test_a_vector_is_asked_for_once_for_each_text(corpus: Path) -> None:
    asked: list[str] = []

    def counted(texts: list[str]) -> list[list[float]]:
        asked.extend(texts)
        return embed(texts)

    await index(corpus, embed=counted)
    assert sorted(asked) == ["a bank", "a fish", "a whale of the sea"]
    asked.clear()
    (corpus / "a.md").rename(corpus / "moved.md")
    write(corpus / "c.txt", "a river", age=10)
    assert took(await index(corpus, embed=counted)) == (1, 1, 1)
    assert asked == ["a river"]
    async with await EmbeddedRetriever.open(corpus.parent / "corpus.index", embed) as retriever:
        assert {hit.id for hit in await retriever.vector_search("ocean", k=2)} == {"deeper/b.txt", "moved.md"}


async def test_an_index_that_is_damaged_or_of_another_version_is_made_anew_and_that_is_said(corpus: Path) -> None:
    path = corpus.parent / "corpus.index"
    write(corpus / "long.txt", "".join(f"word{number} " for number in range(20_000)))
    await index(corpus)
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    rebuilt = await index(corpus)
    assert (rebuilt.rebuilt or "").startswith("it is damaged")
    assert "a.md" in await found(corpus, "fish")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kept SET version = 0")
    connection.close()
    assert (await index(corpus)).rebuilt == "it is of another version"
    assert (await index(corpus)).rebuilt is None


@pytest.mark.parametrize("content", [b"my notes", b"", None])
async def test_what_is_no_index_of_this_kind_is_left_as_it_is(corpus: Path, content: bytes | None) -> None:
    path = corpus.parent / "corpus.index"
    if content is None:
        async with await EmbeddedRetriever.from_documents(["a fish"], path):
            content = path.read_bytes()
    path.write_bytes(content)
    if content:
        with pytest.raises(ValueError, match="choose another place"):
            await index(corpus)
        assert path.read_bytes() == content
    else:
        # an empty file is nobody's
        assert (await index(corpus)).files == 3


async def test_a_full_disk_leaves_the_index_as_it_was(corpus: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    write(corpus / "long.txt", os.urandom(1_000_000).hex())
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(RetrieverError, match="could not be written"):
            await index(corpus)
        # no half of an index stays in the way
        assert os.listdir(corpus.parent) == ["corpus"]
        (corpus / "long.txt").rename(corpus.parent / "long.txt")
        await index(corpus)
        (corpus.parent / "long.txt").rename(corpus / "long.txt")
        with pytest.raises(RetrieverError, match="one that was there is as it was"):
            await index(corpus)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await found(corpus, "fish") == ["a.md"]
    assert took(await index(corpus)) == (1, 0, 0)


async def test_an_embed_that_fails_leaves_the_index_as_it_was(corpus: Path) -> None:
    def fail(texts: list[str]) -> list[list[float]]:
        raise OSError("no connection")

    await index(corpus, embed=embed)
    write(corpus / "new.txt", "a new fish")
    with pytest.raises(RetrieverError, match="embed failed"):
        await index(corpus, embed=fail)
    assert await found(corpus, "fish", embed=embed) == ["a.md"]
    assert took(await index(corpus, embed=embed)) == (1, 0, 0)


async def test_whoever_searches_meanwhile_finds_what_was_there(corpus: Path) -> None:
    await index(corpus)
    write(corpus / "long.txt", "".join(f"a fish and {number} other words\n" * 50 for number in range(10_000)))
    hits: list[list[str]] = []
    async with await EmbeddedRetriever.open(corpus.parent / "corpus.index") as reader:
        started, told = anyio.Event(), anyio.Event()

        async def search() -> None:
            await started.wait()
            hits.append([hit.id for hit in await reader.search("fish")])
            told.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(search)
            with anyio.fail_after(60):
                await index(corpus, progress=lambda _: started.set())
                await told.wait()
        assert hits == [["a.md"]]
        assert len(await reader.search('"and 9999"', k=1000)) > 0


async def test_two_programs_cannot_bring_one_index_up_to_date_at_once(corpus: Path) -> None:
    refused: list[str] = []

    async def other() -> None:
        with pytest.raises(RetrieverError) as raised:
            await index(corpus)
        refused.append(str(raised.value))

    write(corpus / "long.txt", "a fish " * 2_000_000)
    async with anyio.create_task_group() as tasks:

        def begin(_: object) -> None:
            if not refused:
                refused.append("begun")
                tasks.start_soon(other)

        await index(corpus, progress=begin)
    assert "another program brings the index" in refused[1]


KILLED = """
import os, signal, sys
import anyio
from rlm_wasm import EmbeddedRetriever

def hear(progress):
    if progress.files >= 512:
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(lambda: EmbeddedRetriever.index(sys.argv[1], sys.argv[2], progress=hear))
"""


async def test_a_first_index_that_was_killed_goes_on_where_it_was(corpus: Path, reads: list[str]) -> None:
    for number in range(600):
        write(corpus / f"{number:03}.txt", f"document {number}")
    root = str(Path(__file__).parents[2])
    path = corpus.parent / "corpus.index"
    program = [sys.executable, "-c", KILLED, str(corpus), str(path)]
    with anyio.fail_after(60):
        ended = await anyio.run_process(program, env={**os.environ, "PYTHONPATH": root}, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not path.exists()
    reads.clear()
    indexed = await index(corpus)
    assert indexed.files == 603
    assert indexed.added == len(reads) == 603 - 512
    assert await found(corpus, '"document 7"') == ["007.txt"]
    assert not [name for name in os.listdir(corpus.parent) if "new" in name]


async def test_what_is_indexed_is_exactly_what_is_in_the_files(corpus: Path) -> None:
    content = os.urandom(300_000).hex().encode()
    write(corpus / "noise.txt", content)
    await index(corpus)
    connection = sqlite3.connect(corpus.parent / "corpus.index")
    rows = connection.execute(
        "SELECT text FROM documents WHERE json_extract(metadata, '$.path') = 'noise.txt' ORDER BY number"
    ).fetchall()
    connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
    connection.close()
    assert hashlib.sha256("".join(text for [text] in rows).encode()).digest() == hashlib.sha256(content).digest()
