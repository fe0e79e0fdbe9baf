"""Files that are tables: which kind one is, and its bytes or text, to be read where nothing can be harmed.

CSV, JSON and SQLite are read in the sandbox (`rlm_wasm/inside/table_files.py`): here their bytes are read, and texts
decoded. Parquet is read here, by whichever library the caller has installed.
"""

# The libraries are whatever the caller has: their types are not known here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import importlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from rlm_wasm.tables import frames
from rlm_wasm.tables.frames import Table

Kind = Literal["csv", "jsonl", "json", "sqlite", "parquet"]

_SUFFIXES: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
    ".db3": "sqlite",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SQLITE, _PARQUET = b"SQLite format 3\0", b"PAR1"
# what a database may have beside it, with changes that are not in it yet
_BESIDE = ("-wal", "-journal")
# where in a database it says that it keeps a log of changes, and that it keeps none
_LOGGED, _LOGS, _NO_LOGS = slice(18, 20), b"\x02\x02", b"\x01\x01"
# bytes: no object of a sandbox can be larger
_MOST = 2**31 - 1024
# what the rows of a file take, as dicts of texts, of which short ones take much more than their characters
_ROOM = {"csv": 10, "jsonl": 8, "json": 8, "sqlite": 3}


class TableFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is a table, or holds some, as it was when it was read. Made by `read_table`."""

    name: str
    kind: Kind
    contents: tuple[bytes | str, ...]
    told: dict[str, Any]

    @property
    def needed(self) -> int:
        """About how many bytes its rows take in the sandbox, beside what is loaded."""
        return sum(map(len, self.contents)) * _ROOM[self.kind]

    @property
    def size(self) -> str:
        """Its name and size in words."""
        unit = "bytes" if self.kind == "sqlite" else "characters"
        return f"what is in {self.name!r} ({self.kind}, {sum(map(len, self.contents)):,} {unit})"


def read_table(
    path: str | PathLike[str],
    *,
    kind: Kind | None = None,
    encoding: str | None = None,
    errors: str = "strict",
    delimiter: str | None = None,
    header: bool = True,
) -> TableFile | Table:
    """A file as a table for `context=`, `variables=` or `Sandbox.load`, alone or in a list or dict.

    `kind` is "csv", "jsonl" (a JSON value a line), "json", "sqlite" or "parquet"; None tells it by the file's first
    bytes, then by its name. Inside a CSV, JSON lines or a JSON array of objects is a DataFrame if pandas can be
    imported, else a list of dicts (of texts, for CSV); a SQLite database is a `sqlite3.Connection` to a copy of it in
    memory. Those are read inside the sandbox; Parquet is read here, by pyarrow or polars, and needs one of them.

    `encoding` and `errors` are those of `bytes.decode`; without an encoding a byte order mark says it, else it is
    UTF-8. `delimiter` and `header` (whether the first row has the columns' names) are for CSV; None looks at the first
    line. Rows with more or fewer fields than the others and lines that are no JSON are told of, and put into
    `NAME_bad_lines`. Raises FileNotFoundError, ImportError where nothing reads Parquet, and ValueError for a file of
    no known kind, one that is not text, one too large for a sandbox, and one that changes while it is read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read a table from")
    found = kind or _kind_of(path)
    if found not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {found!r}")
    if found == "parquet":
        return _read_parquet(path)
    told: dict[str, Any] = {"kind": found, "file": path.name, "notes": []}
    if found == "sqlite":
        return _read_database(path, told)
    text = _decoded(_bytes_of(path), path, encoding, errors)
    if found == "csv":
        told |= {"delimiter": delimiter or ("\t" if path.suffix in (".tsv", ".tab") else None), "header": header}
    return TableFile(name=path.name, kind=found, contents=(text,), told=told)


def is_table_file(path: Path) -> bool:
    """Whether a file is a table by its first bytes, and of no use as anything else."""
    return path.is_file() and _by_first_bytes(path) is not None


def _by_first_bytes(path: Path) -> Kind | None:
    with path.open("rb") as file:
        first = file.read(len(_SQLITE))
    return "sqlite" if first == _SQLITE else "parquet" if first.startswith(_PARQUET) else None


def _kind_of(path: Path) -> Kind:
    found = _by_first_bytes(path) or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ValueError(
            f"{path.name!r} does not say what kind of table it is: give kind=, {', '.join(get_args(Kind))}"
        )
    return found


def _bytes_of(path: Path) -> bytes:
    """All of a file. Raises ValueError for one that is too large, or that changes meanwhile."""
    before = path.stat()
    if before.st_size > _MOST:
        raise ValueError(f"{path.name!r} has {before.st_size:,} bytes, and a sandbox takes {_MOST:,} at once: split it")
    content = path.read_bytes()
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise ValueError(f"{path.name!r} changed while it was read: read it again when nobody writes to it")
    return content


def _decoded(content: bytes, path: Path, encoding: str | None, errors: str) -> str:
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    chosen = encoding or ("utf-16" if marked else "utf-8-sig")
    try:
        return content.decode(chosen, errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path.name!r} is not {chosen.removesuffix('-sig').upper()}: byte 0x{content[error.start]:02x} at offset "
            f"{error.start:,} (line {line:,}); give encoding=, or errors='replace' to read it all the same"
        ) from None


def _read_database(path: Path, told: dict[str, Any]) -> TableFile:
    content = _bytes_of(path)
    beside = [path.with_name(path.name + suffix) for suffix in _BESIDE]
    there = [
        (suffix, file) for suffix, file in zip(_BESIDE, beside, strict=True) if file.is_file() and file.stat().st_size
    ]
    more = [_bytes_of(file) for _, file in there]
    if not there and content[_LOGGED] == _LOGS:
        # a copy in memory has no log of changes beside it, and this one's is empty
        content = content[: _LOGGED.start] + _NO_LOGS + content[_LOGGED.stop :]
    told = {**told, "beside": [suffix for suffix, _ in there]}
    return TableFile(name=path.name, kind="sqlite", contents=(content, *more), told=told)


def _read_parquet(path: Path) -> Table:
    for module, function in (("pyarrow.parquet", "read_table"), ("polars", "read_parquet")):
        try:
            read = getattr(importlib.import_module(module), function)
        except ImportError:
            continue
        try:
            made = frames.of(read(path))
        except Exception as error:
            # each library has errors of its own
            raise ValueError(f"{path.name!r} cannot be read as Parquet: {type(error).__name__}: {error}") from error
        assert isinstance(made, Table)
        return made
    raise ImportError(f"nothing here reads Parquet, which {path.name!r} is: pip install pyarrow (or polars)")
