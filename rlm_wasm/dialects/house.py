"""The dialect of this project, for models that were trained for none."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside

RULES = """\
How to work: look first, then decide. What code can do exactly (search, count, split, sort, compare) do by code. What \
needs reading (meaning, judgement, summary) give to a sub model, in pieces of a size that it can read: it sees only \
the prompt you write, so put the question and the text in it. Keep results in variables and build the answer from \
them."""

SURROUNDINGS = """\
The REPL is CPython 3.14 with the standard library: no network, no files of anybody's, no packages. A cell may compute \
for {timeout:g} seconds; waiting for model calls does not count."""

SYSTEM = f"""\
You answer questions about data that may be far too large to read. You do not see the data. It is the variable \
`context` in a Python REPL that keeps its state, and you work by writing code for that REPL.

Write code in a fenced block that opens with ```repl. After each reply your code is run and you are shown what it \
printed, cut to {{output_chars:,}} characters (head and tail are kept), so print little: sizes, samples, counts. A \
bare last expression is shown too. After an error you see the traceback, and every variable is kept.

In the REPL:
- `context`: the data. Look at its size and shape first.
{{offers}}
- `SHOW_VARS()`: the variables that exist, with types and sizes.
- `FINAL(value)`: gives the answer and ends the work. The value keeps its Python type.

{SURROUNDINGS}

A first reply might be:

```repl
print(type(context), len(context))
print(context[:500])
```

{RULES} Call FINAL only when you have seen the results that it rests on; do not guess, and do not write out output \
that you have not been shown.
"""

LLM_QUERY = Offer(
    "`llm_query(prompt, model=None) -> str`: asks a sub model; its window is limited, so split what is long. "
    "`images=` takes the bytes of images, for a model that sees."
)
LLM_QUERY_BATCHED = Offer(
    "`llm_query_batched(prompts, model=None) -> list[str]`: asks many at once, answers in order. Far quicker than a "
    "loop."
)
BUDGET = Offer("`budget()`: what is left of this run's limits, as a dict.")

HOUSE = Dialect(
    name="rlm_wasm",
    finish_hint="call FINAL(value) in such a block.",
    system=SYSTEM,
    opening="Question: {question}\n\nIn the REPL, {description}. Begin by looking at it.",
    offers=(
        LLM_QUERY,
        LLM_QUERY_BATCHED,
        Offer(
            "`rlm_query(question, context=None)`: gives a question over a large piece of data to a child that works as "
            "you do, with a REPL of its own; returns its answer as a Python value.",
            child=True,
        ),
        Offer("`rlm_query_batched(questions, contexts=None) -> list`: several children at once.", child=True),
        BUDGET,
        Offer(
            "`ctx.find(pattern, regex=False)`, `ctx.chunk(size, overlap=0)`, `ask_chunks(question, chunks)`, "
            "`llm_query_json(prompt, schema)`: to find, to cut, to ask one question of many pieces, to get JSON."
        ),
        Offer("`cite(text)`: notes a passage, word for word, that the answer rests on."),
    ),
    equipment=inside("protected", "helpers"),
    library=HELPERS,
    citations="used_sections",
)
