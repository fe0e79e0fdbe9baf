"""A run as a stream that is left when enough was seen, and the trace that it leaves, from which it is read again."""

import tempfile
from pathlib import Path

import anyio

from rlm_wasm import RLM, ScriptedClient, Trajectory
from rlm_wasm.events import CallFinished, CallStarted, Printed

REPLY = """```repl
for line in context.splitlines():
    print(line, "->", llm_query("In capitals: " + line), flush=True)
```"""


async def watch(trace: Path) -> None:
    # With a real model: RLM("gpt-5-mini", trace="traces/").
    sub = ScriptedClient(rules={"one": "ONE", "two": "TWO", "three": "THREE"})
    rlm = RLM(ScriptedClient([REPLY]), sub_model=sub, trace=trace)
    answered = 0
    async with rlm.stream("What is it in capitals?", context="one\ntwo\nthree") as stream:
        async for event in stream:
            match event:
                case CallStarted(prompt=prompt):
                    print("asked:", prompt)
                case Printed(text=text):
                    print("printed:", text.strip())
                case CallFinished():
                    answered += 1
            if answered == 2:
                # the end of the block waits for the run's
                break
    print("stopped by:", stream.completion.stopped_by)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "run.jsonl"
        anyio.run(watch, trace)
        completion = Trajectory.load(trace).completion
    print("from the trace:", completion.question, "stopped by", completion.stopped_by)
    for call in completion.trajectory[0].calls:
        print(f"call {call.number}:", call.reply or call.error)


if __name__ == "__main__":
    main()
