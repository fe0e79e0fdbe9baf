"""Cells that models wrote in other systems' public logs run here, and give the output that was recorded.

`tests/cells/recorded.jsonl` holds a session a line: where it was found, its context, and its cells in order. A cell
that is marked verified gave its `expected_stdout` again in Pyodide when it was collected; of the others the output
could not be had again (their context was not recorded, or a log wrapped their lines), and they must only run.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm.sandbox import Executed, Sandbox

pytestmark = pytest.mark.anyio

SESSIONS: list[dict[str, Any]] = [
    msgspec.json.decode(line)
    for line in (Path(__file__).parent.parent / "cells" / "recorded.jsonl").read_bytes().splitlines()
]
CELLS = [cell for session in SESSIONS for cell in session["cells"]]

# alexzhang13/rlm and its kin give this to every session: setting "ready" is how their models answer.
ANSWER = {"content": "", "ready": False}

# Two cells of this session look at lines up to 1,300 of a transcript that was not recorded: so many lines without words
# let them run. They are not among the verified.
STANDS_IN = {"1771183692874-so6hjxyth": "\n" * 2000}

# The cell prints a text in which two lines hold three blanks and nothing else; its log lost them.
BLANKS_LOST = {("1771244185703-yxs4x7kl5", 9)}


def name_of(session: dict[str, Any]) -> str:
    """What tells a session from all others, without the outer folders of its log."""
    return "/".join(session["session"].rpartition("#")[2].split("/")[-5:])


def echo_of(code: str, run: Executed) -> str:
    """What a bare last expression shows here, after all that was printed.

    The systems that were recorded run a cell by `exec`, and show nothing of it.
    """
    last = ast.parse(code).body[-1:]
    if not last or not isinstance(last[0], ast.Expr) or run.value is None:
        return ""
    # a description of variables is shown as it is, without quotes
    return f"{run.value if ast.unparse(last[0]) == 'SHOW_VARS()' else repr(run.value)}\n"


def assert_as_recorded(name: str, cell: dict[str, Any], run: Executed) -> None:
    """The output is that of the record, but for what is said beside each exception."""
    expected = cell["expected_stdout"] or ""
    printed = run.stdout.removesuffix(echo_of(cell["cell"], run))
    if cell["source"].startswith("Abhigyan-Shekhar/rlm@"):
        # read out of a Markdown report, which ends without the last line's end
        printed = printed.removesuffix("\n")
    if (name, cell["i"]) in BLANKS_LOST:
        printed, expected = ("\n".join(map(str.rstrip, text.split("\n"))) for text in (printed, expected))
    assert printed == expected
    assert (run.stderr, run.truncated) == ("", 0)


def assert_error_as_recorded(cell: dict[str, Any], run: Executed) -> None:
    """A cell failed in the record if and only if it fails here, with the same last line."""
    last = run.error.splitlines()[-1] if run.error else ""
    # the logs write no error as null, as an empty text or as false
    assert last == (cell["error"] or "").strip(), run.error


@pytest.mark.parametrize("session", [pytest.param(session, id=name_of(session)) for session in SESSIONS])
async def test_a_recorded_session_runs_and_gives_its_recorded_output(
    session: dict[str, Any], recorded_counts: Counter[str]
) -> None:
    name = name_of(session)
    with anyio.fail_after(60):
        async with Sandbox() as sandbox:
            await sandbox.load(context=session["context"] or STANDS_IN.get(name), answer=ANSWER)
            for cell in session["cells"]:
                run = await sandbox.execute(cell["cell"])
                assert_error_as_recorded(cell, run)
                recorded_counts["cells"] += 1
                if cell["verified_pyodide_314_0_3"]:
                    assert_as_recorded(name, cell, run)
                    recorded_counts["with the output that was recorded"] += 1
    recorded_counts["sessions"] += 1


def test_the_record_has_not_shrunk() -> None:
    verified = sum(cell["verified_pyodide_314_0_3"] for cell in CELLS)
    assert (len(SESSIONS), len(CELLS), verified) == (30, 63, 57)
    assert sum(bool(cell["expected_stdout"]) for cell in CELLS if cell["verified_pyodide_314_0_3"]) == 29
    assert len({name_of(session) for session in SESSIONS}) == 30
