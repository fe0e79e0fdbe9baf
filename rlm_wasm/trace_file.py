"""Events as a file and back: JSON lines, written as a run goes.

    {"format": "rlm_wasm trace", "version": 1}
    {"event": "RunStarted", "run": "...", "question": "...", ...}

The first line of each run says the format; every other is one event, with the fields that differ from their defaults.
Fields that hold any value (`context_value`, `final`, `response` and their like) have it in the sandbox's form
(`sandbox/values.py`: plain JSON, and `{"$tuple": [...]}` and its like for what JSON lacks), and come back exact; of a
value that this form has no rule for, the text that `repr` gives is written. Lone surrogates become U+FFFD. Secrets are
replaced by a mark before anything is written.

A file may hold several runs, one after another or mixed: each line goes out in one write, to the end of the file. What
was printed is written as it comes, so that a crash in a cell keeps it, and is left out when a file is read if the
cell's end is there. `RootStreamed` is not written: a reply is in `RootReplied`, whole.

Knows nothing of who writes and reads, and rebuilds nothing (`trajectory.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from rlm_wasm.errors import ProtocolError
from rlm_wasm.events import CellFinished, Event, Printed, RootStreamed
from rlm_wasm.sandbox import values
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.whole_file import written_whole

FORMAT, VERSION = "rlm_wasm trace", 1
# fields of events that hold any value
FREE = frozenset({"context_value", "settings", "arguments", "named", "value", "final", "response", "partial"})
# by which events say whose they are
_STAMPS = frozenset({"run", "parent"})
EVENTS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}
# characters of the repr of a value that has no form of its own
_REPR_CHARS = 10_000


class TraceFile:
    """Where the events of one run and its children are written: a context manager, whose `write` takes an event.

    `target` is the file, if its name ends in .jsonl, which is appended to; otherwise it is a folder, in which the run
    gets a file of its own, named by the time and the run's id. Folders that are not there are made. A new file can be
    read by its owner alone. `secrets` hides what is never written; None hides what the environment holds.

    Entering it raises OSError where the file or folder cannot be had; `write` raises OSError for a full disk, and
    ValueError after the end.
    """

    def __init__(self, target: str | Path, secrets: Secrets | None = None) -> None:
        self._target = Path(target)
        self._secrets = secrets or Secrets(of_environment())
        self._file: int | None = None
        self._closed = False
        self._began = False
        self.path: Path | None = None
        """The file; None until it is known."""

    def __repr__(self) -> str:
        return f"<TraceFile {self.path or self._target}{' (closed)' if self._closed else ''}>"

    def __enter__(self) -> Self:
        if self._target.suffix == ".jsonl":
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._open(self._target)
        else:
            self._target.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self._target, os.W_OK):
                raise PermissionError(f"no traces can be written into the folder {self._target}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def write(self, event: Event) -> None:
        """Append an event, in one write."""
        if isinstance(event, RootStreamed):
            return
        if self._closed:
            raise ValueError(f"{self!r}: an event came after the end")
        if self._file is None:
            made = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(event.wall or None))
            self._open(self._target / f"{made}_{event.run}.jsonl")
        line = encode(event, self._secrets) + "\n"
        # not before the first event, so that nothing stands in a file of no run
        _append(cast(int, self._file), line if self._began else self._beginning() + line)
        self._began = True

    def _open(self, path: Path) -> None:
        # O_BINARY: Windows would write other line ends
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC if os.name != "nt" else _windows_flags()
        self._file, self.path = os.open(path, flags, 0o600), path

    def _beginning(self) -> str:
        """The line that says the format, below what a crash may have left of a line."""
        file = cast(int, self._file)
        size = os.lseek(file, 0, os.SEEK_END)
        torn = size > 0 and os.lseek(file, size - 1, os.SEEK_SET) >= 0 and os.read(file, 1) != b"\n"
        return ("\n" if torn else "") + _HEADER


def _windows_flags() -> int:
    return os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)


_HEADER = json.dumps({"format": FORMAT, "version": VERSION}) + "\n"


def _append(file: int, text: str) -> None:
    content = text.encode()
    written = os.write(file, content)
    if written < len(content):
        raise OSError(f"only {written:,} of {len(content):,} bytes of an event could be written: the disk is full?")


def encode(event: Event, secrets: Secrets | None = None) -> str:
    """The line of an event, without its end."""
    told: dict[str, object] = {"event": type(event).__name__}
    for name, default in _defaults(type(event)).items():
        value = getattr(event, name)
        # an object of the caller's may answer == with anything
        if type(value) is type(default) and type(value) in _COMPARED and value == default:
            continue
        if name in FREE:
            plain = plain_of(value)
        else:
            plain = plain_of(
                value if type(value) in _SCALARS else _listed(msgspec.to_builtins(value, builtin_types=(bytes,)))
            )
        told[name] = plain if secrets is None or name in _STAMPS else secrets.hide_in(plain)
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


_SCALARS = frozenset({str, int, float, bool, type(None)})
_COMPARED = _SCALARS | {tuple, dict}


@cache
def _defaults(kind: type[Event]) -> Mapping[str, object]:
    """The fields of a kind of event with their defaults; a field without one has `NODEFAULT`, which is no value."""
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(kind)
    }


def _listed(value: object) -> object:
    """Builtins with their tuples as lists: of a field with a type of its own that type says what it was."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in cast("list[object]", value)]
    return value


def plain_of(value: object) -> object:
    """What stands for a value in a line: its form of `values.py`, or the nearest that there is to one."""
    try:
        return values.to_plain(value)
    except Exception:
        # any: an object of the caller's may raise what it likes
        return values.to_plain(_nearest(value, ()))


def _nearest(value: object, around: tuple[int, ...]) -> object:
    """A value with a form of its own, as near as can be to one that has none. `around`: the ids of what holds it."""
    # half as deep as may be written, for what is below a struct or a pair
    if id(value) not in around and len(around) < values.MAX_DEPTH // 2:
        inner = (*around, id(value))
        members = _members(value)
        if members is not None:
            return {_nearest_key(key): _nearest(item, inner) for key, item in members.items()}
        if isinstance(value, (list, tuple)):
            items = [_nearest(item, inner) for item in cast("list[object]", value)]
            return items if isinstance(value, list) else tuple(items)
    try:
        values.to_plain(value)
    except Exception:
        return _shown(value)
    return value


def _members(value: object) -> Mapping[object, object] | None:
    """What a mapping, a Struct or a model of pydantic's holds, by name; None for anything else."""
    if isinstance(value, msgspec.Struct):
        return cast("Mapping[object, object]", msgspec.structs.asdict(value))
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value)
    try:
        return cast(Any, value).model_dump()
    except Exception:
        return None


def _nearest_key(key: object) -> object:
    return key if key is None or isinstance(key, (str, int, float, bool, bytes)) else _shown(key)


def _shown(value: object) -> str:
    try:
        return repr(value)[:_REPR_CHARS]
    except Exception as error:
        return f"<a {type(value).__name__}, whose repr raises {type(error).__name__}>"


def decode(line: str | bytes) -> Event | None:
    """The event of a line; None for one that says the format. Raises ValueError for any other, and says why."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return _decoded(cast("dict[str, Any]", fields))


def _decoded(fields: dict[str, Any]) -> Event | None:
    if "format" in fields:
        _check_format(fields)
        return None
    kind = EVENTS.get(str(fields.pop("event", None)))
    if kind is None:
        raise ValueError("it is no event that is known here")
    try:
        return msgspec.convert({name: values.from_plain(value) for name, value in fields.items()}, type=kind)
    except (msgspec.ValidationError, ProtocolError) as error:
        raise ValueError(f"it is no {kind.__name__}: {error}") from error


def _check_format(fields: Mapping[str, Any]) -> None:
    version = fields.get("version")
    if fields["format"] != FORMAT or not isinstance(version, int):
        raise ValueError(f"it says another format than {FORMAT!r}")
    if version > VERSION:
        raise _Later(
            f"its format has version {version}, and this rlm_wasm knows {VERSION} at most: read it with a later one "
            "(pip install --upgrade rlm-wasm)"
        )


class _Later(ValueError):
    pass


def read(path: str | Path) -> list[Event]:
    """The events of a file, in the order in which they were written.

    A line that a crash has cut short, the last of the file or of what was written before another run began, is left
    out. Raises FileNotFoundError, and ValueError for a file of a later format or with any other damage.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        hint = f", such as the last, {files[-1]}" if files else ": there are none"
        raise ValueError(f"{path} is a folder: give one of the .jsonl files in it{hint}")
    if not path.exists():
        raise FileNotFoundError(f"there is no trace {path}: RLM(trace=...) says where traces are written")
    return list(_without_what_is_told_again(_lines(path)))


def _lines(path: Path) -> Iterator[Event]:
    """The events of a file; one line is looked ahead, because a header excuses a line that is damaged before it."""
    damaged: tuple[int, ValueError] | None = None
    known, line = False, b""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                event = decode(line)
            except ValueError as error:
                if isinstance(error, _Later) or damaged is not None:
                    raise _at(path, *(damaged or (number, error))) from error
                damaged = number, error
                continue
            if damaged is not None and event is not None:
                raise _at(path, *damaged)
            damaged = None
            if event is not None:
                if not known:
                    raise ValueError(f"{path} is no trace: its first line does not say the format {FORMAT!r}")
                yield event
            known = True
        if damaged is not None and (line.endswith(b"\n") or not (known or _HEADER.encode().startswith(line))):
            # a line that a crash has cut short has no end
            raise _at(path, *damaged)


def _at(path: Path, number: int, error: ValueError) -> ValueError:
    return ValueError(f"{path}, line {number:,}: {error}")


def _without_what_is_told_again(read: Iterable[Event]) -> Iterator[Event]:
    """The events without what a cell printed, where its end tells it once more."""
    told = list(read)
    left_out: set[int] = set()
    printed: dict[str, list[int]] = {}
    for place, event in enumerate(told):
        if isinstance(event, Printed):
            printed.setdefault(event.run, []).append(place)
        elif isinstance(event, CellFinished):
            left_out.update(printed.pop(event.run, ()))
    return (event for place, event in enumerate(told) if place not in left_out)


def save(path: str | Path, kept: Iterable[Event], secrets: Secrets | None = None) -> None:
    """Write events into a file of their own, in the place of one that is there, at once or not at all."""
    path = Path(path)
    hidden = secrets or Secrets(of_environment())
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, durable=False) as file:
        file.write(_HEADER.encode())
        file.writelines(f"{encode(event, hidden)}\n".encode() for event in kept)
