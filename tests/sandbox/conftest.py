"""Shows the counts of recorded cells at the end of a run."""

from __future__ import annotations

from collections import Counter

import pytest

COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()


@pytest.fixture
def recorded_counts(pytestconfig: pytest.Config) -> Counter[str]:
    """How many recorded sessions and cells were run, and how many of these gave what was recorded."""
    return pytestconfig.stash[COUNTS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(COUNTS, Counter[str]())
    if found:
        terminalreporter.section("recorded cells")
        terminalreporter.line(", ".join(f"{number} {name}" for name, number in found.items()))
