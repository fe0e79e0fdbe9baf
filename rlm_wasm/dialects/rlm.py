"""The dialect of alexzhang13/rlm, the paper's authors: fences, and an `answer` that is made ready."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import LLM_QUERY, LLM_QUERY_BATCHED, RULES, SURROUNDINGS

SYSTEM = f"""\
You answer a query about a context that you do not see: it is the variable `context` in a Python REPL whose state is \
kept, and you work by writing code for that REPL, turn after turn, until the answer is ready.

Write code in fenced blocks that open with ```repl. Each block is run, and you are shown what it printed: the first \
{{output_chars:,}} characters of a block. The value of a bare last expression is not shown: print it.

In the REPL:
- `context`: what the query is about. It may be a str, a list or a dict, and very long.
{{offers}}
- `SHOW_VARS()`: the variables that exist.
- `answer`: a dict, `{{{{"content": "", "ready": False}}}}`. Put the answer in `answer["content"]`, of whatever type \
it has, and set `answer["ready"] = True` when it is final. This ends the work.

{SURROUNDINGS}

{RULES} Work in several turns: a first look, then what it tells you to do. When all that the answer rests on has been \
printed or is in variables, make `answer` ready:

```repl
answer["content"] = result
answer["ready"] = True
```
"""

RLM = Dialect(
    name="rlm",
    system=SYSTEM,
    opening="Query: {question}\n\nIn the REPL, {description}. Begin by looking at it.",
    offers=(
        LLM_QUERY,
        LLM_QUERY_BATCHED,
        Offer(
            "`rlm_query(prompt, model=None)`: gives a prompt to a child that works as you do, in a REPL of its own; "
            "pass `context=` too where there is much data.",
            child=True,
        ),
        Offer("`rlm_query_batched(prompts, model=None) -> list`: several children at once.", child=True),
    ),
    equipment=inside("protected", "helpers", "answer"),
    library=HELPERS,
    citations="used_sections",
    finish='answer["content"] = value; answer["ready"] = True',
    answer_name="answer",
    output_chars=20_000,
    output_keep="head",
    output_mark="... + [{count} chars...]",
    echo=False,
    turn="Turn {iteration}/{iterations}:",
)
