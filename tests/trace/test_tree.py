"""What the live view knows of runs, and the picture that is made of it: folded to the window, escaped, bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rlm_wasm.events import (
    BudgetSpent,
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    FunctionCalled,
    HistoryShortened,
    IterationFinished,
    IterationStarted,
    Printed,
    RootAsked,
    RootReplied,
    RootStreamed,
    RunStarted,
    RunStopped,
    SandboxReplaced,
)
from rlm_wasm.trace.drawing import Picture, Row
from rlm_wasm.trace.lines import described
from rlm_wasm.trace.tree import Tree

# what a model, a cell or a corpus may put into a text
HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07\x9b0m",
    "\u202egnp.exe\u2066\u200b",
    "[bold red]markup[/] :smile: [link=file:///]x[/link]",
    "tab\ttab\r\nback\x08\x7f\x0c\x85\u2028end",
    "\ud800 half",
    "\u8a9e" * 3000,
    "x" * 1_000_000,
    "\n" * 5000 + "far down",
    "Z" + "\u0301" * 500,
    "\u2764\ufe0f" * 300 + "\U0001f44d\U0001f3fd" * 300,
    "\U0001f1e9\U0001f1ea" * 200,
]


class Feed:
    """Events of a run, in the order in which they are given; the clock stands still but for `seconds`."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.tree = Tree(lambda: self.seconds)

    def add(self, *events: Event, run: str = "root", iteration: int = 1, parent: str | None = None) -> None:
        for event in events:
            self.tree.add(msgspec.structs.replace(event, run=run, iteration=iteration, parent=parent))

    def begin(self, run: str = "root", parent: str | None = None, call: int | None = None, **given: Any) -> None:
        told: dict[str, Any] = {"question": f"What of {run}?", "context": "a str", "model": "m", "sub_model": "s"}
        told |= given
        self.add(RunStarted(call=call, **told), run=run, parent=parent, iteration=0)

    def iterate(self, number: int, code: str, output: str = "", run: str = "root", error: str | None = None) -> None:
        self.add(
            IterationStarted(),
            RootAsked(same=0, messages=()),
            RootReplied(text=code, input_tokens=1, output_tokens=1, seconds=1.0),
            CellStarted(code=code, cell=number),
            CellFinished(output=output, error=error, seconds=0.5, truncated=0),
            IterationFinished(seconds=1.5, observation=output),
            iteration=number,
            run=run,
        )

    def picture(self, width: int = 100, height: int = 40) -> list[str]:
        rows = Picture(width, height, self.seconds).rows(list(self.tree.roots.values()))
        assert len(rows) <= height
        return [text(row) for row in rows]


def text(row: Row) -> str:
    return "".join(span.text for span in row.spans) + (f"  {row.right}" if row.right else "")


@pytest.fixture
def feed() -> Feed:
    feed = Feed()
    feed.begin()
    return feed


def stopped(**given: Any) -> RunStopped:
    told = {"stopped_by": "final", "calls": 3, "input_tokens": 3000, "output_tokens": 30, "usd": None, "seconds": 2.0}
    return RunStopped(**(told | given))


def test_code_is_shown_as_it_is_written_and_what_is_void_goes(feed: Feed) -> None:
    feed.add(IterationStarted(), RootAsked(same=0, messages=()))
    assert "asking" in feed.picture()[2]
    feed.add(RootStreamed(text="I begin\npri"), RootStreamed(text="nt(1)"))
    assert "writing" in feed.picture()[2]
    assert [row.strip() for row in feed.picture()[3:5]] == ["I begin", "print(1)"]
    feed.add(RootStreamed(text=None), RootStreamed(text="again"))
    assert "print(1)" not in "\n".join(feed.picture())
    assert feed.picture()[3].strip() == "again"
    feed.add(RootReplied(text="again", input_tokens=1, output_tokens=1, seconds=1.0), CellStarted(code="print(2)"))
    assert "running" in feed.picture()[2]
    assert feed.picture()[3].strip() == "print(2)"


def test_output_is_shown_while_a_cell_prints_and_folded_when_it_is_over(feed: Feed) -> None:
    feed.add(CellStarted(code="look()\nagain()"), *(Printed(stream="stdout", text=f"line {n}\n") for n in range(40)))
    assert any(row.strip() == "line 39" for row in feed.picture())
    feed.add(CellFinished(output="line 0\nline 1\n", error=None, seconds=0.1, truncated=0))
    feed.add(IterationFinished(seconds=0.2))
    feed.add(IterationStarted(), iteration=2)
    assert feed.picture()[2:4] == ["  1 look()  (+1 line)  0.2 s", "    line 0  (+1 line)"]


def test_an_error_is_shown_by_its_last_line(feed: Feed) -> None:
    feed.iterate(1, "boom()", error="Traceback (most recent call last):\n  ...\nValueError: no")
    feed.add(IterationStarted(), iteration=2)
    assert feed.picture()[3].strip() == "ValueError: no"


def test_a_lost_sandbox_and_shortened_messages_are_told(feed: Feed) -> None:
    shortened = HistoryShortened(way="cut", tokens_before=9000, tokens_after=4000)
    feed.add(IterationStarted(), shortened)
    assert feed.picture()[3].strip() == described(shortened)[4:] == "messages cut: 9,000 tokens to 4,000"
    feed.add(CellStarted(code="x"), SandboxReplaced(reason="it crashed\nsaying much", lost=()))
    assert any(row.strip().startswith("sandbox replaced: it crashed") for row in feed.picture())


def test_a_batch_has_a_bar_that_fills(feed: Feed) -> None:
    feed.add(CellStarted(code="ask()"))
    for number in range(1, 11):
        feed.add(CallStarted(call=number, function="llm_query", model="s", prompt=f"p{number}", of=40))
    for number in range(1, 8):
        error = "ClientError" if number == 3 else None
        feed.add(
            CallFinished(call=number, reply=f"r{number}", error=error, input_tokens=1, output_tokens=1, seconds=1.0)
        )
    row = next(row for row in feed.picture() if "llm_query" in row)
    assert "7/40, 3 under way 1 failed  r7" in row
    assert row.count("\u2501") == 25 * 7 // 40


def test_batches_of_one_size_one_after_the_other_are_told_apart(feed: Feed) -> None:
    feed.add(CellStarted(code="ask()"))
    for number in range(1, 5):
        feed.add(CallStarted(call=number, function="llm_query", model="s", prompt="p", of=2))
        feed.add(CallFinished(call=number, reply="r", error=None, input_tokens=1, output_tokens=1, seconds=1.0))
    assert sum("2/2" in row for row in feed.picture()) == 2


def test_single_calls_and_host_functions_are_counted(feed: Feed) -> None:
    feed.add(CellStarted(code="ask()"))
    for number in range(1, 4):
        feed.add(CallStarted(call=number, function="llm_query", model="s", prompt=f"p{number}"))
        feed.add(FunctionCalled(function="lookup", arguments=(), error="no such key" if number == 2 else None))
    feed.add(CallFinished(call=2, reply="two", error=None, input_tokens=1, output_tokens=1, seconds=1.0))
    picture = "\n".join(feed.picture())
    assert "llm_query 1 done, 2 under way  two" in picture
    assert "lookup 3 done 1 failed" in picture


def test_children_stand_under_their_call_until_it_ends(feed: Feed) -> None:
    feed.add(CellStarted(code="rlm_query_batched(qs)"))
    for number in (1, 2):
        feed.add(CallStarted(call=number, function="rlm_query", model="m", prompt="q"))
        feed.begin(f"child{number}", parent="root", call=number)
        feed.add(CellStarted(code=f"look_{number}()"), run=f"child{number}", parent="root")
    picture = feed.picture()
    call = next(n for n, row in enumerate(picture) if "rlm_query" in row and "under way" in row)
    assert "\u2502 What of child1?" in picture[call + 1]
    assert any("\u2502 " in row and "look_2()" in row for row in picture[call:])
    feed.add(stopped(response="small"), run="child1", parent="root")
    feed.add(CallFinished(call=1, reply="small", error=None, input_tokens=1, output_tokens=1, seconds=1.0))
    assert "child1" not in "\n".join(feed.picture())
    assert "child2" in "\n".join(feed.picture())


def test_the_status_says_what_was_spent_and_what_is_left(feed: Feed) -> None:
    left = {"calls_left": 493, "tokens_left": None, "usd_left": 0.25, "seconds_left": 60.0}
    feed.add(BudgetSpent(calls=7, input_tokens=6030, output_tokens=496, usd=0.0123, left=left))
    feed.seconds += 10
    assert feed.picture()[-1] == (
        "10.0 s  7 calls  6,030 tokens in, 496 out  0.0123 USD  50 s left  0.2500 USD left  493 calls left"
    )
    assert [len(row) <= 40 for row in feed.picture(width=40)[-3:]] == [True] * 3
    assert "493 calls left" in "".join(feed.picture(width=40)[-3:])


def test_what_a_child_spends_is_in_the_status_of_its_root(feed: Feed) -> None:
    feed.add(CellStarted(code="x"), CallStarted(call=1, function="rlm_query", model="m", prompt="q"))
    feed.begin("child", parent="root", call=1)
    feed.add(BudgetSpent(calls=9, input_tokens=1, output_tokens=1, usd=0.5, left={}), run="child", parent="root")
    assert "9 calls" in feed.picture()[-1]


def test_a_run_ends_with_its_answer_or_with_what_it_failed_of(feed: Feed) -> None:
    feed.iterate(1, "FINAL(3)")
    feed.begin("other")
    feed.add(stopped(response={"a": 3}))
    feed.add(stopped(stopped_by="errors", failure="ClientError: refused\nmore", usd=0.5), run="other")
    picture = feed.picture()
    assert "\u2192 {'a': 3}" in picture
    assert "ClientError: refused  (+1 line)" in picture
    assert sum(row.startswith("stopped by ") for row in picture) == 2


@pytest.mark.parametrize("height", [4, 5, 8, 12, 24, 60])
@pytest.mark.parametrize("under_way", [True, False])
def test_old_iterations_fold_until_the_picture_fits(feed: Feed, height: int, under_way: bool) -> None:
    for number in range(1, 301):
        feed.iterate(number, f"step_{number}()\n" * 30, "out\n" * 30)
    if under_way:
        feed.add(CellStarted(code="now()\n" * 50), iteration=301)
    else:
        feed.add(stopped(response="done"))
    picture = feed.picture(height=height)
    assert picture[0] == "What of root?"
    assert ("s" if under_way else "stopped by final") in picture[-1]
    if height >= 8:
        assert any("now()" in row if under_way else "done" in row for row in picture)
        assert any("earlier iterations" in row or "rows" in row for row in picture)


def test_many_runs_at_once_share_the_window(feed: Feed) -> None:
    for number in range(30):
        feed.begin(f"r{number}")
        feed.add(CellStarted(code="x\n" * 20), run=f"r{number}")
    for height in (4, 10, 24):
        picture = feed.picture(height=height)
        assert "more runs" in picture[0]
        assert any("What of r29?" in row for row in picture)


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_drives_the_terminal_or_fills_it(feed: Feed, hostile: str) -> None:
    feed.begin(hostile[:50], question=hostile, context=hostile, model=hostile, sub_model=hostile)
    feed.add(IterationStarted(), RootStreamed(text=hostile))
    for run in ("root", hostile[:50]):
        feed.add(CellStarted(code=hostile), Printed(stream="stdout", text=hostile), run=run)
        feed.add(CallStarted(call=1, function="llm_query", model=hostile, prompt=hostile), run=run)
        feed.add(SandboxReplaced(reason=hostile, lost=()), run=run)
        for row in feed.picture():
            assert row.isprintable()
            assert len(row) < 5000
        feed.add(CallFinished(call=1, reply="", error=hostile, input_tokens=1, output_tokens=1, seconds=1.0), run=run)
        feed.add(CellFinished(output=hostile, error=hostile, seconds=0.5, truncated=0), run=run)
        feed.add(IterationFinished(seconds=1.0), run=run)
        feed.add(stopped(response=hostile, failure=hostile, stopped_by=hostile), run=run)
        assert all(row.isprintable() for row in feed.picture())


def test_what_is_kept_is_bounded_whatever_a_run_does(feed: Feed) -> None:
    for number in range(1, 5001):
        feed.add(CellStarted(code="x" * 100_000), iteration=1 + number // 10)
        feed.add(RootStreamed(text="y" * 5000), Printed(stream="stdout", text="z" * 5000), iteration=1 + number // 10)
        for function in ("llm_query", f"own_{number}"):
            feed.add(CallStarted(call=number, function=function, model="s", prompt="p" * 50_000), iteration=1)
            feed.add(
                CallFinished(call=number, reply="r" * 50_000, error=None, input_tokens=1, output_tokens=1, seconds=1.0)
            )
    root = feed.tree.roots["root"]
    assert len(root.steps) <= 100
    assert root.open_calls == {}
    texts = [step.written for step in root.steps] + [cell.code for step in root.steps for cell in step.cells]
    assert max(map(len, texts)) <= 12_000
    assert max(len(step.cells) for step in root.steps) <= 12
    assert max(len(cell.calls) for step in root.steps for cell in step.cells) <= 12


def test_a_run_whose_beginning_was_not_heard_is_passed_over() -> None:
    feed = Feed()
    feed.add(CellStarted(code="x"), stopped())
    feed.begin("child", parent="nobody", call=1)
    assert feed.tree.roots == {}
    assert feed.picture() == []
