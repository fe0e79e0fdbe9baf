"""What cells give that is of pandas, polars, Arrow or numpy: as plain values, on both sides of the wire."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy
import pandas
import polars
import pyarrow
import pytest

from rlm_wasm.sandbox import values

FRAME = pandas.DataFrame(
    {
        "n": pandas.array([1, None], dtype="Int64"),
        "text": ["x", None],
        "when": pandas.to_datetime(["2024-01-01", None]),
        "kind": pandas.Categorical(["q", None]),
    }
)
ROWS = [
    {"n": 1, "text": "x", "when": datetime.datetime(2024, 1, 1), "kind": "q"},
    {"n": None, "text": None, "when": None, "kind": None},
]
BOTH: list[tuple[Any, Any]] = [
    (FRAME, ROWS),
    ({"a": [FRAME[["n"]]]}, {"a": [[{"n": 1}, {"n": None}]]}),
    (FRAME["n"], [1, None]),
    (numpy.int64(3), 3),
    (numpy.float32(1.5), 1.5),
    (numpy.bool_(True), True),
    (numpy.str_("ü"), "ü"),
    (numpy.bytes_(b"x"), b"x"),
    (numpy.array([[1, 2]]), [[1, 2]]),
    (numpy.array(["2024-01-01", "NaT"], "M8[ns]"), [datetime.datetime(2024, 1, 1), None]),
    (numpy.datetime64("2024-01-01T00:00:00.123456789"), datetime.datetime(2024, 1, 1, 0, 0, 0, 123456)),
    (numpy.datetime64("NaT"), None),
    ([pandas.NaT, pandas.NA], [None, None]),
    (pandas.Timestamp("2024-01-01"), datetime.datetime(2024, 1, 1)),
    (pandas.RangeIndex(2), [0, 1]),
    (pandas.Categorical(["a"]), ["a"]),
    (polars.DataFrame({"a": [1]}), [{"a": 1}]),
    (polars.Series([1]), [1]),
    (pyarrow.table({"a": [1]}), [{"a": 1}]),
]


@pytest.fixture(scope="module")
def inside(prisoner_module: Callable[[str], ModuleType]) -> ModuleType:
    return prisoner_module("values")


@pytest.mark.parametrize(("value", "plain"), BOTH, ids=lambda value: type(value).__name__)
def test_what_is_of_these_libraries_is_sent_as_plain_values(inside: Any, value: object, plain: object) -> None:
    assert values.decode(inside.encode(value)) == plain
    assert inside.decode(values.encode(value)) == plain


def test_a_frame_keeps_the_index_that_somebody_has_chosen(inside: Any) -> None:
    assert inside.decode(inside.encode(FRAME[FRAME["n"] > 0])) == ROWS[:1]
    assert inside.decode(inside.encode(FRAME[["text", "n"]].set_index("text")[:1])) == [{"text": "x", "n": 1}]
    sums = pandas.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]}).groupby("k")["v"].sum()
    assert inside.decode(inside.encode(sums)) == {"a": 4, "b": 2}
    assert inside.decode(inside.encode(pandas.Series([1, 2], index=["a", "a"]))) == [["a", 1], ["a", 2]]
    assert inside.decode(inside.encode(pandas.DataFrame({("a", 1): [2]}))) == [{"a_1": 2}]


def test_what_has_no_plain_form_is_refused_with_what_to_do(inside: Any) -> None:
    with pytest.raises(TypeError, match="a Period cannot be sent: make text"):
        inside.encode(pandas.Period("2024"))
    with pytest.raises(TypeError, match="a Period cannot be sent to the sandbox: make text"):
        values.encode(pandas.Period("2024"))
    with pytest.raises(ValueError, match="several columns of one name"):
        inside.encode(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_large_frame_is_refused_before_it_is_written_out(inside: Any) -> None:
    class Large:
        __module__ = "pandas.frame"
        shape = (10**9, 10)

    for value, most in ((numpy.zeros((1000, 100)), 100_000), (Large(), 32_000_000)):
        with pytest.raises(ValueError, match="cells, and would take more than"):
            inside.encode(value, most)
    with pytest.raises(ValueError, match="cells, and would take more than"):
        inside.encode([Large()])
