"""Many questions: what each may say of itself, and the files in which they stand.

Knows nothing of how a question is answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from rlm_wasm.outputs import Output

# of file names; in any other file a line is a question
JSON_LINES = (".jsonl", ".ndjson")


class Question(msgspec.Struct, frozen=True):
    """One of many questions.

    `id`: by which its answer is known; None for one that is made of the question. `context`: its own, in the place of
    the one that all share, and `output` likewise, both as in `RLM.acompletion`; None for the shared one. `metadata` is
    JSON-like and goes with the answer.
    """

    question: str
    id: str | None = None
    context: Any = None
    output: Any = None
    metadata: dict[str, Any] = {}


class BadLine(NamedTuple):
    """A line of a file that is no question: its number, from 1, and the reason."""

    line: int
    reason: str


def questions_of(given: Iterable[object]) -> list[Question]:
    """Questions out of texts, of mappings with the fields of `Question`, or of such.

    Raises TypeError or ValueError that names the position, from 1, of what is none or has the id of another.
    """
    if isinstance(given, (str, Mapping)):
        raise TypeError("questions must be a list or another iterable of questions, not a single one")
    asked: list[Question] = []
    ids: dict[str, int] = {}
    for position, each in enumerate(given, start=1):
        try:
            asked.append(_checked(each, ids, position))
        except (TypeError, ValueError) as error:
            raise type(error)(f"question {position:,}: {error}") from None
    if not asked:
        raise ValueError("there are no questions")
    return asked


def read_questions(path: str | Path) -> tuple[list[Question], list[BadLine]]:
    """The questions of a file, and its lines that are none.

    A file whose name ends in .jsonl or .ndjson has a JSON text or object with the fields of `Question` in each line
    (`output` a JSON Schema), any other a question in each. Empty lines are none. Raises OSError, and ValueError for a
    file without any question.
    """
    path = Path(path)
    asked: list[Question] = []
    bad: list[BadLine] = []
    ids: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            text = line.decode()
            given = _of_json(text) if path.suffix in JSON_LINES else text.strip()
            asked.append(_checked(given, ids, number))
        except UnicodeDecodeError as error:
            bad.append(BadLine(number, f"byte 0x{line[error.start]:02x} at offset {error.start:,} is not UTF-8"))
        except (TypeError, ValueError) as error:
            bad.append(BadLine(number, str(error)))
    if not asked:
        first = f"; line {bad[0].line:,}: {bad[0].reason}" if bad else ""
        raise ValueError(f"there are no questions in {str(path)!r}{first}")
    return asked, bad


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            kept = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if kept.strip():
                yield number, kept


def _of_json(line: str) -> object:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if isinstance(given, dict):
        fields = cast("dict[str, Any]", given)
        if not isinstance(fields.get("output"), dict | None):
            raise TypeError("its `output` must be a JSON Schema, which is an object")
        if isinstance(fields.get("id"), int):
            fields["id"] = str(fields["id"])
    return cast("object", given)


def _checked(given: object, ids: dict[str, int], position: int) -> Question:
    """A question out of anything. Notes its id, with its position, in `ids`. Raises TypeError, ValueError."""
    question = _question(given)
    if not question.question.strip():
        raise ValueError("the question is empty")
    # raises TypeError for what no value can be held to
    Output(question.output)
    if question.id is not None:
        first = ids.setdefault(question.id, position)
        if first != position:
            raise ValueError(f"its id {question.id!r} is that of {first:,} too")
    return question


def _question(given: object) -> Question:
    if isinstance(given, str):
        return Question(given)
    if isinstance(given, Question):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"it must be a text, a mapping or a Question, not {type(given).__name__}")
    fields = cast("Mapping[str, Any]", given)
    if unknown := sorted(map(str, set(fields) - set(Question.__struct_fields__))):
        raise ValueError(f"it has {', '.join(unknown)}: what is to go with the answer belongs into `metadata`")
    try:
        return msgspec.convert(dict(fields), Question)
    except msgspec.ValidationError as error:
        raise TypeError(str(error)) from None
