"""One trial: classes of hostile cells against one target, in a process of its own, whose memory is nobody else's.

    python -m tests.prison.trial TARGET CLASS,CLASS RESULT.json [--quick] [--unconfined]

`--quick` leaves out what takes half a minute by its nature; `--unconfined` takes the kernel's layer away from rlm_wasm.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import anyio

from tests.prison.hostile import CLASSES, read_class
from tests.prison.judge import Verdict, attack
from tests.prison.traps import Traps

ROOT = Path(__file__).parents[2]
TARGETS = {"rlm_wasm": "shipped", "open": "open_sandbox", "dspy": "dspy_sandbox"}
PACKAGES = {"dspy": "dspy"}
# a target without a cap of its own must not take the whole machine, in bytes
_DATA_LIMIT = 6 * 1024**3


def hold(
    target: str, groups: list[str], *flags: str, python: str = sys.executable, within: float | None = None
) -> dict[str, Any]:
    """Run a trial in a process of its own.

    Gives `found` (by class, by name of a cell: by what it succeeded), `cells` (how many of each class were run),
    `broken` (classes that could not be run to their end, and why), `left` (processes and folders that outlived it) and
    `version`; or `unavailable`, why the target does not start. Raises subprocess.TimeoutExpired after `within` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="trial") as folder:
        result, temporary = Path(folder, "result.json"), Path(folder, "t")
        temporary.mkdir()
        line = [python, "-m", "tests.prison.trial", target, ",".join(groups), os.fspath(result), *flags]
        done = subprocess.run(
            line,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": os.fspath(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=within,
        )
        if result.exists():
            return {**json.loads(result.read_text("utf-8")), "left": [path.name for path in temporary.iterdir()]}
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return {"unavailable": said[-1] if said else f"exit code {done.returncode}"}


async def run(target_name: str, groups: list[str], quick: bool) -> dict[str, Any]:
    """The trial itself; gives what `hold` does."""
    module = importlib.import_module(f"tests.prison.{TARGETS[target_name]}")
    found: dict[str, dict[str, list[str]]] = {}
    cells: dict[str, int] = {}
    broken: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="traps") as folder:
        traps = Traps(Path(folder))
        with traps.set():
            for group in groups:
                verdicts: list[Verdict] = []
                try:
                    async with module.opened(traps, group) as target:
                        for cell in read_class(group):
                            if not (quick and cell.slow):
                                verdicts.append(await attack(target, cell, traps))
                except Exception as error:
                    if not verdicts:
                        raise
                    # a target that cannot be gone on with: what was found until then is told
                    broken[group] = f"{type(error).__name__}: {error}"[:300]
                cells[group] = len(verdicts)
                found[group] = {verdict.cell.name: verdict.reasons for verdict in verdicts if verdict.reasons}
    version = importlib.metadata.version(PACKAGES[target_name]) if target_name in PACKAGES else ""
    return {"found": found, "cells": cells, "version": version, "orphans": _children(), "broken": broken}


def _children() -> list[str]:
    """The processes of this one that still run, in words; only Linux tells."""
    found: list[str] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().rpartition(")")
        except OSError:
            # it ended meanwhile
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z":
            found.append(f"{name})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.prison.trial")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("groups", default=",".join(CLASSES))
    parser.add_argument("result", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--unconfined", action="store_true")
    chosen = parser.parse_args()
    if chosen.target != "rlm_wasm":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_DATA_LIMIT, _DATA_LIMIT))
    if chosen.unconfined:
        importlib.import_module("tests.prison.shipped").without_the_kernel()
    try:
        result = anyio.run(run, chosen.target, chosen.groups.split(","), chosen.quick)
    except Exception as error:
        traceback.print_exc()
        result = {"unavailable": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    chosen.result.write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
