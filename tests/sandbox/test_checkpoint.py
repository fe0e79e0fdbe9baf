"""Checkpoints: a sandbox's whole memory taken, kept, restored and forked; and what is refused."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from rlm_wasm import SandboxCrashed
from rlm_wasm.sandbox import Checkpoint, Sandbox
from rlm_wasm.sandbox import image as images
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

STATE = """
import collections, csv, io, random, sqlite3, threading
from concurrent.futures import ThreadPoolExecutor

random.seed(5)

class Launch:
    total = 0
    def __init__(self, name):
        self.name = name
        Launch.total += 1

def counted(step):
    count = 0
    def next_one():
        nonlocal count
        count += step
        return count
    return next_one

def numbers():
    received = None
    for number in range(10):
        received = yield (number, received)

launches = [Launch("a"), Launch("b")]
launches.append(launches)
counter = counted(3)
counter()
generator = numbers()
next(generator)
rows = csv.reader(io.StringIO("1,2\\n3,4"))
next(rows)
with ThreadPoolExecutor(3) as pool:
    asked = list(pool.map(ask, "abc"))
table = sqlite3.connect(":memory:")
table.execute("create table kept (number)")
table.execute("insert into kept values (7)")
"""
LOOK = """
assert launches[2] is launches and launches[0].name == "a" and Launch.total == 2 and type(launches[1]) is Launch
assert counter() == 6
assert generator.send("here") == (1, "here")
assert next(rows) == ["3", "4"]
assert asked == ["A", "B", "C"]
assert table.execute("select number from kept").fetchall() == [(7,)]
assert len(context) == 3_000_000 and context[-2:] == "\\U0001f389b"
(random.random(), ask("d"))
"""


async def ask(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text.upper()


async def run(sandbox: Sandbox, code: str) -> Any:
    with anyio.fail_after(60):
        done = await sandbox.execute(code)
    assert done.error is None, done.error
    return done.value


@pytest.fixture
async def used() -> AsyncGenerator[Sandbox]:
    """A sandbox that has a context and has run a cell."""
    async with Sandbox(functions={"ask": ask}) as sandbox:
        await sandbox.load(context="ab" * 1_499_999 + "\U0001f389b")
        await run(sandbox, STATE)
        yield sandbox


@pytest.fixture(scope="module")
async def small() -> Checkpoint:
    """A checkpoint that nobody changes."""
    async with Sandbox() as sandbox:
        await sandbox.execute("x = [1, 2]")
        return await sandbox.checkpoint()


# --- what survives -------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_everything_in_memory_survives_and_both_go_on(used: Sandbox) -> None:
    checkpoint = await used.checkpoint()
    assert checkpoint.cells == 1
    assert {"launches", "counter", "generator", "context"} <= set(checkpoint.names)
    async with Sandbox.restore(checkpoint, functions={"ask": ask}) as restored:
        there = await run(restored, LOOK)
    # the one it was taken of goes on as if nothing had been, and random is random alike
    assert await run(used, LOOK) == there
    assert there[1] == "D"


async def test_a_checkpoint_goes_through_a_file(used: Sandbox, tmp_path: Path) -> None:
    checkpoint = await used.checkpoint()
    path = tmp_path / "used.checkpoint"
    checkpoint.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [path.name]
    # 3 million characters of 4 bytes are in it
    assert path.stat().st_size < checkpoint.size / 3
    read = Checkpoint.load(path)
    assert msgspec.structs.replace(read, body=bytes(read.body)) == msgspec.structs.replace(
        checkpoint, body=bytes(checkpoint.body)
    )
    async with Sandbox.restore(read, functions={"ask": ask}) as restored:
        await run(restored, LOOK)


async def test_files_survive_open_ones_and_those_without_a_name_too() -> None:
    code = """
import os, sqlite3, tempfile
os.makedirs("/tmp/folder/inner")
with open("/tmp/folder/inner/kept.txt", "w") as file:
    file.write("kept")
os.chmod("/tmp/folder/inner/kept.txt", 0o400)
os.symlink("inner/kept.txt", "/tmp/folder/link")
os.utime("/tmp/folder", (1000, 1000))
written = open("/tmp/written.txt", "w")
written.write("flushed ")
written.flush()
written.write("and not")
unnamed = tempfile.TemporaryFile()
unnamed.write(b"nameless")
unnamed.seek(4)
unnamed.tell()
table = sqlite3.connect("/tmp/table.sqlite")
table.execute("create table kept (number)")
table.execute("insert into kept values (7)")
table.commit()
os.chdir("/tmp/folder")
"""
    look = """
written.close()
(open("link").read(), os.getcwd(), oct(os.stat("inner/kept.txt").st_mode), os.stat("/tmp/folder").st_mtime,
 open("/tmp/written.txt").read(), unnamed.read().decode(), table.execute("select number from kept").fetchall())
"""
    async with Sandbox() as sandbox:
        await run(sandbox, code)
        [copy] = await sandbox.fork()
    async with copy as restored:
        names = ("kept", "/tmp/folder", "0o100400", 1000.0, "flushed and not", "less")
        assert await run(restored, look) == (*names, [(7,)])


async def test_forks_go_their_own_ways(used: Sandbox) -> None:
    one, other = await used.fork(2)
    async with one, other:
        await run(one, "launches[0].name = 'changed'")
        assert await run(one, "launches[0].name") == "changed"
        assert await run(other, "launches[0].name") == "a"
        assert await run(used, "launches[0].name") == "a"
        assert await run(one, "import os; os.urandom(8).hex()") != await run(other, "import os; os.urandom(8).hex()")
    with pytest.raises(ValueError, match="1 or more"):
        await used.fork(0)


async def test_what_the_options_say_is_as_new_in_a_restored_sandbox(small: Checkpoint) -> None:
    async with Sandbox.restore(small, output_chars=100, functions={"ask": ask}) as restored:
        assert (await restored.execute("print('y' * 1000)")).truncated == 901
        # a function that its cells did not have before
        assert await run(restored, "ask('x') + str(x)") == "X[1, 2]"
        await restored.load(more="loaded")
        assert await run(restored, "more") == "loaded"


async def test_the_cells_of_a_restored_sandbox_are_numbered_on_and_find_their_source() -> None:
    async with Sandbox() as sandbox:
        await run(sandbox, "def broken():\n    return 1 / 0")
        [copy] = await sandbox.fork()
    async with copy as restored:
        error = (await restored.execute("broken()")).error or ""
    assert 'File "<cell 2>", line 1' in error
    assert "    return 1 / 0" in error


async def test_a_restored_sandbox_that_dies_is_as_it_was_restored(small: Checkpoint) -> None:
    async with Sandbox.restore(small) as restored:
        await run(restored, "y = 3")
        os.kill(pid_of(restored), 9)
        with pytest.raises(SandboxCrashed) as caught, anyio.fail_after(60):
            await restored.execute("while True: pass")
        assert caught.value.lost == ("y",)
        assert await run(restored, "x") == [1, 2]
        assert "NameError" in ((await restored.execute("y")).error or "")


async def test_a_sandbox_without_an_image_can_be_taken_and_restored(small: Checkpoint) -> None:
    async with Sandbox(use_image=False) as sandbox:
        await run(sandbox, "x = 1")
        checkpoint = await sandbox.checkpoint()
    async with Sandbox.restore(checkpoint) as restored:
        assert await run(restored, "x") == 1
    async with Sandbox.restore(small, use_image=False) as restored:
        assert await run(restored, "x") == [1, 2]


async def test_a_checkpoint_of_a_restored_sandbox_is_one_like_any_other(small: Checkpoint) -> None:
    async with Sandbox.restore(small) as restored:
        await run(restored, "x.append(3)")
        again = await restored.checkpoint()
    assert again.cells == 2
    async with Sandbox.restore(again) as restored:
        assert await run(restored, "x") == [1, 2, 3]


# --- what waits, and what is refused -------------------------------------------------------------------------------


async def test_a_checkpoint_waits_for_the_cell_that_runs() -> None:
    here, go = anyio.Event(), anyio.Event()

    async def wait() -> None:
        here.set()
        await go.wait()

    taken: list[Checkpoint] = []
    async with Sandbox(functions={"wait": wait}) as sandbox:

        async def take() -> None:
            taken.append(await sandbox.checkpoint())

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sandbox.execute, "wait()\nx = 1")
                await here.wait()
                tasks.start_soon(take)
                await anyio.lowlevel.checkpoint()
                assert taken == []
                go.set()
    assert "x" in taken[0].names


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os\nends = os.pipe()", "pipe"),
        (
            "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\n"
            "list(pool.map(abs, [1, 2]))",
            "a thread that a cell has started still waits",
        ),
    ],
    ids=["a pipe", "a thread"],
)
async def test_what_cannot_be_kept_is_said_and_the_sandbox_goes_on(code: str, reason: str) -> None:
    async with Sandbox(functions={"ask": ask}) as sandbox:
        await run(sandbox, code)
        with pytest.raises(ValueError, match=reason):
            await sandbox.checkpoint()
        assert await run(sandbox, "ask('on')") == "ON"


async def test_a_cancelled_checkpoint_leaves_a_sandbox_that_goes_on(used: Sandbox) -> None:
    with anyio.move_on_after(0.02):
        await used.checkpoint()
    with anyio.fail_after(60):
        await run(used, LOOK)


async def test_a_restored_sandbox_needs_the_functions_that_its_cells_can_call(used: Sandbox) -> None:
    checkpoint = await used.checkpoint()
    with pytest.raises(ValueError, match="ask: give them in functions="):
        Sandbox.restore(checkpoint)


async def test_a_checkpoint_is_refused_by_another_build_and_by_too_little_memory(small: Checkpoint) -> None:
    with pytest.raises(ValueError, match="of another build"):
        Sandbox.restore(msgspec.structs.replace(small, build="0" * 64))
    large = msgspec.structs.replace(small, memory_bytes=300 * 1024 * 1024)
    with pytest.raises(ValueError, match="memory_mb=100: raise it"):
        Sandbox.restore(large, memory_mb=100)


def manifest_of(content: bytes) -> tuple[int, dict[str, Any], bytes]:
    start = content.index(b"\n") + 1
    (length,) = struct.unpack_from("<I", content, start)
    return start, msgspec.json.decode(content[start + 4 : start + 4 + length]), content[start + 4 + length :]


def with_manifest(content: bytes, **changes: Any) -> bytes:
    start, manifest, rest = manifest_of(content)
    text = msgspec.json.encode(manifest | changes)
    return content[:start] + struct.pack("<I", len(text)) + text + rest


DAMAGE = {
    "not one": (lambda content: b"something else", "it is no checkpoint"),
    "empty": (lambda content: b"", "it is no checkpoint"),
    "from the future": (lambda content: content.replace(b"checkpoint 1\n", b"checkpoint 2\n", 1), "its format is 2"),
    "cut in its manifest": (lambda content: content[:60], "damaged or cut short"),
    "cut in its body": (lambda content: content[: len(content) // 2], "cut short"),
    "cut at its end": (lambda content: content[:-1], "damaged|cut short"),
    "a flipped byte": (lambda content: content[:-9000] + bytes([content[-9000] ^ 1]) + content[-8999:], "damaged"),
    "longer than announced": (lambda content: content + b"x", "damaged"),
    "announced as shorter": (lambda content: with_manifest(content, body_bytes=10), "damaged"),
    "of an impossible size": (lambda content: with_manifest(content, body_bytes=1 << 60), "body_bytes is"),
    "of more memory than there is": (
        lambda content: with_manifest(content, memory_bytes=1 << 32),
        "memory_bytes is 4,294,967,296",
    ),
    "of a negative size": (lambda content: with_manifest(content, header_bytes=-1), "header_bytes is"),
    "of another checksum": (lambda content: with_manifest(content, sha256="0" * 64), "its checksum differs"),
    "with a field nobody knows": (lambda content: with_manifest(content, more=1), "its manifest"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_file_is_refused_with_its_reason(
    small: Checkpoint, tmp_path: Path, damage: Any, reason: str
) -> None:
    path = tmp_path / "damaged"
    small.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=reason) as caught:
        Checkpoint.load(path)
    assert str(path) in str(caught.value)


async def test_a_disk_that_is_full_leaves_what_was_there(
    small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small.save(path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["kept"]


# --- a stranger's checkpoint ---------------------------------------------------------------------------------------


async def test_a_memory_that_is_nonsense_ends_its_own_process_and_nothing_else(small: Checkpoint) -> None:
    body = bytearray(small.body)
    table = 8 * small.runs
    # everything that is no pointer table: the interpreter finds noise where its objects were
    body[table + 4096 : table + 4096 * 1000] = os.urandom(4096 * 999)
    broken = Sandbox.restore(msgspec.structs.replace(small, body=body))
    with pytest.raises(Exception, match=r"sandbox|interpreter|process"), anyio.fail_after(120):
        async with broken:
            await broken.execute("1 + 1")


@pytest.mark.parametrize("field", ["address", "length"])
async def test_a_table_of_runs_that_leaves_the_memory_is_refused(small: Checkpoint, field: str) -> None:
    body = bytearray(small.body)
    struct.pack_into("<I", body, 0 if field == "address" else 4, 0xFFFF_F000)
    with pytest.raises(Exception, match=r"damaged image|out of bounds"), anyio.fail_after(120):
        async with Sandbox.restore(msgspec.structs.replace(small, body=body)):
            pass


async def test_the_code_around_the_interpreter_never_comes_from_a_checkpoint(small: Checkpoint) -> None:
    head, _ = small.image(None)
    assert images.split(head + b"")[0] == head
    # the third field: bytes of code cache
    assert struct.unpack_from("<6I", head)[2] == 0


async def test_a_restored_sandbox_is_as_sealed_as_any(small: Checkpoint) -> None:
    async with Sandbox.restore(small) as restored, Sandbox() as fresh:
        assert restored.isolation == fresh.isolation
        names = ["fetch", "Deno", "eval", "postMessage", "Worker", "process", "Object", "WebAssembly"]
        code = f"import js\n[name for name in {names} if hasattr(js, name)]"
        assert await run(restored, code) == await run(fresh, code)
