"""The demonstration: its corpus is there, its question can be checked, and its script answers it in the sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from rlm_wasm import RLM, demo


def right_answer() -> dict[str, Any]:
    counts = demo.expected_counts()
    most = sorted(counts, key=lambda name: (-counts[name], name))[:3]
    return {"counts": counts, "summaries": dict.fromkeys(most, "a line")}


def test_the_corpus_is_the_whole_language_reference() -> None:
    corpus = demo.corpus()
    assert len(corpus) > 400_000
    assert "\n=== while ===\n" in corpus
    # no heading comes twice, so that counts by heading are well-defined
    headings = [line for line in corpus.splitlines() if line.startswith("=== ") and line.endswith(" ===")]
    assert len(headings) == len(set(headings))


def test_the_expected_counts_are_found_without_a_model() -> None:
    counts = demo.expected_counts()
    assert len(counts) > 5
    assert min(counts.values()) >= 1
    assert "yield" in counts


def test_a_right_answer_is_right() -> None:
    assert demo.verdict(right_answer()) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: None, "not a dict"),
        (lambda answer: "many", "not a dict"),
        (lambda answer: {"counts": answer["counts"]}, "not a dict with"),
        (lambda answer: answer | {"counts": answer["counts"] | {"yield": 1_000}}, "the counts differ"),
        (lambda answer: answer | {"counts": {}}, "the counts differ"),
        (lambda answer: answer | {"summaries": {"while": "a line"}}, "the summaries are not those of"),
        (lambda answer: answer | {"summaries": "one line"}, "the summaries are not those of"),
        (lambda answer: answer | {"summaries": 3}, "the summaries are not those of"),
        (lambda answer: answer | {"summaries": [1, "a", None]}, "the summaries are not those of"),
    ],
)
def test_a_wrong_answer_of_any_shape_is_told_in_words(change: Any, reason: str) -> None:
    assert reason in str(demo.verdict(change(right_answer())))


def test_the_script_answers_the_question_by_real_code_and_real_calls() -> None:
    done = RLM(demo.scripted_client()).completion(demo.QUESTION, context=demo.corpus())
    assert demo.verdict(done.raise_for_stop().response) is None
    assert [call.function for step in done.trajectory for call in step.calls] == ["llm_query"] * 3
    assert all(line and "\n" not in line for line in done.response["summaries"].values())
    # what the model was shown is a sliver of what it answered about
    assert sum(len(step.observation or "") for step in done.trajectory) < 5_000
