"""pyrlm-runtime's second look at what a search found: rerankers, a rewriter of queries, and two measures.

Facts of its interface as of November 2026; the words that models are told are this runtime's own.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

from rlm_wasm.clients import Client, Message
from rlm_wasm.compat.adapters import client_over
from rlm_wasm.compat.pyrlm_run import FileCache
from rlm_wasm.errors import ClientError
from rlm_wasm.rlm import RLM

Found = dict[str, Any]
"""What a search found: `doc_id` and `content` at least, and whatever else comes with it."""

_RANK = (
    "Below are {count} passages, each with its number in brackets. Order them by how well they answer the query, the "
    "best first. Reply with the numbers alone, like [2] > [1] > [3], each once.\n\nQuery: {query}\n\n{passages}"
)
# a number takes up to three tokens, and so does what stands around it
_TOKENS_EACH = 6


class _Asking:
    """A model that is asked one prompt after the other; what it said before may be kept in a `FileCache`."""

    def __init__(self, adapter: object, cache: FileCache | None, max_tokens: int) -> None:
        self._client = client_over(adapter)
        self._cache = cache
        self._max_tokens = max_tokens
        self.llm_calls = 0
        """How many prompts were sent to the model."""
        self.cache_hits = 0
        """How many were answered from the cache."""

    async def _opened(self, stack: AsyncExitStack) -> Client:
        return (
            self._client if self._cache is None else await stack.enter_async_context(self._cache.around(self._client))
        )

    async def _ask(self, client: Client, messages: Sequence[Message]) -> str:
        reply = await client.complete(messages, max_output_tokens=self._max_tokens)
        if reply.cached:
            self.cache_hits += 1
        else:
            self.llm_calls += 1
        return reply.text


class _Reranker(_Asking):
    def __init__(self, adapter: object, size: int, max_passage_chars: int, cache: FileCache | None) -> None:
        if size < 2 or max_passage_chars < 1:
            raise ValueError("a model needs 2 documents or more to order them, and some of their text")
        super().__init__(adapter, cache, 64 + _TOKENS_EACH * size)
        self._size = size
        self._max_passage_chars = max_passage_chars

    def rerank(self, query: str, candidates: Sequence[Found], top_k: int = 10) -> list[Found]:
        """Like `arerank`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def run() -> list[Found]:
            return await self.arerank(query, candidates, top_k)

        return RLM(self._client).run_blocking(run)

    async def arerank(self, query: str, candidates: Sequence[Found], top_k: int = 10) -> list[Found]:
        """The best `top_k` of what was found, the best first. Raises ClientError where the model cannot be asked."""
        async with AsyncExitStack() as stack:
            client = await self._opened(stack)
            return (await self._ordered(client, query, list(candidates)))[:top_k]

    async def _ordered(self, client: Client, query: str, found: list[Found]) -> list[Found]:
        raise NotImplementedError

    async def _ranked(self, client: Client, query: str, found: list[Found]) -> list[Found]:
        """A few in the order that the model gives them; what it leaves out stands behind, as it stood."""
        if len(found) < 2:
            return found
        shown = (str(each.get("content") or each.get("preview") or "")[: self._max_passage_chars] for each in found)
        passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(shown, start=1))
        prompt = _RANK.format(count=len(found), query=query, passages=passages)
        said = await self._ask(client, [Message("user", prompt)])
        numbers = [int(number) - 1 for number in re.findall(r"\d{1,6}", said)]
        named = [number for number in dict.fromkeys(numbers) if 0 <= number < len(found)]
        left = [number for number in range(len(found)) if number not in set(named)]
        return [found[number] for number in (*named, *left)]


class ListwiseReranker(_Reranker):
    """Orders what was found by windows of `window_size` from the end to the beginning, each `step` before the last.

    Good for up to 200 documents or so; none is lost. `max_passage_chars` of each are shown. Raises ValueError for
    figures that make no sense.
    """

    def __init__(
        self,
        adapter: object,
        window_size: int = 20,
        step: int = 10,
        max_passage_chars: int = 300,
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(adapter, window_size, max_passage_chars, cache)
        if not 0 < step <= window_size:
            raise ValueError(f"step must be 1 to {window_size}, or documents would be passed over; it is {step}")
        self._step = step

    async def _ordered(self, client: Client, query: str, found: list[Found]) -> list[Found]:
        end = len(found)
        while end > 0:
            start = max(0, end - self._size)
            found[start:end] = await self._ranked(client, query, found[start:end])
            end = end - self._step if start else 0
        return found


class TournamentReranker(_Reranker):
    """Orders what was found by rounds: of each batch, drawn by lot, the best `top_k_per_batch` go on to the next.

    Good for hundreds and thousands. Those who are out stand behind those who went further. Raises ValueError for
    figures that make no sense.
    """

    def __init__(
        self,
        adapter: object,
        batch_size: int = 20,
        top_k_per_batch: int = 4,
        shuffle_seed: int = 42,
        max_passage_chars: int = 300,
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(adapter, batch_size, max_passage_chars, cache)
        if not 0 < top_k_per_batch < batch_size:
            raise ValueError(f"top_k_per_batch must be 1 to {batch_size - 1}, or no round would end; {top_k_per_batch}")
        self._survivors = top_k_per_batch
        self._seed = shuffle_seed

    async def _ordered(self, client: Client, query: str, found: list[Found]) -> list[Found]:
        lot = random.Random(self._seed)
        out: list[Found] = []
        while len(found) > self._size:
            lot.shuffle(found)
            batches = [found[start : start + self._size] for start in range(0, len(found), self._size)]
            ranked = [await self._ranked(client, query, batch) for batch in batches]
            found = [each for batch in ranked for each in batch[: self._survivors]]
            out = [each for batch in ranked for each in batch[self._survivors :]] + out
        return await self._ranked(client, query, found) + out


class QueryRewriter(_Asking):
    """Other words for a query, by one call: `n` of them, or fewer if the model gives fewer.

    `system_prompt` says how, and asks for a JSON object with the list `rewrites`.
    """

    def __init__(
        self,
        adapter: object,
        n: int = 5,
        system_prompt: str | None = None,
        max_tokens: int = 400,
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(adapter, cache, max_tokens)
        self._n = n
        self._system = system_prompt or (
            f"Say the same query in {n} other ways, each with words that the others do not have, as somebody would who "
            'writes about the matter. Reply with JSON alone: {"rewrites": ["...", ...]}'
        )

    def rewrite(self, query: str) -> list[str]:
        """Like `arewrite`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def run() -> list[str]:
            return await self.arewrite(query)

        return RLM(self._client).run_blocking(run)

    async def arewrite(self, query: str) -> list[str]:
        """The queries, without the one that was given. Raises ClientError if there are none in the reply."""
        async with AsyncExitStack() as stack:
            client = await self._opened(stack)
            said = await self._ask(client, [Message("system", self._system), Message("user", query)])
        start, end = said.find("{"), said.rfind("}")
        try:
            read: Any = json.loads(said[start : end + 1], strict=False)
            rewrites = cast("list[object]", read["rewrites"])
            return [each.strip() for each in rewrites if isinstance(each, str) and each.strip()][: self._n]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ClientError(f"there are no rewrites in the reply: {said[:200]!r}") from error


def union_pool(pools: Iterable[Sequence[Found]]) -> list[Found]:
    """What several searches found as one list, each document once, where it first stood."""
    by_id: dict[Any, Found] = {}
    for pool in pools:
        for found in pool:
            by_id.setdefault(found["doc_id"], found)
    return list(by_id.values())


def ndcg_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, float], k: int = 10) -> float:
    """The normalised discounted cumulative gain of the first `k`, 0 to 1; `qrels` are relevances by id."""

    def gain(relevances: Iterable[float]) -> float:
        return sum(relevance / math.log2(place + 2) for place, relevance in enumerate(relevances))

    best = gain(sorted(qrels.values(), reverse=True)[:k])
    return gain(qrels.get(each, 0) for each in list(dict.fromkeys(ranked_ids))[:k]) / best if best else 0.0


def recall_at_k(ranked_ids: Sequence[str], qrels: Mapping[str, float], k: int = 10) -> float:
    """How many of all relevant documents are among the first `k`, 0 to 1."""
    relevant = {each for each, relevance in qrels.items() if relevance > 0}
    return len(relevant & set(ranked_ids[:k])) / len(relevant) if relevant else 0.0
