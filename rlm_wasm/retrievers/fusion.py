"""One ranking out of several, by reciprocal-rank fusion. Pure; knows no back end and no scores but its own.

Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
SIGIR 2009: each ranking gives a document 1 / (60 + its rank), ranks from 1. The scores of words and of vectors have no
common scale; ranks have.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rlm_wasm.retrievers.protocol import Hit

# the paper's constant, found on its first collection and kept for all others
_CONSTANT = 60
# how far down each ranking is looked at, at least: a document that is in both is often high in neither
_DEPTH = 100


def depth(k: int) -> int:
    """How many hits of each ranking to fuse for the `k` best of them together."""
    return max(k, _DEPTH)


def fused(rankings: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """The `k` best hits of all rankings, best first, with the fused score.

    The rest of a hit comes from the first ranking that has it. Hits of one score stay in the order in which the
    rankings, one after the other, name them.
    """
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (_CONSTANT + rank)
            hits.setdefault(hit.id, hit)
    best = sorted(hits.values(), key=lambda hit: -scores[hit.id])[:k]
    return [msgspec.structs.replace(hit, score=scores[hit.id]) for hit in best]
