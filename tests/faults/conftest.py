"""Where the sandboxes of a test live, and what is left of them afterwards."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from rlm_wasm.sandbox import Sandbox


class Place:
    """The folder in which a test's sandboxes live. Their processes are known by it, whoever is their parent now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def processes(self) -> list[int]:
        """The living processes whose environment names this folder, and the dead ones that nobody has fetched."""
        mark = f"DENO_DIR={self.folder}/".encode()
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                ours = mark in (entry / "environ").read_bytes() if state != "Z" else int(parent) == os.getpid()
            except OSError:
                # it ended meanwhile
                continue
            found += [int(entry.name)] if ours else []
        return sorted(found)

    @contextmanager
    def left_clean(self) -> Generator[None]:
        """After the block there is no process, no folder and no descriptor that was not there before it."""
        # what tests before this one have dropped and nobody has closed is no descriptor of this one's
        gc.collect()
        before = descriptors()
        yield
        assert self.processes() == []
        assert os.listdir(self.folder) == []
        after = descriptors()
        assert {number: target for number, target in after.items() if number not in before} == {}
        assert len(after) == len(before)


def descriptors() -> dict[int, str]:
    """This process's open descriptors, and what they are of."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            # the one by which the folder was listed
            continue
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "sandboxes"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return Place(folder)


@pytest.fixture(scope="session", autouse=True)
def _image_made(cache_folder: Path) -> None:
    """A fault is to hit the start that users see, which is the one from an image."""

    async def start() -> None:
        async with Sandbox():
            pass

    anyio.run(start)
