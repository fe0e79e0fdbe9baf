"""What stands between a model and an answer that rests on nothing."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Completion, Limits, ScriptedClient
from rlm_wasm.guards import Guards, Watch

pytestmark = pytest.mark.anyio

WITHIN = 120


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def run(replies: list[Any], context: str = "one\ntwo", **guards: Any) -> tuple[Completion, ScriptedClient]:
    root = ScriptedClient(replies, model="root")
    sub = ScriptedClient(rules={"": "said"}, model="sub")
    rlm = RLM(root, sub_model=sub, guards=Guards(**guards), limits=Limits(depth=1))
    with anyio.fail_after(WITHIN):
        return await rlm.acompletion("What?", context=context), root


async def test_an_answer_as_text_waits_for_a_cell_where_that_is_required() -> None:
    replies = ["FINAL(the answer is forty two)", repl("print(context)"), "FINAL(the answer is two)"]
    done, root = await run(replies, require_cell_before_final=True)
    assert done.response == "the answer is two"
    assert "FINAL was not accepted: no code has been run yet" in root.calls[1][-1].content
    done, _ = await run(replies)
    assert done.response == "the answer is forty two"


async def test_an_answer_waits_for_a_sub_call_where_that_is_required() -> None:
    replies = [repl("FINAL(2)"), repl("FINAL(llm_query('how many?'))")]
    done, root = await run(replies, require_subcall_before_final=True)
    assert done.response == "said"
    assert "no sub model has been asked yet" in root.calls[1][-1].content


async def test_replies_without_code_end_the_run_or_make_way_for_fallback_code() -> None:
    done, _ = await run(["I think.", "I muse.", "the best that I have"], invalid_reply_limit=2)
    assert (done.stopped_by, done.response) == ("errors", "the best that I have")
    done, root = await run(
        ["I think.", "I muse.", repl("FINAL(seen)")],
        invalid_reply_limit=2,
        fallback_code="seen = len(context)\nprint(seen)",
    )
    assert done.response == 7
    assert "REPL output:\n7" in root.calls[2][-1].content


async def test_a_cell_that_gives_the_same_for_the_third_time_is_pointed_out() -> None:
    same = repl("print(len(context))")
    done, root = await run([same, same, same, repl("FINAL(1)")])
    assert done.response == 1
    shown = [call[-1].content for call in root.calls[1:]]
    assert ["3 times now" in text for text in shown] == [False, False, True]
    _, root = await run([same, same, same, repl("FINAL(1)")], repeat_limit=None)
    assert not any("times now" in call[-1].content for call in root.calls)


async def test_a_child_that_would_get_nearly_all_is_made_only_if_asked_for_again() -> None:
    asking = "try: found = rlm_query('What?', context)\nexcept FunctionError as error: found = str(error)\nprint(found)"
    child = repl("FINAL('from the child')")
    done, root = await run(
        [repl(asking), repl(asking), child, repl("FINAL(found)")], context="x" * 2000, max_child_share=0.6
    )
    assert done.response == "from the child"
    assert "the child would get 2,000 of 2,000 characters" in root.calls[1][-1].content


@pytest.mark.parametrize(
    "wrong", [{"invalid_reply_limit": 0}, {"repeat_limit": -1}, {"max_child_share": 0.0}, {"fallback_code": "x = 1"}]
)
def test_a_guard_that_makes_no_sense_is_the_callers_mistake(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be above 0|set that too"):
        Guards(**wrong)


def test_a_short_context_for_a_child_needs_no_confirmation() -> None:
    watch = Watch(Guards(max_child_share=0.5))
    assert watch.refuses_child("x" * 900, 1000) is None
    assert watch.refuses_child(["x" * 9000], 10_000) is None
    assert watch.refuses_child("x" * 9000, 10_000) is not None
    assert watch.refuses_child("x" * 9000, 10_000) is None
