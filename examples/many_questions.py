"""Many questions over one context, two at once, and a file of answers from which a batch that was ended goes on.

Each question has a REPL of its own.
"""

import asyncio
import tempfile
from pathlib import Path

from rlm_wasm import RLM, ClientError, Limits, Question, ScriptedClient

TEXT = "pack my box with five dozen liquor jugs " * 2_000
QUESTIONS = [
    "How many words are there?",
    "How many letters has the longest word?",
    {"id": "box", "question": "Is there a box?", "metadata": {"expected": True}},
    Question("How many jugs are there?", context="one jug, another jug"),
    "What is this question's failure?",
]
RULES = {
    "How many words": "```repl\nFINAL(len(context.split()))\n```",
    "How many letters": "```repl\nFINAL(max(len(word) for word in set(context.split())))\n```",
    "Is there a box": "```repl\nFINAL('box' in context)\n```",
    "How many jugs": "```repl\nFINAL(context.count('jug'))\n```",
    "failure": ClientError("the provider refuses to be asked this", status=400),
}


async def main() -> None:
    # With a real model: RLM("gpt-5-mini"). Its limits hold for each question, those of amap for all together.
    rlm = RLM(ScriptedClient(rules=RULES), limits=Limits(iterations=10))
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.jsonl"

        # As if the program had been ended: only what is answered by then is in the file.
        first = await rlm.amap(QUESTIONS[:2], context=TEXT, answers=answers)
        print("answered at first:", len(first))

        for each in await rlm.amap(QUESTIONS, context=TEXT, concurrency=2, answers=answers, tokens=100_000):
            said = each.failure.text if each.failure else each.response
            print(f"{each.question} {each.state}: {said}{' (from the file)' if each.earlier else ''}")
        print("lines in the file:", len(answers.read_text("utf-8").splitlines()))


if __name__ == "__main__":
    asyncio.run(main())
