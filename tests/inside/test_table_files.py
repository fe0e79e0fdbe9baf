"""CSV, JSON, JSON lines and SQLite as the sandbox reads them: what is damaged is told of, and nothing is lost."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from pathlib import Path

import pandas
import pytest

from rlm_wasm.inside.table_files import (
    CsvFile,
    describe_database,
    open_database,
    read_json,
    read_lines,
)


def csv_of(text: str, delimiter: str | None = None, header: bool = True) -> CsvFile:
    return CsvFile(text, delimiter, header)


# --- CSV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a;b\r\n1;2,5\r\n", [{"a": "1", "b": "2,5"}]),
        ("a\tb\n1\t2", [{"a": "1", "b": "2"}]),
        ("a|b\r1|2\r", [{"a": "1", "b": "2"}]),
        ('a,b\n"1\n,""x""",2\n', [{"a": '1\n,"x"', "b": "2"}]),
        ("\n\na,b\n\n1,2\n\n", [{"a": "1", "b": "2"}]),
        ("a\n007\n", [{"a": "007"}]),
        ("a,b\nx\x0cy\u2028z,\0\n", [{"a": "x\x0cy\u2028z", "b": "\0"}]),
        ("a,b\n", []),
        ("", []),
    ],
)
def test_a_csv_text_is_read_as_it_is(text: str, rows: list[dict[str, str]]) -> None:
    read = csv_of(text)
    assert read.records() == rows
    assert (read.bad, read.notes) == ([], [])


def test_ragged_rows_are_kept_whole_beside_the_table_and_their_lines_are_said() -> None:
    read = csv_of('a,b\n1,2\n3\n4,5,6\n"x\ny",7\n8,9,,\n')
    assert [list(row.values()) for row in read.records()] == [
        ["1", "2"],
        ["3", None],
        ["4", "5"],
        ["x\ny", "7"],
        ["8", "9"],
    ]
    assert read.bad == [
        {"line": 3, "fields": ["3"]},
        {"line": 4, "fields": ["4", "5", "6"]},
        {"line": 7, "fields": ["8", "9", "", ""]},
    ]
    assert read.notes == [
        "3 rows do not have 2 fields, lines 3, 4, 7: what is missing is None, what is too much is cut off"
    ]


def test_a_row_that_no_csv_has_is_kept_as_text_and_the_rest_is_read() -> None:
    read = csv_of("a,b\n1,2\nx\ry,3\n4,5\n")
    assert [row["a"] for row in read.records()] == ["1", "4"]
    assert [(row["line"], row["text"]) for row in read.bad] == [(3, "x\ry,3\n")]


def test_a_quotation_mark_that_is_never_closed_is_told_of() -> None:
    read = csv_of('a,b\n1,2\n"3,4\n5,6\n')
    assert read.records()[-1] == {"a": "3,4\n5,6\n", "b": None}
    assert any("quotation marks is odd" in note for note in read.notes)


def test_names_that_are_missing_or_come_twice_are_made() -> None:
    read = csv_of("a,,a\n1,2,3\n")
    assert read.records() == [{"a": "1", "column_2": "2", "a_2": "3"}]
    assert read.notes == ["column 'a' comes more than once: the next is 'a_2'"]
    assert csv_of("1,2\n3,4\n", header=False).records() == [
        {"column_1": "1", "column_2": "2"},
        {"column_1": "3", "column_2": "4"},
    ]


def test_a_field_of_many_megabytes_is_read() -> None:
    assert len(csv_of(f"a,b\n{'x' * 5_000_000},1\n").records()[0]["a"] or "") == 5_000_000


def test_a_frame_has_the_types_that_pandas_finds_and_codes_stay_text() -> None:
    read = csv_of("n,code,name,x\n1,007,NA,1.5\n2,100,,\n3\n")
    frame = read.frame(pandas)
    assert [str(dtype) for dtype in frame.dtypes] == ["int64", "str", "str", "float64"]
    assert frame["code"].tolist()[:2] == ["007", "100"]
    assert frame["name"].tolist()[0] == "NA"
    assert frame["name"].isna().tolist() == [False, True, True]
    assert (len(read.bad), len(frame)) == (1, 3)
    assert len(csv_of("").frame(pandas)) == 0


def test_a_frame_and_records_agree() -> None:
    text = pandas.DataFrame({"a": ["x,y", 'q"', "l\nm"], "b": ["ü", "🙂", " "]}).to_csv(index=False)
    assert csv_of(text).frame(pandas).to_dict("records") == csv_of(text).records()
    assert pandas.read_csv(io.StringIO(text)).to_dict("records") == csv_of(text).records()


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_lines_that_are_no_json_are_kept_beside_the_others() -> None:
    notes: list[str] = []
    values, bad = read_lines('{"a": 1}\n\nnonsense\r\n[2]\n{"a": \n' + "[" * 100_000, notes)
    assert values == [{"a": 1}, [2]]
    assert [(row["line"], row["text"][:8]) for row in bad] == [(3, "nonsense"), (5, '{"a": '), (6, "[" * 8)]
    assert notes == ["3 lines are no JSON and left out: lines 3, 5, 6"]


def test_a_text_that_is_no_json_is_refused_with_its_place() -> None:
    assert read_json('[{"a": 1}]', "x.json") == [{"a": 1}]
    with pytest.raises(ValueError, match=r"'x.json' is no JSON that can be read: Extra data: line 2 column 1"):
        read_json('{"a": 1}\n{"a": 2}\n', "x.json")


@pytest.mark.parametrize("opened", ["[", '["]",', '{"a":', '{"}":[', '["\\"]",'])
def test_a_text_that_is_nested_so_deeply_that_it_would_end_the_interpreter_is_refused(opened: str) -> None:
    closed = "".join(
        {"[": "]", "{": "}"}[mark]
        for mark in reversed(re.sub(r'"[^"]*"', "", opened.replace('\\"', "")))
        if mark in "[{"
    )
    for text in (opened * 100_000, opened * 1000 + "1" + closed * 1000):
        with pytest.raises(ValueError, match="nested more than 200 deep"):
            read_json(text, "x.json")
    assert read_json(opened * 100 + "1" + closed * 100, "x.json")
    many = [{"a": [[["x]", "[["]]]}] * 1000
    assert read_json(json.dumps(many), "x.json") == many


# --- SQLite --------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "odd ""name""" (id INTEGER PRIMARY KEY, name TEXT)')
        connection.executemany('INSERT INTO "odd ""name""" VALUES (?, ?)', [(n, f"name {n}") for n in range(5000)])
        connection.execute('CREATE VIEW firsts AS SELECT * FROM "odd ""name""" LIMIT 3')
    connection.close()
    return path


def test_a_database_is_copied_into_memory_and_described(database: Path) -> None:
    notes: list[str] = []
    connection = open_database("shop.db", [database.read_bytes()], [], notes)
    assert connection.execute("SELECT count(*) FROM firsts").fetchone() == (3,)
    told = describe_database(connection, 30)
    assert (
        told == '2 tables: `odd "name"` (id INTEGER, name TEXT; 5,000 rows); `firsts` (id INTEGER, name TEXT; a view)'
    )
    assert notes == []
    connection.close()


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_changes_that_are_not_in_the_file_yet_are_worked_in_or_undone(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "log.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute(f"PRAGMA journal_mode = {mode}")
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("CREATE TABLE t (x)")
    writer.execute("BEGIN")
    writer.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
    if mode == "WAL":
        writer.execute("COMMIT")
    suffix = "-wal" if mode == "WAL" else "-journal"
    beside = path.with_name(path.name + suffix).read_bytes()
    connection = open_database("log.db", [path.read_bytes(), beside], [suffix], [])
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (100 if mode == "WAL" else 0,)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    writer.close()


def test_a_damaged_database_is_told_of_and_one_that_is_none_refused(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[3 * 4096 + 8 : 6 * 4096] = b"\xff" * (3 * 4096 - 8)
    notes: list[str] = []
    connection = open_database("shop.db", [bytes(content)], [], notes)
    assert notes[0].startswith("the database is damaged: ")
    assert describe_database(connection, 30)
    connection.close()
    for broken in (b"SQLite format 3\0" + b"\xff" * 5000, b"no database at all" * 100):
        with pytest.raises(ValueError, match=r"'x.db' cannot be read as a SQLite database"):
            open_database("x.db", [broken], [], [])
