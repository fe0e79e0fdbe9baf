"""`rlm-wasm doctor` and `rlm-wasm setup`: what was found, what is missing, how to get it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_wasm import cli, doctor
from rlm_wasm.sandbox import process

INSTALL = "pip install 'rlm-wasm[deno]'"


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtime files of which one is missing and one is not what it was."""
    folder = tmp_path / "_deno"
    source = process.runtime_folder()
    (folder / "pyodide").mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    for path in (source / "pyodide").iterdir():
        (folder / "pyodide" / path.name).symlink_to(path)
    (folder / "main.ts").unlink()
    (folder / "pyodide" / "pyodide.asm.mjs").unlink()
    (folder / "pyodide" / "pyodide.asm.mjs").write_text("// nothing", "utf-8")
    monkeypatch.setattr(process, "runtime_folder", lambda: folder)


def test_a_machine_that_has_everything_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    lines = stderr.splitlines()
    assert [line[:4] for line in lines[:5]] == ["ok  "] * 5
    for line, found in zip(
        lines, ("Python 3.", "Deno 2.", "runtime files in", "image", "sandbox: Python 3."), strict=False
    ):
        assert found in line
    assert "FAIL" not in stderr


@pytest.mark.parametrize(
    ("given", "keys"), [({}, "no API key is set"), ({"LLM_API_KEY": "sk-1"}, "keys set: LLM_API_KEY")]
)
def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], keys: str) -> None:
    for name in ("OPENAI_API_KEY", "LLM_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, key in given.items():
        monkeypatch.setenv(name, key)
    said: list[str] = []
    doctor.report("/nowhere/deno", said.append)
    assert said[-1].startswith("note")
    assert keys in said[-1]
    assert "sk-1" not in "\n".join(said)


def test_a_missing_deno_is_exit_code_1_with_the_command_that_fixes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--deno", "/nowhere/deno"]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert "FAIL  deno= names '/nowhere/deno', which is not a program" in stderr
    assert INSTALL in stderr
    assert "ok    runtime files" in stderr


def test_no_deno_at_all_is_told_in_the_same_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RLM_WASM_DENO", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "_packaged_deno", lambda: None)
    said: list[str] = []
    assert doctor.report(None, said.append) == 1
    assert f"FAIL  Deno was not found; install it with: {INSTALL}" in said


def test_the_variable_that_names_a_wrong_deno_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_WASM_DENO", "/nowhere/deno")
    said: list[str] = []
    assert doctor.report(None, said.append) == 1
    assert "RLM_WASM_DENO names '/nowhere/deno'" in "\n".join(said)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("deno 1.46.3 (stable)", "is version 1.46.3, and 2.9.0 or newer is needed"), ("node v22", "is not Deno")],
    ids=["too old", "another program"],
)
def test_a_deno_that_will_not_do_is_told_with_the_command(
    fake_deno: Callable[..., Path], version: str, reason: str
) -> None:
    said: list[str] = []
    assert doctor.report(str(fake_deno("sys.exit(1)", version=version)), said.append) == 1
    failures = [line for line in said if line.startswith("FAIL")]
    # once for the version, once for the sandbox that did not start
    assert len(failures) == 2
    assert all(reason in line and INSTALL in line for line in failures)


@pytest.mark.usefixtures("damaged")
def test_damaged_runtime_files_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert "main.ts is missing; pyodide/pyodide.asm.mjs is damaged" in told
    assert "reinstall rlm-wasm" in told
    assert cli.main(["setup"]) == 1
    assert "pyodide/pyodide.asm.mjs is damaged" in capsys.readouterr().err


def test_setup_makes_the_image_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    doctor.report("/nowhere/deno", said.append)
    assert not (tmp_path / "cache").exists()
    assert cli.main(["setup"]) == 0
    (image,) = (tmp_path / "cache").glob("*.image")
    assert image.stat().st_mode & 0o077 == 0
    assert str(image) in capsys.readouterr().err
    made = image.stat()
    assert cli.main(["setup"]) == 0
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert capsys.readouterr().out == ""


def test_setup_that_cannot_write_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder", "utf-8")
    monkeypatch.setenv("RLM_WASM_CACHE", str(tmp_path / "cache"))
    assert cli.main(["setup"]) == 1
    told = capsys.readouterr().err
    assert "the image could not be written to" in told
    assert "RLM_WASM_CACHE" in told
