"""What alexzhang13/rlm and pyrlm-runtime call compaction, as a window of this runtime: when the messages give way.

How they do is `windows.py`: old outputs are cut first, then a summary stands for them, and `history` has them whole.
"""

from __future__ import annotations

from rlm_wasm.windows import with_room

USUAL_WINDOW = 128_000
"""Tokens that the window of a model holds of which nothing is known: what most of today hold at least."""

# tokens of input, by how a model's name begins after its provider's, as their providers say in November 2026
_WINDOWS = (
    ("gpt-5", 272_000),
    ("gpt-4.1", 1_000_000),
    ("o3", 200_000),
    ("o4-mini", 200_000),
    ("claude-", 200_000),
    ("gemini-", 1_000_000),
)


def window_of(model: str) -> int:
    """The tokens of a model's window, as far as that is known; `USUAL_WINDOW` else."""
    name = model.rpartition("/")[2]
    return next((tokens for beginning, tokens in _WINDOWS if name.startswith(beginning)), USUAL_WINDOW)


def compacting(window: int, share: float, tokens: int | None = None) -> int:
    """The window to give to `RLM(windows=)`, so that messages give way at `share` of `window`, or at `tokens`.

    Raises ValueError for a share that is none.
    """
    if tokens is None and not 0 < share <= 1:
        raise ValueError(f"compaction_threshold_pct must be above 0 and at most 1, not {share!r}")
    return with_room(int(window * share) if tokens is None else tokens)
