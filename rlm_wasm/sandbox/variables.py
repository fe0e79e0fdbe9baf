"""How a variable travels into the sandbox: in the form in which CPython will hold it, in parts, never copied whole.

Decides without I/O; `sandbox.py` sends the parts.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rlm_wasm.sandbox.packed import WIDTHS, Packed, find_form, pack, pieces

# the largest object of a CPython whose sizes have 31 bits, less its header
MAX_SIZE = 2**31 - 1024
# by kind: what a variable takes in the sandbox while it is loaded, in sizes of its content. A JSON text stands beside
# what is made of it, which is larger; what is packed beside its like, and twice where its texts are short
_TAKES = {"value": 5, "packed": 3}


class Variable(msgspec.Struct, frozen=True):
    """A value to be loaded: `kind` and `form` as in the protocol, `content` what is in it."""

    kind: str
    form: str
    content: str | bytes | Packed

    @property
    def size(self) -> int:
        """Bytes that `content` takes in the sandbox."""
        return len(self.content) * WIDTHS[self.form]

    @property
    def needed(self) -> int:
        """Bytes that the variable takes in the sandbox: of a value, also the objects that are made of its text."""
        return self.size * _TAKES.get(self.kind, 1)

    def parts(self) -> Iterator[bytes]:
        """The bytes, some megabytes at a time. Lone surrogates become U+FFFD."""
        return self.content.parts() if isinstance(self.content, Packed) else pieces(self.form, self.content)


def prepare(name: str, value: object) -> Variable:
    """The form in which a variable travels.

    Raises ValueError for what is not a name or too large for any sandbox, TypeError for what has no form there.
    """
    if not name.isidentifier() or name.startswith("__"):
        raise ValueError(f"{name!r} is not a name for a variable")
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
