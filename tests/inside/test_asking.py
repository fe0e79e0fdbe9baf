"""One question to many pieces of text, and a look at the context, upon a host that is a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rlm_wasm.inside.documents import Context


class Refusal(RuntimeError):
    """What a host function raises in the sandbox."""

    partial: Any = None


@pytest.fixture
def asking(equipment: Callable[[str], ModuleType]) -> Any:
    return equipment("asking")


def chunk_of(prompt: str) -> str:
    return prompt.partition("<text>\n")[2].rpartition("\n</text>")[0]


# --- one question, many pieces -------------------------------------------------------------------------------------


def test_a_question_goes_with_its_text_and_with_a_way_to_say_no(asking: Any, host: Any) -> None:
    host.answer = lambda prompt: "1969"
    assert asking.ask("When?", "It was in 1969.", model="small") == "1969"
    assert host.asked[0].startswith("When?")
    assert chunk_of(host.asked[0]) == "It was in 1969."
    assert "NOT FOUND" in host.asked[0]
    assert host.models == ["small"]


def test_chunks_are_asked_at_once_and_answered_in_order(asking: Any, host: Any) -> None:
    host.answer = lambda prompt: chunk_of(prompt).upper()
    assert asking.ask_chunks("Shout.", list("abcde"), model="m") == list("ABCDE")
    assert (host.batches, set(host.models)) == ([5], {"m"})
    assert asking.ask_chunks("Shout.", ("a", "b")) == ["A", "B"]
    assert asking.ask_chunks("Shout.", (letter for letter in "ab")) == ["A", "B"]


@pytest.mark.parametrize(
    ("parallel", "batches"), [(None, [5]), (True, [5]), (2, [2, 2, 1]), (False, [1] * 5), (99, [5])]
)
def test_how_many_are_asked_at_a_time_can_be_said(asking: Any, host: Any, parallel: Any, batches: list[int]) -> None:
    host.answer = chunk_of
    assert asking.ask_chunks("?", list("abcde"), parallel=parallel) == list("abcde")
    assert host.batches == batches


def test_no_chunks_are_no_calls(asking: Any, host: Any) -> None:
    assert asking.ask_chunks("?", []) == []
    assert asking.ask_chunks_first("?", []) is None
    assert host.asked == []


def test_one_text_in_place_of_chunks_is_refused_before_each_letter_is_paid_for(asking: Any, host: Any) -> None:
    for ask in (asking.ask_chunks, asking.ask_chunks_first):
        with pytest.raises(TypeError, match="chunks is one str"):
            ask("?", "a long text")
    assert host.asked == []


def test_an_error_carries_what_was_answered_of_all_chunks(asking: Any, host: Any) -> None:
    def batched(prompts: list[str], model: str | None) -> list[str]:
        if chunk_of(prompts[0]) != "c":
            return [chunk_of(prompt) for prompt in prompts]
        error = Refusal("no more calls")
        error.partial = ["c", None]
        raise error

    asking._llm_query_batched = batched
    with pytest.raises(Refusal, match="no more calls") as caught:
        asking.ask_chunks("?", list("abcde"), parallel=2)
    assert caught.value.partial == ["a", "b", "c", None, None]


def test_asking_for_the_first_answer_stops_when_there_is_one(asking: Any, host: Any) -> None:
    host.answer = lambda prompt: "Paris" if chunk_of(prompt) in "fg" else "NOT FOUND"
    assert asking.ask_chunks_first("Where?", list("abcdefghijkl")) == "Paris"
    assert host.batches == [4, 4]
    host.answer = lambda prompt: "Not found."
    assert asking.ask_chunks_first("Where?", list("abcde")) is None


def test_a_first_answer_before_the_one_that_failed_is_one_and_behind_it_is_none(asking: Any) -> None:
    def failing(partial: list[str | None] | None) -> Any:
        def batched(prompts: list[str], model: str | None) -> list[str]:
            error = Refusal("limit")
            error.partial = partial
            raise error

        return batched

    asking._llm_query_batched = failing(["unknown", "Paris", None, "Rome"])
    assert asking.ask_chunks_first("?", list("abcd")) == "Paris"
    for partial in (["unknown", None, "Rome", "Oslo"], None):
        asking._llm_query_batched = failing(partial)
        with pytest.raises(Refusal):
            asking.ask_chunks_first("?", list("abcd"))


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "",
            "  \n",
            "NOT FOUND",
            "Not found.",
            "**NOT FOUND**",
            "none",
            "None.",
            "N/A",
            "n/a",
            "Unknown",
            "null",
            "-",
        ),
        *("I don't know.", "I don\u2019t know the answer", "I cannot determine this from the text.", "Not mentioned."),
        *(
            "-",
            "Answer: NOT FOUND",
            "Unable to find the date.",
            "Sorry, I could not find it.",
            "Not specified in the text",
        ),
        *("-", "The text does not mention a date.", "The provided text doesn't contain the answer to that."),
        *("This document does not explicitly state who signed.", "There is no information about revenue here."),
        *("No mention of it.", "The answer is not given in the text.", "The information can't be found."),
    ],
)
def test_a_denial_is_no_answer(asking: Any, answer: str) -> None:
    assert asking.pick_first_answer([answer]) is None
    assert asking.pick_first_answer([None, answer, "  42 "]) == "  42 "


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "0",
            "no",
            "No.",
            "False",
            "-5",
            "+",
            "\u20ac",
            "Unknown Pleasures",
            "None of the three won.",
            "NaN values: 3",
        ),
        *("Not Found is the name of the band", "No data was lost.", "It is not included in the price."),
        *("The text does not name the year, but it was the year of the moon landing: 1969.", "\u672a\u77e5\u6570"),
        *("NaN values: 3", "Nothing Compares 2 U", "Not given to despair, she went on.", "Answer: 42"),
    ],
)
def test_what_only_begins_like_a_denial_is_an_answer(asking: Any, answer: str) -> None:
    assert asking.pick_first_answer(["not found", answer]) == answer


# --- the context ---------------------------------------------------------------------------------------------------


CONTEXTS = [
    "The key: oolong, a tea\nnext line",
    ["first", "The key: oolong, a tea\nnext line"],
    {"a": "first", "b": "The key: oolong, a tea\nnext line"},
    [{"id": 1, "text": "first"}, {"content": "The key: oolong, a tea\nnext line"}],
    Context.from_documents(["first", "The key: oolong, a tea\nnext line"]),
]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: type(context).__name__)
def test_what_follows_a_marker_is_found_without_a_call(asking: Any, host: Any, context: Any) -> None:
    host.variables["context"] = context
    assert asking.extract_after("key:") == "oolong, a tea"
    assert asking.extract_after("key:", max_len=7) == "oolong"
    assert asking.extract_after("absent:") is None
    assert asking.extract_after("next line") is None
    assert asking.extract_after("a tea") == "next line"
    assert asking.extract_after("b=", text="a=1\nb=2\n") == "2"
    assert host.asked == []
    with pytest.raises(ValueError, match="the marker is empty"):
        asking.extract_after("")


def test_the_two_ends_of_the_context_are_those_of_its_text(asking: Any, host: Any) -> None:
    for context in ("ab\n\ncd\n\nef", ["ab", "cd", "ef"], {1: "ab", 2: "cd", 3: "ef"}):
        host.variables["context"] = context
        for n in range(12):
            assert asking.peek(n) == "ab\n\ncd\n\nef"[:n]
            assert asking.tail(n) == ("ab\n\ncd\n\nef"[-n:] if n else "")
    host.variables["context"] = "x" * 5000
    assert (len(asking.peek()), len(asking.tail())) == (2000, 2000)


def test_a_context_that_is_no_text_is_refused_with_its_type(asking: Any, host: Any) -> None:
    with pytest.raises(NameError, match="no variable `context`"):
        asking.peek()
    for context in (None, 5, b"bytes", [1, 2], {"a": ["nested"]}):
        host.variables["context"] = context
        with pytest.raises(TypeError, match=f"`context` is a {type(context).__name__}"):
            asking.peek()


def test_citations_are_noted_in_order(asking: Any) -> None:
    assert asking.cite("first words") is None
    asking.cite("other words", document="a.txt")
    assert asking.citations == [
        {"text": "first words", "document": None},
        {"text": "other words", "document": "a.txt"},
    ]
    with pytest.raises(TypeError, match="this is a list"):
        asking.cite(["words"])
