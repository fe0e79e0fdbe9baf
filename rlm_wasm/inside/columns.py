"""The columns of a table as the host sends them: bytes, one column after the other, and what is said of each.

Makes lists, dicts, and where they are installed numpy arrays and pandas' frames of them. Twin of
`rlm_wasm/tables/columns.py`, which writes what is read here. Knows nothing of files or of the REPL.
"""

# numpy and pandas are what can be imported where this runs: their types are not known here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import gc
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, cast
from zoneinfo import ZoneInfo

__all__ = ["Parts", "array", "frame", "records", "series", "values", "without_collecting"]

_EPOCH = datetime(1970, 1, 1)
# what stands for no time at all, in numpy's way
_NO_TIME = -(2**63)
_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


class Parts:
    """The bytes of a table, taken from in order."""

    def __init__(self, content: bytes) -> None:
        self._view = memoryview(content)
        self._at = 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        self._at += size
        return self._view[self._at - size : self._at]


def records(table: Mapping[str, Any], content: bytes, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of a table, each a dict from column to value; what could not be kept is put into words in `notes`."""
    columns = table["columns"]
    names = [column["name"] for column in columns]
    with without_collecting():
        parts = Parts(content)
        read = [values(column, parts, notes) for column in columns]
        rows = zip(*read, strict=True) if read else (() for _ in range(table["rows"]))
        return [dict(zip(names, row, strict=True)) for row in rows]


@contextmanager
def without_collecting() -> Generator[None]:
    """For a block that makes very many objects none of which is garbage: nobody looks for any meanwhile."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def values(column: Mapping[str, Any], parts: Parts, notes: list[str]) -> list[Any]:
    """The values of a column, None where there is none."""
    kind = column["kind"]
    if kind == "value":
        return column["values"]
    if kind in ("coded", "category"):
        codes = parts.take(column["size"]).cast("i").tolist()
        # -1 is where there is none
        known = [*values(column["categories"], parts, notes), None]
        return [known[code] for code in codes]
    if kind == "text":
        return _texts(column, parts)
    # Any: numbers, then what they stand for
    read = cast("list[Any]", parts.take(column["size"]).cast(column["form"]).tolist())
    if kind == "complex":
        read = [complex(*pair) for pair in zip(read[::2], read[1::2], strict=True)]
    elif kind == "datetime":
        read = _times(column, read, notes)
    elif kind == "duration":
        read = _durations(column, read, notes)
    elif kind == "date":
        read = [date.fromordinal(day) for day in read]
    if not column["missing"]:
        return read
    gone = parts.take(column["missing"])
    return [None if no else value for value, no in zip(read, gone, strict=True)]


def _texts(column: Mapping[str, Any], parts: Parts) -> list[str]:
    whole = str(parts.take(column["size"]), "utf-8")
    lengths = parts.take(column["lengths"]).cast("i").tolist()
    return [whole[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def _times(column: Mapping[str, Any], read: list[int], notes: list[str]) -> list[datetime | None]:
    zone = column.get("zone")
    base = _EPOCH if zone is None else _EPOCH.replace(tzinfo=UTC)
    made = [None if span is None else base + span for span in _durations(column, read, notes)]
    moved = None if zone is None else _zone(column, notes)
    return made if moved is None else [None if time is None else time.astimezone(moved) for time in made]


def _durations(column: Mapping[str, Any], read: list[int], notes: list[str]) -> list[timedelta | None]:
    if column.get("nanoseconds"):
        notes.append(f"column {column['name']!r}: nanoseconds are cut to microseconds")
    per_second = _PER_SECOND[column["unit"]]
    # whole numbers, because a float has not as many digits as a time; and by place, which is quicker than by name
    if per_second > 1_000_000:
        return [None if value == _NO_TIME else timedelta(0, 0, value // 1000) for value in read]
    factor = 1_000_000 // per_second
    return [None if value == _NO_TIME else timedelta(0, 0, value * factor) for value in read]


def _zone(column: Mapping[str, Any], notes: list[str]) -> ZoneInfo | None:
    """The time zone of a column; None for UTC, and where nothing is known of it here."""
    name = column["zone"]
    if name == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        notes.append(f"column {column['name']!r}: times of the zone {name} are given in UTC")
        return None


# --- arrays --------------------------------------------------------------------------------------------------------


def array(told: Mapping[str, Any], content: bytes, numpy: Any, notes: list[str]) -> Any:
    """An array of numpy's if that is there, else lists in lists (a plain value for an array without dimensions)."""
    column, shape = told["column"], told["shape"]
    if numpy is not None and column["kind"] not in ("value", "text", "coded", "date") and not column["missing"]:
        return _numbers(numpy, column, Parts(content)).reshape(shape)
    flat = values(column, Parts(content), notes)
    if numpy is not None:
        made = numpy.empty(len(flat), dtype=object)
        made[:] = flat
        return made.reshape(shape)
    return _nested(flat, shape)


def _nested(flat: list[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    for place in range(len(shape) - 1, 0, -1):
        size, number = shape[place], math.prod(shape[:place])
        flat = [flat[start * size : (start + 1) * size] for start in range(number)]
    return flat


def _numbers(numpy: Any, column: Mapping[str, Any], parts: Parts) -> Any:
    """The numbers or times of a column as an array of its own."""
    kind, size = column["kind"], column["size"]
    read = numpy.frombuffer(parts.take(size), dtype=numpy.dtype(column["dtype"]))
    if kind in ("datetime", "duration"):
        read = read.view(f"{'M' if kind == 'datetime' else 'm'}8[{column['unit']}]")
    return read.copy()


# --- frames --------------------------------------------------------------------------------------------------------


def frame(pandas: Any, numpy: Any, table: Mapping[str, Any], content: bytes, notes: list[str]) -> Any:
    """A table as pandas has it: a DataFrame, or a Series if it was one."""
    parts = Parts(content)
    made = [series(pandas, numpy, column, parts, notes) for column in table["columns"]]
    levels, columns = made[: table["index"]], made[table["index"] :]
    labels = [column["label"] for column in table["columns"]]
    index = None
    if len(levels) == 1:
        index = pandas.Index(levels[0], name=labels[0])
    elif levels:
        index = pandas.MultiIndex.from_arrays(levels, names=labels[: len(levels)])
    named = labels[len(levels) :]
    if table["single"]:
        (only,) = columns
        only.name = named[0]
        whole = only
    else:
        whole = pandas.DataFrame(dict(enumerate(columns)), index=pandas.RangeIndex(table["rows"]))
        tuples = bool(named) and all(isinstance(label, tuple) for label in named)
        whole.columns = pandas.MultiIndex.from_tuples(named) if tuples else pandas.Index(named)
    if index is not None:
        whole.index = index
    return whole


def series(pandas: Any, numpy: Any, column: Mapping[str, Any], parts: Parts, notes: list[str]) -> Any:
    """One column as pandas has it."""
    kind = column["kind"]
    if kind == "category":
        codes = numpy.frombuffer(parts.take(column["size"]), dtype="<i4")
        known = pandas.Index(series(pandas, numpy, column["categories"], parts, notes))
        return pandas.Series(pandas.Categorical.from_codes(codes, known, ordered=column["ordered"]))
    if kind in ("text", "coded", "value", "date"):
        return pandas.Series(values(column, parts, notes), dtype=_text_type(pandas, column))
    read = _numbers(numpy, column, parts)
    if kind == "datetime" and column.get("zone"):
        return _in_zone(pandas.Series(read).dt.tz_localize("UTC"), column, notes)
    if not column["missing"]:
        return pandas.Series(read)
    gone = numpy.frombuffer(parts.take(column["missing"]), dtype=bool).copy()
    kinds = {"bool": "BooleanArray", "int": "IntegerArray", "float": "FloatingArray"}
    return pandas.Series(getattr(pandas.arrays, kinds[kind])(read, gone))


def _in_zone(times: Any, column: Mapping[str, Any], notes: list[str]) -> Any:
    try:
        return times.dt.tz_convert(column["zone"])
    except (KeyError, ValueError, OSError, ImportError):
        notes.append(f"column {column['name']!r}: times of the zone {column['zone']} are given in UTC")
        return times


def _text_type(pandas: Any, column: Mapping[str, Any]) -> Any:
    told = column.get("categories") or column
    if told["kind"] != "text" or column.get("pandas") == "object":
        return object
    if column.get("pandas") == "string":
        return "string"
    # before 3.0 a missing value would become the text "None"
    return "str" if int(pandas.__version__.partition(".")[0]) >= 3 else object
