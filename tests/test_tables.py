"""Frames and tables given to sandboxes and runs: what cells find, what a model is told, what comes back."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import anyio
import numpy
import pandas
import polars
import pytest

from rlm_wasm import RLM, Router, ScriptedClient
from rlm_wasm.contexts import as_text, fingerprint, is_small, prepare
from rlm_wasm.sandbox import Sandbox

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


def test_a_prepared_table_is_no_text_and_stays_as_it_is_when_it_is_prepared_again() -> None:
    prepared = prepare(SALES)
    assert prepare(prepared.value).value is prepared.value
    assert prepared.description == "`context` is a table of 3 rows and 4 columns"
    assert as_text(prepared.value, at_most=10**9) is None
    assert not is_small(prepared.value)
    assert fingerprint(prepared.value) == (0, "")


@pytest.mark.parametrize("value", [[1, 2], {"a": [1]}, ["text"] * 2000, {"rows": [{"a": 1}]}])
def test_values_without_tables_are_loaded_as_before(value: Any) -> None:
    assert prepare(value).value is value
