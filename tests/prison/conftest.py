"""Shows the counts of hostile cells at the end of a run."""

from __future__ import annotations

import pytest

COUNTS = pytest.StashKey[dict[str, tuple[int, int]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = {}


@pytest.fixture
def counts(pytestconfig: pytest.Config) -> dict[str, tuple[int, int]]:
    """By what was run: how many cells, and how many of them succeeded."""
    return pytestconfig.stash[COUNTS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(COUNTS, {})
    if not found:
        return
    terminalreporter.section("hostile cells")
    for name, (cells, succeeded) in found.items():
        terminalreporter.line(f"{name:32} {cells:4} cells, {succeeded} succeeded")
    cells, succeeded = (sum(column) for column in zip(*found.values(), strict=True))
    terminalreporter.line(f"{'all':32} {cells:4} cells, {succeeded} succeeded")
