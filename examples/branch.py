"""Look into a run after one of its iterations, go on from there, and answer a question several times from one start.

With a real model: RLM("gpt-5-mini") in place of RLM(ScriptedClient(...)), which stands for one here.
"""

import anyio

from rlm_wasm import RLM, Samples, ScriptedClient

LAUNCHES = "Ariel 1962 revenue 12\nBion 1966 revenue 40\nCosmos 1967 revenue 7\n"

READ = """```repl
rows = [line.split() for line in context.splitlines()]
print(len(rows), rows[0])
```"""
LARGEST = "```repl\nFINAL(max(rows, key=lambda row: int(row[3]))[0])\n```"
SMALLEST = "```repl\nFINAL(min(rows, key=lambda row: int(row[3]))[0])\n```"
WRONG = "```repl\nFINAL(rows[0][0])\n```"


async def main() -> None:
    rlm = RLM(ScriptedClient([READ, LARGEST, SMALLEST]))
    done = await rlm.acompletion("Which launch had the largest revenue?", context=LAUNCHES)
    print("the largest:", done.response)

    # a live sandbox as it was after the first iteration: nobody is asked
    async with done.trajectory[0].fork() as sandbox:
        print("rows:", (await sandbox.execute("rows[1:]")).value)

    # another question over the same variables, by this or any other model
    more = await rlm.branch(done.trajectory[-1], question="And the smallest?")
    print("the smallest:", more.response, "after", len(more.trajectory), "iterations")

    # three answers from one start, of which most agree
    asked = RLM(ScriptedClient([READ, WRONG, LARGEST, LARGEST]))
    voted = await asked.acompletion("Which was the largest?", context=LAUNCHES, samples=Samples(count=3))
    print("voted:", voted.response, "of", sorted(one.response for one in voted.samples))


if __name__ == "__main__":
    anyio.run(main)
