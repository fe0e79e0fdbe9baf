"""Replies as models write them, and as nobody would write them."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlm_wasm.magics import runnable
from rlm_wasm.parsing import Parsed, final_is_literal, parse

CODE = 'hits = [line for line in context.split("\\n") if "2019" in line]\nprint(len(hits))'
PROMPT = (
    'prompt = f"""Answer as JSON:\n```json\n{{"year": 2019}}\n```\nText: {context[:500]}"""\nprint(llm_query(prompt))'
)


def call(**arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'run_python', 'arguments': arguments})}\n</tool_call>"


# What the reply is, the reply, its cells, and what is left off at its end.
REPLIES: list[tuple[str, str, list[str], str]] = [
    ("prose and a repl fence", f"I will count.\n\n```repl\n{CODE}\n```", [CODE], ""),
    ("a pretended output", f"```repl\n{CODE}\n```\n", [CODE], "\n"),
    (
        "a pretended output in a fence",
        "```repl\nx = f(1)\n```\n\nOutput:\n```\n5\n```",
        ["x = f(1)"],
        "\n\nOutput:\n```\n5\n```",
    ),
    ("several cells, a guess at last", "```repl\nx = 1\n```\nThen:\n```repl\nFINAL(x)\n```", ["x = 1", "FINAL(x)"], ""),
    ("FINAL as text after a cell", "```repl\nx = f()\n```\nFINAL(x)", ["x = f()"], "\nFINAL(x)"),
    (
        "repl wins over python",
        "```python\ndraft()\n```\n```repl\nx = 1\n```\n```py\nmore()\n```",
        ["x = 1"],
        "\n```py\nmore()\n```",
    ),
    (
        "python by its other names",
        "```Python\na()\n```\n```py\nb()\n```\n```IPython\nc()\n```",
        ["a()", "b()", "c()"],
        "",
    ),
    ("the fence that Gemini writes", "```tool_code\nprint(1)\n```", ["print(1)"], ""),
    ("a label in braces", "```{python}\nx = 1\n```", ["x = 1"], ""),
    ("a label with attributes", "```python title=first.py\nx = 1\n```", ["x = 1"], ""),
    ("an unclosed fence", f"Look:\n```repl\n{CODE}\n", [CODE], ""),
    ("an unclosed last fence", "```repl\nx = 1\n```\n```repl\ny = 2", ["x = 1", "y = 2"], ""),
    ("a fence closed by the next one", "```repl\nx = 1\n```repl\ny = 2\n```", ["x = 1", "y = 2"], ""),
    ("a fence closed by pretended output", "```repl\nx = 1\n```output\n1\n```", ["x = 1"], "```output\n1\n```"),
    ("a fence closed at the end of a line", "```repl\nprint(x)```\nbye", ["print(x)"], "\nbye"),
    (
        "prose behind the closing fence",
        "```repl\nx = 1\n``` and now I wait\n```repl\ny = 2\n```",
        ["x = 1", "y = 2"],
        "",
    ),
    ("a fence that ends a sentence", "I'll look at it: ```repl\nx = 1\n```", ["x = 1"], ""),
    ("four backticks", "````repl\nx = 1\n````\nbye", ["x = 1"], "\nbye"),
    ("tildes", "~~~python\nx = 1\n~~~\nbye", ["x = 1"], "\nbye"),
    (
        "a fence in a list",
        "1. Look:\n   ```repl\n   if x:\n       y()\n   ```\n2. Wait.",
        ["if x:\n    y()"],
        "\n2. Wait.",
    ),
    ("a fence on a list's mark", "- ```repl\n  x = 1\n  y = 2\n  ```", ["x = 1\ny = 2"], ""),
    ("Windows line ends", "```repl\r\nx = 1\r\ny = 2\r\n```\r\nbye", ["x = 1\ny = 2"], "\r\nbye"),
    ("a fence within the fence", "```repl\n```python\nx = 1\n```\n```\nbye", ["x = 1"], "\nbye"),
    ("a fence within the fence, closed once", "```repl\n\n```python\nx = 1\n```\nbye", ["x = 1"], "\nbye"),
    ("a fence within a longer fence", "````repl\n```repl\nx = 1\n```\n````", ["x = 1"], ""),
    ("a bare fence around a fence", "```\n```repl\nx = 1\n```\n```", ["x = 1"], ""),
    ("fences in a string", f"```repl\n{PROMPT}\n```\nbye", [PROMPT], "\nbye"),
    ("fences in a string, unclosed", f"```repl\n{PROMPT}\n", [PROMPT], ""),
    ("a bare fence in a string", '```repl\np = """\n```\nx\n```\n"""\n```', ['p = """\n```\nx\n```\n"""'], ""),
    (
        "a string ended beside a fence",
        "```repl\np = '''\n```\nx\n```'''\nf(p)\n```",
        ["p = '''\n```\nx\n```'''\nf(p)"],
        "",
    ),
    ("quotes in a comment", '```repl\n# don\'t """\nx = 1\n```\n```repl\ny\n```', ['# don\'t """\nx = 1', "y"], ""),
    ("a string left open", '```repl\np = """abc\n```\nSo:\n```repl\ny = 2\n```', ['p = """abc', "y = 2"], ""),
    ("a stray fence before the code", "As said.\n```\n\nNow:\n```repl\nx = 1\n```", ["x = 1"], ""),
    ("an empty cell", "```repl\n\n```\n```repl\nx = 1\n```", ["x = 1"], ""),
    ("a slip in the code", "```repl\nprint('abc)\n```", ["print('abc)"], ""),
    ("a bare fence", f"So:\n```\n{CODE}\n```\nbye", [CODE], "\nbye"),
    ("a bare fence with await and a magic", "```\n%time\nx = await f()\n```", ["%time\nx = await f()"], ""),
    ("a bare fence with a slip", "```\nimport re\nx = re.findall('a\n```", ["import re\nx = re.findall('a"], ""),
    ("a bare fence with a slip at once", "```\nprint(f'{x}\n```", ["print(f'{x}"], ""),
    ("a bare fence and its output", "```\nx = f(1)\n```\n\n```\nx = 5\n```", ["x = f(1)"], "\n\n```\nx = 5\n```"),
    ("a tool call", f"Let me look.\n{call(code=CODE)}\nIt prints 5.", [CODE], "\nIt prints 5."),
    ("a tool call with a fence in it", call(code=f"```python\n{CODE}\n```"), [CODE], ""),
    ("two tool calls", call(code="x = 1") + "\n" + call(code="y = 2"), ["x = 1", "y = 2"], ""),
    ("a tool call cut off", '<tool_call>\n{"name": "run", "arguments": {"code": "x = 1"}}', ["x = 1"], ""),
    (
        "arguments as a string",
        '<tool_call>{"name": "run", "arguments": "{\\"code\\": \\"x = 1\\"}"}</tool_call>',
        ["x = 1"],
        "",
    ),
    ("raw line ends in JSON", '<tool_call>{"arguments": {"code": "x = 1\ny = 2"}}</tool_call>', ["x = 1\ny = 2"], ""),
    (
        "an invocation",
        '<function_calls><invoke name="run">\n<parameter name="code">x = 1</parameter>\n</invoke></function_calls>\n5',
        ["x = 1"],
        "\n5",
    ),
    (
        "a call as Qwen writes it",
        "<tool_call>\n<function=run>\n<parameter=code>\nx = 1\n</parameter>\n</function>\n</tool_call>",
        ["x = 1"],
        "",
    ),
    ("run_python", "I call <run_python>print(1)</run_python> now", ["print(1)"], " now"),
    ("python", "<python>\n    x = 1\n    y = 2\n</python>", ["x = 1\ny = 2"], ""),
    ("execute, unclosed", "<execute>\nprint(1)", ["print(1)"], ""),
    ("tool_code", "<tool_code>\nprint(1)\n</tool_code>", ["print(1)"], ""),
    ("code", "<code>\nprint(1)\n</code>", ["print(1)"], ""),
    ("bare code", CODE, [CODE], ""),
    ("bare code with await and a magic", "!ls\nx = await f()", ["!ls\nx = await f()"], ""),
    (
        "bare code with a fence in a string",
        'p = """\n```repl\nx\n```\n"""\nf(p)',
        ['p = """\n```repl\nx\n```\n"""\nf(p)'],
        "",
    ),
    ("one call", "SHOW_VARS()", ["SHOW_VARS()"], ""),
    ("one slice", "context[:500]", ["context[:500]"], ""),
    ("FINAL of a value", "It is clear.\nFINAL(42)\nBye.", ["FINAL(42)"], "\nBye."),
    ("FINAL below a word", "Done\n\nFINAL(answer)", ["FINAL(answer)"], ""),
    ("FINAL of a long string", 'So:\nFINAL("""1) a\n2) (b)""")\n', ['FINAL("""1) a\n2) (b)""")'], "\n"),
    ("FINAL_VAR", "FINAL_VAR(answer)", ["FINAL(answer)"], ""),
    ("FINAL_VAR with quotes", 'Done.\nFINAL_VAR("answer")', ["FINAL(answer)"], ""),
    ("FINAL_VAR with more", "Done.\n**FINAL_VAR(rows[0])**", ["FINAL(rows[0])"], "**"),
    ("FINAL_VAR in a bare fence", "```\nFINAL_VAR(answer)\n```", ["FINAL(answer)"], "\n```"),
]


@pytest.mark.parametrize(("reply", "cells", "dropped"), [row[1:] for row in REPLIES], ids=[row[0] for row in REPLIES])
class TestAReplyWithCode:
    def test_gives_its_cells_and_keeps_nothing_behind_them(self, reply: str, cells: list[str], dropped: str) -> None:
        assert parse(reply) == Parsed(cells=tuple(cells), kept=reply.removesuffix(dropped))

    def test_gives_the_same_cells_when_only_what_was_kept_is_read_again(
        self, reply: str, cells: list[str], dropped: str
    ) -> None:
        assert parse(parse(reply).kept).cells == tuple(cells)

    def test_gives_the_same_behind_a_thought(self, reply: str, cells: list[str], dropped: str) -> None:
        assert parse(f"<think>\nIf\n```repl\nwrong()\n```\n</think>\n\n{reply}") == parse(reply)

    def test_gives_the_same_cells_with_windows_line_ends(self, reply: str, cells: list[str], dropped: str) -> None:
        assert parse(reply.replace("\r\n", "\n").replace("\n", "\r\n")).cells == tuple(cells)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes",
        "Paris",
        "42",
        "a, b, c",
        "pass",
        "Paris is beautiful",
        "apples or oranges",
        "Paris (France)",
        "Answer: Paris",
        "name: Bob\nage: 5",
        "global warming",
        '"The answer"',
        "The answer is 42.",
        "I would use `context` and then ```x``` here.",
        "```json\n{}\n```",
        "```text\nFINAL(x)\n```",
        "```bash\nls -la\n```",
        "```output\nx = f(1)\n```",
        "```markdown\n```repl\nexample()\n```",
        "```\nTotal = 5 items\n```",
        "```\nhello world\n```",
        "```\n[1, 2, 3]\n```",
        "Output:\n```\nx = f(1)\n```",
        "**Result:**\n```\nprint(1)\n```",
        "This will print:\n\n```\nCounter({'a': 1})\n```",
        "```json\n{}\n```\n\n```\nx = f(1)\n```",
        "Use <code>print(context)</code> for it.",
        "<code>context</code> is long.",
        "<tool_call>run it</tool_call>",
        '<tool_call>{"name": "run", "arguments": {"query": "x = 1"}}</tool_call>',
        '<tool_call>{"name": "run", "arguments": {"code": 5}}</tool_call>',
        '<parameter name="query">x = 1</parameter>',
        "FINAL_VAR(the answer)",
        "The FINAL(x) call comes later.",
        "<think>\n```repl\nx = 1\n```\nbut",
    ],
)
def test_a_reply_without_code_is_kept_whole(reply: str) -> None:
    assert parse(reply) == Parsed(cells=(), kept=reply)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("FINAL(The answer is 42)", "The answer is 42"),
        ("So:\n  FINAL( The answer is 42 (about) )\nI hope so (really)", "The answer is 42 (about)"),
        ("FINAL(1) one thing\n2) and another)", "1) one thing\n2) and another"),
        ("FINAL(It's 42)", "It's 42"),
        ("**FINAL(The answer is 42)**", "The answer is 42"),
        ("FINAL(The answer is 42", "The answer is 42"),
        ("FINAL(The answer is 42) as I said", "The answer is 42"),
        ('FINAL(See:\n```json\n{"a": 1}\n```\n)', 'See:\n```json\n{"a": 1}\n```'),
        ("```\nFINAL(The answer is 42)\n```", "The answer is 42"),
    ],
)
def test_a_final_around_words_is_the_answer(reply: str, text: str) -> None:
    assert parse(reply) == Parsed(cells=(), kept=reply, final_text=text)


def test_a_thought_is_dropped_from_what_is_kept() -> None:
    assert parse("<think>hm</think>\n\nParis.") == Parsed(cells=(), kept="Paris.")
    assert parse("<THINK>a</THINK><thinking>b</thinking> x") == Parsed(cells=(), kept="x")
    assert parse("<think>hm</think>") == Parsed(cells=(), kept="")


def test_a_thought_whose_beginning_is_in_the_chat_template_is_dropped_too() -> None:
    assert parse("I could\n```repl\nwrong()\n```\n</think>\n\n```repl\nx = 1\n```").cells == ("x = 1",)


def test_a_tag_of_a_thought_inside_of_code_is_left_alone() -> None:
    code = 'tail = reply.split("</think>")[-1]'
    assert parse(f"```repl\n{code}\n```").cells == (code,)


def test_invalid_escapes_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse('x = re.findall("\\d+", context)').cells == ('x = re.findall("\\d+", context)',)


HOSTILE = [
    "`",
    "~",
    "(",
    "[",
    "{'a':",
    "-",
    "\n",
    " ",
    "a",
    "a.",
    "x;",
    "f'{",
    "'''\n",
    "\\",
    "\x00",
    "\ud800",
    "```\n",
    "```repl\n",
    "text ```repl\n",
    "```\nf(1)\n```\na\n",
    "```repl\n#'''\n'''\n```\n",
    "```json\n",
    "FINAL(\n",
    "FINAL(a\n)\n",
    "<think>",
    "<tool_call>",
    '<tool_call>{"a": [',
    "\n<code>",
    "Output:\n```\n1\n```\n",
    "- ",
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("beginning", ["", "```repl\nx = '''\n"], ids=["alone", "in a string of a cell"])
def test_a_megabyte_of_anything_neither_hangs_nor_raises(unit: str, beginning: str) -> None:
    reply = beginning + unit * (1_000_000 // len(unit))
    assert reply.startswith(parse(reply).kept)


@pytest.mark.parametrize("unit", ["(", "-", "not ", "a.", "f()+", "[", '"a"+', "\x00", "1"])
def test_nested_code_of_any_depth_is_judged_without_raising(unit: str) -> None:
    assert final_is_literal(f"FINAL({unit * 20_000}") is False
    assert final_is_literal("FINAL(" + unit * 1_000_000) is False


untimed = settings(deadline=None)  # a busy machine is no failure

fragments = st.sampled_from(
    [
        *HOSTILE,
        "```repl\nx = 1\n```\n",
        "```python\n",
        '"""',
        "print(1)\n",
        "\r\n",
        "</think>\n",
        "FINAL_VAR(x)",
        ")",
        "# ",
    ]
)
hostile_replies = st.lists(fragments | st.text(max_size=8), max_size=30).map("".join)
lines_of_code = (
    st.text(st.characters(exclude_characters="`\r", exclude_categories=["Cs"]), min_size=1, max_size=200)
    .filter(lambda code: code.strip() and "~~~" not in code and "think>" not in code and not code.endswith("\n"))
    .filter(lambda code: next(line for line in code.split("\n") if line.strip())[0] not in " \t")
)


@untimed
@given(hostile_replies)
def test_parsing_never_raises(reply: str) -> None:
    parsed = parse(reply)
    assert all(cell.strip() for cell in parsed.cells)
    assert not (parsed.cells and parsed.final_text is not None)


@untimed
@given(hostile_replies)
def test_what_is_kept_begins_where_the_reply_or_what_follows_its_thought_begins(reply: str) -> None:
    kept = parse(reply).kept
    assert reply.startswith(kept) if "think>" not in reply else kept in reply


@untimed
@given(hostile_replies)
def test_judging_a_cell_never_raises(code: str) -> None:
    assert final_is_literal(code) in (True, False)


@untimed
@given(lines_of_code)
def test_code_in_a_repl_fence_comes_back_exactly(code: str) -> None:
    assert parse(f"I will look.\n\n```repl\n{code}\n```\nThen I wait.").cells == (code,)


@untimed
@given(lines_of_code)
def test_an_unclosed_fence_is_as_good_as_a_closed_one(code: str) -> None:
    assert parse(f"I will look.\n```repl\n{code}").cells == parse(f"I will look.\n```repl\n{code}\n```").cells


@untimed
@given(lines_of_code, st.integers(1, 12))
def test_code_in_an_indented_fence_loses_its_indentation_only(code: str, width: int) -> None:
    margin = " " * width
    indented = "\n".join(margin + line for line in code.split("\n"))
    assert parse(f"1. Look:\n{margin}```repl\n{indented}\n{margin}```").cells == (code,)


@untimed
@given(st.lists(st.integers(), min_size=1, max_size=20))
def test_cells_come_in_the_order_in_which_they_stand(numbers: list[int]) -> None:
    reply = "\nThen\n".join(f"```repl\nx = {number}\n```" for number in numbers)
    assert parse(reply) == Parsed(cells=tuple(f"x = {number}" for number in numbers), kept=reply)


@untimed
@given(st.text(st.characters(exclude_characters="`~<")))
def test_prose_behind_a_cell_changes_nothing(prose: str) -> None:
    reply = "I will look.\n```repl\nx = 1\n```"
    assert parse(f"{reply}\n{prose}") == parse(reply)


@untimed
@given(hostile_replies, hostile_replies)
def test_what_was_thought_changes_nothing(thought: str, reply: str) -> None:
    assume("think>" not in thought + reply)
    assert parse(f"<think>{thought}</think>\n{reply}") == parse(reply.lstrip())


@pytest.mark.parametrize(
    "code",
    [
        'FINAL("Paris")',
        "FINAL(42)",
        "FINAL(-1.5)",
        "FINAL(None)",
        'FINAL(value="Paris")',
        'FINAL({"a": [1, (2, None)], "b": {"c"}})',
        'FINAL("a" "b" + "c")',
        "FINAL([1] + [2])",
        'FINAL(f"Paris")',
        'FINAL("\\n".join(["a", "b"]))',
        'FINAL("{} {year}".format("a", year=2019))',
        'FINAL("""\n  a\n""".strip())',
        'import textwrap\nFINAL(textwrap.dedent("""\n  a\n"""))',
        'FINAL(dedent("  a"))',
        'answer = "42"\nFINAL(answer)',
        'answer = "42"\nprint(answer)\nFINAL("The answer: " + answer)',
        'year = 2019\nanswer = {"year": year}\nFINAL(answer)',
        'print(len(context))\nFINAL("Paris")\nFINAL(found)',
        'await FINAL("Paris")',
        '%time\nFINAL("Paris")',
    ],
)
def test_an_answer_that_the_model_wrote_out_is_literal(code: str) -> None:
    assert final_is_literal(code)


@pytest.mark.parametrize(
    "code",
    [
        "FINAL(answer)",
        "FINAL()",
        "FINAL(240 + 60)",
        "FINAL(1 + 2 + 3)",
        "FINAL(len(context))",
        'FINAL(str("a"))',
        'FINAL(f"{answer}")',
        'FINAL("The answer: " + answer)',
        'FINAL(", ".join(names))',
        'FINAL(["a", answer])',
        'FINAL(answer["content"])',
        'FINAL("yes" if found else "no")',
        'FINAL(llm_query("Who?"))\nFINAL("Paris")',
        'if found:\n    FINAL("yes")',
        'def finish():\n    FINAL("yes")',
        'answer = "42"\nanswer += other\nFINAL(answer)',
        'answer = "42"\nif found:\n    answer = other\nFINAL(answer)',
        "for answer in found:\n    pass\nFINAL(answer)",
        'if found:\n    answer = "42"\nFINAL(answer)',
        'FINAL(answer)\nanswer = "42"',
        "answer = answer\nFINAL(answer)",
        "answer = []\nfor row in rows:\n    answer.append(row)\nFINAL(answer)",
        'answer = {}\nanswer["year"] = year\nFINAL(answer)',
        "answer = []\nfill(answer)\nFINAL(answer)",
        'finish("Paris")',
        'answer = "Paris"',
        'FINAL("Paris',
        "FINAL(The answer is 42)",
        "",
    ],
)
def test_an_answer_that_code_computed_is_not_literal(code: str) -> None:
    assert not final_is_literal(code)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@untimed
@given(plain_values)
def test_any_value_written_out_is_literal_on_its_own_and_by_a_variable(value: object) -> None:
    assert final_is_literal(f"FINAL({value!r})")
    assert final_is_literal(f"answer = {value!r}\nFINAL(answer)")
    assert not final_is_literal(f"answer = {value!r}\nanswer = found\nFINAL(answer)")


NOTE = "there is no IPython and no shell here, and this line did nothing"


@pytest.mark.parametrize(
    ("code", "run"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("```repl\nprint(1)", "print(1)"),
        ("```repl\na = 1\n```\nthen\n```repl\nb = 2\n```", "a = 1\n\nb = 2"),
        (call(code="print(9)"), "print(9)"),
        ("%%time\nprint(5)", "pass\nprint(5)"),
        ("for x in y:\n    %time z = f(x)", "for x in y:\n    z = f(x)"),
        ("%timeit -n 10 f()", "f()"),
        ("%matplotlib inline\nx = 1", f"print('(%matplotlib inline: {NOTE})')\nx = 1"),
        ("!pip install pandas\nx = 1", f"print('(!pip install pandas: {NOTE})')\nx = 1"),
        ("files = !ls\nx = 1", "files = None\nx = 1"),
        ("print?\nx = 1", f"print('(print?: {NOTE})')\nx = 1"),
        ("```python\n%time x = f()\n```", "x = f()"),
    ],
)
def test_a_cell_is_run_without_what_a_model_puts_around_it_and_without_magics(code: str, run: str) -> None:
    assert runnable(code) == run


@pytest.mark.parametrize(
    "code",
    [
        CODE,
        PROMPT,
        "x = await f()",
        "s = '''\n!important\n%time\n'''",
        "s = 'abc\nprint(s)",
        "pip install pandas",
        "<html>",
        "",
    ],
)
def test_python_and_what_is_nothing_that_is_known_is_run_as_it_is(code: str) -> None:
    assert runnable(code) == code


@untimed
@given(hostile_replies | st.text(alphabet="%!? =\n`~<abx()'\"#", max_size=60))
def test_making_a_cell_runnable_never_raises(code: str) -> None:
    assert isinstance(runnable(code), str)
