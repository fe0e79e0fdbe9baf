"""Vectors: what `embed` may give, and how two are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers import vectors
from rlm_wasm.retrievers.vectors import embedded, packed, similarities

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


async def later(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


@pytest.mark.parametrize("embed", [later, lambda texts: later(texts), lambda texts: [(len(text), 1) for text in texts]])
async def test_embed_may_be_sync_or_async(embed: Callable[..., Any]) -> None:
    assert await embedded(embed, ["a", "bb"]) == [[1.0, 1.0], [2.0, 1.0]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([[1.0]], "gave 1 vectors for 2 texts"),
        ([[1.0], [1.0, 2.0]], r"vectors of \[1, 2\] numbers"),
        ([[], []], r"vectors of \[0\] numbers"),
        ([[1.0], [math.nan]], "not finite"),
        ([[1.0], [math.inf]], "not finite"),
        ([["a"], ["b"]], "embed failed on 2 texts .ValueError"),
        (None, "embed failed on 2 texts .TypeError"),
    ],
)
async def test_what_is_no_vector_for_each_text_is_an_error(given: Any, says: str) -> None:
    with pytest.raises(RetrieverError, match=says):
        await embedded(lambda texts: given, ["a", "b"])


async def test_an_embed_that_fails_is_named_with_its_cause_beside_it() -> None:
    def fail(texts: list[str]) -> list[list[float]]:
        raise OSError("the key sk-1 is wrong")

    with pytest.raises(RetrieverError) as raised:
        await embedded(fail, ["a"])
    assert str(raised.value) == "embed failed on 1 texts (OSError)"
    assert isinstance(raised.value.__cause__, OSError)


@pytest.fixture(params=["plain", "numpy"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy") if request.param == "numpy" else None
    monkeypatch.setattr(vectors, "_numpy", lambda: numpy)


@pytest.mark.usefixtures("arithmetic")
def test_a_similarity_is_the_cosine_of_the_angle() -> None:
    others = [packed(vector) for vector in ([5.0, 0.0], [0.0, 0.1], [1.0, 1.0], [-2.0, 0.0], [0.0, 0.0])]
    assert similarities(packed([3.0, 0.0]), others) == pytest.approx([1, 0, math.sqrt(0.5), -1, 0], abs=1e-6)
    assert similarities(packed([1.0]), []) == []


@pytest.mark.usefixtures("arithmetic")
def test_vectors_of_two_lengths_were_made_by_two_models() -> None:
    with pytest.raises(RetrieverError, match=r"a vector of 3 numbers, but the documents have \[2\]"):
        similarities(packed([1.0, 2.0, 3.0]), [packed([1.0, 2.0])])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_any_finite_vector_is_as_like_itself_as_can_be(vector: list[float]) -> None:
    [similarity] = similarities(packed(vector), [packed(vector)])
    assert similarity == pytest.approx(1.0 if any(vector) else 0.0, abs=1e-5)
