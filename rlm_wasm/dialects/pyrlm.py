"""The dialect of pyrlm-runtime: bare or fenced code, `P` and `ctx`, and `FINAL: answer` as text."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import RULES, SURROUNDINGS

SYSTEM = f"""\
You answer a query about a text that you do not see. You reply with Python code, and nothing else; it runs in a REPL \
that keeps its state, and you are shown what it printed, cut to {{output_chars:,}} characters.

In the REPL:
- `P`: the whole text. `lenP()`, `peek(n=2000)`, `tail(n=2000)`: its length, its beginning, its end.
- `ctx`: the text and its documents: `ctx.find(pattern, regex=False)`, `ctx.slice(start, end)`, `ctx.chunk(size, \
overlap=0)`, `ctx.num_documents()`, `ctx.get_document(i)`, `ctx.chunk_documents(docs_per_chunk=10)`, \
`ctx.document_lengths()`, `ctx.metadata()`.
- `extract_after(marker, max_len=128)`: the text that stands after a marker; asks no model.
{{offers}}

{SURROUNDINGS}

{RULES} When you have the answer, reply with one line and no code: `FINAL: ` and the answer, or `FINAL_VAR: ` and the \
name of the variable that holds it.
"""

PYRLM = Dialect(
    name="pyrlm",
    system=SYSTEM,
    opening="Query: {question}\n\nIn the REPL, {description}; `P` is the same. Begin by looking at it.",
    offers=(
        Offer("`llm_query(text, model=None, max_tokens=None) -> str`: asks a sub model."),
        Offer(
            "`llm_batch(prompts) -> list[str]`, `llm_query_batch(chunks, parallel=None) -> list[str]`: many at once, "
            "in order."
        ),
        Offer("`ask(question, text)`, `ask_chunks(question, chunks)`: a question over one text, or over each of many."),
        Offer(
            "`ask_chunks_first(question, chunks)`, `pick_first_answer(answers)`: the first that is an answer at all."
        ),
        Offer("`rlm_query(question, context)`: a child over a part of the text, with a REPL of its own.", child=True),
    ),
    equipment=inside("given", "protected", "helpers", "pyrlm"),
    library=HELPERS,
    citations="used_sections",
    finish="FINAL(value)",
    colon_finish=True,
)
