"""Where the settings of the command line come from, which of several holds, and what a file may not say."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import cli, demo
from rlm_wasm.cli.arguments import KEYS
from rlm_wasm.cli.config import user_file
from rlm_wasm.cli.settings import ALL
from tests.test_cli import ChatServer, repl


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "LLM_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for setting in ALL.values():
        monkeypatch.delenv(setting.variable, raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, in which the working directory is two further down."""
    folder = tmp_path / "project"
    (folder / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a" / "b")
    return folder


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own config file, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user_file().parent.mkdir(parents=True)
    return user_file()


Config = Callable[..., dict[str, tuple[Any, str]]]


@pytest.fixture
def config(capsys: pytest.CaptureFixture[str]) -> Config:
    """What `config --json` says holds: value and origin, by key."""

    def call(*arguments: str) -> dict[str, tuple[Any, str]]:
        assert cli.main(["config", *arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        return {key: (value["value"], value["origin"]) for key, value in told["settings"].items()}

    return call


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line by which settings are refused."""

    def call(*arguments: str) -> str:
        assert cli.main(list(arguments) or ["config"]) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        assert stderr.count("\n") == 1
        return stderr

    return call


def test_without_anything_the_defaults_hold(config: Config, project: Path, user: Path) -> None:
    assert config()["iterations"] == (30, "default")
    assert config()["dialect"] == ("rlm_wasm", "default")
    assert config()["model"] == (None, "default")


def test_a_flag_counts_before_a_variable_before_a_project_before_the_users_own(
    config: Config, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.write_text('model = "of the user"\n')
    assert config()["model"] == ("of the user", str(user))
    (project / "rlm-wasm.toml").write_text('model = "of the project"\n')
    assert config()["model"] == ("of the project", str(project / "rlm-wasm.toml"))
    monkeypatch.setenv("RLM_WASM_MODEL", "of the variable")
    assert config()["model"] == ("of the variable", "RLM_WASM_MODEL")
    assert config("--model", "of the flag")["model"] == ("of the flag", "--model")


def test_every_option_has_a_variable_and_a_key(
    config: Config, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"usd": "2.5", "seconds": "60", "iterations": "7", "dialect": "dspy", "act": "tool", "errors": "ignore"}
    texts |= {"encoding": "latin-1"}
    texts |= {"price": "a=b=1/2.5", "lazy": "yes", "live": "yes", "json": "on", "debug": "1"}
    numbers = {"seed": "5", "port": "0", "threshold_chars": "9", "max_request_mb": "1", "concurrency": "3"}
    texts |= numbers
    for key, setting in ALL.items():
        monkeypatch.setenv(setting.variable, texts.get(key, "text"))
    for key, (value, origin) in config().items():
        assert origin == ("--json" if key == "json" else ALL[key].variable)
        assert value not in (None, ALL[key].default)
    for setting in ALL.values():
        monkeypatch.delenv(setting.variable)
    lines = {"usd": "2.5", "seconds": "60", "iterations": "7", "live": "true", "json": "true", "debug": "true"}
    lines |= {"lazy": "true"}
    lines |= numbers
    user.write_text("".join(f"{key} = {lines.get(key, repr(texts.get(key, 'text')))}\n" for key in ALL))
    assert {origin for key, (_, origin) in config().items() if key != "json"} == {str(user)}
    assert set(ALL) == {key for keys in KEYS.values() for key in keys}


def test_variables_that_mean_another_thing_are_not_taken() -> None:
    variables = [setting.variable for setting in ALL.values()]
    assert len(set(variables)) == len(variables)
    # the folder of memory images
    assert "RLM_WASM_CACHE" not in variables


def test_a_pyproject_has_a_table_and_the_nearest_file_counts(config: Config, project: Path, user: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.rlm-wasm]\nmodel = "outer"\nsub-model = "s"\n')
    assert config()["model"] == ("outer", str(project / "pyproject.toml"))
    assert config()["sub_model"][0] == "s"
    # one that says nothing of us is passed over
    (project / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert config()["model"][0] == "outer"
    (project / "a" / "b" / "rlm-wasm.toml").write_text('model = "inner"\n')
    assert config()["model"][0] == "inner"
    assert config()["sub_model"] == (None, "default")


def test_a_file_named_by_hand_is_the_only_one_and_is_trusted(
    config: Config, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.write_text("seconds = 5\n")
    named = project / "named.toml"
    named.write_text('base_url = "http://127.0.0.1:1/v1"\n')
    (project / "rlm-wasm.toml").write_text('model = "m"\n')
    told = config("--config", str(named))
    assert told["base_url"] == ("http://127.0.0.1:1", str(named))
    assert (told["seconds"][1], told["model"][1]) == ("default", "default")
    monkeypatch.setenv("RLM_WASM_CONFIG", str(named))
    assert config()["base_url"][1] == str(named)
    assert config("--no-config")["base_url"] == (None, "default")
    monkeypatch.setenv("RLM_WASM_NO_CONFIG", "true")
    assert config()["base_url"] == (None, "default")


# --- a folder that somebody else wrote -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base_url", "base-url", "deno", "cache", "host", "price", "trace"])
@pytest.mark.parametrize("file", ["rlm-wasm.toml", "pyproject.toml"])
def test_a_projects_file_may_not_choose_where_texts_go_or_what_is_run(
    refused: Refused, project: Path, user: Path, name: str, file: str
) -> None:
    table = "[tool.rlm-wasm]\n" if file == "pyproject.toml" else ""
    (project / file).write_text(f'{table}{name} = "http://attacker.example/v1"\n')
    told = refused()
    assert f"{project / file}: {name} is not taken from a project's file" in told
    assert str(user) in told
    assert "attacker" not in told


def test_no_key_and_no_text_reaches_an_address_that_a_folder_chose(
    refused: Refused, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ChatServer(repl("FINAL(1)"))
    try:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-the-environment")
        (project / "rlm-wasm.toml").write_text(f'model = "m"\nbase_url = "{server.base_url}"\n')
        (project / "a" / "b" / "corpus.txt").write_text("text")
        told = refused("ask", "How many?", "--context", ".", "--model", "m")
        assert "sk-planted" not in told
        assert server.asked == []
        # the same file, named by hand, is followed
        config = ["--config", str(project / "rlm-wasm.toml")]
        assert cli.main(["ask", "How many?", "--context", ".", *config]) == 0
        assert len(server.asked) == 1
    finally:
        server.shutdown()
        server.server_close()


def test_a_projects_file_lowers_limits_and_never_raises_them(config: Config, project: Path, user: Path) -> None:
    user.write_text("usd = 0.5\nseconds = 60\n")
    ours = project / "rlm-wasm.toml"
    ours.write_text("usd = 1000\nseconds = 10\niterations = 1000000\n")
    told = config()
    assert told["usd"] == (0.5, str(user))
    assert told["seconds"] == (10, str(ours))
    assert told["iterations"] == (30, "default")
    user.write_text("iterations = 50\n")
    assert config()["iterations"] == (50, str(user))
    # where there was no limit, one is a lower one
    assert config()["usd"] == (1000, str(ours))


def test_what_a_projects_file_chose_is_said(project: Path, user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user.write_text("seconds = 60\n")
    (project / "rlm-wasm.toml").write_text('dialect = "rlm"\nsub_model = "s"\nerrors = "ignore"\nseconds = 90\n')
    server = ChatServer(repl("FINAL(1)"))
    try:
        assert cli.main(["ask", "How many?", "--model", "m", "--sub-model", "t", "--base-url", server.base_url]) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert f"settings from {project / 'rlm-wasm.toml'}: dialect, errors\n" in capsys.readouterr().err


def test_the_demo_asks_no_model_that_a_file_or_a_variable_chose(
    project: Path, user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user.write_text('model = "m"\nbase_url = "http://127.0.0.1:1/v1"\n')
    monkeypatch.setenv("RLM_WASM_SUB_MODEL", "s")
    assert cli.main(["demo", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["response"]["counts"] == demo.expected_counts()
    assert set(done["usage"]["by_model"]) == {"scripted"}


def test_a_price_given_by_hand_makes_a_limit_in_dollars_hold(
    project: Path, user: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config("--price", "qwen=0.2/0.8,s=0/0")["price"] == ("qwen=0.2/0.8,s=0/0", "--price")
    server = ChatServer(repl("print(1)"), repl("FINAL(1)"))
    try:
        line = ["ask", "How many?", "--model", "qwen", "--base-url", server.base_url]
        assert cli.main([*line, "--usd", "5"]) == 1
        assert "give --price 'qwen=INPUT/OUTPUT'" in capsys.readouterr().err
        # a reply has 1,000 tokens in and 10 out: each costs 0.01 and 0.001 US dollars
        assert cli.main([*line, "--usd", "5", "--price", "qwen=10/100", "--json"]) == 0
    finally:
        server.shutdown()
        server.server_close()
    done = json.loads(capsys.readouterr().out)
    assert done["usage"]["usd"] == pytest.approx(2 * (0.01 + 0.001))


# --- files and variables that are wrong ----------------------------------------------------------------------------

WRONG = [
    ("modle = 'm'", "there is no setting 'modle'; there are model, sub_model"),
    ("api_key = 'sk-secret-value'", "'api_key': no key is taken from a file: set OPENAI_API_KEY"),
    ("openai-token = 'sk-secret-value'", "'openai-token': no key is taken from a file"),
    ("usd = -1", "usd must be a number above 0"),
    ("usd = true", "usd must be a number, not bool"),
    ("usd = nan", "usd must be a number above 0"),
    ("iterations = 2.5", "iterations must be a whole number, not float"),
    ("iterations = 0", "iterations must be a whole number above 0"),
    ("price = 'm=1'", "price must be MODEL=INPUT/OUTPUT, such as qwen=0.2/0.8, not 'm=1'"),
    ("price = '=1/2'", "price must be MODEL=INPUT/OUTPUT"),
    ("price = 'm=1/-2'", "price must be MODEL=INPUT/OUTPUT"),
    ("live = 'yes'", "live must be true or false, not str"),
    ("model = ['m']", "model must be a text, not list"),
    ("dialect = 'klingon'", "dialect must be one of rlm_wasm, rlm"),
    ("model = ", "is not TOML"),
    ("a = " + "[" * 3_900, "is not TOML"),
    # a parser may take minutes for it
    ("a." * 60_000 + "a = 1", "has a line longer than a config file may have"),
    ("# \x1b[31m\n\x1b[2J", "is not TOML"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG, ids=[reason[:30] for _, reason in WRONG])
def test_what_is_wrong_in_a_file_is_told_by_file_and_key(
    refused: Refused, project: Path, user: Path, text: str, reason: str
) -> None:
    user.write_text(text)
    told = refused()
    assert str(user) in told
    assert reason in told
    assert "sk-secret" not in told
    assert "\x1b" not in told


def test_a_file_that_cannot_be_read_is_told(refused: Refused, project: Path, user: Path) -> None:
    user.write_bytes(b"\xff")
    assert f"{user} is not UTF-8" in refused()
    user.write_bytes(b"#" * 128_001)
    assert f"{user} is larger than a config file may be" in refused()
    user.unlink()
    assert "missing.toml: there is no such config file" in refused("config", "--config", "missing.toml")
    (project / "pyproject.toml").write_text("tool.rlm-wasm = 1\n")
    assert "tool.rlm-wasm must be a table, not int" in refused()


def test_a_project_that_does_not_know_us_may_have_any_pyproject(config: Config, project: Path, user: Path) -> None:
    (project / "pyproject.toml").write_text("this is no TOML")
    assert config()["model"] == (None, "default")


def test_what_is_wrong_in_a_projects_file_can_be_passed_over(
    refused: Refused, config: Config, project: Path, user: Path
) -> None:
    (project / "rlm-wasm.toml").write_text("modle = 'm'\n")
    assert "(--no-config passes over all config files)" in refused()
    assert config("--no-config")["model"] == (None, "default")


def test_what_is_no_file_is_not_read(config: Config, project: Path, user: Path) -> None:
    # a reader of a pipe waits for ever
    os.mkfifo(project / "rlm-wasm.toml")
    (project / "a" / "pyproject.toml").mkdir()
    assert stat.S_ISFIFO((project / "rlm-wasm.toml").stat().st_mode)
    assert config()["model"] == (None, "default")


@pytest.mark.parametrize(
    ("name", "text"),
    [("RLM_WASM_SECONDS", "soon"), ("RLM_WASM_LIVE", "perhaps"), ("RLM_WASM_ACT", "x"), ("RLM_WASM_NO_CONFIG", "x")],
)
def test_a_variable_that_makes_no_sense_is_named(
    refused: Refused, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)
    assert refused().startswith(f"rlm-wasm: {name} must be ")


def test_an_empty_variable_is_not_set(
    config: Config, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_WASM_SECONDS", " ")
    assert config()["seconds"] == (None, "default")


# --- config --------------------------------------------------------------------------------------------------------


def test_config_shows_origins_and_never_a_key(
    project: Path, user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    monkeypatch.setenv(
        "RLM_WASM_BASE_URL", "https://me:hunter2@host.example:8443/sk-secret-value/v1?key=sk-secret-value"
    )
    (project / "rlm-wasm.toml").write_text("live = true\n")
    assert cli.main(["config"]) == 0
    stdout, stderr = capsys.readouterr()
    rows = {row.split()[0]: row.split()[1:] for row in stdout.splitlines()}
    assert list(rows) == list(ALL)
    assert rows["base_url"] == ["https://host.example:8443", "RLM_WASM_BASE_URL"]
    assert rows["live"] == ["true", str(project / "rlm-wasm.toml")]
    assert rows["model"] == ["-", "default"]
    assert f"read: {project / 'rlm-wasm.toml'} (a project's: " in stderr
    assert f"your own config file would be {user}" in stderr
    assert "secret" not in stdout + stderr
    assert "hunter2" not in stdout + stderr


def test_config_knows_where_the_client_looks_for_its_server(
    config: Config, project: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert config()["base_url"] == ("http://127.0.0.1:9", "OPENAI_BASE_URL")
