"""A context as one text and as its documents: cutting, finding, and the way into the sandbox."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.inside.documents import Context, Match
from rlm_wasm.sandbox import values

texts = st.text("ab \n", max_size=30)
corpora = st.lists(texts, max_size=8)
separators = st.sampled_from(["", "\n", "\n\n", "ab"])
ROWS = [
    {"id": "a", "text": "first", "title": "One", "metadata": {"year": 2019}},
    {"content": "second", "url": "example.org", "id": 7},
    ("c", "third"),
    "fourth",
]


# --- making one ----------------------------------------------------------------------------------------------------


def test_documents_come_in_every_form_that_callers_have() -> None:
    context = Context.from_documents(ROWS, separator="|", metadata={"source": "the archive"})
    assert context.text == "first|second|third|fourth"
    assert [context.get_document(i) for i in ("a", "7", "c", 3, -1)] == ["first", "second", "third", "fourth", "fourth"]
    assert context.metadata("a") == {"id": "a", "title": "One", "metadata": {"year": 2019}, "characters": 5}
    assert context.metadata(1) == {"id": "7", "metadata": {"url": "example.org"}, "characters": 6}
    assert context.metadata(3) == {"characters": 6}
    assert context.metadata() == {"source": "the archive", "documents": 4, "characters": 25}


def test_a_context_gives_its_documents_one_by_one() -> None:
    assert list(Context.from_documents(["one", "two", ""])) == ["one", "two", ""]
    assert list(Context.from_text("one")) == ["one"]


def test_a_mapping_is_read_as_texts_by_id() -> None:
    context = Context.from_documents({"a.txt": "one", "b.txt": "two"})
    assert (context.get_document("b.txt"), context.text) == ("two", "one\n\ntwo")


def test_a_text_is_kept_as_it_is_and_is_one_document() -> None:
    text = "whole \u00fc" * 100
    context = Context.from_text(text)
    assert context.text is text
    assert context.get_document(0) is text
    assert (len(context), context.num_documents(), context.document_lengths()) == (len(text), 1, [len(text)])


def test_a_context_of_no_documents_is_empty_and_does_everything() -> None:
    context = Context.from_documents([])
    assert (context.text, context.num_documents(), context.document_lengths()) == ("", 0, [])
    assert (context.chunk(5), context.chunk_documents(), context.find("a"), context.find("^", regex=True)) == ([],) * 4
    assert "0 documents" in repr(context)
    with pytest.raises(IndexError, match="there are 0"):
        context.get_document(0)


def test_the_repr_says_the_sizes_and_no_content() -> None:
    assert repr(Context.from_text("x" * 4000)) == "<Context of 4,000 characters (about 1,000 tokens) in 1 document>"
    context = Context.from_documents(["secret", "s" * 1000])
    assert repr(context) == "<Context of 1,008 characters (about 252 tokens) in 2 documents of 6 to 1,000>"


@pytest.mark.parametrize(
    ("docs", "error", "said"),
    [
        ("one text", TypeError, "use Context.from_text"),
        ([5], TypeError, "document 0 is a int"),
        ([("a", "b", "c")], TypeError, "document 0 is a tuple"),
        (["fine", {"body": "x"}], TypeError, "document 1 has no 'text' .* its keys: 'body'"),
        ([{"text": None}], TypeError, "document 0 must be a str; it is a NoneType"),
        ([("a", "x"), ("a", "y")], ValueError, "documents 0 and 1 have the same id 'a'"),
    ],
)
def test_what_is_no_list_of_documents_is_refused_with_a_reason(docs: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Context.from_documents(docs)


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_are_read_on_the_host_and_known_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", "utf-8")
    (tmp_path / "b.txt").write_text("two", "utf-8")
    for paths in (tmp_path, str(tmp_path), [tmp_path]):
        context = Context.from_paths(paths)
        assert (context.text, context.get_document("b.txt")) == ("one\n\ntwo", "two")
    several = Context.from_paths([tmp_path / "b.txt", str(tmp_path / "a.txt")], separator="|")
    assert several.text == "two|one"
    assert several.get_document(str(tmp_path / "a.txt")) == "one"
    assert Context.from_paths(tmp_path / "a.txt").text == "one"
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        Context.from_paths(tmp_path / "missing.txt")


def test_inside_there_are_no_files_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "reader", None)
    with pytest.raises(RuntimeError, match=r"from_paths works on the host"):
        Context.from_paths("a.txt")


# --- cutting -------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.integers(1, 20), st.data())
def test_chunks_cover_the_text_once_but_for_their_overlap(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    context = Context.from_text(text)
    chunks = context.chunk(size, overlap)
    assert "".join(chunk[overlap if number else 0 :] for number, chunk in enumerate(chunks)) == context.text
    assert all(len(chunk) == size for chunk in chunks[:-1])
    # the last one brings something new
    assert all(overlap < len(chunk) <= size for chunk in chunks[1:])


@pytest.mark.parametrize("overlap", [5, 6, -1])
def test_an_overlap_that_would_never_reach_the_end_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=rf"it is {overlap} where size is 5: choose an overlap"):
        Context.from_text("text").chunk(5, overlap)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1"):
        Context.from_text("text").chunk(0)
    with pytest.raises(ValueError, match="docs_per_chunk must be at least 1"):
        Context.from_text("text").chunk_documents(0)


@given(st.text(max_size=30), st.integers(-40, 40), st.none() | st.integers(-40, 40))
def test_a_slice_is_that_of_the_text(text: str, start: int, end: int | None) -> None:
    context = Context.from_text(text)
    assert context.slice(start, end) == context.text[start:end]


@given(corpora, separators, st.integers(1, 10))
def test_chunks_of_documents_are_whole_documents_in_order(docs: list[str], separator: str, most: int) -> None:
    chunks = Context.from_documents(docs, separator).chunk_documents(most)
    assert chunks == [separator.join(docs[first : first + most]) for first in range(0, len(docs), most)]


# --- documents and offsets -----------------------------------------------------------------------------------------


@given(corpora, separators)
def test_documents_and_their_lengths_come_back_as_they_went_in(docs: list[str], separator: str) -> None:
    context = Context.from_documents(docs, separator)
    assert context.text == separator.join(docs)
    assert [context.get_document(i) for i in range(context.num_documents())] == docs
    assert context.document_lengths() == [len(text) for text in docs]
    for number in range(len(docs)):
        start, end = context.span(number)
        assert context.slice(start, end) == docs[number]
        assert context.metadata(number)["characters"] == len(docs[number])


@given(corpora, separators)
def test_every_offset_belongs_to_the_document_it_lies_in_or_follows(docs: list[str], separator: str) -> None:
    context = Context.from_documents(docs, separator)
    owners = [number for number, text in enumerate(docs) for _ in text + separator * (number < len(docs) - 1)]
    assert [context.document_at(offset) for offset in range(len(context))] == owners
    for outside in (-1, len(context)):
        with pytest.raises(IndexError, match="is not in the text"):
            context.document_at(outside)


def test_an_unknown_document_is_an_error_that_says_which_there_are() -> None:
    context = Context.from_documents([(f"doc {number}", "x") for number in range(9)])
    with pytest.raises(KeyError, match=r"no document has the id 'absent' \(ids: 'doc 0', .*'doc 4', \.\.\.\)"):
        context.get_document("absent")
    with pytest.raises(KeyError, match="there are none"):
        Context.from_text("x").metadata("a")
    for number in (9, -10):
        with pytest.raises(IndexError, match=f"there is no document {number}: there are 9"):
            context.get_document(number)


# --- finding -------------------------------------------------------------------------------------------------------


@given(corpora, separators, st.text("ab ", min_size=1, max_size=3), st.none() | st.integers(0, 4), st.booleans())
def test_what_is_found_stands_there_and_nothing_is_passed_over(
    docs: list[str], separator: str, pattern: str, limit: int | None, ignore_case: bool
) -> None:
    context = Context.from_documents(docs, separator)
    found = context.find(pattern, limit=limit, ignore_case=ignore_case)
    assert [match.start for match in found] == [m.start() for m in re.finditer(re.escape(pattern), context.text)][
        :limit
    ]
    for start, end, text, document in found:
        assert context.slice(start, end) == text == pattern
        assert context.document_at(start) == document


def test_a_pattern_is_words_unless_it_is_said_to_be_a_regular_expression() -> None:
    context = Context.from_documents(["a.c abc", "ABC"], separator=" ")
    assert context.find("a.c") == [Match(0, 3, "a.c", 0)]
    assert [match.text for match in context.find("a.c", regex=True)] == ["a.c", "abc"]
    assert context.find("ABC", ignore_case=True) == [Match(4, 7, "abc", 0), Match(8, 11, "ABC", 1)]
    assert context.find(re.compile("A.*")) == [Match(8, 11, "ABC", 1)]
    assert [match[:2] for match in context.find("$", regex=True)] == [(11, 11)]


def test_a_match_says_which_document_by_its_index_and_by_its_id() -> None:
    named = Context.from_documents([{"id": "first.txt", "text": "abc"}, "abd", ("third.txt", "ab")])
    assert [(match.document, match.id) for match in named.find("ab")] == [(0, "first.txt"), (1, None), (2, "third.txt")]
    assert repr(named.find("abc")[0]) == "Match(start=0, end=3, text='abc', document=0, id='first.txt')"
    assert repr(named.find("abd")[0]) == "Match(start=5, end=8, text='abd', document=1)"
    start, end, text, document = named.find("abc")[0]
    assert (start, end, text, document) == (0, 3, "abc", 0)
    assert named.get_document(named.find("abc")[0].id or "") == "abc"


def test_a_pattern_that_finds_nothing_by_mistake_is_refused() -> None:
    context = Context.from_text("text")
    with pytest.raises(ValueError, match="the pattern is empty"):
        context.find("")
    with pytest.raises(ValueError, match="limit must be 0 or more"):
        context.find("t", limit=-1)
    with pytest.raises(re.error):
        context.find("(", regex=True)


# --- on the way into the sandbox -----------------------------------------------------------------------------------


@given(corpora, separators)
def test_a_context_is_the_same_after_its_value_went_as_json(docs: list[str], separator: str) -> None:
    pairs = list(enumerate(docs))
    context = Context.from_documents(pairs, separator, {"source": "archive"})
    again = Context.from_value(json.loads(json.dumps(context.to_value())))
    assert again.to_value() == context.to_value()
    assert [again.get_document(str(number)) for number, _ in pairs] == docs
    assert again.metadata() == context.metadata()


def test_the_text_can_travel_apart_and_is_then_held_once() -> None:
    context = Context.from_documents(ROWS)
    value = context.to_value(with_text=False)
    assert "first" not in json.dumps(value)
    text = "".join(context.text)
    again = Context.from_value(value, text)
    assert again.text is text
    assert again.metadata("a") == context.metadata("a")


def test_lengths_that_are_not_those_of_the_text_are_refused() -> None:
    value = Context.from_documents(["one", "two"]).to_value()
    for wrong in ({"text": "short"}, {"lengths": [9, -3]}, {"about": [{}]}):
        with pytest.raises(ValueError, match="the documents told make"):
            Context.from_value({**value, **wrong})


@given(st.lists(st.text(st.characters(categories=("Cs", "Ll", "So"))), max_size=4))
def test_offsets_mean_the_same_on_both_sides_whatever_the_text_holds(docs: list[str]) -> None:
    context = Context.from_documents(docs, "\ud800")
    sent = values.decode(values.encode(context.to_value()))
    assert Context.from_value(sent).to_value() == context.to_value()


def test_a_context_of_many_documents_answers_at_once() -> None:
    docs = ["x" * 99 + "\n"] * 100_000
    context = Context.from_documents(docs, separator="")
    assert context.document_at(5_000_050) == 50_000
    assert context.find("y") == []
    assert len(context.find("\n", limit=10)) == 10
    assert len(context.chunk_documents(1000)) == 100
