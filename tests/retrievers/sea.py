"""A small collection, and an `embed` that knows three meanings: what the retrievers' tests search in."""

from __future__ import annotations

from typing import Any

LONG = "Some words that nobody asks for. " * 200
DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": "whale",
        "text": "The blue whale is the largest animal of the sea.",
        "metadata": {"year": 2019, "topic": "animals", "tags": ["sea", "large"], "weight": 149.5, "seen": True},
    },
    {
        "id": "cod",
        "text": "Cod is a fish of the cold sea, and cod is eaten.",
        "metadata": {"year": 2020, "topic": "animals", "tags": ["sea", "food"], "seen": False},
    },
    {
        "id": "bank",
        "text": "The central bank raised its rates again.",
        "metadata": {"year": 2020, "topic": "money", "editor": None},
    },
    {"id": "long", "text": f"{LONG}The treasure is in the old harbour. {LONG}", "metadata": {"year": 2021}},
    {"id": "a/b?c=d", "text": "Rates of interest, on the bank of a river.", "metadata": {"editor": 'the "one"'}},
]

_MEANINGS = (
    {"sea", "whale", "fish", "cod", "ocean", "marine"},
    {"bank", "rates", "interest", "treasure", "money", "finance"},
    {"old", "harbour", "river", "place"},
)


def embed(texts: list[str]) -> list[list[float]]:
    """How often each meaning is named, and a little of nothing, so that no vector is of zeros."""
    words = [text.lower().replace(",", " ").replace(".", " ").split() for text in texts]
    return [[sum(word in meaning for word in each) for meaning in _MEANINGS] + [0.1] for each in words]
