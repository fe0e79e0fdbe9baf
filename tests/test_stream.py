"""Runs as streams of events: what comes, in what order, and how a run ends that nobody listens to any more."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Completion, Event, Message, Reply, ScriptedClient, Stream
from rlm_wasm import trace_file as traces
from rlm_wasm.events import CallStarted, IterationStarted, Printed, RootReplied, RootStreamed, RunStarted, RunStopped

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def rlm_with(*replies: Any, **given: Any) -> RLM:
    chosen: dict[str, Any] = {"sub_model": ScriptedClient(rules={"": "yes"}), **given}
    return RLM(ScriptedClient(replies, model="root"), **chosen)


class Waiting:
    """An RLM whose cell waits in a call for ever, and an event that is set when the call is given up."""

    def __init__(self, **given: Any) -> None:
        self.given_up = anyio.Event()
        sub = ScriptedClient(rules={"": self._wait}, model="sub")
        self.rlm = rlm_with(repl("llm_query('a')"), sub_model=sub, **given)

    async def _wait(self, prompt: str) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            self.given_up.set()
        return ""


async def test_the_events_come_in_order_and_the_last_is_the_end() -> None:
    heard: list[Event] = []
    rlm = rlm_with(repl("FINAL(rlm_query('And?'))"), repl("FINAL(2)"), listeners=[heard.append])
    stream = rlm.stream("How many?", context="abc")
    assert "not begun" in repr(stream)
    with pytest.raises(RuntimeError, match="not over"):
        _ = stream.completion
    with anyio.fail_after(60):
        events = [event async for event in stream]
    assert events == heard
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunStopped)
    assert (events[-1].run, stream.completion.response) == (stream.completion.run, 2)
    assert "over" in repr(stream)
    with anyio.fail_after(60):
        await stream.aclose()


async def test_events_come_while_the_run_goes_on() -> None:
    waiting = Waiting()
    with anyio.fail_after(60):
        async with waiting.rlm.stream("How many?") as stream:
            async for event in stream:
                if isinstance(event, CallStarted):
                    # its answer will never come
                    assert "running" in repr(stream)
                    break
            assert not waiting.given_up.is_set()
    assert waiting.given_up.is_set()
    assert (stream.completion.stopped_by, stream.completion.trajectory[0].calls[0].prompt) == ("cancelled", "a")


async def test_leaving_the_loop_ends_the_run(tmp_path: Path) -> None:
    waiting = Waiting(trace=tmp_path / "t.jsonl")
    stream = waiting.rlm.stream("How many?")
    with anyio.fail_after(60):
        async for event in stream:
            if isinstance(event, CallStarted):
                break
        del event
        gc.collect()
        await waiting.given_up.wait()
        await stream.aclose()
    assert stream.completion.stopped_by == "cancelled"
    assert isinstance(traces.read(tmp_path / "t.jsonl")[-1], RunStopped)


async def test_a_stream_that_is_held_goes_on_in_another_loop() -> None:
    with anyio.fail_after(60):
        async with rlm_with(repl("1"), repl("FINAL(2)")).stream("How many?") as stream:
            async for event in stream:
                if isinstance(event, IterationStarted):
                    break
            rest = [event async for event in stream]
    assert isinstance(rest[-1], RunStopped)
    assert stream.completion.response == 2


async def test_two_that_listen_to_one_stream_share_its_events() -> None:
    heard: list[Event] = []

    async def listen(stream: Stream) -> None:
        async for event in stream:
            heard.append(event)

    with anyio.fail_after(60):
        async with (
            rlm_with(repl("1"), repl("FINAL(2)")).stream("How many?") as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listen, stream)
            tasks.start_soon(listen, stream)
    # what is shown for a moment alone is not kept
    assert [event for event in heard if not isinstance(event, (Printed, RootStreamed))] == list(
        stream.completion.trajectory.events
    )


async def test_an_error_in_the_loop_ends_the_run_and_is_raised() -> None:
    waiting = Waiting()

    async def listen() -> None:
        async with waiting.rlm.stream("How many?") as stream:
            async for event in stream:
                if isinstance(event, CallStarted):
                    raise KeyError("mine")

    with anyio.fail_after(60), pytest.raises(KeyError, match="mine"):
        await listen()
    assert waiting.given_up.is_set()


async def test_a_loop_that_is_cancelled_ends_the_run() -> None:
    waiting = Waiting()
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            async with waiting.rlm.stream("How many?") as stream:
                async for event in stream:
                    if isinstance(event, CallStarted):
                        scope.cancel()
        assert scope.cancelled_caught
        assert waiting.given_up.is_set()
    assert stream.completion.stopped_by == "cancelled"


async def test_what_the_run_fails_of_is_raised_after_its_events() -> None:
    events: list[Event] = []

    async def listen(stream: Stream) -> None:
        async for event in stream:
            events.append(event)

    stream = rlm_with(repl("1"), ClientError("down")).stream("How many?")
    with anyio.fail_after(60), pytest.raises(ClientError, match="down") as failure:
        await listen(stream)
    assert isinstance(events[-1], RunStopped)
    assert isinstance(failure.value.partial, Completion)
    with pytest.raises(ClientError, match="down"):
        _ = stream.completion
    with anyio.fail_after(60), pytest.raises(ValueError, match="the question is empty"):
        await listen(rlm_with().stream(" "))


async def test_a_stream_that_never_began_is_closed_at_once() -> None:
    stream = rlm_with().stream("How many?")
    with anyio.fail_after(60):
        await stream.aclose()
    assert "not begun" in repr(stream)


async def test_several_streams_of_one_rlm_with_a_pool_go_on_at_once() -> None:
    answers: list[object] = []

    async def listen(rlm: RLM) -> None:
        stream = rlm.stream("How many?")
        _ = [event async for event in stream]
        answers.append(stream.completion.response)

    with anyio.fail_after(60):
        async with rlm_with(*[repl("FINAL(llm_query('?'))")] * 3) as rlm, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(listen, rlm)
    assert answers == ["yes"] * 3


class Speaking(ScriptedClient):
    """Says its replies in two pieces, the first of them twice over."""

    async def complete(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, messages: Sequence[Message], *, on_text: Callable[[str | None], None] | None = None, **given: Any
    ) -> Reply:
        reply = await super().complete(messages, **given)
        if on_text is not None:
            for piece in ("lost", None, reply.text[:5], reply.text[5:]):
                on_text(piece)
                await anyio.lowlevel.checkpoint()
        return reply


async def test_a_client_that_can_stream_is_heard_as_it_speaks() -> None:
    reply = repl("FINAL(2)")
    speaking, heard = Speaking([reply, reply]), list[Event]()
    rlm = RLM(speaking, listeners=[heard.append])
    with anyio.fail_after(60):
        events = [event async for event in rlm.stream("How many?")]
    pieces = [event.text for event in events if isinstance(event, RootStreamed)]
    assert pieces == ["lost", None, reply[:5], reply[5:]]
    places = [type(event) for event in events]
    assert places.index(RootStreamed) < places.index(RootReplied)
    # asked for by nobody, it does not stream
    heard.clear()
    with anyio.fail_after(60):
        await rlm.acompletion("How many?")
    assert RootStreamed not in {type(event) for event in heard}
