"""Answers asked for as a frame or an array: how a model is told, and how one is made of what it gave.

The types are known by their names and called; nothing is imported. Knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_ROWS = {
    "type": "array",
    "items": {"type": "object"},
    "description": "The rows of a table: a list of dicts from column to value, or a DataFrame.",
}
_VALUES = {"type": "array", "description": "A list of values, in lists for more dimensions, or an array or Series."}
_SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    ("pandas", "DataFrame"): _ROWS,
    ("polars", "DataFrame"): _ROWS,
    ("pyarrow", "Table"): _ROWS,
    ("pandas", "Series"): _VALUES,
    ("polars", "Series"): _VALUES,
    ("numpy", "ndarray"): _VALUES,
}


def schema(wanted: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type of frames or arrays; None for any other type."""
    if not isinstance(wanted, type):
        return None
    return _SCHEMAS.get((wanted.__module__.partition(".")[0], wanted.__name__))


def make(wanted: Any, value: object) -> Any:
    """A frame or an array of the type that is wanted, of plain values. Raises ValueError that says what is wrong."""
    package, name = wanted.__module__.partition(".")[0], wanted.__name__
    given = _rows(value) if schema(wanted) is _ROWS else _values(value, package)
    try:
        if package == "numpy":
            return _array(given)
        if name == "Table":
            return wanted.from_pylist(given) if isinstance(given, list) else wanted.from_pydict(given)
        return wanted(given, infer_schema_length=None) if (package, name) == ("polars", "DataFrame") else wanted(given)
    except Exception as error:
        # the libraries raise errors of their own, and of many kinds
        raise ValueError(f"no {name} of {package} can be made of it: {type(error).__name__}: {error}") from error


def _rows(value: object) -> list[Any] | dict[Any, Any]:
    """Rows, or columns of one length. Raises ValueError for anything else."""
    if isinstance(value, list):
        rows = cast("list[object]", value)
        if all(isinstance(row, dict) for row in rows):
            return rows
        kinds = sorted({type(row).__name__ for row in rows})
        raise ValueError(f"expected the rows of a table, each a dict; got a list with {', '.join(kinds[:5])}")
    if isinstance(value, dict):
        columns = cast("dict[object, object]", value)
        lengths = {len(cast("list[object]", column)) for column in columns.values() if isinstance(column, list)}
        if len(lengths) == 1 and all(isinstance(column, list) for column in columns.values()):
            return columns
        raise ValueError("expected the rows of a table, a list of dicts; got a dict that is no lists of one length")
    raise ValueError(f"expected the rows of a table, a list of dicts; got a {type(value).__name__}")


def _values(value: object, package: str) -> object:
    if isinstance(value, (list, tuple)) or (package == "pandas" and isinstance(value, Mapping)):
        return cast(object, value)
    raise ValueError(f"expected a list of values; got a {type(value).__name__}")


def _array(given: object) -> Any:
    import numpy

    made = numpy.array(given)
    if made.dtype == object:
        raise ValueError("its values are of no one type")
    return made
