"""Files to texts and bytes by name, with what is known of each. Reads what `naming.py` has found, and nothing else."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from os import PathLike
from pathlib import Path

import msgspec

from rlm_wasm.files import archives, documents, texts
from rlm_wasm.files.limits import FileLimits, Ledger, TooMuch, Unpacking
from rlm_wasm.files.naming import Found, listed
from rlm_wasm.sandbox import SandboxOptions

_CHUNK = 1 << 20
# a file that changes while it is read is read so often at most
_ATTEMPTS = 3


class Files(msgspec.Struct, frozen=True):
    """Files as a context: `paths` is a path, a folder, a glob, or several of those; more can be chosen than by a Path.

    `encoding`: of all texts, None to find it out. `documents`: make text of PDF, DOCX and HTML. `archives`: open .zip,
    .tar, .gz, .bz2 and .xz. `hidden`: take what begins with a dot too.
    """

    paths: str | PathLike[str] | Sequence[str | PathLike[str]]
    encoding: str | None = None
    documents: bool = True
    archives: bool = True
    hidden: bool = False
    limits: FileLimits = FileLimits()

    @property
    def several(self) -> bool:
        """Whether it is several paths that are named, if only by a list of one."""
        return not isinstance(self.paths, (str, PathLike))

    @property
    def named(self) -> list[Path]:
        """The paths, as a list."""
        if isinstance(self.paths, (str, PathLike)):
            return [Path(self.paths)]
        return [Path(path) for path in self.paths]


class Fact(msgspec.Struct, frozen=True):
    """What is known of a file: `size` in bytes as it was found, `modified` in ISO 8601, `note` what else is to be said.

    `kind` is "text", "document" (whose text was made of it), "bytes", "archive" (whose files stand for themselves), or
    "unread", which is not in the context.
    """

    path: str
    size: int
    kind: str
    modified: str | None = None
    encoding: str | None = None
    note: str = ""


class Read(msgspec.Struct, frozen=True):
    """What was read: by name, or the one value that was named; what is known of each file, and what was left out."""

    value: dict[str, str | bytes] | str | bytes
    facts: tuple[Fact, ...]
    hidden: int = 0
    outside: int = 0


class _File(msgspec.Struct, kw_only=True):
    """A file whose content is there, before anything is made of it; `seen_as` is the name that tells its kind."""

    name: str
    seen_as: str
    origin: str
    explicit: bool
    content: bytes
    modified: datetime | None
    note: str = ""


class _Changed(OSError):
    """A file is not what it was when its reading began."""


def read(files: Files, errors: str = "strict", sandbox: SandboxOptions | None = None) -> Read:
    """Read what is named. Several files, a folder, a glob or an archive are a dict by name, one file is its value.

    `errors` is what to do with bytes that are not text, as in `bytes.decode`. What cannot be read of a folder, a glob
    or an archive is said in its `Fact`, and the rest is read. A file that was named by itself raises FileNotFoundError,
    OSError, ImportError for a document without the extra, or ValueError for what is not text, damaged or too much.
    `sandbox`: how the sandbox is started that reads documents.
    """
    texts.check(files.encoding)
    listing = listed(files.named, several=files.several, hidden=files.hidden, at_most=files.limits.files)
    _check_sizes(listing.found, files.limits.bytes)
    reader = _Reader(files, errors)
    for found in listing.found:
        reader.take(found)
    reader.finish(sandbox)
    facts = tuple(reader.facts.values())
    if not reader.values:
        raise ValueError(f"nothing could be read: {'; '.join(f'{fact.path}: {fact.note}' for fact in facts[:3])}")
    alone = not files.several and listing.found[0].explicit and not any(fact.kind == "archive" for fact in facts)
    value = next(iter(reader.values.values())) if alone else reader.values
    return Read(value, facts, listing.hidden, listing.outside)


def _check_sizes(found: Sequence[Found], at_most: int) -> None:
    """Raise ValueError for files that are too large together, before the first is read."""
    size = 0
    for each in found:
        # what is gone by now is found out when it is to be read
        with suppress(OSError):
            size += each.path.stat().st_size
    if size > at_most:
        raise ValueError(
            f"the files that are named have {size:,} bytes, and at most {at_most:,} are read: name fewer, or raise "
            "FileLimits(bytes=...)"
        )


class _Reader:
    """What was read so far: values and facts by name."""

    def __init__(self, files: Files, errors: str) -> None:
        self._files = files
        self._errors = errors
        self._ledger = Ledger(files.limits)
        self._documents: list[tuple[_File, str]] = []
        self.values: dict[str, str | bytes] = {}
        self.facts: dict[str, Fact] = {}

    def take(self, found: Found) -> None:
        """Read one file, and what is in it."""
        self._ledger.file()
        try:
            file = _content(found, self._ledger.left)
        except OSError as error:
            if found.explicit:
                raise
            self.facts[found.name] = Fact(found.name, 0, "unread", note=_said(error))
            return
        self._ledger.read(len(file.content))
        self._place(file, 0, None)

    def _place(self, file: _File, depth: int, unpacking: Unpacking | None) -> None:
        kind = archives.kind_of(file.seen_as, file.content) if self._files.archives else None
        if kind is not None and depth < self._files.limits.depth:
            self._open(kind, file, depth, unpacking or Unpacking(self._files.limits, len(file.content)))
            return
        if kind is not None:
            file.note = texts.join([file.note, "an archive so deep in others is not opened"])
        if file.name in self.values:
            file.note = texts.join([file.note, "the last of several with this name"])
        document = documents.kind_of(file.seen_as, file.content) if self._files.documents else None
        if document is None:
            self._decode(file)
        else:
            self._documents.append((file, document))
            # its place among the others
            self._keep(file, file.content, "document")

    def _open(self, kind: str, file: _File, depth: int, unpacking: Unpacking) -> None:
        """Read what is in an archive; where it is damaged or too much, what is before that."""
        count, note = 0, ""
        self.facts[file.name] = _fact(file, "archive")
        try:
            if archives.is_stream(kind):
                held, note = archives.unpacked(kind, file.content, unpacking)
                if note and file.explicit:
                    raise ValueError(note)
                self._ledger.read(len(held))
                self._place(_within(file, held, note), depth + 1, unpacking)
                return
            for member in archives.members(kind, file.content, self._ledger, unpacking):
                count += self._take_member(member, file, depth, unpacking)
        except TooMuch as refusal:
            if refusal.all or file.explicit:
                raise ValueError(f"{file.origin}: {refusal}") from None
            note = f"{refusal}"
        except archives.BROKEN as error:
            if file.explicit and not count:
                raise ValueError(f"{file.origin}: {archives.damaged(error)}") from error
            note = archives.damaged(error)
        kind = "archive" if count else "unread"
        read = "" if kind == "unread" else f"{count:,} files were read of it"
        self._keep_note(file, kind, texts.join([file.note, read, note]))

    def _take_member(self, member: archives.Member, archive: _File, depth: int, unpacking: Unpacking) -> bool:
        alone = not self._files.several and archive.explicit
        name = member.name if alone else f"{archive.name}/{member.name}"
        modified = member.modified or archive.modified
        if member.content is None:
            self.facts[name] = Fact(name, member.size, "unread", _iso(modified), note=member.note)
            return False
        self._ledger.read(len(member.content))
        origin = f"{archive.origin}: {member.name}"
        file = _File(name=name, seen_as=name, origin=origin, explicit=False, content=member.content, modified=modified)
        self._place(file, depth + 1, unpacking)
        return True

    def _decode(self, file: _File) -> None:
        """Text, or bytes where it is none."""
        decoded = texts.decoded(
            file.content,
            file.origin,
            encoding=self._files.encoding,
            errors=self._errors,
            explicit=file.explicit,
        )
        file.note = texts.join([file.note, decoded.note])
        kind = "bytes" if isinstance(decoded.value, bytes) else "text"
        self._keep(file, decoded.value, kind, decoded.encoding)

    def finish(self, sandbox: SandboxOptions | None) -> None:
        """Make text of the documents; where that fails, of HTML the text as it is, and bytes of the others."""
        if not self._documents:
            return
        asked = [(kind, file.content) for file, kind in self._documents]
        seconds = self._files.limits.seconds
        made = documents.convert(asked, encoding=self._files.encoding, seconds=seconds, sandbox=sandbox)
        for (file, kind), outcome in zip(self._documents, made, strict=True):
            if isinstance(outcome, str):
                self._keep(file, outcome, "document")
            elif file.explicit and kind != "html":
                raise ImportError(outcome.why) if outcome.missing else ValueError(f"{file.origin}: {outcome.why}")
            else:
                file.note = texts.join([file.note, outcome.why])
                self._decode(file)

    def _keep(self, file: _File, value: str | bytes, kind: str, encoding: str | None = None) -> None:
        self.values[file.name] = value
        self.facts[file.name] = msgspec.structs.replace(_fact(file, kind), encoding=encoding)

    def _keep_note(self, file: _File, kind: str, note: str) -> None:
        self.facts[file.name] = msgspec.structs.replace(_fact(file, kind), note=note)


def _fact(file: _File, kind: str) -> Fact:
    return Fact(file.name, len(file.content), kind, _iso(file.modified), note=file.note)


def _within(file: _File, held: bytes, note: str) -> _File:
    """What a compressed file holds: it keeps the file's name, and is what the name within it says."""
    inner, _, suffix = file.seen_as.rpartition(".")
    return _File(
        name=file.name,
        seen_as=inner,
        origin=file.origin,
        explicit=file.explicit,
        content=held,
        modified=file.modified,
        note=texts.join([file.note, f"unpacked from {suffix}", note]),
    )


# --- one file ------------------------------------------------------------------------------------------------------


def _content(found: Found, at_most: int) -> _File:
    """Read a file. Raises OSError, also if it changes meanwhile, and ValueError for more than `at_most` bytes."""
    attempts = (_read_once(found, at_most) for _ in range(_ATTEMPTS))
    done = next((attempt for attempt in attempts if attempt is not None), None)
    if done is None:
        raise _Changed(f"{found.path} changed each time that it was read: stop what writes to it, or copy it first")
    content, status, grown = done
    return _File(
        name=found.name,
        seen_as=found.path.name,
        origin=str(found.path),
        explicit=found.explicit,
        content=content,
        modified=archives.moment_of(status.st_mtime),
        note="it grew while it was read, and this is what it began with" if grown else "",
    )


def _read_once(found: Found, at_most: int) -> tuple[bytes, os.stat_result, bool] | None:
    """The content, and whether the file grew behind it meanwhile; None if it changed."""
    # what was a file when it was listed may be a link or a pipe by now
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if not found.explicit:
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(found.path, flags), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        regular = stat.S_ISREG(before.st_mode)
        if found.explicit and not (regular and before.st_size):
            # a pipe that was named by itself, or a file that the system makes as it is read
            return _until_its_end(file, found.path, at_most), before, False
        if not regular:
            raise OSError(f"{found.path} is no file")
        pieces: list[bytes] = []
        left = before.st_size
        if left > at_most:
            raise ValueError(
                f"{found.path} has {left:,} bytes, and {at_most:,} more may be read: name fewer files, or raise "
                "FileLimits(bytes=...)"
            )
        while left > 0 and (piece := file.read(min(left, _CHUNK))):
            pieces.append(piece)
            left -= len(piece)
        after = os.fstat(file.fileno())
    if after.st_size > before.st_size:
        return b"".join(pieces), before, True
    changed = left > 0 or (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size)
    return None if changed else (b"".join(pieces), before, False)


def _until_its_end(file: io.FileIO, path: Path, at_most: int) -> bytes:
    pieces: list[bytes] = []
    read = 0
    while piece := file.read(_CHUNK):
        pieces.append(piece)
        read += len(piece)
        if read > at_most:
            raise ValueError(f"{path} has more than {at_most:,} bytes: read a part, or raise FileLimits(bytes=...)")
    return b"".join(pieces)


def _said(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it vanished before it was read"
    return str(error) if isinstance(error, _Changed) else f"{error.strerror or error}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
