"""The rows of the bench: each measures ours and its references alternately, in the same run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import msgspec

from rlm_wasm import RLM, Limits
from rlm_wasm.clients import ScriptedClient
from rlm_wasm.sandbox import Sandbox, SandboxPool
from rlm_wasm.sandbox import session as sessions
from rlm_wasm.sandbox.process import ChildOptions, find_deno
from tests.bench.corpora import corpus_memory, grep
from tests.bench.peers import Dspy
from tests.bench.processor import parts
from tests.processes import forget_peak, memory_mb, pid_of

HERE = Path(__file__).parent
MB = 1_000_000
ASCII = "hello world "
MIXED = "naïve café 日本語 text 🎉 and some more plain words. "


class Row(msgspec.Struct, frozen=True):
    """What a row measured: medians and spreads (10th to 90th percentile) by contestant, in `unit`.

    `goal` in words, and `measured`, what is held against it.
    """

    name: str
    unit: str
    medians: dict[str, float]
    spreads: dict[str, tuple[float, float]]
    goal: str = ""
    measured: str = ""


class Bench(msgspec.Struct, frozen=True):
    """How to measure: samples of a row, the peers that are there, and whether to leave out what takes minutes."""

    times: int
    dspy: Dspy | None = None
    quick: bool = False


Measure = Callable[[], Awaitable[float]]


async def alternately(name: str, unit: str, contestants: dict[str, Measure], times: int, goal: str = "") -> Row:
    """Measure each contestant `times` times, one after the other in turn, so that noise falls on all alike."""
    samples: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(times):
        for contestant, measure in contestants.items():
            samples[contestant].append(await measure())
    return row(name, unit, samples, goal)


def row(name: str, unit: str, samples: dict[str, list[float]], goal: str = "") -> Row:
    return Row(
        name,
        unit,
        {contestant: median(values) for contestant, values in samples.items()},
        {contestant: spread(values) for contestant, values in samples.items()},
        goal,
    )


def spread(values: list[float]) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]


def told(row: Row, *measured: str) -> Row:
    return msgspec.structs.replace(row, measured="; ".join(text for text in measured if text))


def ratio(row: Row, ours: str, other: str) -> str:
    if other not in row.medians:
        return ""
    return f"{row.medians[ours] / row.medians[other]:.3f} x {other}"


def times_faster(row: Row, ours: str, other: str) -> str:
    if other not in row.medians:
        return ""
    return f"{row.medians[other] / row.medians[ours]:.0f} times faster than {other}"


def start_native(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@asynccontextmanager
async def unconfined() -> AsyncGenerator[None]:
    """In the block sandboxes start without the kernel's layer."""

    def options(deno: object, memory_mb: int, confined: bool) -> ChildOptions:
        return ChildOptions(deno, memory_mb, False)  # pyright: ignore[reportArgumentType]

    original, sessions.ChildOptions = sessions.ChildOptions, options  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sessions.ChildOptions = original


# --- starting ------------------------------------------------------------------------------------------------------


async def cold(bench: Bench) -> Row:
    """Spawn to the first cell's result, the whole process."""

    async def started() -> float:
        begun = time.perf_counter()
        async with Sandbox() as sandbox:
            await sandbox.execute("1 + 1")
            return time.perf_counter() - begun

    async def without_kernel() -> float:
        async with unconfined():
            return await started()

    async def without_image() -> float:
        begun = time.perf_counter()
        async with Sandbox(use_image=False) as sandbox:
            await sandbox.execute("1 + 1")
            return time.perf_counter() - begun

    async def plain() -> float:
        begun = time.perf_counter()
        command = [str(find_deno()), "run", "--allow-all", "--no-config", "--no-lock", str(HERE / "plain_pyodide.mjs")]
        done = await anyio.run_process(command, stderr=subprocess.DEVNULL)
        assert done.stdout == b"2\n"
        return time.perf_counter() - begun

    async def native() -> float:
        begun = time.perf_counter()
        await anyio.run_process([sys.executable, "-c", "1 + 1"])
        return time.perf_counter() - begun

    await started()
    contestants: dict[str, Measure] = {
        "rlm_wasm": started,
        "rlm_wasm, no kernel layer": without_kernel,
        "rlm_wasm, no image": without_image,
        "plain loadPyodide": plain,
        "native CPython": native,
    }
    if bench.dspy:
        contestants["DSPy"] = bench.dspy.asking("cold")
    goal = "0.13 x plain loadPyodide, 0.10 x without the kernel layer; 8 times faster than DSPy"
    found = await alternately("cold start to first result", "s", contestants, bench.times, goal)
    return told(
        found,
        ratio(found, "rlm_wasm", "plain loadPyodide"),
        f"no kernel layer {ratio(found, 'rlm_wasm, no kernel layer', 'plain loadPyodide')}",
        times_faster(found, "rlm_wasm", "DSPy"),
    )


async def stages(bench: Bench) -> Row:
    """Where the time of a cold start goes: what has been reached by when since the spawn, as the child tells."""
    samples: dict[str, list[float]] = {}
    for _ in range(3 * bench.times):
        begun = time.time()
        async with Sandbox() as sandbox:
            ready = time.time()
            await sandbox.execute("1 + 1")
            done = time.time()
        told = sorted(sandbox.stages, key=lambda stage: stage[1])
        points = [(name, at / 1000) for name, at in told]
        for name, at in [*points, ("the host knows", ready), ("the first cell's result", done)]:
            samples.setdefault(name, []).append(at - begun)
    found = row("since the spawn", "s", samples)
    reached = [f"{name} {seconds * 1000:.0f}" for name, seconds in found.medians.items()]
    return msgspec.structs.replace(found, goal="where a start's milliseconds go", measured=", ".join(reached))


async def warm(bench: Bench) -> Row:
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

        found = await alternately("warm: lend to first result", "s", {"rlm_wasm": lent}, bench.times, "5 ms")
    return told(found, f"{found.medians['rlm_wasm'] * 1000:.1f} ms")


async def together(bench: Bench) -> Row:
    """Eight sandboxes started at once, against one."""

    async def start(count: int) -> float:
        begun = time.perf_counter()
        ready: list[float] = []

        async def one() -> None:
            async with Sandbox() as sandbox:
                await sandbox.execute("1 + 1")
                ready.append(time.perf_counter() - begun)

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(one)
        return max(ready)

    contestants = {"eight": lambda: start(8), "one": lambda: start(1)}
    found = await alternately("eight started together", "s", contestants, bench.times, "6 x one")
    return told(found, f"{found.medians['eight'] / found.medians['one']:.1f} x one")


async def idle(bench: Bench) -> Row:
    """What each of eight idle sandboxes takes of the machine's memory (PSS)."""

    async def each() -> float:
        shares: list[float] = []
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()
            opened = 0

            async def one() -> None:
                nonlocal opened
                async with Sandbox() as sandbox:
                    await sandbox.execute("1 + 1")
                    opened += 1
                    if opened == 8:
                        await anyio.sleep(2)
                        done.set()
                    await done.wait()
                    shares.append(memory_mb("Pss", pid_of(sandbox), "smaps_rollup"))

            for _ in range(8):
                tasks.start_soon(one)
        return median(shares)

    found = await alternately("an idle sandbox of eight", "MB", {"rlm_wasm": each}, min(bench.times, 3), "110 MB")
    return told(found, f"{found.medians['rlm_wasm']:.0f} MB")


# --- running and asking --------------------------------------------------------------------------------------------


# seconds that each end of the bare hops works before it answers, about as a cell and the host do
WORK = 0.0001
HOPS = "its four hops alone"


@asynccontextmanager
async def bare_hops() -> AsyncGenerator[Measure]:
    """What the machine takes to bring a message from here into a Worker of Deno and back, when nobody runs hot."""
    command = [str(find_deno()), "run", "--no-config", "--no-lock", str(HERE / "bare_hops.mjs"), str(WORK * 1e6)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220 - as ours
        assert process.stdin is not None
        assert process.stdout is not None
        there, back = process.stdin.fileno(), process.stdout.fileno()

        def echoed() -> float:
            until = time.perf_counter() + WORK
            while time.perf_counter() < until:
                pass
            begun = time.perf_counter()
            os.write(there, b"x" * 100)
            os.read(back, 1000)
            return time.perf_counter() - begun - WORK

        async def hops() -> float:
            return median(echoed() for _ in range(50))

        await hops()
        yield hops
        process.kill()


async def cells(bench: Bench) -> Row:
    """A cell that does nothing: many in a row, and one after a rest, as between two answers of a model."""
    async with Sandbox() as sandbox, bare_hops() as hops:

        async def cell() -> float:
            begun = time.perf_counter()
            for _ in range(200):
                await sandbox.execute("x = 1")
            return (time.perf_counter() - begun) / 200

        async def rested() -> float:
            await anyio.sleep(0.5)
            begun = time.perf_counter()
            await sandbox.execute("x = 1")
            return time.perf_counter() - begun

        for _ in range(5):
            await cell()
        contestants: dict[str, Measure] = {"rlm_wasm": cell, HOPS: hops, "rlm_wasm after half a second": rested}
        if bench.dspy:
            contestants["DSPy"] = bench.dspy.asking("cell")
        goal = "0.4 ms; 5 times faster than DSPy"
        found = await alternately('execute("x = 1")', "s", contestants, 3 * bench.times, goal)
    return told(found, in_ms(found), times_faster(found, "rlm_wasm", "DSPy"))


def in_ms(found: Row) -> str:
    """What ours took, and how much of it the machine takes for the hops alone."""
    return f"{found.medians['rlm_wasm'] * 1000:.2f} ms, {HOPS} {found.medians[HOPS] * 1000:.2f} ms"


async def calls(bench: Bench) -> Row:
    """A host function that does nothing, called again and again."""

    async def nothing() -> None:
        return None

    async with Sandbox(functions={"nothing": nothing}) as sandbox, bare_hops() as hops:

        async def call() -> float:
            code = "import time\nbegun = time.perf_counter()\nfor _ in range(200): nothing()\n"
            ran = await sandbox.execute(code + "(time.perf_counter() - begun) / 200")
            return float(ran.value)

        for _ in range(5):
            await call()
        contestants: dict[str, Measure] = {"rlm_wasm": call, HOPS: hops}
        if bench.dspy:
            contestants["DSPy"] = bench.dspy.asking("call")
        found = await alternately("one bridged call", "s", contestants, 3 * bench.times, "0.15 ms")
    return told(found, in_ms(found), ratio(found, "rlm_wasm", "DSPy"))


async def checkpoints(bench: Bench) -> Row:
    """A sandbox with a context of 40 MB: its whole memory taken, and restored to the first cell's result."""
    async with Sandbox() as sandbox:
        await sandbox.load(context=ASCII * (40 * MB // len(ASCII)))
        await sandbox.execute("import json, re\nnumbers = {number: str(number) for number in range(100_000)}")

        async def taken() -> float:
            begun = time.perf_counter()
            await sandbox.checkpoint()
            return time.perf_counter() - begun

        checkpoint = await sandbox.checkpoint()

        async def restored() -> float:
            begun = time.perf_counter()
            async with Sandbox.restore(checkpoint) as other:
                assert (await other.execute("len(context), len(numbers)")).error is None
                return time.perf_counter() - begun

        contestants = {"taken": taken, "restored": restored}
        found = await alternately("a checkpoint of 40 MB", "s", contestants, bench.times, "0.45 s")
    return told(found, f"taken {found.medians['taken']:.2f} s, restored {found.medians['restored']:.2f} s")


async def overlap(bench: Bench) -> Row:
    """Many calls that wait at once: a batch of 1,000 of 100 ms, and 64 threads with two calls of 50 ms each."""

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
        contestants = {"a batch of 1,000": lambda: seconds("batch(1000)"), "64 threads": lambda: seconds(threads)}
        found = await alternately("waiting at once", "s", contestants, bench.times, "0.35 s; 0.25 s")
    return told(found, *(f"{seconds:.2f} s" for seconds in found.medians.values()))


async def whole_run(bench: Bench) -> Row:
    """Processor time of the host for a scripted run of 20 iterations, with and without 500 calls of a sub model."""

    async def run(batches: int) -> float:
        asking = f"```repl\nanswers = llm_query_batched(['word'] * {25 * batches})\n```"
        replies = [asking if batches else "```repl\nx = 1\n```"] * 19 + [asking + "\n```repl\nFINAL(1)\n```"]
        rlm = RLM(ScriptedClient(replies), sub_model=ScriptedClient(rules=[("word", "yes")]), limits=Limits(calls=1000))
        begun = time.process_time()
        done = await rlm.acompletion("How many?", context="text")
        took = time.process_time() - begun
        assert done.stopped_by == "final"
        return took

    contestants = {"with 500 calls": lambda: run(1), "without": lambda: run(0)}
    found = await alternately(
        "a run of 20 iterations, the host's processor time",
        "s",
        contestants,
        bench.times,
        "3 ms an iteration, 0.3 ms a call",
    )
    per_call = (found.medians["with 500 calls"] - found.medians["without"]) / 500
    return told(
        found, f"{found.medians['without'] / 20 * 1000:.1f} ms an iteration", f"{per_call * 1000:.2f} ms a call"
    )


# --- contexts ------------------------------------------------------------------------------------------------------


async def loading(bench: Bench) -> Row:
    """Text on the host to a usable `context` inside, each in a fresh sandbox."""
    texts = {"ASCII": ASCII * (100 * MB // 12), "mixed": MIXED * (100 * MB // len(MIXED.encode()))}
    sizes = {name: len(text.encode()) for name, text in texts.items()}

    def load(name: str) -> Measure:
        async def measure() -> float:
            async with Sandbox() as sandbox:
                begun = time.perf_counter()
                await sandbox.load(context=texts[name])
                seconds = time.perf_counter() - begun
                assert (await sandbox.execute("len(context)")).value == len(texts[name])
                return sizes[name] / MB / seconds

        return measure

    async def through_cat() -> float:
        content = texts["ASCII"].encode()
        begun = time.perf_counter()
        await anyio.run_process(["cat"], input=content, stdout=subprocess.DEVNULL)
        return len(content) / MB / (time.perf_counter() - begun)

    async def copied() -> float:
        content = texts["ASCII"].encode()
        begun = time.perf_counter()
        bytearray(content)
        return len(content) / MB / (time.perf_counter() - begun)

    contestants: dict[str, Measure] = {"ASCII": load("ASCII"), "mixed": load("mixed")}
    contestants |= {"cat through a pipe": through_cat, "memcpy": copied}
    if bench.dspy:
        seconds = bench.dspy.asking("load 50")

        async def dspy() -> float:
            return 50 / await seconds()

        contestants["DSPy, 50 MB of ASCII"] = dspy
    goal = "ASCII 400 MB/s, mixed 150 MB/s; 50 x DSPy"
    found = await alternately("loading 100 MB of text", "MB/s", contestants, bench.times, goal)
    theirs = found.medians.get("DSPy, 50 MB of ASCII")
    return told(
        found,
        *(f"{name} {found.medians[name]:.0f} MB/s" for name in ("ASCII", "mixed")),
        f"{found.medians['ASCII'] / theirs:.0f} x DSPy" if theirs else "",
    )


async def peak(bench: Bench) -> Row:
    """The most memory that a child takes while it loads, above the idle child, by the size of the str it ends with."""

    def grown(text: str, width: int) -> Measure:
        async def measure() -> float:
            async with Sandbox() as sandbox:
                await sandbox.execute("1 + 1")
                before = memory_mb("VmRSS", pid_of(sandbox))
                forget_peak(pid_of(sandbox))
                await sandbox.load(context=text)
                return (memory_mb("VmHWM", pid_of(sandbox)) - before) / (len(text) * width / MB)

        return measure

    contestants = {"ASCII": grown(ASCII * (200 * MB // 12), 1), "mixed": grown(MIXED * (40 * MB // len(MIXED)), 4)}
    found = await alternately(
        "peak memory while loading 200 MB", "x its size", contestants, min(bench.times, 5), "1.25"
    )
    return told(found, *(f"{name} {value:.2f}" for name, value in found.medians.items()))


async def gigabyte(bench: Bench) -> Row:
    """A context of 1 GB: loaded, counted, searched, sliced."""
    text = ASCII * (1000 * MB // 12)
    samples: dict[str, list[float]] = {}
    async with Sandbox(timeout=600) as sandbox:
        begun = time.perf_counter()
        await sandbox.load(context=text)
        samples["load"] = [time.perf_counter() - begun]
        for name, code in {
            "count": "context.count('world')",
            "re.finditer": "import re\nsum(1 for _ in re.finditer('world hello', context))",
            "slice": "len(context[400_000_000:600_000_000])",
        }.items():
            ran = await sandbox.execute(code)
            assert ran.error is None, ran.error
            assert ran.value > 1000
            samples[name] = [ran.seconds]
    found = row("a context of 1 GB", "s", samples, "loads, and count, re.finditer and slicing run on it")
    return told(found, "all run")


async def sizes(bench: Bench) -> Row:
    """An iteration after the first, by the size of the context."""
    contestants: dict[str, Measure] = {}
    async with Sandbox() as small, Sandbox() as large:
        await small.load(context="x" * MB)
        await large.load(context="x" * 300 * MB)

        def iteration(sandbox: Sandbox) -> Measure:
            async def measure() -> float:
                begun = time.perf_counter()
                for _ in range(50):
                    await sandbox.execute("context[:100]")
                return (time.perf_counter() - begun) / 50

            return measure

        contestants = {"300 MB": iteration(large), "1 MB": iteration(small)}
        goal = "the same for any size"
        found = await alternately("a cell by the size of the context", "s", contestants, 3 * bench.times, goal)
    return told(found, f"{found.medians['300 MB'] / found.medians['1 MB']:.2f} x that of 1 MB")


async def printing(bench: Bench) -> Row:
    """A cell that prints very much: its time against printing to nothing, and by what the host's memory grows."""
    size = 100 * MB if bench.quick else 1000 * MB
    loop = f"line = 'x' * 999\nfor _ in range({size // 1000}): "

    async with Sandbox(timeout=600) as sandbox:
        setup = (
            "import io\nclass Nothing(io.TextIOBase):\n    def write(self, text): return len(text)\nnothing = Nothing()"
        )
        await sandbox.execute(setup)

        async def seconds(code: str) -> float:
            ran = await sandbox.execute(code)
            assert ran.error is None, ran.error
            return ran.seconds

        before = memory_mb("VmRSS")
        contestants = {
            "print": lambda: seconds(loop + "print(line)"),
            "to nothing": lambda: seconds(loop + "print(line, file=nothing)"),
        }
        goal = "1.3 x printing to nothing; the host grows by less than 5 MB"
        found = await alternately(f"printing {size // MB:,} MB", "s", contestants, min(bench.times, 3), goal)
        grown = memory_mb("VmRSS") - before
    return told(found, f"{found.medians['print'] / found.medians['to nothing']:.2f} x", f"{grown:.1f} MB")


TEXT_WORK = {
    "find": "text.find('absent word')",
    "count": "text.count('fox')",
    "split": "len(text.split())",
    "lines": "sum(1 for line in text.splitlines() if 'dog' in line)",
    "regex": "len(re.findall(r'\\bqu[a-z]+\\b', text))",
    "lower": "len(text.lower())",
    "json": "len(json.loads(records))",
    "Counter": "Counter(text[:8_000_000].split()).most_common(1)",
    "a pure-Python loop": "sum(ord(c) & 1 for c in text[:1_000_000])",
}
TEXT_SETUP = """import json, re
from collections import Counter
text = ("the quick brown fox jumps over the lazy dog and runs\\n" * 800_000)[:40_000_000]
records = json.dumps([{"id": n, "name": "name", "tags": ["a", "b"]} for n in range(100_000)])
"""


async def text_work(bench: Bench) -> Row:
    """Work on 40 MB of text in a cell, by the time that native CPython takes for it."""
    program = (
        f"{TEXT_SETUP}\nimport sys, time\n"
        "for code in sys.stdin:\n"
        "    begun = time.perf_counter()\n    eval(code)\n    print(time.perf_counter() - begun, flush=True)\n"
    )
    samples: dict[str, list[float]] = {name: [] for name in TEXT_WORK}
    process = start_native(program)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with Sandbox(timeout=600) as sandbox:
            assert (await sandbox.execute(TEXT_SETUP)).error is None
            for _ in range(1 + min(bench.times, 5)):
                for name, code in TEXT_WORK.items():
                    process.stdin.write(code + "\n")
                    process.stdin.flush()
                    native = float(process.stdout.readline())
                    ran = await sandbox.execute(
                        f"import time\nbegun = time.perf_counter()\n{code}\ntime.perf_counter() - begun"
                    )
                    assert ran.error is None, ran.error
                    samples[name].append(ran.value / native)
    finally:
        process.kill()
        process.wait()
    # the first of each is compiled while it runs
    measured = {name: values[1:] for name, values in samples.items()}
    goal = "2 x native CPython, but for pure-Python loops"
    found = row("text work in a cell", "x native", measured, goal)
    worst = max((name for name in found.medians if "loop" not in name), key=found.medians.__getitem__)
    return told(
        found, f"at most {found.medians[worst]:.1f} x ({worst}); loops {found.medians['a pure-Python loop']:.1f} x"
    )


# --- growth, for the plot ------------------------------------------------------------------------------------------


async def growth(bench: Bench) -> dict[str, Any]:
    """Seconds by megabytes of context, and by the number of sub-calls that wait 50 ms each, 100 at once."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {"context": {"rlm_wasm": []}, "calls": {"rlm_wasm": []}}
    for size in (1, 10, 50, 100, 200):
        async with Sandbox() as sandbox:
            text = ASCII * (size * MB // 12)
            begun = time.perf_counter()
            await sandbox.load(context=text)
            points["context"]["rlm_wasm"].append((size, time.perf_counter() - begun))
        if bench.dspy and size <= 50:
            points["context"].setdefault("DSPy", []).append((size, await bench.dspy.ask(f"load {size}")))

    async def nap() -> None:
        await anyio.sleep(0.05)

    async with Sandbox(functions={"nap": nap}, max_concurrency=100) as sandbox:
        for count in (1, 50, 200, 500, 1000):
            code = (
                "from concurrent.futures import ThreadPoolExecutor\n"
                f"with ThreadPoolExecutor(100) as pool:\n    list(pool.map(lambda _: nap(), range({count})))"
            )
            begun = time.perf_counter()
            assert (await sandbox.execute(code)).error is None
            points["calls"]["rlm_wasm"].append((count, time.perf_counter() - begun))
            points["calls"].setdefault("their waiting alone", []).append((count, -(-count // 100) * 0.05))
    return points


ROWS: dict[str, Callable[[Bench], Awaitable[Row]]] = {
    "cold": cold,
    "stages": stages,
    "warm": warm,
    "cells": cells,
    "calls": calls,
    "parts": parts,
    "checkpoints": checkpoints,
    "overlap": overlap,
    "loading": loading,
    "peak": peak,
    "gigabyte": gigabyte,
    "sizes": sizes,
    "idle": idle,
    "printing": printing,
    "run": whole_run,
    "together": together,
    "text": text_work,
    "grep": grep,
    "corpus": corpus_memory,
}
