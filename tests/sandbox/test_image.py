"""The memory image on disk: made once, trusted never too much, and never a reason to fail."""

# ruff: noqa: ASYNC240  # the files are small or few, and nothing else runs in these loops

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.sandbox import Executed, Sandbox, image, process

pytestmark = pytest.mark.anyio

WITHIN = 60


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


async def works(**chosen: Any) -> bool:
    """A sandbox starts and computes."""
    with anyio.fail_after(WITHIN):
        async with Sandbox(**chosen) as sandbox:
            return (await sandbox.execute("import json; json.dumps([1])")).value == "[1]"


@pytest.fixture
async def image_file(cache_folder: Path, own_cache: Path) -> Path:
    """The image's file in this test's own cache: a copy of the session's."""
    path = image.path_for(process.find_deno())
    known = cache_folder / path.name
    if not known.exists():
        await works()
        return path
    own_cache.mkdir(mode=0o700)
    shutil.copy(known, path)
    path.chmod(0o600)
    return path


def is_whole(path: Path) -> bool:
    content = path.read_bytes()
    body = content[len(image._MAGIC) + 32 :]
    return content == image._MAGIC + hashlib.sha256(body).digest() + body and len(body) > 10_000_000


# --- made once -----------------------------------------------------------------------------------------------------


async def test_an_image_is_made_once_for_nobody_but_its_owner_and_used_again(own_cache: Path) -> None:
    assert await works()
    [name] = os.listdir(own_cache)
    path = own_cache / name
    assert path == image.path_for(process.find_deno())
    assert is_whole(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert own_cache.stat().st_mode & 0o777 == 0o700
    before = path.stat()
    assert await works()
    assert path.stat() == before or path.stat().st_ino == before.st_ino
    assert os.listdir(own_cache) == [name]


async def test_without_an_image_all_is_the_same_and_none_is_made(own_cache: Path) -> None:
    assert await works(use_image=False)
    assert not own_cache.exists()


async def test_two_that_start_at_once_in_an_empty_cache_both_work_and_leave_one_image(own_cache: Path) -> None:
    worked: list[bool] = []

    async def start() -> None:
        worked.append(await works())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        tasks.start_soon(start)
    assert worked == [True, True]
    [name] = os.listdir(own_cache)
    assert is_whole(own_cache / name)


async def test_the_lock_of_a_maker_that_lives_is_not_waited_for_and_that_of_a_dead_one_is_broken(
    own_cache: Path,
) -> None:
    path = image.path_for(process.find_deno())
    lock = path.with_suffix(".lock")
    with image.making(path) as mine:
        assert mine
        with image.making(path) as also_mine:
            assert not also_mine
        assert await works()
        assert not path.exists()
    assert not lock.exists()
    lock.touch()
    long_ago = time.time() - 1000
    os.utime(lock, (long_ago, long_ago))
    with image.making(path) as mine:
        assert mine
    assert not lock.exists()


# --- randomness ----------------------------------------------------------------------------------------------------


async def test_two_sandboxes_from_one_image_have_nothing_random_in_common(image_file: Path) -> None:
    code = (
        "import os, random, secrets, uuid, tempfile\n"
        "[random.random(), random.getrandbits(64), random.Random().random(), random.SystemRandom().random(), "
        "secrets.token_hex(), os.urandom(16), str(uuid.uuid4()), random.sample(range(10**9), 3)]"
    )
    drawn: list[list[object]] = []
    for _ in range(2):
        async with Sandbox() as sandbox:
            drawn.append((await run(sandbox, code)).value)
    assert len(drawn[0]) == 8
    assert all(first != second for first, second in zip(*drawn, strict=True))


async def test_an_image_holds_nothing_of_what_a_sandbox_saw(image_file: Path) -> None:
    secret = "a very particular secret"
    async with Sandbox() as sandbox:
        await sandbox.load(context=secret)
        await run(sandbox, "import sys\nsys.modules['math'] = 5\nmine = context")
    async with Sandbox() as sandbox:
        assert (await run(sandbox, "SHOW_VARS()")).value == "(no variables yet)"
        assert (await run(sandbox, "import math\nmath.pi > 3")).value is True
    assert secret.encode() not in image_file.read_bytes()


# --- damaged, foreign, in the way ----------------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


async def test_a_damaged_image_is_thrown_away_and_made_anew(image_file: Path) -> None:
    whole = image_file.read_bytes()
    for damaged in (cut(whole), flipped(whole), b"", b"garbage", image._MAGIC, whole + b"more"):
        image_file.write_bytes(damaged)
        image_file.chmod(0o600)
        assert image.load(image_file) is None
        assert not image_file.exists()
    image_file.write_bytes(flipped(whole))
    image_file.chmod(0o600)
    assert await works()
    assert is_whole(image_file)


async def test_an_image_that_is_whole_and_yet_does_not_boot_is_thrown_away(image_file: Path) -> None:
    body = b"no memory of anybody" * 1_000_000
    image_file.write_bytes(image._MAGIC + hashlib.sha256(body).digest() + body)
    assert await works()
    assert not image_file.exists()


async def test_an_image_that_others_may_touch_is_not_used_but_replaced(image_file: Path) -> None:
    for mode in (0o644, 0o660, 0o604):
        image_file.chmod(mode)
        assert image.load(image_file) is None
    assert await works()
    assert image_file.stat().st_mode & 0o777 == 0o600
    assert is_whole(image_file)


async def test_an_image_of_somebody_else_is_not_used(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image.load(image_file) is not None
    monkeypatch.setattr(image, "_checked", {})
    monkeypatch.setattr(os, "getuid", lambda: image_file.stat().st_uid + 1)
    assert image.load(image_file) is None


async def test_a_cache_folder_that_cannot_be_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    # not even root may make a folder there
    for folder in (file, Path("/proc/rlm-wasm")):
        monkeypatch.setenv("RLM_WASM_CACHE", str(folder))
        path = image.path_for(process.find_deno())
        assert image.load(path) is None
        assert not image.save(path, b"image")
        with image.making(path) as mine:
            assert not mine
    assert await works()
    assert file.read_text() == "in the way"


async def test_a_cache_folder_full_of_garbage_is_no_obstacle(own_cache: Path) -> None:
    path = image.path_for(process.find_deno())
    path.mkdir(parents=True)
    (path / "file").write_text("in the way")
    (own_cache / "x.image").write_bytes(os.urandom(1000))
    (own_cache / "\udcff").write_bytes(b"")
    assert await works()
    assert (path / "file").exists()
    path.with_suffix(".lock").mkdir()
    with image.making(path) as mine:
        assert not mine


def test_a_full_disk_leaves_nothing_half_written(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    path = own_cache / "x.image"
    assert image.save(path, b"first")
    monkeypatch.setattr(os, "replace", fail)
    assert not image.save(path, b"second")
    monkeypatch.undo()
    assert os.listdir(own_cache) == ["x.image"]
    assert image.load(path) == b"first"


def test_only_the_latest_images_are_kept(own_cache: Path) -> None:
    now = time.time()
    for number in range(10):
        assert image.save(own_cache / f"{number}.image", b"%d" % number)
        os.utime(own_cache / f"{number}.image", (now - 100 + number, now - 100 + number))
    kept = sorted(int(name.removesuffix(".image")) for name in os.listdir(own_cache))
    assert len(kept) <= image._KEPT_IMAGES + 1
    assert kept == list(range(10 - len(kept), 10))


def test_the_file_depends_on_the_deno_and_on_the_runtime_files(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deno = tmp_path / "deno"
    deno.write_text("one")
    first = image.path_for(deno)
    assert image.path_for(deno) == first
    assert first.parent == own_cache
    deno.write_text("another")
    assert image.path_for(deno) != first
    paths: list[Path] = []
    for name in ("one", "its copy", "another"):
        folder = tmp_path / name
        shutil.copytree(process.runtime_folder() if not paths else tmp_path / "one", folder)
        if name == "another":
            (folder / "values.py").write_text("changed")
        monkeypatch.setattr(image, "runtime_folder", lambda folder=folder: folder)
        paths.append(image.path_for(deno))
    assert paths[0] == paths[1] != paths[2]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"RLM_WASM_CACHE": "/chosen"}, "/chosen"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/rlm-wasm"),
        ({"HOME": "/home/somebody"}, "/home/somebody/.cache/rlm-wasm"),
        ({"HOME": "/home/somebody", "XDG_CACHE_HOME": "", "RLM_WASM_CACHE": ""}, "/home/somebody/.cache/rlm-wasm"),
    ],
)
def test_the_cache_folder_is_where_the_user_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("RLM_WASM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert image.cache_folder() == Path(folder)
