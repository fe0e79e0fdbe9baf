"""An index of files that is kept on disk: what is new or changed is read, piece by piece, and nothing else.

A first index is made beside its place and moved there when it is whole; one that a sudden end has cut short goes on
where it was. An index that is there is brought up to date in one transaction, so that what fails leaves it as it was.
Which texts are the same is told by their SHA-256: those have their vectors already. Knows nothing of searching.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from anyio.to_thread import run_sync

from rlm_wasm.errors import RetrieverError
from rlm_wasm.locks import LockBeside, Taken
from rlm_wasm.retrievers.pieces import LeftOut, Named, named_files, pieces, reason
from rlm_wasm.retrievers.protocol import Embed
from rlm_wasm.retrievers.tables import APPLICATION, BATCH, SCHEMA, VERSION, connect
from rlm_wasm.retrievers.vectors import embedded, packed

# of the tables below
_KEPT_VERSION = 1
# bytes, and files, between two words on how far it is
_STEP_BYTES, _STEP_FILES = 8 * 1024 * 1024, 256
# seconds: what was changed so shortly before it was read may be changed again without a later time
_FRESH = 2.0
# bytes of an index that is looked through before it is used; a larger one would take seconds
_CHECKED = 64 * 1024 * 1024

_KEPT_SCHEMA = f"""
CREATE TABLE kept (version INTEGER NOT NULL);
INSERT INTO kept VALUES ({_KEPT_VERSION});
CREATE TABLE files (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    sha256 BLOB NOT NULL
);
CREATE TABLE pieces (number INTEGER PRIMARY KEY, file INTEGER NOT NULL, sha256 BLOB NOT NULL);
CREATE INDEX pieces_of ON pieces (file);
CREATE TRIGGER entered AFTER INSERT ON documents BEGIN
    INSERT INTO words (rowid, text) VALUES (new.number, new.text);
END;
CREATE TRIGGER removed AFTER DELETE ON documents BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text);
    DELETE FROM pieces WHERE number = old.number;
END;
"""
# of one connection: what there is now, and the vectors of what was there
_OWN_SCHEMA = """
CREATE TEMP TABLE seen (number INTEGER PRIMARY KEY);
CREATE TEMP TABLE spare (sha256 BLOB PRIMARY KEY, vector BLOB NOT NULL);
"""
_SPARE = """
INSERT OR IGNORE INTO spare SELECT pieces.sha256, documents.vector FROM documents JOIN pieces USING (number)
WHERE pieces.file = ? AND documents.vector IS NOT NULL
"""
_REUSE = """
UPDATE documents SET vector = (
    SELECT spare.vector FROM spare JOIN pieces USING (sha256) WHERE pieces.number = documents.number
) WHERE vector IS NULL AND EXISTS (SELECT 1 FROM spare)
"""


class Indexing(NamedTuple):
    """How far the reading is: files and bytes, of how many; then texts that have their vectors, of how many."""

    files: int
    of_files: int
    bytes: int
    of_bytes: int
    embedded: int = 0
    of_embedded: int = 0


class Indexed(msgspec.Struct, frozen=True):
    """What is in an index that was brought up to date, and what that took.

    `files` and `documents` are in it. `added`, `changed` and `removed` files were. `left_out` are names of files and
    why they are not in it. `rebuilt` is what was wrong with the index that was there, if it was made anew.
    """

    files: int = 0
    documents: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    rebuilt: str | None = None


Progress = Callable[[Indexing], object]


async def bring_up(
    path: Path, paths: Sequence[Path], embed: Embed | None, *, errors: str, progress: Progress | None
) -> Indexed:
    """Have an index of these files at `path`. Raises as `EmbeddedRetriever.index`, and sqlite3.Error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = LockBeside(path)
    try:
        await run_sync(lock.__enter__)
    except Taken:
        raise RetrieverError(f"another program brings the index {str(path)!r} up to date: wait for its end") from None
    try:
        named, left_out = await run_sync(named_files, paths, path)
        wrong = await run_sync(_wrong, path)
        if wrong is None and await run_sync(path.exists):
            try:
                return await _update(path, named, left_out, embed, errors, progress, first=False)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                wrong = f"it is damaged ({error})"
        new = path.with_name(f".{path.name}.new")
        if not await run_sync(_goes_on, new):
            _remove(new)
        try:
            indexed = await _update(new, named, left_out, embed, errors, progress, first=True)
        except sqlite3.Error:
            # on a full disk half of an index is in the way
            _remove(new)
            raise
        # what lies beside a database belongs to it by its name
        _remove(path)
        os.replace(new, path)
        return msgspec.structs.replace(indexed, rebuilt=wrong)
    finally:
        lock.__exit__()


def _wrong(path: Path) -> str | None:
    """Why what is at `path` is to be made anew; None if it is an index, or if nothing is there.

    Raises ValueError for what is no index of ours, which is nobody's to remove.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    with path.open("rb") as file:
        database = file.read(16) == b"SQLite format 3\0"
    connection = connect(str(path))
    try:
        if not database or connection.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            raise ValueError(f"{str(path)!r} is no index of an EmbeddedRetriever: choose another place for the index")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION or connection.execute("SELECT version FROM kept").fetchone() != (_KEPT_VERSION,):
            return "it is of another version"
        if path.stat().st_size <= _CHECKED:
            [sound] = connection.execute("PRAGMA quick_check(1)").fetchone()
            return None if sound == "ok" else f"it is damaged ({sound})"
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        raise ValueError(
            f"{str(path)!r} was made by from_documents or from_paths: choose another place for the index"
        ) from None
    except sqlite3.DatabaseError as error:
        return f"it is damaged ({error})"
    finally:
        connection.close()
    return None


def _goes_on(new: Path) -> bool:
    """Whether what is there is an index that was begun."""
    try:
        return _wrong(new) is None
    except (ValueError, sqlite3.Error):
        return False


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


async def _update(
    path: Path,
    named: Sequence[Named],
    left_out: list[tuple[str, str]],
    embed: Embed | None,
    errors: str,
    progress: Progress | None,
    *,
    first: bool,
) -> Indexed:
    connection = await run_sync(_begun, path)
    update = _Update(connection, named, left_out, errors, first=first)
    steps = update.steps()
    try:
        while (step := await run_sync(next, steps, None)) is not None:
            if progress is not None:
                progress(step)
        if embed is not None:
            await _embed(connection, embed, update, progress)
        return await run_sync(update.end)
    finally:
        steps.close()
        # what was not committed is undone
        connection.close()


def _begun(path: Path) -> sqlite3.Connection:
    connection = connect(str(path))
    try:
        # whoever searches meanwhile finds what was there before
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_OWN_SCHEMA)
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'kept'").fetchone() is None:
            # not by executescript, which commits what was begun
            connection.execute("ROLLBACK")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {_KEPT_SCHEMA}")
    except BaseException:
        connection.close()
        raise
    return connection


class _Update:
    """One index being brought up to date, in steps that are to be taken one after the other, in any thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        named: Sequence[Named],
        left_out: list[tuple[str, str]],
        errors: str,
        *,
        first: bool,
    ) -> None:
        self._connection = connection
        self._named = named
        self._left_out = left_out
        self._errors = errors
        self._first = first
        self._added = self._changed = self._removed = 0
        self.reached = Indexing(0, len(named), 0, sum(file.size for file in named))

    def steps(self) -> Generator[Indexing]:
        """Read what is new or changed, and drop what is gone."""
        files = passed = told = 0
        for files, file in enumerate(self._named, start=1):
            try:
                for read in self._enter(file):
                    if passed + read - told >= _STEP_BYTES:
                        told = passed + read
                        yield self._reached(files - 1, told)
            except LeftOut as error:
                self._left_out.append((file.name, str(error)))
            passed += file.size
            if files % _STEP_FILES == 0 or passed - told >= _STEP_BYTES:
                told = passed
                self.keep()
                yield self._reached(files, passed)
        self._drop_what_is_gone()
        yield self._reached(files, passed)

    def _reached(self, files: int, passed: int) -> Indexing:
        self.reached = self.reached._replace(files=files, bytes=passed)
        return self.reached

    def keep(self) -> None:
        """Commit, if it is a first index, which nobody searches yet."""
        if self._first:
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")

    def _enter(self, file: Named) -> Iterator[int]:
        """Have what the file holds now; gives the bytes that were read so far, again and again."""
        ask = "SELECT number, size, modified, sha256 FROM files WHERE name = ?"
        known = self._connection.execute(ask, (file.name,)).fetchone()
        if known is not None and known[1:3] == (file.size, file.modified):
            self._connection.execute("INSERT INTO seen VALUES (?)", known[:1])
            return
        if known is not None and self._is_the_same(file, known[0], known[3]):
            return
        self._connection.execute("SAVEPOINT file")
        try:
            number = self._number(file) if known is None else known[0]
            self._forget(number)
            digest = hashlib.sha256()
            with file.path.open("rb") as opened:
                for start, piece in pieces(opened, digest.update):
                    self._insert(file, number, start, piece)
                    yield start + len(piece)
                self._enter_status(file, number, os.fstat(opened.fileno()), digest.digest())
        except (OSError, LeftOut, sqlite3.IntegrityError) as error:
            self._connection.execute("ROLLBACK TO file")
            taken = "its name is that of a part of another" if isinstance(error, sqlite3.IntegrityError) else None
            raise LeftOut(taken or reason(error)) from None
        finally:
            self._connection.execute("RELEASE file")
        self._connection.execute("INSERT INTO seen VALUES (?)", (number,))
        self._added += known is None
        self._changed += known is not None

    def _number(self, file: Named) -> int:
        insert = "INSERT INTO files (name, size, modified, sha256) VALUES (?, 0, 0, x'') RETURNING number"
        [number] = self._connection.execute(insert, (file.name,)).fetchone()
        return number

    def _is_the_same(self, file: Named, number: int, digest: bytes) -> bool:
        """Whether a file with another date or size holds what it held; then that is noted."""
        try:
            with file.path.open("rb") as opened:
                if hashlib.file_digest(opened, "sha256").digest() != digest:
                    return False
                self._enter_status(file, number, os.fstat(opened.fileno()), digest)
        except OSError as error:
            raise LeftOut(reason(error)) from None
        self._connection.execute("INSERT INTO seen VALUES (?)", (number,))
        return True

    def _enter_status(self, file: Named, number: int, status: os.stat_result, digest: bytes) -> None:
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
            raise LeftOut("it was changed while it was read")
        modified = file.modified if file.modified < (time.time() - _FRESH) * 1e9 else -1
        row = (file.size, modified, digest, number)
        self._connection.execute("UPDATE files SET size = ?, modified = ?, sha256 = ? WHERE number = ?", row)

    def _insert(self, file: Named, number: int, start: int, piece: bytes) -> None:
        try:
            text = piece.decode("utf-8", self._errors)
        except UnicodeDecodeError as error:
            raise LeftOut(f"byte 0x{piece[error.start]:02x} at offset {start + error.start:,} is not UTF-8") from None
        if self._errors == "strict" and "\0" in text:
            raise LeftOut("it is no text: it holds a NUL")
        end = start + len(piece)
        whole = not start and end == file.size
        about = {"path": file.name, "suffix": Path(file.name).suffix, "start": start, "end": end}
        row = (file.name if whole else f"{file.name}[{start}:{end}]", text, json.dumps(about, ensure_ascii=False))
        insert = "INSERT INTO documents (id, text, metadata) VALUES (?, ?, ?)"
        document = self._connection.execute(insert, row).lastrowid
        digest = hashlib.sha256(piece).digest()
        self._connection.execute("INSERT INTO pieces VALUES (?, ?, ?)", (document, number, digest))

    def _forget(self, number: int) -> None:
        """Take out the documents of a file, but for the vectors."""
        self._connection.execute(_SPARE, (number,))
        of_file = "DELETE FROM documents WHERE number IN (SELECT number FROM pieces WHERE file = ?)"
        self._connection.execute(of_file, (number,))

    def _drop_what_is_gone(self) -> None:
        gone = "SELECT number FROM files WHERE number NOT IN (SELECT number FROM seen)"
        for [number] in self._connection.execute(gone).fetchall():
            self._forget(number)
            self._connection.execute("DELETE FROM files WHERE number = ?", (number,))
            self._removed += 1
        self._connection.execute(_REUSE)

    def end(self) -> Indexed:
        """Commit; gives what there is."""
        connection = self._connection
        connection.execute("COMMIT")
        # one file alone is left, where nobody searches in it now
        connection.execute("PRAGMA busy_timeout = 0")
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = DELETE")
        [files] = connection.execute("SELECT count(*) FROM files").fetchone()
        [documents] = connection.execute("SELECT count(*) FROM documents").fetchone()
        left_out = tuple(self._left_out)
        return Indexed(files, documents, self._added, self._changed, self._removed, left_out)


async def _embed(connection: sqlite3.Connection, embed: Embed, update: _Update, progress: Progress | None) -> None:
    """Have the vectors of the texts that have none."""
    [lacking] = connection.execute("SELECT count(*) FROM documents WHERE vector IS NULL").fetchone()
    done = 0
    while True:
        ask = "SELECT number, text FROM documents WHERE vector IS NULL LIMIT ?"
        batch = await run_sync(connection.execute(ask, (BATCH,)).fetchall)
        if not batch:
            return
        vectors = await embedded(embed, [text for _, text in batch])
        rows = [(packed(vector), number) for (number, _), vector in zip(batch, vectors, strict=True)]
        await run_sync(connection.executemany, "UPDATE documents SET vector = ? WHERE number = ?", rows)
        # they were paid for
        update.keep()
        done += len(batch)
        if progress is not None:
            progress(update.reached._replace(embedded=done, of_embedded=lacking))
