"""Pipes that are closed, full, or cut in the middle of a frame, and a process that may open no more of them."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxStartError
from rlm_wasm.sandbox import Sandbox
from rlm_wasm.sandbox import process as process_module
from rlm_wasm.sandbox import sandbox as sandbox_module
from rlm_wasm.sandbox import session as session_module
from rlm_wasm.sandbox.session import Session
from tests.processes import pid_of, session_of

pytestmark = pytest.mark.anyio

WITHIN = 60
FakeDeno = Callable[[str], Path]
BIG = "x" * 8_000_000


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_PING_EVERY", 0.1)
    monkeypatch.setattr(sandbox_module, "_PING_WITHIN", 1.0)


@pytest.mark.both_backends
@pytest.mark.parametrize("code", ["wait()", "print('computing')\nwhile True: pass"], ids=["waiting", "computing"])
async def test_a_child_whose_stdin_is_closed_under_it_is_a_crash_and_the_next_cell_has_another(
    place: Any, code: str
) -> None:
    with place.left_clean(), anyio.fail_after(WITHIN):
        started = anyio.Event()

        async def wait() -> None:
            started.set()
            await anyio.sleep_forever()

        async with Sandbox(functions={"wait": wait}) as sandbox, anyio.create_task_group() as tasks:
            sandbox.on_print = lambda stream, text: started.set()
            await sandbox.load(context="here")

            async def close() -> None:
                await started.wait()
                await session_of(sandbox)._child.stdin.aclose()

            tasks.start_soon(close)
            with pytest.raises(SandboxCrashed):
                await sandbox.execute(code)
            assert (await sandbox.execute("context")).value == "here"


NEVER_READS = {
    "it never reads": "greet()\ntime.sleep(1000)",
    "it closed its stdin": "greet()\nos.close(0)\ntime.sleep(1000)",
    "it reads and never answers": "greet()\nwhile receive(): pass",
}


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("body", NEVER_READS.values(), ids=NEVER_READS)
async def test_a_cell_larger_than_the_pipe_for_a_child_that_never_reads_is_a_crash(
    place: Any, fake_deno: FakeDeno, body: str
) -> None:
    with place.left_clean(), anyio.fail_after(WITHIN):
        async with Sandbox(deno=fake_deno(body), use_image=False) as sandbox:
            with pytest.raises(SandboxCrashed, match="did not answer for 1 s"):
                await sandbox.execute(f"text = {BIG!r}")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("body", NEVER_READS.values(), ids=NEVER_READS)
async def test_a_context_larger_than_the_pipe_for_a_child_that_never_reads_is_a_crash(
    place: Any, fake_deno: FakeDeno, body: str
) -> None:
    with place.left_clean():
        async with Sandbox(deno=fake_deno(body), use_image=False) as sandbox:
            with anyio.fail_after(2), pytest.raises(SandboxCrashed, match="did not answer for 1 s"):
                await sandbox.load(context=BIG)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("method", ["load", "get"])
async def test_a_stopped_child_that_is_asked_between_two_cells_is_a_crash(place: Any, method: str) -> None:
    with place.left_clean():
        async with Sandbox() as sandbox:
            await sandbox.execute("mine = 1")
            os.kill(pid_of(sandbox), signal.SIGSTOP)
            with anyio.fail_after(2), pytest.raises(SandboxCrashed, match="did not answer for 1 s"):
                await (sandbox.load(context="here") if method == "load" else sandbox.get("mine"))
            assert (await sandbox.execute("1 + 1")).value == 2


async def test_a_child_that_is_stopped_while_it_starts_is_a_start_error(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_START_WITHIN", 0.5)
    initialize = sandbox_module.initialize

    async def stopped(session: Session, *arguments: object) -> object:
        os.kill(session._child.pid, signal.SIGSTOP)
        return await initialize(session, *arguments)  # pyright: ignore

    monkeypatch.setattr(sandbox_module, "initialize", stopped)
    with place.left_clean(), anyio.fail_after(WITHIN), pytest.raises(SandboxStartError, match=r"within 0\.5 s"):
        async with Sandbox():
            raise AssertionError("it started")


@pytest.mark.both_backends
@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), 9)"], ids=["exit", "killed"])
@pytest.mark.parametrize("sent", ["Content-Le", "Content-Length: 50\\r\\n", 'Content-Length: 50\\r\\n\\r\\n{"jsonrpc'])
async def test_half_a_frame_and_then_death_is_a_protocol_error(
    place: Any, fake_deno: FakeDeno, sent: str, ending: str
) -> None:
    body = f"greet()\nreceive()\nwrite(b'{sent}')\n{ending}"
    with place.left_clean(), anyio.fail_after(WITHIN):
        async with Sandbox(deno=fake_deno(body), use_image=False) as sandbox:
            with pytest.raises(ProtocolError, match="in the middle of a frame"):
                await sandbox.execute("1")
            assert not sandbox.alive


async def test_a_child_that_prints_faster_than_the_host_reads_is_heard_to_its_end(place: Any) -> None:
    with place.left_clean(), anyio.fail_after(WITHIN):
        async with Sandbox(output_chars=2_000_000) as sandbox:
            done = await sandbox.execute("for number in range(1000): print('x' * 1_999)")
            assert len(done.stdout) == 2_000_000
            assert done.truncated == 0


@contextmanager
def spare_descriptors(spare: int) -> Generator[None]:
    """In the block this process can open only so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
    try:
        # those below the highest that are free
        while (descriptor := os.open("/dev/null", os.O_RDONLY)) < limit:
            taken.append(descriptor)
        os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit + spare, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.both_backends
async def test_where_no_more_descriptors_may_be_opened_a_sandbox_starts_or_says_why_and_leaks_none(
    place: Any,
) -> None:
    answers: list[int] = []
    with anyio.fail_after(WITHIN):
        for spare in range(32):
            with place.left_clean():
                try:
                    with spare_descriptors(spare):
                        async with Sandbox() as sandbox:
                            answers.append((await sandbox.execute("6 * 7")).value)
                except SandboxStartError:
                    continue
            if len(answers) == 2:
                break
    assert answers == [42, 42]


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_a_folder_deeper_than_the_descriptors_that_are_left_is_swept_away(tmp_path: Path, spare: int) -> None:
    folder = tmp_path / "rlm-wasm-test"
    (folder / "work").mkdir(parents=True)
    if spare:
        deep = folder / "deno" / Path(*"abcdefghijkl")
        deep.mkdir(parents=True)
        (deep / "main.ts.js").write_text("")
    with spare_descriptors(spare):
        process_module._sweep(folder)
    assert not folder.exists()
