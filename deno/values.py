"""Values as JSON texts: how Python objects leave and enter the sandbox.

Twin of `rlm_wasm/sandbox/values.py`, which documents the tags; `tests/golden/values.json` holds both to the same
texts. Knows nothing of cells or of the bridge.
"""

# A value is whatever a cell made: its type is found out at run time.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import math
import re

MAX_DEPTH = 100
# as a string of a message each byte may take two, and a message may have 64 MiB
MAX_BYTES = 32_000_000
# what a value may take on the host, told by the brackets, commas and colons of its text (its twin says how)
MAX_HELD = 256 * 1024 * 1024
# bytes: texts that are shorter on average are cut out of one
SHORT = 2000
WEIGHTS = {"{": 232, "[": 72, ",": 64, ":": 40}
STRINGS = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
# made once: `json.dumps` makes one for each call that asks for anything
as_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def well_formed(text):
    """`text` with each lone surrogate replaced by U+FFFD, and surrogate pairs joined."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text if type(text) is str else str.__str__(text)


def encode(value, max_bytes=MAX_BYTES):
    """The JSON text of `value`.

    Raises TypeError for a type that has no rule, ValueError for what is nested too deeply (a cycle, for one) or
    too large.
    """
    # a frame that is much too large would take long to be written out
    _check_cells(value, max_bytes)
    text = as_json(_tagged(value, 0))
    size = len(text.encode())
    if size > max_bytes:
        raise ValueError(f"the value takes {size:,} bytes as JSON; at most {max_bytes:,} can be sent")
    if held_bytes(text) > MAX_HELD:
        raise ValueError(f"the value has too many parts (about {text.count(','):,}): send it as text, or a part of it")
    return text


def held_bytes(text):
    """What the value of a JSON text takes in memory at most, in bytes."""
    held = estimate(text)
    return held if held <= MAX_HELD else estimate(STRINGS.sub('""', text)) + 2 * len(text)


def estimate(text):
    return 2 * len(text) + sum(size * text.count(mark) for mark, size in WEIGHTS.items())


def decode(text):
    """The value of a JSON text written by `encode` or by its twin."""
    value = json.loads(text)
    # most have no tag at all, which is told much sooner than it is looked for everywhere
    return value if text.find('"$' if isinstance(text, str) else b'"$') < 0 else _untagged(value)


def unpack(content):
    """The value that the host has packed; its `packed.py` says how."""
    digits = content[:20].partition(b"\n")[0]
    start = len(digits) + 1
    index = content[start : start + int(digits)]
    bulk = memoryview(content)[start + int(digits) :]
    places = 0

    def placed(fields):
        nonlocal places
        if len(fields) == 1:
            [(tag, held)] = fields.items()
            if tag in _PLACES:
                places += 1
                return _PLACES[tag](bulk, *held)
        return fields

    value = json.loads(index, object_hook=placed)
    return _untagged(value) if index.count(b'"$') > places else value


def _text(bulk, form, start, size):
    piece = bulk[start : start + size]
    return bytes(piece) if form == "b" else str(piece, _CODECS[form])


def _texts(bulk, order, runs):
    made = {form: _run(bulk, form, *run) for form, run in runs.items()}
    if not order:
        [texts] = made.values()
        return texts
    each = {form: iter(texts) for form, texts in made.items()}
    return [next(each[form]) for form in order]


def _run(bulk, form, start, size, lengths):
    if size > SHORT * len(lengths):
        width = {"u": 2, "w": 4}.get(form, 1)
        ends = itertools.accumulate(lengths, initial=0)
        return [
            _text(bulk, form, start + end * width, length * width) for end, length in zip(ends, lengths, strict=False)
        ]
    # many short ones: cut out of one text, which costs less for each
    joined = _text(bulk, form, start, size)
    return [joined[end - length : end] for end, length in zip(itertools.accumulate(lengths), lengths, strict=True)]


def _tagged(value, depth):
    kind = type(value)
    if kind is str:
        return well_formed(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
    if kind is float:
        return value if value - value == 0 else {"$float": repr(value)}
    if depth >= MAX_DEPTH:
        raise ValueError(f"the value is nested more than {MAX_DEPTH} deep (or holds itself)")
    depth += 1
    if kind is list:
        return [_tagged(item, depth) for item in value]
    if kind is dict:
        return _tagged_dict(value, depth)
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_tagged(item, depth) for item in value]}
    if kind in _TEXTS:
        tag, write, _ = _TEXTS[kind]
        return {tag: write(value)}
    return _tagged(_plain(value), depth)


def _tagged_dict(value, depth):
    if all(type(key) is str and key[:1] != "$" for key in value):
        return {well_formed(key): _tagged(item, depth) for key, item in value.items()}
    return {"$dict": [[_tagged(key, depth), _tagged(item, depth)] for key, item in value.items()]}


def _plain(value):
    """The nearest plain value of a subclass or a well-known container."""
    if is_tabular(value):
        return _untabled(value)
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for base in (str, int, float, dict, list, tuple, set, frozenset, datetime.datetime, datetime.date):
        if isinstance(value, base):
            if base in (datetime.datetime, datetime.date):
                return base.fromisoformat(value.isoformat())
            return base.__str__(value) if base is str else base(value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, _ITERABLES):
        return list(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be sent; use text, numbers, bools, None, lists, tuples, sets, dicts, "
        "bytes or dates"
    )


def is_tabular(value):
    """Whether the class of a value is of a library of tables."""
    # a class that was made without a module has none
    module = getattr(type(value), "__module__", "")
    return type(module) is str and module.partition(".")[0] in _TABULAR


def _check_cells(value, max_bytes):
    if is_tabular(value):
        cells = math.prod(getattr(value, "shape", None) or ())
        # each takes two bytes at least
        if 2 * cells > max_bytes:
            raise ValueError(
                f"the value has {cells:,} cells, and would take more than the {max_bytes:,} bytes that can be sent"
            )


def _untabled(value):
    """What is of a library of tables as Python has it.

    A frame is a list of dicts, an array and a Series a list, a Series with an index of its own a dict, one value
    Python's own, and what stands for none None.
    """
    name = type(value).__name__
    if name in ("NaTType", "NAType"):
        return None
    if name == "Timestamp":
        return value.to_pydatetime(warn=False)
    _check_cells(value, MAX_BYTES)
    if hasattr(value, "to_dicts") or hasattr(value, "to_pylist"):
        return value.to_dicts() if hasattr(value, "to_dicts") else value.to_pylist()
    if hasattr(value, "iloc"):
        return _records(value) if hasattr(value, "columns") else _series(value)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and kind in "Mm":
        value = value.astype(f"{kind}8[us]")
    plain = value.tolist() if hasattr(value, "tolist") else value.to_list() if hasattr(value, "to_list") else value
    if is_tabular(plain):
        if not isinstance(plain, datetime.datetime):
            raise TypeError(f"a {name} cannot be sent: make text or numbers of it")
        return plain.to_pydatetime(warn=False)
    return plain


def _records(frame):
    """The rows of a frame of pandas. Its index is a column, unless it is nothing but numbers without a name."""
    if not _counts(frame.index):
        frame = frame.reset_index()
    names = ["_".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError("the frame has several columns of one name: rename them")
    columns = [_cells(frame.iloc[:, place]) for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _series(series):
    values, labels = _cells(series), None if _counts(series.index) else _cells(series.index)
    if labels is None:
        return values
    if len(set(labels)) < len(labels):
        return [list(pair) for pair in zip(labels, values, strict=True)]
    return dict(zip(labels, values, strict=True))


def _counts(index):
    """Whether an index is nothing but numbers without a name, as one is that nobody has chosen."""
    return index.nlevels == 1 and index.name is None and index.dtype.kind in "iu"


def _cells(series):
    """The values, None where there is none; a float that is not a number stays one."""
    values = series.tolist()
    if series.dtype.kind == "f" and hasattr(series.dtype, "byteorder"):
        return values
    return [None if gone else value for value, gone in zip(values, series.isna().tolist(), strict=True)]


# of these, what the value of a cell may be is told by its class's name and what it can do
_TABULAR = ("numpy", "pandas", "polars", "pyarrow")
_ITERABLES = (
    range,
    collections.deque,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)
_SEQUENCES = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_TEXTS = {
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    datetime.datetime: ("$datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("$date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("$time", datetime.time.isoformat, datetime.time.fromisoformat),
    decimal.Decimal: ("$decimal", str, decimal.Decimal),
}
_CODECS = {"a": "ascii", "l": "latin-1", "u": "utf-16-le", "w": "utf-32-le"}
_PLACES = {
    "$text": _text,
    "$texts": _texts,
    "$named": lambda bulk, keys, texts: dict(zip(keys, texts, strict=True)),
}
_READERS = {
    "$int": lambda text: int(text, 16),
    "$float": float,
    "$tuple": lambda items: tuple(map(_untagged, items)),
    "$set": lambda items: set(map(_untagged, items)),
    "$frozenset": lambda items: frozenset(map(_untagged, items)),
    "$dict": lambda pairs: {_untagged(key): _untagged(item) for key, item in pairs},
    **{tag: read for tag, _, read in _TEXTS.values()},
}


def _untagged(value):
    if type(value) is list:
        return [_untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        [(key, item)] = value.items()
        if key[:1] == "$":
            return _READERS[key](item)
    return {key: _untagged(item) for key, item in value.items()}
