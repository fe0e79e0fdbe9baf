"""`rlm-wasm serve`, from a shell to OpenAI's client and back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from rlm_wasm import cli
from tests.test_cli import ChatServer, repl, sandboxes_in, start


@pytest.fixture
def model() -> Iterator[ChatServer]:
    server = ChatServer(repl("FINAL(len(context))"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_answers_and_ends_without_traces(
    model: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: signal.Signals
) -> None:
    monkeypatch.setenv("RLM_WASM_TOKEN", "the-clients-token")
    monkeypatch.setenv("OPENAI_API_KEY", "the-models-key")
    line = ["serve", "--model", "m", "--base-url", model.base_url, "--port", 0, "--threshold-chars", 100, "--json"]
    process = start(*line, folder=tmp_path)
    try:
        assert process.stdout is not None
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        assert told["models"] == ["m"]
        client = openai.OpenAI(base_url=told["base_url"], api_key="the-clients-token", timeout=60, max_retries=0)
        done = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 9000}])
        assert done.choices[0].message.content == "9000"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another").models.list()
        process.send_signal(ending)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()
    assert sandboxes_in(tmp_path) == []


def test_to_listen_for_others_takes_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in (None, ""):
        monkeypatch.delenv("RLM_WASM_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("RLM_WASM_TOKEN", token)
        for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
            with pytest.raises(SystemExit) as end:
                cli.main(["serve", "--model", "m", "--host", host])
            assert end.value.code == 2
            assert "RLM_WASM_TOKEN" in capsys.readouterr().err


def test_it_wants_a_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_WASM_MODEL", raising=False)
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "--no-config"])
    assert end.value.code == 2
    assert "which model?" in capsys.readouterr().err
