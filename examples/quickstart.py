"""A question over a text of 950,000 characters that no prompt ever holds: the model writes code that reads it.

The text is the variable `context` in the sandbox, what a cell prints comes back, and FINAL gives a typed answer.
"""

from rlm_wasm import RLM, Limits, ScriptedClient

TEXT = "\n".join(f"launch {number:05}: revenue {number * 7919 % 100_003} USD" for number in range(30_000))

LOOK = """I look at the size and the shape first.

```repl
print(f"{len(context):,} characters, the first line is {context.splitlines()[0]!r}")
```"""

ANSWER = """Every line has the same form, so code can do this exactly.

```repl
import re
revenues = {int(number): int(usd) for number, usd in re.findall(r"launch (\\d+): revenue (\\d+)", context)}
best = max(revenues, key=revenues.get)
FINAL({"launch": best, "usd": revenues[best], "read": len(revenues)})
```"""


def main() -> None:
    # With a real model: RLM("gpt-5-mini", ...), and its key in OPENAI_API_KEY.
    client = ScriptedClient([LOOK, ANSWER])
    rlm = RLM(client, limits=Limits(iterations=10, seconds=60))
    done = rlm.completion("Which launch had the largest revenue?", context=TEXT)

    for iteration in done.trajectory:
        print(f"iteration {iteration.number} printed:", iteration.cells[0].output.strip() or "nothing")
    print("answer:", done.response)
    print("stopped by:", done.stopped_by)
    best = max(range(30_000), key=lambda number: number * 7919 % 100_003)
    print("without a model:", best, best * 7919 % 100_003)
    read = sum(len(message.content) for message in client.calls[-1])
    print(f"the last prompt had {read:,} characters, the text has {len(TEXT):,}")


if __name__ == "__main__":
    main()
