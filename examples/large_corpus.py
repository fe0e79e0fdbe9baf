"""A file that is larger than memory stays where it is: the code of the model greps and cuts it from afar.

It is made here with holes, so that it takes no room on the disk: 20 GB that hold three notes. Plain words are found
without anything more; regular expressions need ripgrep (the extra `lazy`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rlm_wasm import RLM, ScriptedClient

NOTES = {0: "launch 1: revenue 12\n", 10_000_000_000: "\nlaunch 2: revenue 47\n", 19_000_000_000: "\nlaunch 3: 31\n"}

REPLIES = [
    "```repl\nprint(context)\n```",
    """
```repl
print(len(context), repr(context.head(21)))
found = context.grep("launch")
print(found)
```
""",
    """
```repl
best = max(found, key=lambda line: int(line.text.split()[-1]))
FINAL({"launch": best.text.split(":")[0], "bytes": len(context), "there": context[best.offset:best.offset + 20]})
```
""",
]


def sparse_file(folder: str) -> Path:
    path = Path(folder, "launches.txt")
    with path.open("wb") as file:
        for offset, note in NOTES.items():
            file.seek(offset)
            file.write(note.encode())
        file.truncate(20_000_000_000)
    return path


def main() -> None:
    # With a real model: RLM("gpt-5-mini")
    rlm = RLM(ScriptedClient(REPLIES), on_print=lambda event: print("printed:", event.text.strip()))
    with tempfile.TemporaryDirectory() as folder:
        # files of 500 MB and more stay on the host by themselves; lazy=True says so for any
        done = rlm.completion("Which launch had the largest revenue?", context=sparse_file(folder), lazy=True)
    refused = done.trajectory[0].cells[0].error or ""
    print("print(context):", refused.splitlines()[-1][:80])
    print("answer:", done.response)


if __name__ == "__main__":
    main()
