"""Packages in the sandbox: pure and compiled ones, from images and without, in checkpoints, and what a cell is told."""

# ruff: noqa: ASYNC240  # the files are small

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm import packages
from rlm_wasm.sandbox import Checkpoint, Executed, Sandbox, SandboxPool, image, process
from tests.wheels import make_wheel

pytestmark = pytest.mark.anyio

WITHIN = 120
COMPILED = ("xxhash", "msgspec")


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


async def value_of(sandbox: Sandbox, expression: str) -> Any:
    done = await run(sandbox, expression)
    assert done.error is None, done.error
    return done.value


@pytest.fixture(scope="session")
def compiled(cache_folder: Path) -> packages.PackageSet:
    """Two small compiled packages from the package registry, got once."""
    lock = process.runtime_folder() / "pyodide" / "pyodide-lock.json"
    assert cache_folder == Path(os.environ["RLM_WASM_CACHE"])
    return packages.ready(COMPILED, lock)[0]


@pytest.fixture(scope="session")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        "told/__init__.py": "import random\ndrawn = random.random()\nfrom told.later import text\n",
        "told/later.py": "from importlib.resources import files\ntext = files('told').joinpath('a.txt').read_text()\n",
        "told/a.txt": "a text of the package's",
        "told-1.0.data/purelib/told_beside.py": "x = 1\n",
        "told-1.0.data/scripts/told": "#!python\n",
    }
    return make_wheel(tmp_path_factory.mktemp("wheels"), "told", files=files)


async def test_a_pure_wheel_from_a_folder_can_be_imported_with_its_files(pure: Path) -> None:
    async with Sandbox(packages=("told", pure.parent), use_image=False) as sandbox:
        assert sandbox.packages == ("told 1.0",)
        assert await value_of(sandbox, "import told, told_beside; [told.text, told.__file__, told_beside.x]") == [
            "a text of the package's",
            "/packages/told/__init__.py",
            1,
        ]
        # what a cell does there, the next sandbox does not see
        assert (await run(sandbox, "open('/packages/b', 'w').write('b')")).error is None
    async with Sandbox(packages=(pure,)) as sandbox:
        assert await value_of(sandbox, "import os; os.path.exists('/packages/b')") is False


@pytest.mark.parametrize("use_image", [True, False])
async def test_compiled_packages_from_the_registry_are_linked(compiled: packages.PackageSet, use_image: bool) -> None:
    async with Sandbox(packages=COMPILED, use_image=use_image) as sandbox:
        assert sandbox.packages == compiled.names
        assert await value_of(sandbox, "'xxhash' in __import__('sys').modules") is use_image
        assert await value_of(sandbox, "import xxhash; xxhash.xxh64(b'x').hexdigest()") == "5c80c09683041123"
        code = "import msgspec\nclass Point(msgspec.Struct):\n    x: int\nmsgspec.json.encode(Point(3)).decode()"
        assert await value_of(sandbox, code) == '{"x":3}'
        failing = await run(sandbox, "msgspec.json.decode(b'{}', type=Point)")
        assert "ValidationError" in str(failing.error)


async def test_an_image_is_kept_for_each_set_with_its_modules_imported_and_no_code_of_theirs(
    compiled: packages.PackageSet,
) -> None:
    async with Sandbox(packages=COMPILED):
        deno = process.find_deno()
    of_set, bare = image.path_for(deno, compiled.archive), image.path_for(deno)
    assert of_set != bare
    found, own = image.load(of_set), image.load(bare)
    assert found is not None
    assert own is not None
    # the code cache, which is run outside of the interpreter, is that of the bare image
    length = int.from_bytes(own[8:12], "little")
    assert found[8:12] == own[8:12]
    assert found[24 : 24 + length] == own[24 : 24 + length]


async def test_chance_differs_between_sandboxes_that_start_from_one_image(pure: Path) -> None:
    drawn: list[float] = []
    async with SandboxPool(2, packages=(pure,)) as pool:
        for _ in range(2):
            async with pool.lend() as sandbox:
                drawn.append(await value_of(sandbox, "import random, told; random.random()"))
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("use_image", [True, False])
async def test_a_checkpoint_keeps_what_packages_hold_and_links_their_libraries_again(
    compiled: packages.PackageSet, use_image: bool, tmp_path: Path
) -> None:
    async with Sandbox(packages=COMPILED, use_image=use_image) as sandbox:
        code = "import xxhash, msgspec\nhasher = xxhash.xxh64(b'so')\n"
        code += "class Point(msgspec.Struct):\n    x: int\np = Point(7)"
        assert (await run(sandbox, code)).error is None
        (await sandbox.checkpoint()).save(tmp_path / "checkpoint")
        [fork] = await sandbox.fork()
        async with fork:
            whole = "hasher.update(b' far'); [hasher.hexdigest(), msgspec.json.encode(p).decode()]"
            forked = await value_of(fork, whole)
    kept = Checkpoint.load(tmp_path / "checkpoint")
    assert kept.packages == tuple((str(each), each.sha256) for each in compiled.packages)
    async with Sandbox.restore(kept, packages=COMPILED) as restored:
        assert await value_of(restored, whole) == forked
        assert forked == [await value_of(restored, "xxhash.xxh64(b'so far').hexdigest()"), '{"x":7}']


async def test_a_checkpoint_is_not_restored_with_other_packages(pure: Path, tmp_path: Path) -> None:
    async with Sandbox(packages=(pure,)) as sandbox:
        checkpoint = await sandbox.checkpoint()
    with pytest.raises(ValueError, match=r"it had told 1.0, and there are none; give packages="):
        Sandbox.restore(checkpoint)
    other = make_wheel(tmp_path, "told", "2.0")
    with pytest.raises(ValueError, match=r"it had told 1.0, and there are told 2.0"):
        async with Sandbox.restore(checkpoint, packages=(other,)):
            pass


async def test_what_c_can_call_of_javascript_is_in_no_checkpoint_and_that_is_said(
    compiled: packages.PackageSet,
) -> None:
    async with Sandbox(packages=COMPILED) as sandbox:
        code = "import ctypes\nback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)"
        assert (await run(sandbox, code)).error is None
        with pytest.raises(ValueError, match="a function that C can call"):
            await sandbox.checkpoint()
        assert await value_of(sandbox, "back()") == 1
        assert (await run(sandbox, "del back")).error is None
        assert (await sandbox.checkpoint()).packages


async def test_a_cell_that_imports_what_is_not_there_is_told_what_is(pure: Path) -> None:
    async with Sandbox() as sandbox:
        error = str((await run(sandbox, "import numpy")).error)
        assert error.endswith("(no packages are installed here: there is the standard library alone)")
    async with Sandbox(packages=(pure,)) as sandbox:
        error = str((await run(sandbox, "import numpy")).error)
        assert "ModuleNotFoundError: No module named 'numpy'" in error
        assert error.endswith("(installed here beside the standard library: told 1.0; no others can be had)")


async def test_a_package_that_cannot_be_imported_ahead_is_left_to_the_cells(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "sulky", files={"sulky/__init__.py": "raise RuntimeError('not now')"})
    async with Sandbox(packages=(wheel,)) as sandbox:
        assert "RuntimeError: not now" in str((await run(sandbox, "import sulky")).error)
        assert await value_of(sandbox, "1 + 1") == 2


async def test_a_library_that_is_for_another_platform_inside_is_an_error_of_the_cell_alone(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "native", files={"native.cpython-314-wasm32-emscripten.so": "\x7fELF no wasm"})
    async with Sandbox(packages=(wheel,), use_image=False) as sandbox:
        assert "ImportError" in str((await run(sandbox, "import native")).error)
        assert await value_of(sandbox, "1 + 1") == 2


async def test_a_package_has_no_more_than_a_cell_has(tmp_path: Path) -> None:
    source = (
        "import pyodide.code\n"
        "def tried(code):\n"
        "    try:\n"
        "        return str(pyodide.code.run_js(code))\n"
        "    except BaseException as error:\n"
        "        return type(error).__name__\n"
        "found = [tried(f'typeof {name}') for name in ('Deno', 'process', 'postMessage', 'Worker', 'fetch')]\n"
    )
    wheel = make_wheel(tmp_path, "curious", files={"curious/__init__.py": source})
    async with Sandbox(packages=(wheel,), use_image=False) as sandbox:
        in_package = await value_of(sandbox, "import importlib, curious; importlib.reload(curious); curious.found")
        in_cell = await value_of(sandbox, source + "found")
    assert in_package == in_cell
    assert not set(in_package) & {"object", "function"}


async def test_where_an_image_of_the_set_cannot_be_had_the_packages_are_there_all_the_same(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path, "plain")

    def broken(*_: object) -> bytes:
        raise ValueError("no image")

    monkeypatch.setattr(image, "with_code_of", broken)
    before = set(cache_folder.glob("*.image"))
    for _ in range(2):
        async with Sandbox(packages=(wheel,)) as sandbox:
            assert await value_of(sandbox, "import sys; 'plain' in sys.modules") is False
            assert await value_of(sandbox, "import plain; plain.version") == "1.0"
    assert set(cache_folder.glob("*.image")) <= before | {image.path_for(process.find_deno())}


async def test_packages_with_little_memory_start_without_their_image(compiled: packages.PackageSet) -> None:
    async with Sandbox(packages=COMPILED, memory_mb=1) as sandbox:
        assert await value_of(sandbox, "import xxhash; xxhash.xxh64(b'x').hexdigest()") == "5c80c09683041123"


async def test_a_fresh_child_has_the_packages_of_the_first_with_nothing_resolved_again(
    pure: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(packages=(pure,)) as sandbox:
        monkeypatch.setattr(packages, "ready", None)
        monkeypatch.setattr(subprocess, "run", None)
        await sandbox.restart()
        assert await value_of(sandbox, "import told; told.text") == "a text of the package's"


def test_one_text_for_packages_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="packages must be a list of names"):
        Sandbox(packages="pandas")


def test_the_settings_of_a_run_can_name_packages() -> None:
    options = Sandbox(packages=["a", "b"]).options
    assert msgspec.json.decode(msgspec.json.encode(options.packages)) == ["a", "b"]
