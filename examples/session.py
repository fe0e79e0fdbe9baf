"""Several questions over one living sandbox, saved half-way and taken up again by another program."""

import tempfile
from pathlib import Path

import anyio

from rlm_wasm import RLM, ScriptedClient

REPLIES = [
    """```repl
launches = [line.split(",") for line in context.splitlines()]
FINAL(len(launches))
```""",
    """```repl
FINAL(max(launches, key=lambda launch: int(launch[1]))[0])
```""",
    """```repl
print(history[0][1])
FINAL(sum(int(revenue) for _, revenue in launches))
```""",
]


async def main() -> None:
    # With a real model: RLM("gpt-5-mini").
    rlm = RLM(ScriptedClient(REPLIES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "launches.session"
        async with rlm.session(context="Electron,7\nAriane,180\nFalcon,67") as session:
            print("launches:", (await session.ask("How many launches are there?")).response)
            print("largest:", (await session.ask("Which has the largest revenue?")).response)
            await session.save(path)

        async with rlm.session(saved=path) as session:
            for asked in session.questions:
                print("asked before:", asked.question, "->", asked.answer)
            done = await session.ask("And all together?")
            print("all together:", done.response, "| printed:", done.trajectory[0].cells[0].output.strip())


if __name__ == "__main__":
    anyio.run(main)
