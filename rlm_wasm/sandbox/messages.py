"""What the child may send: the shapes of its replies and notifications, and how large an honest one can be."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox.memory import BOOT_MB

# what a report of a cell may hold (deno/prelude.py, deno/tracebacks.py); the output's size is the caller's choice
_ERROR_CHARS, _VALUE_BYTES, _NAMES, _NAME_CHARS = 10_000, 100_000, 256, 100
# what the mark for what was left out may take
MARK_CHARS = 200
# of the line that describes a variable, and of each of the notes on it (rlm_wasm/inside/tables.py)
_TOLD_CHARS, _NOTES = 10_000, 100
# a character that JSON escapes
_ESCAPED = 6


_Name = Annotated[str, msgspec.Meta(max_length=_NAME_CHARS)]


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protocol: int


class Initialized(Greeting, frozen=True, forbid_unknown_fields=True):
    deno: str
    v8: str
    stages: list[tuple[str, float]] = []


class ImageMade(Greeting, frozen=True, forbid_unknown_fields=True):
    image: int


class Ran(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # head, marker, tail, each of two streams in any order: what a cell may keep bounds their number
    output: list[tuple[Literal["stdout", "stderr"], str]]
    truncated: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    error: Annotated[str, msgspec.Meta(max_length=_ERROR_CHARS)] | None
    value: Annotated[str, msgspec.Meta(max_length=_VALUE_BYTES)] | None
    names: Annotated[list[_Name], msgspec.Meta(max_length=_NAMES)]
    timed_out: bool
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    kept: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = None
    restored: Annotated[list[_Name], msgspec.Meta(max_length=_NAMES)] = []
    repeatable: bool = False

    @staticmethod
    def max_bytes(output_chars: int) -> int:
        """The longest that an honest report can be."""
        chars = output_chars + MARK_CHARS + _ERROR_CHARS + _VALUE_BYTES + 2 * _NAMES * (_NAME_CHARS + 3) + 1000
        # every character of the output may be a piece of its own
        return _ESCAPED * chars + 16 * output_chars

    def check(self, output_chars: int) -> None:
        """Raise ProtocolError if there is more output than was agreed."""
        if sum(len(text) for _, text in self.output) > output_chars + MARK_CHARS:
            raise ProtocolError(f"the child sent more output than the {output_chars:,} characters that were agreed")


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    value: str


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a variable that is or holds tables: a line for the model, and what did not stay as it was."""

    line: Annotated[str, msgspec.Meta(max_length=_TOLD_CHARS)]
    notes: Annotated[list[Annotated[str, msgspec.Meta(max_length=_TOLD_CHARS)]], msgspec.Meta(max_length=_NOTES)]

    @classmethod
    def of(cls, value: object) -> Told:
        """Raises ProtocolError for a value that is none."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"the child described a table as it cannot be described: {error}") from None


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request: str


class Printed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stream: str
    text: str


class CheckpointBegun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint is being taken: `memory`, `header` and `size` in bytes, of which `size` are its pages'."""

    memory: int
    header: int
    runs: int
    size: int
    cells: int
    blob: int

    def check(self, memory_mb: int) -> None:
        """Raise ProtocolError for figures that a sandbox of so much memory cannot have."""
        most = (BOOT_MB + memory_mb) * 1024 * 1024
        if not (0 < self.size <= self.memory <= most and 0 < self.runs <= most // 4096 and self.cells >= 0):
            raise ProtocolError("the child sent a checkpoint that cannot be one")


class CheckpointPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where its bytes are."""

    blob: int


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass
