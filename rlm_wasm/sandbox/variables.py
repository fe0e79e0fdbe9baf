"""How a variable travels into the sandbox: in the form in which CPython will hold it, in parts, never copied whole.

Decides without I/O; `sandbox.py` sends the parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rlm_wasm import tables
from rlm_wasm.dialects.dialect import inside
from rlm_wasm.sandbox.packed import WIDTHS, Packed, find_form, pack, pieces

# the largest object of a CPython whose sizes have 31 bits, less its header
MAX_SIZE = 2**31 - 1024
# by kind: what a variable takes in the sandbox while it is loaded, in sizes of its content. A JSON text stands beside
# what is made of it, which is larger; what is packed beside its like, and twice where its texts are short
_TAKES = {"value": 5, "packed": 3}


class Variable(msgspec.Struct, frozen=True):
    """A value to be loaded: `kind` and `form` as in the protocol, `content` what is in it.

    A table is of kind "equipment", and made inside of variables that are loaded `before` it: it takes `room` then.
    """

    kind: str
    form: str
    content: str | bytes | Packed
    before: tuple[tuple[str, Variable], ...] = ()
    room: int = 0

    @property
    def size(self) -> int:
        """Bytes that `content` takes in the sandbox, and what is loaded before it."""
        return len(self.content) * WIDTHS[self.form] + sum(variable.size for _, variable in self.before)

    @property
    def needed(self) -> int:
        """Bytes that the variable takes in the sandbox: of a value, also the objects that are made of its text."""
        return self.size * _TAKES.get(self.kind, 1) + self.room

    def parts(self) -> Iterator[bytes]:
        """The bytes, some megabytes at a time. Lone surrogates become U+FFFD."""
        return self.content.parts() if isinstance(self.content, Packed) else pieces(self.form, self.content)


def prepare(name: str, value: object) -> Variable:
    """The form in which a variable travels.

    Raises ValueError for what is not a name or too large for any sandbox, TypeError for what has no form there.
    """
    if not name.isidentifier() or name.startswith("__"):
        raise ValueError(f"{name!r} is not a name for a variable")
    tabular = tables.find(value)
    return _plain(name, value) if tabular is None else _tabular(name, tabular)


def _tabular(name: str, value: tables.Tables) -> Variable:
    told, contents = value.ready(name)
    before = [("rlm_table", _plain(name, told))]
    before += [(f"rlm_table_{place}", _plain(name, content)) for place, content in enumerate(contents)]
    sources = {"library": inside("columns", "table_files"), "modules": inside("tables")}
    content = msgspec.json.encode(sources).decode()
    return Variable("equipment", find_form(content), content, tuple(before), value.needed)


def _plain(name: str, value: object) -> Variable:
    if isinstance(value, str):
        variable = Variable("text", find_form(value), value)
    elif isinstance(value, (bytes, bytearray)):
        variable = Variable("bytes", "bytes", bytes(value))
    else:
        packed = pack(value)
        if isinstance(packed, Packed):
            variable = Variable("packed", "bytes", packed)
        else:
            variable = Variable("value", find_form(packed), packed)
    if variable.size > MAX_SIZE:
        raise ValueError(
            f"{name} takes {variable.size:,} bytes in the sandbox, where one object can have {MAX_SIZE:,} (32-bit "
            "CPython): load it in several variables"
        )
    return variable
