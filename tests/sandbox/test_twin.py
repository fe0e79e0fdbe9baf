"""The sandbox for programs that ship Deno takes what this one gives, and gives what this one takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from rlm_wasm.sandbox import Checkpoint, Sandbox, process

pytestmark = pytest.mark.anyio

# Seconds. The program boots a sandbox without an image, which takes about two.
PATIENCE = 100
PROGRAM = Path(__file__).with_name("restore_and_save.ts")
TWIN = process.runtime_folder() / "mod.ts"
STATE = """
def numbers():
    total = 0
    while True:
        total += yield total
generator = numbers()
next(generator)
answers = [generator.send(5), ask("one"), len(context)]
"""


async def ask(text: str) -> str:
    return f"{text} in Python"


def restore_and_save(source: Path, target: Path, code: str) -> dict[str, Any]:
    """What the TypeScript program said of the checkpoint in `source` and of its cell."""
    # each permission is named: these are all that it takes
    allowed = [f"--allow-run={process.find_deno()}", f"--allow-write={source.parent}"]
    allowed.append(f"--allow-read={source.parent},{TWIN.parent}")
    flags = ["--no-prompt", "--quiet", "--no-check", "--no-config", "--no-lock", *allowed]
    ran = subprocess.run(
        [process.find_deno(), "run", *flags, PROGRAM, source, target, code],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(source.parent), "DENO_DIR": str(source.parent / "deno")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


async def test_a_checkpoint_goes_from_python_to_typescript_and_back(tmp_path: Path) -> None:
    first, second = tmp_path / "first.checkpoint", tmp_path / "second.checkpoint"
    async with Sandbox(functions={"ask": ask}) as sandbox:
        await sandbox.load(context="\U0001f389" * 1000)
        with anyio.fail_after(60):
            assert (await sandbox.execute(STATE)).error is None
            (await sandbox.checkpoint()).save(first)
    code = "answers += [generator.send(6), ask('two')]\nanswers"
    said = await anyio.to_thread.run_sync(restore_and_save, first, second, code)
    assert said["run"]["error"] is None
    assert said["run"]["value"] == [5, "one in Python", 1000, 11, "two in TypeScript"]
    assert said["cells"] == 1
    assert {"answers", "context", "generator"} <= set(said["names"])

    checkpoint = Checkpoint.load(second)
    assert checkpoint.cells == 2
    assert checkpoint.functions == ("ask",)
    async with Sandbox.restore(checkpoint, functions={"ask": ask}) as restored:
        with anyio.fail_after(60):
            done = await restored.execute("answers + [generator.send(7), ask('three')]")
    assert done.error is None
    assert done.value == [5, "one in Python", 1000, 11, "two in TypeScript", 18, "three in Python"]


def test_both_languages_hash_the_same_files_into_a_build() -> None:
    text = (TWIN.parent / "checkpoint.ts").read_text("utf-8")
    listed = re.search(r'const SOURCES =\s*\("([^;]+)"\)\.split', text)
    assert listed is not None
    names = re.sub(r'"\s*\+\s*"', "", listed[1]).split()
    assert names == sorted(process.SOURCES)
