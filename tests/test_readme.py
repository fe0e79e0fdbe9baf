"""What README.md says stands on tests that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of each row of the first table under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        # a bar within code is written with a backslash before it
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


FEATURES = list(rows("What users of other systems find"))


def sentences_in(path: Path) -> list[str]:
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


@pytest.mark.parametrize("row", FEATURES, ids=[row[0][:40] for row in FEATURES])
def test_each_feature_names_files_that_hold_tests(row: list[str]) -> None:
    assert len(row) == 4
    named = re.findall(r"`(tests/[^`]*)`", row[-1])
    assert named, "a row without a test"
    for name in named:
        assert (ROOT / name).exists(), f"{name} is not there"
        assert sentences_in(ROOT / name), f"{name} holds no test"


def test_the_table_has_every_system() -> None:
    known = " ".join(row[1] for row in FEATURES)
    for system in ("rlm", "rlm-on-azure", "fast-rlm", "pyrlm-runtime", "dspy.RLM", "predict-rlm", "Prime Intellect"):
        assert system in known
