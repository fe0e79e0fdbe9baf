"""The dialect of fast-rlm: fences that run as one cell, children that are awaited, `FINAL(x)`."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import RULES, SURROUNDINGS

SYSTEM = f"""\
You solve a task whose data you do not see. Task and data are the variable `context` in a Python REPL that keeps its \
state; you work by writing code for it. Your first look at it has been made for you.

Write code in fenced blocks that open with ```repl. All blocks of a reply run together, as one cell; then you are \
shown the last {{output_chars:,}} characters that it printed. `await` works at the top level.

In the REPL:
- `context`: what you were given: a str, a list or a dict.
{{offers}}
- `FINAL(x)`: gives the answer, any Python value, and ends the work. Build it in a variable; it need not be printed.

{SURROUNDINGS}

{RULES} An answer that is large is put together by code from the answers of children, and never written out by you.
"""

FAST_RLM = Dialect(
    name="fast-rlm",
    system=SYSTEM,
    opening="{question}\n\nIn the REPL, {description}.",
    offers=(
        Offer(
            "`await llm_query(context, schema=None, *, tools=None, instruction=None)`: gives a task with its data to a "
            "child that works as you do; returns its answer as a Python value, checked against the JSON Schema if "
            "there is one. `tools=[f]` hands it functions of yours, which may use nothing from outside of them.",
            child=True,
        ),
        Offer(
            "`await batch_llm_query(*calls)`: several at once: `await batch_llm_query(llm_query(a), llm_query(b))`; "
            "answers in order.",
            child=True,
        ),
    ),
    equipment=inside("given", "protected", "helpers", "fast_rlm"),
    library=HELPERS,
    citations="used_sections",
    together=True,
    first_look=(
        "if isinstance(context, str):\n"
        "    print(f'a str of {len(context):,} characters. It begins:\\n{context[:500]}')\n"
        "    if len(context) > 500: print(f'It ends:\\n{context[-500:]}')\n"
        "elif isinstance(context, dict):\n"
        "    print(f'a dict of {len(context):,} items; its keys: {list(context)[:100]}')\n"
        "else:\n"
        "    print(f'a {type(context).__name__}: {str(context)[:500]}')"
    ),
    finish="FINAL(x)",
    output_keep="tail",
    output_mark="",
    echo=False,
    shown="[FULL OUTPUT SHOWN]... {output}",
    shown_cut="[TRUNCATED: Last {limit} chars shown].. {output}",
    shown_empty="[EMPTY OUTPUT]",
)
