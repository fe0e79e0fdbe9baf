"""Every word that a model is told: what must be in it, and what must not."""

from __future__ import annotations

import json

import pytest

from rlm_wasm import prompts
from rlm_wasm.parsing import parse


def system(**given: object) -> str:
    chosen: dict[str, object] = {
        "output_chars": 12_345,
        "timeout": 7.5,
        "recursion": True,
        "functions": {},
        "schema": None,
    }
    return prompts.system(**(chosen | given))  # pyright: ignore[reportArgumentType]


def test_the_system_message_names_all_that_there_is_and_the_figures_of_the_sandbox() -> None:
    text = system()
    names = ("context", "llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched", "budget", "SHOW_VARS")
    for name in (*names, "FINAL"):
        assert f"`{name}" in text
    assert "12,345 characters" in text
    assert "7.5 seconds" in text
    assert "```repl" in text


def test_children_are_named_only_where_there_are_some() -> None:
    assert "rlm_query" not in system(recursion=False)
    assert "\n\n- `budget" not in system(recursion=False)


def test_own_functions_are_listed_by_name_and_first_line() -> None:
    text = system(functions={"lookup(name)": "  Finds {somebody}.\nAt length.", "bare()": ""})
    assert "\n- `lookup(name)`: Finds {somebody}.\n" in text
    assert "At length" not in text
    assert "\n- `bare()`: a function of the caller's\n" in text


def test_a_schema_is_given_whole() -> None:
    schema = json.dumps({"type": "array", "items": {"$ref": "#/$defs/Launch"}})
    assert system(schema=schema).endswith(f"must fit this JSON Schema:\n{schema}\n")
    assert "JSON Schema" not in system()


def test_the_first_messages_hold_question_and_description() -> None:
    opening = prompts.first("the rules", "How {many}?", "`context` is a str")
    assert [message.role for message in opening] == ["system", "user"]
    assert opening[0].content == "the rules"
    assert opening[1].content.startswith("Question: How {many}?\n\n")
    assert "`context` is a str" in opening[1].content


def test_a_sub_prompt_is_the_question_over_the_text() -> None:
    assert prompts.sub_prompt("Why?", "because") == "Why?\n\nbecause"
    assert prompts.sub_prompt("Why?", "") == "Why?"


@pytest.mark.parametrize(
    ("output", "error", "shown"),
    [
        ("one\n\n", None, "REPL output:\none"),
        ("", None, "REPL output:\n(nothing was printed)"),
        (" \n", None, "REPL output:\n(nothing was printed)"),
        ("one\n", "Traceback: no", "REPL output:\none\nTraceback: no"),
        ("", "Traceback: no", "REPL output:\nTraceback: no"),
    ],
)
def test_a_cells_output_and_error_are_shown_together(output: str, error: str | None, shown: str) -> None:
    assert prompts.cell_output(output, error, number=1, of=1) == shown


def test_of_several_cells_each_is_numbered() -> None:
    assert prompts.cell_output("a", None, number=2, of=3).startswith("REPL output of block 2 of 3:\n")


def test_an_observation_counts_down_from_the_middle_on() -> None:
    assert prompts.observation(["a", "b"], iteration=1, iterations=10) == "a\n\nb"
    assert prompts.observation(["a"], iteration=5, iterations=10) == "a\n\n(5 of 10 replies left)"
    assert prompts.observation(["a"], iteration=10, iterations=10, note="so").startswith("a\n\nso\n\n(0 of 10")


def test_cells_that_were_not_run_are_counted() -> None:
    assert "1 block after the error was not run" in prompts.not_run(1)
    assert "2 blocks after the error were not run" in prompts.not_run(2)


def test_a_repl_that_came_back_is_told_of_with_what_is_gone() -> None:
    whole = prompts.came_back([], [], died=True)
    assert whole.endswith("What this cell did is undone. All variables of your earlier cells are there as they were.")
    one = prompts.came_back(["\nx = now()\ny = 1"], ["x", "y"], died=False)
    assert "what the cell before it did" in one
    assert "the same: `x = now()`. These variables were lost: x, y. All others are as they were" in one
    assert "What this cell did" not in one
    many = prompts.came_back([f"{number} * 'a'" for number in range(7)], [], died=True)
    assert "the 7 cells before" in many
    assert "`4 * 'a'`; and 2 more. No variable is gone, but all are as they were" in many


def test_the_refusals_say_why_and_what_to_do_and_hold_no_code_to_copy() -> None:
    texts = [
        prompts.no_code(),
        prompts.literal_final(),
        prompts.wrong_type("Expected `int`, got `str`"),
        prompts.closing("limit reached: iterations"),
    ]
    for text in texts:
        assert "FINAL" in text
        # a model that echoes it has not written a cell
        assert parse(text).cells == ()
    assert "Expected `int`, got `str`" in texts[2]
    assert "iterations" in texts[3]
