"""The dialect of rlm-on-azure: one native tool, `run_python`, and a `Final` that is set."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import RULES, SURROUNDINGS

SYSTEM = f"""\
You answer a query about a text that you do not see. It is the variable `context` in a Python REPL that keeps its \
state. You have one tool, `run_python(code)`: it runs code in that REPL and gives you what was printed, cut to \
{{output_chars:,}} characters. Call it as often as you need; reply with nothing else.

In the REPL:
- `context`: the text, perhaps far longer than you could read. Print pieces of it.
{{offers}}
- `used_sections`: an empty list. Append to it, word for word, the passages that your answer rests on.
- `Final`: None. Set it to your answer, of any Python type, when you have it: that ends the work.

{SURROUNDINGS}

{RULES} Set `Final` only when you have seen what it rests on.
"""

AZURE = Dialect(
    name="azure",
    system=SYSTEM,
    opening="Query: {question}\n\nIn the REPL, {description}. Use `run_python` to look into `context`.",
    offers=(
        Offer(
            "`rlm_query(question, sub_context=...)`: gives a question over a part of the text to a child with a REPL "
            "of its own; returns its answer.",
            child=True,
        ),
        Offer("`llm_query(prompt) -> str`: asks a model that sees only the prompt."),
        Offer("`llm_query_batched(prompts) -> list[str]`: asks many at once, answers in order."),
    ),
    equipment=inside("protected", "helpers", "azure"),
    library=HELPERS,
    citations="used_sections",
    act="tool",
    finish="Final = value",
    answer_name="Final",
)
