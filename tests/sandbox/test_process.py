"""How a child is found, started and surrounded: the binary, the command line, the environment, its folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from rlm_wasm.errors import SandboxStartError
from rlm_wasm.sandbox import Sandbox, process
from rlm_wasm.sandbox.memory import MAX_MEMORY_MB
from rlm_wasm.sandbox.process import (
    ChildOptions,
    command,
    damaged_files,
    deno_version,
    environment,
    find_deno,
    runtime_folder,
    spawned,
)
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

WITHIN = 60


def program(folder: Path, name: str = "deno", body: str = "#!/bin/sh\necho deno 2.9.8\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(body)
    path.chmod(0o755)
    return path


# --- finding Deno --------------------------------------------------------------------------------------------------


def test_deno_is_looked_for_in_the_argument_the_variable_the_package_and_the_path_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument, variable = program(tmp_path / "argument"), program(tmp_path / "variable")
    package, path = program(tmp_path / "package"), program(tmp_path / "path")
    monkeypatch.setenv("RLM_WASM_DENO", str(variable))
    monkeypatch.setattr(process, "_packaged_deno", lambda: package)
    monkeypatch.setenv("PATH", str(path.parent))
    assert find_deno(argument) == argument
    assert find_deno(str(argument)) == argument
    assert find_deno() == variable
    monkeypatch.setenv("RLM_WASM_DENO", "")
    assert find_deno() == package
    monkeypatch.setattr(process, "_packaged_deno", lambda: None)
    assert find_deno() == path
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxStartError, match="Deno was not found"):
        find_deno()


def test_a_deno_that_is_named_is_never_passed_over_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = program(tmp_path)
    unfit = tmp_path / "not-executable"
    unfit.write_text("")
    monkeypatch.setenv("RLM_WASM_DENO", str(good))
    for named in (unfit, tmp_path / "absent", tmp_path):
        with pytest.raises(SandboxStartError, match="deno= names"):
            find_deno(named)
    monkeypatch.setenv("RLM_WASM_DENO", str(unfit))
    with pytest.raises(SandboxStartError, match="RLM_WASM_DENO names"):
        find_deno()


def test_a_deno_may_be_named_as_on_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program(tmp_path / "bin", "deno-of-mine")
    monkeypatch.setenv("PATH", str(named.parent))
    assert find_deno("deno-of-mine") == named
    monkeypatch.chdir(tmp_path)
    # the child has another working directory
    assert find_deno("bin/deno-of-mine") == named
    assert find_deno("./bin/deno-of-mine").is_absolute()


def test_the_deno_of_the_package_is_a_deno_that_is_new_enough() -> None:
    found = process._packaged_deno()
    assert found is not None
    assert deno_version(found) >= process.MIN_DENO


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("deno 2.9.0 (stable, release, x86_64-unknown-linux-gnu)", (2, 9, 0)),
        ("deno 3.0.1", (3, 0, 1)),
        ("deno 2.8.9", "is version 2.8.9, and 2.9.0 or newer is needed"),
        ("deno 1.46.3 (release)", "is version 1.46.3, and 2.9.0 or newer is needed"),
        ("node v24", "is not Deno: it said 'node v24"),
        ("", "is not Deno: it said ''"),
    ],
)
def test_the_version_is_read_and_an_old_one_refused(tmp_path: Path, said: str, expected: object) -> None:
    deno = program(tmp_path, body=f"#!/bin/sh\necho '{said}'\n" if said else "#!/bin/sh\n")
    if isinstance(expected, tuple):
        assert deno_version(deno) == expected
        return
    with pytest.raises(SandboxStartError) as caught:
        deno_version(deno)
    assert str(expected) in str(caught.value)
    assert "pip install 'rlm-wasm[deno]'" in str(caught.value)


# --- runtime files -------------------------------------------------------------------------------------------------


def test_the_runtime_files_are_whole_and_the_manifest_lists_what_is_imported() -> None:
    assert damaged_files() == []
    folder = runtime_folder()
    manifest = json.loads((folder / "pyodide" / "manifest.json").read_text("utf-8"))["files"]
    for name, entry in manifest.items():
        assert hashlib.sha256((folder / "pyodide" / name).read_bytes()).hexdigest() == entry["sha256"]
    assert {"pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip"} <= set(manifest)


def test_nothing_that_a_start_imports_is_left_out_of_the_check() -> None:
    folder = runtime_folder()
    imported = {"main.ts"}
    waiting = ["main.ts"]
    while waiting:
        source = (folder / waiting.pop()).read_text("utf-8")
        for part in source.split('from "./')[1:]:
            name = part.partition('"')[0]
            if name not in imported and not name.startswith("pyodide/"):
                imported.add(name)
                if name.endswith(".ts"):
                    waiting.append(name)
    assert imported <= set(process.SOURCES)


# --- the command line and the environment --------------------------------------------------------------------------


def test_the_command_line_denies_every_permission_and_fetches_nothing() -> None:
    line = command(Path("/bin/deno"), 1024)
    assert line[:2] == ["/bin/deno", "run"]
    assert line[-1] == str(runtime_folder() / "main.ts")
    options = set(line[2:-1])
    for permission in ("read", "write", "net", "env", "run", "ffi", "sys", "import"):
        assert f"--deny-{permission}" in options
    for option in ("prompt", "config", "lock", "remote", "npm", "code-cache"):
        assert f"--no-{option}" in options
    assert {"--cached-only", "--node-modules-dir=none"} <= options
    assert not any(option.startswith(("--allow", "-A", "--unsafely", "--inspect", "-R", "-W", "-N")) for option in line)
    [flags] = [option for option in options if option.startswith("--v8-flags=")]
    # 64 KiB a page: the memory asked for and the 64 MiB that boot needs
    assert set(flags.partition("=")[2].split(",")) == {
        "--disallow-code-generation-from-strings",
        "--no-wasm-deopt",
        f"--wasm-max-mem-pages={(1024 + 64) * 16}",
    }
    assert f"--wasm-max-mem-pages={(64 + MAX_MEMORY_MB) * 16}" in command(Path("d"), MAX_MEMORY_MB)[-2]
    assert (64 + MAX_MEMORY_MB) * 16 <= 65536


def test_the_environment_is_exactly_what_deno_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("DENO_AUTH_TOKENS", "secret")
    variables = environment(tmp_path)
    if sys.platform == "win32":
        assert variables.pop("SystemRoot")
    assert variables == {
        "DENO_DIR": str(tmp_path / "deno"),
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PACKAGE_JSON": "1",
        "NO_COLOR": "1",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="a process can be looked into on Linux only")
async def test_the_running_child_has_nothing_of_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    secret = tmp_path / "secret"
    with anyio.fail_after(WITHIN), secret.open("w") as kept:
        os.set_inheritable(kept.fileno(), True)
        async with Sandbox() as sandbox:
            pid = pid_of(sandbox)
            process_folder = Path(f"/proc/{pid}")
            variables = process_folder.joinpath("environ").read_bytes().decode().strip("\0").split("\0")
            names = {variable.partition("=")[0] for variable in variables}
            assert names == set(environment(tmp_path))
            work = Path(os.readlink(process_folder / "cwd"))
            assert os.listdir(work) == []
            for folder in (work, work.parent):
                assert os.stat(folder).st_mode & 0o777 == 0o700
            assert os.getsid(pid) == os.getpgid(pid) == pid
            opened = [os.readlink(process_folder / "fd" / name) for name in os.listdir(process_folder / "fd")]
            assert all(opened[int(number)] for number in "012")
            assert str(secret) not in opened
            own = str(work.parent)
            assert all(name.startswith(own) for name in opened if name.startswith("/") and name != "/dev/null")
            assert not any(name.startswith("/dev/pts") for name in opened)
    assert not work.parent.exists()


@pytest.mark.both_backends
async def test_a_child_is_killed_and_swept_away_at_the_end_of_its_block(tmp_path: Path) -> None:
    deno = program(tmp_path, body="#!/bin/sh\necho $PPID $$\nsleep 1000 &\nsleep 1000\n")
    with anyio.fail_after(WITHIN):
        async with spawned(ChildOptions(deno, confined=False)) as child:
            said = b""
            while not said.endswith(b"\n"):
                said += await child.stdout.receive()
            assert said.split() == [b"%d" % os.getpid(), b"%d" % child.pid]
            assert repr(child) == f"<Child {child.pid} running>"
            child.kill()
            # whatever it had started is gone with it: nobody holds the other end of the pipe
            with pytest.raises(anyio.EndOfStream):
                await child.stdout.receive()
        assert await child.ended(within=1) == -9
    assert repr(child) == f"<Child {child.pid} ended with -9>"
