"""Answers to many questions as a file: JSON lines, one for each answer, written as it comes and kept by a sudden end.

    {"id": "q7", "question": "...", "state": "answered", "response": ..., "usage": {...}, "key": "...", ...}

A line is appended whole and is on the disk before the next question is asked; one that was cut short by a sudden end is
dropped when the file is read. Of several lines with the same `id` and `key` the last one counts, until `settle` writes
the file anew. Values that JSON lacks stand in the sandbox's form (`sandbox/values.py`). Knows nothing of how a question
is answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from rlm_wasm.errors import ProtocolError
from rlm_wasm.limits import Usage
from rlm_wasm.locks import LockBeside, Taken
from rlm_wasm.sandbox import values
from rlm_wasm.trace_file import plain_of
from rlm_wasm.trajectory import Completion
from rlm_wasm.whole_file import written_whole

State = Literal["answered", "stopped", "failed", "not asked"]
_NOT_WRITTEN = frozenset({"earlier", "completion"})
# of every line
_BEGINNING = b'{"id": "'
# where there is nothing in them
_LEFT_OUT = frozenset({"stopped_by", "failure", "run", "metadata", "key"})


class BatchBusy(ValueError):
    """Another batch writes its answers into the same file."""


class Failure(msgspec.Struct, frozen=True):
    """What a question failed of: the type and the text of the exception."""

    type: str
    text: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one of many questions.

    `state`: "answered" by FINAL; "stopped" by a limit or from outside, as `stopped_by` says, with the best answer that
    there was in `response` or `partial`; "failed" with `failure`; "not asked", because the batch ended before. `usage`
    and `seconds` are of all that was tried for it, in earlier batches too. `earlier`: it was so in an earlier one.
    `completion` is the whole run, where there is no file of answers: it would take more memory than they do. `key`
    tells the question with its context and its output from any other.
    """

    id: str
    question: str
    state: State
    response: Any = None
    stopped_by: str = ""
    partial: Any = None
    failure: Failure | None = None
    usage: Usage = Usage()
    seconds: float = 0.0
    run: str = ""
    metadata: dict[str, Any] = {}
    key: str = ""
    earlier: bool = False
    completion: Completion | None = None


class AnswersFile:
    """The file of a batch while it goes on: a context manager, in which no other batch can write it.

    Entering it raises BatchBusy, OSError, and ValueError for a file that holds anything but answers, which is left as
    it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = LockBeside(self.path)
        self._file: int | None = None
        self._known: dict[tuple[str, str], Answered] = {}

    def __repr__(self) -> str:
        return f"<AnswersFile {self.path}: {len(self._known):,} answers>"

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.__enter__()
        except Taken:
            raise BatchBusy(
                f"another batch writes {str(self.path)!r}: wait for its end, or end it, or choose another file"
            ) from None
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()
        self._lock.__exit__()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def find(self, id: str, key: str) -> Answered | None:
        """What is in the file of this question."""
        return self._known.get((id, key))

    def add(self, answered: Answered) -> None:
        """Append a line; it is on the disk when this returns. Raises OSError, and the file is as it was before."""
        assert self._file is not None
        line = _encode(answered)
        size = os.lseek(self._file, 0, os.SEEK_END)
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"only {written:,} of {len(line):,} bytes could be written: the disk is full?")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._known[answered.id, answered.key] = answered

    def settle(self, answers: Sequence[Answered]) -> None:
        """Write the file anew: a line for each of these, in their order, below those that it has of other questions.

        It is the last that is written. Raises OSError, and the file is as it was before.
        """
        own = {(answered.id, answered.key) for answered in answers}
        others = [answered for place, answered in self._known.items() if place not in own]
        # Windows replaces no file that is open
        self._close()
        with written_whole(self.path) as file:
            file.writelines(_encode(answered) for answered in (*others, *answers))

    def _open(self) -> None:
        # a new file can be read by its owner alone; O_BINARY: Windows would write other line ends
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o600)
        whole, ended = self._read()
        # what is behind the last whole line was cut short
        os.ftruncate(self._file, whole)
        if whole and not ended:
            os.write(self._file, b"\n")

    def _read(self) -> tuple[int, bool]:
        """Note what is in the file; gives the bytes up to the end of the last whole line, and whether it has an end."""
        whole, ended = 0, True
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                ended = line.endswith(b"\n")
                try:
                    answered = _decode(line) if line.strip() else None
                except ValueError as error:
                    if not ended and (whole or line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                        return whole, True
                    raise ValueError(
                        f"{self.path}, line {number:,}: {error}; it is left as it is: choose another file for the "
                        "answers, or mend it"
                    ) from None
                if answered is not None:
                    self._known[answered.id, answered.key] = answered
                whole += len(line)
        return whole, ended


def _encode(answered: Answered) -> bytes:
    told: dict[str, object] = {}
    for field in msgspec.structs.fields(Answered):
        value = getattr(answered, field.name)
        empty = value is None if field.name == "partial" else field.name in _LEFT_OUT and not value
        if field.name in _NOT_WRITTEN or empty:
            continue
        told[field.name] = plain_of(msgspec.to_builtins(value) if isinstance(value, (Usage, Failure)) else value)
    return f"{json.dumps(told, ensure_ascii=False, allow_nan=False)}\n".encode()


def _decode(line: bytes) -> Answered:
    try:
        fields = json.loads(line)
        for name in ("response", "partial", "metadata"):
            fields[name] = values.from_plain(fields[name]) if name in fields else {} if name == "metadata" else None
        answered = msgspec.convert(fields, Answered)
    except (ValueError, TypeError, AttributeError, RecursionError, ProtocolError, msgspec.ValidationError) as error:
        raise ValueError(f"it is no answer of a batch ({error})") from None
    return msgspec.structs.replace(answered, earlier=True)
