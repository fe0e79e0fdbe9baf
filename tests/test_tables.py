"""Frames and tables given to sandboxes and runs: what cells find, what a model is told, what comes back."""

from __future__ import annotations

import datetime
import logging
import sqlite3
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy
import pandas
import polars
import pytest

from rlm_wasm import RLM, Completion, Router, ScriptedClient, Trajectory, Usage, read_table
from rlm_wasm.contexts import as_text, fingerprint, is_small, prepare
from rlm_wasm.files import Files
from rlm_wasm.sampling import choose
from rlm_wasm.sandbox import Sandbox
from rlm_wasm.tables import Tables, find

pytestmark = pytest.mark.anyio

WITHIN = 120
SALES = pandas.DataFrame(
    {
        "id": [1, 2, 3],
        "region": ["north", None, "süd"],
        "total": [9.5, 0.0, -1.25],
        "when": pandas.to_datetime(["2024-01-01", "2024-01-02", None]),
    }
)


# --- sandboxes -----------------------------------------------------------------------------------------------------


async def test_a_frame_is_a_list_of_dicts_in_a_sandbox_without_pandas_and_again_in_a_fresh_child() -> None:
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            await sandbox.load(sales=SALES, year=2024)
            rows = await sandbox.get("sales")
            assert [row["region"] for row in rows] == ["north", None, "süd"]
            assert sum(row["total"] for row in rows) == 8.25
            assert rows[1]["when"] == datetime.datetime(2024, 1, 2)
            assert rows[2]["when"] is None
            # what it was made of is gone, and it is a variable like any other
            run = await sandbox.execute(
                "rows = sales; sorted(name for name in globals() if name.startswith('rlm_table'))"
            )
            assert run.value == []
            assert set(run.names) == {"sales", "year", "rows"}
            await sandbox.restart()
            assert (await sandbox.execute("len(sales), year")).value == (3, 2024)


async def test_a_table_can_be_loaded_over_another_value_and_the_other_way() -> None:
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            await sandbox.load(context=SALES)
            await sandbox.load(context="text")
            await sandbox.restart()
            assert (await sandbox.execute("context")).value == "text"
            await sandbox.load(context=polars.DataFrame({"x": [1]}))
            await sandbox.restart()
            assert (await sandbox.execute("context")).value == [{"x": 1}]


async def test_arrays_and_dicts_of_tables_are_there_as_plain_values(caplog: pytest.LogCaptureFixture) -> None:
    fine = pandas.DataFrame({"when": pandas.to_datetime([1_000_000_001], unit="ns")})
    with anyio.fail_after(WITHIN), caplog.at_level(logging.WARNING, "rlm_wasm"):
        async with Sandbox() as sandbox:
            await sandbox.load(grid=numpy.arange(6).reshape(2, 3), both={"sales": SALES[["id"]], "fine": fine})
            assert await sandbox.get("grid") == [[0, 1, 2], [3, 4, 5]]
            both = await sandbox.get("both")
            assert both["sales"] == [{"id": 1}, {"id": 2}, {"id": 3}]
            assert "column 'when': nanoseconds are cut to microseconds" in sandbox.described["both"]
            assert set(sandbox.described) == {"grid", "both"}
    assert [record.message for record in caplog.records] == ["both: column 'when': nanoseconds are cut to microseconds"]


async def test_a_hundred_thousand_rows_are_loaded() -> None:
    number = 100_000
    frame = pandas.DataFrame(
        {
            "n": numpy.arange(number),
            "text": [f"row {place}" for place in range(number)],
            "half": numpy.arange(number) / 2,
        }
    )
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            await sandbox.load(context=frame)
            run = await sandbox.execute("len(context), context[-1], sum(row['n'] for row in context)")
    assert run.value == (number, {"n": 99_999, "text": "row 99999", "half": 49_999.5}, number * (number - 1) // 2)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE orders (id INTEGER, total REAL)")
    connection.executemany("INSERT INTO orders VALUES (?, ?)", [(1, 9.5), (2, 0.5)])
    connection.commit()
    connection.close()
    return path


async def test_files_are_read_inside_and_a_database_by_its_path_alone(tmp_path: Path, shop: Path) -> None:
    (tmp_path / "sales.csv").write_bytes("﻿region;total\r\nsüd;1\r\nnord\r\n".encode())
    (tmp_path / "deep.jsonl").write_text('{"a": 1}\n' + "[" * 200_000 + "\n", "utf-8")
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            await sandbox.load(
                sales=read_table(tmp_path / "sales.csv"), deep=read_table(tmp_path / "deep.jsonl"), shop=shop
            )
            assert await sandbox.get("sales") == [{"region": "süd", "total": "1"}, {"region": "nord", "total": None}]
            assert await sandbox.get("sales_bad_lines") == [{"file": "sales.csv", "line": 3, "fields": ["nord"]}]
            assert "1 row does not have 2 fields, line 3" in sandbox.described["sales"]
            assert await sandbox.get("deep") == [{"a": 1}]
            assert (await sandbox.get("deep_bad_lines"))[0]["line"] == 2
            run = await sandbox.execute("shop.execute('SELECT sum(total) FROM orders').fetchone()")
            assert (run.value, run.error) == ((10.0,), None)
            assert "`orders` (id INTEGER, total REAL; 2 rows)" in sandbox.described["shop"]
            checkpoint = await sandbox.checkpoint()
        async with Sandbox.restore(checkpoint) as again:
            run = await again.execute("shop.execute('SELECT count(*) FROM orders').fetchone(), len(sales)")
            assert run.value == ((2,), 2)


async def test_changes_beside_a_database_are_read_too(shop: Path) -> None:
    writer = sqlite3.connect(shop)
    writer.execute("INSERT INTO orders VALUES (3, 0)")
    writer.commit()
    # not closed: what was written is in the log alone
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            await sandbox.load(context=shop)
            assert (await sandbox.execute("context.execute('SELECT count(*) FROM orders').fetchone()")).value == (3,)
    writer.close()


async def test_a_file_that_is_no_table_is_refused_and_the_sandbox_goes_on(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    (tmp_path / "x.json").write_text("[" * 200_000, "utf-8")
    with anyio.fail_after(WITHIN):
        async with Sandbox() as sandbox:
            with pytest.raises(ValueError, match=r"'x.db' cannot be read as a SQLite database"):
                await sandbox.load(context=tmp_path / "x.db")
            with pytest.raises(ValueError, match=r"'x.json' is no JSON that can be read"):
                await sandbox.load(context=read_table(tmp_path / "x.json"))
            await sandbox.load(context="text")
            assert (await sandbox.execute("context")).value == "text"


def test_a_parquet_file_is_a_table_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    polars.DataFrame({"a": [1, None]}).write_parquet(path)
    found = find(path)
    assert found is not None
    assert found.description == "a table of 2 rows and 1 columns"
    path.write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(ValueError, match="'x' cannot be read as Parquet"):
        find(path)


def test_without_a_reader_parquet_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1")
    for name in ("pyarrow.parquet", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        read_table(path)


def test_a_text_that_is_not_in_its_encoding_is_refused_with_its_place_or_read_as_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a\n1\n\xff\n")
    with pytest.raises(ValueError, match=r"'x.csv' is not UTF-8: byte 0xff at offset 4 \(line 3\); give encoding="):
        read_table(path)
    read = read_table(path, errors="replace"), read_table(path, encoding="latin-1")
    assert [one.contents for one in read] == [("a\n1\n\ufffd\n",), ("a\n1\nÿ\n",)]
    path.write_text("a\nü\n", "utf-16")
    assert read_table(path).contents == ("a\nü\n",)


def test_what_is_no_file_of_a_known_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="to read a table from"):
        read_table(tmp_path / "none.csv")
    path = tmp_path / "x.txt"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"'x.txt' does not say what kind of table it is: give kind="):
        read_table(path)
    assert read_table(path, kind="csv").contents == ("a,b\n",)
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ValueError, match=r"3,221,225,472 bytes, and a sandbox takes .* at once: split it"):
        read_table(path, kind="csv")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    read = Path.read_bytes

    def read_and_change(self: Path) -> bytes:
        content = read(self)
        self.write_bytes(content + b"2\n")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_change)
    with pytest.raises(ValueError, match=r"'x.csv' changed while it was read"):
        read_table(path)


def test_a_database_that_is_named_as_files_are_is_a_table_too(shop: Path) -> None:
    assert isinstance(prepare(Files(str(shop))).value, Tables)
    assert isinstance(prepare([shop]).value, dict)


def test_csv_and_json_by_their_paths_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n", newline="")
    assert prepare(path).value == "a\n1\n"


# --- runs ----------------------------------------------------------------------------------------------------------


async def test_a_run_over_a_frame_is_told_what_its_rows_are_and_its_variables_may_be_frames_too() -> None:
    root = ScriptedClient(["```repl\nFINAL([context[0]['region'], rates[0]['rate']])\n```"])
    with anyio.fail_after(WITHIN):
        rlm = RLM(root, variables={"rates": polars.DataFrame({"rate": [1.5]})})
        done = await rlm.acompletion("Where?", context=SALES)
    assert done.response == ["north", 1.5]
    told = "\n".join(message.content for message in root.calls[0])
    assert "`context` is a list of dicts, the 3 rows of a table with 4 columns: `id` (int), `region` (str)" in told
    assert "north" not in told


async def test_a_router_gives_a_table_to_a_run() -> None:
    with anyio.fail_after(WITHIN):
        router = Router(RLM(ScriptedClient(["```repl\nFINAL(len(context))\n```"])))
        routed = await router.acompletion("How many?", context=SALES)
    assert (routed.response, routed.route) == (3, "rlm")
    assert "is a table, which no prompt holds" in routed.reason


async def test_a_run_over_tables_that_was_cut_off_goes_on_over_them(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    class Root(ScriptedClient):
        async def complete(self, *given: Any, **more: Any) -> Any:
            if self.calls and not resumed:
                raise Interrupted
            return await super().complete(*given, **more)

    resumed = False
    replies = [
        "```repl\nseen = context['sales'][0]['id']\n```",
        "```repl\nFINAL([seen, context['sales'][2], context['n']])\n```",
    ]
    rlm = RLM(Root(replies), store=tmp_path / "runs")
    with anyio.fail_after(WITHIN):
        with pytest.raises(Interrupted):
            await rlm.acompletion("Which?", context={"sales": SALES[["id", "when"]], "n": (1,)})
        (run,) = (tmp_path / "runs").iterdir()
        resumed = True
        done = await rlm.resume(run.name)
    assert done.response == [1, {"id": 3, "when": None}, (1,)]


async def test_a_session_over_a_database_is_saved_and_taken_up(tmp_path: Path, shop: Path) -> None:
    code = "context.execute('SELECT count(*) FROM orders').fetchone()[0]"
    root = ScriptedClient([f"```repl\nFINAL({code})\n```"] * 3)
    rlm = RLM(root)
    with anyio.fail_after(WITHIN):
        async with rlm.session(context=shop) as session:
            first, second = await session.ask("How many?"), await session.ask("And now?")
            await session.save(tmp_path / "kept")
        async with rlm.session(saved=tmp_path / "kept") as session:
            third = await session.ask("Still?")
    assert [done.response for done in (first, second, third)] == [2, 2, 2]
    for call in root.calls:
        assert "`orders` (id INTEGER, total REAL; 2 rows)" in "\n".join(message.content for message in call)


async def test_many_questions_over_a_frame_are_answered_with_frames_and_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    async def asked(root: ScriptedClient) -> list[int]:
        given = {"context": SALES[["id", "when"]], "output": pandas.DataFrame, "answers": path, "concurrency": 1}
        answers = await RLM(root).amap(["Which?", "And which?"], **given)
        return [int(answer.response["id"].sum()) for answer in answers]

    code = "```repl\nFINAL([row for row in context if row['id'] > {}])\n```"
    with anyio.fail_after(WITHIN):
        assert await asked(ScriptedClient([code.format(1), code.format(2)])) == [5, 3]
        again = ScriptedClient([])
        assert (await asked(again), again.calls) == ([5, 3], [])


async def test_frames_that_samples_give_are_compared_by_all_their_rows() -> None:
    def ended(last: int) -> Completion:
        frame = pandas.DataFrame({"n": [*range(1000), last, *range(1000)]})
        given: dict[str, Any] = {"question": "?", "stopped_by": "final", "usage": Usage(), "trajectory": Trajectory([])}
        return Completion(response=frame, seconds=0.0, run="run", depth=0, **given)

    assert await choose([ended(1), ended(2), ended(2)], "?", None, None) == 1


def test_a_prepared_table_is_no_text_and_stays_as_it_is_when_it_is_prepared_again() -> None:
    prepared = prepare(SALES)
    assert prepare(prepared.value).value is prepared.value
    assert prepared.description == "`context` is a table of 3 rows and 4 columns"
    assert as_text(prepared.value, at_most=10**9) is None
    assert not is_small(prepared.value)
    assert fingerprint(prepared.value) == fingerprint(prepare(SALES.copy()).value)
    assert fingerprint(prepared.value) != fingerprint(prepare(SALES.rename(columns={"id": "ID"})).value)


@pytest.mark.parametrize("value", [[1, 2], {"a": [1]}, ["text"] * 2000, {"rows": [{"a": 1}]}])
def test_values_without_tables_are_loaded_as_before(value: Any) -> None:
    assert prepare(value).value is value
