"""From any text to words and phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.retrievers.terms import MAX_WORDS, Terms, terms_of


@pytest.mark.parametrize(
    ("query", "words", "phrases"),
    [
        ("what is it", ("what", "is", "it"), ()),
        ("it is what it is", ("it", "is", "what"), ()),
        ('the "central bank" rates', ("the", "rates"), ("central bank",)),
        ('"word"', ("word",), ()),
        ('"not closed', ("not", "closed"), ()),
        ('"state-of-the-art" x', ("x",), ("state of the art",)),
        ("AND OR NOT NEAR(a, b) text:c d* ^e", ("AND", "OR", "NOT", "NEAR", "a", "b", "text", "c", "d", "e"), ()),
        ("don't e-mail a_b", ("don", "t", "e", "mail", "a", "b"), ()),
        ("हिन्दी e\N{COMBINING ACUTE ACCENT}te", ("हिन्दी", "e\N{COMBINING ACUTE ACCENT}te"), ()),
        ('?! \0 "" " " \ud800 \N{SNOWMAN}', (), ()),
        ("", (), ()),
    ],
)
def test_a_query_is_its_words_and_its_quoted_phrases(
    query: str, words: tuple[str, ...], phrases: tuple[str, ...]
) -> None:
    assert terms_of(query) == Terms(words, phrases)


def test_the_first_words_count_and_no_more_than_can_be_looked_for() -> None:
    many = " ".join(f"w{number}" for number in range(5_000))
    assert terms_of(many).words == tuple(f"w{number}" for number in range(MAX_WORDS))
    assert len(terms_of(f'"{many}"').phrases[0].split()) == MAX_WORDS
    assert terms_of(f'"{many}" more "and more"').words == ()


@given(st.text())
def test_terms_hold_letters_and_single_spaces_only(text: str) -> None:
    terms = terms_of(text)
    for word in terms.words:
        assert not set(word) & set("\"'*^:(){}+- \0")
    for phrase in terms.phrases:
        assert len(phrase.split(" ")) > 1
        assert not set(phrase) & set("\"'*^:(){}+-\0")
