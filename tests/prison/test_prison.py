"""No hostile cell succeeds against the shipped sandbox; and without the kernel's layer none does either."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.sandbox import Sandbox
from tests.prison.hostile import CLASSES, read_class
from tests.prison.judge import Verdict, attack
from tests.prison.shipped import opened
from tests.prison.traps import Traps

pytestmark = pytest.mark.anyio

# what stops these is the realm and the process alone; a bomb without a cap on memory is not for a shared machine
WITHOUT_THE_KERNEL = ("escape", "network", "filesystem")
Counts = dict[str, tuple[int, int]]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the traps, and beside it one of this test's own in which children have theirs."""
    # a Unix socket's path has room for 107 bytes
    top = tmp_path_factory.mktemp("p")
    (top / "children").mkdir()
    (top / "traps").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(top / "children"))
    return top


async def run_class(group: str, folder: Path) -> list[Verdict]:
    """Every cell of a class, in as few sandboxes as they leave alive."""
    traps = Traps(folder / "traps")
    with traps.set():
        async with opened(traps) as target:
            verdicts = [await attack(target, cell, traps) for cell in read_class(group) if not cell.slow]
    assert target.started > 0
    return verdicts


def describe(verdicts: list[Verdict]) -> list[str]:
    return [f"{verdict.cell.name}: {'; '.join(verdict.reasons)}" for verdict in verdicts if verdict.reasons]


@pytest.mark.parametrize("group", CLASSES)
async def test_no_hostile_cell_succeeds(
    group: str, folder: Path, counts: Counts, children: Callable[[], set[int]]
) -> None:
    before = children()
    verdicts = await run_class(group, folder)
    succeeded = describe(verdicts)
    counts[group] = (len(verdicts), len(succeeded))
    assert not succeeded, "\n".join(["these succeeded:", *succeeded])
    assert list((folder / "children").iterdir()) == []
    assert children() <= before


@pytest.mark.parametrize("group", WITHOUT_THE_KERNEL)
async def test_no_hostile_cell_succeeds_without_the_layer_of_the_kernel(
    group: str, folder: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Sandbox._start_session

    async def unconfined(self: Sandbox, tasks: Any, image: bytes | None, confined: bool) -> Any:
        session = await original(self, tasks, image, False)
        assert self.isolation.kernel == ()
        return session

    monkeypatch.setattr(Sandbox, "_start_session", unconfined)
    verdicts = await run_class(group, folder)
    succeeded = describe(verdicts)
    counts[f"{group}, without the kernel"] = (len(verdicts), len(succeeded))
    assert not succeeded, "\n".join(["these succeeded:", *succeeded])
