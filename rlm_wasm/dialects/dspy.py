"""The dialect of dspy.RLM: a variable for each input field, `SUBMIT(field=...)`; and predict-rlm's `predict`."""

from __future__ import annotations

from rlm_wasm.dialects.dialect import HELPERS, Dialect, Offer, inside
from rlm_wasm.dialects.house import LLM_QUERY, LLM_QUERY_BATCHED, RULES, SURROUNDINGS

SYSTEM = f"""\
You produce output fields from input fields that may be far too large to read. They are variables in a Python REPL \
that keeps its state: you do not see them, and work by writing code for that REPL.

Write code in a fenced block that opens with ```python. After each reply it is run, and you are shown what it printed: \
head and tail of {{output_chars:,}} characters.

In the REPL:
- the input fields, each a variable of its name; `context` holds them all.
{{offers}}
- `SUBMIT(field=value, ...)`: gives the output fields and ends the work. The values keep their Python types.

{SURROUNDINGS}

{RULES} Look at what you have computed before you call SUBMIT.
"""

DSPY = Dialect(
    name="dspy",
    system=SYSTEM,
    opening="{question}\n\nIn the REPL, {description}. Begin by looking at the input.",
    offers=(
        LLM_QUERY,
        LLM_QUERY_BATCHED,
        Offer(
            '`await predict("text -> city: str, year: int", text=piece)`: asks a sub model for typed fields, which '
            "are attributes of what it returns; an input that is the bytes of an image is shown to the model."
        ),
    ),
    equipment=inside("protected", "helpers", "dspy", "predict"),
    library=HELPERS,
    citations="used_sections",
    finish="SUBMIT(field=value)",
    answer_name="SUBMIT",
    echo=False,
)
