"""The pool: warm sandboxes, each lent once."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from rlm_wasm.errors import SandboxCrashed, SandboxStartError
from rlm_wasm.sandbox import Sandbox, SandboxOptions, SandboxPool
from rlm_wasm.sandbox import session as session_module
from rlm_wasm.sandbox.messages import Empty
from rlm_wasm.sandbox.peer import ConnectionEnded
from tests.processes import pid_of, session_of

pytestmark = pytest.mark.anyio

WITHIN = 60


async def death_noticed(sandbox: Sandbox) -> None:
    """Wait until the host has seen that the child is gone."""
    with contextlib.suppress(ConnectionEnded):
        while True:
            await session_of(sandbox).peer.request("ping", {}, Empty)


@pytest.mark.both_backends
async def test_a_sandbox_is_lent_once_and_the_next_borrower_sees_nothing_of_it(
    children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()
    lent: list[int] = []
    with anyio.fail_after(WITHIN):
        async with SandboxPool(1) as pool:
            for number in range(3):
                async with pool.lend() as sandbox:
                    lent.append(pid_of(sandbox))
                    done = await sandbox.execute(f"seen = 'mine' in globals()\nmine = {number}\nseen")
                    assert done.value is False
            assert repr(pool).endswith("0 lent>")
    assert len(set(lent)) == 3
    assert children() == before
    assert os.listdir(tmp_path) == []
    assert repr(pool) == "<SandboxPool closed>"


async def test_sandboxes_that_are_lent_at_once_are_different_and_work_at_once() -> None:
    arrived: set[int] = set()
    all_there = anyio.Event()

    async def meet(number: int) -> int:
        arrived.add(number)
        if len(arrived) == 3:
            all_there.set()
        await all_there.wait()
        return number

    processes: list[int] = []
    with anyio.fail_after(WITHIN):
        async with SandboxPool(1, functions={"meet": meet}) as pool, anyio.create_task_group() as tasks:

            async def borrow(number: int) -> None:
                async with pool.lend() as sandbox:
                    processes.append(pid_of(sandbox))
                    assert (await sandbox.execute(f"meet({number})")).value == number

            for number in range(3):
                tasks.start_soon(borrow, number)
    assert len(set(processes)) == 3


async def test_a_warm_sandbox_that_died_is_not_lent() -> None:
    with anyio.fail_after(WITHIN):
        async with SandboxPool(1) as pool:
            [slot] = pool._slots
            await slot.ready.wait()
            assert slot.sandbox is not None
            assert repr(pool) == "<SandboxPool 1 ready, 0 starting, 0 lent>"
            dead = pid_of(slot.sandbox)
            os.kill(dead, signal.SIGKILL)
            await death_noticed(slot.sandbox)
            async with pool.lend() as sandbox:
                assert pid_of(sandbox) != dead
                assert (await sandbox.execute("1 + 1")).value == 2
                assert "1 lent" in repr(pool)


async def test_a_borrower_whose_sandbox_dies_keeps_it_and_gets_its_fresh_child() -> None:
    with anyio.fail_after(WITHIN):
        async with SandboxPool(0) as pool, pool.lend() as sandbox:
            await sandbox.load(context="here")
            os.kill(pid_of(sandbox), signal.SIGKILL)
            await death_noticed(sandbox)
            assert (await sandbox.execute("context")).value == "here"


async def test_with_size_0_a_sandbox_is_started_when_it_is_asked_for(children: Callable[[], set[int]]) -> None:
    before = children()
    with anyio.fail_after(WITHIN):
        async with SandboxPool(0) as pool:
            assert children() == before
            async with pool.lend() as first, pool.lend() as second:
                assert len(children() - before) == 2
                assert (await first.execute("1")).value == (await second.execute("1")).value == 1
    assert children() == before


@pytest.mark.both_backends
async def test_closing_a_pool_ends_what_is_lent_and_what_is_starting(children: Callable[[], set[int]]) -> None:
    before = children()
    lent, ended = anyio.Event(), anyio.Event()
    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as tasks:
            async with SandboxPool(2) as pool:

                async def borrow() -> None:
                    async with pool.lend() as sandbox:
                        sandbox.on_print = lambda stream, text: lent.set()
                        with pytest.raises(SandboxCrashed):
                            await sandbox.execute("print('running')\nwhile True: pass")
                    ended.set()

                tasks.start_soon(borrow)
                await lent.wait()
            await ended.wait()
    assert children() == before


async def test_a_pool_that_cannot_start_any_says_so_to_whoever_asks_and_can_be_closed() -> None:
    with anyio.fail_after(WITHIN):
        async with SandboxPool(2, deno="/nowhere/deno") as pool:
            for _ in range(2):
                with pytest.raises(SandboxStartError, match="/nowhere/deno"):
                    async with pool.lend():
                        raise AssertionError("it was lent")


async def test_a_borrower_that_is_cancelled_while_it_waits_takes_nothing_with_it(
    monkeypatch: pytest.MonkeyPatch, children: Callable[[], set[int]]
) -> None:
    before = children()
    waiting, go_on = anyio.Event(), anyio.Event()
    serve_child = session_module.serve_child

    async def slow(*arguments: object, **options: object) -> None:
        waiting.set()
        await go_on.wait()
        await serve_child(*arguments, **options)  # pyright: ignore

    monkeypatch.setattr("rlm_wasm.sandbox.sandbox.serve_child", slow)
    with anyio.fail_after(WITHIN):
        async with SandboxPool(1) as pool:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel() -> None:
                        await waiting.wait()
                        scope.cancel()

                    tasks.start_soon(cancel)
                    async with pool.lend():
                        raise AssertionError("it was lent")
            go_on.set()
            async with pool.lend() as sandbox:
                assert (await sandbox.execute("1")).value == 1
    assert children() == before


async def test_functions_are_bound_for_the_borrower_name_for_name() -> None:
    with anyio.fail_after(WITHIN):
        async with SandboxPool(1, options=SandboxOptions(functions={"who": lambda: "nobody"})) as pool:
            assert set(pool.options.functions) == {"who"}
            async with pool.lend({"who": lambda: "me"}) as sandbox:
                assert (await sandbox.execute("who()")).value == "me"
            with pytest.raises(ValueError, match="the names must be"):
                async with pool.lend({"what": lambda: None}):
                    raise AssertionError("it was lent")
            async with pool.lend() as sandbox:
                assert (await sandbox.execute("who()")).value == "nobody"


async def test_a_pool_that_is_not_open_or_makes_no_sense_says_so() -> None:
    with pytest.raises(ValueError, match="size must be 0 or more, not -1"):
        SandboxPool(-1)
    pool = SandboxPool(0)
    with pytest.raises(RuntimeError, match="not open"):
        async with pool.lend():
            raise AssertionError("it was lent")
    async with pool:
        with pytest.raises(RuntimeError, match="open already"):
            await pool.__aenter__()
