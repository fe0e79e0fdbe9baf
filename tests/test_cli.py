"""The command line: what goes to which stream, exit codes, Ctrl-C; against a chat server on loopback."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import rlm_wasm
from rlm_wasm import RLM, CachedClient, cli, demo

Message = Mapping[str, str]


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.answer(body)
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """Answers the root model's calls by its replies in turn, and a sub model's, which have one message, by `sub`."""

    daemon_threads = True

    def __init__(self, *replies: str, sub: Callable[[str], str] = str.upper) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = list(replies)
        self.sub = sub
        self.asked: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of these tests

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> tuple[int, object]:
        self.asked.append(body)
        messages: list[Message] = body["messages"]
        if len(messages) == 1:
            text = self.sub(messages[0]["content"])
        elif self.replies:
            text = self.replies.pop(0)
        else:
            return 404, {"error": {"message": "the model 'm' does not exist", "code": "model_not_found"}}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 10}}


Serve = Callable[..., ChatServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ChatServer] = []

    def start(*replies: str, **given: Any) -> ChatServer:
        servers.append(ChatServer(*replies, **given))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(("OPENAI_", "AZURE_", "LLM_"))]:
        monkeypatch.delenv(name)


class Ran:
    """What a command left: its exit code and what it wrote to each stream."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Ran:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    return call


def ask(server: ChatServer, *more: object, question: str = "How many?") -> list[object]:
    return ["ask", question, "--model", "m", "--base-url", server.base_url, *more]


# --- ask -----------------------------------------------------------------------------------------------------------


def test_the_answer_alone_goes_to_stdout_and_progress_to_stderr(run: Run, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one two three", "utf-8")
    server = serve(
        repl("words = context.split()\nprint(words)\nsaid = llm_query('shout')"), repl("FINAL(f'{len(words)} {said}')")
    )
    ran = run(*ask(server, "--context", path, "--sub-model", "s"))
    assert (ran.code, ran.stdout) == (0, "3 SHOUT\n")
    lines = ran.stderr.splitlines()
    assert lines[0].startswith("run: m (sub model s); `context` is a str of 13 characters")
    assert any(line.startswith("[1] code: words = context.split()  (+2 lines)") for line in lines)
    assert any(line.startswith("[1] call 1 ") and line.endswith(": SHOUT") for line in lines)
    assert any(line.startswith("[1] output ") and line.endswith(": ['one', 'two', 'three']") for line in lines)
    assert lines[-1].startswith("stopped by final: 3 calls, 3,000 tokens in, 30 out, unknown price")
    assert [body["model"] for body in server.asked] == ["m", "s", "m"]


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("FINAL({'a': [1, None], 'ü': 2.5})", '{\n  "a": [\n    1,\n    null\n  ],\n  "ü": 2.5\n}\n'),
        ("FINAL((1, 2))", "[\n  1,\n  2\n]\n"),
        ("FINAL({3})", "{3}\n"),
        ("FINAL(2**70)", f"{2**70}\n"),
        ("FINAL(None)", ""),
        ("FINAL('\\x1b[31mred\\n')", "\x1b[31mred\n\n"),
    ],
    ids=["dict", "tuple", "set", "large int", "None", "text to a pipe"],
)
def test_an_answer_is_printed_by_its_kind(run: Run, serve: Serve, code: str, stdout: str) -> None:
    ran = run(*ask(serve(repl(f"answer = 1\n{code}"))))
    assert (ran.code, ran.stdout) == (0, stdout)


def test_json_is_the_whole_completion(run: Run, serve: Serve) -> None:
    odd = "FINAL({'child': rlm_query('And here?', {1: 'a'}), 'odd': {(1, 2): {3}, 'big': 2**70, 'bytes': b'x'}})"
    server = serve(repl("print('look')"), repl(odd), repl("FINAL('from the child')"))
    ran = run(*ask(server, "--json"))
    assert ran.code == 0
    done = json.loads(ran.stdout)
    assert done["question"] == "How many?"
    assert done["stopped_by"] == "final"
    assert done["response"]["child"] == "from the child"
    assert done["response"]["odd"]["big"] == 2**70
    assert done["usage"]["by_model"]["m"]["calls"] == 3
    first, second = done["trajectory"]
    assert first["cells"][0]["executed"]["stdout"] == "look\n"
    assert second["calls"][0]["child"]["response"] == "from the child"


def test_a_dash_reads_the_context_from_standard_input(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grün".encode())))
    ran = run(*ask(serve(repl("FINAL(context.upper())")), "--context", "-"))
    assert (ran.code, ran.stdout) == (0, "GRÜN\n")


def test_a_folder_is_a_context(run: Run, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text", "utf-8")
    ran = run(*ask(serve(repl("FINAL(context['a.txt'])")), "--context", tmp_path))
    assert (ran.code, ran.stdout) == (0, "text\n")


def test_several_files_folders_and_globs_are_one_context(run: Run, serve: Serve, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name, "utf-8")
    names = "FINAL(' '.join([file['path'][-5:] for file in context_files] + sorted(context.values())))"
    server = serve(*[repl(names)] * 3)
    files = [tmp_path / "a.txt", tmp_path / "c.md"]
    told = "a.txt /c.md a.txt c.md\n"
    # as the shell writes out a glob: after the question, and after an option
    assert run(*ask(server, *files)).stdout == told
    assert run(*ask(server, "--context", files[0], files[1])).stdout == told
    assert run(*ask(server, tmp_path / "*.txt")).stdout == "a.txt b.txt a.txt b.txt\n"


def test_standard_input_is_no_context_beside_others(run: Run, serve: Serve, tmp_path: Path) -> None:
    ran = run(*ask(serve(), "--context", "-", "--context", tmp_path))
    assert (ran.code, ran.stderr) == (
        1,
        "rlm-wasm: standard input is a context by itself: give - or files, not both\n",
    )


def test_an_encoding_can_be_given(run: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    server = serve(repl("FINAL(context)"), repl("FINAL(context)"))
    assert run(*ask(server, tmp_path / "latin.txt", "--encoding", "latin-1")).stdout == "café\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert run(*ask(server, "--context", "-", "--encoding", "latin-1")).stdout == "café\n"


def test_bytes_that_are_not_utf_8_are_pointed_at_and_can_be_replaced(
    run: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\ncaf\xe9")
    server = serve(repl("FINAL(context)"), repl("FINAL(context)"))
    ran = run(*ask(server, "--context", path))
    assert (ran.code, ran.stdout) == (1, "")
    assert f"{path} is not UTF-8: byte 0xe9 at offset 7 (line 2)" in ran.stderr
    assert "--errors replace" in ran.stderr
    ran = run(*ask(server, "--context", path, "--errors", "replace"))
    assert (ran.code, ran.stdout) == (0, "one\ncaf\ufffd\n")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    ran = run(*ask(server, "--context", "-"))
    assert ran.code == 1
    assert "standard input is not UTF-8: byte 0xe9 at offset 3 (line 1)" in ran.stderr


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_context_that_does_not_exist_is_named_and_no_model_is_asked(run: Run, serve: Serve, tmp_path: Path) -> None:
    server = serve()
    ran = run(*ask(server, "--context", tmp_path / "missing"))
    assert (ran.code, ran.stdout, server.asked) == (1, "", [])
    assert re.fullmatch(r"rlm-wasm: there is no file or folder '.*missing' .*\n", ran.stderr)


def test_an_empty_question_is_one_line(run: Run, serve: Serve) -> None:
    ran = run(*ask(serve(), question=" "))
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("rlm-wasm: the question is empty")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ask"],
        ["ask", "How many?"],
        ["ask", "How many?", "--model"],
        ["ask", "How many?", "--model", "m", "--seconds", "soon"],
        ["ask", "How many?", "--model", "m", "--usd", "-1"],
        ["ask", "How many?", "--model", "m", "--seconds", "inf"],
        ["ask", "How many?", "--model", "m", "--iterations", "0"],
        ["ask", "How many?", "--model", "m", "--errors", "hide"],
        ["answer", "How many?"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_exit_code_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.stdout) == (2, "")
    assert "usage: rlm-wasm" in ran.stderr


def test_a_limit_in_dollars_needs_a_known_price(run: Run, serve: Serve) -> None:
    server = serve()
    ran = run(*ask(server, "--usd", "0.5"))
    assert (ran.code, ran.stdout, server.asked) == (1, "", [])
    assert "the price of model 'm' is not known" in ran.stderr


def test_an_address_that_is_none_is_one_line(run: Run) -> None:
    ran = run("ask", "How many?", "--model", "m", "--base-url", "localhost:8080")
    assert (ran.code, ran.stdout) == (1, "")
    assert "base_url begins with http" in ran.stderr


def test_a_model_that_the_server_refuses_is_a_failure_with_what_there_was(run: Run, serve: Serve) -> None:
    ran = run(*ask(serve(repl("print('seen')"))))
    assert (ran.code, ran.stdout) == (1, "")
    assert "does not serve the model 'm' (HTTP 404)" in ran.stderr
    assert "Traceback" not in ran.stderr

    ran = run(*ask(serve(repl("print('seen')")), "--json"))
    assert ran.code == 1
    assert json.loads(ran.stdout)["trajectory"][0]["observation"] == "REPL output:\nseen"


def test_a_limit_is_exit_code_3_and_the_best_answer_is_printed(run: Run, serve: Serve) -> None:
    ran = run(*ask(serve(repl("print(1)"), "I would say 1."), "--iterations", "1"))
    assert (ran.code, ran.stdout) == (3, "I would say 1.\n")
    assert ran.stderr.endswith("stopped by: iterations\n")


def test_a_run_without_an_answer_says_what_came_nearest_on_stderr(run: Run, serve: Serve) -> None:
    refused = "```repl\nprint(1)\n```\n\n```repl\nFINAL('guess')\n```"
    ran = run(*ask(serve(refused, ""), "--iterations", "1"))
    assert (ran.code, ran.stdout) == (3, "")
    assert "nearest to one came: guess" in ran.stderr


def test_a_missing_deno_names_the_command_that_fixes_it(run: Run, serve: Serve) -> None:
    server = serve()
    ran = run(*ask(server, "--deno", "/nowhere/deno"))
    assert (ran.code, ran.stdout, server.asked) == (1, "", [])
    assert "pip install 'rlm-wasm[deno]'" in ran.stderr


# --- the terminal --------------------------------------------------------------------------------------------------


def test_progress_escapes_control_characters_of_models_and_cells(run: Run, serve: Serve) -> None:
    server = serve(
        repl("llm_query('a')\nprint('\\x1b[2Jcleared \\u202eturned')"),
        repl("raise ValueError('\\x07bell \\x9b0m')"),
        repl("FINAL(1)"),
        sub=lambda _: "\x1b]0;title\x07",
    )
    ran = run(*ask(server))
    assert ran.code == 0
    assert not re.search(r"[^\n -~]", ran.stderr)
    for escaped in (r"\x1b[2Jcleared \u202eturned", r"\x07bell \x9b0m", r"\x1b]0;title\x07"):
        assert escaped in ran.stderr


def read_terminal(terminal: io.FileIO, into: bytearray) -> None:
    """Read until nobody has the other end open any more."""
    try:
        while piece := terminal.read(65536):
            into += piece
    except OSError as error:
        # how Linux says it
        if error.errno != errno.EIO:
            raise


TERMINAL = [
    ("FINAL('\\x1b[31mred\\x9b0m\\ttab\\nline ü')", [], "\\x1b[31mred\\x9b0m\ttab\r\nline ü\r\n"),
    ("FINAL(['\\x9b0m', '\\x7f'])", [], '[\r\n  "\\u009b0m",\r\n  "\\u007f"\r\n]\r\n'),
    ("FINAL({'\\x9b0m'})", [], "{'\\x9b0m'}\r\n"),
    ("FINAL('\\x9b0m')", ["--json"], None),
]


@pytest.mark.parametrize(("code", "more", "shown"), TERMINAL, ids=["text", "JSON", "repr", "--json"])
def test_on_a_terminal_an_answer_cannot_drive_it(serve: Serve, code: str, more: list[str], shown: str | None) -> None:
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        with open(theirs, "wb"):
            process = start(*ask(serve(repl(f"answer = 1\n{code}")), *more), stdout=theirs)
        read = threading.Thread(target=read_terminal, args=(terminal, written := bytearray()), daemon=True)
        read.start()
        _, stderr = process.communicate(timeout=60)
        read.join(timeout=60)
    assert process.returncode == 0, stderr
    text = written.decode()
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    if shown is None:
        assert json.loads(text)["response"] == "\x9b0m"
    else:
        assert text == shown


# --- as a program --------------------------------------------------------------------------------------------------


def start(*arguments: object, folder: Path | None = None, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """`python -m rlm_wasm` in a process of its own, whose temporary files are in `folder`."""
    environment = dict(os.environ, PYTHONPATH=str(Path(rlm_wasm.__file__).parent.parent), PYTHONIOENCODING="utf-8")
    if folder is not None:
        environment["TMPDIR"] = str(folder)
    return subprocess.Popen(
        [sys.executable, "-m", "rlm_wasm", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def sandboxes_in(folder: Path) -> list[int]:
    """The processes that have their working directory in a folder."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            # it ended meanwhile, or is somebody else's
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_ctrl_c_prints_what_there_is_and_leaves_no_process(serve: Serve, tmp_path: Path, number: int) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(prompt: str) -> str:
        asked.set()
        released.wait(timeout=60)
        return prompt

    server = serve(repl("print('so far')"), repl("print('and here')\nllm_query('wait')"), sub=hang)
    process = start(*ask(server, "--json"), folder=tmp_path)
    try:
        assert asked.wait(timeout=60)
        assert sandboxes_in(tmp_path) != []
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        released.set()
        process.kill()
    assert process.returncode == 130
    assert stderr.endswith("stopped by: cancelled\n")
    assert "Traceback" not in stderr
    done = json.loads(stdout)
    assert (done["stopped_by"], done["response"], done["usage"]["calls"]) == ("cancelled", None, 3)
    assert [step["cells"][0]["output"] for step in done["trajectory"]] == ["so far\n", "and here\n"]
    assert sandboxes_in(tmp_path) == []
    assert list(tmp_path.glob("rlm-wasm-*")) == []


def test_ctrl_c_before_an_answer_leaves_stdout_empty(serve: Serve) -> None:
    asked, released = threading.Event(), threading.Event()

    def hang(prompt: str) -> str:
        asked.set()
        released.wait(timeout=60)
        return prompt

    process = start(*ask(serve(repl("llm_query('wait')"), sub=hang)))
    try:
        assert asked.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        released.set()
        process.kill()
    assert (process.returncode, stdout) == (130, "")
    assert "stopped by cancelled: 2 calls" in stderr


def test_the_demo_runs_as_a_program_and_its_counts_are_exactly_right() -> None:
    process = start("demo")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    answer = json.loads(stdout)
    assert answer["counts"] == demo.expected_counts()
    assert len(answer["summaries"]) == 3
    assert "checked: the counts are those found without a model" in stderr


def test_the_demo_with_a_model_says_whether_it_was_right(run: Run, serve: Serve) -> None:
    server = serve(repl("FINAL({'counts': {}, 'summaries': {}})"))
    ran = run("demo", "--model", "m", "--base-url", server.base_url)
    assert ran.code == 0
    assert "checked: the counts differ" in ran.stderr
    assert demo.QUESTION in server.asked[0]["messages"][1]["content"]


def test_the_version_is_said(run: Run) -> None:
    ran = run("--version")
    assert (ran.code, ran.stdout) == (0, f"rlm-wasm {rlm_wasm.__version__}\n")


def test_a_dialect_and_a_cache_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RLM] = []

    def keep(rlm: RLM, *_: object) -> tuple[int, None]:
        made.append(rlm)
        return 0, None

    monkeypatch.setattr(cli, "_answer", keep)
    cache = tmp_path / "replies.sqlite"
    line = ["ask", "What?", "--model", "m", "--base-url", "http://127.0.0.1:1/v1", "--dialect", "azure"]
    assert cli.main([*line, "--cache", str(cache)]) == 0
    assert (made[0].dialect.name, made[0].dialect.act) == ("azure", "tool")
    assert isinstance(made[0].models.sub, CachedClient)
    assert cli.main([*line, "--act", "fences"]) == 0
    assert made[1].dialect.act == "fences"
    with pytest.raises(SystemExit):
        cli.main([*line, "--dialect", "klingon"])
