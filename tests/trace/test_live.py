"""The live view on a terminal: what stands there, that nothing else is touched, and how it degrades."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

import rlm_wasm
from rlm_wasm import RLM, LiveView, Reply, ScriptedClient
from rlm_wasm.events import (
    BudgetSpent,
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    IterationFinished,
    IterationStarted,
    RootReplied,
    RootStreamed,
    RunStarted,
    RunStopped,
)
from rlm_wasm.trace import live
from rlm_wasm.trace.drawing import Picture
from rlm_wasm.trace.tree import Tree
from tests.terminal import Pty, Terminal
from tests.trace.test_tree import HOSTILE

STARTED = RunStarted(question="How many?", context="`context` is a str", model="m", sub_model="s")
STOPPED = RunStopped(
    stopped_by="final", calls=3, input_tokens=3000, output_tokens=30, usd=None, seconds=2.0, response="the answer"
)


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal of these tests can move its cursor, and is free, whatever the tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "_terminal", threading.Lock())


def screen(columns: int = 80, rows: int = 24, **given: Any) -> Console:
    """A console that keeps what is written to it."""
    return Console(file=io.StringIO(), force_terminal=True, width=columns, height=rows, **given)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def on_terminal(console: Console) -> Terminal:
    """What a terminal shows that has got everything so far; that nothing is wider than it is looked at here."""
    terminal = Terminal(console.width, console.height)
    # a terminal begins a new line at the left
    terminal.write(written(console).replace("\n", "\r\n"))
    assert terminal.wrapped == 0
    assert not terminal.cursor_hidden
    return terminal


def tell(view: LiveView, *events: Event, run: str = "root", iteration: int = 1) -> None:
    for event in events:
        view(msgspec.structs.replace(event, run=run, iteration=iteration))


def refresh(view: LiveView) -> None:
    """Draw now, and not when the clock says so."""
    assert view._live is not None
    view._live.refresh()


def iteration(code: str, output: str) -> list[Event]:
    return [
        IterationStarted(),
        RootReplied(text=code, input_tokens=1, output_tokens=1, seconds=1.0),
        CellStarted(code=code),
        CellFinished(output=output, error=None, seconds=0.5, truncated=0),
        IterationFinished(seconds=1.5),
    ]


def test_the_last_picture_stays_and_the_cursor_stands_under_it() -> None:
    console = screen()
    view = LiveView(console=console)
    tell(view, STARTED, *iteration("look()\nagain()", "seen\n"))
    refresh(view)
    assert on_terminal(console).shown[2].split() == ["1", "look()", "(+1", "line)", "1.5", "s"]
    tell(view, STOPPED)
    terminal = on_terminal(console)
    assert terminal.shown[-2:] == [
        "\u2192 the answer",
        "stopped by final  2.0 s  3 calls  3,000 tokens in, 30 out  price unknown",
    ]
    assert (terminal.row, terminal.column) == (len(terminal.shown), 0)
    assert terminal.everything.count("How many?") == 1


def test_while_a_run_is_on_the_cursor_is_visible_on_an_empty_row() -> None:
    console = screen()
    view = LiveView(console=console)
    tell(view, STARTED, CellStarted(code="x"))
    refresh(view)
    terminal = on_terminal(console)
    assert (terminal.row, terminal.column) == (len(terminal.shown), 0)
    view.close()


@pytest.mark.parametrize("columns", [40, 41, 60, 100, 200])
@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_is_wider_than_the_window_or_taller(columns: int, hostile: str) -> None:
    console = screen(columns, 6 if columns in (41, 100) else 24)
    view = LiveView(console=console)
    told = msgspec.structs.replace(STARTED, question=hostile, context=hostile, model=hostile)
    tell(view, told)
    spent = BudgetSpent(
        calls=10**9, input_tokens=10**12, output_tokens=10**12, usd=1e6, left={"usd_left": 1e9, "calls_left": 10**9}
    )
    for number in range(1, 8):
        tell(view, *iteration(hostile, hostile), spent, iteration=number)
        tell(view, CallStarted(call=number, function="llm_query", model="s", prompt=hostile, of=10_000))
    refresh(view)
    refresh(view)
    assert on_terminal(console).above == []
    tell(view, msgspec.structs.replace(STOPPED, response=hostile))
    assert on_terminal(console).above == []


def test_markup_of_a_model_is_text() -> None:
    console = screen()
    view = LiveView(console=console)
    tell(view, STARTED, *iteration("print('[bold red]x[/] :smile:')", "[link=a]b[/link]"), STOPPED)
    assert "[bold red]x[/] :smile:" in on_terminal(console).everything
    assert "[link=a]b[/link]" in on_terminal(console).everything


def test_two_runs_at_once_are_drawn_together_and_each_stays_when_it_ends() -> None:
    console = screen()
    view = LiveView(console=console)
    for run in ("one", "two"):
        tell(view, msgspec.structs.replace(STARTED, question=f"question {run}"), *iteration(f"{run}()", ""), run=run)
    refresh(view)
    assert [row for row in on_terminal(console).shown if "question" in row] == ["question one", "question two"]
    tell(view, STOPPED, run="one")
    assert view._live is not None
    refresh(view)
    tell(view, STOPPED, run="two")
    assert view._live is None
    everything = on_terminal(console).everything
    assert [everything.count(f"question {run}") for run in ("one", "two")] == [1, 1]
    assert everything.count("stopped by final") == 2


def test_one_run_after_the_other_is_drawn_under_it() -> None:
    console = screen()
    view = LiveView(console=console)
    for run in ("one", "two"):
        tell(view, msgspec.structs.replace(STARTED, question=f"question {run}"), STOPPED, run=run)
    everything = on_terminal(console).everything
    assert everything.index("question one") < everything.index("stopped by") < everything.index("question two")


def test_as_a_context_manager_it_ends_what_was_not_ended() -> None:
    console = screen()
    with LiveView(console=console) as view:
        tell(view, STARTED, CellStarted(code="x"))
    assert view._live is None
    # and can begin again
    tell(view, STARTED, STOPPED)
    assert "stopped by final" in on_terminal(console).everything


def test_thousands_of_calls_cost_no_more_drawings_than_the_clock_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    rows = Picture.rows
    monkeypatch.setattr(Picture, "rows", lambda picture, roots: drawn.append(1) or rows(picture, roots))
    console = screen()
    view = LiveView(console=console)
    tell(view, STARTED, CellStarted(code="llm_query_batched(prompts)"))
    for number in range(5000):
        tell(view, CallStarted(call=number, function="llm_query", model="s", prompt="p", of=5000))
        tell(view, CallFinished(call=number, reply="r", error=None, input_tokens=1, output_tokens=1, seconds=0.1))
    refresh(view)
    assert "5,000/5,000" in on_terminal(console).everything
    tell(view, STOPPED)
    # ten thousand events: with a drawing for each, or for one in a hundred, it would be more
    assert len(drawn) < 100


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = {str(number) for number in (*range(30, 38), *range(90, 98), 38)}
    told = [STARTED, *iteration("x", "y"), STOPPED]
    tell(LiveView(console=(with_colour := screen())), *told)
    assert on_terminal(with_colour).styles & colours
    monkeypatch.setenv("NO_COLOR", "1")
    tell(LiveView(console=(without := screen())), *told)
    assert not on_terminal(without).styles & colours


def test_where_the_encoding_has_no_more_than_ascii_the_signs_are_plain() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, "ascii", "backslashreplace"), force_terminal=True, width=60, height=20)
    tell(LiveView(console=console), STARTED, *iteration("x" * 200, "\u8a9e" * 200), STOPPED)
    console.file.flush()
    terminal = Terminal(60, 20)
    terminal.write(raw.getvalue().decode("ascii").replace("\n", "\r\n"))
    assert terminal.wrapped == 0
    assert "=> the answer" in terminal.shown
    assert "xxx..." in terminal.everything
    assert "\\u8a9e\\u8a9e" in terminal.everything
    assert "\\u2" not in terminal.everything


def test_a_second_view_at_the_same_time_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    first = LiveView(console=screen())
    tell(first, STARTED)
    second = LiveView(console=screen())
    tell(second, STARTED, STOPPED)
    assert "stopped by final" in capsys.readouterr().err
    tell(first, STOPPED)


# --- where there is no terminal, or no rich ------------------------------------------------------------------------


class Tty(io.StringIO):
    """Says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def be_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tty]:
    """Makes stderr a terminal; called by the test itself, since a fixture's stderr is not the test's."""

    def replace() -> Tty:
        monkeypatch.setattr(sys, "stderr", terminal := Tty())
        return terminal

    return replace


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = LiveView()
    tell(view, STARTED, *iteration("look()", "\x1b[2Jseen"), STOPPED)
    tell(view, STARTED, STOPPED)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run: m (sub model s); `context` is a str"
    assert "[1] code: look()" in lines
    assert "[1] output (0.50 s): \\x1b[2Jseen" in lines
    assert sum(line.startswith("stopped by final") for line in lines) == 2


@pytest.mark.parametrize("name", ["dumb", "DUMB", "unknown"])
def test_a_terminal_that_can_do_nothing_gets_lines(
    be_terminal: Callable[[], Tty], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TERM", name)
    stderr = be_terminal()
    tell(LiveView(), STARTED, *iteration("look()", "seen"), STOPPED)
    assert "[1] code: look()\n" in stderr.getvalue()
    assert "\x1b" not in stderr.getvalue()


def test_a_terminal_gets_the_picture(be_terminal: Callable[[], Tty]) -> None:
    stderr, stdout = be_terminal(), sys.stdout
    view = LiveView()
    tell(view, STARTED, *iteration("look()", "seen"))
    sys.stderr.write("said meanwhile\n")
    assert sys.stdout is stdout
    tell(view, STOPPED)
    assert sys.stderr is stderr
    terminal = Terminal(80, 24)
    terminal.write(stderr.getvalue().replace("\n", "\r\n"))
    # above the picture, which stays whole
    assert terminal.shown[0] == "said meanwhile"
    assert terminal.everything.count("look()") == 1


def test_where_rich_is_missing_it_is_said_once(be_terminal: Callable[[], Tty], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    stderr = be_terminal()
    view = LiveView()
    tell(view, STARTED, *iteration("look()", "seen"), STOPPED)
    tell(view, STARTED, STOPPED)
    assert stderr.getvalue().count("pip install 'rlm-wasm[rich]'") == 1
    assert stderr.getvalue().count("stopped by final") == 2


# --- in a program --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from rlm_wasm import RLM, LiveView, ScriptedClient

replies = {replies}
sub = ScriptedClient(rules={{"": "a reply"}}, model="sub")
done = RLM(ScriptedClient(replies, model="root"), sub_model=sub, listeners=[LiveView()]).completion("How many?")
print(done.response)
"""


def start(replies: list[str], *, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    environment = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(Path(rlm_wasm.__file__).parent.parent), "TERM": "xterm-256color"}
    program = PROGRAM.format(replies=replies)
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )


def test_a_run_is_drawn_on_stderr_and_stdout_has_the_answer_alone(pty: Pty) -> None:
    replies = ["```repl\nprint(llm_query('What?'))\n```", "```repl\nFINAL('the answer')\n```"]
    process = start(replies, stdout=subprocess.PIPE, stderr=pty.theirs)
    os.close(pty.theirs)
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, b"the answer\n")
    terminal = pty.ended()
    assert terminal.frames > 0
    assert not terminal.cursor_hidden
    assert "\u2192 the answer" in terminal.shown
    assert terminal.shown[-1].startswith("stopped by final")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["SIGINT", "SIGTERM", "SIGKILL"]
)
def test_a_program_that_is_ended_leaves_the_terminal_sane(pty: Pty, number: signal.Signals) -> None:
    process = start(["```repl\nprint('begun')\nwhile True: pass\n```"], stdout=subprocess.DEVNULL, stderr=pty.theirs)
    os.close(pty.theirs)
    try:
        assert pty.seen("running")
        process.send_signal(number)
        process.wait(timeout=60)
    finally:
        process.kill()
    terminal = pty.ended()
    assert not terminal.cursor_hidden
    assert terminal.column == 0
    assert "How many?" in terminal.everything
    # and it is left in no colour
    assert re.findall(rb"\x1b\[([0-9;]*)m", pty.read)[-1:] in ([b"0"], [])


def test_a_view_listens_to_a_run_of_children() -> None:
    console = screen(100, 40)
    root = [
        "```repl\nprint(rlm_query('And here?', 'text'))\n```",
        "```repl\nFINAL('inside')\n```",
        "```repl\nFINAL(2)\n```",
    ]
    done = RLM(ScriptedClient(root, model="root"), listeners=[LiveView(console=console)]).completion("How many?")
    assert done.response == 2
    terminal = on_terminal(console)
    assert any("rlm_query" in row and "inside" in row for row in terminal.shown)
    assert terminal.shown[-2] == "\u2192 2"


class Streaming(ScriptedClient):
    """Tells its replies in pieces to whoever asks for them."""

    async def complete(self, messages: Any, *, on_text: Any = None, **given: Any) -> Reply:
        reply = await super().complete(messages)
        if on_text is not None:
            for piece in ("begun", None, *reply.text.splitlines(keepends=True)):
                on_text(piece)
        return reply


class Plain:
    """A client that cannot stream."""

    model = "plain"

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
        return Reply("```repl\nFINAL(1)\n```", 1, 1)


def test_for_its_sake_a_client_is_asked_to_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    add = Tree.add
    monkeypatch.setattr(Tree, "add", lambda tree, event: heard.append(event) or add(tree, event))
    code = "```repl\nFINAL(1)\n```"
    rlm = RLM(Streaming([code], model="root"), listeners=[LiveView(console=screen())])
    assert rlm.completion("How many?").response == 1
    assert [event.text for event in heard if isinstance(event, RootStreamed)] == ["begun", None, *code.splitlines(True)]


def test_clients_are_not_asked_to_stream_for_lines_or_if_they_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Event] = []
    view = LiveView()
    assert not view.hears_pieces
    rlm = RLM(Streaming(["```repl\nFINAL(1)\n```"], model="root"), listeners=[view, heard.append])
    assert rlm.completion("How many?").response == 1
    assert RLM(Plain(), listeners=[LiveView(console=screen()), heard.append]).completion("How many?").response == 1
    assert not any(isinstance(event, RootStreamed) for event in heard)
    assert "stopped by final" in capsys.readouterr().err
