"""What cells may call, with scripted models and the real sandbox: sub models, children, the budget."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Completion, Event, LimitExceeded, Limits, ScriptedClient
from rlm_wasm.bridge import describe_functions
from rlm_wasm.events import CallStarted

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def script(*replies: Any) -> ScriptedClient:
    return ScriptedClient(replies, model="root")


def echo(prompt: str) -> str:
    return f"<{prompt}>"


def sub_model(rules: Any = None) -> ScriptedClient:
    return ScriptedClient(rules={"": echo} if rules is None else rules, model="sub")


async def ask(root: ScriptedClient, sub: ScriptedClient | None = None, **given: Any) -> Completion:
    with anyio.fail_after(60):
        return await RLM(root, sub_model=sub or sub_model(), **given).acompletion("How many?", context="the context")


async def final(code: str, sub: ScriptedClient | None = None, **given: Any) -> Any:
    """What FINAL was given by a cell, which must be the only one."""
    return (await ask(script(repl(code)), sub, **given)).raise_for_stop().response


def told(client: ScriptedClient) -> str:
    """The last message of the client's last call."""
    return client.calls[-1][-1].content


class Crowd:
    """A sub model's reply that counts how many are being given at once, and waits until `size` are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = self.most = 0
        self.all_here = anyio.Event()

    async def __call__(self, prompt: str) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.size:
            self.all_here.set()
        with anyio.fail_after(30):
            await self.all_here.wait()
        # whoever could come in by now has done so
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        self.now -= 1
        return echo(prompt)


# --- llm_query -----------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_llm_query_asks_the_sub_model_and_only_that() -> None:
    root, sub = script(repl("FINAL(llm_query('What is it?'))")), sub_model()
    done = await ask(root, sub)
    assert done.response == "<What is it?>"
    assert [[(message.role, message.content) for message in call] for call in sub.calls] == [[("user", "What is it?")]]
    assert (done.usage.by_model["root"].calls, done.usage.by_model["sub"].calls) == (1, 1)
    (call,) = done.trajectory[0].calls
    assert (call.function, call.model, call.prompt, call.reply) == ("llm_query", "sub", "What is it?", "<What is it?>")
    assert (call.error, call.child) == (None, None)


async def test_without_a_sub_model_the_root_model_is_asked() -> None:
    root = ScriptedClient([repl("FINAL(llm_query('What is it?'))"), "It is this."], model="root")
    with anyio.fail_after(60):
        done = await RLM(root).acompletion("How many?")
    assert done.response == "It is this."
    assert done.usage.by_model["root"].calls == 2


async def test_a_batch_keeps_its_order_and_never_has_more_than_max_concurrency_at_once() -> None:
    crowd = Crowd(3)
    code = "FINAL(llm_query_batched([f'prompt {n}' for n in range(12)]))"
    assert await final(code, sub_model({"": crowd}), max_concurrency=3) == [f"<prompt {n}>" for n in range(12)]
    assert crowd.most == 3


async def test_a_batch_may_be_empty() -> None:
    assert await final("FINAL(llm_query_batched([]))") == []


async def test_a_call_may_name_a_model_of_the_run_and_no_other() -> None:
    root = script(
        repl("by_root = llm_query('a', model='root')\nby_sub = llm_query('a', model='sub')"),
        "the root model's",
        repl("llm_query('a', model='gpt-5')"),
        repl("FINAL((by_root, by_sub))"),
    )
    done = await ask(root)
    assert done.response == ("the root model's", "<a>")
    assert "there is no model 'gpt-5' here" in root.calls[-1][-1].content
    assert "['root', 'sub']" in root.calls[-1][-1].content


WRONG_ARGUMENTS = {
    "llm_query(42)": "a prompt must be a str, not int",
    "llm_query_batched(['fine', None])": "a prompt must be a str, not NoneType",
    "llm_query_batched('letters')": "prompts must be a list, not str",
    "llm_query_batched(['a'] * 10_001)": "prompts has 10,001 items; at most 10,000",
    "llm_query('a' * 8_000_001)": "the prompt has 8,000,001 characters",
    "rlm_query(['a list'])": "the question must be a str, not list",
    "rlm_query_batched(['one', 'two'], ['a text'])": "there are 2 questions but 1 contexts",
    "llm_query('a', model=['sub'])": "there is no model \"['sub']\" here",
}


async def test_arguments_of_the_wrong_kind_raise_in_the_cell_and_reach_no_model() -> None:
    sub = sub_model()
    code = (
        "said = []\n"
        f"for call in {list(WRONG_ARGUMENTS)!r}:\n"
        "    try:\n        eval(call)\n"
        "    except FunctionError as error:\n        said.append(str(error))\n"
        "FINAL(said)"
    )
    for said, reason in zip(await final(code, sub), WRONG_ARGUMENTS.values(), strict=True):
        assert reason in said
    assert sub.calls == []


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_a_batch_of_500_against_100_calls_makes_exactly_100() -> None:
    root = script(
        repl(
            "try:\n"
            "    llm_query_batched([f'{n}' for n in range(500)])\n"
            "except LimitExceeded as error:\n"
            "    had = [answer for answer in error.partial if answer is not None]\n"
            "    print(type(error).__name__, isinstance(error, FunctionError), len(error.partial), len(had))\n"
        ),
        repl("FINAL(len(had))"),
    )
    sub = sub_model()
    done = await ask(root, sub, limits=Limits(calls=100))
    assert len(sub.calls) == 100
    assert (done.stopped_by, done.response) == ("calls", 100)
    assert done.usage.by_model["sub"].calls == 100
    assert "LimitExceeded True 500 100" in root.calls[1][-1].content
    with pytest.raises(LimitExceeded, match=r"calls \(100 used of 100 allowed\)"):
        done.raise_for_stop()


async def test_a_cell_that_meets_a_limit_and_calls_final_has_answered() -> None:
    code = "try:\n    llm_query_batched(['a', 'b', 'c'])\nexcept LimitExceeded as error:\n    FINAL(error.partial)"
    done = await ask(script(repl(code)), limits=Limits(calls=2))
    assert (done.stopped_by, done.response) == ("final", ["<a>", "<b>", None])


async def test_a_limit_that_a_cell_does_not_catch_is_its_traceback_and_ends_the_run() -> None:
    root = script(repl("for n in range(9):\n    llm_query(str(n))"), "as far as it went")
    done = await ask(root, limits=Limits(calls=3))
    assert (done.stopped_by, done.response) == ("calls", "as far as it went")
    assert "LimitExceeded: limit reached: calls (3 used of 3 allowed)" in root.calls[1][-1].content


async def test_budget_tells_what_is_left() -> None:
    code = "before = budget()\nllm_query('a')\nafter = budget()\nFINAL((before, after))"
    before, after = await final(code, limits=Limits(calls=7, tokens=100_000, seconds=1000))
    assert (before["calls_left"], after["calls_left"]) == (7, 6)
    assert before["usd_left"] is None
    assert 0 < after["tokens_left"] < before["tokens_left"] < 100_000
    assert 0 < after["seconds_left"] <= before["seconds_left"] < 1000


# --- failures ------------------------------------------------------------------------------------------------------

SECRET = "sk-0123456789 is not a key that /home/somebody has"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ClientError(SECRET, status=503), "the model could not be asked (HTTP 503)"),
        (ClientError(SECRET), "the model could not be asked"),
        (ClientError(SECRET, status=400), "the model refused the prompt of 3 characters (HTTP 400)"),
        (ValueError(SECRET), "ValueError"),
    ],
    ids=["status", "no status", "refused", "no error of ours"],
)
async def test_one_failure_of_many_leaves_the_other_answers_and_tells_no_secret(failure: Exception, told: str) -> None:
    root = script(
        repl(
            "try:\n"
            "    llm_query_batched(['one', 'bad', 'two'])\n"
            "except FunctionError as error:\n"
            "    print(error)\n"
            "    had = error.partial"
        ),
        repl("llm_query('bad')"),
        repl("FINAL(had)"),
    )
    done = await ask(root, sub_model({"bad": failure, "": echo}))
    assert done.response == ["<one>", None, "<two>"]
    assert f"llm_query_batched: 1 of 3 failed, the first: {told}" in root.calls[1][-1].content
    assert f"llm_query: {told}" in root.calls[2][-1].content
    shown = "".join(message.content for message in root.calls[2])
    assert not any(word in shown for word in ("sk-0123", "somebody", "ExceptionGroup"))
    # the host keeps what happened
    failed = [call.error for call in done.trajectory[0].calls if call.error is not None]
    assert failed == [f"{type(failure).__name__}: {SECRET}"]


# --- children ------------------------------------------------------------------------------------------------------


def is_child(replies: dict[str, str]) -> Callable[..., str]:
    """A root model's reply by what the opening message asks."""

    def reply(messages: Any) -> str:
        return next(text for part, text in replies.items() if part in messages[1].content)

    return reply


def family(**replies: str) -> ScriptedClient:
    """A root model that answers a run by the question it was opened with; "How many?" is the parent's."""
    chosen = {question.replace("_", " "): repl(code) for question, code in replies.items()}
    return ScriptedClient([is_child(chosen)] * 100, model="root")


@pytest.mark.both_backends
async def test_a_child_has_its_own_context_and_namespace_and_returns_a_python_value() -> None:
    root = family(
        How_many="mine = 1\nanswer = rlm_query('And here?', ('other', 2))\nFINAL((answer, mine))",
        And_here="fresh = 'mine' not in globals()\nmine = 2\nFINAL({'context': context, 'fresh': fresh})",
    )
    done = await ask(root)
    assert done.response == ({"context": ("other", 2), "fresh": True}, 1)
    (child,) = done.children
    assert (child.question, child.depth, child.stopped_by) == ("And here?", 1, "final")
    assert child.response == done.response[0]
    assert done.trajectory[0].calls[0].child is child
    assert "tuple of 2 items" in root.calls[1][1].content
    assert "other" not in root.calls[1][1].content


async def test_a_childs_usage_is_in_its_parents_and_its_own_is_only_its_own() -> None:
    root = family(
        How_many="llm_query('from the parent')\nFINAL(rlm_query('And here?', 'text'))",
        And_here="llm_query('from the child')\nllm_query('again')\nFINAL(1)",
    )
    done = await ask(root)
    child = done.children[0]
    assert {model: usage.calls for model, usage in child.usage.by_model.items()} == {"root": 1, "sub": 2}
    assert {model: usage.calls for model, usage in done.usage.by_model.items()} == {"root": 2, "sub": 3}
    assert done.usage.tokens > child.usage.tokens
    (of_child,) = [call for call in done.trajectory[0].calls if call.function == "rlm_query"]
    assert (of_child.input_tokens, of_child.output_tokens) == (child.usage.input_tokens, child.usage.output_tokens)


async def test_a_child_without_a_context_has_none() -> None:
    root = family(How_many="FINAL(rlm_query('And here?'))", And_here="FINAL(context is None)")
    assert (await ask(root)).response is True


async def test_children_of_a_batch_run_at_once_and_keep_their_order() -> None:
    crowd = Crowd(3)
    root = family(
        How_many="FINAL(rlm_query_batched(['And here?'] * 3, ['a', 'b', 'c']))", And_here="FINAL(llm_query(context))"
    )
    done = await ask(root, sub_model({"": crowd}))
    assert done.response == ["<a>", "<b>", "<c>"]
    assert crowd.most == 3
    assert len(done.children) == 3


@pytest.mark.parametrize(
    ("context", "prompt"),
    [("'the text'", "And here?\n\nthe text"), ("None", "And here?"), ("['a', 1]", "And here?\n\n['a', 1]")],
    ids=["text", "none", "a value"],
)
async def test_at_the_depth_limit_a_child_becomes_a_sub_model_over_the_same_text(context: str, prompt: str) -> None:
    sub = sub_model()
    assert await final(f"FINAL(rlm_query('And here?', {context}))", sub, limits=Limits(depth=0)) == f"<{prompt}>"
    assert [call[0].content for call in sub.calls] == [prompt]


async def test_a_childs_own_child_is_a_sub_model_by_default_and_its_prompt_does_not_promise_one() -> None:
    root = family(How_many="FINAL(rlm_query('And here?'))", And_here="FINAL(rlm_query('And below?', 'text'))")
    done = await ask(root)
    assert done.response == "<And below?\n\ntext>"
    assert "rlm_query" in root.calls[0][0].content
    assert "rlm_query" not in root.calls[1][0].content


async def test_with_more_depth_children_have_children() -> None:
    root = family(
        How_many="FINAL(rlm_query('And here?'))",
        And_here="FINAL(rlm_query('And below?') + 1)",
        And_below="FINAL(1)",
    )
    done = await ask(root, limits=Limits(depth=2))
    assert done.response == 2
    assert done.children[0].children[0].depth == 2
    assert done.usage.calls == 3


async def test_a_child_that_was_stopped_without_an_answer_is_a_function_error_in_its_parent() -> None:
    root = ScriptedClient(
        [
            repl("try:\n    rlm_query('And here?')\nexcept FunctionError as error:\n    print(error)"),
            repl("1 / 0"),
            "",
            repl("FINAL('on my own')"),
        ],
        model="root",
    )
    done = await ask(root, limits=Limits(errors=1))
    assert (done.response, done.stopped_by) == ("on my own", "final")
    assert "rlm_query: the child was stopped before it had an answer (by its limit: errors)" in told(root)
    (call,) = done.trajectory[0].calls
    assert call.child is not None
    assert (call.reply, call.child.stopped_by) == ("", "errors")


async def test_a_child_stopped_with_a_best_answer_gives_it() -> None:
    root = script(
        repl("FINAL(rlm_query('And here?'))"),
        repl("1 / 0"),
        "my best guess",
    )
    done = await ask(root, limits=Limits(errors=1))
    assert (done.response, done.children[0].stopped_by) == ("my best guess", "errors")


async def test_a_child_whose_model_fails_is_a_function_error_and_its_record_is_kept() -> None:
    root = script(
        repl("rlm_query('And here?')"), repl("print('child')"), ClientError(SECRET, status=500), repl("FINAL(1)")
    )
    done = await ask(root)
    assert done.response == 1
    assert "rlm_query: the model could not be asked (HTTP 500)" in told(root)
    assert "sk-" not in told(root)
    (child,) = done.children
    assert [step.observation for step in child.trajectory] == ["REPL output:\nchild"]
    assert (done.usage.calls, child.usage.calls) == (4, 2)


async def test_children_spend_from_the_same_calls() -> None:
    root = family(
        How_many="answers = []\nfor n in range(9):\n    answers.append(rlm_query('And here?'))",
        And_here="FINAL(llm_query('a'))",
    )
    sub = sub_model()
    done = await ask(root, sub, limits=Limits(calls=5))
    # two for each child: its root model's, and its own
    assert (done.stopped_by, len(sub.calls)) == ("calls", 2)
    assert done.usage.calls == 5 + 2


async def test_own_functions_are_for_children_too() -> None:
    root = family(How_many="FINAL(rlm_query('And here?'))", And_here="FINAL(place())")
    assert (await ask(root, functions={"place": lambda: "here"})).response == "here"


# --- waiting at once -----------------------------------------------------------------------------------------------

OVERLAPPING = {
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(5) as threads:\n"
        "    FINAL(list(threads.map(llm_query, 'abcde')))"
    ),
    "to_thread": (
        "import asyncio\nFINAL(await asyncio.gather(*[asyncio.to_thread(llm_query, letter) for letter in 'abcde']))"
    ),
}


@pytest.mark.parametrize("code", OVERLAPPING.values(), ids=OVERLAPPING)
async def test_calls_from_a_cells_own_threads_overlap(code: str) -> None:
    crowd = Crowd(5)
    assert await final(code, sub_model({"": crowd})) == [f"<{letter}>" for letter in "abcde"]
    assert crowd.most == 5


async def test_calls_that_a_cell_does_not_wait_for_are_given_up_and_counted() -> None:
    released = anyio.Event()

    async def hang(prompt: str) -> str:
        await released.wait()
        return prompt

    code = (
        "import threading\n"
        "threading.Thread(target=llm_query, args=('wait',), daemon=True).start()\n"
        "llm_query('at once')\nprint('over')"
    )
    root = script(repl(code), repl("FINAL('done')"))
    done = await ask(root, sub_model({"wait": hang, "": echo}))
    assert done.response == "done"
    assert [(call.prompt, call.error is None) for call in done.trajectory[0].calls] == [
        ("at once", True),
        ("wait", False),
    ]
    assert done.usage.by_model["sub"].calls == 2


async def test_max_concurrency_holds_over_all_children_together() -> None:
    crowd, children = Crowd(4), Crowd(2)
    started: list[CallStarted] = []
    loop = asyncio.get_running_loop()

    async def child(_: Any) -> str:
        # a root model's call takes a place too: both have had theirs before either child asks for more
        await children("")
        return repl("FINAL(llm_query_batched(['a', 'b']))")

    def listen(event: Event) -> None:
        # two children ask two each: all four have begun, of which two wait for a place
        if isinstance(event, CallStarted) and event.function == "llm_query":
            started.append(event)
            if len(started) == 4:
                loop.call_soon_threadsafe(crowd.all_here.set)

    root = script(repl("FINAL(rlm_query_batched(['And here?'] * 2))"), child, child)
    done = await ask(root, sub_model({"": crowd}), max_concurrency=2, listeners=[listen])
    assert done.response == [["<a>", "<b>"]] * 2
    assert crowd.most == 2


# --- what it says of functions -------------------------------------------------------------------------------------


def test_functions_are_described_by_signature_and_docstring() -> None:
    def documented(name: str, year=None):
        """Does it."""

    class Callable:
        def __call__(self, *names: str) -> int:
            return len(names)

    described = describe_functions({"documented": documented, "called": Callable(), "maximum": max})
    assert described == {
        "documented(name: 'str', year=None)": "Does it.",
        "called(*names: 'str') -> 'int'": "",
        "maximum(...)": inspect.getdoc(max),
    }
