"""Cited words -> whether they are in the context, and where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import citations
from rlm_wasm.citations import Citation, check
from rlm_wasm.inside.documents import Context

TEXT = "Launched in 1969,\n  from Florida."


def test_words_that_stand_in_the_context_are_found_with_their_place() -> None:
    assert check(["in 1969"], TEXT) == (Citation("in 1969", True, None, 9, 16),)
    assert check(["in 1970", "", " \n", "Florida."], TEXT) == (
        Citation("in 1970", False),
        Citation("", False),
        Citation(" \n", False),
        Citation("Florida.", True, None, 25, 33),
    )


def test_other_spaces_between_the_words_are_no_exact_citation_but_one() -> None:
    (found,) = check([" 1969, from\tFlor"], TEXT)
    assert (found.found, found.exact) == (True, False)
    assert TEXT[found.start : found.end] == "1969,\n  from Flor"


CONTEXTS: list[tuple[Any, str | int]] = [
    (["nothing", "no words", TEXT], 2),
    (("nothing", 5, TEXT), 2),
    ({"a.txt": "nothing", "b.txt": TEXT}, "b.txt"),
    ({1: "nothing", 2: TEXT}, 2),
    ([{"id": "a", "text": "nothing"}, {"content": TEXT}], 1),
    (Context.from_documents(["nothing", TEXT, "more"]), 1),
    (Context.from_documents([("a", "nothing"), ("b", TEXT), ("c", "more")], separator=""), "b"),
]


@pytest.mark.parametrize(("context", "document"), CONTEXTS)
def test_the_document_is_told_and_offsets_are_within_it(context: Any, document: str | int) -> None:
    assert check(["in 1969"], context) == (Citation("in 1969", True, document, 9, 16),)
    assert check(["1969, from"], context) == (Citation("1969, from", True, document, 12, 24, exact=False),)


def test_words_across_two_documents_stand_in_none() -> None:
    context = Context.from_documents(["one two", "three four"], separator=" ")
    assert [found.found for found in check(["two three", "two  three", "three"], context)] == [False, False, True]


def test_the_document_that_is_named_is_looked_at_first_and_the_true_one_told() -> None:
    context = {"a": "same words", "b": "same words", "c": "other"}
    cited = [{"text": "same words", "document": "b"}, ("same words", "c"), ["other", "absent"], {"text": "same words"}]
    assert [found.document for found in check(cited, context)] == ["b", "a", "c", "a"]
    assert [found.document for found in check([("x", 1), ("x", True)], ["x", "x"])] == [1, 0]


@pytest.mark.parametrize("item", [None, 5, [], ["a", "b", "c"], {}, {"text": ["x"]}, [None, None], [[1], {}], b"x"])
def test_what_is_no_citation_is_not_found(item: Any) -> None:
    assert check([item], "x") == (Citation("", False),)


def test_a_context_without_text_is_the_callers_mistake() -> None:
    for context in (None, 5, b"bytes"):
        with pytest.raises(TypeError, match=f"a {type(context).__name__} holds no text"):
            check(["x"], context)
    assert check(["x"], [1, 2]) == (Citation("x", False),)


def test_no_more_than_a_thousand_citations_are_looked_for() -> None:
    assert len(check(iter(str(number) for number in range(5000)), "text")) == 1000


def test_an_ill_meaning_text_costs_no_more_time_than_another() -> None:
    # a search that begins anew at each word takes minutes
    words = "a " * 20_000 + "b"
    assert check([words.replace(" ", "  ")], "a " * 500_000) == (Citation(words.replace(" ", "  "), False),)


@given(st.lists(st.sampled_from(["a", "bb", " ", "\n", "  ", "\u2003", "c"]), max_size=60).map("".join), st.data())
def test_words_with_any_spaces_are_traced_back_to_where_they_stand(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    words = text[start : data.draw(st.integers(start, len(text)))]
    cited = "\t\t".join(words.split())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(citations, "_BLOCK", data.draw(st.integers(1, 8)))
        (found,) = check([cited], ["", text])
    assert found.found == bool(cited)
    if found.found:
        assert text[found.start : found.end].split() == cited.split()
        # the first such place, without the spaces around it
        assert text[found.start : found.end] == text[found.start : found.end].strip()
        assert found.start is not None
        assert found.start <= start + len(words) - len(words.lstrip())


@given(st.text(max_size=40), st.text(max_size=5))
def test_what_is_found_exactly_is_found_where_python_finds_it(text: str, words: str) -> None:
    (found,) = check([words], text)
    if found.found and found.exact:
        assert (found.start, found.end) == (text.find(words), text.find(words) + len(words))
    elif words.strip():
        assert words not in text
