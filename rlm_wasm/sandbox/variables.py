"""How a variable travels into the sandbox: in the form in which CPython will hold it, in parts, never copied whole.

Decides without I/O; `sandbox.py` sends the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from rlm_wasm.sandbox.values import encode

# one part: large enough that its frame costs nothing, small enough to be on its way while the next is made
PART_BYTES = 4 * 1024 * 1024
# the largest object of a CPython whose sizes have 31 bits, less its header
MAX_SIZE = 2**31 - 1024
_WIDTHS = {"ascii": 1, "latin1": 1, "ucs2": 2, "ucs4": 4, "bytes": 1}
_CODECS = {"ascii": "ascii", "latin1": "latin-1", "ucs2": "utf-16-le", "ucs4": "utf-32-le"}
_SURROGATES = re.compile("[\ud800-\udfff]")


class Variable(msgspec.Struct, frozen=True):
    """A value to be loaded: `kind` as in the protocol ("text", "bytes", "value"), `form` as CPython holds `content`."""

    kind: str
    form: str
    content: str | bytes

    @property
    def size(self) -> int:
        """Bytes that `content` takes in the sandbox."""
        return len(self.content) * _WIDTHS[self.form]

    @property
    def needed(self) -> int:
        """Bytes that the variable takes in the sandbox: of a value, also the objects that are made of its text."""
        return self.size * (5 if self.kind == "value" else 1)

    def parts(self) -> Iterator[bytes]:
        """The bytes, some megabytes at a time. Lone surrogates become U+FFFD."""
        step = PART_BYTES // _WIDTHS[self.form]
        for start in range(0, len(self.content), step):
            piece = self.content[start : start + step]
            yield piece if isinstance(piece, bytes) else _encoded(piece, _CODECS[self.form])


def _encoded(piece: str, codec: str) -> bytes:
    try:
        return piece.encode(codec)
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", piece).encode(codec)


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
        text = encode(value)
        variable = Variable("value", find_form(text), text)
    if variable.size > MAX_SIZE:
        raise ValueError(
            f"{name} takes {variable.size:,} bytes in the sandbox, where one object can have {MAX_SIZE:,} (32-bit "
            "CPython): load it in several variables"
        )
    return variable


def find_form(text: str) -> str:
    """The form in which CPython holds a text: by its widest character."""
    if text.isascii():
        return "ascii"
    try:
        # fails at the first character that does not fit, which is near the start of most texts that have one
        text.encode("latin-1")
    except UnicodeEncodeError:
        wide = any(_is_wide(text[start : start + PART_BYTES]) for start in range(0, len(text), PART_BYTES))
        return "ucs4" if wide else "ucs2"
    return "latin1"


def _is_wide(piece: str) -> bool:
    return len(piece.encode("utf-16-le", "surrogatepass")) > 2 * len(piece)
