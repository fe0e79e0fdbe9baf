"""What a dialect is: a convention that models and people already know, as data.

Names and texts only. Whoever reads one (`prompts`, `parsing`, `run`) knows no dialect by name, so that a caller's own
is as good as those here.
"""

from __future__ import annotations

import string
from importlib import resources
from typing import Literal

import msgspec


class Offer(msgspec.Struct, frozen=True):
    """One line of what the REPL offers, as the model is told it. `child`: only where a child run can be had."""

    text: str
    child: bool = False


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A convention: what the REPL offers, how code is carried, how an answer is given, what a model is told.

    `system` is the system message: a format of `offers`, `context` (its name), `output_chars`, `timeout` (seconds).
    `opening` is the first user message, a format of `question`, `description` and `context`. `offers` are the lines of
    `offers`, in order.

    `equipment` and `library` are Python for inside, `(module, source)` of each (see `Sandbox.equip`): they give the
    REPL the dialect's names, and its ways to finish that are variables. `citations` is the name of the variable that
    holds what an answer rests on, "" if there is none. `context` is the name of the variable that holds the context.
    `act`: code in "fences", or in calls of the one native "tool", `run_python`. `together`: all blocks of a reply run
    as one cell. `first_look`: a cell that is run before the first reply, whose output stands under the opening.
    `finish` is how an answer is given, in code, `finish_hint` the same as half a sentence, and `answer_name` what it is
    given to: for the messages that refuse one. `colon_finish`: a reply without code may say `FINAL: answer` or
    `FINAL_VAR: name`.

    `output_chars`, `output_words`, `output_keep`, `output_mark` and `echo` are as in `SandboxOptions`. `shown` is one
    cell's output as the model reads it, a format of `title`, `output` and `limit`; `shown_cut` and `shown_empty` the
    same where it was cut, and where nothing was printed. `turn` opens each observation, a format of `iteration` and
    `iterations`.
    """

    name: str
    system: str
    opening: str
    offers: tuple[Offer, ...]
    equipment: tuple[tuple[str, str], ...] = ()
    library: tuple[tuple[str, str], ...] = ()
    citations: str = ""
    context: str = "context"
    act: Literal["fences", "tool"] = "fences"
    together: bool = False
    first_look: str = ""
    finish: str = "FINAL(value)"
    finish_hint: str = ""
    answer_name: str = "FINAL"
    colon_finish: bool = False
    # about 2,500 tokens: what a model reads without losing sight of the rest
    output_chars: int = 10_000
    output_words: int | None = None
    output_keep: Literal["both", "head", "tail"] = "both"
    output_mark: str | None = None
    echo: bool = True
    shown: str = "{title}\n{output}"
    shown_cut: str = "{title}\n{output}"
    shown_empty: str = "{title}\n(nothing was printed)"
    turn: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a dialect has a name")
        formats = {
            "system": ("offers", "context", "output_chars", "timeout"),
            "opening": ("question", "description", "context"),
            "shown": ("title", "output", "limit"),
            "shown_cut": ("title", "output", "limit"),
            "shown_empty": ("title", "output", "limit"),
            "turn": ("iteration", "iterations"),
        }
        for field, known in formats.items():
            _check_format(field, getattr(self, field), known)
        if not self.context.isidentifier():
            raise ValueError(f"context: {self.context!r} is not a Python name")


def _check_format(field: str, text: str, known: tuple[str, ...]) -> None:
    """Raise ValueError if `text` is no format of the names that are known."""
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{field} is no format ({error}): a brace of its own is written twice") from None
    if not used <= set(known):
        raise ValueError(f"{field} may hold {{{'}, {'.join(known)}}}, and a brace of its own written twice")


def inside(*names: str) -> tuple[tuple[str, str], ...]:
    """Modules of `rlm_wasm/inside` as equipment: `rlm_NAME` and its source."""
    folder = resources.files("rlm_wasm.inside")
    return tuple((f"rlm_{name}", folder.joinpath(f"{name}.py").read_text("utf-8")) for name in names)


HELPERS = inside("documents", "asking", "schemas", "json_replies")
"""The library of `rlm_wasm/inside/helpers.py`."""
