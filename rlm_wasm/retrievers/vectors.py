"""Vectors of texts: asked of the caller's `embed`, kept as bytes of float32 and unit length, compared by cosine.

Knows no model and no store. Takes numpy where it is installed (about ten times as fast), and does without it.
"""

from __future__ import annotations

import inspect
import math
import operator
import struct
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import anyio.to_thread

from rlm_wasm.errors import RetrieverError
from rlm_wasm.retrievers.protocol import Embed, Vectors

_FLOAT_BYTES = 4


async def embedded(embed: Embed, texts: Sequence[str]) -> list[list[float]]:
    """The vectors of some texts, in order; a sync `embed` is called in a thread.

    Raises RetrieverError if it fails, or if what it gives is not a vector of finite numbers for each text, all of one
    length.
    """
    try:
        # in a list, because trio refuses a thread's result that is a coroutine
        [given] = await anyio.to_thread.run_sync(lambda: [embed(list(texts))])
        vectors: Vectors = await given if inspect.isawaitable(given) else given
        checked = [[float(number) for number in vector] for vector in vectors]
    except Exception as error:
        raise RetrieverError(f"embed failed on {len(texts):,} texts ({type(error).__name__})") from error
    if len(checked) != len(texts):
        raise RetrieverError(f"embed gave {len(checked):,} vectors for {len(texts):,} texts")
    lengths = {len(vector) for vector in checked}
    if len(lengths) > 1 or 0 in lengths:
        raise RetrieverError(f"embed gave vectors of {sorted(lengths)} numbers: they must be of one length, not 0")
    if not all(math.isfinite(number) for vector in checked for number in vector):
        raise RetrieverError("embed gave a vector that holds a number which is not finite")
    return checked


def packed(vector: Sequence[float]) -> bytes:
    """A vector at unit length, as little-endian float32; one of zeros stays as it is, and is like no other."""
    # twice, because the length itself may be too large for a float
    largest = max(map(abs, vector)) or 1.0
    scaled = [number / largest for number in vector]
    length = math.hypot(*scaled) or 1.0
    return struct.pack(f"<{len(scaled)}f", *(number / length for number in scaled))


def similarities(query: bytes, vectors: Sequence[bytes]) -> list[float]:
    """The cosine similarity (-1 to 1) of one packed vector to each of others, in order.

    Raises RetrieverError if one is of another length: it was made by another model.
    """
    if any(len(vector) != len(query) for vector in vectors):
        lengths = sorted({len(vector) // _FLOAT_BYTES for vector in vectors})
        raise RetrieverError(
            f"embed gave a vector of {len(query) // _FLOAT_BYTES} numbers, but the documents have {lengths}"
        )
    numpy = _numpy()
    if numpy is not None and vectors:
        matrix = numpy.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
        return (matrix @ numpy.frombuffer(query, "<f4")).tolist()
    form = struct.Struct(f"<{len(query) // _FLOAT_BYTES}f")
    wanted = form.unpack(query)
    return [sum(map(operator.mul, wanted, form.unpack(vector))) for vector in vectors]


@cache
def _numpy() -> Any:
    try:
        return import_module("numpy")
    except ImportError:
        return None
