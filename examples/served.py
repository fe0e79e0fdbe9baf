"""An RLM behind the chat-completions protocol: any program that speaks to OpenAI gets one by another base URL.

A short conversation goes straight to the model. In a long one the messages before the last are the context.
`rlm-wasm serve --model gpt-5-mini` is the same from a shell. Needs `pip install "rlm-wasm[serve]"`.
"""

import anyio
from anyio.abc import TaskStatus
from openai import AsyncOpenAI

from rlm_wasm import RLM, ScriptedClient
from rlm_wasm.integrations.serve import ChatServer, serve

LOG = "".join(f"09:{minute:02d} door {'opened' if minute % 3 else 'jammed'}\n" for minute in range(60)) * 50

COUNT = """```repl
FINAL(f"It jammed {sum('jammed' in line for line in context.splitlines())} times.")
```"""


async def ask(base_url: str) -> None:
    client = AsyncOpenAI(base_url=base_url, api_key="none is needed on this machine")
    short = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello!"}])
    print("short:", short.choices[0].message.content)
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": LOG}, {"role": "user", "content": "How often did the door jam?"}],
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    print("long:", "".join(pieces))


async def main() -> None:
    # With a real model: RLM("gpt-5-mini", limits=Limits(usd=0.50)); the limits hold for each request.
    rlm = RLM(ScriptedClient(["Hello to you.", COUNT]))
    stop = anyio.Event()

    async def listen(*, task_status: TaskStatus[str]) -> None:
        # Port 0 takes one that is free; the base URL is told when it listens.
        await serve(ChatServer({"m": rlm}), host="127.0.0.1", port=0, stop=stop, began=task_status.started)

    async with anyio.create_task_group() as tasks:
        await ask(await tasks.start(listen))
        stop.set()


if __name__ == "__main__":
    anyio.run(main)
