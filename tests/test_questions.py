"""Many questions, out of what callers have and out of files; and what is none, by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm_wasm.questions import Question, questions_of, read_questions


def test_texts_mappings_and_questions_become_questions() -> None:
    own = Question("third", id="c")
    assert questions_of(["first", {"question": "second", "id": "b", "metadata": {"x": 1}}, own]) == [
        Question("first"),
        Question("second", id="b", metadata={"x": 1}),
        own,
    ]


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ("one question", TypeError, "not a single one"),
        ([], ValueError, "there are no questions"),
        (["first", 7], TypeError, "question 2: it must be a text"),
        (["first", " \n"], ValueError, "question 2: the question is empty"),
        ([{"question": "first", "contxt": "x"}], ValueError, "question 1: it has contxt: .*`metadata`"),
        ([{"id": "a"}], TypeError, "question 1: .*question"),
        (
            [{"question": "a", "id": "x"}, {"question": "b", "id": "x"}],
            ValueError,
            "question 2: its id 'x' is that of 1",
        ),
        ([{"question": "a", "output": 3}], TypeError, "question 1"),
    ],
)
def test_what_is_no_question_is_refused_by_its_place(given: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        questions_of(given)


def test_a_file_gives_its_questions_and_names_the_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "first", "id": 1}\r\n'
        b"\n"
        b'"second"\n'
        b'{"question": "cut\n'
        b'{"question": "caf\xe9"}\n'
        b'{"question": "again", "id": "1"}\n'
        b'{"question": "typed", "output": "int"}\n'
        b"[1]\n"
        b'{"question": "third", "output": {"type": "integer"}, "context": ["a"]}'
    )
    asked, bad = read_questions(path)
    assert asked == [Question("first", "1"), Question("second"), Question("third", None, ["a"], {"type": "integer"})]
    assert [line for line, _ in bad] == [4, 5, 6, 7, 8]
    assert bad[0].reason.startswith("it is no JSON")
    assert bad[1].reason == "byte 0xe9 at offset 17 is not UTF-8"
    assert bad[2].reason == "its id '1' is that of 1 too"
    assert "JSON Schema" in bad[3].reason


def test_a_text_file_has_a_question_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text('Who?\n\n  {"question": "When?"}  \n', "utf-8")
    assert read_questions(path) == ([Question("Who?"), Question('{"question": "When?"}')], [])


def test_a_file_without_a_question_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n{}\n", "utf-8")
    with pytest.raises(ValueError, match=r"no questions in .*line 2: .*question"):
        read_questions(path)
    with pytest.raises(FileNotFoundError):
        read_questions(tmp_path / "nowhere.jsonl")
