"""`ask --store`, `runs` and `resume`, as somebody at a terminal meets them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from rlm_wasm import cli
from rlm_wasm.store import RunFolder
from tests.test_cli import ChatServer, repl, start

FIRST = repl("seen = llm_query('first')\nprint(seen)")
LAST = repl("FINAL([seen, len(context)])")


def context(folder: Path) -> str:
    path = folder / "context.txt"
    path.write_text("the context\n" * 3)
    return str(path)


def ask(store: Path, server: ChatServer, *more: str) -> int:
    asked = ["ask", "What is\nit?", "--context", context(store.parent), "--store", str(store), "--iterations", "5"]
    return cli.main([*asked, "--model", "m", "--base-url", server.base_url, *more])


def listing(capsys: pytest.CaptureFixture[str], store: Path, *more: str) -> list[str]:
    capsys.readouterr()
    assert cli.main(["runs", "--store", str(store), *more]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_run_that_failed_is_told_listed_resumed_and_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    away, there = ChatServer(FIRST), ChatServer(LAST)
    assert ask(store, away) == 1
    [run] = os.listdir(store)
    assert f"to go on: rlm-wasm resume {run} --store {store}" in capsys.readouterr().err
    [line] = listing(capsys, store)
    assert line.startswith(run)
    assert "unfinished" in line
    assert "1 it." in line
    assert line.endswith("What is it?")
    # model, limits and context are those of the run; the server is named anew
    assert cli.main(["resume", run, "--store", str(store), "--base-url", there.base_url]) == 0
    assert json.loads(capsys.readouterr().out) == ["FIRST", 36]
    assert [body["model"] for body in there.asked] == ["m"]
    assert " final " in listing(capsys, store)[0]
    assert cli.main(["resume", run, "--store", str(store), "--base-url", "http://127.0.0.1:9/v1"]) == 0
    assert json.loads(capsys.readouterr().out) == ["FIRST", 36]
    assert cli.main(["runs", "--store", str(store), "--remove", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [], "removed": [run]}
    for server in (away, there):
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send to one process there")
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "runs"
    server = ChatServer(FIRST, repl("llm_query('stop here')"), LAST)
    flags = ["--context", context(tmp_path), "--store", str(store), "--model", "m", "--base-url", server.base_url]
    child = start("ask", "What?", *flags)

    def sub(prompt: str) -> str:
        if prompt == "stop here":
            child.send_signal(signal.SIGINT)
            child.wait(30)
        return prompt.upper()

    server.sub = sub
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    [run] = os.listdir(store)
    assert f"rlm-wasm resume {run} --store {store}" in told
    assert cli.main(["resume", run, "--store", str(store), "--base-url", server.base_url]) == 0
    assert json.loads(capsys.readouterr().out) == ["FIRST", 36]
    server.shutdown()
    server.server_close()


def test_what_cannot_be_done_with_a_store_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "runs"
    server = ChatServer()
    assert ask(store, server) == 1
    [run] = os.listdir(store)
    capsys.readouterr()
    wrong = {
        ("runs", "--store", str(tmp_path / "missing")): "there is no store",
        ("runs", "--store", str(store), "--remove", "0123456789ab"): "there is no run 0123456789ab",
        ("resume", "0123456789ab", "--store", str(store)): "rlm-wasm runs lists them",
        ("resume", "../x", "--store", str(store)): "is no id of a run",
    }
    for arguments, said in wrong.items():
        assert cli.main([*arguments]) == 1
        assert said in capsys.readouterr().err
    with RunFolder(store, run):
        assert cli.main(["resume", run, "--store", str(store), "--base-url", server.base_url]) == 1
        assert "goes on elsewhere" in capsys.readouterr().err
        assert cli.main(["runs", "--store", str(store), "--remove", run]) == 1
        assert "goes on just now" in capsys.readouterr().err
    for arguments in (["runs"], ["resume", run], ["runs", "--store", str(store), "--days", "1"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    server.shutdown()
    server.server_close()


def test_pruning_says_what_it_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "runs"
    server = ChatServer(repl("FINAL(1)"))
    assert ask(store, server) == 0
    [run] = os.listdir(store)
    assert len(listing(capsys, store, "--prune", "--days", "1", "--mb", "100")) == 1
    capsys.readouterr()
    assert cli.main(["runs", "--store", str(store), "--prune", "--mb", "0.000001"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert f"removed: {run}" in stderr
    assert f"0 runs, 0.0 MB in {store}" in stderr
    server.shutdown()
    server.server_close()
