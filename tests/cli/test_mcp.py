"""`rlm-wasm mcp`, started by a client of the protocol as its users' programs start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client

import rlm_wasm
from rlm_wasm import cli
from tests.test_cli import ChatServer, repl, sandboxes_in


@pytest.fixture
def model() -> Iterator[ChatServer]:
    server = ChatServer(repl("print('looked at it')"), repl("FINAL(len(context))"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def command(model: ChatServer, tmp_path: Path) -> list[str]:
    (tmp_path / "notes.txt").write_text("x" * 9000)
    return ["-m", "rlm_wasm", "mcp", str(tmp_path / "notes.txt"), "--model", "m", "--base-url", model.base_url]


def environment(folder: Path) -> dict[str, str]:
    root = str(Path(rlm_wasm.__file__).parent.parent)
    return dict(os.environ, PYTHONPATH=root, TMPDIR=str(folder), OPENAI_API_KEY="the-models-key")


@pytest.mark.anyio
async def test_a_client_starts_it_asks_and_leaves_nothing_behind(command: list[str], tmp_path: Path) -> None:
    told: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    started = StdioServerParameters(command=sys.executable, args=command, env=environment(tmp_path))
    with anyio.fail_after(60), (tmp_path / "stderr.txt").open("w") as stderr:
        async with Client(stdio_client(started, errlog=stderr)) as client:
            done = await client.call_tool("ask", {"question": "How long is it?"}, progress_callback=hear)
    assert done.structured_content is not None
    assert done.structured_content["answer"] == 9000
    assert any("looked at it" in line for line in told)
    assert "looked at it" in (tmp_path / "stderr.txt").read_text()
    assert sandboxes_in(tmp_path) == []


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_stdin_still_open(command: list[str], tmp_path: Path, ending: signal.Signals) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, env=environment(tmp_path)
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        # it is at work: what it answers to a client that has not introduced itself is not the point
        assert process.stdout.readline().startswith(b'{"jsonrpc"')
        process.send_signal(ending)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
    assert sandboxes_in(tmp_path) == []


def test_files_that_are_not_there_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mcp", "/nowhere/notes.txt", "--model", "m"]) == 1
    assert "there is no file or folder '/nowhere/notes.txt'" in capsys.readouterr().err
