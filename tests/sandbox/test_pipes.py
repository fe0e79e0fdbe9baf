"""The host's end of a pipe: read by asyncio's event loop itself, or on trio by the task that takes what comes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.sandbox.pipes import PipeReceiveStream

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.both_backends,
    pytest.mark.skipif(os.name != "posix", reason="elsewhere anyio's own streams serve"),
]

WITHIN = 20


@asynccontextmanager
async def a_pipe() -> AsyncGenerator[tuple[PipeReceiveStream, int]]:
    reading, writing = os.pipe()
    stream = PipeReceiveStream(reading)
    try:
        with anyio.fail_after(WITHIN):
            yield stream, writing
    finally:
        await stream.aclose()
        os.close(writing)


async def until(there: Callable[[], bool]) -> None:
    while not there():  # noqa: ASYNC110
        await anyio.sleep(0.001)


async def test_each_piece_is_taken_as_it_comes_until_the_end() -> None:
    async with a_pipe() as (stream, writing), anyio.create_task_group() as tasks:
        taken: list[bytes] = []
        ended = anyio.Event()

        async def feed() -> None:
            await stream.feed(taken.append)
            ended.set()

        tasks.start_soon(feed)
        for count in range(100):
            os.write(writing, b"%d" % count)
            await until(lambda wanted=count: len(taken) > wanted)
        assert taken == [b"%d" % count for count in range(100)]
        assert not ended.is_set()
        # the end, while the number that `a_pipe` closes stays taken
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, writing)
        os.close(nothing)
        await ended.wait()


async def test_what_is_there_before_is_taken_and_more_than_a_read_gives_too() -> None:
    async with a_pipe() as (stream, writing), anyio.create_task_group() as tasks:
        sent, taken = 0, 0
        other = anyio.Event()

        def take(chunk: bytes) -> None:
            nonlocal taken
            taken += len(chunk)

        async def write() -> None:
            nonlocal sent
            os.set_blocking(writing, False)
            while sent < 5_000_000:
                try:
                    sent += os.write(writing, bytes(100_000))
                except BlockingIOError:
                    await anyio.lowlevel.checkpoint()
            other.set()

        tasks.start_soon(stream.feed, take)
        tasks.start_soon(write)
        await other.wait()
        await until(lambda: taken == sent)
        tasks.cancel_scope.cancel()


async def test_what_the_taker_raises_is_raised_and_nothing_is_taken_after_it() -> None:
    async with a_pipe() as (stream, writing):
        calls = 0

        def take(chunk: bytes) -> None:
            nonlocal calls
            calls += 1
            raise LookupError(chunk.decode())

        os.write(writing, b"first")
        with pytest.raises(LookupError, match="first"):
            await stream.feed(take)
        os.write(writing, b"second")
        await anyio.sleep(0.02)
        assert calls == 1


async def test_one_that_is_closed_meanwhile_ends() -> None:
    async with a_pipe() as (stream, _), anyio.create_task_group() as tasks:

        async def close() -> None:
            await anyio.sleep(0.02)
            await stream.aclose()

        tasks.start_soon(close)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.feed(lambda chunk: None)


async def test_one_that_is_cancelled_takes_nothing_more_and_can_be_read_again() -> None:
    async with a_pipe() as (stream, writing):
        taken: list[bytes] = []
        with anyio.move_on_after(0.02):
            await stream.feed(taken.append)
        os.write(writing, b"later")
        await anyio.sleep(0.02)
        assert taken == []
        assert await stream.receive() == b"later"
