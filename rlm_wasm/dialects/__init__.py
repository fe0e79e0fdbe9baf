"""The conventions that models and people already know, by name. `dialect.py` says what one is."""

from __future__ import annotations

from rlm_wasm.dialects.azure import AZURE
from rlm_wasm.dialects.dialect import Dialect, Offer, inside
from rlm_wasm.dialects.dspy import DSPY
from rlm_wasm.dialects.fast_rlm import FAST_RLM
from rlm_wasm.dialects.given import finishing_by, giving, instructed
from rlm_wasm.dialects.house import HOUSE
from rlm_wasm.dialects.prime import PRIME
from rlm_wasm.dialects.pyrlm import PYRLM
from rlm_wasm.dialects.rlm import RLM

DIALECTS = {dialect.name: dialect for dialect in (HOUSE, RLM, AZURE, FAST_RLM, PYRLM, DSPY, PRIME)}


def find(dialect: str | Dialect) -> Dialect:
    """The dialect of a name, or the dialect itself. Raises ValueError for a name that is not known."""
    if isinstance(dialect, Dialect):
        return dialect
    if dialect not in DIALECTS:
        raise ValueError(f"there is no dialect {dialect!r}: use one of {', '.join(DIALECTS)}, or a Dialect of your own")
    return DIALECTS[dialect]


__all__ = ["DIALECTS", "HOUSE", "Dialect", "Offer", "find", "finishing_by", "giving", "inside", "instructed"]
