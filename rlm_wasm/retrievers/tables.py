"""What an index of an EmbeddedRetriever is as a file: its tables, and how it is known. Runs no search."""

from __future__ import annotations

import sqlite3

# "rlmw" in ASCII: what `PRAGMA application_id` is for
APPLICATION = 0x726C6D77
VERSION = 1
# documents: of one insert, of one call to embed (vendors take some hundred texts at once), of one comparison
BATCH = 256

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB
);
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = 'documents', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2'
);
"""


def connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time. Transactions are begun by name."""
    return sqlite3.connect(name, check_same_thread=False, isolation_level=None, uri=uri)
