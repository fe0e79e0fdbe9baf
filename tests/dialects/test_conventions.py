"""What each dialect does in its own way: how answers are given, how output is shown, what the first message holds."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm import RLM, Client, Completion, Limits, Reply, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.dialects import DIALECTS, Dialect, Offer, find, inside
from rlm_wasm.retrievers import Document, Hit

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


async def test_azure_begins_with_final_unset_and_no_sections_and_any_value_but_none_is_an_answer() -> None:
    done, root = await ask("azure", [run_python("print(Final, used_sections)\nFinal = None"), run_python("Final = 0")])
    assert (done.response, done.stopped_by) == (0, "final")
    assert root.calls[1][-1].content.startswith("REPL output:\nNone []")
    assert "`run_python`" in root.calls[0][1].content
    assert "`context`" in root.calls[0][1].content


async def test_a_child_has_a_namespace_of_its_own_and_the_parents_calls_count_together() -> None:
    child = run_python("found = [n for n in ('secret', 'Final', 'used_sections') if n in globals()]\nFinal = found")
    replies = [
        run_python("secret = 1\npart = rlm_query('And here?', sub_context='x')"),
        child,
        run_python("Final = part"),
    ]
    done, _ = await ask("azure", replies)
    assert done.response == ["Final", "used_sections"]
    assert done.usage.calls == 3


async def test_azure_ends_at_the_iteration_limit_with_what_was_seen() -> None:
    replies = [run_python("print(1)"), run_python("print(2)"), "Two, I think."]
    done, _ = await ask("azure", replies, limits=Limits(iterations=2))
    assert (done.response, done.stopped_by) == ("Two, I think.", "iterations")


async def test_what_stands_around_the_code_of_a_call_is_left_out() -> None:
    done, _ = await ask("azure", [run_python("```python\n%time n = len(context)\n```"), run_python("Final = n")])
    assert done.response == 8


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


@pytest.mark.parametrize(
    ("context", "seen"),
    [
        ({"reviews": [1, 2], "task": "count"}, "a dict of 2 items; its keys: ['reviews', 'task']"),
        (["one", "two"], "a list: ['one', 'two']"),
        ("b" * 500, "It begins:\n" + "b" * 500),
        ("b" * 500 + "e" * 500, "It ends:\n" + "e" * 500),
    ],
    ids=["dict", "list", "short str", "long str"],
)
async def test_fast_rlms_first_look_fits_the_kind_of_context(context: Any, seen: str) -> None:
    _, root = await ask("fast-rlm", [repl("FINAL(1)")], context=context)
    assert seen in root.calls[0][1].content


async def test_fast_rlm_hands_functions_of_a_cell_down_to_a_child() -> None:
    parent = repl(
        "def short(items, most=3):\n    'Those that are short.'\n    return [i for i in items if len(i) <= most]\n"
        "kept = await llm_query(['a', 'long'], tools=[short, given], instruction='Keep the short ones.')"
    )
    with_tool = repl("FINAL([short(context), given()])")
    done, root = await ask("fast-rlm", [parent, with_tool, repl("FINAL(kept)")], functions={"given": lambda: "host's"})
    assert done.response == [["a"], "host's"]
    assert "- `short(items, most=3)`: Those that are short." in root.calls[1][0].content
    assert "short(" not in root.calls[0][0].content


async def test_a_function_without_a_source_is_refused_and_one_that_fails_is_told_to_the_child() -> None:
    parent = repl(
        "try: await llm_query('x', tools=[len])\nexcept ValueError as error: print(error)\n"
        "def broken(x=len('a')): return x\n"
        "kept = await llm_query('x', tools=[broken])"
    )
    done, root = await ask("fast-rlm", [parent, repl("FINAL(broken())"), repl("FINAL(kept)")])
    assert done.response == 1
    assert "tools= takes functions that were made by `def`" in done.trajectory[0].cells[0].output
    own = repl("h = 1 / 1\ndef f(x=h): return x\nkept = await llm_query('x', tools=[f])")
    _, root = await ask("fast-rlm", [own, repl("FINAL(1)"), repl("FINAL(kept)")])
    assert "NameError: name 'h' is not defined" in root.calls[1][1].content


async def test_the_articles_output_is_cut_to_500_words_with_its_mark() -> None:
    words = msgspec.structs.replace(
        find("fast-rlm"),
        output_words=500,
        output_keep="head",
        shown_cut="{output}.............. [OUTPUT TRUNCATED TO {limit} words]",
    )
    done, root = await ask(words, [repl("print('word ' * 900)"), repl("FINAL(1)")])
    assert done.response == 1
    # the first look has been outputs[0]
    shown = told(root).partition("\n(outputs[1]")[0]
    assert shown.endswith(".............. [OUTPUT TRUNCATED TO 500 words]")
    assert len(shown.partition("....")[0].split()) == 500


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


async def test_pyrlms_questions_take_a_number_of_tokens_and_its_pieces_a_default_size() -> None:
    most: list[Any] = []

    class Sub:
        model = "sub"

        async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
            most.append(max_output_tokens)
            return Reply("Ada", 1, 1)

    code = """
print(ask('Who?', 'a', max_tokens=5), ask_chunks('Who?', ['a'], max_tokens=6, parallel=True))
print(ask_chunks_first('Who?', ['a'], max_tokens=7), llm_batch(['a'], max_tokens=8), llm_query_batch(['a'], None, 9))
print(len(ctx.chunk_documents()), ctx.metadata()['documents'], len(ctx.find('a+', regex=True)))
print(len(peek()), len(tail()))
"""
    done, _ = await ask("pyrlm", [code, "FINAL: ok"], context=["a" * 300] * 11, sub=Sub())
    assert done.trajectory[0].cells[0].error is None, done.trajectory[0].cells[0].error
    assert most == [5, 6, 7, 8, 9]
    assert done.trajectory[0].cells[0].output.endswith("2 11 11\n2000 2000\n")


async def test_a_retriever_gives_pyrlm_its_three_searches_and_its_documents() -> None:
    class Shelf:
        has_vectors = True

        async def search(self, query: str, k: int = 10, filters: Any = None) -> list[Hit]:
            return [Hit("a", 1.5, f"{query} {k} {filters}", {"n": 1})]

        vector_search = hybrid_search = search

        async def get(self, id: str) -> Document | None:
            return Document(id, "all of it", {})

    code = """
print(es_search('q'), es_vector_search('v', top_k=3), es_hybrid_search('h', filters={'n': 1}))
print(es_get('a'))
"""
    done, _ = await ask("pyrlm", [code, "FINAL: ok"], retriever=Shelf())
    assert done.trajectory[0].cells[0].error is None, done.trajectory[0].cells[0].error
    output = done.trajectory[0].cells[0].output
    assert "{'doc_id': 'a', 'score': 1.5, 'preview': 'q 10 None', 'metadata': {'n': 1}}" in output
    assert "v 3 None" in output
    assert "h 10 {'n': 1}" in output
    assert "{'doc_id': 'a', 'content': 'all of it', 'metadata': {}}" in output


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


async def test_at_the_limit_dspys_answer_is_taken_from_what_was_seen() -> None:
    replies = ["```python\nprint(len(document))\n```", "```python\nSUBMIT(answer=3)\n```"]
    done, root = await ask("dspy", replies, context={"document": "abc"}, limits=Limits(iterations=1))
    assert (done.response, done.stopped_by) == (3, "iterations")
    assert "Give your best answer now" in told(root)


async def test_dspy_shows_head_and_tail_of_an_output() -> None:
    _, root = await ask("dspy", ["```python\nprint('h' * 9_000 + 't' * 9_000)\n```", "```python\nSUBMIT(1)\n```"])
    assert (told(root).count("h" * 5000), told(root).count("t" * 4999)) == (1, 1)
    assert len(told(root)) < 10_300


async def test_predict_gives_typed_fields_and_asks_again_where_one_does_not_fit() -> None:
    seen: list[Any] = []

    class Sub:
        model = "sub"

        async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
            seen.append(messages[0])
            return Reply('{"year": "old", "kind": "a"}' if len(seen) == 1 else '{"year": 1999, "kind": "b"}', 1, 1)

    code = """
one, two = await asyncio.gather(predict("text -> year: int, kind: Literal['a', 'b']", text='In 1999.'),
                                predict("text, picture -> year: int, kind", text='This?', picture=PNG))
print(one.year + 1, one['kind'], two.toDict())
for wrong in ("text", "text -> x: set", "text -> ", "text, more -> x", "1 -> 2"):
    try: await predict(wrong, text='t')
    except ValueError as error: print(error)
"""
    png = "import asyncio\nPNG = b'\\x89PNG\\r\\n\\x1a\\n' + bytes(9)\n"
    replies = [f"```python\n{png}{code}\n```", "```python\nSUBMIT(1)\n```"]
    done, _ = await ask("dspy", replies, sub=Sub())
    assert done.trajectory[0].cells[0].error is None, done.trajectory[0].cells[0].error
    output = done.trajectory[0].cells[0].output
    assert output.startswith("2000 b {'year': 1999, 'kind': 'b'}\n")
    assert output.count("\n") == 6
    assert len(seen) == 3
    assert [bool(message.images) for message in seen].count(True) >= 1


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


# --- what models do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('\\d')", "\\d"),
        ("s = 'abc\nprint(s)", "SyntaxError: unterminated string literal"),
        ("x = input('go? ')", "EOFError: there is nobody to answer input() here"),
        ("exit()", "the sandbox and its variables live on"),
        ("import pandas", "No module named 'pandas'"),
        ("list = [1]; str = 5; len = None", "`len`, `list`, `str` were put back"),
        ("FINAL = 1; llm_query = 2", "`FINAL`, `llm_query` were put back"),
        ("!pip install pandas\nprint(len(context))", "and this line did nothing)\n30000"),
        ("print(context)", "characters left out"),
    ],
)
async def test_what_models_do_is_borne_and_the_work_goes_on(code: str, shown: str) -> None:
    done, root = await ask(
        "rlm_wasm",
        [repl(f"kept = 1\n{code}" if "abc" not in code else code), repl("FINAL(len(context))")],
        context="z" * 30_000,
    )
    assert done.response == 30_000
    assert shown in told(root)
    assert len(told(root)) < 12_000


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
