"""The choice between a plain call and a run: which way, by which profile, why, and one budget over both."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from rlm_wasm import (
    RLM,
    ClientError,
    Event,
    LimitExceeded,
    Limits,
    Price,
    Profile,
    Routed,
    Router,
    SandboxOptions,
    ScriptedClient,
)
from rlm_wasm.contexts import as_text
from rlm_wasm.events import BudgetSpent, RootAsked, RootReplied, RunStarted, RunStopped
from rlm_wasm.router import PROFILES, choose_profile
from rlm_wasm.windows import says_too_long

pytestmark = pytest.mark.anyio

LONG = "a line of text\n" * 1000
TOO_LONG = ClientError("This model's maximum context length is 8192 tokens", status=400)


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def script(*replies: Any, model: str = "root") -> ScriptedClient:
    return ScriptedClient(replies, model=model)


async def ask(router: Router, question: str = "How many lines?", **given: Any) -> Routed:
    with anyio.fail_after(60):
        return await router.acompletion(question, **given)


# --- which way -----------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_a_short_context_goes_into_one_plain_message_and_no_sandbox_is_started() -> None:
    root = script("Two.")
    routed = await ask(Router(RLM(root, sandbox=SandboxOptions(deno="/nowhere/deno"))), context="one\ntwo")
    ((message,),) = root.calls
    assert message.role == "user"
    assert "How many lines?" in message.content
    assert "one\ntwo" in message.content
    assert (routed.response, routed.route, routed.stopped_by) == ("Two.", "plain", "final")
    assert routed.reason == "the context has 7 characters, and 8,000 are short"
    assert (routed.profile, routed.completion) == (None, None)
    assert routed.usage.by_model["root"].calls == 1
    assert routed.raise_for_stop() is routed


@pytest.mark.both_backends
async def test_a_long_context_is_a_run_with_the_profiles_instruction_in_its_question() -> None:
    root = script(repl("FINAL(context.count('\\n'))"))
    routed = await ask(Router(RLM(root), profile="verify"), context=LONG)
    assert (routed.response, routed.route, routed.profile) == (1000, "rlm", "verify")
    assert routed.reason == "the context has more than 8,000 characters"
    assert routed.question == "How many lines?"
    assert routed.completion is not None
    assert routed.completion.stopped_by == "final"
    assert routed.usage == routed.completion.usage
    asked = root.calls[0][1].content
    assert "How many lines?" in asked
    assert PROFILES["verify"].instruction in asked
    assert "a line of text" not in asked


@pytest.mark.parametrize(("chars", "route"), [(10, "plain"), (11, "rlm")])
async def test_the_threshold_itself_is_still_plain(chars: int, route: str) -> None:
    rlm = RLM(ScriptedClient(rules={"In the REPL": repl("FINAL(len(context))"), "": "some"}))
    assert (await ask(Router(rlm, threshold_chars=10), context="x" * chars)).route == route


async def test_without_a_context_the_question_alone_is_asked() -> None:
    root = script("I cannot know.")
    assert (await ask(Router(RLM(root)))).route == "plain"
    assert root.calls[0][0].content == "Question: How many lines?"


async def test_bytes_are_never_put_into_a_prompt() -> None:
    routed = await ask(Router(RLM(script(repl("FINAL(len(context))")))), context=b"abc")
    assert (routed.response, routed.route) == (3, "rlm")
    assert routed.reason == "the context is bytes, which no prompt holds"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("as it is", "as it is"),
        (["one", "two"], "[0]\none\n\n[1]\ntwo"),
        ({"a.txt": "one"}, "[a.txt]\none"),
        ({"one": [1, 2.5]}, "{'one': [1, 2.5]}"),
        (b"bytes", None),
        ("x" * 101, None),
        (["x" * 60, "y" * 60], None),
        ({"deep": [{"deeper": "x" * 101}]}, None),
        (list(range(60)), None),
    ],
)
def test_what_a_plain_call_would_show_of_a_context(value: object, text: str | None) -> None:
    assert as_text(value, at_most=100) == text


def test_a_router_that_makes_no_sense_is_refused() -> None:
    rlm = RLM(script())
    with pytest.raises(ValueError, match="threshold_chars must be 0 or more"):
        Router(rlm, threshold_chars=-1)
    with pytest.raises(ValueError, match=r"no profile 'fast': use 'auto', one of \['deterministic_first', 'hybrid'"):
        Router(rlm, profile="fast")


async def test_an_empty_question_is_refused_before_anything_is_asked() -> None:
    root = script()
    with pytest.raises(ValueError, match="question is empty"):
        await ask(Router(RLM(root)), " ")
    assert root.calls == []


# --- profiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "profile"),
    [
        ("How many errors are in the log?", "deterministic_first"),
        ("When was the contract signed?", "deterministic_first"),
        ("List all e-mail addresses.", "deterministic_first"),
        ("How many users are verified?", "deterministic_first"),
        ("Summarise the chapters.", "semantic_batches"),
        ("Why did the two of them part?", "semantic_batches"),
        ("Classify each review.", "semantic_batches"),
        ("How many of the reviews are angry?", "hybrid"),
        ("Which countries took part?", "hybrid"),
        ("Is it in the text?", "hybrid"),
        ("How many errors are there? Double-check it.", "verify"),
        ("VERIFY the figures.", "verify"),
        ("Summarise it, and be sure that nothing is left out.", "verify"),
    ],
)
def test_the_profile_is_chosen_by_the_words_of_the_question(question: str, profile: str) -> None:
    assert choose_profile(question) == profile


async def test_where_no_profile_is_named_the_question_chooses() -> None:
    root = ScriptedClient(rules={"": repl("FINAL(1)")})
    router = Router(RLM(root))
    for question in ("How many?", "Why?"):
        routed = await ask(router, question, context=LONG)
        assert routed.profile == choose_profile(question)
        assert PROFILES[choose_profile(question)].instruction in root.calls[-1][1].content


async def test_a_profile_may_be_the_callers_own() -> None:
    root = script(repl("FINAL(1)"))
    routed = await ask(Router(RLM(root), profile=Profile("mine", "Read it backwards.")), context=LONG)
    assert routed.profile == "mine"
    assert "Read it backwards." in root.calls[0][1].content


def test_there_are_the_four_profiles_and_no_two_say_the_same() -> None:
    assert set(PROFILES) == {"deterministic_first", "semantic_batches", "hybrid", "verify"}
    assert len({profile.instruction for profile in PROFILES.values()}) == 4
    assert all(profile.name == name for name, profile in PROFILES.items())


# --- from the plain call to the run --------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_a_plain_call_that_is_too_long_for_the_model_becomes_a_run_and_is_counted() -> None:
    root = script(TOO_LONG, repl("FINAL(context)"))
    routed = await ask(Router(RLM(root)), context="short")
    assert (routed.response, routed.route) == ("short", "rlm")
    assert routed.reason.startswith("the plain call was too long for the model (This model's maximum context length")
    assert routed.usage.calls == 2
    assert routed.completion is not None
    assert routed.completion.usage.calls == 1


@pytest.mark.parametrize(
    ("error", "too_long"),
    [
        (TOO_LONG, True),
        (ClientError("prompt is too long: 210000 tokens > 200000 maximum", status=400), True),
        (ClientError("The input token count (9) exceeds the maximum number of tokens allowed (8)", status=400), True),
        (ClientError("the request exceeds the available context size", status=400), True),
        (ClientError("Payload", status=413), True),
        (ClientError("Rate limit reached for requests", status=429), False),
        (ClientError("Incorrect API key provided", status=401), False),
        (ClientError("the reply has no text, finish_reason 'length' (the output tokens were used up)"), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_too_long_is_known_by_the_status_or_the_words(error: ClientError, too_long: bool) -> None:
    assert says_too_long(error) is too_long


async def test_any_other_failure_of_the_plain_call_is_raised_with_what_it_took() -> None:
    root = script(ClientError("the server is down", status=503))
    with pytest.raises(ClientError, match="the server is down") as caught:
        await ask(Router(RLM(root)), context="short")
    partial = caught.value.partial
    assert isinstance(partial, Routed)
    assert (partial.route, partial.stopped_by, partial.usage.calls) == ("plain", "errors", 1)


async def test_a_failure_of_the_run_after_a_plain_call_carries_what_both_took() -> None:
    root = script(TOO_LONG, repl("print(1)"), ClientError("the server is down", status=503))
    with pytest.raises(ClientError, match="the server is down") as caught:
        await ask(Router(RLM(root)), context="short")
    partial = caught.value.partial
    assert isinstance(partial, Routed)
    assert (partial.route, partial.usage.calls) == ("rlm", 3)
    assert partial.completion is not None
    assert len(partial.completion.trajectory) == 1


# --- the answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "reply", "response"),
    [
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '```json\n{"one": 1}\n```', {"one": 1}),
        (int, "<think>one and one</think>\n2", 2),
        (str, "plain words", "plain words"),
        (str, '"in quotes"', "in quotes"),
    ],
)
async def test_a_plain_reply_is_read_as_the_type_asked_for(output: Any, reply: str, response: object) -> None:
    root = script(reply)
    routed = await ask(Router(RLM(root)), context="short", output=output)
    assert (routed.response, routed.route) == (response, "plain")
    assert "JSON Schema" in root.calls[0][0].content


async def test_a_plain_reply_that_does_not_fit_the_type_becomes_a_run() -> None:
    routed = await ask(Router(RLM(script("about two", repl("FINAL(2)")))), context="short", output=int)
    assert (routed.response, routed.route, routed.usage.calls) == (2, "rlm", 2)
    assert "did not fit the type asked for" in routed.reason


@pytest.mark.parametrize("reply", ["", "<think>and so on"], ids=["nothing", "a thought without an end"])
async def test_a_plain_reply_that_says_nothing_becomes_a_run(reply: str) -> None:
    routed = await ask(Router(RLM(script(reply, repl("FINAL(2)")))), context="short")
    assert (routed.response, routed.route) == (2, "rlm")
    assert routed.reason == "the reply to the plain call held no answer"


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["tokens", "usd"])
async def test_a_plain_call_that_does_not_fit_the_limits_is_not_made(limit: str) -> None:
    limits = Limits(tokens=1000) if limit == "tokens" else Limits(usd=1000 / 1_000_000)
    root = script()
    routed = await ask(Router(RLM(root, limits=limits, prices={"root": Price(1, 1)})), context="x" * 8000)
    assert (routed.response, routed.route, routed.stopped_by) == (None, "plain", limit)
    assert (root.calls, routed.usage.calls) == ([], 0)
    with pytest.raises(LimitExceeded, match=limit) as caught:
        routed.raise_for_stop()
    assert caught.value.partial is routed


async def test_what_the_plain_call_took_is_missing_to_the_run() -> None:
    # the reply of about 2,500 tokens leaves too little for the run's first
    root = script("x" * 10_000)
    routed = await ask(Router(RLM(root, limits=Limits(tokens=3000))), context="short", output=int)
    assert (routed.response, routed.route, routed.stopped_by) == (None, "rlm", "tokens")
    assert routed.limit is not None
    assert routed.limit.used == routed.usage.tokens > 2500
    assert len(root.calls) == 1


def test_seconds_end_a_plain_call_that_gives_no_reply() -> None:
    clock = MockClock(autojump_threshold=0)

    async def hang(_: object) -> str:
        await anyio.sleep_forever()
        return ""

    async def main() -> Routed:
        return await ask(Router(RLM(script(hang), limits=Limits(seconds=9))), context="short")

    routed = anyio.run(main, backend="trio", backend_options={"clock": clock})
    assert (routed.response, routed.route, routed.stopped_by, routed.usage.calls) == (None, "plain", "seconds", 1)


# --- the doors, and those who listen -------------------------------------------------------------------------------


@pytest.mark.both_backends
@pytest.mark.parametrize(("threshold", "route"), [(8000, "plain"), (0, "rlm")])
async def test_somebody_may_say_stop_on_either_way(threshold: int, route: str) -> None:
    stop = anyio.Event()
    events: list[Event] = []

    async def hang(_: object) -> str:
        stop.set()
        await anyio.sleep_forever()
        return ""

    rlm = RLM(script(hang), listeners=[events.append])
    with anyio.fail_after(60):
        routed = await Router(rlm, threshold_chars=threshold).acompletion("How many?", context="short", stop=stop)
    assert (routed.response, routed.route, routed.stopped_by) == (None, route, "cancelled")
    assert routed.usage.calls == 1
    assert isinstance(events[-1], RunStopped)
    assert events[-1].stopped_by == "cancelled"


async def test_a_failure_of_a_plain_call_that_could_be_stopped_is_raised_as_it_is() -> None:
    with pytest.raises(ClientError, match="down"), anyio.fail_after(60):
        await Router(RLM(script(ClientError("down")))).acompletion("How?", context="short", stop=anyio.Event())


def test_completion_is_for_plain_code() -> None:
    assert Router(RLM(script("Two."))).completion("How many?", context="one\ntwo").response == "Two."


async def test_a_router_over_a_pool_belongs_to_the_pools_event_loop() -> None:
    with anyio.fail_after(60):
        async with RLM(script(repl("FINAL(len(context))")), warm=1) as rlm:
            assert (await ask(Router(rlm), context=LONG)).response == len(LONG)
            with pytest.raises(ValueError, match="event loop"):
                Router(rlm).completion("How many?")


async def test_listeners_hear_a_plain_call_as_a_run_of_one_reply() -> None:
    heard: list[Event] = []
    await ask(Router(RLM(script("Two."), listeners=[heard.append])), context="one\ntwo")
    assert [type(event) for event in heard] == [RunStarted, RootAsked, BudgetSpent, RootReplied, RunStopped]
    assert len({event.run for event in heard}) == 1
    assert isinstance(heard[-1], RunStopped)
    assert (heard[-1].stopped_by, heard[-1].calls) == ("final", 1)
