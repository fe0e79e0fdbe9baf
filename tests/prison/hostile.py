"""The hostile cells as data: one TOML file for each class in `cells/`, and the tools that every cell finds.

A cell is Python source and says by its fields how it is run. It never says whether it succeeded: that is judged from
outside (`judge.py`), but for what only the inside can see, which the cell prints as BREACH.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("cells")
# in the order in which a reader wants them
CLASSES = ("escape", "network", "filesystem", "protocol", "resource", "tampering", "leak", "values", "calls")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One hostile cell. `timeout` and `pause` in seconds.

    `then` runs after `code`, `pause` seconds later, in the same sandbox or in another (`where`). `get` names a variable
    that the host reads afterwards; `load` has the host write one. `calm`: nothing may compute once the cell has ended.
    `spoils`: the cell breaks its own sandbox on purpose, so the next cell is tried in a fresh one.
    """

    group: str
    name: str
    code: str
    shows: str
    then: str | None = None
    where: str = "same"
    pause: float = 0.0
    timeout: float = 2.0
    get: str | None = None
    load: bool = False
    calm: bool = False
    spoils: bool = False
    slow: bool = False


def read_class(group: str) -> list[Cell]:
    """The cells of one class; what stands at the top of its file is true of each. Raises TypeError for an odd field."""
    file = tomllib.loads((FOLDER / f"{group}.toml").read_text("utf-8"))
    shared = {key: value for key, value in file.items() if key != "cell"}
    return [Cell(group=group, **{**shared, **fields}) for fields in file["cell"]]


def tools(target: str) -> str:
    """Python that is run in a sandbox before its first hostile cell; the handles underneath are each target's own."""
    return "\n\n".join((FOLDER / name).read_text("utf-8") for name in ("tools.txt", f"handles_{target}.txt"))
