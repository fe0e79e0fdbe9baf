"""pyrlm-runtime's rerankers, its rewriter of queries, its measures, and its rich trace."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console

from rlm_wasm import ClientError, ScriptedClient
from rlm_wasm.compat.pyrlm import (
    RLM,
    Context,
    FakeAdapter,
    FileCache,
    ListwiseReranker,
    QueryRewriter,
    RichTraceListener,
    RLMEvent,
    TournamentReranker,
    TraceStep,
    ndcg_at_k,
    recall_at_k,
    union_pool,
)

pytestmark = pytest.mark.anyio


def found(count: int) -> list[dict[str, Any]]:
    """Documents, of which each next one is better."""
    return [{"doc_id": f"d{number}", "content": f"worth {number}"} for number in range(count)]


def by_worth(prompt: str) -> str:
    worths = [(int(worth), int(number)) for number, worth in re.findall(r"\[(\d+)\] worth (\d+)", prompt)]
    return " > ".join(f"[{number}]" for _, number in sorted(worths, reverse=True))


def judge() -> ScriptedClient:
    return ScriptedClient(rules={"": by_worth}, model="judge")


def ids(ranked: list[dict[str, Any]]) -> list[str]:
    return [each["doc_id"] for each in ranked]


def test_windows_bring_the_best_to_the_front_from_plain_code() -> None:
    reranker = ListwiseReranker(judge(), window_size=4, step=2)
    assert ids(reranker.rerank("which?", found(9), top_k=2)) == ["d8", "d7"]
    assert (reranker.llm_calls, reranker.cache_hits) == (4, 0)
    assert sorted(ids(reranker.rerank("which?", found(9), top_k=99))) == sorted(ids(found(9)))


@pytest.mark.parametrize("count", [0, 1, 20, 90])
async def test_a_tournament_finds_the_best_of_many_and_loses_none(count: int) -> None:
    reranker = TournamentReranker(judge(), batch_size=10, top_k_per_batch=3)
    with anyio.fail_after(60):
        ranked = await reranker.arerank("which?", found(count), top_k=1000)
        again = await TournamentReranker(judge(), batch_size=10, top_k_per_batch=3).arerank(
            "which?", found(count), 1000
        )
    assert ids(ranked)[:3] == ids(found(count))[::-1][:3]
    assert sorted(ids(ranked)) == sorted(ids(found(count)))
    assert ranked == again


async def test_what_a_model_leaves_out_repeats_or_makes_up_costs_no_document() -> None:
    adapter = FakeAdapter(script=["[3] > [3] > [99] > none", "I cannot say."])
    reranker = ListwiseReranker(adapter)
    assert ids(await reranker.arerank("?", found(3))) == ["d2", "d0", "d1"]
    assert ids(await reranker.arerank("?", found(3))) == ["d0", "d1", "d2"]


async def test_passages_are_cut_and_the_same_call_is_asked_once(tmp_path: Path) -> None:
    cache = FileCache(root=tmp_path / "cache")
    client = judge()
    documents = [{"doc_id": "a", "content": "worth 1" + "x" * 900}, {"doc_id": "b", "preview": "worth 2"}]
    for hits in (0, 1):
        reranker = ListwiseReranker(client, max_passage_chars=50, cache=cache)
        assert ids(await reranker.arerank("?", documents)) == ["b", "a"]
        assert (reranker.llm_calls, reranker.cache_hits) == (1 - hits, hits)
    assert "x" * 43 in client.calls[0][0].content
    assert "x" * 44 not in client.calls[0][0].content


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ListwiseReranker, {"step": 0}),
        (ListwiseReranker, {"step": 30}),
        (ListwiseReranker, {"window_size": 1}),
        (TournamentReranker, {"top_k_per_batch": 20}),
        (TournamentReranker, {"max_passage_chars": 0}),
    ],
)
def test_figures_that_make_no_sense_are_refused(kind: Any, given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        kind(judge(), **given)


async def test_a_query_is_said_in_other_words(tmp_path: Path) -> None:
    said = 'Here: {"rewrites": ["tree recursion", " ", 3, "structural induction", "more"]}'
    adapter = FakeAdapter(script=[said])
    rewriter = QueryRewriter(adapter, n=2, system_prompt="Be {diverse}.", cache=FileCache(tmp_path))
    assert await rewriter.arewrite("induction") == ["tree recursion", "structural induction"]
    assert await rewriter.arewrite("induction") == ["tree recursion", "structural induction"]
    assert (rewriter.llm_calls, rewriter.cache_hits) == (1, 1)
    assert [message["content"] for message in adapter.call_log[0]] == ["Be {diverse}.", "induction"]
    for nothing in ("none", "{}", "[1]"):
        with pytest.raises(ClientError, match="no rewrites in the reply"):
            await QueryRewriter(FakeAdapter(script=[nothing])).arewrite("q")


def test_rewriting_is_for_plain_code_too() -> None:
    assert QueryRewriter(FakeAdapter(script=['{"rewrites": ["b"]}'])).rewrite("a") == ["b"]


def test_pools_become_one_with_each_document_where_it_first_stood() -> None:
    one, two = [{"doc_id": "a", "n": 1}, {"doc_id": "b"}], [{"doc_id": "c"}, {"doc_id": "a", "n": 2}]
    assert union_pool([one, two]) == [{"doc_id": "a", "n": 1}, {"doc_id": "b"}, {"doc_id": "c"}]


def test_measures_are_one_for_the_best_order_and_less_for_others() -> None:
    qrels = {"a": 3.0, "b": 1.0, "c": 0.0}
    assert ndcg_at_k(["a", "b", "c"], qrels) == 1
    assert ndcg_at_k(["b", "a"], qrels, k=2) == pytest.approx((1 + 3 / 1.584962500721156) / (3 + 1 / 1.584962500721156))
    assert (ndcg_at_k(["x"], qrels), ndcg_at_k(["a"], {})) == (0, 0)
    assert [recall_at_k(["a", "x", "b"], qrels, k) for k in (1, 2, 3)] == [0.5, 0.5, 1]
    assert recall_at_k(["a"], {}) == 0


# --- the rich trace --------------------------------------------------------------------------------------------------


def test_the_quick_start_with_a_rich_trace_shows_the_run() -> None:
    console = Console(file=io.StringIO(), width=100)
    adapter = FakeAdapter(
        script=[
            "piece = peek(40)\nshort = llm_query(f'Short: {piece}')\nprint(short)\nanswer = short",
            "FINAL_VAR: answer",
        ]
    )
    adapter.add_rule("You are a sub-LLM", "[fake] short")
    context = Context.from_text("Prompts are variables.")
    output, _ = RLM(adapter=adapter, event_listener=RichTraceListener(console=console)).run("In short?", context)
    assert output == "[fake] short"
    shown: Any = console.file
    text = shown.getvalue()
    for part in (
        "query",
        "In short?",
        "root_call",
        "subcall",
        "repl_exec",
        "piece = peek(40)",
        "[fake] short",
        "answer",
    ):
        assert part in text
    assert " steps, " in text


def test_what_a_model_writes_moves_no_cursor_and_is_no_markup() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    step = TraceStep(
        step_id=1, kind="repl_exec", stdout="\x1b[2J[red]x[/red]" + "y" * 5000, error="bad\x07", code="1\x1b"
    )
    RichTraceListener(console).handle(RLMEvent(kind="step_completed", step=step))
    shown: Any = console.file
    assert "\x1b" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()
    assert "[red]x[/red]" in shown.getvalue()
    assert "more characters)" in shown.getvalue()
