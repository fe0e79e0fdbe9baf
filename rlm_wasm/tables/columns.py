"""A table as the columns that travel: bytes of numbers, texts joined with their lengths, and what is said of each.

Takes plain lists and numpy's arrays. Twin of `rlm_wasm/inside/columns.py`, which reads what is written here with the
standard library alone. All numbers are little-endian, as in the sandbox. Knows nothing of frames or of the wire.
"""

# numpy is whatever the caller has: its types are not known here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
# what stands for no time at all, in numpy's way
NO_TIME = -(2**63)
# by unit, the times that Python's datetime can say: years 1 to 9999
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_PLAIN = (
    *(str, int, float, bytes, decimal.Decimal, enum.Enum),
    *(datetime.datetime, datetime.date, datetime.time),
)


class Column(msgspec.Struct, frozen=True):
    """One column: `told` is what the reader is told of it, `parts` are the bytes that belong to it, in order.

    `kind` in `told` is "bool", "int", "float", "complex", "datetime", "duration", "date" (numbers, of the array type
    code `form`), "text", "coded" and "category" (whole numbers that say which of `categories`), or "value" (anything
    JSON-like, among what is told). `missing` is the size of the part that says where there is no value.
    """

    told: dict[str, Any]
    parts: tuple[bytes, ...]

    @property
    def kind(self) -> str:
        """The kind of its values."""
        return self.told["kind"]

    def named(self, name: str, label: object) -> Column:
        """The same, with its name as text and as the caller has it."""
        return Column({**self.told, "name": name, "label": label}, self.parts)


def of_numbers(kind: str, numbers: array[Any], missing: bytes = b"", **more: Any) -> Column:
    """A column of an array of numbers; `missing` has a byte for each, 1 where there is no value."""
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    content = numbers.tobytes()
    sign = (
        "b"
        if kind == "bool"
        else {"f": "f", "d": "f"}.get(numbers.typecode, "u" if numbers.typecode.isupper() else "i")
    )
    form = "?" if kind == "bool" else numbers.typecode
    told = {"kind": kind, "form": form, "dtype": f"<{sign}{numbers.itemsize}", "size": len(content)}
    return Column({**told, "missing": len(missing), **more}, (content, missing) if missing else (content,))


def of_texts(texts: Sequence[str | None], notes: list[str]) -> Column:
    """A column of texts. Where many are the same each is sent once."""
    known: dict[str, int] = {}
    codes = array("i", [-1 if text is None else known.setdefault(text, len(known)) for text in texts])
    if -1 not in codes and 2 * len(known) > len(texts):
        return _joined(cast("Sequence[str]", texts), notes)
    return of_codes("coded", codes, _joined(list(known), notes))


def of_codes(kind: str, codes: array[int], categories: Column, **more: Any) -> Column:
    """A column of which each value is one of `categories`; -1 for none."""
    coded = of_numbers(kind, codes)
    told = {**coded.told, "categories": categories.told, **more}
    return Column(told, coded.parts + categories.parts)


def _joined(texts: Sequence[str], notes: list[str]) -> Column:
    try:
        content = "".join(texts).encode()
    except UnicodeEncodeError:
        notes.append("lone surrogates became U+FFFD")
        texts = [text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for text in texts]
        content = "".join(texts).encode()
    lengths = of_numbers("int", array("i", map(len, texts))).parts[0]
    told = {"kind": "text", "size": len(content), "lengths": len(lengths), "missing": 0}
    return Column(told, (content, lengths))


def of_values(values: Sequence[Any], notes: list[str]) -> Column:
    """A column of plain Python values, None where there is none; `notes` gets what does not stay as it is."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds or kinds == {str}:
        return of_texts(values, notes)
    if kinds == {datetime.datetime} and all(value is None or value.tzinfo is None for value in values):
        times = [NO_TIME if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
        return of_numbers("datetime", array("q", times), unit="us")
    if kinds == {datetime.timedelta}:
        spans = [NO_TIME if value is None else value // _MICROSECOND for value in values]
        return of_numbers("duration", array("q", spans), unit="us")
    missing = bytes(value is None for value in values) if None in values else b""
    known = [0 if value is None else value for value in values] if missing else values
    if kinds == {bool}:
        return of_numbers("bool", array("B", known), missing)
    if kinds == {float}:
        return of_numbers("float", array("d", known), missing)
    if kinds == {int}:
        return _of_ints(known, missing) or _plain_values(values, notes)
    if kinds == {datetime.date}:
        days = [1 if value is None else value.toordinal() for value in values]
        return of_numbers("date", array("i", days), missing)
    return _plain_values(values, notes)


def _of_ints(known: Sequence[int], missing: bytes) -> Column | None:
    for code in "qQ":
        try:
            return of_numbers("int", array(code, known), missing)
        except OverflowError:
            continue
    return None


def _plain_values(values: Sequence[Any], notes: list[str]) -> Column:
    changed: Counter[str] = Counter()
    plain = [_plain(value, changed) for value in values]
    notes += [f"{number:,} values of type {kind} became text" for kind, number in changed.items()]
    return Column({"kind": "value", "values": plain, "missing": 0}, ())


def _plain(value: Any, changed: Counter[str]) -> Any:
    """A value that has a form in the sandbox; of what has none, its text."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {_plain(key, changed): _plain(item, changed) for key, item in pairs}
    for kind in _SEVERAL:
        if isinstance(value, kind):
            return kind(_plain(item, changed) for item in cast("Sequence[Any]", value))
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _plain(value.tolist(), changed)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, changed)
    changed[type(value).__name__] += 1
    return str(value)


# Any: each makes another of its kind
_SEVERAL: tuple[Any, ...] = (list, tuple, set, frozenset)


# --- numpy's arrays ------------------------------------------------------------------------------------------------

_FORMS = {"i": "bhiq", "u": "BHIQ", "f": "  fd"}


def of_array(flat: Any, notes: list[str]) -> Column:
    """A column of an array of numpy's that has one dimension."""
    kind, size = flat.dtype.kind, flat.dtype.itemsize
    if kind in "Mm":
        return _of_times(flat, notes)
    if kind == "b":
        return _of_bytes("bool", "B", flat.view("u1"))
    if kind in "iu":
        return _of_bytes("int", _FORMS[kind][size.bit_length() - 1], flat)
    if kind == "f" and size <= 8:
        return _of_bytes("float", "f" if size < 8 else "d", flat.astype("f4", copy=False) if size < 4 else flat)
    if kind == "c" and size <= 16:
        pairs = flat.astype("c16", copy=False)
        return _of_bytes("complex", "d", pairs.view(pairs.real.dtype), dtype="<c16")
    if kind in "fc":
        notes.append(f"{flat.dtype} is cut to 64 bits a number")
        return of_array(flat.astype("f8" if kind == "f" else "c16"), notes)
    return of_values(flat.tolist(), notes)


def _of_bytes(kind: str, form: str, flat: Any, **more: Any) -> Column:
    content: bytes = flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()
    told = {"kind": kind, "form": "?" if kind == "bool" else form, "size": len(content), "missing": 0}
    dtype = "<b1" if kind == "bool" else f"<{flat.dtype.kind}{flat.dtype.itemsize}"
    return Column({**told, "dtype": dtype, **more}, (content,))


def _of_times(flat: Any, notes: list[str]) -> Column:
    numpy = sys.modules["numpy"]
    letter = flat.dtype.kind
    unit, count = numpy.datetime_data(flat.dtype)
    if unit == "generic":
        unit, flat = "s", flat.astype(f"{letter}8[s]")
    if unit not in PER_SECOND or count != 1:
        wanted = unit if unit in PER_SECOND else "ns" if unit in ("ps", "fs", "as") else "s"
        if unit in ("ps", "fs", "as"):
            notes.append("fractions of a nanosecond are cut off")
        if letter == "m" and unit in ("Y", "M"):
            return of_values([None if text == "NaT" else text for text in flat.astype(str).tolist()], notes)
        unit, flat = wanted, flat.astype(f"{letter}8[{wanted}]")
    numbers = flat.view("i8")
    known = numbers[numbers != NO_TIME]
    scale = PER_SECOND[unit]
    if len(known) and letter == "M" and not (_FIRST * scale <= int(known.min()) and int(known.max()) <= _LAST * scale):
        notes.append("times outside of the years 1 to 9999: all became text")
        return of_values([None if text == "NaT" else text for text in flat.astype(str).tolist()], notes)
    fine = unit == "ns" and bool((known % 1000).any())
    kind = "datetime" if letter == "M" else "duration"
    return _of_bytes(kind, "q", numbers, unit=unit, **({"nanoseconds": True} if fine else {}))
