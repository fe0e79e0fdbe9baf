"""The same five tasks in the words of every dialect end in the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Completion, Limits, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.dialects import DIALECTS, Dialect

pytestmark = pytest.mark.anyio

WITHIN = 120
CONTEXT = "\n".join(f"line {number}: the fruit is {fruit}" for number, fruit in enumerate(["fig", "plum", "pear"] * 20))
# how a dialect says: give the value of this expression as the answer
FINISH: dict[str, Callable[[str], str]] = {
    "rlm_wasm": lambda value: f"FINAL({value})",
    "rlm": lambda value: f'answer["content"] = {value}\nanswer["ready"] = True',
    "azure": lambda value: f"Final = {value}",
    "fast-rlm": lambda value: f"FINAL({value})",
    "pyrlm": lambda value: f"done = {value}",
    "dspy": lambda value: f"SUBMIT(answer={value})",
    "prime": lambda value: f'answer["content"] = {value}; answer["ready"] = True',
}
# the context, one call of a sub model, and a child over a part, as expressions
TEXT = {"pyrlm": "P"}
ASK = {
    "fast-rlm": "await llm_query('Ripe? ' + {0}, instruction='Ripe?')",
    "prime": "llm_batch(['Ripe? ' + {0}])[0]",
    "pyrlm": "llm_query('Ripe? ' + {0}, max_tokens=50)",
}
CHILD = {
    "azure": "rlm_query('How many figs?', sub_context={0})",
    "fast-rlm": "await llm_query({0}, instruction='How many figs?')",
    "prime": "await rlm('How many figs?', {0})",
    "rlm": "rlm_query('How many figs?', context={0})",
}
FENCES = {"pyrlm": "{0}", "dspy": "```python\n{0}\n```", "prime": "```python\n{0}\n```"}


def reply(dialect: Dialect, code: str) -> Any:
    if dialect.act == "tool":
        return run_python(code)
    return FENCES.get(dialect.name, "```repl\n{0}\n```").format(code)


def ending(dialect: Dialect, value: str) -> list[Any]:
    """The replies that give the answer."""
    code = FINISH[dialect.name](value)
    if dialect.name == "pyrlm":
        # its code is bare, and its answer is a line of text
        return [reply(dialect, f"{code}\nprint('done')"), "FINAL_VAR: done"]
    return [reply(dialect, code)]


async def solve(dialect: Dialect, replies: list[Any], question: str = "How many?", **more: Any) -> Completion:
    root = ScriptedClient(replies, model="root")
    sub = ScriptedClient(rules={"Ripe?": "yes, ripe", "How many figs?": "7 figs"}, model="sub")
    rlm = RLM(root, sub_model=sub, dialect=dialect, limits=Limits(depth=more.pop("depth", 1)), **more)
    with anyio.fail_after(WITHIN):
        done = await rlm.acompletion(question, context=CONTEXT)
    assert done.stopped_by == "final", done.trajectory
    return done


@pytest.fixture(params=list(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def text_of(dialect: Dialect) -> str:
    return TEXT.get(dialect.name, "context")


async def test_what_code_counts_keeps_its_type(dialect: Dialect) -> None:
    code = f"rows = {text_of(dialect)}.splitlines()\nprint(len(rows))"
    done = await solve(dialect, [reply(dialect, code), *ending(dialect, "len(rows)")])
    assert (done.response, type(done.response)) == (60, int)


async def test_a_sub_model_is_asked_about_a_piece(dialect: Dialect) -> None:
    asked = ASK.get(dialect.name, "llm_query('Ripe? ' + {0})").format("'plum'")
    done = await solve(dialect, [reply(dialect, f"said = {asked}\nprint(said)"), *ending(dialect, "said")], depth=0)
    assert done.response == "yes, ripe"
    assert done.usage.by_model["sub"].calls == 1


async def test_a_nested_dictionary_comes_back_as_it_is(dialect: Dialect) -> None:
    code = f"from collections import Counter\nfruits = Counter(l.split()[-1] for l in {text_of(dialect)}.splitlines())"
    made = "{'fruits': dict(fruits), 'pair': ('fig', 20), 'none': None}"
    done = await solve(dialect, [reply(dialect, f"{code}\nprint(fruits)"), *ending(dialect, made)])
    assert done.response == {"fruits": {"fig": 20, "plum": 20, "pear": 20}, "pair": ("fig", 20), "none": None}


async def test_a_child_works_on_a_part_with_a_repl_of_its_own(dialect: Dialect) -> None:
    part = f"{text_of(dialect)}[:200]"
    asked = CHILD.get(dialect.name, "rlm_query('How many figs?', {0})").format(part)
    if dialect.name == "dspy":
        # it has no words for a child; ours are there
        assert "child" not in dialect.system
    child = [reply(dialect, f"mine = {text_of(dialect)}.count('fig')\nprint(mine)"), *ending(dialect, "mine")]
    done = await solve(dialect, [reply(dialect, f"figs = {asked}\nprint(figs)"), *child, *ending(dialect, "figs")])
    assert done.response == CONTEXT[:200].count("fig")
    [made] = done.children
    assert made.depth == 1


async def test_after_an_error_the_state_is_kept_and_the_work_goes_on(dialect: Dialect) -> None:
    first = reply(dialect, f"kept = {text_of(dialect)}.count('pear')\nmissing_name")
    done = await solve(dialect, [first, reply(dialect, "print(kept)"), *ending(dialect, "kept")])
    assert done.response == 20
    error = done.trajectory[0].cells[0].error
    assert error is not None
    assert "NameError: name 'missing_name' is not defined" in error
    assert "missing_name" in (done.trajectory[0].observation or "")
