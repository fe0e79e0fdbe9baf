"""The rows of the bench: each measures ours and its references alternately, in the same run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import anyio
import msgspec

from rlm_wasm.sandbox import Sandbox, SandboxPool
from rlm_wasm.sandbox import session as sessions
from rlm_wasm.sandbox.process import ChildOptions, find_deno

HERE = Path(__file__).parent


class Row(msgspec.Struct, frozen=True):
    """What a row measured: medians and spreads (10th to 90th percentile) by contestant, in `unit`."""

    name: str
    unit: str
    medians: dict[str, float]
    spreads: dict[str, tuple[float, float]]


Measure = Callable[[], Awaitable[float]]


async def alternately(name: str, unit: str, contestants: dict[str, Measure], times: int) -> Row:
    """Measure each contestant `times` times, one after the other in turn, so that noise falls on all alike."""
    samples: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(times):
        for contestant, measure in contestants.items():
            samples[contestant].append(await measure())
    return Row(
        name,
        unit,
        {contestant: median(values) for contestant, values in samples.items()},
        {contestant: spread(values) for contestant, values in samples.items()},
    )


def spread(values: list[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]


async def cold(times: int) -> Row:
    """Spawn to the first cell's result, the whole process; against plain `loadPyodide` in Deno."""

    async def started() -> float:
        begun = time.perf_counter()
        async with Sandbox() as sandbox:
            await sandbox.execute("1 + 1")
            return time.perf_counter() - begun

    async def unconfined() -> float:
        confined, sessions.ChildOptions = sessions.ChildOptions, _unconfined
        try:
            return await started()
        finally:
            sessions.ChildOptions = confined

    async def plain() -> float:
        begun = time.perf_counter()
        command = [str(find_deno()), "run", "--allow-all", "--no-config", "--no-lock", str(HERE / "plain_pyodide.mjs")]
        done = await anyio.run_process(command, stderr=subprocess.DEVNULL)
        assert done.stdout == b"2\n"
        return time.perf_counter() - begun

    await started()
    contestants = {"rlm_wasm": started, "without the kernel's layer": unconfined, "plain loadPyodide": plain}
    return await alternately("cold start to first result", "s", contestants, times)


def _unconfined(deno: object, memory_mb: int, confined: bool) -> ChildOptions:
    return ChildOptions(deno, memory_mb, False)  # pyright: ignore[reportArgumentType]


async def warm(times: int) -> Row:
    """`pool.lend()` to the first cell's result."""
    async with SandboxPool(1) as pool:

        async def lent() -> float:
            # the next one boots meanwhile: it is waited for, so that only what a lender sees is measured
            with anyio.fail_after(60):
                while "1 ready" not in repr(pool):  # noqa: ASYNC110 - a pool tells nobody when it is full again
                    await anyio.sleep(0.05)
            begun = time.perf_counter()
            async with pool.lend() as sandbox:
                await sandbox.execute("1 + 1")
                return time.perf_counter() - begun

        return await alternately("warm: lend to first result", "s", {"rlm_wasm": lent}, times)


async def cells(times: int) -> Row:
    """A cell that does nothing, and a host function that does nothing, one after the other."""

    async def nothing() -> None:
        return None

    async with Sandbox(functions={"nothing": nothing}) as sandbox:

        async def cell() -> float:
            begun = time.perf_counter()
            for _ in range(50):
                await sandbox.execute("x = 1")
            return (time.perf_counter() - begun) / 50

        async def call() -> float:
            code = "import time\nbegun = time.perf_counter()\nfor _ in range(200): nothing()\n"
            ran = await sandbox.execute(code + "(time.perf_counter() - begun) / 200")
            return float(ran.value)

        return await alternately("one round trip", "s", {"a cell": cell, "a bridged call": call}, times)


async def loading(times: int) -> Row:
    """100 MB of text on the host to a usable `context` inside, each in a fresh sandbox; in MB a second."""
    ascii_text = "hello world " * 8_333_334
    mixed_text = "naïve café 日本語 text 🎉 and some more plain words. " * 1_700_000
    sizes = {"ascii": len(ascii_text), "mixed": len(mixed_text.encode())}

    def load(name: str, text: str) -> Measure:
        async def measure() -> float:
            async with Sandbox(memory_mb=1500) as sandbox:
                begun = time.perf_counter()
                await sandbox.load(context=text)
                seconds = time.perf_counter() - begun
                assert (await sandbox.execute("len(context)")).value == len(text)
                return sizes[name] / 1e6 / seconds

        return measure

    contestants = {"ascii": load("ascii", ascii_text), "mixed": load("mixed", mixed_text)}
    return await alternately("loading 100 MB of text", "MB/s", contestants, times)


async def overlap(times: int) -> Row:
    """Many calls of 100 ms that wait at once: a batch of 1,000, and 64 threads with two calls of 50 ms each."""

    async def batch(count: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(anyio.sleep, 0.1)

    async def nap() -> None:
        await anyio.sleep(0.05)

    async with Sandbox(functions={"batch": batch, "nap": nap}, max_concurrency=1000) as sandbox:

        async def seconds(code: str) -> float:
            begun = time.perf_counter()
            ran = await sandbox.execute(code)
            assert ran.error is None, ran.error
            return time.perf_counter() - begun

        threads = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(64) as pool:\n    list(pool.map(lambda _: (nap(), nap()), range(64)))"
        )
        contestants = {
            "a batch of 1,000": lambda: seconds("batch(1000)"),
            "64 threads": lambda: seconds(threads),
        }
        return await alternately("waiting at once", "s", contestants, times)


ROWS: dict[str, Callable[[int], Awaitable[Row]]] = {
    "cold": cold,
    "warm": warm,
    "cells": cells,
    "loading": loading,
    "overlap": overlap,
}
