"""What a caller puts into a dialect or a run: the answer's variable, values, documents, a system message."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Completion, ScriptedClient
from rlm_wasm.dialects import DIALECTS, HOUSE, finishing_by, giving, instructed
from rlm_wasm.guards import Guards
from rlm_wasm.inside.documents import Context

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def ask(rlm: RLM, context: object = "abc") -> Completion:
    with anyio.fail_after(60):
        return await rlm.acompletion("How many?", context=context)


@pytest.mark.both_backends
async def test_a_variable_of_a_chosen_name_is_the_answer_once_it_is_set() -> None:
    root = ScriptedClient([repl("print(len(context))"), repl("total = [len(context)]")])
    done = await ask(RLM(root, dialect=finishing_by(HOUSE, "total")))
    assert (done.response, len(done.trajectory)) == ([3], 2)
    assert "`total`: set it to the answer" in root.calls[0][0].content


async def test_an_answer_in_a_variable_that_a_guard_refuses_counts_when_the_guard_is_content() -> None:
    root = ScriptedClient([repl("total = 3"), repl("seen = llm_query('Is it 3?')")])
    rlm = RLM(
        root,
        sub_model=ScriptedClient(["Yes."]),
        dialect=finishing_by(HOUSE, "total"),
        guards=Guards(require_subcall_before_final=True),
    )
    done = await ask(rlm)
    assert (done.response, done.stopped_by) == (3, "final")


async def test_a_variable_that_is_too_short_or_says_nothing_is_no_answer() -> None:
    root = ScriptedClient([repl("a = 'x'"), repl("a = 'see the previous reply'"), repl("a = 'forty-two'")])
    dialect = finishing_by(HOUSE, "a", at_least=3, no_answers=["previous (reply|response)"])
    assert (await ask(RLM(root, dialect=dialect))).response == "forty-two"


def test_a_name_that_cannot_hold_an_answer_is_refused() -> None:
    for name in ("two words", "", "context"):
        with pytest.raises(ValueError, match="no name for a variable"):
            finishing_by(HOUSE, name)
    with pytest.raises(ValueError, match="not OTHER"):
        giving(HOUSE, OTHER=1)


def test_what_is_given_first_stays_when_more_is_given() -> None:
    dialect = giving(finishing_by(DIALECTS["pyrlm"], "answer"), SEPARATOR="'\n#")
    modules = dict(dialect.equipment)
    assert "FINAL_VARIABLE = 'answer'" in modules["rlm_given"]
    assert 'SEPARATOR = "\'\\n#"' in modules["rlm_given"]


async def test_a_system_message_of_the_callers_is_said_word_for_word() -> None:
    root = ScriptedClient([repl("FINAL(1)")])
    await ask(RLM(root, dialect=instructed(HOUSE, "Say {nothing}: {offers} {}")))
    assert root.calls[0][0].content == "Say {nothing}: {offers} {}"


async def test_variables_of_the_callers_stand_beside_the_context_in_children_too() -> None:
    root = ScriptedClient([repl("FINAL([table['a'], rlm_query('And there?', 'x')])"), repl("FINAL(table['b'])")])
    assert (await ask(RLM(root, variables={"table": {"a": 1, "b": 2}}))).response == [1, 2]


@pytest.mark.parametrize("name", ["context", "llm_query", "FINAL"])
def test_a_variable_may_not_take_a_name_that_has_a_meaning(name: str) -> None:
    with pytest.raises(ValueError, match=f"variables: {name} has a meaning"):
        RLM(ScriptedClient(), variables={name: 1})
    with pytest.raises(ValueError, match="one name for a function and for a variable"):
        RLM(ScriptedClient(), variables={"a": 1}, functions={"a": len})


@pytest.mark.parametrize(
    ("context", "code", "answer"),
    [
        (
            Context.from_documents([{"id": "a", "text": "one", "year": 7}, "two"]),
            "ctx.metadata('a')['metadata']",
            {"year": 7},
        ),
        (Context.from_documents(["one", "two"]), "[ctx.num_documents(), P]", [2, "one\n\ntwo"]),
        (Context.from_text("one"), "[ctx.num_documents(), P]", [1, "one"]),
        ([1, {"a": 2}], "[ctx.num_documents(), ctx.get_document(1)]", [2, "{'a': 2}"]),
    ],
)
async def test_documents_reach_the_repl_of_pyrlm_with_what_is_known_of_them(
    context: Any, code: str, answer: Any
) -> None:
    done = await ask(RLM(ScriptedClient([repl(f"FINAL({code})")]), dialect="pyrlm"), context)
    assert done.response == answer
