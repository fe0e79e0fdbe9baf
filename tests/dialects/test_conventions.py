"""What each dialect does in its own way: how answers are given, how output is shown, what the first message holds."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm import RLM, Client, Completion, Limits, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.dialects import DIALECTS, Dialect, Offer, find, inside

pytestmark = pytest.mark.anyio

WITHIN = 120


async def ask(
    dialect: str | Dialect, replies: list[Any], *, context: Any = "one\ntwo\n", sub: Client | None = None, **more: Any
) -> tuple[Completion, ScriptedClient]:
    root = ScriptedClient(replies, model="root")
    limits = more.pop("limits", Limits(depth=1))
    rlm = RLM(root, sub_model=sub or ScriptedClient(model="sub"), dialect=dialect, limits=limits, **more)
    with anyio.fail_after(WITHIN):
        return await rlm.acompletion("How many lines?", context=context), root


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def told(root: ScriptedClient, call: int = 1) -> str:
    return root.calls[call][-1].content


# --- alexzhang13/rlm -----------------------------------------------------------------------------------------------


async def test_rlm_shows_the_head_of_an_output_echoes_nothing_and_counts_turns() -> None:
    done, root = await ask(
        "rlm",
        [
            repl("print('x' * 30_000)\n5"),
            repl("7"),
            repl('answer["content"] = 2; answer["ready"] = True'),
        ],
    )
    assert done.response == 2
    first = told(root)
    assert first.startswith("Turn 1/")
    assert "x" * 20_000 + "... + [10001 chars...]" in first
    assert "5" not in first.partition("outputs[0]")[0].partition("x" * 20_000 + "...")[2].replace("10001", "")
    assert told(root, 2).startswith("Turn 2/")
    assert "(nothing was printed)" in told(root, 2)


@pytest.mark.parametrize(
    ("ending", "answer"),
    [
        ("FINAL(two lines)", "two lines"),
        ("FINAL_VAR(count)", 2),
        (repl("FINAL_VAR('count')"), 2),
        (repl("FINAL_VAR(count)"), 2),
        (repl("FINAL(count)"), 2),
    ],
)
async def test_rlm_understands_the_older_ways_to_finish(ending: str, answer: object) -> None:
    done, _ = await ask("rlm", [repl("count = len(context.splitlines())\nprint(count)"), ending])
    assert (done.response, done.stopped_by) == (answer, "final")


async def test_an_answer_of_the_wrong_type_is_refused_and_made_ready_again() -> None:
    done, root = await ask(
        "rlm",
        [
            repl('answer["content"] = "two"; answer["ready"] = True'),
            repl('answer["content"] = 2; answer["ready"] = True'),
        ],
    )
    assert done.response == "two"
    root = ScriptedClient(
        [
            repl('answer["content"] = "two"; answer["ready"] = True'),
            repl('answer["content"] = 2; answer["ready"] = True'),
        ]
    )
    with anyio.fail_after(WITHIN):
        done = await RLM(root, dialect="rlm").acompletion("How many?", context="one\ntwo", output=int)
    assert done.response == 2
    assert "answer was not accepted" in told(root)
    assert 'set answer again (answer["content"] = value; answer["ready"] = True)' in told(root)


# --- rlm-on-azure --------------------------------------------------------------------------------------------------


async def test_azure_acts_by_one_native_tool_and_sets_final() -> None:
    code = "print(len(context.splitlines()))\nused_sections.append('two')\nused_sections.append('three')"
    done, root = await ask("azure", [run_python(code), run_python("Final = {'lines': 2}")])
    assert done.response == {"lines": 2}
    assert [(each.text, each.found, each.start) for each in done.citations] == [
        ("two", True, 4),
        ("three", False, None),
    ]
    _, _, assistant, tool = root.calls[1]
    assert (assistant.role, assistant.calls[0].code) == ("assistant", code)
    assert (tool.role, tool.answers) == ("tool", assistant.calls[0].id)
    assert tool.content.startswith("REPL output:\n2")
    assert root.calls[0][1].content.startswith("Query: How many lines?")
    assert "```" not in root.calls[0][0].content


async def test_a_reply_without_a_call_is_told_of_the_tool_and_code_in_it_is_run_all_the_same() -> None:
    done, root = await ask("azure", ["I think that it is two.", repl("Final = len(context.splitlines())")])
    assert done.response == 2
    assert "You did not call `run_python`" in told(root)
    assert "Final = value" in told(root)


async def test_a_client_that_offers_no_tools_is_the_callers_mistake() -> None:
    class Plain:
        model = "plain"

        async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Any:
            raise AssertionError

    with pytest.raises(TypeError, match=r"offers no native tools.*act='fences'"):
        RLM(Plain(), dialect="azure")
    assert RLM(Plain(), dialect="azure", act="fences").dialect.act == "fences"


@pytest.mark.parametrize("name", ["rlm_wasm", "rlm", "fast-rlm", "dspy"])
async def test_any_dialect_can_carry_its_code_by_the_tool(name: str) -> None:
    done, root = await ask(name, [run_python("print(len(context))"), run_python("FINAL(len(context))")], act="tool")
    assert done.response == 8
    assert root.calls[1][-1].role == "tool"


async def test_of_several_calls_in_a_reply_each_has_its_own_answer_up_to_an_error() -> None:
    both = msgspec.structs.replace(run_python("print('first')"), calls=(*run_python("print('first')").calls,) * 1)
    second = msgspec.structs.replace(both.calls[0], id="call_2", code="1 / 0")
    third = msgspec.structs.replace(both.calls[0], id="call_3", code="print('never')")
    reply = msgspec.structs.replace(both, calls=(*both.calls, second, third))
    done, root = await ask("azure", [reply, run_python("Final = 1")])
    assert done.response == 1
    answers = root.calls[1][3:]
    assert [(each.role, each.answers) for each in answers] == [("tool", f"call_{n}") for n in (1, 2, 3)]
    assert "first" in answers[0].content
    assert "ZeroDivisionError" in answers[1].content
    assert "not run" in answers[2].content


# --- fast-rlm ------------------------------------------------------------------------------------------------------


async def test_fast_rlm_looks_first_runs_all_blocks_as_one_cell_and_shows_the_tail() -> None:
    text = "BEGIN " + "x" * 2000 + " END"
    done, root = await ask(
        "fast-rlm",
        [f"{repl('a = 1')}\nand\n{repl('print(a)')}", repl("print('y' * 12_000)\na"), repl("b = 2"), repl("FINAL(a)")],
        context=text,
    )
    assert done.response == 1
    opening = root.calls[0][1].content
    assert "BEGIN" in opening
    assert "END" in opening
    assert "x" * 600 not in opening
    assert len(done.trajectory[0].cells) == 1
    assert told(root).startswith("[FULL OUTPUT SHOWN]... 1")
    cut = told(root, 2)
    assert cut.startswith("[TRUNCATED: Last 10000 chars shown].. y")
    assert cut.count("y") == 9999
    assert told(root, 3).startswith("[EMPTY OUTPUT]")


async def test_fast_rlm_awaits_children_in_batches_and_checks_their_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    ask_both = f"""
found = await batch_llm_query(
    llm_query("count a", {schema}, instruction="Count."), llm_query("count b", {schema}, instruction="Count.")
)
print(found)"""
    child_wrong, child_right = repl("FINAL({'n': 'many'})"), repl("FINAL({'n': len(context)})")
    calls: list[str] = []

    def answer(messages: tuple[Any, ...]) -> str:
        last = messages[-1].content
        calls.append(last)
        if "Count." in messages[1].content:
            return child_right if "was not accepted" in last else child_wrong
        return repl("FINAL(found)") if len(messages) > 2 else repl(ask_both)

    root = ScriptedClient([answer] * 10)
    with anyio.fail_after(WITHIN):
        done = await RLM(root, dialect="fast-rlm", limits=Limits(depth=1)).acompletion("Count both.", context="x")
    assert done.response == [{"n": 7}, {"n": 7}]
    assert any("$.n" in call and "was not accepted" in call for call in calls)


async def test_fast_rlm_asks_again_before_a_child_gets_nearly_all() -> None:
    first = repl("try: await llm_query(context)\nexcept ValueError as error: print(error)")
    done, root = await ask("fast-rlm", [first, repl("FINAL('small')")], context="z" * 5000)
    assert done.response == "small"
    assert "this child would get 5,000 of your 5,000 characters" in told(root)


def test_at_the_depth_limit_there_is_no_word_of_children() -> None:
    from rlm_wasm import prompts

    for dialect in DIALECTS.values():
        chosen = {"output_chars": 1, "timeout": 1.0, "functions": {}, "schema": None, "dialect": dialect}
        with_children = prompts.system(recursion=True, **chosen)
        without = prompts.system(recursion=False, **chosen)
        for offer in dialect.offers:
            assert offer.text in with_children
            assert (offer.text in without) == (not offer.child)


# --- pyrlm-runtime -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "answer"),
    [("FINAL: two lines", "two lines"), ("FINAL_VAR: count", 2), ("**FINAL:** 2", "2"), ("FINAL(count)", 2)],
)
async def test_pyrlm_runs_bare_code_and_finishes_by_a_line_of_text(ending: str, answer: object) -> None:
    done, _ = await ask("pyrlm", ["count = len(P.splitlines())\nprint(count, lenP(), peek(3), tail(4))", ending])
    assert (done.response, done.stopped_by) == (answer, "final")
    assert done.trajectory[0].cells[0].output == "2 8 one two\n\n"


async def test_pyrlm_has_its_documents_and_its_questions() -> None:
    sub = ScriptedClient(rules={"Where": "not found", "Who": "Ada", "2+2": "4"}, model="sub")
    code = """
print(ctx.num_documents(), ctx.get_document(1), ctx.document_lengths(), [m.start for m in ctx.find('b')])
print(len(ctx.chunk(2)), ctx.slice(0, 3), extract_after('key:'))
print(ask('Who?', 'text'), ask_chunks('Who?', ['a', 'b']), ask_chunks_first('Who?', ['a', 'b']))
print(pick_first_answer(['', 'NOT FOUND', 'Ada']), llm_batch(['2+2', '2+2']), llm_query_batch(['2+2']))
print(llm_query('2+2', max_tokens=5))
"""
    done, _ = await ask("pyrlm", [code, "FINAL: ok"], context=["aaa", "bbb key: value"], sub=sub)
    output = done.trajectory[0].cells[0].output
    assert done.trajectory[0].cells[0].error is None, done.trajectory[0].cells[0].error
    assert "Ada ['Ada', 'Ada'] Ada" in output
    assert "Ada ['4', '4'] ['4']" in output
    assert output.endswith("4\n")
    assert "value" in output


# --- dspy, Prime Intellect -----------------------------------------------------------------------------------------


async def test_dspy_has_a_variable_for_each_field_and_submits_by_name() -> None:
    class Found(msgspec.Struct):
        count: int
        longest: str

    root = ScriptedClient(
        [
            "```python\nprint(len(document), topic)\n```",
            "```python\nSUBMIT(count='no', longest=1)\n```",
            "```python\nSUBMIT(count=len(document), longest=topic)\n```",
        ]
    )
    with anyio.fail_after(WITHIN):
        done = await RLM(root, dialect="dspy").acompletion(
            "Fill the fields.", context={"document": "abc", "topic": "fruit"}, output=Found
        )
    assert done.response == Found(3, "fruit")
    assert "SUBMIT was not accepted" in told(root, 2)


async def test_prime_shows_the_budget_and_asks_in_batches() -> None:
    sub = ScriptedClient(rules={"": "ok"}, model="sub")
    code = "print(llm_batch(['a', 'b']), 'calls_left' in budget())"
    done, root = await ask("prime", [repl(code), repl('answer["content"] = 1; answer["ready"] = True')], sub=sub)
    assert done.response == 1
    assert "['ok', 'ok'] True" in told(root)


# --- dialects of a caller's own ------------------------------------------------------------------------------------


async def test_a_dialect_of_ones_own_is_as_good() -> None:
    shout = "__all__ = ['DONE']\nfrom rlm_host import FINAL\ndef DONE(value):\n    FINAL(value.upper())\n"
    own = Dialect(
        name="own",
        system="You have {offers} for {timeout} s and {output_chars} characters.",
        opening="{question} / {description} / {context}",
        offers=(Offer("`DONE(value)`"),),
        equipment=(*inside("protected"), ("shouting", shout)),
        shown="<out>{output}</out>",
        finish="DONE(value)",
        answer_name="DONE",
    )
    done, root = await ask(own, [repl("print(context[:3])"), repl("DONE(context[:3])")])
    assert done.response == "ONE"
    assert told(root) == "<out>one</out>"
    assert root.calls[0][0].content == "You have - `DONE(value)` for 60.0 s and 10000 characters."


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"system": "{nothing}"}, "system may hold"),
        ({"opening": "{"}, "opening is no format"),
        ({"context": "not a name"}, "is not a Python name"),
        ({"name": ""}, "has a name"),
    ],
)
def test_what_is_no_dialect_says_why(wrong: dict[str, Any], why: str) -> None:
    given: dict[str, Any] = {"name": "own", "system": "", "opening": "", "offers": ()}
    with pytest.raises(ValueError, match=why):
        Dialect(**(given | wrong))
    with pytest.raises(ValueError, match="there is no dialect 'klingon': use one of rlm_wasm, rlm"):
        find("klingon")


# --- what all have -------------------------------------------------------------------------------------------------


async def test_what_a_cell_overwrites_is_put_back_and_the_model_is_told() -> None:
    done, root = await ask(
        "rlm_wasm", [repl("context = context[:3]; print = 5"), repl("print(context)\nFINAL(my_context)")]
    )
    assert done.response == "one"
    assert "`context`, `print` were put back" in told(root)
    assert "`my_context`, `my_print`" in told(root)
    assert done.trajectory[1].cells[0].output == "one\ntwo\n\n"


async def test_citations_are_looked_for_in_the_context() -> None:
    done, _ = await ask("rlm_wasm", [repl("print(1)"), repl("cite('two'); cite('four')\nFINAL(2)")])
    assert [(each.text, each.found, each.start, each.end) for each in done.citations] == [
        ("two", True, 4, 7),
        ("four", False, None, None),
    ]


async def test_json_is_asked_for_by_schema_and_mended() -> None:
    sub = ScriptedClient(["no json", '{"n": "x"}', '{"n": 3}'], model="sub")
    schema = "{'type': 'object', 'properties': {'n': {'type': 'integer'}}, 'required': ['n']}"
    done, _ = await ask(
        "rlm_wasm", [repl(f"found = llm_query_json('How many?', {schema})\nFINAL(found['n'])")], sub=sub
    )
    assert done.response == 3


async def test_an_answer_can_be_asked_for_by_a_json_schema() -> None:
    root = ScriptedClient([repl("FINAL({'n': 'x'})"), repl("FINAL({'n': 4})")])
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with anyio.fail_after(WITHIN):
        done = await RLM(root).acompletion("How many?", context="four", output=schema)
    assert done.response == {"n": 4}
    assert "$.n" in told(root)
    assert '"required": ["n"]' in root.calls[0][0].content


async def test_more_models_can_be_named_and_no_other() -> None:
    other = ScriptedClient(rules={"": "from the other"}, model="big-model")
    code = "print(llm_query('a', model='big'))\ntry: llm_query('a', model='none')\nexcept FunctionError as e: print(e)"
    done, root = await ask("rlm_wasm", [repl(code), repl("FINAL(1)")], models={"big": other})
    assert done.response == 1
    assert "from the other" in told(root)
    assert "there is no model 'none' here" in told(root)
    assert done.usage.by_model["big-model"].calls == 1


async def test_the_whole_of_a_cut_output_is_pointed_to() -> None:
    done, root = await ask("rlm_wasm", [repl("print('x' * 30_000)"), repl("FINAL(len(outputs[0]))")])
    assert done.response == 30_001
    assert "(outputs[0] in the REPL has all of it)" in told(root)
