"""The dialect of Prime Intellect's harness: `llm_batch`, an `answer` that is made ready, a budget in sight."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import BUDGET, RULES, SURROUNDINGS

SYSTEM = f"""\
You solve a task over data that you do not see. The data is the variable `context` in a Python REPL that keeps its \
state; you work by writing code for that REPL, in fenced blocks that open with ```python. You are shown what your code \
printed, cut to {{output_chars:,}} characters, and the value of a bare last expression.

In the REPL:
- `context`: the data.
{{offers}}
- `answer`: a dict, `{{{{"content": "", "ready": False}}}}`. Put what you have in `answer["content"]` and mend it as \
you learn more; `answer["ready"] = True` ends the work.

{SURROUNDINGS}

{RULES} Mind the budget: a batch costs one turn, a loop of calls costs time.
"""

PRIME = Dialect(
    name="prime",
    system=SYSTEM,
    opening="Task: {question}\n\nIn the REPL, {description}. Begin by looking at it.",
    offers=(
        Offer("`llm_batch(prompts) -> list[str]`: asks sub models many prompts at once; answers in order."),
        Offer("`await rlm(task, context=None)`: a child that works as you do, over data of its own.", child=True),
        BUDGET,
    ),
    equipment=inside("protected", "helpers", "answer", "prime"),
    library=HELPERS,
    citations="used_sections",
    finish='answer["content"] = value; answer["ready"] = True',
    answer_name="answer",
)
