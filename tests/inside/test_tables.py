"""Tables written by the host and read by the sandbox's half: as frames, as arrays, and without pandas and numpy."""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.inside import columns as inside
from rlm_wasm.inside import table_files
from rlm_wasm.tables import find, read_table
from rlm_wasm.tables.columns import of_values
from rlm_wasm.tables.frames import Array, Table, of

BERLIN = datetime.timezone(datetime.timedelta(hours=1))
FRAME = pandas.DataFrame(
    {
        "int": [1, 2, 3],
        "small": numpy.array([1, 2, 255], "u1"),
        "float": [1.5, float("nan"), -0.0],
        "bool": [True, False, True],
        "text": ["a", None, "ü\0🙂"],
        "many": ["x", "x", "x"],
        "object": pandas.Series([{"a": [1]}, None, decimal.Decimal("1.10")], dtype=object),
        "category": pandas.Categorical(["low", None, "high"], categories=["low", "high"], ordered=True),
        "when": pandas.Series(
            pandas.to_datetime(["2024-01-01 10:00", None, "1969-12-31 23:59:59.999999"], format="ISO8601")
        ),
        "zoned": pandas.Series(pandas.to_datetime(["2024-01-01", None, "2024-07-01"])).dt.tz_localize("Europe/Berlin"),
        "span": pandas.to_timedelta([1, None, -2], unit="s"),
        "nullable": pandas.array([1, None, 2**62], dtype="Int64"),
        "truth": pandas.array([True, None, False], dtype="boolean"),
        "day": pandas.Series([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)], dtype=object),
        "complex": [1j, 2 + 1j, 0],
    }
)


def table_of(value: object) -> Table:
    made = of(value)
    assert isinstance(made, Table)
    return made


def as_frame(value: object) -> tuple[Any, list[str]]:
    made, notes = table_of(value), []
    return inside.frame(pandas, numpy, made.told, made.contents[0], notes), notes


def as_records(value: object) -> tuple[list[dict[str, Any]], list[str]]:
    made, notes = table_of(value), []
    return inside.records(made.told, made.contents[0], notes), [*made.notes, *notes]


# --- frames --------------------------------------------------------------------------------------------------------


def test_a_frame_is_the_same_frame_where_there_is_pandas() -> None:
    made, notes = as_frame(FRAME)
    pandas.testing.assert_frame_equal(made, FRAME)
    assert notes == []


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.set_index("text"),
        FRAME.set_index(["int", "many"]),
        FRAME[["int"]].set_axis([7], axis="columns"),
        pandas.DataFrame({("a", 1): [1], ("a", 2): [2.0]}),
        pandas.DataFrame([[1, 2]], columns=["same", "same"]),
        pandas.DataFrame(),
        pandas.DataFrame({"none": pandas.Series([], dtype="int32")}),
        FRAME.iloc[1:],
        pandas.DataFrame({"wide": numpy.arange(6, dtype=">i8")[::2].astype("i8")}),
        pandas.DataFrame({"empty": pandas.Series([None, None], dtype=object)}),
    ],
    ids=["index", "levels", "numbers", "tuples", "twice", "nothing", "no-rows", "part", "strided", "missing"],
)
def test_index_and_labels_are_kept(frame: pandas.DataFrame) -> None:
    made, _ = as_frame(frame)
    pandas.testing.assert_frame_equal(made, frame, check_index_type=False, check_column_type=False)


def test_a_series_is_a_series_or_a_list() -> None:
    one = pandas.Series([1, None], dtype="Int64", name="nullable")
    made, _ = as_frame(one)
    pandas.testing.assert_series_equal(made, one)


def test_without_pandas_a_frame_is_a_list_of_dicts_of_pythons_own_values() -> None:
    rows, notes = as_records(FRAME.drop(columns=["float"]))
    first, second, third = rows
    assert first["when"] == datetime.datetime(2024, 1, 1, 10)
    assert third["when"] == datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)
    assert first["zoned"] == datetime.datetime(2024, 1, 1, tzinfo=BERLIN)
    assert (first["zoned"].utcoffset(), third["zoned"].utcoffset()) == (
        datetime.timedelta(hours=1),
        datetime.timedelta(hours=2),
    )
    assert (first["span"], third["span"]) == (datetime.timedelta(seconds=1), datetime.timedelta(seconds=-2))
    assert third["text"] == "ü\0🙂"
    assert first["object"] == {"a": [1]}
    assert third["nullable"] == 2**62
    assert (first["day"], first["complex"]) == (datetime.date(2024, 2, 29), 1j)
    gone = ("text", "object", "category", "when", "zoned", "span", "nullable", "truth", "day")
    assert {name for name, value in second.items() if value is None} == set(gone)
    assert all(type(value).__module__ in ("builtins", "datetime", "decimal") for row in rows for value in row.values())
    assert notes == []


def test_what_does_not_stay_as_it_is_is_said() -> None:
    frame = pandas.DataFrame(
        {
            "fine": pandas.to_datetime([1], unit="ns"),
            "month": pandas.period_range("2024-01", periods=1, freq="M"),
            "odd": pandas.Series([object], dtype=object),
            "far": numpy.array(["20000-01-01"], "M8[s]"),
            "broken": pandas.Series(["\ud800"], dtype=object),
            3: [1],
        }
    )
    rows, notes = as_records(frame)
    told = "\n".join(notes)
    for said in (
        "column 'fine': nanoseconds are cut",
        "column 'month': period[M] became text",
        "column 'odd': 1 values of type type became text",
        "column 'far': times outside of the years 1 to 9999",
        "column 'broken': lone surrogates",
    ):
        assert said in told
    assert rows[0]["month"] == "2024-01"
    assert (rows[0]["far"], rows[0]["broken"], rows[0]["3"]) == ("20000-01-01T00:00:00", "\ufffd", 1)
    # pandas has nanoseconds
    made, notes = as_frame(frame[["fine"]])
    assert (notes, made["fine"][0].nanosecond) == ([], 1)


def test_a_name_that_comes_twice_is_two_keys() -> None:
    rows, notes = as_records(pandas.DataFrame([[1, 2, 3]], columns=["a", "a", "a_2"]))
    assert rows == [{"a": 1, "a_2": 2, "a_2_2": 3}]
    assert len(notes) == 2


POLARS = polars.DataFrame(
    {
        "int": [1, None],
        "text": ["a", None],
        "day": [datetime.date(2024, 1, 1), None],
        "when": [datetime.datetime(2024, 1, 1, 10), None],
        "span": [datetime.timedelta(seconds=1), None],
        "list": [[1], [2, 3]],
        "fields": [{"a": 1}, {"a": None}],
        "exact": [decimal.Decimal("1.20"), None],
        "category": polars.Series(["x", None], dtype=polars.Categorical),
        "unsigned": polars.Series([2**64 - 1, 0], dtype=polars.UInt64),
    }
)


@pytest.mark.parametrize(
    "give", [lambda: POLARS, lambda: POLARS.lazy(), POLARS.to_arrow], ids=["polars", "lazy", "arrow"]
)
def test_polars_and_arrow_are_read_too(give: Callable[[], object]) -> None:
    rows, notes = as_records(give())
    assert rows == POLARS.to_dicts()
    assert notes == []
    made, _ = as_frame(give())
    assert str(made["int"].dtype) == "Int64"
    assert made["when"][0] == pandas.Timestamp("2024-01-01 10:00")


def test_arrow_keeps_zones_and_batches_are_tables() -> None:
    times = pyarrow.array([1_700_000_000, None], pyarrow.timestamp("s", tz="Europe/Berlin"))
    (batch,) = pyarrow.table({"when": times, "x": [1.0, 2.0]}).to_batches()
    rows, _ = as_records(batch)
    assert rows[0]["when"].isoformat() == "2023-11-14T23:13:20+01:00"
    assert [row["x"] for row in rows] == [1.0, 2.0]


# --- arrays --------------------------------------------------------------------------------------------------------

ARRAYS = [
    numpy.arange(24).reshape(2, 3, 4),
    numpy.array(3.5),
    numpy.array([1, 2], ">i4"),
    numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
    numpy.arange(10)[::-3],
    numpy.array([[True, False]]),
    numpy.array([1 + 2j], "c8"),
    numpy.zeros((0, 3)),
    numpy.array(["2024-01-01", "NaT"], "M8[D]"),
    numpy.array([1.5], "f2"),
    numpy.array(["a", "ü"]),
    numpy.array([b"a"]),
    numpy.array([None, "x", 1], object),
]


@pytest.mark.parametrize("given_array", ARRAYS, ids=lambda array: f"{array.dtype.str}-{array.shape}")
def test_an_array_is_an_array_or_lists_in_lists(given_array: Any) -> None:
    made = of(given_array)
    assert isinstance(made, Array)
    again = inside.array(made.told, made.contents[0], numpy, [])
    assert again.shape == given_array.shape
    assert (again == given_array)[~numpy.isnat(given_array) if given_array.dtype.kind == "M" else ...].all()
    lists = inside.array(made.told, made.contents[0], None, [])
    if given_array.size and given_array.dtype.kind != "M":
        assert lists == given_array.tolist()


def test_a_structured_array_is_a_table_and_a_masked_one_has_none() -> None:
    rows, _ = as_records(numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]))
    assert rows == [{"a": 1, "b": 2.5}]
    masked = of(numpy.ma.array([1, 2], mask=[False, True]))
    assert isinstance(masked, Array)
    assert inside.array(masked.told, masked.contents[0], None, []) == [1, None]


# --- plain values --------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.dates()
    | st.datetimes()
)


KINDS = (st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.dates(), st.datetimes())
LISTS = [st.lists(st.none() | kind) for kind in KINDS] + [st.lists(SCALARS)]


@given(st.one_of(LISTS))
def test_plain_values_come_back_as_they_were(values: list[Any]) -> None:
    values = [
        value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value
        for value in values
    ]
    notes: list[str] = []
    made = of_values(values, notes)
    content = inside.Parts(b"".join(made.parts))
    again = inside.values({**made.told, "name": "x"}, content, [])
    assert again == values
    assert list(map(type, again)) == list(map(type, values))


# --- what the REPL gets --------------------------------------------------------------------------------------------


@pytest.fixture
def read(equipment: Callable[[str], ModuleType], host: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Reads a value as the sandbox does: gives it, the line on it, and the notes."""
    monkeypatch.setitem(sys.modules, "rlm_columns", inside)
    monkeypatch.setitem(sys.modules, "rlm_table_files", table_files)

    def read(value: object, *missing: str) -> tuple[Any, str, list[str]]:
        found = find(value)
        assert found is not None
        told, contents = found.ready("context")
        host.variables.update({"rlm_table": told} | {f"rlm_table_{n}": part for n, part in enumerate(contents)})
        with monkeypatch.context() as patch:
            real = importlib.util.find_spec
            patch.setattr("importlib.util.find_spec", lambda name: None if name in missing else real(name))
            equipment("tables")
        assert set(host.variables) - {"context_bad_lines"} == {"context", "_rlm_told"}
        return host.variables["context"], host.variables["_rlm_told"]["line"], host.variables["_rlm_told"]["notes"]

    return read


def test_the_line_names_rows_columns_and_types(read: Callable[..., Any]) -> None:
    made, line, _ = read(FRAME[["int", "text"]])
    assert made["text"][0] == "a"
    assert line == "`context` is a pandas DataFrame of 3 rows and 2 columns: `int` (int64), `text` (str)"
    made, line, _ = read(FRAME[["int", "text"]], "pandas", "numpy")
    assert made[0] == {"int": 1, "text": "a"}
    assert line == "`context` is a list of dicts, the 3 rows of a table with 2 columns: `int` (int), `text` (str)"


def test_several_tables_are_a_dict_or_a_list_among_other_values(read: Callable[..., Any]) -> None:
    made, line, _ = read({"sales": FRAME[["int"]], "year": 2024, "grid": numpy.zeros((1, 2))}, "pandas", "numpy")
    assert made == {"sales": [{"int": 1}, {"int": 2}, {"int": 3}], "year": 2024, "grid": [[0.0, 0.0]]}
    assert line.startswith("`context` is a dict of 3 items: `context['sales']` is a list of dicts, the 3 rows")
    assert (
        "`context['grid']` is lists in lists, 2 deep, of the type float, which was an array of the shape (1, 2)" in line
    )
    made, _, _ = read([FRAME["int"], "x"], "pandas")
    assert made == [[1, 2, 3], "x"]


def test_what_an_index_and_labels_became_is_in_the_line(read: Callable[..., Any]) -> None:
    _, line, notes = read(FRAME[["int", "text"]].set_index("text").set_axis([7], axis="columns"), "pandas")
    assert notes == ["column labels that are no text became text", "the index of the frame is under 'text'"]
    assert all(note in line for note in notes)


def test_files_are_frames_or_lists_of_dicts_and_what_is_odd_is_kept_beside_them(
    read: Callable[..., Any], tmp_path: Path, host: Any
) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,a\n2\n", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"n": 1}\nnonsense\n{"n": null, "x": [1]}\n', "utf-8")
    given_files = [read_table(tmp_path / "a.csv"), read_table(tmp_path / "b.jsonl")]
    made, line, notes = read(given_files, "pandas")
    assert made == [[{"n": "1", "text": "a"}, {"n": "2", "text": None}], [{"n": 1}, {"n": None, "x": [1]}]]
    assert host.variables["context_bad_lines"] == [
        {"file": "a.csv", "line": 3, "fields": ["2"]},
        {"file": "b.jsonl", "line": 2, "text": "nonsense", "error": "Expecting value: line 1 column 1 (char 0)"},
    ]
    assert "`context[0]` is a list of dicts, the 2 rows of a table with 2 columns: `n`, `text`, read from a CSV" in line
    assert "`n` (NoneType or int), `x` (list)" in line
    assert notes[-1] == "such lines and rows are in `context_bad_lines`"
    (first, second), line, _ = read(given_files)
    assert (first["n"].tolist(), second["n"][0]) == ([1, 2], 1)
    assert "`context[0]` is a pandas DataFrame of 2 rows and 2 columns: `n` (int64), `text` (str)" in line


def test_a_line_stays_short_whatever_the_columns_are_called(read: Callable[..., Any]) -> None:
    frame = pandas.DataFrame({f"{number}{'x' * 1000}": [number] for number in range(500)})
    for missing in ((), ("pandas",)):
        _, line, _ = read(frame, *missing)
        assert "and 470 more" in line
        assert len(line) < 4000


@pytest.mark.parametrize(
    "value", [None, "text", [1], {"a": 1}, [], {}, object(), numpy.float64(1), pandas.Timestamp(0)]
)
def test_what_is_no_table_is_none(value: object) -> None:
    assert find(value) is None
