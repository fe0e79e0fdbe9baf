"""DSPy's PythonInterpreter, measured from inside an environment in which it is installed.

    PYTHON -m tests.bench.dspy_peer FOLDER

Reads one word a line from stdin (`cold`, `cell`, `call`, `load N` for N megabytes) and answers each with the seconds
that it took, as JSON. The first line that it writes names its version.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from dspy.primitives.python_interpreter import PythonInterpreter  # pyright: ignore[reportMissingImports]

from tests.dspy_offline import offline

CELLS = 200


def nothing() -> str:
    return ""


def opened(folder: Path) -> PythonInterpreter:
    interpreter = PythonInterpreter(tools={"nothing": nothing})
    offline(interpreter, folder)
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
