"""What a caller gave as one variable, where it is a table or holds some: recognised, and ready to travel.

Knows what is told to the reader in the sandbox (`rlm_wasm/inside/tables.py`), and nothing of how it gets there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from rlm_wasm.inside import columns
from rlm_wasm.tables import frames
from rlm_wasm.tables.files import TableFile, is_table_file, read_table
from rlm_wasm.tables.frames import Array, Table

# a longer list or dict holds no frames: looking for some in millions of items takes a while
_MOST = 1000


class Plain(msgspec.Struct, frozen=True):
    """What stands among tables and is none: JSON-like."""

    value: Any

    @property
    def told(self) -> dict[str, Any]:
        """As it is."""
        return {"kind": "plain", "value": self.value, "notes": []}

    @property
    def contents(self) -> tuple[bytes | str, ...]:
        """None."""
        return ()

    @property
    def needed(self) -> int:
        """Little."""
        return 0

    @property
    def size(self) -> str:
        """Its type."""
        return f"of type {type(self.value).__name__}"


Item = Table | Array | TableFile | Plain


class Tables(msgspec.Struct, frozen=True):
    """A table, or a list or dict of several ("list", "dict") with its `keys`: one variable of the sandbox."""

    form: Literal["one", "list", "dict"]
    items: tuple[Item, ...]
    keys: tuple[Any, ...] = ()

    def ready(self, name: str) -> tuple[dict[str, Any], list[bytes | str]]:
        """What the reader in the sandbox is told of a variable of this name, and what is loaded beside it, in order."""
        contents = [item.contents for item in self.items]
        items = [{**item.told, "contents": len(own)} for item, own in zip(self.items, contents, strict=True)]
        told = {"name": name, "form": self.form, "keys": list(self.keys), "items": items}
        return told, list(chain.from_iterable(contents))

    def to_value(self) -> dict[str, Any]:
        """The same as a value that can be written down; `from_value` reads it."""
        items = [[type(item).__name__, msgspec.structs.asdict(item)] for item in self.items]
        return {"form": self.form, "keys": list(self.keys), "items": items}

    @classmethod
    def from_value(cls, value: Mapping[str, Any]) -> Tables:
        """What `to_value` was made of. Raises ValueError for a value that was not made by it."""
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (Table, Array, TableFile, Plain)}
        try:
            items = [msgspec.convert(fields, kinds[kind]) for kind, fields in value["items"]]
            return cls(value["form"], tuple(items), tuple(value["keys"]))
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise ValueError(f"these are no tables: {error}") from None

    @property
    def needed(self) -> int:
        """About how many bytes it takes in the sandbox where there is no pandas."""
        return sum(item.needed for item in self.items)

    @property
    def description(self) -> str:
        """What is known of it before it is loaded, for a model: half a sentence of sizes."""
        if self.form == "one":
            return f"a table of {self.items[0].size}"
        return f"a {self.form} of {len(self.items):,} items, tables among them"


def find(value: object) -> Tables | None:
    """The tables that a value is or holds; None if it holds none.

    A `Path` to a SQLite database or a Parquet file is one, because that is no text. Raises as `read_table` does.
    """
    if isinstance(value, Tables):
        return value
    only = _table(value)
    if only is not None:
        return Tables("one", (only,))
    if isinstance(value, Mapping):
        members = cast("Mapping[Any, object]", value)
        if len(members) <= _MOST and any(map(_is_table, members.values())):
            return Tables("dict", tuple(map(_item, members.values())), tuple(members))
    elif isinstance(value, (list, tuple)):
        several = cast("Sequence[object]", value)
        if len(several) <= _MOST and any(map(_is_table, several)):
            return Tables("list", tuple(map(_item, several)))
    return None


def is_tabular(value: object) -> bool:
    """Whether a value is of one of the libraries: a frame, an array, or one value of theirs."""
    return frames.package_of(value) in frames.PACKAGES


def as_plain(value: Any) -> object:
    """The same as plain Python: lists of dicts, lists, or one value. Raises TypeError for what has no such form."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if type(value).__name__ == "Timestamp":
        return value.to_pydatetime(warn=False)
    made = frames.of(value)
    if isinstance(made, Table):
        rows = columns.records(made.told, made.contents[0], [])
        return [next(iter(row.values())) for row in rows] if made.single and not made.index else rows
    if isinstance(made, Array):
        return columns.array(made.told, made.contents[0], None, [])
    if hasattr(value, "astype") and value.dtype.kind in "Mm":
        value = value.astype(f"{value.dtype.kind}8[us]")
    plain = value.tolist() if hasattr(value, "tolist") else value
    if is_tabular(plain):
        raise TypeError(f"a {type(plain).__name__} cannot be sent to the sandbox: make text or numbers of it")
    return plain


def _is_table(value: object) -> bool:
    return isinstance(value, (Table, Array, TableFile)) or frames.is_one(value)


def _table(value: object) -> Table | Array | TableFile | None:
    if isinstance(value, (Table, Array, TableFile)):
        return value
    if isinstance(value, Path) and is_table_file(value):
        return read_table(value)
    return frames.of(value)


def _item(value: object) -> Item:
    return _table(value) or Plain(value)
