"""A CSV file and a SQLite database as context: read in the sandbox, and an answer that is a table too.

The data are Python's own: the modules of its standard library, with their lines and sizes.
"""

from __future__ import annotations

import csv
import sqlite3
import sysconfig
import tempfile
from pathlib import Path

from rlm_wasm import RLM, ScriptedClient, read_table

LARGEST = """
```repl
rows = sorted(context["modules"], key=lambda row: -int(row["bytes"]))
print(len(rows), rows[0])
lines = dict(context["lines"].execute("select module, lines from lines"))
```
"""
ANSWER = """
```repl
FINAL([{"module": row["module"], "lines": lines[row["module"]]} for row in rows[:3]])
```
"""


def data(folder: Path) -> dict[str, object]:
    """Two files of data, as tables."""
    found = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    with (folder / "modules.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["module", "bytes"])
        writer.writerows((path.stem, path.stat().st_size) for path in found)
    with sqlite3.connect(folder / "lines.db") as database:
        database.execute("create table lines (module text, lines integer)")
        counted = ((path.stem, path.read_bytes().count(b"\n")) for path in found)
        database.executemany("insert into lines values (?, ?)", counted)
    database.close()
    return {"modules": read_table(folder / "modules.csv"), "lines": read_table(folder / "lines.db")}


def main() -> None:
    # With a real model: RLM("gpt-5-mini"). With packages=["pandas"] the CSV is a DataFrame inside.
    rlm = RLM(ScriptedClient([LARGEST, ANSWER]))
    with tempfile.TemporaryDirectory() as folder:
        done = rlm.completion("Which three modules are the largest?", context=data(Path(folder)))
    for row in done.response:
        print(f"{row['module']}: {row['lines']} lines")


if __name__ == "__main__":
    main()
