"""A sandbox taken half-way: kept in a file, restored, and forked into two that go their own ways."""

import tempfile
from pathlib import Path

import anyio

from rlm_wasm import Checkpoint, Sandbox

PREPARE = """
import re
from collections import Counter

words = Counter(re.findall(r"[a-z]+", context.lower()))

def lines():
    yield from context.splitlines()

line = lines()
next(line)
"""


async def run(sandbox: Sandbox, code: str) -> object:
    return (await sandbox.execute(code)).value


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half-way.checkpoint"
        async with Sandbox() as sandbox:
            await sandbox.load(context="the first line\nthe second line\nand the third")
            await sandbox.execute(PREPARE)
            checkpoint = await sandbox.checkpoint()
            print("taken:", ", ".join(sorted(checkpoint.names)))
            checkpoint.save(path)

        # another program, or another machine with the same version
        async with Sandbox.restore(Checkpoint.load(path)) as restored:
            print("words:", await run(restored, "words.most_common(1)"))
            print("the generator goes on:", await run(restored, "next(line)"))
            one, other = await restored.fork(2)
            async with one, other:
                await one.execute("words['the'] = 0")
                print("changed in one:", await run(one, "words['the']"))
                print("and not in the other:", await run(other, "words['the']"))
                print("both go on from there:", await run(one, "next(line)"), "|", await run(other, "next(line)"))


if __name__ == "__main__":
    anyio.run(main)
