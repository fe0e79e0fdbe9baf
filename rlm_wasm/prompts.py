"""Every word that a model is told. Pure functions; what varies comes in as values.

Knows nothing of clients, sandboxes or budgets beyond the figures it is handed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation, in the chat-completions sense."""

    role: Literal["system", "user", "assistant"]
    content: str


_SYSTEM = """\
You answer questions about data that may be far too large to read. You do not see the data. It is the variable \
`context` in a Python REPL that keeps its state, and you work by writing code for that REPL.

Write code in a fenced block that opens with ```repl. After each reply your code is run and you are shown what it \
printed, cut to {output_chars:,} characters (head and tail are kept), so print little: sizes, samples, counts. A bare \
last expression is shown too. After an error you see the traceback, and every variable is kept.

In the REPL:
- `context`: the data. Look at its size and shape first.
{functions}
- `SHOW_VARS()`: the variables that exist, with types and sizes.
- `FINAL(value)`: gives the answer and ends the work. The value keeps its Python type.

The REPL is CPython 3.14 with the standard library: no network, no files of anybody's, no packages. A cell may compute \
for {timeout:g} seconds; waiting for model calls does not count.

A first reply might be:

```repl
print(type(context), len(context))
print(context[:500])
```

How to work: look first, then decide. What code can do exactly (search, count, split, sort, compare) do by code. What \
needs reading (meaning, judgement, summary) give to a sub model, in pieces of a size that it can read: it sees only \
the prompt you write, so put the question and the text in it. Keep results in variables and build the answer from \
them. Call FINAL only when you have seen the results that it rests on; do not guess, and do not write out output that \
you have not been shown.
"""

_QUERY_FUNCTIONS = """\
- `llm_query(prompt, model=None) -> str`: asks a sub model; its window is limited, so split what is long.
- `llm_query_batched(prompts, model=None) -> list[str]`: asks many at once, answers in order. Far quicker than a loop.
{recursion}
- `budget()`: what is left of this run's limits, as a dict."""

_RECURSION = """\
- `rlm_query(question, context=None)`: gives a question over a large piece of data to a child that works as you do, \
with a REPL of its own; returns its answer as a Python value.
- `rlm_query_batched(questions, contexts=None) -> list`: several children at once."""


def system(
    *, output_chars: int, timeout: float, recursion: bool, functions: Mapping[str, str], schema: str | None
) -> str:
    """The system message.

    `recursion`: whether `rlm_query` makes a child here. `functions`: the caller's own, name to description. `schema`:
    the JSON Schema that FINAL's value must fit, if there is one.
    """
    lines = _QUERY_FUNCTIONS.format(recursion=_RECURSION if recursion else "").replace("\n\n", "\n")
    own = "".join(f"\n- `{name}`: {_first_line(text)}" for name, text in functions.items())
    text = _SYSTEM.format(output_chars=output_chars, timeout=timeout, functions=lines + own)
    if schema is not None:
        text += f"\nThe value given to FINAL must fit this JSON Schema:\n{schema}\n"
    return text


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0] if text.strip() else "a function of the caller's"


def first(system_text: str, question: str, description: str) -> list[Message]:
    """The messages that open a run."""
    return [
        Message("system", system_text),
        Message("user", f"Question: {question}\n\nIn the REPL, {description}. Begin by looking at it."),
    ]


def sub_prompt(question: str, text: str) -> str:
    """The prompt that stands for a child at the depth limit: the question over the same text."""
    return f"{question}\n\n{text}" if text else question


PROFILES: Mapping[str, str] = MappingProxyType(
    {
        "deterministic_first": (
            "How to go about it: the answer can probably be found by code alone. Search with str methods and regular "
            "expressions, count and compare in Python, and look at the lines that were found. Ask a sub model only "
            "about what code has left open, and only about the few pieces concerned."
        ),
        "semantic_batches": (
            "How to go about it: the answer lies in what the text means, which no pattern finds. Cut all of `context` "
            "into pieces at natural borders (documents, sections, entries), ask the same precise question about every "
            "piece in one llm_query_batched, with the form of the reply prescribed so that code can read it, and put "
            "the replies together by code."
        ),
        "hybrid": (
            "How to go about it: first narrow `context` down by code, generously, with several words and spellings. "
            "Then ask about the pieces that are left in one llm_query_batched. If the search found little, or the "
            "replies do not agree, cut all of `context` into pieces and ask about every one."
        ),
        "verify": (
            "How to go about it: the answer must be certain. Find it by code or by asking about pieces, and keep the "
            "passages that it rests on. Before FINAL look a second time, by another way: find the passages anew in "
            "`context` by code, and ask with rlm_query or llm_query, over those passages alone and without naming "
            "your answer, what follows from them. Where the two differ, find out why before you answer."
        ),
    }
)
"""How to go about a question, by name of the profile: what is added to the question of a run."""


def with_instruction(question: str, instruction: str) -> str:
    """The question of a run that is told how to go about it."""
    return f"{question}\n\n{instruction}"


def plain(question: str, text: str, schema: str | None) -> list[Message]:
    """The one message of a plain call: the question, the context's text, and the form of the reply if it has one."""
    parts = [f"Question: {question}"]
    parts += [f"Answer from this text:\n\n{text}"] if text else []
    parts += [f"Reply with JSON alone, which must fit this JSON Schema:\n{schema}"] if schema is not None else []
    return [Message("user", "\n\n".join(parts))]


def observation(parts: Iterable[str], *, iteration: int, iterations: int, note: str = "") -> str:
    """What the root model reads after its cells ran."""
    shown = "\n\n".join(parts)
    left = iterations - iteration
    ending = f"({left} of {iterations} replies left)" if left <= iterations // 2 else ""
    return "\n\n".join(part for part in (shown, note, ending) if part)


def cell_output(output: str, error: str | None, *, number: int, of: int) -> str:
    """One cell's output and error, together, as the model sees them."""
    title = "REPL output:" if of == 1 else f"REPL output of block {number} of {of}:"
    parts = [output.rstrip("\n")] if output.strip() else []
    if error:
        parts.append(error)
    return f"{title}\n" + ("\n".join(parts) or "(nothing was printed)")


def not_run(count: int) -> str:
    """Told when cells were left out after one that failed."""
    return f"(the {count} block{'s' if count > 1 else ''} after the error {'were' if count > 1 else 'was'} not run)"


def no_code() -> str:
    """The corrective message to a reply that has no code in it."""
    return (
        "There was no code in your reply, so nothing was run. Reply with Python in a block that opens with ```repl "
        "and ends with ```. When you have the answer, call FINAL(value) in such a block."
    )


def literal_final() -> str:
    """The refusal of an answer that was written out before its ground was seen."""
    return (
        "FINAL was not accepted: its value was written out in the same reply as code whose output you had not seen "
        "yet. Read the output above. Then call FINAL again, with a value that rests on it."
    )


def wrong_type(reason: str) -> str:
    """The refusal of an answer that does not fit the type asked for."""
    return f"FINAL was not accepted: {reason}. Every variable is kept: mend the value and call FINAL again."


def lost_variables(names: Sequence[str] | None) -> str:
    """Told when a sandbox was replaced; None where it is not known what went with it."""
    what = f"these variables were lost: {', '.join(names)}" if names else "no variable of yours was lost"
    if names is None:
        what = "all variables of yours were lost"
    return f"The REPL was replaced by a fresh one, which holds `context` again; {what}."


def closing(reason: str) -> str:
    """Asks for the best answer from what was seen, when no more code will be looked at."""
    return (
        f"This is the end of the work ({reason}). Give your best answer now, from what you have seen: either "
        "FINAL(value) in a ```repl block, where your variables still exist, or the answer alone as plain text."
    )
