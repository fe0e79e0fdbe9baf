"""Packages on the host: which wheels a set is made of, that they are what they should be, and the cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rlm_wasm import packages
from rlm_wasm.errors import PackageError
from rlm_wasm.packages import shelf
from rlm_wasm.packages.wheels import PLATFORM
from rlm_wasm.sandbox import process
from tests.wheels import make_wheel

LOCK = process.runtime_folder() / "pyodide" / "pyodide-lock.json"


@pytest.fixture(autouse=True)
def cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no package registry."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(shelf, "_loaded", {})
    return own_cache / "packages"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of wheels: `top` needs `low`, and something more in the sandbox alone."""
    place = tmp_path / "wheels"
    make_wheel(place, "low", "1.0")
    make_wheel(place, "low", "2.0")
    make_wheel(place, "inside_only")
    make_wheel(place, "elsewhere_only")
    here = 'sys_platform == "emscripten" and python_version >= "3.14"'
    make_wheel(place, "top", "3.1", needs=["low<2", f"inside-only; {here}", 'elsewhere-only; sys_platform == "linux"'])
    return place


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a process fails."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


def files_of(archive: bytes) -> list[str]:
    length = int.from_bytes(archive[8:12], "little")
    return [path for path, _ in json.loads(archive[12 : 12 + length])["files"]]


# --- which wheels --------------------------------------------------------------------------------------------------


def test_a_set_has_what_its_packages_need_in_the_sandbox_and_not_what_they_need_on_this_machine(folder: Path) -> None:
    found, archive = packages.ready(["top", folder], LOCK)
    assert found.names == ("inside-only 1.0", "low 1.0", "top 3.1")
    assert "/packages/top/__init__.py" in files_of(archive)
    assert not any("elsewhere" in path for path in files_of(archive))


def test_what_this_machine_alone_would_need_need_not_be_there(folder: Path) -> None:
    (folder / "elsewhere_only-1.0-py3-none-any.whl").unlink()
    assert packages.ready(["top", folder], LOCK)[0].names == ("inside-only 1.0", "low 1.0", "top 3.1")


def test_wheels_that_are_named_and_need_nothing_else_are_taken_with_no_pip(folder: Path, no_pip: None) -> None:
    found, archive = packages.ready([folder / "low-2.0-py3-none-any.whl"], LOCK)
    assert found.names == ("low 2.0",)
    assert json.loads(archive[12 : 12 + int.from_bytes(archive[8:12], "little")])["imports"] == ["low"]


@pytest.mark.parametrize(
    ("tag", "runs"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        (f"cp314-cp314-{PLATFORM}", True),
        (f"cp312-abi3-{PLATFORM}", True),
        (f"cp313-cp313-{PLATFORM}", False),
        ("cp314-cp314-pyemscripten_2027_0_wasm32", False),
        ("cp314-cp314-manylinux_2_28_x86_64", False),
        ("py2-none-any", False),
    ],
)
def test_a_wheel_for_another_platform_is_refused_by_its_name(tmp_path: Path, tag: str, runs: bool) -> None:
    wheel = make_wheel(tmp_path / "given", "low", tag=tag)
    if runs:
        assert packages.ready([wheel], LOCK)[0].names == ("low 1.0",)
        return
    with pytest.raises(PackageError, match=rf"low-1.0-{tag}.whl is for another platform.*{PLATFORM}"):
        packages.ready([wheel], LOCK)
    assert packages.kept() == []


def test_what_cannot_be_had_is_named_with_the_platform_and_all_that_was_tried(folder: Path) -> None:
    make_wheel(folder, "native", tag="cp314-cp314-manylinux_2_28_x86_64")
    with pytest.raises(PackageError) as caught:
        packages.ready(["top", "native", folder], LOCK)
    said = str(caught.value)
    assert said.startswith("native: no wheel that runs in the sandbox")
    for part in (PLATFORM, "CPython 3.14", str(folder), "the package registry", "pip: No matching distribution"):
        assert part in said


@pytest.mark.parametrize("wish", ["no such wheel.whl", "no/such/folder", "two words", "==3"])
def test_what_names_no_package_is_refused(wish: str) -> None:
    with pytest.raises(PackageError, match=wish):
        packages.ready([wish], LOCK)


def test_folders_alone_are_no_packages(folder: Path) -> None:
    with pytest.raises(PackageError, match="no package is named"):
        packages.ready([folder], LOCK)


def test_a_wheel_in_a_folder_whose_lock_file_says_another_hash_is_refused(folder: Path) -> None:
    entry = {"file_name": "low-2.0-py3-none-any.whl", "sha256": "0" * 64, "depends": []}
    (folder / "pyodide-lock.json").write_text(json.dumps({"packages": {"low": entry}}))
    with pytest.raises(PackageError, match=r"low-2.0-py3-none-any.whl is not what it should be: its SHA-256 is \w{64}"):
        packages.ready(["low", folder], LOCK)
    assert packages.kept() == []
    # the other version is in no lock file, and is what pip then may take
    assert packages.ready(["low<2", folder], LOCK)[0].names == ("low 1.0",)


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil.py", "low/../../evil.py", "low/a\\b.py", "low//b.py", "a\nb.py"]
)
def test_a_wheel_with_a_name_in_it_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path, "low", files={"low/__init__.py": "", name: "x = 1"})
    with pytest.raises(PackageError, match="leads elsewhere"):
        packages.ready([wheel], LOCK)


def test_a_file_that_is_no_wheel_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "low", files={"low/__init__.py": "x = 1" * 100})
    whole = wheel.read_bytes()
    for content in (b"", b"PK nothing", whole[:200], whole.replace(b"x = 1x", b"x = 2x")):
        wheel.write_bytes(content)
        with pytest.raises(PackageError, match=r"is no wheel|is damaged"):
            packages.ready([wheel], LOCK)


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """The folder, at an address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_wheel_at_an_address_is_held_to_the_hash_that_stands_there(folder: Path, served: str, no_pip: None) -> None:
    name = "low-2.0-py3-none-any.whl"
    right = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert packages.ready([f"{served}{name}#sha256={right}"], LOCK)[0].names == ("low 2.0",)
    with pytest.raises(PackageError, match=rf"{name} is not what it should be.*{'0' * 64} was expected"):
        packages.ready([f"{served}{name}#sha256={'0' * 64}"], LOCK)
    for address, said in ((f"{served}low-9-py3-none-any.whl", "File not found"), (f"{served}low", "is no wheel")):
        with pytest.raises(PackageError, match=said):
            packages.ready([address], LOCK)


def test_a_distribution_at_an_address_is_held_to_the_lock_file_of_the_runtime(
    folder: Path, served: str, tmp_path: Path
) -> None:
    def entry(file: str, *depends: str) -> dict[str, object]:
        sha256 = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        return {"file_name": file, "version": file.split("-")[1], "sha256": sha256, "depends": depends}

    locked = {"low": entry("low-1.0-py3-none-any.whl"), "Top": entry("top-3.1-py3-none-any.whl", "low", "inside-only")}
    locked["inside_only"] = entry("inside_only-1.0-py3-none-any.whl")
    lock = tmp_path / "lock.json"
    lock.write_text(json.dumps({"packages": locked}))
    assert packages.ready(["top", served], lock)[0].names == ("inside-only 1.0", "low 1.0", "top 3.1")
    locked["low"]["sha256"] = "0" * 64
    lock.write_text(json.dumps({"packages": locked}))
    with pytest.raises(PackageError, match=rf"low 1.0 \({PLATFORM}\) cannot be had: low-1.0.*is not what it should be"):
        packages.add(["top", served], lock)


# --- the cache -----------------------------------------------------------------------------------------------------


def test_a_set_is_resolved_once_and_then_used_with_no_process_and_no_wheels_of_the_caller(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packages.ready(["top", folder], LOCK)
    for wheel in folder.iterdir():
        wheel.unlink()
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(shelf, "_loaded", {})
    assert packages.ready(["top", folder], LOCK) == first
    # in the other order, too
    assert packages.ready([folder, "top"], LOCK) == first
    assert {entry.stat().st_mode & 0o077 for entry in [cache, *cache.rglob("*")]} == {0}


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_a_damaged_archive_is_made_again_of_the_wheels(
    folder: Path, cache: Path, no_pip: None, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    wanted = [folder / "low-1.0-py3-none-any.whl"]
    found, archive = packages.ready(wanted, LOCK)
    monkeypatch.setattr(shelf, "_loaded", {})
    (cache / "archives" / found.archive).write_bytes(damage)
    assert packages.ready(wanted, LOCK) == (found, archive)
    assert (cache / "archives" / found.archive).read_bytes() == archive


def test_a_set_whose_wheel_in_the_cache_was_changed_is_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [folder / "low-1.0-py3-none-any.whl"]
    found, _ = packages.ready(wanted, LOCK)
    monkeypatch.setattr(shelf, "_loaded", {})
    (cache / "archives" / found.archive).unlink()
    make_wheel(cache / "wheels", "low", "1.0", files={"low/__init__.py": "import os"})
    with pytest.raises(PackageError, match="is not what it should be"):
        packages.ready(wanted, LOCK)


def test_another_wheel_of_the_same_name_does_not_take_the_place_of_one_in_the_cache(folder: Path) -> None:
    first = packages.add(["low<2", folder], LOCK)
    make_wheel(folder, "low", "1.0", files={"low/__init__.py": "other = True"})
    with pytest.raises(PackageError, match=r"another wheel of that name is in the cache.*packages remove low"):
        packages.add(["low<2", folder], LOCK)
    assert packages.kept() == [first]


def test_add_resolves_anew_and_keeps_the_older_set_where_that_fails(folder: Path) -> None:
    first = packages.add(["low", folder], LOCK)
    make_wheel(folder, "low", "2.5")
    assert packages.ready(["low", folder], LOCK)[0] == first
    second = packages.add(["low", folder], LOCK)
    assert second.names == ("low 2.5",)
    (folder / "low-2.6-py3-none-any.whl").write_bytes(b"nothing")
    with pytest.raises(PackageError):
        packages.add(["low", folder], LOCK)
    assert packages.kept() == [second]


def test_remove_takes_the_sets_with_a_package_and_what_no_other_set_needs(folder: Path, cache: Path) -> None:
    top = packages.add(["top", folder], LOCK)
    low = packages.add(["low<2", folder], LOCK)
    assert {each.wanted for each in packages.kept()} == {top.wanted, low.wanted}
    assert packages.remove(["inside_only"]) == [top]
    assert packages.kept() == [low]
    assert [path.name for path in (cache / "wheels").iterdir()] == ["low-1.0-py3-none-any.whl"]
    assert [path.name for path in (cache / "archives").iterdir()] == [low.archive]
    assert packages.remove(["nothing"]) == []
    assert packages.remove(["low"]) == [low]
    assert list((cache / "wheels").iterdir()) == []


def test_where_nothing_can_be_written_that_is_said(folder: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(PackageError, match=r"cannot be kept in .*RLM_WASM_CACHE"):
        packages.ready([folder / "low-1.0-py3-none-any.whl"], LOCK)
