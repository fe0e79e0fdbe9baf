"""DSPy's PythonInterpreter, measured from inside an environment in which it is installed.

    PYTHON dspy_peer.py FOLDER

Reads one word a line from stdin (`cold`, `cell`, `call`, `load N` for N megabytes) and answers each with the seconds
that it took, as JSON. The first line that it writes names its version. Its runner imports one file from deno.land; an
import map gives it a local stand-in for that, because that host is not reached everywhere.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from dspy.primitives.python_interpreter import PythonInterpreter  # pyright: ignore[reportMissingImports]

STAND_IN = Path(__file__).parents[1] / "prison" / "read_lines.mjs"
CELLS = 50


def nothing() -> str:
    return ""


def opened(folder: Path) -> PythonInterpreter:
    interpreter = PythonInterpreter(tools={"nothing": nothing})
    import_map = folder / "import_map.json"
    import_map.write_text(json.dumps({"imports": {"https://deno.land/std@0.186.0/io/mod.ts": STAND_IN.as_uri()}}))
    interpreter.deno_command.insert(2, f"--import-map={import_map}")
    return interpreter


def closed(interpreter: PythonInterpreter) -> None:
    if interpreter.deno_process is not None:
        interpreter.deno_process.kill()
        interpreter.deno_process.wait()


def main() -> None:
    folder = Path(sys.argv[1])
    warm = opened(folder)
    warm.execute("x = 1")
    print(json.dumps(version("dspy")), flush=True)
    for line in sys.stdin:
        word, _, size = line.strip().partition(" ")
        begun = time.perf_counter()
        if word == "cold":
            fresh = opened(folder)
            fresh.execute("print(1 + 1)")
            took = time.perf_counter() - begun
            closed(fresh)
        elif word == "cell":
            for _ in range(CELLS):
                warm.execute("x = 1")
            took = (time.perf_counter() - begun) / CELLS
        elif word == "call":
            code = "import time\nbegun = time.perf_counter()\nfor _ in range(200): nothing()\n"
            took = float(str(warm.execute(f"{code}print((time.perf_counter() - begun) / 200)")))
        else:
            text = "hello world " * (int(size) * 1_000_000 // 12)
            fresh = opened(folder)
            fresh.execute("x = 1")
            begun = time.perf_counter()
            fresh.execute("print(len(context))", variables={"context": text})
            took = time.perf_counter() - begun
            closed(fresh)
        print(json.dumps(took), flush=True)
    closed(warm)


if __name__ == "__main__":
    main()
