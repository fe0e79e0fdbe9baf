"""Several questions at once over one RLM: each has a sandbox, a budget and a trajectory of its own.

`acompletion` is awaited on asyncio (as here) or trio, and every answer says what it alone took.
"""

import asyncio

from rlm_wasm import RLM, ScriptedClient, Usage

TEXT = "pack my box with five dozen liquor jugs " * 2_000

# Three runs ask in any order: so each reply is found by what the last message of its prompt contains.
RULES = {
    "How many words": """```repl
FINAL(len(context.split()))
```""",
    "Which word is the longest": """First I look, then I answer.

```repl
words = sorted(set(context.split()), key=len, reverse=True)
print(words[:1])
```""",
    "REPL output:\n['liquor']": """```repl
FINAL(words[0])
```""",
    "What is to be packed": """That needs reading: I ask a sub model.

```repl
FINAL(llm_query("In one word, what goes into the box? " + context[:40]))
```""",
    "what goes into the box": "jugs",
}


async def main() -> None:
    # With a real model: RLM("gpt-5-mini").
    rlm = RLM(ScriptedClient(rules=RULES))
    questions = ["How many words are there?", "Which word is the longest?", "What is to be packed?"]
    runs = await asyncio.gather(*(rlm.acompletion(question, context=TEXT) for question in questions))

    for done in runs:
        print(f"{done.question} {done.response}, after {len(done.trajectory)} replies and {done.usage.calls} calls")
    total = sum((done.usage for done in runs), Usage())
    print(f"all together: {total.calls} calls, {total.tokens:,} tokens")


if __name__ == "__main__":
    asyncio.run(main())
