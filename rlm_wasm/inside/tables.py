"""A variable that is a table or holds some, made of what the host has loaded: frames, arrays, lists of dicts.

The host loads `rlm_table`, what there is to say of it, and `rlm_table_0` and so on, what it consists of. They are gone
when this has been read, and `_rlm_told` says what came of them: the line that a model is told, and what did not stay as
it was. With pandas to be imported a table is a frame, with numpy an array is one.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module, and numpy and pandas may be anything.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import rlm_columns
import rlm_host
import rlm_table_files as files

__all__: list[str] = []

_SHOWN_COLUMNS = 30
_SHOWN_NAME = 60
_SHOWN_NOTES = 10


def _package(name: str) -> Any:
    """A package if there is one, else None."""
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


def _make() -> None:
    names = rlm_host.namespace()
    told = names.pop("rlm_table")
    number = sum(item["contents"] for item in told["items"])
    contents = iter([names.pop(f"rlm_table_{place}") for place in range(number)])
    notes: list[str] = []
    made: list[Any] = []
    lines: list[str] = []
    name = told["name"]
    for item in told["items"]:
        own: list[str] = list(item["notes"])
        value, line = _MADE[item["kind"]](item, list(islice(contents, item["contents"])), own)
        made.append(value)
        lines.append(line)
        notes += own
    if _bad:
        names[f"{name}_bad_lines"] = list(_bad)
        notes.append(f"such lines and rows are in `{name}_bad_lines`")
    if told["form"] == "one":
        names[name], line = made[0], f"`{name}` is {lines[0]}"
    elif told["form"] == "list":
        names[name], line = made, _several(name, "list", list(range(len(made))), lines)
    else:
        names[name], line = dict(zip(told["keys"], made, strict=True)), _several(name, "dict", told["keys"], lines)
    # no more than the host takes
    names["_rlm_told"] = {"line": (line + _noted(notes))[:10_000], "notes": [note[:1000] for note in notes[:100]]}


def _several(name: str, form: str, keys: Sequence[Any], lines: Sequence[str]) -> str:
    shown = [f"`{name}[{_short(repr(key))}]` is {line}" for key, line in zip(keys, lines, strict=True)]
    more = f"; and {len(shown) - _SHOWN_COLUMNS:,} more" if len(shown) > _SHOWN_COLUMNS else ""
    return f"`{name}` is a {form} of {len(lines):,} items: {'; '.join(shown[:_SHOWN_COLUMNS])}{more}"


def _noted(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    more = [f"and {len(notes) - _SHOWN_NOTES:,} more of the kind"] if len(notes) > _SHOWN_NOTES else []
    return f" (note: {'; '.join([note[:300] for note in notes[:_SHOWN_NOTES]] + more)})"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_NAME else text[: _SHOWN_NAME - 1] + "…"


def _listed(named: Sequence[str]) -> str:
    more = f" and {len(named) - _SHOWN_COLUMNS:,} more" if len(named) > _SHOWN_COLUMNS else ""
    return ", ".join(named[:_SHOWN_COLUMNS]) + more


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


# --- tables --------------------------------------------------------------------------------------------------------


def _table(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    pandas = _package("pandas")
    if pandas is not None:
        made = rlm_columns.frame(pandas, _package("numpy"), item, contents[0], notes)
        return made, describe_frame(made)
    labels = [column["label"] for column in item["columns"]]
    if not all(isinstance(label, str) for label in labels):
        notes.append("column labels that are no text became text")
    rows = rlm_columns.records(item, contents[0], notes)
    if item["single"] and not item["index"]:
        (name,) = (column["name"] for column in item["columns"])
        rows = [row[name] for row in rows]
        return rows, f"a list of the {len(rows):,} values of a column of a table"
    if item["index"]:
        notes.append(
            f"the index of the frame is under {_listed([repr(c['name']) for c in item['columns'][: item['index']]])}"
        )
    return rows, describe_records(rows, {column["name"]: column["kind"] for column in item["columns"]})


def describe_frame(frame: Any) -> str:
    """A DataFrame or a Series in half a sentence."""
    if not hasattr(frame, "columns"):
        return f"a pandas Series of {len(frame):,} values of type {frame.dtype}"
    named = [f"`{_short(str(label))}` ({dtype})" for label, dtype in islice(frame.dtypes.items(), _SHOWN_COLUMNS)]
    more = f" and {frame.shape[1] - _SHOWN_COLUMNS:,} more" if frame.shape[1] > _SHOWN_COLUMNS else ""
    index = (
        ""
        if type(frame.index).__name__ == "RangeIndex"
        else f", its index {_listed(list(map(str, frame.index.names)))}"
    )
    sizes = f"{_rows(len(frame))} and {frame.shape[1]:,} columns"
    return f"a pandas DataFrame of {sizes}: {', '.join(named)}{more}{index}"


def describe_records(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A list of dicts in half a sentence; `columns`: the kinds of the values, by their key."""
    named = [f"`{_short(name)}`{f' ({_KINDS.get(kind, kind)})' if kind else ''}" for name, kind in columns.items()]
    return f"a list of dicts, the {_rows(len(rows))} of a table with {len(columns):,} columns: {_listed(named)}"


_KINDS = {"text": "str", "coded": "str", "category": "category", "duration": "timedelta", "value": "any"}


def _array(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    numpy = _package("numpy")
    made = rlm_columns.array(item, contents[0], numpy, notes)
    shape = tuple(item["shape"])
    if numpy is not None:
        return made, f"a numpy array of the shape {shape} and the type {made.dtype}"
    kind = _KINDS.get(item["column"]["kind"], item["column"]["kind"])
    if not shape:
        return made, f"a value of type {kind}, which was an array of {item['dtype']}"
    nested = "a list" if len(shape) == 1 else f"lists in lists, {len(shape)} deep,"
    return made, f"{nested} of the type {kind}, which was an array of the shape {shape} and the type {item['dtype']}"


def _plain(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    return item["value"], f"of type {type(item['value']).__name__}"


# --- files ---------------------------------------------------------------------------------------------------------

# lines and rows of files that are not as the others are, in order
_bad: list[dict[str, Any]] = []


def _csv(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    read = files.CsvFile(contents[0], item["delimiter"], item["header"])
    pandas = _package("pandas")
    with rlm_columns.without_collecting():
        made = read.records() if pandas is None else read.frame(pandas)
    notes += read.notes
    _bad.extend({"file": item["file"], **row} for row in read.bad)
    if pandas is not None:
        return made, describe_frame(made)
    return made, f"{describe_records(made, dict.fromkeys(read.names, ''))}, read from a CSV file: all values are str"


def _lines(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    with rlm_columns.without_collecting():
        values, bad = files.read_lines(contents[0], notes)
    _bad.extend({"file": item["file"], **row} for row in bad)
    return _of_json(values)


def _json(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    with rlm_columns.without_collecting():
        value = files.read_json(contents[0], item["file"])
    return _of_json(value)


def _of_json(value: Any) -> tuple[Any, str]:
    """A list of objects as a table; anything else as it is."""
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        items = f" of {len(value):,} items" if isinstance(value, (list, dict)) else ""
        return value, f"a value of type {type(value).__name__}{items}, read from JSON"
    pandas = _package("pandas")
    if pandas is not None:
        made = pandas.DataFrame(value)
        return made, describe_frame(made)
    columns: dict[str, set[str]] = {}
    for row in value:
        for name, field in row.items():
            columns.setdefault(name, set()).add(type(field).__name__)
    return value, describe_records(value, {name: " or ".join(sorted(kinds)) for name, kinds in columns.items()})


def _sqlite(item: Mapping[str, Any], contents: list[Any], notes: list[str]) -> tuple[Any, str]:
    made = files.open_database(item["file"], contents, item["beside"], notes)
    told = files.describe_database(made, _SHOWN_COLUMNS)
    return made, f"a sqlite3.Connection to a copy in memory of a database with {told}"


_MADE = {
    "table": _table,
    "array": _array,
    "plain": _plain,
    "csv": _csv,
    "jsonl": _lines,
    "json": _json,
    "sqlite": _sqlite,
}
_make()
