"""Notebooks, executed by a real kernel: completions are shown, progress changes in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from rlm_wasm.events import BudgetSpent, CallFinished, CallStarted, Event, RunStarted, RunStopped
from rlm_wasm.trace import notebook
from rlm_wasm.trace.notebook import NotebookProgress
from tests.trace.made import Made

ROOT = Path(__file__).parents[2]
CELLS = [
    "from rlm_wasm import RLM, ScriptedClient\nfrom rlm_wasm.trace.notebook import NotebookProgress\n"
    "ask = '```repl\\nparts = llm_query_batched([\"Shout \" + word for word in context.split()])\\n```'\n"
    "client = ScriptedClient([ask, '```repl\\nFINAL(parts)\\n```'], {'Shout': lambda text: text[6:].upper()})\n"
    "rlm = RLM(client, listeners=[NotebookProgress(every=0.0)])",
    "import asyncio\nasyncio.get_running_loop()\ndone = rlm.completion('What <b>do</b> they say?', context='one two')",
    "done",
    "from rlm_wasm import Sandbox\n"
    "async with Sandbox() as sandbox:\n    run = await sandbox.execute('print(1 + 1)')\nrun",
]


def execute(cells: list[str]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The outputs of each cell, and the messages that came while they ran."""
    import nbformat
    from nbclient import NotebookClient

    messages: list[dict[str, Any]] = []

    class Hearing(NotebookClient):
        def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
            messages.append({"cell": cell_index, "type": msg["msg_type"], **msg["content"]})
            return super().process_message(msg, cell, cell_index)

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = Hearing(made, timeout=180, startup_timeout=120, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    return [cell["outputs"] for cell in made["cells"]], messages


@pytest.fixture(scope="module")
def executed() -> tuple[list[Any], list[dict[str, Any]]]:
    return execute(CELLS)


def test_a_completion_is_shown_as_html_in_a_notebook(executed: tuple[list[Any], list[dict[str, Any]]]) -> None:
    (shown,) = executed[0][2]
    assert "What &lt;b&gt;do&lt;/b&gt; they say?" in shown["data"]["text/html"]
    assert "&quot;ONE&quot;" in shown["data"]["text/html"]
    assert "Completion(" in shown["data"]["text/plain"]


def test_a_cell_of_the_sandbox_is_shown_as_html_in_a_notebook(executed: tuple[list[Any], list[dict[str, Any]]]) -> None:
    (shown,) = executed[0][3]
    assert ">2\n</pre>" in shown["data"]["text/html"]


def test_progress_changes_in_place_in_the_cell_that_runs(executed: tuple[list[Any], list[dict[str, Any]]]) -> None:
    outputs, messages = executed
    assert outputs[0] == []
    (shown,) = outputs[1]
    assert shown["output_type"] == "display_data"
    assert "stopped by final" in shown["data"]["text/html"]
    first = [message for message in messages if message["type"] == "display_data"]
    updates = [message for message in messages if message["type"] == "update_display_data"]
    assert len(first) == 1
    assert len(updates) > 5
    assert {message["transient"]["display_id"] for message in updates} == {first[0]["transient"]["display_id"]}
    plain = [message["data"]["text/plain"] for message in updates]
    assert any("asking the root model" in text for text in plain)
    assert any("running a cell, 2 calls under way" in text for text in plain)
    assert plain[-1] == "What <b>do</b> they say?: stopped by final"


class Handle:
    """Stands in for IPython's: keeps what it is given to show."""

    made: ClassVar[list[list[str]]] = []

    def __init__(self) -> None:
        self.shown: list[str] = []
        Handle.made.append(self.shown)

    def display(self, said: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(said["text/html"])

    update = display


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr("IPython.display.DisplayHandle", Handle)
    monkeypatch.setattr(Handle, "made", [])
    return Handle.made


def tell(progress: NotebookProgress, events: list[Event]) -> None:
    for event in events:
        progress(event)


def test_two_runs_at_once_have_places_of_their_own_and_children_none(handles: list[list[str]]) -> None:
    progress = NotebookProgress(every=0.0)
    for kind in (RunStarted, BudgetSpent, RunStopped):
        for run in ("one", "two"):
            if kind is RunStarted:
                progress(RunStarted(question=f"Question {run}", context="", model="m", sub_model="m", run=run))
                progress(
                    RunStarted(
                        question="Child", context="", model="m", sub_model="m", run=f"{run}c", parent=run, depth=1
                    )
                )
            elif kind is BudgetSpent:
                progress(BudgetSpent(calls=7, input_tokens=5, output_tokens=6, usd=0.5, left={}, run=f"{run}c"))
            else:
                stopped = {"stopped_by": "final", "calls": 8, "input_tokens": 5, "output_tokens": 6, "seconds": 1.0}
                progress(RunStopped(usd=None, run=run, **stopped))
    assert len(handles) == 2
    for run, shown in zip(("one", "two"), handles, strict=True):
        assert all(f"Question {run}" in text for text in shown)
        assert "child runs" in shown[-1]
        assert "stopped by final" in shown[-1]
    # it is forgotten, and may run again
    assert progress._shown == {}


def test_a_place_changes_no_more_often_than_it_should_but_at_the_end(handles: list[list[str]]) -> None:
    now = [0.0]
    progress = NotebookProgress(every=1.0, clock=lambda: now[0])
    made = Made("Quick?")
    made.reply("```repl\n1\n```")
    made.cell("<script>1</script>")
    for _ in range(500):
        made.call("p", "r", begin=0, seconds=1)
    made.ran("x", observation="x")
    made.stop("Yes.")
    events = iter(made.events)
    for event in events:
        progress(event)
        if isinstance(event, CallStarted | CallFinished):
            now[0] += 0.01
    (shown,) = handles
    assert 10 <= len(shown) <= 13
    assert "stopped by final" in shown[-1]
    assert "<script>" not in shown[-1]
    assert "&lt;script&gt;" in shown[-1]


def test_without_ipython_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"rlm-wasm\[notebook\]"):
        NotebookProgress()
