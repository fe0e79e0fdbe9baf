"""Values as JSON texts: how Python objects enter and leave the sandbox without losing their type.

A value travels as a JSON text inside a string of a message, so that no JavaScript number ever touches it. Plain JSON
stands for itself; what JSON lacks is an object with one key that begins with `$`:

    {"$int": "0x..."}      an int outside 64 bits           {"$float": "nan" | "inf" | "-inf"}
    {"$tuple": [...]}      {"$set": [...]}                  {"$frozenset": [...]}
    {"$bytes": base64}     {"$decimal": "1.10"}             {"$dict": [[key, value], ...]}
    {"$datetime": iso}     {"$date": iso}                   {"$time": iso}

`$dict` carries every dict that has a key which is not a str or which begins with `$`. Rules for the rest: lone
surrogates become U+FFFD; NUL is an ordinary character; subclasses become their base (an Enum its value, a dataclass or
a msgspec Struct a dict); a frame of pandas or polars or an Arrow table becomes a list of dicts, an array of numpy's and
what is in it Python's own; what is nested more than 100 deep, so a cycle too, is a ValueError; any other type is a
TypeError. What comes out of the sandbox is bounded before anything is made of it: a few bytes of text can stand for
many of memory, and numbers can be chosen so that all have one hash. Twin of `deno/values.py`;
`tests/golden/values.json` holds both to the same texts.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import operator
import re
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from rlm_wasm import tables
from rlm_wasm.errors import ProtocolError

MAX_DEPTH = 100
# what the value of one text may take on the host, by `held_bytes`
MAX_HELD = 256 * 1024 * 1024
# of a set, or of the keys of a dict: each costs a comparison with all of its kind, and honest ones come in twos
MAX_SAME_HASH = 64
Keep = Callable[[Any], "object | None"]
_BROKEN = (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, AttributeError)
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)


def well_formed(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD, and surrogate pairs joined."""
    if type(text) is str and text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text if type(text) is str else str.__str__(text)


def encode(value: object) -> str:
    """The JSON text of `value`. Raises TypeError for a type without a rule, ValueError for too deep a nesting."""
    return json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def to_plain(value: object, keep: Keep | None = None) -> object:
    """What `encode` makes a text of: plain JSON, and tags for what it lacks. Raises as `encode` does.

    What `keep` gives for a str, bytes, a list or a dict stands in its place; where that is None, what always does.
    """
    return _tagged(value, 0, keep)


def from_plain(plain: object) -> Any:
    """The value that `to_plain` was given. Raises ProtocolError for what breaks the rules; bounds no size."""
    try:
        return _untagged(plain, 0)
    except _BROKEN as error:
        raise ProtocolError(f"a value breaks the rules: {type(error).__name__}") from error


def held_bytes(text: str) -> int:
    """What the value of a JSON text takes in memory at most, in bytes, told by its brackets, commas and colons."""
    held = _estimate(text)
    # those inside strings are only text; told apart where it matters, because it takes a while
    return held if held <= MAX_HELD else _estimate(_STRINGS.sub('""', text)) + 2 * len(text)


def _estimate(text: str) -> int:
    # an empty dict or list, and what one more item or field costs with its number or short text
    return 2 * len(text) + sum(bytes * text.count(mark) for mark, bytes in _WEIGHTS.items())


def decode(text: str, held: int | None = None) -> Any:
    """The value of a JSON text that came out of the sandbox. Raises ProtocolError for one that breaks the rules."""
    if (held_bytes(text) if held is None else held) > MAX_HELD:
        raise ProtocolError(f"the sandbox sent a value that would take more than {MAX_HELD:,} bytes")
    try:
        return _untagged(json.loads(text, parse_constant=_refuse), 0)
    except _BROKEN as error:
        raise ProtocolError(f"the sandbox sent a value that breaks the rules: {type(error).__name__}") from error


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _tagged(value: object, depth: int, keep: Keep | None) -> object:
    kind = type(value)
    if keep is not None and kind in _BULKY:
        kept = keep(value)
        if kept is not None:
            return kept
    if kind is str:
        return well_formed(cast(str, value))
    if value is None or kind is bool:
        return value
    if kind is int:
        number = cast(int, value)
        return number if -(2**63) <= number < 2**63 else {"$int": hex(number)}
    if kind is float:
        return value if cast(float, value) - cast(float, value) == 0 else {"$float": repr(value)}
    if depth >= MAX_DEPTH:
        raise ValueError(f"the value is nested more than {MAX_DEPTH} deep (or holds itself)")
    depth += 1
    if kind is list:
        return [_tagged(item, depth, keep) for item in cast("list[object]", value)]
    if kind is dict:
        return _tagged_dict(cast("dict[object, object]", value), depth, keep)
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_tagged(item, depth, keep) for item in cast("tuple[object, ...]", value)]}
    if kind in _TEXTS:
        tag, write, _ = _TEXTS[kind]
        return {tag: write(value)}
    return _tagged(_plain(value), depth, keep)


def _tagged_dict(value: dict[object, object], depth: int, keep: Keep | None) -> object:
    if all(type(key) is str and key[:1] != "$" for key in value):
        return {well_formed(cast(str, key)): _tagged(item, depth, keep) for key, item in value.items()}
    return {"$dict": [[_tagged(key, depth, keep), _tagged(item, depth, keep)] for key, item in value.items()]}


def _plain(value: Any) -> object:
    if tables.is_tabular(value):
        return tables.as_plain(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, str):
        return str.__str__(value)
    for base in _BASES:
        if isinstance(value, base):
            return base(value)
    if isinstance(value, (datetime.datetime, datetime.date)):
        base = datetime.datetime if isinstance(value, datetime.datetime) else datetime.date
        return base.fromisoformat(value.isoformat())
    if isinstance(value, (bytearray, memoryview)):
        return bytes(cast(bytearray, value))
    if isinstance(value, _ITERABLES):
        return list(cast("list[object]", value))
    raise TypeError(f"a {type(value).__name__} cannot be sent to the sandbox")


# Any: each is called with its own subclass, which no type of a tuple of classes can say
_BASES: tuple[Any, ...] = (int, float, dict, list, tuple, set, frozenset)
_NOTHING: dict[Any, Any] = {}
_WEIGHTS = {"{": 232, "[": 72, ",": 64, ":": 40}
_BULKY = frozenset({str, bytes, list, dict})
_ITERABLES = (range, deque, type(_NOTHING.keys()), type(_NOTHING.values()), type(_NOTHING.items()))
_SEQUENCES: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_TEXTS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], object]]] = {
    bytes: (
        "$bytes",
        lambda value: base64.b64encode(value).decode(),
        lambda text: base64.b64decode(text, validate=True),
    ),
    datetime.datetime: ("$datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("$date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("$time", datetime.time.isoformat, datetime.time.fromisoformat),
    decimal.Decimal: ("$decimal", str, decimal.Decimal),
}
_READERS: dict[str, Callable[[Any, int], object]] = {
    "$int": lambda text, _: int(text, 16),
    "$float": lambda text, _: {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[text],
    "$tuple": lambda items, depth: tuple(_untagged(item, depth) for item in items),
    "$set": lambda items, depth: set(_hashable([_untagged(item, depth) for item in items])),
    "$frozenset": lambda items, depth: frozenset(_hashable([_untagged(item, depth) for item in items])),
    "$dict": lambda pairs, depth: dict(
        zip(
            _hashable([_untagged(key, depth) for key, _ in pairs]),
            [_untagged(item, depth) for _, item in pairs],
            strict=True,
        )
    ),
    **{tag: (lambda text, _, read=read: read(text)) for tag, _, read in _TEXTS.values()},
}


def _hashable(items: list[Any]) -> list[Any]:
    """The items, if they may be hashed together: texts have hashes that nobody can choose, numbers do not."""
    hashes = sorted(map(hash, items))
    if any(map(operator.eq, hashes, hashes[MAX_SAME_HASH:])):
        raise ValueError("too many of one hash")
    return items


def _untagged(value: object, depth: int) -> object:
    # twice as deep as what is written: a tag is a level of its own
    if depth > 2 * MAX_DEPTH + 2:
        raise ValueError("nested too deeply")
    depth += 1
    if type(value) is str:
        return well_formed(value)
    if type(value) is list:
        return [_untagged(item, depth) for item in cast("list[object]", value)]
    if type(value) is not dict:
        return value
    fields = cast("dict[str, object]", value)
    if len(fields) == 1:
        [(key, item)] = fields.items()
        if key[:1] == "$":
            return _READERS[key](item, depth)
    return {well_formed(key): _untagged(item, depth) for key, item in fields.items()}
