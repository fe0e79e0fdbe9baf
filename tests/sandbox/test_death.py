"""Children that die, that never lived, that are not what they say: each ends in a clear error, and nothing hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import rlm_wasm
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxError, SandboxStartError
from rlm_wasm.sandbox import Executed, Sandbox, image, process
from rlm_wasm.sandbox import sandbox as sandbox_module
from rlm_wasm.sandbox import session as session_module
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

WITHIN = 60
FakeDeno = Callable[[str], Path]


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


async def start_error(sandbox: Sandbox) -> str:
    """What it says when it does not start."""
    with anyio.fail_after(WITHIN), pytest.raises(SandboxStartError) as caught:
        async with sandbox:
            raise AssertionError("it started")
    assert not sandbox.alive
    return str(caught.value)


# --- death in the middle of a cell ---------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_a_child_killed_in_the_middle_of_a_cell_is_a_crash_and_the_next_cell_has_another() -> None:
    async with Sandbox() as sandbox:
        heard = anyio.Event()
        sandbox.on_print = lambda stream, text: heard.set()
        await sandbox.load(context="the context")
        await run(sandbox, "mine = 1\nprint('first')")
        heard = anyio.Event()
        child = pid_of(sandbox)

        async def kill() -> None:
            await heard.wait()
            os.kill(child, signal.SIGKILL)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with pytest.raises(SandboxCrashed) as caught:
                await run(sandbox, "print('printed')\nwhile True: pass")
        assert caught.value.exit_code == -9
        assert caught.value.lost == ("mine",)
        assert caught.value.output == "printed\n"
        assert "signal 9" in str(caught.value)
        after = await run(sandbox, "context, 'mine' in globals()")
        assert after.value == ("the context", False)
        assert after.lost == ("mine",)


async def test_a_child_killed_between_two_cells_is_replaced_and_what_is_lost_is_said() -> None:
    async with Sandbox() as sandbox:
        await sandbox.load(context="here")
        await run(sandbox, "mine = 1")
        os.kill(pid_of(sandbox), signal.SIGKILL)
        try:
            after = await run(sandbox, "context")
        except SandboxCrashed:
            # its end had not been noticed yet
            after = await run(sandbox, "context")
        assert (after.value, after.lost) == ("here", ("mine",))


async def test_what_two_deaths_in_a_row_took_is_all_said() -> None:
    async with Sandbox() as sandbox:
        await run(sandbox, "first = 1")
        for _ in range(2):
            with pytest.raises(SandboxCrashed):
                await run(sandbox, DEADLY["the repr of what is nested too deeply"])
        assert (await run(sandbox, "1")).lost == ("first",)


DEADLY = {
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**7)\ndef deep(n): return deep(n + 1)\ndeep(0)",
    "the repr of what is nested too deeply": "nested = []\nfor _ in range(300_000): nested = [nested]\nrepr(nested)",
    "a null pointer": "import ctypes\nctypes.string_at(2**31)",
}


async def test_code_that_kills_the_interpreter_is_a_crash_each_time_and_never_the_end() -> None:
    async with Sandbox() as sandbox:
        await sandbox.load(context="here")
        for code in DEADLY.values():
            await run(sandbox, "mine = 1")
            with pytest.raises(SandboxCrashed, match="the interpreter died") as caught:
                await run(sandbox, f"print('printed')\n{code}")
            assert caught.value.lost == ("mine",)
            assert caught.value.output == "printed\n"
            assert (await run(sandbox, "context")).value == "here"


# --- a Deno that is missing, too old, or no Deno -------------------------------------------------------------------

INSTALL = "pip install 'rlm-wasm[deno]'"


async def test_a_deno_that_is_not_there_is_a_start_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = await start_error(Sandbox(deno="/nowhere/deno"))
    assert "deno= names '/nowhere/deno', which is not a program" in said
    assert INSTALL in said
    monkeypatch.setenv("RLM_WASM_DENO", "no-such-program")
    said = await start_error(Sandbox())
    assert "RLM_WASM_DENO names 'no-such-program', which is not a program" in said
    assert INSTALL in said
    monkeypatch.delenv("RLM_WASM_DENO")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(process, "_packaged_deno", lambda: None)
    said = await start_error(Sandbox())
    assert "Deno was not found" in said
    assert INSTALL in said


async def test_a_deno_that_is_too_old_is_a_start_error_with_both_versions(fake_deno: Callable[..., Path]) -> None:
    body = "sys.stderr.write('error: unexpected argument --unstable-raw-imports')\nsys.exit(1)"
    said = await start_error(Sandbox(deno=fake_deno(body, version="deno 1.2.3 (release)")))
    assert "is version 1.2.3, and 2.9.0 or newer is needed" in said
    assert INSTALL in said


async def test_a_program_that_is_not_deno_is_a_start_error(fake_deno: Callable[..., Path], tmp_path: Path) -> None:
    said = await start_error(Sandbox(deno=fake_deno("print('hello')", version="hello 7")))
    assert "is not Deno: it said 'hello 7" in said
    broken = tmp_path / "broken"
    broken.write_text("#!/nowhere/interpreter\n")
    broken.chmod(0o755)
    said = await start_error(Sandbox(deno=broken))
    assert str(broken) in said
    assert INSTALL in said


# --- runtime files -------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runtime files, which is what sandboxes start from in this test."""
    copy = tmp_path / "runtime"
    shutil.copytree(process.runtime_folder(), copy)
    monkeypatch.setattr(process, "runtime_folder", lambda: copy)
    monkeypatch.setattr(image, "runtime_folder", lambda: copy)
    # a process that has read the WebAssembly before would not miss the file
    image.web_assembly.cache_clear()
    return copy


MISSING = ["main.ts", "worker.ts", "realm.ts", "prelude.py", "values.py", "output.py", "pyodide/pyodide.asm.wasm"]


async def test_a_runtime_file_that_is_missing_is_a_start_error_that_names_it(runtime: Path) -> None:
    for name in MISSING:
        whole = (runtime / name).read_bytes()
        (runtime / name).unlink()
        for use_image in (True, False):
            said = await start_error(Sandbox(use_image=use_image))
            assert f"{name} is missing" in said
            assert "reinstall rlm-wasm" in said
            assert str(runtime) in said
        (runtime / name).write_bytes(whole)
    shutil.rmtree(runtime / "pyodide")
    assert "pyodide/manifest.json is missing or damaged" in await start_error(Sandbox())


async def test_a_runtime_file_that_is_damaged_is_a_start_error_that_names_it(runtime: Path) -> None:
    for name in ("pyodide/pyodide.asm.wasm", "pyodide/python_stdlib.zip", "pyodide/pyodide.mjs"):
        whole = (runtime / name).read_bytes()
        (runtime / name).write_bytes(whole[: len(whole) // 2])
        said = await start_error(Sandbox(use_image=False))
        assert f"{name} is damaged" in said
        assert "reinstall rlm-wasm" in said
        (runtime / name).write_bytes(whole)
    (runtime / "pyodide" / "manifest.json").write_text("{")
    assert "pyodide/manifest.json is missing or damaged" in await start_error(Sandbox(deno="/bin/false"))


async def test_runtime_files_and_folders_in_a_read_only_place_with_spaces_are_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "a path with späces & 'quotes'" / "runtime"
    shutil.copytree(process.runtime_folder(), copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(process, "runtime_folder", lambda: copy)
    monkeypatch.setattr(image, "runtime_folder", lambda: copy)
    before = sorted(copy.rglob("*"))
    async with Sandbox() as sandbox:
        assert (await run(sandbox, "6 * 7")).value == 42
    assert sorted(copy.rglob("*")) == before
    copy.chmod(0o755)


# --- a child that is not what it says, at the start ----------------------------------------------------------------

STARTS = {
    "garbage": ("write(b'garbage' * 1000)", "a header is longer than 1024 bytes"),
    "the wrong answer": ("write(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n')", "bad header line"),
    "an end": ("sys.exit(7)", "exit code 7"),
    "an end with last words": ("sys.stderr.write('out of \\x1b[31mluck')\nsys.exit(1)", r"out of \x1b[31mluck"),
    "half a frame": ("write(b'Content-Length: 100\\r\\n\\r\\n{')\nsys.exit()", "in the middle of a frame"),
    "a frame that is too large": ("write(b'Content-Length: 99999999999\\r\\n\\r\\n')", "is too large"),
    "an unknown id": ("send({'id': 99, 'result': {}})", "a reply to nothing that was asked: 99"),
    "another shape": ("send({'id': receive()['id'], 'result': {'protocol': '1'}})", "may not send"),
    "another protocol": (
        "send({'id': receive()['id'], 'result': {'protocol': 2, 'deno': '', 'v8': ''}})",
        "speak protocol 2, not 1: reinstall rlm-wasm",
    ),
    "an error": (
        "send({'id': receive()['id'], 'error': {'code': -32005, 'message': 'the process is not sealed: read'}})",
        "the process is not sealed: read",
    ),
    "a blob": (
        "write(b'Content-Length: 1\\r\\nContent-Type: application/octet-stream\\r\\nContent-Id: 1\\r\\n\\r\\nx')",
        "a blob of 1 bytes where at most 0 were expected",
    ),
    "a call": (
        "send({'id': 1, 'method': 'call', 'params': {'request': '[]'}})\nreceive()\nreceive()\nsys.exit(5)",
        "5",
    ),
}


@pytest.mark.parametrize(("body", "said"), STARTS.values(), ids=STARTS)
async def test_a_child_that_answers_its_greeting_badly_is_a_start_error(
    fake_deno: FakeDeno, children: Callable[[], set[int]], body: str, said: str
) -> None:
    before = children()
    assert said in await start_error(Sandbox(deno=fake_deno(body + "\ntime.sleep(1000)"), use_image=False))
    assert children() == before


@pytest.mark.both_backends
@pytest.mark.parametrize("body", ["time.sleep(1000)", "os.close(1)\ntime.sleep(1000)", "while receive(): pass"])
async def test_a_child_that_never_answers_its_greeting_is_ended(
    fake_deno: FakeDeno, children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(session_module, "_START_WITHIN", 1)
    before = children()
    said = await start_error(Sandbox(deno=fake_deno(body), use_image=False))
    assert "the sandbox did not start" in said
    assert children() == before


async def test_a_child_that_makes_no_image_of_what_it_was_asked_for_is_a_start_error(fake_deno: FakeDeno) -> None:
    body = "send({'id': receive()['id'], 'result': {'protocol': 1, 'image': 5}})\ntime.sleep(1000)"
    assert "the sandbox did not start" in await start_error(Sandbox(deno=fake_deno(body)))


# --- a child that is not what it says, in the middle of a cell -----------------------------------------------------

RAN = "'output': [], 'truncated': 0, 'error': None, 'value': None, 'names': [], 'timed_out': False, 'seconds': 0.1"
CELLS = {
    "garbage": ("write(b'\\x00' * 5000)", ProtocolError),
    "an unknown id": ("send({'id': 99, 'result': {}})", ProtocolError),
    "no id": ("send({'result': {}})", ProtocolError),
    "a frame that is too large": ("write(b'Content-Length: 99999999999\\r\\n\\r\\n')", ProtocolError),
    "half a frame": ("write(b'Content-Length: 100\\r\\n\\r\\n{')\nsys.exit()", ProtocolError),
    "nested too deeply": (
        'body = b\'{"jsonrpc":"2.0","params":\' + b\'[\' * 100000\n'
        "write(b'Content-Length: %d\\r\\n\\r\\n%b' % (len(body), body))",
        ProtocolError,
    ),
    "not UTF-8": ("write(b'Content-Length: 2\\r\\n\\r\\n\\xff\\xff')", ProtocolError),
    "another shape": ("send({'id': asked['id'], 'result': {'output': 'text'}})", ProtocolError),
    "a value that is none": ("send({'id': asked['id'], 'result': {RAN, 'value': '}'}})", ProtocolError),
    "a final that is none": (
        "send({'method': 'final', 'params': {'value': 'x'}})\nsend({'id': asked['id'], 'result': {RAN}})",
        ProtocolError,
    ),
    "an unknown notification": ("send({'method': 'surprise', 'params': {}})", ProtocolError),
    "an error of its own": ("send({'id': asked['id'], 'error': {'code': 1, 'message': 'hm'}})", ProtocolError),
    "a blob": (
        "write(b'Content-Length: 0\\r\\nContent-Type: application/octet-stream\\r\\nContent-Id: 1\\r\\n\\r\\n')",
        ProtocolError,
    ),
    "an end": ("sys.exit(3)", SandboxCrashed),
    "a closed pipe": ("os.close(1)", SandboxCrashed),
    "a death": ("send({'id': asked['id'], 'error': {'code': -32002, 'message': 'it died'}})", SandboxCrashed),
}


@pytest.mark.parametrize(("body", "error"), CELLS.values(), ids=CELLS)
async def test_a_child_that_answers_a_cell_badly_is_ended(
    fake_deno: FakeDeno, children: Callable[[], set[int]], body: str, error: type[SandboxError]
) -> None:
    before = children()
    program = "greet()\nasked = receive()\n" + body.replace("RAN", RAN) + "\ntime.sleep(1000)"
    async with Sandbox(deno=fake_deno(program), use_image=False) as sandbox:
        with pytest.raises(error) as caught:
            await run(sandbox, "1")
        assert type(caught.value) is error
        assert not sandbox.alive
    assert children() == before


@pytest.mark.both_backends
async def test_a_child_that_floods_stderr_never_blocks_and_its_last_words_are_kept_escaped(fake_deno: FakeDeno) -> None:
    program = "greet()\nreceive()\nsys.stderr.write('x' * 1_000_000 + '\\x1b]0;title\\x07 last words')\nsys.exit(3)"
    async with Sandbox(deno=fake_deno(program), use_image=False) as sandbox:
        with pytest.raises(SandboxCrashed) as caught:
            await run(sandbox, "1")
    error = caught.value
    assert error.exit_code == 3
    assert error.stderr_tail.endswith(r"x\x1b]0;title\x07 last words")
    assert len(error.stderr_tail) < 66_000
    assert str(error).endswith("last words")
    assert len(str(error)) < 1_000
    assert "\x1b" not in str(error)


async def test_what_a_child_says_was_printed_is_kept_up_to_what_a_cell_may_print(fake_deno: FakeDeno) -> None:
    heard: list[str] = []
    program = (
        "greet()\nreceive()\n"
        "for _ in range(100): send({'method': 'printed', 'params': {'stream': 'stdout', 'text': 'x' * 77}})\n"
        "send({'method': 'printed', 'params': {'stream': 'stdout', 'text': 'y' * 1_000_000}})\n"
        "sys.exit(3)"
    )
    async with Sandbox(deno=fake_deno(program), use_image=False, output_chars=1000) as sandbox:
        sandbox.on_print = lambda stream, text: heard.append(text)
        with pytest.raises(SandboxCrashed) as caught:
            await run(sandbox, "1")
    assert caught.value.output == "x" * 1000
    assert "".join(heard) == "x" * 1000


async def test_a_child_that_is_alive_but_never_ends_its_cell_is_ended(
    fake_deno: FakeDeno, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_PING_EVERY", 0.05)
    monkeypatch.setattr(sandbox_module, "_BROKER_GRACE", 0.1)
    program = (
        "greet()\n"
        "while (asked := receive()) is not None:\n"
        "    if asked['method'] == 'ping': send({'id': asked['id'], 'result': {}})"
    )
    async with Sandbox(deno=fake_deno(program), use_image=False) as sandbox:
        with pytest.raises(SandboxCrashed, match="did not end a cell within") as caught:
            with anyio.fail_after(WITHIN):
                await sandbox.execute("1", timeout=0.1)
        assert caught.value.exit_code == -9


async def test_a_child_may_ask_for_functions_only_while_a_cell_runs(fake_deno: FakeDeno) -> None:
    called: list[int] = []
    ask = "send({'id': 7, 'method': 'call', 'params': {'request': '[\"function\", [], {}]'}})\n"
    program = (
        f"asked = receive()\n{ask}early = receive()\n"
        "send({'id': asked['id'], 'result': {'protocol': 1, 'deno': '', 'v8': ''}})\n"
        f"asked = receive()\n{ask}answered = receive()\n"
        "while answered.get('method') == 'ping': answered = receive()\n"
        "error = json.dumps([early, answered])\n"
        f"send({{'id': asked['id'], 'result': {{{RAN}, 'error': error}}}})\nreceive()"
    )
    async with Sandbox(
        deno=fake_deno(program), use_image=False, functions={"function": lambda: called.append(1)}
    ) as sandbox:
        done = await run(sandbox, "1")
    assert called == [1]
    assert done.error is not None
    assert '"code": -32601, "message": "nothing may be asked for now"' in done.error
    assert '{"jsonrpc": "2.0", "id": 7, "result": {"value": "null"}}' in done.error


# --- no network ----------------------------------------------------------------------------------------------------


def has_network_namespaces() -> bool:
    return (
        shutil.which("unshare") is not None and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0
    )


@pytest.mark.skipif(not has_network_namespaces(), reason="this user may not take the network away from a process")
def test_a_sandbox_starts_from_nothing_where_there_is_no_network(tmp_path: Path) -> None:
    program = (
        "import anyio\n"
        "from rlm_wasm import Sandbox\n"
        "async def main():\n"
        "    async with Sandbox() as sandbox:\n"
        "        run = await sandbox.execute('import sys; sys.version_info[0]')\n"
        "        print(run.value, run.error)\n"
        "anyio.run(main)\n"
    )
    environment = {**os.environ, "RLM_WASM_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(rlm_wasm.__file__).parents[1])
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("3 None\n", "")
    assert [path.suffix for path in tmp_path.iterdir()] == [".image"]
