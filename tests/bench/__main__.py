"""`python -m tests.bench [--only NAME] [--quick] [--json FILE]`: what starting, running, asking and loading cost.

Run from the checkout, on a quiet machine. Only ratios within one run are claims; absolute times are that machine's.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from pathlib import Path

import anyio
import msgspec

from rlm_wasm import __version__
from rlm_wasm.sandbox.process import deno_version, find_deno
from tests.bench.rows import ROWS, Row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=sorted(ROWS), help="one row alone")
    parser.add_argument("--quick", action="store_true", help="three samples instead of nine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    names = [options.only] if options.only else list(ROWS)
    rows = [anyio.run(ROWS[name], 3 if options.quick else 9) for name in names]
    print(table(rows))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, with the versions, the machine and the date above it."""
    deno = ".".join(map(str, deno_version(find_deno())))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    about = (
        f"rlm_wasm {__version__}, Deno {deno}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the end, {datetime.date.today()}"
    )
    lines = [
        about,
        "",
        "| row | contestant | median | 10 % to 90 % | times the first |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        first = next(iter(row.medians.values()))
        for contestant, value in row.medians.items():
            low, high = row.spreads[contestant]
            figures = f"{_shown(value, row.unit)} | {_shown(low, row.unit)} to {_shown(high, row.unit)}"
            lines.append(f"| {row.name} | {contestant} | {figures} | {value / first:.2f} |")
    return "\n".join(lines)


def _shown(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:,.0f} {unit}"
    return f"{value:.3f} s" if value >= 0.1 else f"{value * 1000:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
