"""`rlm-wasm batch`: what goes to which stream and file, exit codes, Ctrl-C and going on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import cli
from tests.terminal import Pty
from tests.test_cli import ChatServer, repl, start

ANSWER = repl("FINAL(len(context))")


class Server(ChatServer):
    """Answers any question by the length of its context; refuses a `bad` one, and holds one that is to `wait`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.released = threading.Event(), threading.Event()

    def answer(self, body: dict[str, Any]) -> tuple[int, object]:
        text = body["messages"][1]["content"]
        if "bad" in text:
            return 400, {"error": {"message": "this is not asked", "code": "refused"}}
        if "wait" in text:
            self.waits.set()
            self.released.wait(timeout=60)
        self.replies = [ANSWER]
        return super().answer(body)

    def heard_of(self, *questions: str) -> list[bool]:
        return [any(question in body["messages"][1]["content"] for body in self.asked) for question in questions]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in [name for name in os.environ if name.upper().startswith(("OPENAI_", "AZURE_", "LLM_"))]:
        monkeypatch.delenv(name)
    made = Server()
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a context."""
    (tmp_path / "corpus.txt").write_text("one two", "utf-8")
    return tmp_path


def line(server: Server, folder: Path, questions: str, *more: object) -> list[str]:
    path = folder / ("questions.jsonl" if questions.startswith("{") else "questions.txt")
    path.write_text(questions, "utf-8")
    given = ["batch", path, "-o", folder / "answers.jsonl", "--context", folder / "corpus.txt", "--model", "m"]
    return [str(word) for word in (*given, "--base-url", server.base_url, "--no-config", *more)]


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "answers.jsonl").read_text("utf-8").splitlines()]


def test_each_question_of_a_file_has_its_answer_in_the_other(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line(server, folder, "first?\nsecond?\n", "--concurrency", "1")) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{folder / 'answers.jsonl'}\n"
    assert [(told["question"], told["response"]) for told in answers(folder)] == [("first?", 7), ("second?", 7)]
    lines = stderr.splitlines()
    assert re.fullmatch(r"\[1/2\] first\? -> 7 \([\d.]+ s\)", lines[0])
    assert re.fullmatch(r"\[2/2\] second\? -> 7 \([\d.]+ s\)", lines[1])
    assert lines[2:] == ["2/2 answered, unknown price"]
    # once more it is all there: nobody is asked
    asked = len(server.asked)
    assert cli.main(line(server, folder, "second?\nfirst?\n", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answered"], told["earlier"], told["not_asked"], len(server.asked)) == (2, 2, 0, asked)


def test_bad_lines_and_failures_are_told_and_the_rest_is_answered(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = (
        '{"question": "first?"}\n{"question": ""}\n{"question": "bad?", "id": "b"}\nno JSON\n{"question": "last?"}'
    )
    assert cli.main(line(server, folder, questions, "--json")) == 1
    stdout, stderr = capsys.readouterr()
    told = json.loads(stdout)
    assert [bad["line"] for bad in told["bad_lines"]] == [2, 4]
    assert (told["answered"], told["failed"]) == (2, 1)
    assert "questions.jsonl, line 2: the question is empty\n" in stderr
    assert "questions.jsonl, line 4: it is no JSON" in stderr
    assert "bad? -> failed: ClientError: " in stderr
    assert "the same command asks what has no answer yet" in stderr
    # only the failure is asked again, or not even that
    before = len(server.asked)
    assert cli.main(line(server, folder, questions, "--no-ask-again")) == 1
    assert len(server.asked) == before
    fixed = questions.replace("bad?", "good?").replace("no JSON", "").replace('{"question": ""}', "")
    assert cli.main(line(server, folder, fixed)) == 0
    assert len(server.asked) == before + 1


def test_a_budget_that_is_spent_leaves_the_rest_to_the_next_command(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spend = ["--concurrency", "1", "--price", "m=1000/0"]
    # a call costs a dollar
    assert cli.main(line(server, folder, "first?\nsecond?\nthird?\n", *spend, "--usd", "1.2")) == 3
    _, stderr = capsys.readouterr()
    assert "the limit over all questions: limit reached: usd" in stderr
    assert [told["state"] for told in answers(folder)][::2] == ["answered", "not asked"]
    assert cli.main(line(server, folder, "first?\nsecond?\nthird?\n", *spend, "--usd", "9")) == 0
    assert [told["state"] for told in answers(folder)] == ["answered"] * 3
    assert "(1 of the answers were there before)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("questions", "told"),
    [("\n", "there are no questions in"), (None, "No such file")],
)
def test_a_file_without_questions_is_a_failure_in_one_line(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str], questions: str | None, told: str
) -> None:
    given = line(server, folder, questions or "")
    if questions is None:
        (folder / "questions.txt").unlink()
    assert cli.main(given) == 1
    assert told in capsys.readouterr().err
    assert not (folder / "answers.jsonl").exists()


def test_after_ctrl_c_the_answers_are_there_and_the_same_command_goes_on(server: Server, folder: Path) -> None:
    given = line(server, folder, "first?\nwait?\nlast?\n", "--concurrency", "1")
    process = start(*given)
    try:
        assert server.waits.wait(timeout=60)
        # a second batch keeps its hands off the file meanwhile
        second = start(*given)
        _, refused = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "another batch writes" in refused
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "the same command asks what has no answer yet" in stderr
    assert [told["state"] for told in answers(folder)] == ["answered", "stopped", "not asked"]
    server.released.set()
    assert cli.main(given) == 0
    assert [told["response"] for told in answers(folder)] == [7, 7, 7]


def test_on_a_terminal_there_is_a_bar_and_what_failed_stays_above_it(server: Server, folder: Path, pty: Pty) -> None:
    command = [
        sys.executable,
        "-m",
        "rlm_wasm",
        *line(server, folder, "first?\nbad\x1b[2J?\nwait?\n", "--concurrency", "1"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=-1, stderr=pty.theirs)
    os.close(pty.theirs)
    assert pty.seen("1/3 answered, 1 failed")
    server.released.set()
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout.decode()) == (1, f"{folder / 'answers.jsonl'}\n")
    shown = pty.ended().everything
    assert "bad\\x1b[2J? -> failed: ClientError" in shown.replace("\n", "")
    assert "2/3 answered, 1 failed, unknown price\n" in shown
