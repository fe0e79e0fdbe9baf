"""A retriever without a server: SQLite's full-text index (FTS5, ranked by BM25) in memory or in one file.

Owns the tables, the connection and the SQL, in which every value is a bound parameter. What embeds texts is the
caller's; knows nothing of sandboxes. Searches run in threads, one at a time.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import anyio
import msgspec
from anyio.abc import AsyncResource
from anyio.to_thread import run_sync

from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers.collection import Documents, Paths, documents_in, documents_of
from rlm_wasm.retrievers.filters import wanted
from rlm_wasm.retrievers.fusion import depth, fused
from rlm_wasm.retrievers.indexing import Indexed, Progress, bring_up
from rlm_wasm.retrievers.protocol import Document, Embed, Filters, Hit
from rlm_wasm.retrievers.tables import APPLICATION, BATCH, SCHEMA, VERSION, connect
from rlm_wasm.retrievers.terms import Terms, terms_of
from rlm_wasm.retrievers.vectors import embedded, packed, similarities
from rlm_wasm.sandbox.values import well_formed

# tokens (64 is the most that FTS5 takes) and characters
_PREVIEW_TOKENS = 48
_PREVIEW_CHARS = 400
# steps of SQLite's machine between two looks at whether anybody still waits: well under a millisecond
_STEPS = 10_000

_BEST = """
SELECT words.rowid, -bm25(words) AS score FROM words JOIN documents ON documents.number = words.rowid
WHERE words MATCH ? AND {condition} ORDER BY score DESC, words.rowid LIMIT ?
"""
# apart from the ranking, because a snippet reads the whole text: only those of the best are made
_SNIPPETS = """
SELECT words.rowid, id, snippet(words, 0, '', '', '…', ?), metadata
FROM words JOIN documents ON documents.number = words.rowid
WHERE words MATCH ? AND words.rowid IN (SELECT value FROM json_each(?))
"""
_BEGINNINGS = """
SELECT number, id, substr(text, 1, ?), metadata FROM documents WHERE number IN (SELECT value FROM json_each(?))
"""
_Answer = TypeVar("_Answer")


class EmbeddedRetriever(AsyncResource):
    """A `Retriever` over documents of the caller's, in memory or in a file.

        async with await EmbeddedRetriever.from_documents(["one text", "another"]) as retriever:
            hits = await retriever.search("text")

    Made by `from_documents`, `from_paths`, `index` and `open`. With `embed` it is a `VectorRetriever` and a
    `HybridRetriever` too: then the vectors of all documents are read for each search, which without numpy takes
    seconds for 100,000.
    Words of a query are looked for each by itself, what stands in double quotes as a phrase; the more of them a
    document has, and the rarer they are, the higher it ranks. Case and accents do not count.
    """

    def __init__(self, connection: sqlite3.Connection, embed: Embed | None = None, *, name: str = ":memory:") -> None:
        self._connection: sqlite3.Connection | None = connection
        self._embed = embed
        self._name = name
        # a thread's, because one instance may serve several event loops
        self._lock = threading.Lock()
        self.indexed = Indexed()
        """What bringing the index up to date took; nothing where it was not made by `index`."""

    @classmethod
    async def from_documents(
        cls, documents: Documents, path: str | Path | None = None, embed: Embed | None = None
    ) -> Self:
        """Index documents: texts, mappings with `text` and perhaps `id` and `metadata`, or `Document`s.

        In memory, or in a new file at `path`; the documents are taken one after the other, in a thread. `embed` turns
        texts (N) into vectors (N, of one length), sync or async. Raises TypeError or ValueError for what is no document
        or has an id that another has, FileExistsError, RetrieverError if `embed` or the file fails.
        """
        if path is not None and await anyio.Path(path).exists():
            raise FileExistsError(f"{str(path)!r} is there already: EmbeddedRetriever.open reads it")
        name = ":memory:" if path is None else str(path)
        connection: sqlite3.Connection | None = None
        try:
            connection = await run_sync(connect, name)
            await _build(connection, documents_of(documents), embed)
            return cls(connection, embed, name=name)
        except BaseException as error:
            # no half of an index is left behind
            with anyio.CancelScope(shield=True):
                await run_sync(_discard, connection, path)
            if isinstance(error, sqlite3.Error):
                raise RetrieverError(f"the index could not be made in {name!r}: {error}") from error
            raise

    @classmethod
    async def from_paths(
        cls, paths: Paths, path: str | Path | None = None, embed: Embed | None = None, *, errors: str = "strict"
    ) -> Self:
        """Index text files, those of named folders too: one document each, its path as id.

        `errors` is what to do with bytes that are not UTF-8, as in `bytes.decode`. Raises FileNotFoundError, ValueError
        for a file that is not text, and what `from_documents` raises.
        """
        return await cls.from_documents(await run_sync(partial(documents_in, paths, errors=errors)), path, embed)

    @classmethod
    async def index(
        cls,
        paths: Paths,
        path: str | Path,
        embed: Embed | None = None,
        *,
        errors: str = "strict",
        progress: Progress | None = None,
    ) -> Self:
        """Search text files by an index at `path`, which is made if there is none, and otherwise brought up to date.

        Only files that are new or changed are read, piece by piece, so that they may be larger than memory: a file of
        more than 16 kB is several documents, whose metadata say where in it they `start` and `end` (bytes). What is
        gone is dropped. A vector is asked of `embed` once for each text. A file that is not UTF-8, or cannot be read,
        is left out, as `indexed.left_out` says; `errors` other than "strict" takes what is not UTF-8. `progress` is
        told how far it is. An index that is damaged, or of another version, is made anew, and `indexed.rebuilt` says
        why.

        Raises FileNotFoundError for a path that is not there, ValueError if something else is at `path`, RetrieverError
        if the index cannot be written (a full disk), another program writes it, or `embed` fails: then an index that
        was there is as it was, and one that was begun goes on from there.
        """
        named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(each) for each in paths]
        try:
            indexed = await bring_up(Path(path), named, embed, errors=errors, progress=progress)
        except sqlite3.Error as error:
            text = f"the index {str(path)!r} could not be written ({error}); one that was there is as it was"
            raise RetrieverError(text) from error
        retriever = await cls.open(path, embed)
        retriever.indexed = indexed
        return retriever

    @classmethod
    async def open(cls, path: str | Path, embed: Embed | None = None) -> Self:
        """Read a file that `from_documents` or `from_paths` has made; `embed` must be the one that it was made with.

        Raises FileNotFoundError, or ValueError for a file that is something else or has no vectors for `embed`.
        """
        if not await anyio.Path(path).is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} to search in")
        return cls(await run_sync(_open, str(path), embed is not None), embed, name=str(path))

    @property
    def has_vectors(self) -> bool:
        """True if it was made with `embed`."""
        return self._embed is not None

    async def search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents by BM25, higher is better. Raises RetrieverError, RuntimeError once it is closed."""
        terms = terms_of(query)
        if not terms.words and not terms.phrases:
            return []
        return await self._run(partial(_by_words, match=_match(terms), k=k, filters=filters))

    async def vector_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents by cosine similarity (-1 to 1). Raises ValueError without `embed`, RetrieverError."""
        if self._embed is None:
            raise ValueError("this EmbeddedRetriever was made without embed, and has no vectors")
        [vector] = await embedded(self._embed, [well_formed(query)])
        return await self._run(partial(_by_vectors, query=packed(vector), k=k, filters=filters))

    async def hybrid_search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best documents of both rankings, by reciprocal-rank fusion. Raises as `vector_search` does."""
        by_vectors = await self.vector_search(query, depth(k), filters)
        return fused([await self.search(query, depth(k), filters), by_vectors], k)

    async def get(self, id: str) -> Document | None:
        """The document with this id, None if there is none. Raises RetrieverError, RuntimeError once it is closed."""
        return await self._run(partial(_document, id=well_formed(id)))

    async def aclose(self) -> None:
        """Close the file, or forget what is in memory. A search that runs is waited for."""
        with anyio.CancelScope(shield=True):
            await run_sync(self._close)

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "with vectors" if self.has_vectors else "words alone"
        return f"<EmbeddedRetriever {self._name} ({state})>"

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _run(self, ask: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """Ask in a thread. One that is cancelled goes on until SQLite next looks up, and nobody waits for it."""
        given_up = threading.Event()

        def locked() -> _Answer:
            with self._lock:
                if self._connection is None:
                    raise RuntimeError(f"the EmbeddedRetriever on {self._name} is closed")
                self._connection.set_progress_handler(given_up.is_set, _STEPS)
                return ask(self._connection)

        try:
            return await run_sync(locked, abandon_on_cancel=True)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise RetrieverError(f"the index in {self._name!r} could not be read: {error}") from error
        finally:
            given_up.set()


def _discard(connection: sqlite3.Connection | None, path: str | Path | None) -> None:
    if connection is not None:
        connection.close()
    if path is not None:
        Path(path).unlink(missing_ok=True)


def _open(path: str, vectors: bool) -> sqlite3.Connection:
    connection = connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    try:
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (APPLICATION, VERSION):
            raise ValueError(f"{path!r} is a database of another program, or of another version of this one")
        bare = "SELECT 1 FROM documents WHERE vector IS NULL LIMIT 1"
        if vectors and connection.execute(bare).fetchone():
            raise ValueError(f"{path!r} was made without embed, and has no vectors")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ValueError(f"{path!r} is no index of an EmbeddedRetriever: {error}") from error
    except ValueError:
        connection.close()
        raise
    return connection


async def _build(connection: sqlite3.Connection, documents: Iterator[Document], embed: Embed | None) -> None:
    await run_sync(connection.executescript, f"BEGIN; {SCHEMA}")
    while batch := await run_sync(lambda: list(islice(documents, BATCH))):
        vectors: Sequence[bytes | None] = [None] * len(batch)
        if embed is not None:
            given = await embedded(embed, [well_formed(document.text) for document in batch])
            vectors = [packed(vector) for vector in given]
        await run_sync(_insert, connection, batch, vectors)
    # not by executescript, which commits before it begins
    await run_sync(connection.execute, "INSERT INTO words (words) VALUES ('rebuild')")
    await run_sync(connection.execute, "COMMIT")


def _insert(connection: sqlite3.Connection, batch: Sequence[Document], vectors: Sequence[bytes | None]) -> None:
    for document, vector in zip(batch, vectors, strict=True):
        try:
            metadata = well_formed(json.dumps(document.metadata, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the metadata of document {document.id!r} is not JSON-like: {error}") from error
        row = (well_formed(document.id), well_formed(document.text), metadata, vector)
        try:
            connection.execute("INSERT INTO documents (id, text, metadata, vector) VALUES (?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"there are two documents with the id {document.id!r}") from error


def _match(terms: Terms) -> str:
    """An FTS5 query for any of the terms. They hold letters and digits only; quoted, none is an operator."""
    return " OR ".join(f'"{term}"' for term in (*terms.phrases, *terms.words))


def _by_words(connection: sqlite3.Connection, *, match: str, k: int, filters: Filters | None) -> list[Hit]:
    condition, values = _condition(filters)
    best = connection.execute(_BEST.format(condition=condition), (match, *values, k)).fetchall()
    numbers = json.dumps([number for number, _ in best])
    return _hits(best, connection.execute(_SNIPPETS, (_PREVIEW_TOKENS, match, numbers)))


def _by_vectors(connection: sqlite3.Connection, *, query: bytes, k: int, filters: Filters | None) -> list[Hit]:
    condition, values = _condition(filters)
    rows = connection.execute(f"SELECT number, vector FROM documents WHERE {condition}", values)
    # the smaller number first where two are alike
    best = heapq.nlargest(k, _compared(rows, query), key=lambda scored: (scored[1], -scored[0]))
    numbers = json.dumps([number for number, _ in best])
    return _hits(best, connection.execute(_BEGINNINGS, (_PREVIEW_CHARS, numbers)))


def _compared(rows: sqlite3.Cursor, query: bytes) -> Iterator[tuple[int, float]]:
    while batch := rows.fetchmany(BATCH):
        scores = similarities(query, [vector for _, vector in batch])
        yield from ((number, score) for (number, _), score in zip(batch, scores, strict=True))


def _hits(best: Sequence[tuple[int, float]], rows: Iterable[tuple[int, str, str, str]]) -> list[Hit]:
    found = {number: (id, preview, metadata) for number, id, preview, metadata in rows}
    return [
        Hit(id, score, preview[:_PREVIEW_CHARS], msgspec.json.decode(metadata))
        for number, score in best
        for id, preview, metadata in [found[number]]
    ]


def _document(connection: sqlite3.Connection, *, id: str) -> Document | None:
    row = connection.execute("SELECT text, metadata FROM documents WHERE id = ?", (id,)).fetchone()
    return None if row is None else Document(id, row[0], msgspec.json.decode(row[1]))


def _condition(filters: Filters | None) -> tuple[str, list[str]]:
    """Filters as SQL, and the values to bind. No text of a filter is in the SQL."""
    conditions: list[str] = ["TRUE"]
    values: list[str] = []
    for each in wanted(filters):
        conditions.append(_MISSING_OR_ONE_OF if each.missing else _ONE_OF)
        values += [each.field] * (2 if each.missing else 1)
        values.append(json.dumps(each.values, ensure_ascii=False))
    return " AND ".join(conditions), values


# The fields are walked, not named by a JSON path: a path cannot hold every name. A list has each of its values.
_ONE_OF = """EXISTS (
    SELECT 1 FROM json_each(documents.metadata) AS field, json_each(
        CASE field.type WHEN 'array' THEN field.value ELSE json_array(field.value) END
    ) AS held
    WHERE field.key = ? AND held.value IN (SELECT value FROM json_each(?))
)"""
_MISSING_OR_ONE_OF = f"""(
    NOT EXISTS (SELECT 1 FROM json_each(documents.metadata) AS field WHERE field.key = ? AND field.type != 'null')
    OR {_ONE_OF}
)"""
