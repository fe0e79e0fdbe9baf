"""No hostile cell succeeds against the shipped sandbox; and without the kernel's layer none gets out either.

Each class is tried in a process of its own, two at a time: memory and stillness are measured for a whole process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.prison.hostile import CLASSES, read_class
from tests.prison.trial import hold

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="what is measured is read where POSIX has it")

# the longest first, so that the two lanes end together
ORDER = ("resource", "protocol", "calls", "tampering", "escape", "leak", "values", "network", "filesystem")
# what stops these is the realm and the process alone; a bomb without a cap on memory is not for a shared machine
WITHOUT_THE_KERNEL = ("escape", "network", "filesystem")
LANES = 2
# seconds for one class; half of it would do
WITHIN = 230.0
Trials = dict[str, Future[dict[str, Any]]]
Counts = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """By the name of its test, every trial that this run has asked for; all are begun at once."""
    names = [item.name for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(LANES) as lanes:
        begun: Trials = {}
        for name in names:
            group = name.partition("[")[2].rstrip("]")
            flags = ["--quick", *(["--unconfined"] if "without" in name else [])]
            if group:
                begun[name] = lanes.submit(hold, "rlm_wasm", [group], *flags, within=WITHIN)
        try:
            yield begun
        finally:
            lanes.shutdown(cancel_futures=True)


def check(result: dict[str, Any], group: str) -> None:
    """Nothing succeeded, and nothing was left behind."""
    assert "unavailable" not in result, result["unavailable"]
    succeeded = [f"{name}: {'; '.join(reasons)}" for name, reasons in result["found"][group].items()]
    assert not succeeded, "\n".join(["these succeeded:", *succeeded])
    assert (result["left"], result["orphans"], result["broken"]) == ([], [], {})


def count(result: dict[str, Any], group: str) -> tuple[int, int]:
    """How many cells were run, and how many of them succeeded."""
    return result.get("cells", {}).get(group, 0), len(result.get("found", {}).get(group, ()))


def test_every_class_is_tried_and_there_are_enough_cells() -> None:
    assert sorted(ORDER) == sorted(CLASSES)
    assert sum(len(read_class(group)) for group in CLASSES) >= 160


@pytest.mark.parametrize("group", ORDER)
def test_no_hostile_cell_succeeds(group: str, request: pytest.FixtureRequest, trials: Trials, counts: Counts) -> None:
    result = trials[request.node.name].result()
    counts[group] = count(result, group)
    check(result, group)


@pytest.mark.parametrize("group", WITHOUT_THE_KERNEL)
def test_no_hostile_cell_gets_out_without_the_layer_of_the_kernel(
    group: str, request: pytest.FixtureRequest, trials: Trials, counts: Counts
) -> None:
    result = trials[request.node.name].result()
    counts[f"{group}, without the kernel"] = count(result, group)
    check(result, group)
