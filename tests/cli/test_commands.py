"""The commands beside `ask`, help, failures and the live view, as somebody at a terminal or a program meets them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_wasm import cli, doctor, trace_file
from rlm_wasm.cli import machine
from rlm_wasm.cli.arguments import SHELLS
from rlm_wasm.events import RunStarted
from tests.terminal import Pty
from tests.test_cli import ChatServer, repl, start

README = Path(__file__).parents[2] / "README.md"
COMMANDS = (
    *("ask", "batch", "demo", "report", "replay", "runs", "resume", "doctor", "setup", "serve", "mcp", "config"),
    "completion",
    "bench",
)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_has_examples_that_parse_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of(capsys) + "".join(
        help_of(capsys, name) for name in ("ask", "batch", "completion", "report", "replay")
    )
    assert all(f"    {command} " in told for command in COMMANDS)
    for code in ("0 ", "1 ", "2 ", "3 ", "130"):
        assert re.search(rf"^  {code} ", told, re.MULTILINE)
    examples = re.findall(r"^  (?:cat \S+ \| )?rlm-wasm (.+)$", told, re.MULTILINE)
    assert len(examples) > 8
    parser = cli._parser()
    for example in examples:
        words = re.findall(r'"[^"]*"|[^\s>|]+', re.split(r" [>|] ", example)[0])
        parser.parse_args([word.strip('"') for word in words])


def test_the_readme_tells_the_same_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    told = re.findall(r"^  (\d+) +(\S.*)$", help_of(capsys), re.MULTILINE)
    text = README.read_text("utf-8")
    assert [code for code, _ in told] == ["0", "1", "2", "3", "130"]
    for code, meaning in told:
        assert f"| {code} | {meaning} |" in text


# --- doctor, setup -------------------------------------------------------------------------------------------------


def test_doctor_as_json_has_the_findings_that_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    told = json.loads(stdout)
    assert stderr == ""
    assert told["sound"] is True
    assert [finding["about"] for finding in told["findings"]] == [
        "python",
        "deno",
        "runtime",
        "image",
        "sandbox",
        "keys",
    ]
    assert cli.main(["doctor", "--json", "--deno", "/nowhere/deno"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["sound"] is False
    assert {finding["about"] for finding in told["findings"] if finding["state"] == "fail"} == {
        "deno",
        "image",
        "sandbox",
    }


def test_setup_as_json_says_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["setup", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)["done"]
    assert done[0].startswith("runtime files in ")
    assert done[1].startswith("memory image ")


# --- report --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_traced_becomes_a_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "runs.jsonl"
    server = ChatServer(repl("FINAL('the first')"), repl("FINAL('the second')"))
    try:
        for _ in range(2):
            line = ["ask", "How many?", "--model", "m", "--base-url", server.base_url, "--trace", str(trace)]
            assert cli.main(line) == 0
    finally:
        server.shutdown()
        server.server_close()
    capsys.readouterr()
    assert cli.main(["report", str(trace)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'runs.html'}\n"
    assert "the second" in (tmp_path / "runs.html").read_text("utf-8")
    first = trajectory_ids(trace)[0]
    assert cli.main(["report", str(trace), "-o", str(tmp_path / "a.html"), "--run", first, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "a.html")
    assert "the first" in (tmp_path / "a.html").read_text("utf-8")


def trajectory_ids(trace: Path) -> list[str]:
    return [event.run for event in trace_file.read(trace) if isinstance(event, RunStarted)]


def test_a_run_that_was_traced_is_run_again_and_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace, context = tmp_path / "run.jsonl", tmp_path / "context.txt"
    context.write_text("a b c", "utf-8")
    server = ChatServer(repl("print(len(context), llm_query('x'))"), repl("FINAL('the answer')"))
    try:
        line = ["ask", "How many?", "--model", "m", "--base-url", server.base_url, "--trace", str(trace)]
        assert cli.main([*line, "--context", str(context)]) == 0
    finally:
        server.shutdown()
        server.server_close()
    capsys.readouterr()
    # nobody is asked: the server is gone
    for given in ([], ["--context", str(context)]):
        assert cli.main(["replay", str(trace), *given]) == 0
        assert capsys.readouterr().out == "the same as it was recorded, in 2 cells with 1 calls\n"
    trace.write_text(trace.read_text("utf-8").replace("5 X", "6 X"), "utf-8")
    assert cli.main(["replay", str(trace), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["cells"]) == (False, 2)
    assert told["difference"]["iteration"] == 1


def test_a_trace_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("no trace\n")
    for given in ("x.jsonl", "missing.jsonl", "."):
        assert cli.main(["report", str(tmp_path / given)]) == 1
        told = capsys.readouterr().err
        assert told.startswith("rlm-wasm: ")
        assert str(tmp_path / given) in told
        assert told.count("\n") == 1


def test_a_seeded_run_is_the_same_again_and_another_is_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace, context = tmp_path / "run.jsonl", tmp_path / "context.txt"
    context.write_text("a line\n" * 20_000)
    code = "import random\nprint(random.random())\nFINAL(len(context))"
    asked = ["ask", "How many?", "--model", "m", "--context", str(context), "--trace", str(trace)]
    for seed in (["--seed", "7"], []):
        server = ChatServer(repl(code))
        try:
            assert cli.main([*asked, "--base-url", server.base_url, *seed]) == 0
        finally:
            server.shutdown()
            server.server_close()
    seeded, unseeded = trajectory_ids(trace)
    capsys.readouterr()
    again = ["replay", str(trace), "--context", str(context)]
    assert cli.main([*again, "--run", seeded]) == 0
    assert capsys.readouterr().out == "the same as it was recorded, in 1 cells with 0 calls\n"
    assert cli.main([*again, "--run", unseeded]) == 1
    assert capsys.readouterr().out.startswith("iteration 1: the output of a cell differs\n--- recorded")
    assert cli.main([*again, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["cells"], told["difference"]["what"]) == (False, 1, "the output of a cell")
    assert cli.main(["replay", str(trace)]) == 1
    assert "too large to be recorded" in capsys.readouterr().err


def test_the_demo_can_be_traced_and_run_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = str(tmp_path / "demo.jsonl")
    assert cli.main(["demo", "--seed", "1", "--trace", trace]) == 0
    capsys.readouterr()
    assert cli.main(["replay", trace]) == 0
    assert capsys.readouterr().out == "the same as it was recorded, in 4 cells with 3 calls\n"


# --- completion, bench ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_knows_the_commands_and_their_flags(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert cli.main(["completion", shell]) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    for word in (*COMMANDS, "sub-model", "dialect", "pyrlm"):
        assert word in stdout
    files = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "__fish_complete_path"}[shell]
    assert any("context" in line and files in line for line in stdout.splitlines())
    if shutil.which(shell):
        # the shell reads it without a complaint
        read = subprocess.run([shell, "-n"], input=stdout, text=True, capture_output=True, timeout=60, check=False)
        assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is what is asked")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["do"], ["doctor"]), (["ask", "--sub"], ["--sub-model"]), (["ask", "--act", ""], ["fences", "tool"])],
)
def test_bash_completes_what_was_begun(
    capsys: pytest.CaptureFixture[str], typed: list[str], offered: list[str]
) -> None:
    cli.main(["completion", "bash"])
    script = capsys.readouterr().out
    words = " ".join(f"'{word}'" for word in ["rlm-wasm", *typed])
    name = re.search(r"complete .*-F (\S+) rlm-wasm", script)
    assert name is not None
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; {name[1]} rlm-wasm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], text=True, capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == offered


def test_without_shtab_completion_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == "rlm-wasm: completion is made by shtab: pip install 'rlm-wasm[completion]'\n"


def test_bench_hands_its_arguments_on(tmp_path: Path) -> None:
    # what lies about in a folder is not what is run
    (tmp_path / "tests" / "bench").mkdir(parents=True)
    (tmp_path / "tests" / "bench" / "__main__.py").write_text("print('hostile')")
    (tmp_path / "anyio.py").write_text("print('hostile')")
    checkout = Path(machine.__file__).parents[2]
    program = "import sys; from rlm_wasm import cli; sys.exit(cli.main(['bench', '--only', 'nothing']))"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "hostile" not in done.stdout
    assert "python -m tests.bench: error: argument --only: invalid choice: 'nothing'" in done.stderr


def test_bench_outside_a_checkout_says_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "rlm_wasm" / "cli" / "machine.py"))
    assert cli.main(["bench"]) == 1
    assert "the benchmark is in a checkout alone" in capsys.readouterr().err


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_is_one_line_and_with_debug_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["ask", "How many?", "--model", "m", "--context", "/nowhere/at/all"]
    assert cli.main(line) == 1
    told = capsys.readouterr().err
    assert told == "rlm-wasm: there is no file or folder '/nowhere/at/all' to read the context from\n"
    assert cli.main([*line, "--debug"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):")
    assert "FileNotFoundError: there is no file or folder" in told


def test_a_fault_of_ours_is_one_line_that_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise KeyError("first\nsecond")

    monkeypatch.setattr(doctor, "report", fail)
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("rlm-wasm: a fault of rlm-wasm itself, KeyError: ")
    assert "--debug" in told
    assert told.count("\n") == 1
    monkeypatch.setenv("RLM_WASM_DEBUG", "1")
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_failure_with_a_traceback() -> None:
    process = start("config", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in told
    assert "BrokenPipe" not in told


# --- the live view -------------------------------------------------------------------------------------------------


def test_the_demo_with_live_draws_on_the_terminal_and_answers_on_stdout(pty: Pty) -> None:
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(machine.__file__).parents[2])}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "rlm_wasm", "demo", "--live", "--no-config"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=-1, stderr=pty.theirs)
    os.close(pty.theirs)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(json.loads(stdout)["summaries"]) == 3
    terminal = pty.ended()
    assert terminal.frames > 0
    assert terminal.wrapped == 0
    assert any("llm_query" in row and "3/3" in row for row in terminal.shown)
    assert any(row.startswith("stopped by final") for row in terminal.shown)
    assert terminal.shown[-1] == "checked: the counts are those found without a model"


def test_live_without_a_terminal_is_the_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    server = ChatServer(repl("print('seen')"), repl("FINAL(1)"))
    try:
        assert cli.main(["ask", "How many?", "--model", "m", "--base-url", server.base_url, "--live"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    stdout, stderr = capsys.readouterr()
    assert stdout == "1\n"
    assert "[1] code: print('seen')" in stderr
    assert "\x1b" not in stderr
