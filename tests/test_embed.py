"""What a program that ships Deno gets: an example that runs without Python, and a package that is whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from rlm_wasm.sandbox import process

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "embed.ts"
# Seconds. The example boots two sandboxes without an image, which takes about two each.
PATIENCE = 100
# what mod.ts imports, directly or not, beside what the child does
OF_THE_DOOR = (
    "mod.ts",
    "checkpoint.ts",
    "child.ts",
    "errors.ts",
    "messages.ts",
    "options.ts",
    "session.ts",
    "tagged.ts",
)


def run_deno(folder: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A Deno to which nothing of this process's environment is known."""
    return subprocess.run(
        [process.find_deno(), *arguments],
        cwd=cwd,
        env={"TMPDIR": str(folder), "DENO_DIR": str(folder / "deno"), "HOME": str(folder), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for Deno's own files."""
    made = tmp_path / "own"
    made.mkdir()
    return made


def test_the_example_for_deno_runs_where_there_is_no_python(folder: Path, tmp_path: Path) -> None:
    allowed = [f"--allow-run={process.find_deno()}", f"--allow-write={folder}"]
    allowed.append(f"--allow-read={process.runtime_folder()}")
    ran = run_deno(folder, "run", "--no-prompt", "--quiet", *allowed, EXAMPLE, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.splitlines() == [
        "printed: ['price_of: no part \"wheel\"']",
        'answer: {"total":55,"lines":4}',
        "a mistake is text: FileNotFoundError: [Errno 44] No such file or directory: '/etc/passwd'",
        "out of time: true | kept: 7",
        "here: 55 | in the fork: 110",
    ]


def test_the_example_for_deno_is_short() -> None:
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60


def test_the_package_for_deno_has_the_version_and_licence_of_the_package_for_python() -> None:
    settings = json.loads((ROOT / "deno.json").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (settings["version"], settings["license"]) == (project["version"], project["license"])
    assert (ROOT / settings["exports"]).is_file()


def test_the_package_for_deno_can_be_published_and_is_whole(folder: Path, tmp_path: Path) -> None:
    # a copy that is nobody's checkout: what git knows of it does not count
    copy = tmp_path / "copy"
    shutil.copytree(process.runtime_folder(), copy / "deno")
    for name in ("deno.json", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    tried = run_deno(folder, "publish", "--dry-run", "--no-check", "--no-lock", cwd=copy)
    assert tried.returncode == 0, tried.stderr
    published = set(re.findall(r"^ +file://\S*/copy/(\S+) \(", tried.stderr, re.MULTILINE))
    manifest = json.loads((process.runtime_folder() / "pyodide" / "manifest.json").read_text("utf-8"))
    wanted = {f"deno/{name}" for name in (*process.SOURCES, *OF_THE_DOOR)}
    wanted |= {f"deno/pyodide/{name}" for name in (*manifest["files"], "manifest.json")}
    assert published >= wanted | {"deno.json", "LICENSE", "README.md"}
    assert not [name for name in published if "test" in name or "fetch" in name]
