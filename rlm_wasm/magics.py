"""A cell as a model wrote it -> a cell that can be run: what stands around code, and lines for IPython or a shell.

Knows nothing of replies, messages or the sandbox. Code is read with `ast.parse`, and is never evaluated.
"""

from __future__ import annotations

import ast
import re
import warnings

from rlm_wasm.parsing import JUDGED_CHARS, MAGIC, parse

# each costs a reading of the whole cell
_MOST = 8
_TIMED = re.compile(r"%%?time(?:it)?\b(?:[ \t]+-\w+(?:[ \t]*\d+)?)*[ \t]*(.*)")


def runnable(code: str) -> str:
    """A cell as it can be run: without the fences or tags that a model has put around code that needs none, as in the
    argument of a native tool, and with IPython's magics left out. Python is given back as it is. Never raises.

    `%time` and `%timeit` run what follows them; of any other magic, and of a line for a shell, the cell says in its
    output that it did nothing.
    """
    if code.lstrip().startswith(("```", "~~~", "<")):
        cells = parse(code).cells
        code = "\n\n".join(cells) if cells else code
    for _ in range(_MOST):
        line = _slip(code)
        lines = code.split("\n")
        if line is None or not (magic := MAGIC.search(lines[line])):
            break
        lines[line] = _without_magic(magic)
        code = "\n".join(lines)
    return code


def _slip(code: str) -> int | None:
    """The line, from 0, at which code ceases to be Python; None if it does not, or that cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code if len(code) <= JUDGED_CHARS else "")
    except SyntaxError as error:
        return error.lineno - 1 if error.lineno and error.lineno <= code.count("\n") + 1 else None
    except (ValueError, RecursionError, MemoryError, SystemError):
        return None
    return None


def _without_magic(magic: re.Match[str]) -> str:
    if magic[2]:
        # what a shell would have given is nothing here
        return f"{magic.string[: magic.start(2)]}{magic[2]}None"
    line = magic.group().strip()
    timed = _TIMED.fullmatch(line)
    if timed:
        return f"{magic[1]}{timed[1] or 'pass'}"
    note = f"({line[:100]}: there is no IPython and no shell here, and this line did nothing)"
    return f"{magic[1]}print({note!r})"
