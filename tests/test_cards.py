"""Cards: what notebooks show of completions and of cells, whatever stands in them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.cards import card, dollars, text_of
from rlm_wasm.citations import Citation
from rlm_wasm.limits import Usage
from rlm_wasm.sandbox import Executed
from rlm_wasm.trajectory import Call, CellRun, Completion, Iteration, Trajectory

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m \u202e \ud800 \x00 '\"&"


class Elements(HTMLParser):
    """The elements of a card with the names of their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def executed(**parts: Any) -> Executed:
    plain: dict[str, Any] = {
        "stdout": "",
        "stderr": "",
        "output": "",
        "truncated": 0,
        "error": None,
        "value": None,
        "final": None,
        "has_final": False,
        "seconds": 0.25,
        "timed_out": False,
    }
    return Executed(**{**plain, **parts})


def completion(**parts: Any) -> Completion:
    plain: dict[str, Any] = {
        "question": "What is it?",
        "response": "It is 1.",
        "stopped_by": "final",
        "usage": Usage(calls=3, input_tokens=1234, output_tokens=56, usd=0.0123),
        "trajectory": (),
        "seconds": 4.56,
        "run": "run",
    }
    return Completion(**{**plain, **parts})


def test_a_completion_is_shown_with_its_answer_and_what_it_took() -> None:
    cited = (Citation("a", True), Citation("b", False))
    shown = Elements(completion(citations=cited)._repr_html_()).text
    for part in ("What is it?", "It is 1.", "stopped by final", "seconds 4.6", "model calls 3", "dollars $0.012"):
        assert part in shown
    assert "tokens 1,234 in, 56 out" in shown
    assert "citations 1 of 2 found in the context" in shown


def test_a_run_without_an_answer_shows_what_came_nearest() -> None:
    shown = Elements(completion(response=None, partial={"a": 1}, stopped_by="usd")._repr_html_()).text
    assert "no answer" in shown
    assert '"a": 1' in shown
    assert "stopped by usd" in shown


def test_a_trajectory_is_shown_with_the_code_and_the_outputs_of_its_last_iterations() -> None:
    made = [
        Iteration(
            number=number,
            reply="Let me look.",
            input_tokens=1,
            output_tokens=1,
            cells=(CellRun(code=f"look({number})", executed=None, output=HOSTILE, error="ValueError: no"),),
            calls=(Call(function="llm_query", model="m", prompt="p"),),
            observation=None,
        )
        for number in range(1, 31)
    ]
    shown = Elements(Trajectory(made)._repr_html_())
    assert "18 earlier iterations are not shown" in shown.text
    assert "look(18)" not in shown.text
    for words in (
        "iteration 19, 1 calls",
        "look(19)",
        "look(30)",
        "ValueError: no",
        "iterations 30",
        "calls of cells 30",
    ):
        assert words in shown.text
    assert {name for name, _ in shown.elements} == {"div", "span", "pre", "bdi"}
    assert "trajectory" in Trajectory()._repr_html_()


def test_a_cell_is_shown_with_its_output_error_and_answer() -> None:
    shown = Elements(executed(output="out", error="Traceback: no", final=[1], has_final=True)._repr_html_()).text
    for part in ("The cell failed", "out", "Traceback: no", "final", "1"):
        assert part in shown
    assert "The cell ran, and printed nothing" in Elements(executed()._repr_html_()).text
    assert "The cell ran out of time" in Elements(executed(timed_out=True, error="x")._repr_html_()).text


@given(st.text(st.characters()) | st.just(HOSTILE))
def test_no_text_becomes_markup_or_goes_unseen(text: str) -> None:
    parts = {"question": text, "response": text, "citations": ()}
    for made, plain in (
        (completion(**parts)._repr_html_(), completion()._repr_html_()),
        (
            executed(output=text + "x", error=text, lost=(text,))._repr_html_(),
            executed(output="x", error="x", lost=("x",))._repr_html_(),
        ),
        (card(text, {text: text}, [(text + "x", text)]), card("x", {"x": "x"}, [("x", "x")])),
    ):
        made.encode()
        assert Elements(made).elements == Elements(plain).elements
        assert not set("\x00\x1b\x9b\u202e\u2066\u2028\ufeff") & set(made)


def test_a_card_is_small_whatever_it_shows() -> None:
    made = completion(question="q" * 10**6, response="<" * 10**6)._repr_html_()
    assert len(made) < 4 * 4000 + 3000
    assert "996,000 characters more" in made


def test_a_card_has_neither_scripts_nor_links_nor_colours_of_its_own() -> None:
    made = completion()._repr_html_()
    assert {name for name, _ in Elements(made).elements} <= {"div", "span", "bdi", "pre"}
    assert {attribute for _, attributes in Elements(made).elements for attribute in attributes} <= {"style", "class"}
    assert "color:#" not in made


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, None]}, '{\n  "a": [\n    1,\n    null\n  ]\n}'),
        ([Point(1)], '[\n  {\n    "x": 1\n  }\n]'),
        ([b"ab"], "[\n  \"b'ab'\"\n]"),
        ({1: {2}}, '{\n  "1": [\n    2\n  ]\n}'),
        (10**5000, "(a int that cannot be shown: ValueError)"),
        (Unshowable(), "(a Unshowable that cannot be shown: RuntimeError)"),
    ],
    ids=range(7),
)
def test_a_value_of_any_type_becomes_text(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_value_deeper_than_the_stack_becomes_text() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert text_of(deep)


def test_dollars_have_digits_that_say_something() -> None:
    assert [dollars(usd) for usd in (None, 0.0, 0.00012, 0.0123, 1.5, 1234.567)] == [
        "unknown",
        "$0.00",
        "$0.00012",
        "$0.012",
        "$1.50",
        "$1234.57",
    ]
