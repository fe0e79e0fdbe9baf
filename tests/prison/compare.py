"""The hostile suite against the shipped sandbox, an open one and a peer, side by side. A job run by hand.

    python -m tests.prison.compare [--dspy PYTHON] [--targets rlm_wasm,open,dspy] [--save]

PYTHON is the interpreter of an environment in which DSPy is installed. A table of counts is printed as Markdown, with
--save into RESULTS.md too. It takes most of an hour: what hangs in a target is waited for.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlm_wasm.sandbox.process import deno_version, find_deno
from tests.prison.hostile import CLASSES, read_class
from tests.prison.trial import ROOT, TARGETS, hold

RESULTS = Path(__file__).with_name("RESULTS.md")
# seconds for one class
_WITHIN = 2400
TITLES = {"rlm_wasm": "rlm_wasm", "open": "plain Pyodide in Deno", "dspy": "DSPy's PythonInterpreter"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.prison.compare")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--dspy", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--groups", default=",".join(CLASSES))
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args()
    groups: list[str] = chosen.groups.split(",")
    # side by side: most of the time is spent on waiting for what hangs
    names = chosen.targets.split(",")
    with ThreadPoolExecutor(len(names)) as lanes:
        pythons = [chosen.dspy if name == "dspy" else sys.executable for name in names]
        found = lanes.map(lambda name, python: hold_each(name, groups, python), names, pythons)
        results = dict(zip(names, found, strict=True))
    report = describe(results, groups)
    sys.stdout.write(report)
    if chosen.save:
        RESULTS.write_text(report, "utf-8")


def hold_each(name: str, groups: list[str], python: str) -> dict[str, Any]:
    """What `hold` gives, of one trial for each class: what ends or hangs one of them leaves the others."""
    whole: dict[str, Any] = {"found": {}, "cells": {}, "broken": {}}
    for group in groups:
        try:
            result = hold(name, [group], python=python, within=_WITHIN)
        except subprocess.TimeoutExpired:
            whole["broken"][group] = f"it was not done after {_WITHIN // 60} minutes"
            continue
        if "unavailable" in result and not whole["cells"]:
            return result
        whole["version"] = result.get("version", whole.get("version", ""))
        for part in ("found", "cells", "broken"):
            whole[part] |= result.get(part, {})
        if "unavailable" in result:
            whole["broken"][group] = result["unavailable"]
    return whole


def describe(results: dict[str, dict[str, Any]], groups: list[str]) -> str:
    """The table, and below it what did not start, and what succeeded against rlm_wasm."""
    sizes = {group: len(read_class(group)) for group in groups}
    columns = [f"{TITLES[name]} {result.get('version', '')}".strip() for name, result in results.items()]
    rows = [[group, sizes[group], *(_count(result, [group]) for result in results.values())] for group in groups]
    rows.append(["all", sum(sizes.values()), *(_count(result, groups) for result in results.values())])
    lines = [
        *("# Hostile cells that succeeded", ""),
        f"Printed by `python -m tests.prison.compare` on {datetime.date.today().isoformat()}: {_surroundings()}.",
        "A cell succeeds if it gets what was not given to it, harms its host or outlives its deadline; `judge.py` says",
        "how that is told. Plain Pyodide is deliberately open (read, net and env allowed): it shows that the suite can",
        "fail. DSPy's is as it comes, with no permission granted.",
        *("", f"| class | cells | {' | '.join(columns)} |", f"| --- | ---: |{' ---: |' * len(columns)}"),
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
    for name, result in results.items():
        if "unavailable" in result:
            lines += ["", f"{TITLES[name]} does not start here: {result['unavailable']}"]
        for group, why in result.get("broken", {}).items():
            lines += ["", f"{TITLES[name]}, {group}: not run to the end: {why}"]
    ours = results.get("rlm_wasm", {}).get("found", {})
    succeeded = [(group, cell, why) for group in groups for cell, why in ours.get(group, {}).items()]
    if succeeded:
        lines += ["", "Against rlm_wasm:", ""]
        lines += [f"- {group}: {cell}: {'; '.join(why)}" for group, cell, why in succeeded]
    return "\n".join(lines) + "\n"


def _count(result: dict[str, Any], groups: list[str]) -> str:
    if "found" not in result:
        return "-"
    succeeded = sum(len(result["found"].get(group, ())) for group in groups)
    run = sum(result["cells"].get(group, 0) for group in groups)
    whole = sum(len(read_class(group)) for group in groups)
    return str(succeeded) if run == whole else f"{succeeded} of {run} run"


def _surroundings() -> str:
    deno = ".".join(map(str, deno_version(find_deno())))
    pyodide = json.loads((ROOT / "deno" / "pyodide" / "manifest.json").read_text())["package"]
    return f"{platform.system()} {platform.release()}, Python {platform.python_version()}, Deno {deno}, {pyodide}"


if __name__ == "__main__":
    main()
