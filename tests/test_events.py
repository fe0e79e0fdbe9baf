"""What happened, as it happens: the order of a small run, its stamps, and listeners that fail."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Completion, Event, Limits, ScriptedClient
from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Emitter,
    IterationFinished,
    IterationStarted,
    Printed,
    RootReplied,
    RunStarted,
    RunStopped,
)

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def heard(*replies: Any, **given: Any) -> tuple[list[Any], Completion]:
    """The events of a run whose sub model answers "a reply", and what it came to."""
    events: list[Any] = []
    sub = ScriptedClient(rules={"": "a reply"}, model="sub")
    rlm = RLM(ScriptedClient(replies, model="root"), sub_model=sub, listeners=[events.append], **given)
    with anyio.fail_after(60):
        return events, await rlm.acompletion("How many?", context="abc")


@pytest.mark.both_backends
async def test_the_events_of_a_run_come_in_order_and_stamped() -> None:
    first = "print('look')\nllm_query('What is it?')"
    events, done = await heard(repl(first), repl("FINAL(3)"))
    assert [type(event) for event in events] == [
        RunStarted,
        IterationStarted,
        RootReplied,
        CellStarted,
        Printed,
        CallStarted,
        CallFinished,
        # the echo of the bare last expression
        Printed,
        CellFinished,
        IterationFinished,
        IterationStarted,
        RootReplied,
        CellStarted,
        CellFinished,
        IterationFinished,
        RunStopped,
    ]
    assert [event.iteration for event in events] == [0] + [1] * 9 + [2] * 6
    assert {event.run for event in events} == {done.run}
    assert {(event.parent, event.depth) for event in events} == {(None, 0)}
    assert all(earlier.monotonic <= later.monotonic for earlier, later in pairwise(events))
    assert all(event.wall > 1_700_000_000 for event in events)

    assert events[9].seconds >= events[2].seconds
    started, _, replied, cell, printed, asked, answered, _, ran = events[:9]
    assert (started.question, started.model, started.sub_model) == ("How many?", "root", "sub")
    assert "str of 3 characters" in started.context
    assert (replied.text, replied.output_tokens) == (repl(first), done.trajectory[0].output_tokens)
    assert cell.code == first
    assert (printed.stream, printed.text) == ("stdout", "look\n")
    assert (asked.call, asked.of, asked.function, asked.model) == (1, 1, "llm_query", "sub")
    assert asked.prompt == "What is it?"
    assert (answered.call, answered.reply, answered.error) == (1, "a reply", None)
    assert (ran.output, ran.error, ran.truncated) == ("look\n'a reply'\n", None, 0)


async def test_the_last_event_says_what_ended_the_run_and_what_it_took() -> None:
    events, done = await heard(repl("FINAL(3)"))
    stopped = events[-1]
    assert (stopped.stopped_by, stopped.calls, stopped.seconds) == ("final", 1, done.seconds)
    assert (stopped.input_tokens, stopped.output_tokens) == (done.usage.input_tokens, done.usage.output_tokens)
    assert stopped.usd is None

    events, _ = await heard(repl("1 / 0"), "a guess", limits=Limits(errors=1))
    assert events[-1].stopped_by == "errors"
    assert "ZeroDivisionError" in str(next(event.error for event in events if isinstance(event, CellFinished)))


async def test_a_run_that_fails_says_that_it_stopped() -> None:
    events: list[Event] = []
    rlm = RLM(ScriptedClient([ClientError("down")], model="root"), listeners=[events.append])
    with anyio.fail_after(60), pytest.raises(ClientError):
        await rlm.acompletion("How many?")
    assert isinstance(events[-1], RunStopped)


async def test_the_events_of_a_child_name_it_and_its_parent() -> None:
    events, done = await heard(repl("FINAL(rlm_query('And here?', 'text'))"), repl("FINAL(1)"))
    (child,) = done.children
    of_child = [event for event in events if event.run == child.run]
    assert {(event.parent, event.depth) for event in of_child} == {(done.run, 1)}
    assert [type(event) for event in of_child] == [
        RunStarted,
        IterationStarted,
        RootReplied,
        CellStarted,
        CellFinished,
        IterationFinished,
        RunStopped,
    ]
    # between the parent's call and its answer
    kinds = [type(event) for event in events]
    assert kinds.index(CallStarted) < events.index(of_child[0])
    assert events.index(of_child[-1]) < kinds.index(CallFinished)


async def test_the_calls_of_a_batch_are_numbered_and_say_how_many_there_are() -> None:
    events, _ = await heard(repl("FINAL(llm_query_batched(['a', 'b', 'c']))"))
    started = [event for event in events if isinstance(event, CallStarted)]
    assert [(event.call, event.prompt, event.of) for event in started] == [(1, "a", 3), (2, "b", 3), (3, "c", 3)]
    assert sorted(event.call for event in events if isinstance(event, CallFinished)) == [1, 2, 3]


async def test_a_listener_that_raises_stops_neither_the_run_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("no ears")

    root = ScriptedClient([repl("FINAL(3)")], model="root")
    with caplog.at_level(logging.ERROR, "rlm_wasm.events"), anyio.fail_after(60):
        done = await RLM(root, listeners=[fail, events.append]).acompletion("How many?")
    assert done.response == 3
    assert isinstance(events[-1], RunStopped)
    assert "a listener failed on RunStarted" in caplog.text
    assert "no ears" in caplog.text


def test_an_emitter_stamps_a_copy() -> None:
    heard: list[Event] = []
    emitter = Emitter([heard.append], run="a", parent="b", depth=2)
    emitter.iteration = 3
    event = CellStarted(code="1")
    emitter.emit(event)
    (stamped,) = heard
    assert (stamped.run, stamped.parent, stamped.depth, stamped.iteration) == ("a", "b", 2, 3)
    assert (event.run, event.monotonic) == ("", 0.0)
    assert stamped.monotonic > 0
