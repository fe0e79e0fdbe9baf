"""What starting, running, asking and loading cost, ours and others' in one run.

    python -m tests.bench [--only NAME] [--quick] [--dspy PYTHON] [--json FILE] [--save]

Run from the checkout, on a quiet machine. Only ratios within one run are claims; absolute times are that machine's.
PYTHON is the interpreter of an environment with tests/bench/requirements.txt in it. --save writes RESULTS.md and
growth.svg beside this file, and the table into README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path

import anyio
import msgspec

from rlm_wasm import __version__
from rlm_wasm.sandbox.process import deno_version, find_deno, runtime_folder
from tests.bench.peers import Dspy, PeerMissing
from tests.bench.plot import svg
from tests.bench.rows import ROWS, Bench, Row, growth

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
MARKED = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=sorted(ROWS), help="one row alone")
    parser.add_argument("--quick", action="store_true", help="three samples instead of nine, and less of the longest")
    parser.add_argument("--dspy", metavar="PYTHON", help="measure DSPy too, by this interpreter")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--save", action="store_true", help="write RESULTS.md, growth.svg and the README's table")
    options = parser.parse_args()
    names = [options.only] if options.only else list(ROWS)
    with contextlib.ExitStack() as stack:
        dspy, missing = None, ""
        if options.dspy:
            try:
                dspy = stack.enter_context(Dspy(options.dspy))
            except (PeerMissing, OSError) as error:
                missing = f"DSPy does not start here: {error}"
        bench = Bench(3 if options.quick else 9, dspy, options.quick)
        rows: list[Row] = []
        for name in names:
            rows.append(anyio.run(ROWS[name], bench))
            print(f"{name}: {rows[-1].measured}", file=sys.stderr, flush=True)
        about = "\n\n".join(filter(None, (surroundings(dspy), missing)))
        print(f"{about}\n\n{summary(rows)}\n\n{table(rows)}")
        if options.json:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
        if options.save:
            save(rows, about, anyio.run(growth, bench))


def save(rows: list[Row], about: str, points: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    title = "# What it costs\n\nPrinted by `python -m tests.bench --save`."
    parts = [title, about, summary(rows), table(rows), "![growth](growth.svg)\n"]
    (HERE / "RESULTS.md").write_text("\n\n".join(parts), "utf-8")
    panels = [
        ("Loading a context", "MB of ASCII text", "seconds", points["context"]),
        ("Sub-calls of 50 ms, 100 at once", "calls", "seconds", points["calls"]),
    ]
    (HERE / "growth.svg").write_text(svg(panels), "utf-8")
    readme = README.read_text("utf-8")
    README.write_text(MARKED.sub(lambda _: f"{about}\n\n{summary(rows)}\n", readme), "utf-8")


def surroundings(dspy: Dspy | None) -> str:
    """The versions, the machine and the date."""
    deno = ".".join(map(str, deno_version(find_deno())))
    pyodide = json.loads((runtime_folder() / "pyodide" / "manifest.json").read_text("utf-8"))["package"]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    versions = [f"rlm_wasm {__version__}", f"Deno {deno}", pyodide, *([f"DSPy {dspy.version}"] if dspy else [])]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the end"
    return f"{', '.join(versions)}, Python {platform.python_version()}, {machine}, {datetime.date.today()}"


def summary(rows: list[Row]) -> str:
    """What each row was to reach, and what was measured."""
    lines = ["| | goal | measured |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.name} | {row.goal} | {row.measured} |" for row in rows)])


def table(rows: list[Row]) -> str:
    """All figures."""
    lines = ["| row | contestant | median | 10 % to 90 % |", "| --- | --- | ---: | --- |"]
    for row in rows:
        for contestant, value in row.medians.items():
            low, high = row.spreads[contestant]
            figures = f"{_shown(value, row.unit)} | {_shown(low, row.unit)} to {_shown(high, row.unit)}"
            lines.append(f"| {row.name} | {contestant} | {figures} |")
    return "\n".join(lines)


def _shown(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:,.0f} {unit}" if value >= 20 else f"{value:.2f} {unit}"
    return f"{value:.3f} s" if value >= 0.1 else f"{value * 1000:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
