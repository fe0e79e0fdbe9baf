"""The loop, with scripted models and the real sandbox: what ends a run, what the model is told, what is never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from trio.testing import MockClock

from rlm_wasm import (
    RLM,
    ClientError,
    Completion,
    Event,
    FunctionError,
    LimitExceeded,
    Limits,
    Message,
    Price,
    SandboxOptions,
    SandboxPool,
    SandboxStartError,
    ScriptedClient,
)
from rlm_wasm.events import SandboxReplaced

pytestmark = pytest.mark.anyio

END = "This is the end of the work"


def repl(*cells: str) -> str:
    return "\n\n".join(f"```repl\n{code}\n```" for code in cells)


def script(*replies: Any, model: str = "root") -> ScriptedClient:
    return ScriptedClient(replies, model=model)


async def ask(rlm: RLM, question: str = "How many?", **given: Any) -> Completion:
    with anyio.fail_after(60):
        return await rlm.acompletion(question, **given)


def told(client: ScriptedClient, call: int = -1) -> str:
    """The last message of one of the client's calls."""
    return client.calls[call][-1].content


# --- FINAL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [42, {"one": [1, 2.5], 3: None}, (1, ("two", {3})), None], ids=["int", "dict", "tuple", "None"]
)
async def test_final_keeps_the_type_of_its_value(value: object) -> None:
    done = await ask(RLM(script(repl(f"answer = {value!r}\nFINAL(answer)"))))
    assert (done.response, type(done.response)) == (value, type(value))
    assert done.stopped_by == "final"
    assert done.raise_for_stop() is done


@pytest.mark.parametrize(
    "reply",
    [
        "First I look.\n\n```repl\nn = len(context)\n```\n\nThen I answer.\n\n```repl\nFINAL(n)\n```",
        "```\nFINAL(len(context))\n```",
        "I answer.\n```python\nFINAL(len(context))",
        "<tool_call>\n<parameter=code>\nFINAL(len(context))\n</parameter>\n</tool_call>",
        '<tool_call>{"name": "python", "arguments": {"code": "FINAL(len(context))"}}</tool_call>',
        "FINAL(len(context))",
    ],
    ids=["two fences", "bare fence", "unclosed fence", "tags", "tags with JSON", "no fence"],
)
async def test_code_is_found_however_a_model_writes_it(reply: str) -> None:
    assert (await ask(RLM(script(reply)), context="abc")).response == 3


async def test_final_around_words_outside_of_code_is_the_answer() -> None:
    done = await ask(RLM(script("FINAL(It is not known.)")))
    assert (done.response, done.stopped_by) == ("It is not known.", "final")


@pytest.mark.both_backends
async def test_a_run_goes_from_code_to_observation_to_answer() -> None:
    root = script(repl("print(len(context))\nhalf = context[:2]\nhalf"), repl("FINAL(half * 2)"))
    done = await ask(RLM(root), "What is the half, twice?", context="abcd")
    assert done.response == "abab"
    system, first = root.calls[0]
    assert (system.role, first.role) == ("system", "user")
    assert "What is the half, twice?" in first.content
    assert "str of 4 characters" in first.content
    assert "abcd" not in system.content + first.content
    assert [message.role for message in root.calls[1]] == ["system", "user", "assistant", "user"]
    assert told(root).startswith("REPL output:\n4\n'ab'")
    assert [step.number for step in done.trajectory] == [1, 2]
    assert done.trajectory[0].observation == told(root)
    assert done.trajectory[1].observation is None
    assert done.usage.calls == 2
    assert done.usage.tokens == sum(step.input_tokens + step.output_tokens for step in done.trajectory)


async def test_without_a_context_the_model_is_told_so() -> None:
    root = script(repl("FINAL(context is None)"))
    assert (await ask(RLM(root))).response is True
    assert "`context` is None" in told(root)


async def test_a_literal_answer_beside_unseen_output_is_refused_once_with_the_reason() -> None:
    root = script(repl("print(len(context))", "FINAL('three')"), repl("FINAL('3')"))
    done = await ask(RLM(root), context="abc")
    assert done.response == "3"
    assert "REPL output of block 1 of 2:\n3" in told(root)
    assert "FINAL was not accepted" in told(root)
    assert "had not seen" in told(root)


async def test_a_literal_answer_is_not_refused_a_second_time() -> None:
    guess = repl("print(len(context))", "FINAL('three')")
    done = await ask(RLM(script(guess, guess)), context="abc")
    assert (done.response, len(done.trajectory)) == ("three", 2)
    assert done.partial == "three"


async def test_an_answer_that_code_computed_is_accepted_beside_unseen_output() -> None:
    done = await ask(RLM(script(repl("n = len(context)\nprint(n)", "FINAL(n)"))), context="abc")
    assert (done.response, len(done.trajectory)) == (3, 1)


# --- what the model is shown ---------------------------------------------------------------------------------------


async def test_a_reply_without_code_gets_one_corrective_message_and_counts_as_an_error() -> None:
    root = script("I believe that it is three.", repl("FINAL(3)"))
    done = await ask(RLM(root))
    assert "There was no code in your reply" in told(root)
    assert root.calls[1][2] == Message("assistant", "I believe that it is three.")
    assert done.response == 3

    root = script("I believe that it is three.", "Three.")
    stopped = await ask(RLM(root, limits=Limits(errors=1)))
    assert (stopped.stopped_by, stopped.response) == ("errors", "Three.")


async def test_what_follows_the_code_is_dropped_from_the_history() -> None:
    pretended = "\n\nOutput:\n```\n1000\n```\nSo the answer is 1000."
    root = script("Looking.\n" + repl("print(len(context))") + pretended, repl("FINAL(len(context))"))
    done = await ask(RLM(root), context="abc")
    assert root.calls[1][2].content == "Looking.\n" + repl("print(len(context))")
    assert "1000" not in "".join(message.content for message in root.calls[1])
    assert done.trajectory[0].reply.endswith(pretended)


async def test_an_observation_holds_prints_and_traceback_together_and_variables_are_kept() -> None:
    root = script(repl("kept = 5\nprint('before')\nkept / 0", "print('never')"), repl("FINAL(kept)"))
    done = await ask(RLM(root))
    observation = told(root)
    assert observation.index("before") < observation.index("Traceback") < observation.index("ZeroDivisionError")
    assert "line 3" in observation
    assert "kept / 0" in observation
    assert "(the 1 block after the error was not run)" in observation
    assert len(done.trajectory[0].cells) == 1
    assert done.response == 5


async def test_the_model_is_told_how_many_replies_are_left_in_the_second_half() -> None:
    root = script(*[repl("1")] * 4, "the best")
    await ask(RLM(root, limits=Limits(iterations=4)))
    left = [told(root, call).rpartition("(")[2] for call in range(1, 4)]
    assert "replies left" not in left[0]
    assert left[1:] == ["2 of 4 replies left)", "1 of 4 replies left)"]


async def test_own_functions_are_in_the_prompt_and_can_be_called() -> None:
    def lookup(name: str, *, year: int) -> dict[str, object]:
        """Finds a person in the register.

        With more words.
        """
        return {"name": name, "year": year}

    async def refuse() -> None:
        raise FunctionError("the register is closed")

    def fail() -> None:
        raise OSError("/home/somebody/secret")

    root = script(
        repl("found = lookup('Ada', year=1815)\nrefuse()"), repl("fail()"), repl("print(found)"), repl("FINAL(found)")
    )
    done = await ask(RLM(root, functions={"lookup": lookup, "refuse": refuse, "fail": fail}))
    assert done.response == {"name": "Ada", "year": 1815}
    prompt = root.calls[0][0].content
    assert "- `lookup(name: 'str', *, year: 'int') -> 'dict[str, object]'`: Finds a person in the register.\n" in prompt
    assert "With more words" not in prompt
    assert "FunctionError: refuse: the register is closed" in told(root, 1)
    assert "fail: OSError" in told(root, 2)
    assert "secret" not in told(root, 2)


@pytest.mark.parametrize("name", ["llm_query", "budget", "context", "FINAL"])
def test_a_function_with_a_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RLM(script(), functions={name: print})


def test_functions_given_with_the_sandbox_are_refused_rather_than_forgotten() -> None:
    with pytest.raises(ValueError, match="functions"):
        RLM(script(), sandbox=SandboxOptions(functions={"lookup": print}))


@pytest.mark.parametrize(
    "given", [{"model": None}, {"model": b"gpt-5"}, {"model": "gpt-5", "sub_model": 5}], ids=["None", "bytes", "int"]
)
def test_what_is_no_model_is_a_type_error(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be the name of a model or a Client"):
        RLM(**given)


def test_functions_without_names_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="functions must map names"):
        RLM(script(), functions=[print])  # pyright: ignore[reportArgumentType]


def test_a_concurrency_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_concurrency"):
        RLM(script(), max_concurrency=0)


@pytest.mark.parametrize("question", ["", " \n"])
async def test_an_empty_question_is_refused_before_anything_is_asked(question: str) -> None:
    root = script()
    with pytest.raises(ValueError, match="question is empty"):
        await ask(RLM(root), question)
    assert root.calls == []


# --- typed answers -------------------------------------------------------------------------------------------------


class Launch(msgspec.Struct):
    name: str
    revenue: float


async def test_a_typed_answer_is_validated_and_a_mismatch_goes_back_with_its_path() -> None:
    root = script(
        repl("rows = [{'name': 'Orbit', 'revenue': 'much'}]\nFINAL(rows)"),
        repl("rows[0]['revenue'] = 2\nFINAL(rows)"),
    )
    done = await ask(RLM(root), output=list[Launch])
    assert done.response == [Launch("Orbit", 2.0)]
    assert "$[0].revenue" in told(root)
    assert '"revenue"' in root.calls[0][0].content


async def test_a_mismatch_that_is_never_mended_is_the_partial_answer() -> None:
    root = script(repl("FINAL('many')"), repl("FINAL('too many')"))
    done = await ask(RLM(root, limits=Limits(iterations=1)), output=int)
    assert (done.response, done.stopped_by, done.partial) == (None, "iterations", "too many")


async def test_an_answer_in_words_is_held_to_the_type_too() -> None:
    root = script("FINAL(It is not known.)", repl("FINAL(7)"))
    assert (await ask(RLM(root), output=int)).response == 7
    assert "FINAL was not accepted: Expected `int`" in told(root)


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "answer"),
    [
        ("It is 42, I think.", "It is 42, I think."),
        ("<think>Hm. 42?</think>\nIt is 42.", "It is 42."),
        (repl("FINAL(found + 1)"), 42),
        (repl("better = found + 1", "FINAL(better)"), 42),
        (repl("print(found)"), None),
        (repl("FINAL(lost)"), None),
        ("", None),
    ],
    ids=["text", "text after a thought", "a variable", "two cells", "no FINAL", "an error", "nothing"],
)
async def test_the_last_call_gives_the_best_answer_from_what_was_seen(last: str, answer: object) -> None:
    root = script(repl("found = 41\nprint('seen')"), last)
    done = await ask(RLM(root, limits=Limits(iterations=1)))
    assert (done.response, done.stopped_by) == (answer, "iterations")
    assert "seen" in told(root)
    assert END in told(root)
    assert [message.role for message in root.calls[-1]] == ["system", "user", "assistant", "user"]
    assert len(done.trajectory) == 2
    assert done.usage.calls == 2


async def test_raise_for_stop_raises_with_the_completion_in_it() -> None:
    done = await ask(RLM(script(repl("1"), "a guess"), limits=Limits(iterations=1)))
    with pytest.raises(LimitExceeded, match="iterations") as caught:
        done.raise_for_stop()
    assert caught.value.partial is done
    assert done.response == "a guess"


async def test_errors_in_a_row_end_the_run() -> None:
    root = ScriptedClient(rules={END: "no idea", "": repl("1 / 0")}, model="root")
    done = await ask(RLM(root, limits=Limits(errors=3)))
    assert (done.stopped_by, done.response, len(root.calls)) == ("errors", "no idea", 4)
    with pytest.raises(LimitExceeded, match="errors"):
        done.raise_for_stop()


async def test_a_cell_that_ends_well_starts_the_count_of_errors_anew() -> None:
    root = script(*[repl("1 / 0"), repl("1")] * 3, repl("FINAL('there')"))
    assert (await ask(RLM(root, limits=Limits(errors=2)))).response == "there"


@pytest.mark.parametrize("limit", ["tokens", "usd"])
async def test_tokens_and_dollars_end_the_run_before_they_are_overspent(limit: str) -> None:
    limits = Limits(tokens=2500) if limit == "tokens" else Limits(usd=2500 / 1_000_000)
    root = ScriptedClient(rules={"": repl("print('on and on')")}, model="root")
    done = await ask(RLM(root, limits=limits, prices={"root": Price(input=1, output=1)}))
    assert (done.stopped_by, done.response) == (limit, None)
    assert 0 < done.usage.tokens <= 2500
    assert done.usage.usd == pytest.approx(done.usage.tokens / 1_000_000)
    assert len(done.trajectory) == len(root.calls) == done.usage.calls
    with pytest.raises(LimitExceeded) as caught:
        done.raise_for_stop()
    assert caught.value.limit == limit


async def test_dollars_cannot_be_limited_when_the_price_of_a_model_is_unknown() -> None:
    root, sub = script(model="gpt-5"), script(model="somebody's own")
    with pytest.raises(ValueError, match="somebody's own"):
        await ask(RLM(root, sub_model=sub, limits=Limits(usd=1)))
    assert root.calls == []


async def test_seconds_end_the_run_wherever_it_is() -> None:
    done = await ask(RLM(ScriptedClient(rules={"": repl("1")}, model="root"), limits=Limits(seconds=0.05)))
    assert (done.stopped_by, done.response) == ("seconds", None)
    with pytest.raises(LimitExceeded, match="seconds"):
        done.raise_for_stop()


def test_seconds_end_a_run_in_the_middle_of_a_cell_with_all_that_there_was() -> None:
    clock = MockClock(rate=1.0)

    async def wait() -> None:
        # less than the 10 s in which a sandbox must answer
        clock.jump(9)
        await anyio.sleep_forever()

    async def main() -> Completion:
        root = script(repl("print(1)"), repl("print('so far')\nllm_query('a question')\nwait()"))
        sub = ScriptedClient(rules={"": "a reply"}, model="sub")
        return await ask(RLM(root, sub_model=sub, functions={"wait": wait}, limits=Limits(seconds=9)))

    done = anyio.run(main, backend="trio", backend_options={"clock": clock})
    assert (done.stopped_by, done.response) == ("seconds", None)
    assert done.usage.calls == 3
    (first, second) = done.trajectory
    assert first.observation == "REPL output:\n1"
    # what the interrupt ended may have been told after it
    assert second.cells[0].output.startswith("so far\n")
    assert second.cells[0].error == "(the run was stopped while this cell ran)"
    assert [call.reply for call in second.calls] == ["a reply"]


# --- being stopped -------------------------------------------------------------------------------------------------


def hang_when_asked(asked: anyio.Event) -> Callable[[str], Any]:
    async def reply(_: str) -> str:
        asked.set()
        await anyio.sleep_forever()
        return ""

    return reply


async def ask_until(asked: anyio.Event, rlm: RLM, **given: Any) -> Completion:
    """Run, and stop the run as soon as `asked` is set."""
    stop = anyio.Event()
    completed: list[Completion] = []

    async def complete() -> None:
        completed.append(await rlm.acompletion("How many?", stop=stop, **given))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(complete)
            await asked.wait()
            stop.set()
    return completed[0]


@pytest.mark.both_backends
async def test_a_stopped_run_gives_what_it_has() -> None:
    asked = anyio.Event()
    root = script(repl("print('so far')\nllm_query('one')\nllm_query('wait')"))
    sub = ScriptedClient(rules={"wait": hang_when_asked(asked), "": "a reply"}, model="sub")
    done = await ask_until(asked, RLM(root, sub_model=sub))
    assert (done.stopped_by, done.response) == ("cancelled", None)
    assert done.usage.by_model["sub"].calls == 2
    (step,) = done.trajectory
    assert step.cells[0].output == "so far\n"
    assert [(call.reply, call.error is None) for call in step.calls] == [("a reply", True), ("", False)]
    with pytest.raises(LimitExceeded, match="cancelled"):
        done.raise_for_stop()


@pytest.mark.both_backends
async def test_a_child_of_a_stopped_run_is_in_its_record() -> None:
    asked = anyio.Event()
    root = script(repl("rlm_query('And here?', 'more text')"), repl("print('child')"), repl("llm_query('wait')"))
    sub = ScriptedClient(rules={"wait": hang_when_asked(asked)}, model="sub")
    done = await ask_until(asked, RLM(root, sub_model=sub))
    (child,) = done.children
    assert (done.stopped_by, child.stopped_by) == ("cancelled", "cancelled")
    assert (done.usage.calls, child.usage.calls) == (4, 3)
    assert [step.observation for step in child.trajectory] == ["REPL output:\nchild", None]


async def test_a_run_that_is_stopped_while_the_root_model_thinks_ends_at_once() -> None:
    asked = anyio.Event()
    root = ScriptedClient(rules={"": hang_when_asked(asked)}, model="root")
    done = await ask_until(asked, RLM(root))
    assert (done.stopped_by, done.trajectory, done.usage.calls) == ("cancelled", (), 1)


async def test_a_cell_that_computes_is_stopped_too() -> None:
    started = anyio.Event()

    async def begin() -> None:
        started.set()

    done = await ask_until(started, RLM(script(repl("begin()\nwhile True: pass")), functions={"begin": begin}))
    assert done.stopped_by == "cancelled"


@pytest.mark.both_backends
async def test_a_caller_who_cancels_leaves_no_process(children: Callable[[], set[int]]) -> None:
    before = children()
    asked = anyio.Event()
    root = script(repl("rlm_query('And here?')"), repl("llm_query('wait')"))
    rlm = RLM(root, sub_model=ScriptedClient(rules={"wait": hang_when_asked(asked)}, model="sub"))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rlm.acompletion, "How many?")
            await asked.wait()
            assert len(children() - before) >= 2
            tasks.cancel_scope.cancel()
    assert children() - before == set()


# --- failures ------------------------------------------------------------------------------------------------------


async def test_a_failure_of_the_root_model_carries_what_there_was() -> None:
    root = script(repl("print('seen')"), ClientError("the server is down", status=503))
    with pytest.raises(ClientError, match="the server is down") as caught:
        await ask(RLM(root))
    partial = caught.value.partial
    assert isinstance(partial, Completion)
    assert [step.observation for step in partial.trajectory] == ["REPL output:\nseen"]
    assert (partial.response, partial.usage.calls) == (None, 2)


SPEAKS_NONSENSE = """
greet()
while (asked := receive()) is not None:
    if asked["method"] == "execute":
        write(b"nonsense\\r\\n\\r\\n")
    elif "id" in asked:
        send({"id": asked["id"], "result": {}})
"""
SWALLOWS_INTERRUPTS = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
RECURSES = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"


@pytest.mark.parametrize("deadly", [SWALLOWS_INTERRUPTS, RECURSES], ids=["uninterruptible", "deep recursion"])
async def test_a_run_survives_its_sandbox_with_its_variables(deadly: str) -> None:
    heard: list[Event] = []
    root = script(
        repl("mine = 1\nprint('set')"),
        repl("print('doomed')", deadly),
        repl("print(len(context), mine)"),
        repl("FINAL(len(context))"),
    )
    rlm = RLM(root, sandbox=SandboxOptions(timeout=0.5), listeners=[heard.append])
    done = await ask(rlm, context="abc")
    assert done.response == 3
    assert "replaced by a fresh one, which holds `context` again. What this cell did is undone" in told(root, 2)
    assert "All variables of your earlier cells are there as they were." in told(root, 2)
    assert "doomed" in told(root, 2)
    assert "wasm-function" not in told(root, 2)
    assert told(root, 3) == "REPL output:\n3 1"
    [replaced] = [event for event in heard if isinstance(event, SandboxReplaced)]
    # the two that ended well, of three
    assert (replaced.lost, replaced.checkpointed, replaced.repeated, replaced.undone) == ((), 0, 2, 0)
    assert done.trajectory[1].cells[1].executed is None


async def test_a_sandbox_that_breaks_the_protocol_is_replaced_and_the_run_goes_on(
    fake_deno: Callable[[str], Path],
) -> None:
    deno = fake_deno(SPEAKS_NONSENSE)
    root = script(repl("1"), "as far as it went")
    rlm = RLM(root, sandbox=SandboxOptions(deno=deno, use_image=False), limits=Limits(errors=1))
    done = await ask(rlm, context="abc")
    assert (done.stopped_by, done.response) == ("errors", "as far as it went")
    assert "The REPL was lost and replaced by a fresh one" in told(root)


async def test_a_sandbox_that_cannot_be_replaced_ends_the_run_with_what_there_was(
    fake_deno: Callable[[str], Path],
) -> None:
    deno = fake_deno(SPEAKS_NONSENSE)

    def second(_: object) -> str:
        # the first cell's sandbox is lost by now, and that of this one will be
        deno.unlink()
        return repl("2")

    root = script(repl("1"), second, repl("3"))
    rlm = RLM(root, sandbox=SandboxOptions(deno=deno, use_image=False))
    with pytest.raises(SandboxStartError, match="not a program") as caught:
        await ask(rlm)
    partial = caught.value.partial
    assert isinstance(partial, Completion)
    assert (partial.usage.calls, len(partial.trajectory)) == (3, 3)
    assert "could not be started again yet" in told(root)


async def test_a_missing_deno_is_told_before_a_model_is_paid() -> None:
    root = script()
    with pytest.raises(SandboxStartError, match="pip install"):
        await ask(RLM(root, sandbox=SandboxOptions(deno="/nowhere/deno")))
    assert root.calls == []


# --- sync, and many at once ----------------------------------------------------------------------------------------


def test_completion_is_for_plain_code() -> None:
    done = RLM(script(repl("FINAL(context.upper())"))).completion("In capitals?", context="abc")
    assert done.response == "ABC"


@pytest.mark.both_backends
async def test_completion_works_inside_a_running_event_loop() -> None:
    rlm = RLM(script(repl("FINAL(context.upper())"), ClientError("no more")))
    assert rlm.completion("In capitals?", context="abc").response == "ABC"
    with pytest.raises(ClientError, match="no more"):
        rlm.completion("And now?")


@pytest.mark.both_backends
async def test_two_completions_at_once_share_nothing() -> None:
    both = anyio.Event()
    waiting: list[str] = []

    async def meet(prompt: str) -> str:
        waiting.append(prompt)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        return prompt.upper()

    cell = "alone = 'mine' not in globals()\nmine = llm_query(context)\nFINAL((mine, alone, context))"
    rlm = RLM(ScriptedClient(rules={"": repl(cell)}), sub_model=ScriptedClient(rules={"": meet}, model="sub"))
    completed: dict[str, Completion] = {}

    async def complete(text: str) -> None:
        completed[text] = await ask(rlm, context=text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(complete, "left")
        tasks.start_soon(complete, "right")
    for text, done in completed.items():
        assert done.response == (text.upper(), True, text)
        assert done.usage.calls == 2
        assert [call.prompt for call in done.trajectory[0].calls] == [text]
    assert completed["left"].run != completed["right"].run


@pytest.mark.both_backends
async def test_as_a_context_manager_it_keeps_sandboxes_warm_and_shares_none_of_them() -> None:
    root = ScriptedClient(rules={"": repl("new = 'old' not in globals()\nold = 1\nFINAL((new, context))")})
    with anyio.fail_after(60):
        async with RLM(root, warm=1) as rlm:
            for text in ("one", "two"):
                assert (await rlm.acompletion("New?", context=text)).response == (True, text)
            with pytest.raises(ValueError, match="event loop"):
                rlm.completion("And from another event loop?")
        assert (await rlm.acompletion("And after?", context="three")).response == (True, "three")


@pytest.mark.both_backends
async def test_a_pool_of_the_callers_lends_every_run_a_fresh_sandbox() -> None:
    def place() -> str:
        return "the caller's"

    root = ScriptedClient(rules={"": repl("new = 'old' not in globals()\nold = place()\nFINAL((new, old, context))")})
    options = RLM(root, functions={"place": place}).sandbox
    with anyio.fail_after(60):
        async with SandboxPool(1, options=options) as pool:
            rlm = RLM(root, functions={"place": place}, pool=pool)
            for text in ("one", "two"):
                assert (await rlm.acompletion("New?", context=text)).response == (True, "the caller's", text)
            with pytest.raises(ValueError, match="names must be"):
                await RLM(root, pool=pool).acompletion("And with other functions?")
            with pytest.raises(ValueError, match="event loop"):
                rlm.completion("And from another event loop?")
