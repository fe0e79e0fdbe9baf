"""DSPy's interpreter where deno.land cannot be reached: its runner imports one file from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_STAND_IN = Path(__file__).with_name("dspy_read_lines.mjs")
_READ_LINES = "https://deno.land/std@0.186.0/io/mod.ts"


def offline(interpreter: Any, folder: Path) -> None:
    """Have a `PythonInterpreter` that was not started yet take a local stand-in, by an import map kept in `folder`."""
    import_map = folder / "import_map.json"
    import_map.write_text(json.dumps({"imports": {_READ_LINES: _STAND_IN.as_uri()}}))
    interpreter.deno_command.insert(2, f"--import-map={import_map}")
