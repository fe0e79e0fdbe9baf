"""Limits where many calls wait at once: none too many is made, and nothing that was paid for is lost.

One batch of numbers against a cap on calls, and a cell's own threads, are in `test_bridge.py` too; here stands what
the caps come to when replies end out of order, fail, or come from many places together.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from trio.testing import MockClock

from rlm_wasm import RLM, ClientError, Completion, LimitExceeded, Limits, ScriptedClient

pytestmark = pytest.mark.anyio

BATCH = 500
ALLOWED = 100
REFUSED = f"limit reached: calls ({ALLOWED} used of {ALLOWED} allowed)"

# keeps what the refused batch had, shows how much it is, and answers with it in the next cell
CATCHES = f"""```repl
try:
    had = llm_query_batched([str(number) for number in range({BATCH})])
except LimitExceeded as error:
    refused, had = str(error), error.partial
print(refused, len(had), sum(answer is not None for answer in had))
```"""
HANDS_OVER = "```repl\nFINAL(had)\n```"


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def out_of_order(prompt: str) -> str:
    """A sub model that is quicker with some prompts than with others, so that later ones end first."""
    for _ in range(int(prompt) * 7 % 23):
        await checkpoint()
    return f"<{prompt}>"


async def ask(root: ScriptedClient, sub: ScriptedClient, limits: Limits, **given: Any) -> Completion:
    with anyio.fail_after(100):
        return await RLM(root, sub_model=sub, limits=limits, **given).acompletion("How many?", context="the context")


def asked(sub: ScriptedClient) -> list[str]:
    return [messages[-1].content for messages in sub.calls]


@pytest.mark.both_backends
async def test_every_answer_that_was_had_stands_at_the_place_of_its_prompt() -> None:
    root = ScriptedClient([CATCHES, HANDS_OVER], model="root")
    sub = ScriptedClient(rules={"": out_of_order}, model="sub")
    done = await ask(root, sub, Limits(calls=ALLOWED))
    assert root.calls[1][-1].content.startswith(f"REPL output:\n{REFUSED} {BATCH} {ALLOWED}")
    made = set(asked(sub))
    assert len(made) == len(sub.calls) == ALLOWED
    assert done.response == [f"<{number}>" if str(number) in made else None for number in range(BATCH)]
    # the code went on after the refusal, and answered: but the run says by what it was ended
    assert done.stopped_by == "calls"
    assert done.usage.by_model["sub"].calls == ALLOWED


async def test_a_refusal_that_the_code_does_not_catch_leaves_all_answers_in_the_record() -> None:
    root = ScriptedClient([repl(f"llm_query_batched([str(n) for n in range({BATCH})])"), "a guess"], model="root")
    sub = ScriptedClient(rules={"": out_of_order}, model="sub")
    done = await ask(root, sub, Limits(calls=ALLOWED))
    assert (done.stopped_by, done.response) == ("calls", "a guess")
    calls = done.trajectory[0].calls
    answered = {call.prompt: call.reply for call in calls if call.error is None}
    assert answered == {prompt: f"<{prompt}>" for prompt in asked(sub)}
    refused = [call.error or "" for call in calls if call.error is not None]
    assert (len(answered), len(refused)) == (ALLOWED, BATCH - ALLOWED)
    assert all(error.startswith("LimitExceeded: limit reached: calls") for error in refused)
    with pytest.raises(LimitExceeded) as caught:
        done.raise_for_stop()
    assert caught.value.partial is done


async def test_calls_that_fail_are_calls_and_the_refusal_outranks_them() -> None:
    def fails_for_the_odd(prompt: str) -> str:
        if int(prompt) % 2:
            raise ClientError("not today", status=503)
        return f"<{prompt}>"

    root = ScriptedClient([CATCHES, HANDS_OVER], model="root")
    sub = ScriptedClient(rules={"": fails_for_the_odd}, model="sub")
    done = await ask(root, sub, Limits(calls=ALLOWED))
    assert (done.stopped_by, len(sub.calls)) == ("calls", ALLOWED)
    even = [number for number in map(int, asked(sub)) if not number % 2]
    assert [answer for answer in done.response if answer is not None] == [f"<{number}>" for number in sorted(even)]


FROM_THREADS = f"""
from concurrent.futures import ThreadPoolExecutor
def one(number):
    try:
        return llm_query(str(number))
    except LimitExceeded as error:
        return str(error)
with ThreadPoolExecutor(32) as pool:
    had = list(pool.map(one, range({BATCH})))
"""
FROM_BATCHES_AT_ONCE = f"""
from concurrent.futures import ThreadPoolExecutor
def batch(start):
    try:
        return llm_query_batched([str(number) for number in range(start, start + {BATCH} // 5)])
    except LimitExceeded as error:
        return [str(error) if answer is None else answer for answer in error.partial]
with ThreadPoolExecutor(5) as pool:
    had = [answer for part in pool.map(batch, range(0, {BATCH}, {BATCH} // 5)) for answer in part]
"""
GATHERED = f"""
import asyncio
async def one(number):
    try:
        return await asyncio.to_thread(llm_query, str(number))
    except LimitExceeded as error:
        return str(error)
had = await asyncio.gather(*(one(number) for number in range({BATCH})))
"""


@pytest.mark.parametrize(
    "code", [FROM_THREADS, FROM_BATCHES_AT_ONCE, GATHERED], ids=["threads", "batches at once", "gather"]
)
async def test_calls_from_many_places_of_a_cell_share_one_cap(code: str) -> None:
    root = ScriptedClient([repl(code), HANDS_OVER], model="root")
    sub = ScriptedClient(rules={"": out_of_order}, model="sub")
    done = await ask(root, sub, Limits(calls=ALLOWED))
    made = set(asked(sub))
    assert len(made) == len(sub.calls) == ALLOWED
    assert done.response == [f"<{number}>" if str(number) in made else REFUSED for number in range(BATCH)]
    assert (done.stopped_by, done.usage.by_model["sub"].calls) == ("calls", ALLOWED)


async def test_children_of_a_batch_share_the_cap_with_their_own_calls_counted() -> None:
    batch = repl("FINAL(llm_query_batched([str(number) for number in range(25)]))")
    children = repl(
        "try:\n    had = rlm_query_batched(['And here?'] * 6)\nexcept LimitExceeded as error:\n    had = error.partial"
    )
    root = ScriptedClient(
        rules=[("Question: And here?", batch), ("Question: How many?", children), ("This is the end", HANDS_OVER)],
        model="root",
    )
    sub = ScriptedClient(rules={"": out_of_order}, model="sub")
    done = await ask(root, sub, Limits(calls=60), max_concurrency=4)
    assert done.stopped_by == "calls"
    of_children = sum("And here?" in messages[1].content for messages in root.calls)
    assert of_children + len(sub.calls) == 60
    whole = [f"<{number}>" for number in range(25)]
    had = [answers for answers in done.response if answers is not None]
    assert all(answers == whole for answers in had)
    # what a child had when it was refused is in its own record, inside of its parent's
    replies = [call.reply for child in done.children for step in child.trajectory for call in step.calls if call.reply]
    assert len(replies) == len(sub.calls)


@pytest.mark.parametrize("max_concurrency", [1, 16, 64])
async def test_tokens_end_a_batch_before_they_are_overspent(max_concurrency: int) -> None:
    root = ScriptedClient([CATCHES, HANDS_OVER], model="root")
    sub = ScriptedClient(rules={"": lambda prompt: f"{prompt:0>400}"}, model="sub")
    # beside the first call of the root model: some dozens of replies of a hundred tokens
    limits = Limits(tokens=25_000)
    done = await ask(root, sub, limits, max_concurrency=max_concurrency)
    assert done.stopped_by == "tokens"
    assert done.usage.tokens <= 25_000
    answered = [call for step in done.trajectory for call in step.calls if call.error is None]
    assert 50 < len(answered) == len(sub.calls) < BATCH
    assert f" {BATCH} {len(answered)}\n" in f"{done.trajectory[0].observation}\n"


def test_seconds_end_a_batch_in_its_middle_with_the_answers_that_had_come() -> None:
    clock = MockClock(rate=1.0)
    stuck = 30

    async def some_hang(prompt: str) -> str:
        if int(prompt) < stuck:
            return await out_of_order(prompt)
        if int(prompt) == stuck + 15:
            # every place is taken by one that hangs: less than the 10 s in which a sandbox must answer
            clock.jump(9)
        await anyio.sleep_forever()
        return ""

    async def main() -> Completion:
        sub = ScriptedClient(rules={"": some_hang}, model="sub")
        return await ask(ScriptedClient([CATCHES], model="root"), sub, Limits(seconds=9))

    done = anyio.run(main, backend="trio", backend_options={"clock": clock})
    assert (done.stopped_by, done.response) == ("seconds", None)
    (step,) = done.trajectory
    answered = {call.prompt: call.reply for call in step.calls if call.error is None}
    assert answered == {str(number): f"<{number}>" for number in range(stuck)}
    assert done.usage.by_model["sub"].calls == stuck + 16
