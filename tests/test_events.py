"""What happened, as it happens: the order of a small run, its stamps, and listeners that fail."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from typing import Any

import anyio
import pytest

import rlm_wasm.events as events_module
from rlm_wasm import RLM, ClientError, Completion, Event, Limits, SandboxOptions, ScriptedClient
from rlm_wasm.events import (
    BudgetSpent,
    CallFinished,
    CallStarted,
    CellFinished,
    CellInterrupted,
    CellStarted,
    Emitter,
    FunctionCalled,
    IterationFinished,
    IterationStarted,
    Printed,
    Record,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
    callbacks,
)

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def heard(*replies: Any, context: Any = "abc", **given: Any) -> tuple[list[Any], Completion]:
    """The events of a run whose sub model answers "a reply", and what it came to."""
    events: list[Any] = []
    sub = ScriptedClient(rules={"": "a reply"}, model="sub")
    rlm = RLM(ScriptedClient(replies, model="root"), sub_model=sub, listeners=[events.append], **given)
    with anyio.fail_after(60):
        return events, await rlm.acompletion("How many?", context=context)


@pytest.mark.both_backends
async def test_the_events_of_a_run_come_in_order_and_stamped() -> None:
    first = "print('look')\nllm_query('What is it?')"
    events, done = await heard(repl(first), repl("FINAL(3)"))
    assert [type(event) for event in events] == [
        RunStarted,
        IterationStarted,
        RootAsked,
        BudgetSpent,
        RootReplied,
        CellStarted,
        Printed,
        CallStarted,
        BudgetSpent,
        CallFinished,
        # the echo of the bare last expression
        Printed,
        CellFinished,
        IterationFinished,
        IterationStarted,
        RootAsked,
        BudgetSpent,
        RootReplied,
        CellStarted,
        CellFinished,
        IterationFinished,
        RunStopped,
    ]
    assert [event.iteration for event in events] == [0] + [1] * 12 + [2] * 8
    assert {event.run for event in events} == {done.run}
    assert {(event.parent, event.depth) for event in events} == {(None, 0)}
    assert all(earlier.monotonic <= later.monotonic for earlier, later in pairwise(events))
    assert all(event.wall > 1_700_000_000 for event in events)

    assert events[12].seconds >= events[4].seconds
    started, _, prompt, spent, replied, cell, printed, asked, _, answered, _, ran = events[:12]
    assert (started.question, started.model, started.sub_model) == ("How many?", "root", "sub")
    assert "str of 3 characters" in started.context
    assert (replied.text, replied.output_tokens) == (repl(first), done.trajectory[0].output_tokens)
    assert (prompt.same, [message.role for message in prompt.messages]) == (0, ["system", "user"])
    assert (spent.calls, spent.left["calls_left"]) == (1, 500)
    assert (cell.code, cell.cell) == (first, 1)
    assert (printed.stream, printed.text) == ("stdout", "look\n")
    assert (asked.call, asked.of, asked.function, asked.model) == (1, 1, "llm_query", "sub")
    assert asked.prompt == "What is it?"
    assert (answered.call, answered.reply, answered.error) == (1, "a reply", None)
    assert (ran.output, ran.error, ran.truncated) == ("look\n'a reply'\n", None, 0)
    assert (ran.stdout, ran.stderr, ran.value, ran.has_final) == (None, None, "a reply", False)

    # of the second prompt only what is new
    assert events[12].observation == events[14].messages[-1].content
    assert (events[14].same, [message.role for message in events[14].messages]) == (2, ["assistant", "user"])
    assert (events[18].cell, events[18].final, events[18].has_final) == (2, 3, True)


async def test_the_last_event_says_what_ended_the_run_and_what_it_took() -> None:
    events, done = await heard(repl("FINAL(3)"))
    stopped = events[-1]
    assert (stopped.stopped_by, stopped.calls, stopped.seconds) == ("final", 1, done.seconds)
    assert (stopped.input_tokens, stopped.output_tokens) == (done.usage.input_tokens, done.usage.output_tokens)
    assert stopped.usd is None
    assert (stopped.response, stopped.by_model, stopped.limit) == (3, done.usage.by_model, None)

    events, _ = await heard(repl("1 / 0"), "a guess", limits=Limits(errors=1))
    assert events[-1].stopped_by == "errors"
    assert (events[-1].response, events[-1].limit) == ("a guess", ("errors", 1, 1))
    assert "ZeroDivisionError" in str(next(event.error for event in events if isinstance(event, CellFinished)))


async def test_a_run_that_fails_says_that_it_stopped() -> None:
    events: list[Event] = []
    rlm = RLM(ScriptedClient([ClientError("down")], model="root"), listeners=[events.append])
    with anyio.fail_after(60), pytest.raises(ClientError):
        await rlm.acompletion("How many?")
    assert isinstance(events[-1], RunStopped)
    assert events[-1].failure == "ClientError: down"


async def test_a_small_context_is_in_the_first_event_and_a_large_one_is_told_by_its_digest() -> None:
    [small], [large], [other] = [
        [event for event in (await heard(repl("FINAL(1)"), context=context))[0] if isinstance(event, RunStarted)]
        for context in ("abc", "a" * 2_000_000, "a" * 1_999_999 + "b")
    ]
    assert (small.has_context, small.context_value, small.context_chars) == (True, "abc", 3)
    assert (large.has_context, large.context_value, large.context_chars) == (False, None, 2_000_000)
    assert len(large.context_sha256) == 64
    assert large.context_sha256 != other.context_sha256


async def test_a_call_of_a_function_of_ones_own_is_an_event() -> None:
    async def lookup(name: str, *, year: int = 0) -> list[int]:
        if not year:
            raise ValueError(name)
        return [year]

    code = "print(lookup('x', year=1))\ntry:\n    lookup('y')\nexcept Exception as error:\n    FINAL(str(error))"
    events, done = await heard(repl(code), functions={"lookup": lookup})
    answered, failed = [event for event in events if isinstance(event, FunctionCalled)]
    assert (answered.function, answered.arguments, answered.named) == ("lookup", ("x",), {"year": 1})
    assert (answered.value, answered.error) == ([1], None)
    assert (failed.value, failed.error) == (None, "ValueError: y")
    assert "ValueError" in done.response


async def test_a_cell_that_is_interrupted_at_its_deadline_is_an_event() -> None:
    events, _ = await heard(repl("while True: pass"), repl("FINAL(1)"), sandbox=SandboxOptions(timeout=0.3))
    (interrupted,) = [event for event in events if isinstance(event, CellInterrupted)]
    assert interrupted.cell == 1
    assert [event.timed_out for event in events if isinstance(event, CellFinished)] == [True, False]


async def test_the_events_of_a_child_name_it_and_its_parent() -> None:
    events, done = await heard(repl("FINAL(rlm_query('And here?', 'text'))"), repl("FINAL(1)"))
    (child,) = done.children
    of_child = [event for event in events if event.run == child.run]
    assert {(event.parent, event.depth) for event in of_child} == {(done.run, 1)}
    assert [type(event) for event in of_child] == [
        RunStarted,
        IterationStarted,
        RootAsked,
        BudgetSpent,
        RootReplied,
        CellStarted,
        CellFinished,
        IterationFinished,
        RunStopped,
    ]
    assert (of_child[0].call, of_child[-1].response) == (1, 1)
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


async def test_a_slow_listener_keeps_neither_the_run_nor_the_others_waiting() -> None:
    done, events = threading.Event(), list[Event]()

    def slow(event: Event) -> None:
        if isinstance(event, RunStarted):
            # until another listener has heard the end
            done.wait(60)

    def quick(event: Event) -> None:
        events.append(event)
        if isinstance(event, RunStopped):
            done.set()

    root = ScriptedClient([repl("FINAL(3)")], model="root")
    with anyio.fail_after(60):
        assert (await RLM(root, listeners=[slow, quick]).acompletion("How many?")).response == 3
    assert isinstance(events[-1], RunStopped)


async def test_what_cannot_be_written_is_said_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def full(event: Event) -> None:
        raise OSError("no space left on device")

    heard: list[Event] = []
    with caplog.at_level(logging.ERROR, "rlm_wasm.events"):
        async with Record([heard.append], write=full) as record:
            record.enter(CellStarted(code="1"))
            record.enter(CellStarted(code="2"))
    assert len(record.events) == len(heard) == 2
    assert caplog.text.count("are written no further") == 1


async def test_a_listener_that_is_far_behind_misses_events_and_not_the_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_WAITING", 3)
    go, heard = threading.Event(), list[Event]()

    def late(event: Event) -> None:
        go.wait(60)
        heard.append(event)

    async with Record([late]) as record:
        for number in range(10):
            record.enter(CellStarted(code=str(number)))
        go.set()
    # one in its hands, three that wait, or three
    assert 3 <= len(heard) <= 4
    assert "misses what comes" in caplog.text


def test_an_emitter_stamps_a_copy() -> None:
    heard: list[Event] = []
    emitter = Emitter(Record(write=heard.append), run="a", parent="b", depth=2)
    emitter.iteration = 3
    event = CellStarted(code="1")
    emitter.emit(event)
    (stamped,) = heard
    assert (stamped.run, stamped.parent, stamped.depth, stamped.iteration) == ("a", "b", 2, 3)
    assert (event.run, event.monotonic) == ("", 0.0)
    assert stamped.monotonic > 0


# --- callbacks -----------------------------------------------------------------------------------------------------


async def test_plain_functions_hear_the_events_of_their_kind() -> None:
    told: dict[str, list[Any]] = {name: [] for name in ("on_step", "on_iteration", "on_subcall", "on_print")}
    called: Any = {name: events.append for name, events in told.items()}
    await heard(repl("print('look')\nrlm_query('What?', context='x')"), repl("FINAL(1)"), repl("FINAL(2)"), **called)
    kinds = {name: [(type(event), event.depth) for event in events] for name, events in told.items()}
    assert kinds == {
        "on_step": [
            (RunStarted, 0),
            (CellStarted, 0),
            (RunStarted, 1),
            (CellStarted, 1),
            (CellFinished, 1),
            (CellFinished, 0),
            (CellStarted, 0),
            (CellFinished, 0),
        ],
        "on_iteration": [
            (IterationStarted, 0),
            (IterationStarted, 1),
            (IterationFinished, 1),
            (IterationFinished, 0),
            (IterationStarted, 0),
            (IterationFinished, 0),
        ],
        "on_subcall": [(CallStarted, 0), (CallFinished, 0)],
        "on_print": [(Printed, 0), (Printed, 0)],
    }
    assert told["on_print"][0].text == "look\n"


async def test_a_callback_that_raises_is_logged_and_the_others_hear_on(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[Any] = []

    def broken(_: object) -> None:
        raise RuntimeError("a bug of the caller's")

    _, done = await heard(repl("FINAL(1)"), on_iteration=broken, on_step=steps.append)
    assert done.response == 1
    assert len(steps) == 3
    assert "a bug of the caller's" in caplog.text


def test_callbacks_can_be_a_listener_among_others_and_no_others_are_known() -> None:
    printed: list[str] = []
    listener = callbacks(on_print=lambda event: printed.append(event.text))
    listener(Printed(stream="stdout", text="a"))
    listener(CellStarted(code="1"))
    assert printed == ["a"]
    wrong: Any = {"on_steps": print}
    with pytest.raises(TypeError, match="there is no callback 'on_steps': use on_step, on_iteration"):
        callbacks(**wrong)
    with pytest.raises(TypeError, match=r"RLM\(\) has no argument 'on_steps'"):
        RLM(ScriptedClient(), **wrong)
    wrong = {"on_step": 3}
    with pytest.raises(TypeError, match="on_step must be a function that is given an event, not int"):
        RLM(ScriptedClient(), **wrong)
