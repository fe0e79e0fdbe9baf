"""An MCP server over files, and a client that asks it, in one process.

`rlm-wasm mcp reports/ --model gpt-5-mini` is the same on stdio, for programs that start their servers by a command.
Needs `pip install "rlm-wasm[mcp]"`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from mcp import Client

from rlm_wasm import RLM, ScriptedClient
from rlm_wasm.integrations.mcp import Shelf, server

LOOK = """```repl
for name, text in context.items():
    print(name, len(text), text[:40])
```"""

COUNT = """```repl
FINAL({name: text.count("late") for name, text in context.items()})
```"""


async def tell(progress: float, total: float | None, message: str | None) -> None:
    print("progress:", message)


async def main(folder: Path) -> None:
    (folder / "2024.txt").write_text("Order on time.\n" * 800 + "Order late.\n" * 12)
    (folder / "2025.txt").write_text("Order on time.\n" * 900 + "Order late.\n" * 7)
    # With a real model: RLM("gpt-5-mini", limits=Limits(usd=0.50)); the limits hold for each question.
    rlm = RLM(ScriptedClient([LOOK, COUNT]))
    async with Client(server(rlm, Shelf([folder]))) as client:
        print("tools:", ", ".join(sorted(tool.name for tool in (await client.list_tools()).tools)))
        listed = (await client.call_tool("list_files")).structured_content or {}
        print("files:", [file["name"] for file in listed["files"]])
        asked = {"question": "How many orders were late in each year?"}
        done = (await client.call_tool("ask", asked, progress_callback=tell)).structured_content or {}
        print("answer:", done["answer"], "stopped by", done["stopped_by"])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        anyio.run(main, Path(folder))
