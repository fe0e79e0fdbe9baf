"""The file of answers: what a sudden end, a full disk and a second batch leave of it."""

from __future__ import annotations

import datetime
import json
import resource
import stat
from pathlib import Path

import pytest

from rlm_wasm.answers_file import Answered, AnswersFile, BatchBusy, Failure
from rlm_wasm.limits import ModelUsage, Usage

USAGE = Usage.of({"m": ModelUsage(1, 100, 10, 0.25)})


def answered(id: str, response: object = "yes", key: str = "k") -> Answered:
    return Answered(id=id, question="what?", state="answered", response=response, usage=USAGE, key=key, run="1")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_was_added_is_found_by_the_next_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "answers.jsonl"
    exact = ("a", datetime.date(2026, 1, 2), {1: float("inf")}, b"\xff", "\ud800"[:0])
    failed = Answered(
        id="b", question="why?", state="failed", failure=Failure("ValueError", "no"), metadata={"$x": [1]}
    )
    with AnswersFile(path) as file:
        file.add(answered("a", exact))
        file.add(failed)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with AnswersFile(path) as file:
        first, second = file.find("a", "k"), file.find("b", "")
        assert first is not None
        assert (first.response, first.usage, first.earlier) == (exact, USAGE, True)
        assert second is not None
        assert (second.failure, second.metadata) == (failed.failure, failed.metadata)
        assert file.find("a", "another key") is None
    assert [entry.name for entry in path.parent.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("cut", [1, 5, 40, -1])
def test_a_line_that_was_cut_short_is_dropped_and_the_others_are_kept(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as file:
        file.add(answered("a"))
        whole = path.stat().st_size
        file.add(answered("b"))
    content = path.read_bytes()
    path.write_bytes(content[: whole + cut] if cut > 0 else content[: cut - 1])
    with AnswersFile(path) as file:
        assert file.find("a", "k") is not None
        assert file.find("b", "k") is None
        file.add(answered("c"))
    assert [line["id"] for line in lines(path)] == ["a", "c"]
    # the first line is cut as any other
    path.write_bytes(content[:30])
    with AnswersFile(path) as file:
        file.add(answered("d"))
    assert [line["id"] for line in lines(path)] == ["d"]


def test_a_last_line_that_lacks_its_end_alone_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as file:
        file.add(answered("a"))
    path.write_bytes(path.read_bytes()[:-1])
    with AnswersFile(path) as file:
        assert file.find("a", "k") is not None
        file.add(answered("b"))
    assert [line["id"] for line in lines(path)] == ["a", "b"]


@pytest.mark.parametrize("content", ["a line of text\n", "no end", '{"id": "a"}\n', '{"id": "a", "state": "great"}\n'])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match="line 1: it is no answer of a batch"), AnswersFile(path):
        pass
    assert path.read_text("utf-8") == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_second_batch_on_one_file_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path):
        with pytest.raises(BatchBusy, match=r"another batch writes .*answers\.jsonl"), AnswersFile(path):
            pass
        # being refused takes nothing from the first
        with pytest.raises(BatchBusy), AnswersFile(path):
            pass
    with AnswersFile(path):
        pass


def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as file:
        file.add(answered("a"))
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 250, limits[1]))
        try:
            with pytest.raises(OSError, match="only 250 of"):
                file.add(answered("b"))
            assert path.read_bytes() == before
            file.add(Answered(id="c", question="", state="not asked"))
            with pytest.raises(OSError, match="large"):
                file.settle([answered("a"), answered("b")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line["id"] for line in lines(path)] == ["a", "c"]


def test_at_the_end_there_is_a_line_for_each_question_and_those_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswersFile(path) as file:
        file.add(answered("other"))
        file.add(answered("b", "first try"))
        file.add(answered("b", "second try"))
        file.add(answered("a", key="of an older question"))
        file.settle([answered("a"), answered("b", "second try")])
    told = [(line["id"], line["key"], line["response"]) for line in lines(path)]
    assert told == [
        ("other", "k", "yes"),
        ("a", "of an older question", "yes"),
        ("a", "k", "yes"),
        ("b", "k", "second try"),
    ]
