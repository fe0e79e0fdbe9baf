"""Filters in one form, so that no back end has to look at what a caller may write. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from rlm_wasm.retrievers.protocol import Filters, FilterValue
from rlm_wasm.sandbox.values import well_formed


class Wanted(msgspec.Struct, frozen=True):
    """What one field must be: one of `values`, or, if `missing`, not there or null. No values and not missing: nothing.

    Left out are numbers that are not finite or of more than 64 bits: nothing in a collection is equal to them.
    """

    field: str
    values: list[str | int | float | bool]
    missing: bool = False


def wanted(filters: Filters | None) -> list[Wanted]:
    """What each field must be, all of them at once."""
    return [_wanted(field, value) for field, value in (filters or {}).items()]


def _wanted(field: str, value: FilterValue | Sequence[FilterValue]) -> Wanted:
    several: list[FilterValue] = [value] if value is None or isinstance(value, (str, int, float)) else list(value)
    values = [well_formed(each) if isinstance(each, str) else each for each in several if each is not None]
    possible = [each for each in values if isinstance(each, str) or _has_a_place(each)]
    return Wanted(well_formed(field), possible, missing=None in several)


def _has_a_place(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 2**64
