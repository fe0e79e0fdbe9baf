"""Frames, tables and arrays of pandas, polars, Arrow and numpy, known without importing any of them.

What is not imported cannot be what a caller gave: each is looked for among the modules that there are. Knows nothing
of files or of the sandbox.
"""

# The libraries are whatever the caller has: their types are not known here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rlm_wasm.tables import columns
from rlm_wasm.tables.columns import NO_TIME, PER_SECOND, Column


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and columns. The first `index` columns are the index of a frame; `single`: it was a Series.

    `source` says what it was made of; `notes` what did not stay as it was.
    """

    rows: int
    columns: tuple[Column, ...]
    source: str
    index: int = 0
    single: bool = False
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What the reader in the sandbox is told of it, but for the bytes."""
        return {
            "kind": "table",
            "rows": self.rows,
            "columns": [column.told for column in self.columns],
            "index": self.index,
            "single": self.single,
            "notes": list(self.notes),
        }

    @property
    def contents(self) -> tuple[bytes, ...]:
        """The bytes of all columns, in order."""
        return (b"".join([part for column in self.columns for part in column.parts]),)

    @property
    def needed(self) -> int:
        """About how many bytes it takes as a list of dicts, while it is made."""
        return 2 * sum(map(_weight, self.columns)) + self.rows * (160 + 40 * len(self.columns))

    @property
    def size(self) -> str:
        """Its size in words."""
        return f"{self.rows:,} row{'' if self.rows == 1 else 's'} and {len(self.columns) - self.index:,} columns"


class Array(msgspec.Struct, frozen=True, kw_only=True):
    """An array of any number of dimensions, its items in C's order."""

    shape: tuple[int, ...]
    column: Column
    source: str
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What the reader in the sandbox is told of it, but for the bytes."""
        return {
            "kind": "array",
            "shape": list(self.shape),
            "column": self.column.told,
            "dtype": self.source,
            "notes": list(self.notes),
        }

    @property
    def contents(self) -> tuple[bytes, ...]:
        """The bytes of its items."""
        return (b"".join(self.column.parts),)

    @property
    def needed(self) -> int:
        """About how many bytes it takes as lists, while it is made."""
        return 2 * _weight(self.column) + math.prod(self.shape) * 32

    @property
    def size(self) -> str:
        """Its size in words."""
        return f"the shape {self.shape}"


def _weight(column: Column) -> int:
    return sum(map(len, column.parts))


def of(value: object) -> Table | Array | None:
    """What a frame, a table or an array is as columns; None for anything else.

    Raises TypeError for one that has a form of none.
    """
    read = _READERS.get(package_of(value))
    return None if read is None else read(value)


def is_one(value: object) -> bool:
    """Whether it is a frame, a table or an array."""
    return type(value).__name__ in _KNOWN.get(package_of(value), ())


def package_of(value: object) -> str:
    """The package that the class of a value is of, if that is imported; "" where it is not, or does not say."""
    module: object = getattr(type(value), "__module__", "")
    package = module.partition(".")[0] if isinstance(module, str) else ""
    return package if package in sys.modules else ""


_KNOWN = {
    "pandas": ("DataFrame", "Series"),
    "polars": ("DataFrame", "LazyFrame", "Series"),
    "pyarrow": ("Table", "RecordBatch"),
    "numpy": ("ndarray", "matrix", "recarray", "memmap", "MaskedArray"),
}


PACKAGES = frozenset(_KNOWN)
"""The libraries whose frames and arrays are known here."""


class _Notes:
    """Notes on columns, each with the column's name before it."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def of(self, name: str, make: Callable[[list[str]], Column]) -> Column:
        own: list[str] = []
        made = make(own)
        self.all += [f"column {name!r}: {note}" for note in own]
        return made


def _named(labels: Sequence[str], notes: _Notes) -> list[str]:
    """A name for each, a text that no other has."""
    names: list[str] = []
    taken: set[str] = set()
    for place, label in enumerate(labels, start=1):
        name = text = label or f"column_{place}"
        number = 2
        while name in taken:
            name, number = f"{text}_{number}", number + 1
        if name != text:
            notes.all.append(f"column {text!r} comes more than once: as a key it is {name!r}")
        taken.add(name)
        names.append(name)
    return names


_Made = Callable[[list[str]], Column]


def _table(named: Sequence[tuple[str, Any, _Made]], rows: int, source: str, **more: Any) -> Table:
    """A table of columns: of each a text for its name, its label, and how it is made."""
    notes = _Notes()
    names = _named([text for text, _, _ in named], notes)
    made = [notes.of(name, make).named(name, label) for name, (_, label, make) in zip(names, named, strict=True)]
    return Table(rows=rows, columns=tuple(made), source=source, notes=tuple(notes.all), **more)


# --- pandas --------------------------------------------------------------------------------------------------------


def _of_pandas(value: Any) -> Table | None:
    name = type(value).__name__
    if name not in _KNOWN["pandas"]:
        return None
    single = name == "Series"
    if single:
        labels, several = [value.name], [value]
    else:
        labels, several = list(value.columns), [value.iloc[:, place] for place in range(value.shape[1])]
    levels = _levels(value.index)
    named = [(_text(label, "value"), label, _pandas_column(one)) for label, one in zip(labels, several, strict=True)]
    return _table([*levels, *named], len(value), f"pandas {name}", index=len(levels), single=single)


def _text(label: Any, instead: str) -> str:
    return instead if label is None else "_".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _levels(index: Any) -> list[tuple[str, Any, _Made]]:
    """The columns of an index; none of one that only counts the rows."""
    if type(index).__name__ == "RangeIndex" and (index.start, index.step, index.name) == (0, 1, None):
        return []
    if index.nlevels == 1:
        return [(_text(index.name, "index"), index.name, _pandas_column(index.to_series()))]
    levels = [index.get_level_values(place).to_series() for place in range(index.nlevels)]
    return [
        (_text(name, f"level_{place}"), name, _pandas_column(level))
        for place, (name, level) in enumerate(zip(index.names, levels, strict=True))
    ]


def _pandas_column(series: Any) -> _Made:
    return lambda notes: _pandas_values(series, notes)


def _pandas_values(series: Any, notes: list[str]) -> Column:
    dtype = series.dtype
    kind, pandas = type(dtype).__name__, sys.modules["pandas"]
    if kind == "CategoricalDtype":
        categories = _pandas_values(dtype.categories.to_series(), notes)
        codes = array("i", series.cat.codes.astype("i4").to_numpy().tobytes())
        return columns.of_codes("category", codes, categories, ordered=bool(dtype.ordered))
    if kind == "DatetimeTZDtype":
        times = columns.of_array(series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), notes)
        return Column({**times.told, "zone": str(dtype.tz)}, times.parts)
    if kind == "SparseDtype":
        notes.append("sparse became dense")
        return _pandas_values(series.sparse.to_dense(), notes)
    if hasattr(dtype, "numpy_dtype") and hasattr(dtype, "na_value") and dtype.kind in "biuf":
        return _masked(series, dtype, notes)
    if dtype.kind in "biufcMm" and hasattr(dtype, "byteorder"):
        return columns.of_array(series.to_numpy(), notes)
    if kind in ("PeriodDtype", "IntervalDtype"):
        notes.append(f"{dtype} became text")
        series = series.astype(str).where(series.notna(), None)
    plain = series.astype(object)
    gone = series.isna().to_numpy()
    listed = [None if no else value for value, no in zip(plain.tolist(), gone.tolist(), strict=True)]
    if dtype.kind == "O" and all(value is None or isinstance(value, pandas.Timestamp) for value in listed):
        listed = [None if value is None else value.to_pydatetime(warn=False) for value in listed]
    made = columns.of_values(listed, notes)
    more = "string" if str(dtype) == "string" else "object" if str(dtype) == "object" else None
    return made if more is None else Column({**made.told, "pandas": more}, made.parts)


def _masked(series: Any, dtype: Any, notes: list[str]) -> Column:
    """A column of numbers with places where there is none."""
    gone = series.isna()
    numbers = series.to_numpy(dtype=dtype.numpy_dtype, na_value=False if dtype.kind == "b" else 0)
    made = columns.of_array(numbers, notes)
    mask = gone.to_numpy(dtype=bool).tobytes()
    return Column({**made.told, "missing": len(mask)}, (*made.parts, mask))


# --- polars --------------------------------------------------------------------------------------------------------


def _of_polars(value: Any) -> Table | None:
    name = type(value).__name__
    if name not in _KNOWN["polars"]:
        return None
    frame = value.collect() if name == "LazyFrame" else value
    several = [frame] if name == "Series" else frame.get_columns()
    named = [(one.name or "value", one.name, _polars_column(one)) for one in several]
    return _table(named, len(frame), f"polars {name}", single=name == "Series")


def _polars_column(series: Any) -> _Made:
    return lambda notes: _polars_values(series, notes)


def _polars_values(series: Any, notes: list[str]) -> Column:
    name = type(series.dtype).__name__
    if name in ("Categorical", "Enum"):
        return columns.of_texts(series.cast(sys.modules["polars"].String).to_list(), notes)
    if name in ("Datetime", "Duration"):
        numbers = [NO_TIME if value is None else value for value in series.to_physical().to_list()]
        kind = "datetime" if name == "Datetime" else "duration"
        return _of_moments(kind, numbers, series.dtype.time_unit, getattr(series.dtype, "time_zone", None))
    if name == "Object":
        notes.append("objects of polars are read as Python's own")
    return columns.of_values(series.to_list(), notes)


def _of_moments(kind: str, numbers: Sequence[int], unit: str, zone: str | None) -> Column:
    known = (value for value in numbers if value != NO_TIME)
    fine = unit == "ns" and any(value % 1000 for value in known)
    more: dict[str, Any] = ({"zone": zone} if zone else {}) | ({"nanoseconds": True} if fine else {})
    return columns.of_numbers(kind, array("q", numbers), unit=unit, **more)


# --- Arrow ---------------------------------------------------------------------------------------------------------


def _of_arrow(value: Any) -> Table | None:
    name = type(value).__name__
    if name not in _KNOWN["pyarrow"]:
        return None
    labels = value.schema.names
    named = [(label, label, _arrow_column(value.column(place))) for place, label in enumerate(labels)]
    return _table(named, value.num_rows, f"Arrow {name}")


def _arrow_column(column: Any) -> _Made:
    return lambda notes: _arrow_values(column, notes)


def _arrow_values(column: Any, notes: list[str]) -> Column:
    said = str(column.type)
    kind = "datetime" if said.startswith("timestamp[") else "duration" if said.startswith("duration[") else ""
    if kind:
        numbers = [NO_TIME if value is None else value for value in column.cast("int64").to_pylist()]
        unit = column.type.unit
        assert unit in PER_SECOND
        return _of_moments(kind, numbers, unit, getattr(column.type, "tz", None))
    if not column.null_count and said in _PLAIN_ARROW and "numpy" in sys.modules:
        return columns.of_array(
            column.to_numpy(**({} if hasattr(column, "chunks") else {"zero_copy_only": False})), notes
        )
    return columns.of_values(column.to_pylist(), notes)


_PLAIN_ARROW = {
    *("bool", "halffloat", "float", "double"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


# --- numpy ---------------------------------------------------------------------------------------------------------


def _of_numpy(value: Any) -> Table | Array | None:
    if type(value).__name__ not in _KNOWN["numpy"]:
        return None
    source = f"numpy array of {value.dtype}"
    if value.dtype.names and value.ndim == 1:
        named = [(name, name, _numpy_column(value[name])) for name in value.dtype.names]
        return _table(named, len(value), source)
    notes: list[str] = []
    if type(value).__name__ == "MaskedArray":
        made = columns.of_values(value.ravel().tolist(), notes)
    else:
        made = columns.of_array(sys.modules["numpy"].asarray(value, order="C").ravel(), notes)
    return Array(
        shape=tuple(value.shape), column=made.named("value", "value"), source=str(value.dtype), notes=tuple(notes)
    )


def _numpy_column(column: Any) -> _Made:
    if column.ndim > 1:
        return lambda notes: columns.of_values(column.tolist(), notes)
    return lambda notes: columns.of_array(sys.modules["numpy"].ascontiguousarray(column), notes)


_READERS: dict[str, Callable[[Any], Table | Array | None]] = {
    "pandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_arrow,
    "numpy": _of_numpy,
}
