"""A cache folder that is no help: forbidden, full, a file, swept away. It costs time, and never a sandbox."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import rlm_wasm
from rlm_wasm.errors import SandboxStartError
from rlm_wasm.sandbox import Sandbox, image

WITHIN = 60


def answers() -> bool:
    """A sandbox starts here, and answers."""

    async def ask() -> bool:
        with anyio.fail_after(WITHIN):
            async with Sandbox() as sandbox:
                return (await sandbox.execute("6 * 7")).value == 42

    return anyio.run(ask)


def test_a_cache_folder_that_is_a_file_is_no_obstacle(place: Any, own_cache: Path) -> None:
    own_cache.write_text("a file")
    with place.left_clean():
        assert answers()
    assert own_cache.read_text() == "a file"


def no_room(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["os.replace", "tempfile.mkstemp", "os.fdopen"])
def test_a_disk_that_fills_up_while_an_image_is_saved_is_no_obstacle_and_keeps_no_half(
    place: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    module, _, name = failing.partition(".")
    with monkeypatch.context() as patch:
        patch.setattr({"os": image.os, "tempfile": tempfile}[module], name, no_room)
        assert image.save(own_cache / "x.image", b"image") is False
    assert [path for path in own_cache.iterdir() if path.stat().st_size] == []


PROGRAM = """
import anyio, os
from rlm_wasm import Sandbox
async def main():
    async with Sandbox() as sandbox:
        run = await sandbox.execute("6 * 7")
        print(run.value, run.error)
anyio.run(main)
"""


def run_program(command: list[str], cache: Path, place: Any, before: Callable[[], object] | None = None) -> str:
    """What a program says that starts a sandbox with this cache folder."""
    environment = {**os.environ, "RLM_WASM_CACHE": str(cache), "TMPDIR": str(place.folder)}
    environment["PYTHONPATH"] = str(Path(rlm_wasm.__file__).parents[1])
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
        preexec_fn=before,
    )
    return done.stdout + done.stderr


def obey_modes() -> None:
    """Root is not asked for permission, unless it gives that up: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities and modes as Linux has them")
@pytest.mark.parametrize("mode", [0o000, 0o500], ids=oct)
def test_a_cache_folder_whose_permission_is_taken_away_is_no_obstacle(place: Any, own_cache: Path, mode: int) -> None:
    own_cache.mkdir()
    own_cache.chmod(mode)
    try:
        assert run_program([], own_cache, place, before=obey_modes) == "42 None\n"
    finally:
        own_cache.chmod(0o700)
    assert place.processes() == []
    assert os.listdir(place.folder) == []


def may_mount() -> bool:
    return (
        shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0
    )


@pytest.mark.skipif(not may_mount(), reason="this user may not mount")
@pytest.mark.parametrize("options", ["size=4m", "ro"])
def test_a_disk_under_the_cache_that_is_full_or_read_only_is_no_obstacle(
    place: Any, own_cache: Path, options: str
) -> None:
    own_cache.mkdir()
    script = f'mount -t tmpfs -o {options} none "$0" && "$@" && find "$0" -type f'
    said = run_program(["unshare", "-m", "sh", "-c", script, str(own_cache)], own_cache, place)
    # neither an image nor a lock is left in it
    assert said == "42 None\n"
    assert place.processes() == []
    assert os.listdir(place.folder) == []


@pytest.mark.parametrize("folder", ["missing", "a file"])
def test_a_temporary_folder_that_cannot_be_made_is_a_start_error(
    place: Any, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    gone = place.folder.parent / "gone"
    if folder == "a file":
        gone.write_text("a file")
    monkeypatch.setattr(tempfile, "tempdir", str(gone))
    with place.left_clean(), pytest.raises(SandboxStartError, match="TMPDIR"):
        answers()
