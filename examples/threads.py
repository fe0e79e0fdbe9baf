"""Threads in a cell: a ThreadPoolExecutor, as models like to write it, really overlaps the waiting for a sub model.

The stand-in answers no call before all eight have arrived, so that calls one after another would never end well.
"""

import anyio

from rlm_wasm import RLM, ScriptedClient

CALLS = 8

ASK = """```repl
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(max_workers=8) as threads:
    answers = list(threads.map(lambda line: llm_query(f"Shout this: {line}"), context.splitlines()))
FINAL(answers)
```"""


class Counter:
    """How many calls have arrived, and whether each found the others there."""

    def __init__(self) -> None:
        self.arrived = 0
        self.all_here = anyio.Event()

    async def shout(self, prompt: str) -> str:
        self.arrived += 1
        if self.arrived == CALLS:
            self.all_here.set()
        with anyio.fail_after(20):
            await self.all_here.wait()
        return prompt.removeprefix("Shout this: ").upper()


async def main() -> None:
    counter = Counter()
    # With a real model: RLM("gpt-5-mini"); llm_query_batched(prompts) is shorter, and does the same.
    client = ScriptedClient([ASK], rules={"Shout this": counter.shout})
    context = "\n".join(f"line {number}" for number in range(CALLS))
    done = await RLM(client).acompletion("Shout every line.", context=context)

    print("answers in order:", done.response)
    print("calls that waited at the same time:", counter.arrived if counter.all_here.is_set() else 1)


if __name__ == "__main__":
    anyio.run(main)
