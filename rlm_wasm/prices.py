"""What models cost: prices by name. Knows nothing of what was used, nor by whom."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class Price(msgspec.Struct, frozen=True):
    """What a model costs: US dollars per 1,000,000 tokens, `input` and `output`. Raises ValueError below zero.

    `cache_read` and `cache_write` are for input tokens that the provider read from its own cache, and wrote to it; None
    is the same as `input`. A model that costs nothing is `Price(0, 0)`; one with no price at all is unknown, which is
    never taken for zero.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        each = (self.input, self.output, self.cache_read or 0.0, self.cache_write or 0.0)
        if not all(0 <= price < math.inf for price in each):
            raise ValueError(f"a price must be 0 or more US dollars per 1,000,000 tokens, not {self!r}")

    def cost(self, input_tokens: int, output_tokens: int, cache_reads: int = 0, cache_writes: int = 0) -> float:
        """US dollars for a number of tokens; `cache_reads` and `cache_writes` are a part of the input tokens."""
        read = self.input if self.cache_read is None else self.cache_read
        written = self.input if self.cache_write is None else self.cache_write
        plain = input_tokens - cache_reads - cache_writes
        cost = self.input * plain + read * cache_reads + written * cache_writes + self.output * output_tokens
        return cost / 1_000_000


PRICES_AS_OF = "2025-08"
"""The month in which `DEFAULT_PRICES` were OpenAI's list prices."""

DEFAULT_PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "gpt-5": Price(1.25, 10.00, cache_read=0.125),
        "gpt-5-mini": Price(0.25, 2.00, cache_read=0.025),
        "gpt-5-nano": Price(0.05, 0.40, cache_read=0.005),
        "gpt-4.1": Price(2.00, 8.00, cache_read=0.50),
        "gpt-4.1-mini": Price(0.40, 1.60, cache_read=0.10),
        "gpt-4.1-nano": Price(0.10, 0.40, cache_read=0.025),
        "gpt-4o": Price(2.50, 10.00, cache_read=1.25),
        "gpt-4o-2024-05-13": Price(5.00, 15.00),  # the first of its name costs more than those that followed
        "gpt-4o-mini": Price(0.15, 0.60, cache_read=0.075),
        "o3": Price(2.00, 8.00, cache_read=0.50),
        "o4-mini": Price(1.10, 4.40, cache_read=0.275),
    }
)

_DATED = re.compile(r"(.+)-[0-9]{4}-[0-9]{2}-[0-9]{2}")


def find_price(model: str, prices: Mapping[str, Price] = DEFAULT_PRICES) -> Price | None:
    """The price of a model by its exact name, or of the name before a date ("gpt-5-mini-2025-08-07"); else None.

    No looser prefix counts: "gpt-5-mini" begins with "gpt-5", and costs a fifth of it.
    """
    dated = _DATED.fullmatch(model)
    return prices.get(model) or (prices.get(dated[1]) if dated else None)
