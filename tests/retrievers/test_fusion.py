"""Reciprocal-rank fusion: one ranking out of several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.retrievers import Hit, fused


def ranking(*ids: str) -> list[Hit]:
    return [Hit(id, score=100.0 - rank, preview=f"{id} at {rank}") for rank, id in enumerate(ids, start=1)]


def test_a_score_is_the_sum_of_the_reciprocals_of_sixty_plus_the_rank() -> None:
    hits = fused([ranking("a", "b"), ranking("b", "c")], k=10)
    assert [hit.id for hit in hits] == ["b", "a", "c"]
    assert [hit.score for hit in hits] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_what_both_rankings_have_stands_above_what_one_of_them_has_first() -> None:
    hits = fused([ranking("x", *"abcdefgh", "both"), ranking("y", *"ijklmnop", "both")], k=1)
    assert [hit.id for hit in hits] == ["both"]


def test_hits_of_one_score_keep_the_order_of_the_rankings() -> None:
    assert [hit.id for hit in fused([ranking("a"), ranking("b"), ranking("c")], k=3)] == ["a", "b", "c"]


def test_the_preview_is_that_of_the_first_ranking_that_has_the_hit() -> None:
    [first, second] = fused([ranking("a", "b"), ranking("b")], k=2)
    assert (first.id, first.preview) == ("b", "b at 2")
    assert (second.id, second.preview) == ("a", "a at 1")


def test_no_rankings_and_empty_rankings_fuse_to_nothing() -> None:
    assert fused([], k=5) == []
    assert fused([[], []], k=5) == []


IDS = st.lists(st.sampled_from("abcdefghij"), unique=True)


@given(st.lists(IDS, max_size=4), st.integers(1, 12))
def test_a_fusion_holds_each_document_once_best_first_and_no_more_than_k(ids: list[list[str]], k: int) -> None:
    hits = fused([ranking(*each) for each in ids], k)
    everything = {id for each in ids for id in each}
    assert len(hits) == min(k, len(everything))
    assert len({hit.id for hit in hits}) == len(hits)
    assert {hit.id for hit in hits} <= everything
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@given(IDS, st.integers(1, 12), st.integers(1, 3))
def test_one_ranking_fused_with_itself_keeps_its_order(ids: list[str], k: int, times: int) -> None:
    assert [hit.id for hit in fused([ranking(*ids)] * times, k)] == ids[:k]
