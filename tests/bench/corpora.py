"""The rows of the bench about files larger than memory: the search beside ripgrep alone, and the host's memory.

The file is made in the folder for temporary files (TMPDIR), is read once before it is measured, and is removed.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import anyio.to_thread

from rlm_wasm.clients import ScriptedClient
from rlm_wasm.corpora import Corpus
from rlm_wasm.corpora.query import Query, Search
from rlm_wasm.corpora.search import find_ripgrep, hits
from rlm_wasm.rlm import RLM
from tests.processes import forget_peak, memory_mb

if TYPE_CHECKING:
    from tests.bench.rows import Bench, Row

GB = 1_000_000_000
WORDS = ("error", "warning", "request", "user", "session", "timeout", "cache", "index", "revenue", "queue", "worker")
# pattern, and whether its case counts; each stands once, at the end
PATTERNS = {
    "a literal": ("Zyzzyva-4711", False),
    "without case": ("zyzzyva-4711", True),
    "an alternation": ("Zyzzyva|Quuxbar|haystack", False),
    "a class": (r"\d{4}-\d\d", False),
    "no literal": ("[A-Z][a-z]+-[0-9]{4}", False),
}


@contextmanager
def large_file(size: int) -> Iterator[Path]:
    """A log of so many bytes and a last line."""
    chance = random.Random(7)
    lines = (
        f"INFO [{chance.randrange(10**8):08d}] {' '.join(chance.choices(WORDS, k=12))} took={chance.random():.6f}\n"
        for _ in range(100_000)
    )
    block = "".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.log")
        with path.open("wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
            file.write(b"the needle in the haystack: Zyzzyva-4711-08\n")
        yield path


def searched(path: Path) -> dict[str, Callable[[], Awaitable[float]]]:
    """For each pattern ours and ripgrep alone, in GB/s, over all of the file."""
    ripgrep = find_ripgrep()
    assert ripgrep is not None, "the row needs ripgrep: the extra 'lazy' brings it"
    size = path.stat().st_size / GB

    def ours(pattern: str, ignore_case: bool) -> float:
        begun = time.perf_counter()
        with Corpus.open(path) as corpus:
            [hit] = hits(corpus, Query(pattern, True, ignore_case), 0, corpus.size, 1000, Search())
        assert hit.offset > size * GB - 100
        return size / (time.perf_counter() - begun)

    def alone(pattern: str, ignore_case: bool) -> float:
        begun = time.perf_counter()
        command = [ripgrep, "--no-config", "-n", *(["-i"] if ignore_case else []), "-e", pattern, str(path)]
        assert subprocess.run(command, capture_output=True, check=True).stdout.count(b"\n") == 1
        return size / (time.perf_counter() - begun)

    return {
        f"{name}, {who}": lambda run=run, given=given: anyio.to_thread.run_sync(run, *given)
        for name, given in PATTERNS.items()
        for who, run in (("rlm_wasm", ours), ("ripgrep", alone))
    }


async def grep(bench: Bench) -> Row:
    """A pattern looked for in a file that is in the system's cache, as far as that has room for it."""
    from tests.bench.rows import alternately, told

    size = GB if bench.quick else 10 * GB
    with large_file(size) as path:
        contestants = searched(path)
        for measure in list(contestants.values())[:2]:
            await measure()
        goal = "0.5 x ripgrep or more"
        found = await alternately(f"grep over {size // GB} GB", "GB/s", contestants, min(bench.times, 3), goal)
    shares = {name: found.medians[f"{name}, rlm_wasm"] / found.medians[f"{name}, ripgrep"] for name in PATTERNS}
    return told(found, *(f"{name} {share:.2f} x" for name, share in shares.items()))


async def corpus_memory(bench: Bench) -> Row:
    """What the host takes above itself idle in a run that greps, counts and reads, and when the first look is over."""
    from tests.bench.rows import row, told

    cells = [
        "print(len(context), context.head(100))",
        "print(context.grep(r'Zyzzyva-\\d+'), context.count('error'), context.sample(5))",
        "print(sum(1 for line in context.lines(end=20_000_000)))\nFINAL(1)",
    ]
    size = GB if bench.quick else 10 * GB
    above: list[float] = []
    looks: list[float] = []
    with large_file(size) as path:
        for _ in range(3):
            took: list[float] = []

            def heard(event: object, took: list[float] = took) -> None:
                took.append(time.perf_counter())

            rlm = RLM(ScriptedClient([f"```repl\n{cell}\n```" for cell in cells]), on_iteration=heard)
            async with rlm:
                before = memory_mb("VmRSS")
                forget_peak()
                begun = time.perf_counter()
                done = await rlm.acompletion("?", context=path, lazy=True)
                assert done.stopped_by == "final", done
                above.append(memory_mb("VmHWM") - before)
                # the first iteration has begun, and ended
                looks.append(took[1] - begun)
    goal = "200 MB above idle; no full read for a first look"
    found = row(f"a run over {size // GB} GB", "MB", {"the host above idle": above}, goal)
    return told(found, f"{max(above):.0f} MB", f"{median(looks):.2f} s from the question to the first look's end")
