"""Keeps a client's replies in a file, so that the same question is paid for once.

Owns the file, its key and which of several equal calls asks. What a model is and how it is asked is the business of
the client it wraps.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from anyio import CancelScope, Event, to_thread
from anyio.abc import AsyncResource
from anyio.lowlevel import current_token

from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.protocol import Client, Message, OnText, Reply
from rlm_wasm.clients.streams import Telling
from rlm_wasm.clients.tools import offered
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Tool, ToolCall

# "rlmR": how a file of ours is told from another program's.
_APPLICATION = 0x726C6D52
_TABLE = "CREATE TABLE replies (key BLOB PRIMARY KEY, text BLOB NOT NULL, model TEXT, calls TEXT)"
_HAS_CALLS = "SELECT count(*) FROM pragma_table_info('replies') WHERE name = 'calls'"


class CachedClient(AsyncResource):
    """A `Client` that answers from the SQLite file at `path` what it was asked before, and asks `client` the rest.

    Two calls are the same if the model's name, the messages with the calls of a tool in them, `max_output_tokens`, the
    tool and `parameters` are, to the letter.
    What else changes a reply (temperature, a server's address) the wrapped client does not tell, so give it as
    `parameters`, JSON-like. A model that is asked the same twice in order to have two opinions gets one.

    A reply from the file has `cached=True` and no tokens, so it costs nothing; a run's `Budget` still counts the call,
    and reserves its price until the reply is there. Only replies are kept, never errors. Of equal calls at once in one
    event loop one asks, and the others get its reply, or its `ClientError`; if it is cancelled, the next one asks.

    Many tasks, threads and processes may share the file, on a local disk; it is opened on first use and closed by
    `async with` or `aclose()`, which leaves the wrapped client open. Do not fork a process that has it open. Raises
    TypeError for `parameters` that are not JSON-like.
    """

    def __init__(
        self, client: Client, path: str | os.PathLike[str], *, parameters: Mapping[str, object] | None = None
    ) -> None:
        self._client = client
        self._file = _File(Path(path))
        self._parameters = json.dumps(parameters, sort_keys=True)
        self._flights: dict[tuple[object, bytes], _Flight] = {}

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced: the wrapped client's."""
        return self._client.model

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Answer from the file, or ask and keep the reply. `on_text` is told a kept reply in one piece.

        Raises `ClientError` where the file cannot be read, and what the wrapped client raises; TypeError for a `tool`
        that the wrapped client cannot offer. A reply that cannot be kept (a full disk) is a RuntimeWarning and is
        handed back all the same, because it was paid for.
        """
        telling = Telling(on_text)
        known = {**offered(tool, self._client), **telling.through(self._client)}
        options = {"max_output_tokens": max_output_tokens, **known}
        key = _key(self.model, messages, max_output_tokens, self._parameters, tool)
        reply = await self._answer_once(key, messages, options)
        telling.finish(reply.text)
        return reply

    async def aclose(self) -> None:
        """Close the file. Used again, the client opens it again."""
        await to_thread.run_sync(self._file.close)

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    def __repr__(self) -> str:
        return f"CachedClient({self._client!r}, {str(self._file.path)!r})"

    async def _answer_once(self, key: bytes, messages: Sequence[Message], options: Mapping[str, Any]) -> Reply:
        """The reply to a call, of which only one is asked at a time."""
        # Futures and events belong to one event loop, so equal calls of two loops do not know of each other.
        place = current_token().native_token, key
        while (flight := self._flights.get(place)) is not None:
            await flight.ended.wait()
            if flight.reply is not None:
                return _free(flight.reply)
            if (failure := flight.failure) is not None:
                # An error of its own: the leader's, raised twice, would grow two tracebacks in one.
                raise ClientError(
                    str(failure),
                    status=failure.status,
                    transient=failure.transient,
                    retry_after=failure.retry_after,
                ) from failure
        flight = self._flights[place] = _Flight()
        try:
            flight.reply = await self._answer(key, messages, options)
            return flight.reply
        except ClientError as error:
            flight.failure = error
            raise
        finally:
            del self._flights[place]
            flight.ended.set()

    async def _answer(self, key: bytes, messages: Sequence[Message], options: Mapping[str, Any]) -> Reply:
        if (kept := await to_thread.run_sync(self._file.find, key, abandon_on_cancel=True)) is not None:
            return kept
        reply = await self._client.complete(messages, **options)
        if not reply.cached:  # of two caches, one inside the other, the inner one keeps it
            # Shielded, because it is paid for; another process holds the file for milliseconds.
            with CancelScope(shield=True):
                await to_thread.run_sync(self._file.keep, key, reply)
        return reply


class _Flight:
    """One call that others, equal to it, wait for. Without reply and failure at its end it was cancelled."""

    def __init__(self) -> None:
        self.ended = Event()
        self.reply: Reply | None = None
        self.failure: ClientError | None = None


class _File:
    """The replies on disk. Blocks: it is called in worker threads, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def find(self, key: bytes) -> Reply | None:
        """The reply under a key. Raises `ClientError` for a file that cannot be read or is not ours."""
        try:
            with self._turn:
                row = self._open().execute("SELECT text, model, calls FROM replies WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            text, model, calls = row
            made = msgspec.convert(json.loads(calls or "[]"), tuple[ToolCall, ...])
            return Reply(text.decode("utf-8", "surrogatepass"), 0, 0, cached=True, model=model, calls=made)
        except sqlite3.OperationalError as error:
            raise ClientError(f"the cache {self.path} cannot be used ({error})") from error
        except (sqlite3.DatabaseError, AttributeError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise ClientError(
                f"the cache {self.path} is damaged ({error}): delete it, with {self.path.name}-wal and "
                f"{self.path.name}-shm beside it, and it is filled anew"
            ) from error

    def keep(self, key: bytes, reply: Reply) -> None:
        """Keep a reply; one that is there already stays. Warns where that cannot be done."""
        calls = json.dumps([msgspec.structs.asdict(call) for call in reply.calls]) if reply.calls else None
        row = (key, reply.text.encode("utf-8", "surrogatepass"), reply.model, calls)
        try:
            with self._turn:
                self._open().execute("INSERT INTO replies VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
        except (sqlite3.Error, ClientError) as error:
            warnings.warn(f"a reply could not be kept in {self.path}: {error}", RuntimeWarning, stacklevel=2)

    def close(self) -> None:
        """Close the file, if it is open."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # 10 s is how long to wait for another process's write. Threads share the connection, in turn.
            connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # NORMAL: after a power cut the last replies may be missing, and the file is whole.
        connection.execute("PRAGMA synchronous = NORMAL")
        if _number(connection, "PRAGMA application_id") != _APPLICATION:
            # IMMEDIATE, so that of two processes at a new file one makes the table and the other sees it.
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                if _number(connection, "PRAGMA application_id") != _APPLICATION:
                    if _number(connection, "SELECT count(*) FROM sqlite_master"):
                        raise ClientError(f"{self.path} is another program's database: give the cache its own file")
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        if not _number(connection, _HAS_CALLS):
            # A file from before there were calls. IMMEDIATE as above.
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                if not _number(connection, _HAS_CALLS):
                    connection.execute("ALTER TABLE replies ADD COLUMN calls TEXT")
        # Readers and a writer at once. It stays in the file, so one process that succeeds is enough; on a file system
        # without shared memory none does, and they take turns.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return connection.execute(statement).fetchone()[0]


def _free(reply: Reply) -> Reply:
    return msgspec.structs.replace(
        reply, input_tokens=0, output_tokens=0, estimated=False, cached=True, cache_reads=0, cache_writes=0
    )


def _key(
    model: str, messages: Sequence[Message], max_output_tokens: int | None, parameters: str, tool: Tool | None
) -> bytes:
    """SHA-256 over all that a call is. JSON, so that no two different calls are the same text."""
    # What has to do with tools is added only where there is some, so that the keys of other calls stay what they were.
    chat = [_told(message) for message in messages]
    added = [] if tool is None else [msgspec.structs.astuple(tool)]
    call = json.dumps([model, chat, max_output_tokens, parameters, *added], ensure_ascii=False)
    return hashlib.sha256(call.encode("utf-8", "surrogatepass")).digest()


def _told(message: Message) -> list[object]:
    told: list[object] = [message.role, message.content]
    if message.calls or message.answers:
        told += [[msgspec.structs.astuple(call) for call in message.calls], message.answers]
    told += [[hashlib.sha256(image.content).hexdigest(), image.url] for image in message.images]
    return told
