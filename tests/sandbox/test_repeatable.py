"""Which cells would do the same again: those that make no use of time or of the system's chance."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from rlm_wasm.sandbox import Sandbox

pytestmark = pytest.mark.anyio

REPEATABLE = [
    "found = [number for number in range(10_000) if number % 7 == 0]\nlen(found)",
    "import random\nrandom.sample(range(100), 3)",
    "import json, logging, secrets, sqlite3, tempfile, time, uuid",
    "1 / 0",
    "ask('a')",
    "from concurrent.futures import ThreadPoolExecutor, as_completed\n"
    "with ThreadPoolExecutor(4) as pool:\n"
    "    print([done.result() for done in as_completed([pool.submit(ask, str(n)) for n in range(9)])])",
    "import asyncio\nprint(await asyncio.gather(*[asyncio.to_thread(ask, str(n)) for n in range(3)]))",
]
CHANCY = [
    "time.time()",
    "time.perf_counter()",
    "__import__('datetime').datetime.now()",
    "time.sleep(0.001)",
    "random.Random().random()",
    "uuid.uuid4()",
    "sqlite3.connect(':memory:').execute('select random()').fetchall()",
    "open('/tmp/file', 'w').close()",
    "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire(timeout=0.001)",
]


async def ask(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text.upper()


async def test_a_cell_that_looked_at_a_clock_or_drew_from_chance_says_so() -> None:
    async with Sandbox(functions={"ask": ask}) as sandbox:
        with anyio.fail_after(60):
            said = [(code, (await sandbox.execute(code)).repeatable) for code in [*REPEATABLE, *CHANCY, "1"]]
    assert said == [*((code, True) for code in REPEATABLE), *((code, False) for code in CHANCY), ("1", True)]


async def test_an_interrupted_cell_is_not_repeatable() -> None:
    async with Sandbox(timeout=0.3) as sandbox:
        with anyio.fail_after(60):
            done = await sandbox.execute("n = 0\nwhile True: n += 1")
    assert done.timed_out
    assert not done.repeatable
