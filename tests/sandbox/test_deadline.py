"""Cells that do not end by themselves: interrupted at their deadline, cancelled, or ended with their process."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import SandboxCrashed, SandboxTimeout
from rlm_wasm.sandbox import Executed, Sandbox
from rlm_wasm.sandbox import peer as peer_module
from rlm_wasm.sandbox import sandbox as sandbox_module
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

WITHIN = 60
NOTE = "(the cell ran out of time and was interrupted; its variables are kept)"
SWALLOW = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"


async def run(sandbox: Sandbox, code: str, timeout: float = 30) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code, timeout=timeout)


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


# --- at the deadline -----------------------------------------------------------------------------------------------

ENDLESS = {
    "a loop": "while True: pass",
    "a loop in a function": "def spin():\n    n = 0\n    while True: n += 1\nspin()",
    "a loop that catches exceptions": "while True:\n    try: undefined\n    except Exception: pass",
    "a regular expression": "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
    "time.sleep": "import time\ntime.sleep(1000)",
    "asyncio.sleep": "import asyncio\nawait asyncio.sleep(1000)",
    "a loop in a task": "async def spin():\n    while True: pass\nawait spin()",
    "tasks that wait for nothing": "import asyncio\nawait asyncio.gather(*[asyncio.Event().wait() for _ in range(3)])",
    "a loop that gives way": "import asyncio\nwhile True: await asyncio.sleep(0)",
    "asyncio.run": "import asyncio\nasyncio.run(asyncio.sleep(1000))",
    "a lock": "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    "an empty queue": "import queue\nqueue.Queue().get()",
    "threads": "import time\nfrom concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor() as pool: list(pool.map(time.sleep, [1000, 1000]))",
    "a wait that nobody here knows of": "import asyncio\nfrom pyodide.ffi import run_sync\n"
    "run_sync(asyncio.get_event_loop().create_future())",
    "an endless repr": "class Endless:\n    def __repr__(self):\n        while True: pass\nrepr(Endless())",
    "an endless FINAL": "class Endless(dict):\n    def __iter__(self):\n        while True: pass\n"
    "    keys = __iter__\nFINAL(Endless(a=1))",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
async def test_a_cell_out_of_time_is_interrupted_and_keeps_its_variables(shared: Sandbox, code: str) -> None:
    process = pid_of(shared)
    done = await run(shared, f"kept = 'before'\nprint('printed')\n{code}\nkept = 'after'", timeout=0.2)
    assert done.timed_out
    assert done.stdout == "printed\n"
    assert done.error is not None
    assert "KeyboardInterrupt" in done.error
    assert done.error.endswith(NOTE)
    assert not done.has_final
    after = await run(shared, "print('again')\nkept;")
    assert (after.value, after.stdout, after.timed_out, after.lost) == ("before", "again\n", False, ())
    assert pid_of(shared) == process


async def test_the_traceback_of_an_interrupted_cell_shows_where_it_was(shared: Sandbox) -> None:
    done = await run(shared, "def spin():\n    while True: pass\nspin()", timeout=0.2)
    assert done.error is not None
    assert "line 3, in <module>\n    spin()" in done.error
    assert "line 2, in spin\n    while True: pass" in done.error


async def test_a_cell_may_end_well_after_its_interrupt_and_says_that_it_was_late(shared: Sandbox) -> None:
    code = "late = False\ntry:\n    while True: pass\nexcept KeyboardInterrupt:\n    late = True\nlate"
    done = await run(shared, code, timeout=0.2)
    assert (done.value, done.timed_out) == (True, True)
    assert done.error == "KeyboardInterrupt: " + NOTE.strip("()")


async def test_the_sandboxs_own_timeout_holds_where_a_cell_has_none_of_its_own() -> None:
    async with Sandbox(timeout=0.2) as sandbox:
        with anyio.fail_after(WITHIN):
            assert (await sandbox.execute("while True: pass")).timed_out
            assert not (await sandbox.execute("sum(range(1000))")).timed_out


@pytest.mark.both_backends
async def test_waiting_for_a_host_function_does_not_count() -> None:
    later = anyio.Event()
    async with Sandbox(functions={"wait": later.wait}) as waiting, Sandbox() as measure:
        with anyio.fail_after(WITHIN):
            async with anyio.create_task_group() as tasks:

                async def wait() -> None:
                    # more than what V8 may still be compiling of a new interpreter, which counts
                    done = await waiting.execute("kept = 1\nwait()\n'done'", timeout=1)
                    assert (done.value, done.timed_out, done.error) == ("done", False, None)

                tasks.start_soon(wait)
                # by the time this cell has run out of time twice, the other would have too
                for _ in range(2):
                    assert (await measure.execute("while True: pass", timeout=1.2)).timed_out
                later.set()


async def test_computing_while_a_host_function_is_awaited_does_count() -> None:
    async with Sandbox(functions={"hang": anyio.sleep_forever}) as sandbox:
        code = "import threading\nthreading.Thread(target=hang, daemon=True).start()\nkept = 1\nwhile True: pass"
        assert (await run(sandbox, code, timeout=0.3)).timed_out
        assert (await run(sandbox, "kept")).value == 1


async def test_computing_in_slices_between_calls_counts_slice_by_slice() -> None:
    async with Sandbox(functions={"nothing": lambda: None, "hang": anyio.sleep_forever}) as sandbox:
        # one call is open all the while, and none of the slices is as long as the broker's tick
        code = """
import rlm_prelude, time
rlm_prelude.Bridge.call('["hang", [], {}]')
while True:
    until = time.perf_counter() + 0.02
    while time.perf_counter() < until: pass
    nothing()"""
        done = await run(sandbox, code, timeout=0.5)
        assert done.timed_out
        # a slice that began before the deadline may have ended after it
        assert 0.5 <= done.seconds < 5


async def test_cells_that_are_asked_for_at_once_run_one_after_the_other(shared: Sandbox) -> None:
    await run(shared, "seen = []")
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(run, shared, f"seen.append({number}); seen.append({number})")
    seen = await shared.get("seen")
    assert sorted(seen[::2]) == [0, 1, 2, 3]
    assert seen[::2] == seen[1::2]


# --- a cell that swallows its interrupt ----------------------------------------------------------------------------


async def test_a_cell_that_swallows_its_interrupt_is_ended_with_its_process_and_the_next_runs_in_another() -> None:
    async with Sandbox() as sandbox:
        await sandbox.load(context="the context", table={1: 2})
        await run(sandbox, "mine = 1\nother = 2\ncontext = context.upper()")
        process = pid_of(sandbox)
        with pytest.raises(SandboxTimeout) as caught:
            await run(sandbox, f"print('heard')\n{SWALLOW}", timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.lost == ("mine", "other")
        assert caught.value.output == "heard\n"
        assert caught.value.seconds == 0.2
        assert not sandbox.alive
        assert repr(sandbox) == "<Sandbox between two children>"
        after = await run(sandbox, "print(context, table)\n'mine' in globals()")
        assert after.stdout == "the context {1: 2}\nFalse\n"
        assert after.lost == ("mine", "other")
        assert pid_of(sandbox) != process
        assert (await run(sandbox, "1")).lost == ()


# --- cancelled -----------------------------------------------------------------------------------------------------


def printed_event(sandbox: Sandbox) -> anyio.Event:
    """Set as soon as a cell prints."""
    printed = anyio.Event()
    sandbox.on_print = lambda stream, text: printed.set()
    return printed


async def execute_and_cancel(sandbox: Sandbox, code: str, started: anyio.Event) -> None:
    """Run a cell, and cancel it from outside when `started` is set."""
    with anyio.fail_after(WITHIN), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await started.wait()
                scope.cancel()

            tasks.start_soon(cancel)
            await sandbox.execute(code)
    assert scope.cancelled_caught


@pytest.mark.both_backends
@pytest.mark.parametrize("endless", ["while True: pass", "await asyncio.Event().wait()", "hang()"])
async def test_a_cancelled_cell_is_interrupted_and_the_sandbox_goes_on(endless: str) -> None:
    async with Sandbox(functions={"hang": anyio.sleep_forever}) as sandbox:
        process = pid_of(sandbox)
        started = printed_event(sandbox)
        await execute_and_cancel(sandbox, f"import asyncio\nkept = 1\nprint('started')\n{endless}\nkept = 2", started)
        after = await run(sandbox, "kept")
        assert (after.value, after.timed_out, after.lost) == (1, False, ())
        assert pid_of(sandbox) == process


async def test_a_cancelled_cell_that_will_not_end_is_ended_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_LINGER", 0.2)
    async with Sandbox() as sandbox:
        await sandbox.load(context="here")
        await run(sandbox, "mine = 1")
        await execute_and_cancel(sandbox, f"print('started')\n{SWALLOW}", printed_event(sandbox))
        assert not sandbox.alive
        after = await run(sandbox, "context")
        assert (after.value, after.lost) == ("here", ("mine",))


async def test_a_cell_cancelled_while_its_fresh_sandbox_is_loaded_leaves_none_half_loaded(
    monkeypatch: pytest.MonkeyPatch, children: Callable[[], set[int]]
) -> None:
    before = children()
    loading = anyio.Event()
    load = Sandbox._load

    async def hang(*arguments: Any) -> None:
        loading.set()
        await anyio.sleep_forever()

    async with Sandbox() as sandbox:
        await sandbox.load(first="first", second="second")
        with pytest.raises(SandboxTimeout):
            await run(sandbox, SWALLOW, timeout=0.1)
        monkeypatch.setattr(Sandbox, "_load", hang)
        await execute_and_cancel(sandbox, "first", loading)
        monkeypatch.setattr(Sandbox, "_load", load)
        assert (await run(sandbox, "first + second")).value == "firstsecond"
        assert len(children() - before) == 1


async def test_a_sandbox_whose_start_is_cancelled_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, children: Callable[[], set[int]], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()
    starting = anyio.Event()
    initialize = sandbox_module.initialize

    async def watched(*arguments: Any) -> Any:
        starting.set()
        return await initialize(*arguments)

    monkeypatch.setattr(sandbox_module, "initialize", watched)
    with anyio.fail_after(WITHIN), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await starting.wait()
                scope.cancel()

            tasks.start_soon(cancel)
            async with Sandbox():
                raise AssertionError("it started before it could be cancelled")
    assert scope.cancelled_caught
    assert children() == before
    assert os.listdir(tmp_path) == []


# --- closed --------------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_closing_while_a_cell_runs_leaves_no_process_and_no_folder(
    monkeypatch: pytest.MonkeyPatch, children: Callable[[], set[int]], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()
    started, failed = anyio.Event(), anyio.Event()

    async def endless(sandbox: Sandbox) -> None:
        with pytest.raises(SandboxCrashed):
            await sandbox.execute("started()\nwhile True: pass")
        failed.set()

    async def note() -> None:
        started.set()

    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as tasks:
            async with Sandbox(functions={"started": note}) as sandbox:
                [folder] = os.listdir(tmp_path)
                assert os.stat(tmp_path / folder).st_mode & 0o777 == 0o700
                tasks.start_soon(endless, sandbox)
                await started.wait()
                [process] = children() - before
                assert process == pid_of(sandbox)
            await failed.wait()
    assert children() == before
    assert os.listdir(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_an_exception_in_the_block_closes_the_sandbox_and_comes_out_as_it_is(
    children: Callable[[], set[int]],
) -> None:
    before = children()
    with pytest.raises(LookupError, match="mine"):
        async with Sandbox():
            raise LookupError("mine")
    assert children() == before


# --- a broker that is silent ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process can be stopped on POSIX only")
async def test_a_process_that_does_not_answer_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_PING_EVERY", 0.05)
    monkeypatch.setattr(sandbox_module, "_PING_WITHIN", 0.5)
    async with Sandbox(functions={}) as sandbox:
        heard = printed_event(sandbox)
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await heard.wait()
                os.kill(pid_of(sandbox), signal.SIGSTOP)

            tasks.start_soon(stop)
            with pytest.raises(SandboxCrashed, match="did not answer for") as caught:
                await run(sandbox, "print('running')\nwhile True: pass")
        assert caught.value.exit_code == -signal.SIGKILL
        assert caught.value.output == "running\n"
        assert (await run(sandbox, "1")).value == 1


SPINNING = {
    "and is joined": "t = Thread(target=spin)\nt.start()\nt.join()",
    "and is not": "t = Thread(target=spin)\nt.start()\nspin()",
    "beside one that waits": "start_new_thread(lock.acquire, ())\nstart_new_thread(spin, ())\ntime.sleep(60)",
}


@pytest.mark.parametrize("code", SPINNING.values(), ids=SPINNING)
async def test_a_thread_that_computes_from_its_start_is_interrupted_and_the_variables_stay(code: str) -> None:
    setting = "import time\nfrom threading import Lock, Thread\nfrom _thread import start_new_thread\nkept = 1\n"
    setting += "lock = Lock()\nlock.acquire()\ndef spin():\n    while True: pass"
    async with Sandbox() as sandbox:
        assert (await run(sandbox, setting)).error is None
        assert (await run(sandbox, code, timeout=0.3)).timed_out
        assert (await run(sandbox, "kept")).value == 1


async def test_an_event_loop_that_something_blocks_is_not_the_sandboxs_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox_module, "_PING_EVERY", 0.05)
    monkeypatch.setattr(sandbox_module, "_PING_WITHIN", 0.5)
    async with Sandbox() as sandbox:
        await run(sandbox, "x = 1")
        time.sleep(1)  # noqa: ASYNC251 - that nobody should block the loop is what it is about
        await anyio.sleep(0.2)
        assert (await run(sandbox, "x")).value == 1
