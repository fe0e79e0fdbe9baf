"""Files that are tables, read where nothing can be harmed: CSV, JSON, JSON lines and SQLite.

What is damaged is told of and kept beside the rest; only what cannot be read at all is a ValueError. Knows nothing of
the REPL.
"""

# pandas is what can be imported where this runs: its types are not known here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["CsvFile", "describe_database", "open_database", "read_json", "read_lines"]

_MOST_FIELD = 2**31 - 1
_SHOWN_LINES = 5
# of a damaged database, how many steps of its machine are made to look at it: some seconds
_STEPS, _TIMES = 1_000_000, 200


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends, which are line feeds alone."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _at(bad: Sequence[Mapping[str, Any]]) -> str:
    lines = ", ".join(f"{row['line']:,}" for row in bad[:_SHOWN_LINES])
    more = f" and {len(bad) - _SHOWN_LINES:,} more" if len(bad) > _SHOWN_LINES else ""
    return f"line{'' if len(bad) == 1 else 's'} {lines}{more}"


# --- CSV -----------------------------------------------------------------------------------------------------------


class CsvFile:
    """A CSV text: its columns' `names`, its `rows`, and once those are read `bad`, rows with another number of fields.

    Each of `bad` is a dict with `line` (where the row ends), and `fields` as they are, or `text` and `error`.
    """

    def __init__(self, text: str, delimiter: str | None, header: bool) -> None:
        csv.field_size_limit(_MOST_FIELD)
        self.text = text if "\n" in text else text.replace("\r", "\n")
        self.delimiter = delimiter or _delimiter(self.text)
        self.bad: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._header = header
        self._line = ""
        self._reader = csv.reader(self._lines(), delimiter=self.delimiter)
        none: list[str] = []
        first = next((row for row in self._rows() if row), none)
        self._first = [] if header or not first else [first]
        self.names = self._named(first if header else [""] * len(first))

    def _lines(self) -> Iterator[str]:
        for line in lines_of(self.text):
            self._line = line
            yield line

    def _rows(self) -> Iterator[list[str]]:
        while True:
            try:
                yield from self._reader
                return
            except csv.Error as error:
                self.bad.append({"line": self._reader.line_num, "text": self._line, "error": str(error)})

    def _named(self, first: Sequence[str]) -> list[str]:
        names: list[str] = []
        for place, text in enumerate(first, start=1):
            name = text = text.strip() or f"column_{place}"
            number = 2
            while name in names:
                name, number = f"{text}_{number}", number + 1
            if name != text:
                self.notes.append(f"column {text!r} comes more than once: the next is {name!r}")
            names.append(name)
        return names

    def rows(self) -> Iterator[Sequence[str | None]]:
        """All rows, each with as many fields as there are names: what is missing is None, what is too much is cut."""
        width = len(self.names)
        yield from self._first
        for row in self._rows():
            if len(row) == width:
                yield row
            elif row:
                self.bad.append({"line": self._reader.line_num, "fields": row})
                yield [*row[:width], *[None] * (width - len(row))]
        self._tell()

    def _tell(self) -> None:
        if self.bad:
            number = f"{len(self.bad):,} row{' does' if len(self.bad) == 1 else 's do'}"
            self.notes.append(
                f"{number} not have {len(self.names):,} fields, {_at(self.bad)}: what is missing is None, "
                "what is too much is cut off"
            )
        if self.text.count('"') % 2:
            self.notes.append("the number of quotation marks is odd: a field may hold lines that are no part of it")

    def records(self) -> list[dict[str, str | None]]:
        """The rows as dicts of texts."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows()]

    def frame(self, pandas: Any) -> Any:
        """The rows as a DataFrame, whose columns have the types that pandas finds.

        Columns of numbers that begin with a zero, as codes do, stay text; and only an empty field is no value.
        """
        zeros = re.search(rf"(?:^|[{re.escape(self.delimiter)}\"\n])0[0-9]", self.text) is not None
        texts: set[int] = set()
        if not self.names:
            return pandas.DataFrame()
        # every row with as many fields as the others
        even = io.BytesIO()
        text = io.TextIOWrapper(even, "utf-8", "surrogatepass", newline="")
        writer = csv.writer(text)
        for row in self.rows():
            writer.writerow(row)
            if zeros:
                texts.update(place for place, field in enumerate(row) if field and _is_code(field))
        text.detach()
        even.seek(0)
        return pandas.read_csv(
            even,
            names=self.names,
            header=None,
            index_col=False,
            dtype={self.names[place]: str for place in texts},
            keep_default_na=False,
            na_values=[""],
            skip_blank_lines=False,
        )


def _is_code(field: str) -> bool:
    return field[0] == "0" and field[1:2].isdigit()


def _delimiter(text: str) -> str:
    """What stands most often in the first line, outside of quotation marks: a comma where nothing does."""
    first = re.sub(r'"[^"]*"', "", next((line for line in lines_of(text[:100_000]) if line.strip()), ""))
    return max(",;\t|", key=first.count)


# --- JSON ----------------------------------------------------------------------------------------------------------

# levels: far more than tables have, and far fewer than end an interpreter in WebAssembly, which no exception tells of
_DEEPEST = 200
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_depth(text: str) -> None:
    """Raise ValueError for a text that is nested too deeply to be read."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return
    brackets = _STRINGS.sub("", text).encode("utf-8", "replace").translate(None, _NO_BRACKETS)
    for _ in range(_DEEPEST):
        # the innermost go: a level at a time, or what is left closes nothing
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    if len(brackets) > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST:,} deep, or its brackets do not match")


def read_lines(text: str, notes: list[str]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The values of JSON lines in order, and the lines that are none: each a dict with `line`, `text` and `error`."""
    values: list[Any] = []
    bad: list[dict[str, Any]] = []
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            _check_depth(line)
            values.append(json.loads(line))
        except ValueError as error:
            bad.append({"line": number, "text": line.rstrip("\r\n"), "error": str(error)})
    if bad:
        notes.append(f"{len(bad):,} line{' is' if len(bad) == 1 else 's are'} no JSON and left out: {_at(bad)}")
    return values, bad


def read_json(text: str, name: str) -> Any:
    """The value of a JSON text. Raises ValueError that names the file."""
    try:
        _check_depth(text)
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is no JSON that can be read: {error}; is there a value a line? Then it is jsonl"
        ) from None


# --- SQLite --------------------------------------------------------------------------------------------------------


def open_database(name: str, contents: Sequence[bytes], beside: Sequence[str], notes: list[str]) -> sqlite3.Connection:
    """A connection to a copy of the database in memory, with the changes that were in files beside it.

    Raises ValueError for what is no database.
    """
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        content = _with_changes(contents, beside) if beside else contents[0]
        if content:
            connection.deserialize(content)
        # what a stranger wrote into the schema may call nothing that has effects
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise ValueError(f"{name!r} cannot be read as a SQLite database: {error}") from None
    with _Bounded(connection):
        try:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            said = str(error)
    if said not in ("ok", "interrupted"):
        notes.append(f"the database is damaged: {said}")
    return connection


def _with_changes(contents: Sequence[bytes], beside: Sequence[str]) -> bytes:
    """The database after SQLite has worked into it what a log or a journal beside it says."""
    folder = tempfile.mkdtemp()
    try:
        for suffix, content in zip(("", *beside), contents, strict=True):
            with open(f"{folder}/database{suffix}", "wb") as file:
                file.write(content)
        connection = sqlite3.connect(f"{folder}/database")
        # without it a log asks for memory that is shared with other processes
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.close()
        with open(f"{folder}/database", "rb") as file:
            return file.read()
    finally:
        shutil.rmtree(folder)


class _Bounded:
    """Within it a query of the connection ends after some seconds, as interrupted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._times = 0

    def __enter__(self) -> None:
        self._connection.set_progress_handler(self._step, _STEPS)

    def __exit__(self, *exception: object) -> None:
        self._connection.set_progress_handler(None, 0)

    def _step(self) -> bool:
        self._times += 1
        return self._times > _TIMES


def describe_database(connection: sqlite3.Connection, most: int) -> str:
    """The tables of a database with their columns and sizes, as many as `most`."""
    query = (
        "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite@_%' ESCAPE '@'"
    )
    named = connection.execute(f"{query} ORDER BY rowid").fetchall()
    with _Bounded(connection):
        told = [_describe_table(connection, name, kind, most) for name, kind in named[:most]]
    more = f"; and {len(named) - most:,} more" if len(named) > most else ""
    tables = f"{len(named):,} table{'' if len(named) == 1 else 's'}"
    return f"{tables}{': ' if named else ''}{'; '.join(told)}{more}"


def _describe_table(connection: sqlite3.Connection, name: str, kind: str, most: int) -> str:
    shown = name if len(name) <= 60 else f"{name[:59]}…"
    try:
        columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (name,)).fetchall()
        quoted = name.replace('"', '""')
        query = f'SELECT count(*) FROM "{quoted}"'
        # a view may be any query at all
        rows = f"; {connection.execute(query).fetchone()[0]:,} rows" if kind == "table" else "; a view"
    except sqlite3.Error as error:
        return f"`{shown}` ({error})"
    listed = ", ".join(f"{column} {type}".strip()[:60] for column, type in columns[:most])
    more = f" and {len(columns) - most:,} more" if len(columns) > most else ""
    return f"`{shown}` ({listed}{more}{rows})"
