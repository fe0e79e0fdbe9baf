"""What a cell does and what is seen of it, in the real Deno and the real Pyodide."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.sandbox import Executed, Sandbox, memory, variables
from rlm_wasm.sandbox.memory import available_memory
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

WITHIN = 60


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


async def error_of(sandbox: Sandbox, code: str) -> str:
    error = (await run(sandbox, code)).error
    assert error is not None
    return error


# --- state and echo ------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_variables_functions_and_imports_live_from_cell_to_cell() -> None:
    async with Sandbox() as sandbox:
        first = await run(sandbox, "import math\nroot = math.sqrt(2)\ndef double(x): return 2 * x")
        second = await run(sandbox, "print(double(root) == 2 * math.sqrt(2))")
        assert await sandbox.get("root") == 2**0.5
    assert (first.stdout, first.error, first.value) == ("", None, None)
    assert second.stdout == "True\n"
    assert set(second.names) == {"root", "double"}
    assert not second.timed_out
    assert second.seconds >= 0


@pytest.mark.parametrize(
    ("code", "echoed", "value"),
    [
        ("'a' + 'b'", "'ab'\n", "ab"),
        ("x = 3\nx", "3\n", 3),
        ("print('before'); (1, [2])", "before\n(1, [2])\n", (1, [2])),
        ("1; 2", "2\n", 2),
        ("7;", "", 7),
        ("7  ;  \n\n", "", 7),
        ("None", "", None),
        ("x = 5", "", None),
        ("", "", None),
        ("# only a comment", "", None),
        ("for i in range(2): i", "", None),
        ("object", "<class 'object'>\n", None),
    ],
)
async def test_a_bare_last_expression_is_echoed_after_the_prints(
    shared: Sandbox, code: str, echoed: str, value: object
) -> None:
    done = await run(shared, code)
    assert (done.error, done.stdout, done.value) == (None, echoed, value)


async def test_the_last_echoed_value_is_kept_as_an_underscore(shared: Sandbox) -> None:
    await run(shared, "6 * 7")
    assert (await run(shared, "_ + 1")).value == 43


async def test_a_value_too_large_to_send_is_echoed_but_not_sent(shared: Sandbox) -> None:
    done = await run(shared, "'x' * 200_000")
    assert done.value is None
    assert done.stdout.startswith("'xxx")
    assert done.error is None


async def test_each_cell_finds_its_own_output_again_after_the_streams_were_replaced_or_closed(shared: Sandbox) -> None:
    await run(shared, "import sys, io\nsys.stdout = io.StringIO()\nprint('nowhere')")
    await run(shared, "sys.stdout.close(); sys.stderr.close()")
    assert (await run(shared, "print('somewhere')")).stdout == "somewhere\n"


# --- output --------------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_stdout_and_stderr_keep_their_order_and_are_heard_as_they_come() -> None:
    heard: list[tuple[str, str]] = []
    async with Sandbox() as sandbox:
        sandbox.on_print = lambda stream, text: heard.append((stream, text))
        code = "import sys\nprint('one', end=' ')\nprint('two', file=sys.stderr)\nprint('three')\n"
        code += "sys.stderr.write('4\\n');"
        done = await run(sandbox, code)
    assert done.output == "one two\nthree\n4\n"
    assert done.stdout == "one three\n"
    assert done.stderr == "two\n4\n"
    assert heard == [("stdout", "one "), ("stderr", "two\n"), ("stdout", "three\n"), ("stderr", "4\n")]


async def test_what_is_printed_past_the_head_keeps_its_order_and_every_character(shared: Sandbox) -> None:
    code = """import sys
for number in range(3000):
    print("out", number)
    if number % 1000 == 999:
        print("err", number, file=sys.stderr)
sys.stdout.write("last \\ud800\\r\\n");
"""
    done = await shared.execute(code)
    told = [f"out {number}\n" + f"err {number}\n" * (number % 1000 == 999) for number in range(3000)]
    whole = "".join(told) + "last \ufffd\r\n"
    mark = f"\n[... {len(whole) - 10_000:,} characters left out ...]\n"
    assert done.output == whole[:5000] + mark + whole[-5000:]
    assert done.truncated == len(whole) - 10_000
    assert (await shared.execute("len(outputs[-1])")).value == len(whole)
    assert (await shared.execute("print('next')")).stdout == "next\n"


async def test_what_was_printed_before_an_interrupt_is_kept_past_the_head_too(shared: Sandbox) -> None:
    done = await shared.execute("print('x' * 20_000)\nprint('the last')\nwhile True: pass", timeout=0.5)
    assert done.timed_out
    assert done.stdout.endswith("xx\nthe last\n")


async def test_a_write_of_what_is_no_text_past_the_head_is_the_usual_error(shared: Sandbox) -> None:
    done = await shared.execute("import sys\nprint('x' * 20_000)\nsys.stdout.write(3)")
    assert "TypeError: write() argument must be str, not int" in (done.error or "")


async def test_long_output_is_cut_inside_with_head_and_tail_kept_and_the_rest_counted(shared: Sandbox) -> None:
    done = await run(shared, "print('a' * 6_000 + 'b' * 5_000 + 'c' * 6_000)")
    assert done.truncated == 17_001 - 10_000
    assert done.stdout == "a" * 5_000 + "\n[... 7,001 characters left out ...]\n" + "c" * 4_999 + "\n"


async def test_output_is_cut_by_characters_and_by_words_as_the_options_say() -> None:
    async with Sandbox(output_chars=1_000, max_output_words=10) as sandbox:
        words = await run(sandbox, "print(*range(100))")
        chars = await run(sandbox, "print('x' * 2_000)")
        few = await run(sandbox, "print(*range(30), sep='')")
    assert words.stdout == (
        f"0 1 2 3 4\n[... {words.truncated:,} characters left out; at most 10 of 100 words are shown ...]\n"
        "95 96 97 98 99\n"
    )
    assert words.truncated == len(" ".join(map(str, range(5, 95)))) + 2
    assert chars.truncated == 1_001
    assert few.stdout == "".join(map(str, range(30))) + "\n"


async def test_output_with_lone_surrogates_and_nul_arrives_as_text(shared: Sandbox) -> None:
    done = await run(shared, "print('a\\ud800b\\x00c \\U0001f600')")
    assert done.stdout == "a\ufffdb\x00c \U0001f600\n"


WRITES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab \n", max_size=12)), max_size=30)


@given(
    writes=WRITES,
    max_chars=st.integers(1, 60),
    keep=st.sampled_from(["both", "head", "tail"]),
    room=st.sampled_from([0, 200, 8_000_000]),
)
def test_what_is_kept_and_what_is_counted_make_up_all_that_was_written(
    prisoner_module: Callable[[str], ModuleType], writes: list[tuple[str, str]], max_chars: int, keep: str, room: int
) -> None:
    sent: list[tuple[str, str]] = []
    module = prisoner_module("output")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_WHOLE", room)
        patch.setattr(module, "PIECE", 1)
        output = module.Output(max_chars, None, lambda *piece: sent.append(piece), keep)
        for stream, text in writes:
            output.write(stream, text)
    whole = "".join(text for _, text in writes)
    pieces, left_out = output.pieces()
    text = "".join(text for _, text in pieces)
    assert left_out == max(0, len(whole) - max_chars)
    if left_out:
        shown = {"both": max_chars - max_chars // 2, "head": max_chars, "tail": 0}[keep]
        head, tail = whole[:shown], whole[len(whole) - (max_chars - shown) :]
        assert text == f"{head}\n[... {left_out:,} characters left out ...]\n{tail}"
    else:
        assert text == whole
        for stream in ("stdout", "stderr"):
            written = "".join(text for name, text in writes if name == stream)
            assert "".join(text for name, text in pieces if name == stream) == written
    assert all(first[0] != second[0] for first, second in pairwise(pieces))
    assert output.pieces() == (pieces, left_out)
    heard = "".join(text for _, text in sent)
    assert whole[:max_chars].startswith(heard)
    if room == 8_000_000:
        assert output.whole() == whole


@given(writes=WRITES, max_words=st.integers(1, 10), max_chars=st.integers(1, 100))
def test_no_more_words_are_shown_than_the_cap_says_and_none_twice(
    prisoner_module: Callable[[str], ModuleType], writes: list[tuple[str, str]], max_words: int, max_chars: int
) -> None:
    output = prisoner_module("output").Output(max_chars, max_words, lambda *_: None)
    for stream, text in writes:
        output.write(stream, text)
    whole = "".join(text for _, text in writes)
    pieces, left_out = output.pieces()
    text = "".join(text for _, text in pieces)
    head, marker, tail = text.partition(f"\n[... {left_out:,} characters left out")
    if not marker:
        assert (text, left_out) == (whole, 0)
        return
    note, _, tail = tail.partition("...]\n")
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert left_out == len(whole) - len(head) - len(tail)
    assert len(head) + len(tail) <= max_chars
    if note.strip():
        assert len(head.split()) + len(tail.split()) <= max_words


# --- await ---------------------------------------------------------------------------------------------------------


async def test_await_works_at_the_top_level_and_on_plain_calls(shared: Sandbox) -> None:
    assert (await run(shared, "import asyncio\nawait asyncio.sleep(0, 'slept')")).value == "slept"
    assert (await run(shared, "plain = lambda: 7\nawait plain()")).value == 7
    assert (await run(shared, "async def later(x):\n    return await plain() + x\nawait later(1)")).value == 8
    assert (await run(shared, "[await later(i) for i in range(3)]")).value == [7, 8, 9]
    assert (await run(shared, "await asyncio.gather(*[later(i) for i in range(3)])")).value == [7, 8, 9]
    assert (await run(shared, "asyncio.run(later(2))")).value == 9
    error = await error_of(shared, "async def fails():\n    raise KeyError('k')\nawait fails()")
    assert error.endswith("line 2, in fails\n    raise KeyError('k')\nKeyError: 'k'")


async def test_nothing_that_a_cell_left_running_prints_into_a_later_cell(shared: Sandbox) -> None:
    code = "import asyncio\nasync def late():\n    await asyncio.sleep(0)\n    print('late')\n"
    code += "task = asyncio.ensure_future(late());"
    assert (await run(shared, code)).output == ""
    assert (await run(shared, "await asyncio.sleep(0.05)\nprint('mine', task.cancelled())")).output == "mine True\n"


# --- exceptions ----------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_after_an_exception_the_prints_the_traceback_and_the_variables_are_all_there() -> None:
    async with Sandbox() as sandbox:
        code = "print('before')\nkept = 1\ndef divide(a):\n    return a / 0\nkept = 2\ndivide(kept)\nkept = 3"
        done = await run(sandbox, code)
        assert await sandbox.get("kept") == 2
    assert done.stdout == "before\n"
    assert done.value is None
    assert done.error == (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 6, in <module>\n'
        "    divide(kept)\n"
        "    ~~~~~~^^^^^^\n"
        '  File "<cell 1>", line 4, in divide\n'
        "    return a / 0\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero"
    )


async def test_a_traceback_shows_the_source_lines_of_the_earlier_cells_that_it_goes_through(shared: Sandbox) -> None:
    await run(shared, "def first(f):\n    return f()")
    await run(shared, "class Thing:\n    def go(self):\n        return first(lambda: [][1])")
    error = await error_of(shared, "\nThing().go()")
    lines = error.splitlines()
    assert "    Thing().go()" in lines
    assert "        return first(lambda: [][1])" in error.replace("    return first", "        return first")
    assert "    return f()" in lines
    assert error.endswith("IndexError: list index out of range")
    cells = [line.split('"')[1] for line in lines if line.lstrip().startswith("File ")]
    assert len(set(cells)) == 3
    assert all(cell.startswith("<cell ") for cell in cells)


async def test_chained_exceptions_and_groups_are_all_shown_with_their_own_lines_only(shared: Sandbox) -> None:
    error = await error_of(
        shared,
        "import json\ntry:\n    json.loads('{')\nexcept ValueError as e:\n    raise RuntimeError('no JSON') from e",
    )
    assert "JSONDecodeError: Expecting" in error
    assert "direct cause" in error
    assert error.endswith("RuntimeError: no JSON")
    assert "decoder.py" not in error
    error = await error_of(shared, "try:\n    1 / 0\nexcept ZeroDivisionError:\n    undefined_name")
    assert "During handling" in error
    assert error.endswith("NameError: name 'undefined_name' is not defined")
    error = await error_of(shared, "raise ExceptionGroup('several', [ValueError('a'), KeyError('b')])")
    assert "several (2 sub-exceptions)" in error
    assert "ValueError: a" in error
    assert "KeyError: 'b'" in error


@pytest.mark.parametrize(
    ("code", "line", "name"),
    [
        ("x = 1\ndef (", 2, "SyntaxError"),
        ("if True:\nprint(1)", 2, "IndentationError"),
        ("print('unclosed", 1, "SyntaxError"),
        ("return 5", 1, "SyntaxError"),
    ],
)
async def test_a_syntax_error_shows_the_line_and_runs_nothing(shared: Sandbox, code: str, line: int, name: str) -> None:
    done = await run(shared, "print('never')\n" + code)
    assert done.stdout == ""
    assert done.error is not None
    assert f"line {line + 1}" in done.error
    assert name in done.error.splitlines()[-1]
    assert "prelude" not in done.error


async def test_code_that_is_not_even_text_is_an_error_in_the_cell(shared: Sandbox) -> None:
    assert "null bytes" in await error_of(shared, "print(1)\x00")
    assert (await run(shared, "print('\ud800')")).stdout == "\ufffd\n"
    assert "too complex to parse" in await error_of(shared, "-" * 50_000 + "1")
    assert (await run(shared, "+".join("1" * 700))).value == 700


async def test_a_huge_exception_message_is_cut_and_the_number_left_out_is_exact(shared: Sandbox) -> None:
    error = await error_of(shared, "raise ValueError('x' * 100_000)")
    head, _, rest = error.partition("\n[... ")
    left_out, _, tail = rest.partition(" characters left out ...]\n")
    whole = 'Traceback (most recent call last):\n  File "<cell 1>", line 1, in <module>\n'
    whole += "    raise ValueError('x' * 100_000)\nValueError: " + "x" * 100_000
    number = error.partition("<cell ")[2].partition(">")[0]
    assert len(head) + int(left_out.replace(",", "")) + len(tail) == len(whole) + len(number) - 1
    assert error.startswith("Traceback")
    assert len(error) < 9_000


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E: <exception str() failed>"),
        ("class R:\n    def __repr__(self): raise MemoryError('fake')\nR()", "MemoryError: fake"),
        ("class R:\n    def __repr__(self): return 5\nR()", "TypeError: __repr__ returned non-string"),
        ("class R:\n    def __repr__(self): raise KeyboardInterrupt\nprint(R())", "KeyboardInterrupt"),
        ("class M(type):\n    def __getattribute__(s, n): 1/0\nclass E(Exception, metaclass=M): pass\nraise E", "E"),
        ("e = ValueError(); e.__cause__ = e; raise e", "ValueError"),
        ("raise ValueError(chr(0xd800))", "ValueError: \ufffd"),
        ("e = ValueError('n'); e.add_note('a note'); raise e", "ValueError: n\na note"),
    ],
)
async def test_an_exception_that_will_not_be_shown_still_ends_in_an_error(
    shared: Sandbox, code: str, said: str
) -> None:
    assert said in await error_of(shared, code)
    assert (await run(shared, "1 + 1")).value == 2


async def test_running_out_of_recursion_is_an_ordinary_error(shared: Sandbox) -> None:
    error = await error_of(shared, "def deep(n): return deep(n + 1)\ndeep(0)")
    assert error.endswith("RecursionError: maximum recursion depth exceeded")
    assert len(error) < 2_000


async def test_running_out_of_memory_is_an_ordinary_error() -> None:
    async with Sandbox(memory_mb=64) as sandbox:
        await run(sandbox, "kept = 1")
        assert "MemoryError" in await error_of(sandbox, "hoard = [bytes(50_000_000) for _ in range(10)]")
        assert (await run(sandbox, "kept")).value == 1


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit('bye')",
        "import sys; sys.exit(3)",
        "quit()",
        "exit(1)",
        "import os; os._exit(3)",
        "import os; os.abort()",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
        "raise BaseException('base')",
    ],
)
async def test_what_ends_a_program_ends_the_cell_only(shared: Sandbox, code: str) -> None:
    await run(shared, "alive = 'yes'")
    done = await run(shared, f"print('before')\n{code}\nprint('after')")
    assert done.stdout == "before\n"
    assert done.error is not None
    if "Exit" in done.error.splitlines()[-2] and "Generator" not in done.error:
        assert done.error.endswith("(the cell ended here; the sandbox and its variables live on)")
    assert not done.timed_out
    again = await run(shared, "alive")
    assert (again.value, again.lost) == ("yes", ())


async def test_nobody_answers_input(shared: Sandbox) -> None:
    assert "EOFError: there is nobody to answer input() here" in await error_of(shared, "name = input('your name? ')")
    assert "EOFError" in await error_of(shared, "import sys\nraise EOFError if sys.stdin.read() == '' else 1")


# --- FINAL and SHOW_VARS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("'text'", "text"),
        ("None", None),
        ("True", True),
        ("2**200", 2**200),
        ("-0.5", -0.5),
        ("(1, 'two', [3.0])", (1, "two", [3.0])),
        ("{1: 'a', (2, 3): {'b'}}", {1: "a", (2, 3): {"b"}}),
        ("b'\\x00\\xff'", b"\x00\xff"),
        ("range(3)", [0, 1, 2]),
        ("frozenset({1})", frozenset({1})),
        ("type('Text', (str,), {})('subclass')", "subclass"),
    ],
)
async def test_final_keeps_the_type_of_its_value(shared: Sandbox, code: str, value: object) -> None:
    done = await run(shared, f"FINAL({code})")
    assert done.has_final
    assert done.final == value
    assert type(done.final) is type(value)


async def test_the_first_final_of_a_cell_wins_and_the_cell_goes_on(shared: Sandbox) -> None:
    done = await run(shared, "FINAL('first')\nprint('on')\nFINAL('second')\n1 / 0")
    assert (done.final, done.stdout) == ("first", "on\n")
    assert done.error is not None
    after = await run(shared, "1")
    assert (after.final, after.has_final) == (None, False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("object()", "TypeError: a object cannot be sent"),
        ("lambda: 1", "TypeError: a function cannot be sent"),
        ("[1, [open]]", "TypeError: a builtin_function_or_method cannot be sent"),
        ("cycle", "ValueError: the value is nested more than 100 deep"),
        ("'\u20ac' * 12_000_000", "ValueError: the value takes 36,000,002 bytes as JSON"),
        ("hostile", "ZeroDivisionError"),
    ],
)
async def test_what_cannot_be_sent_as_final_is_an_error_in_the_cell(shared: Sandbox, value: str, said: str) -> None:
    await run(shared, "cycle = []; cycle.append(cycle)")
    await run(shared, "class D(dict):\n    def __iter__(self): 1/0\n    def keys(self): 1/0\nhostile = D(a=1)")
    done = await run(shared, f"FINAL({value})")
    assert done.error is not None
    assert said in done.error
    assert not done.has_final


async def test_show_vars_lists_what_the_cells_made_and_nothing_else() -> None:
    async with Sandbox(functions={"lookup": str}) as sandbox:
        assert (await run(sandbox, "SHOW_VARS()")).stdout == "(no variables yet)\n"
        await sandbox.load(context="x" * 1234, table={"a": 1})
        await run(sandbox, "import re\nfrom math import pi\ndef f(): pass\n_hidden = 1\nn = 5\nrows = [1, 2]")
        listed = await run(sandbox, "SHOW_VARS()")
    assert listed.stdout.splitlines() == [
        "context: str of 1,234 characters",
        "table: dict of 1 items",
        "pi: float",
        "f: function",
        "n: int",
        "rows: list of 2 items",
    ]
    assert listed.names == ("context", "table", "pi", "f", "n", "rows")


# --- loading and reading -------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_variables_are_loaded_whole_and_read_back_with_their_types() -> None:
    text = "é\U0001f600\x00\r\n" * 50_000
    async with Sandbox() as sandbox:
        with anyio.fail_after(WITHIN):
            await sandbox.load(text=text, raw=bytes(range(256)), table={1: ("a", {2.5})}, nothing=None, empty="")
            assert (await sandbox.execute("len(text), raw[255], table, nothing, empty")).value == (
                len(text),
                255,
                {1: ("a", {2.5})},
                None,
                "",
            )
            assert await sandbox.get("text") == text
            assert await sandbox.get("raw") == bytes(range(256))
            with pytest.raises(KeyError, match="'absent' is not defined"):
                await sandbox.get("absent")
            with pytest.raises(KeyError):
                await sandbox.get("__builtins__")
            await sandbox.execute("unsendable = open")
            with pytest.raises(TypeError, match="cannot be sent"):
                await sandbox.get("unsendable")


async def test_what_cannot_be_loaded_is_refused_with_a_reason_and_costs_nothing() -> None:
    async with Sandbox(memory_mb=1) as sandbox:
        with pytest.raises(ValueError, match=r"context needs about 2 MB in the sandbox, and memory_mb=1: raise it"):
            await sandbox.load(context="x" * 2_000_000)
        with pytest.raises(TypeError, match="object cannot be sent"):
            await sandbox.load(thing=object())
        with pytest.raises(ValueError, match="is not a name for a variable"):
            await sandbox.load(**{"not a name": 1})
        with pytest.raises(ValueError, match="is not a name for a variable"):
            await sandbox.load(__builtins__=1)
        await sandbox.load(fits="x" * 1000)
        assert (await run(sandbox, "len(fits)")).value == 1000


async def test_after_a_cell_that_took_all_memory_the_next_can_free_it() -> None:
    async with Sandbox(memory_mb=64) as sandbox:
        code = "import itertools\nheld = {}\nfor number in itertools.count():\n    held[number] = str(number) * 100"
        assert "MemoryError" in ((await run(sandbox, code)).error or "")
        after = await run(sandbox, "print('still here'); 40 + 2")
        assert (after.value, after.stdout, after.error) == (42, "still here\n42\n", None)
        assert (await run(sandbox, "del held\nlen(bytearray(30_000_000))")).value == 30_000_000


async def test_a_large_context_gets_a_larger_sandbox_unless_something_would_be_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "DEFAULT_MEMORY_MB", 64)
    monkeypatch.setattr(memory, "_WORKING_MB", 32)
    text = "x" * 40_000_000
    async with Sandbox() as sandbox:
        await sandbox.load(small="x" * 10_000_000)
        first = pid_of(sandbox)
        await sandbox.load(context=text, other=text)
        assert pid_of(sandbox) != first
        done = await run(sandbox, "made = context + other; len(small), len(made)")
        assert (done.value, done.lost) == ((10_000_000, 80_000_000), ())
        with pytest.raises(
            ValueError, match=r"would lose what cells have made \(made\): load it first, or choose memory"
        ):
            await sandbox.load(third=text)
        assert (await run(sandbox, "len(made)")).value == 80_000_000
    async with Sandbox() as sandbox:
        monkeypatch.setattr(memory, "available_memory", lambda: 50 * 1024 * 1024)
        with pytest.raises(
            ValueError, match="context needs about 39 MB in the sandbox, and the machine has 50 MB left"
        ):
            await sandbox.load(context=text)
        monkeypatch.setattr(memory, "MAX_MEMORY_MB", 64)
        with pytest.raises(ValueError, match="no sandbox holds more than 64 MB"):
            await sandbox.load(context=text)
        assert (await run(sandbox, "1")).value == 1


def test_one_object_larger_than_an_interpreter_of_32_bits_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables.prepare("context", "x" * 100).size == 100
    monkeypatch.setattr(variables, "MAX_SIZE", 99)
    with pytest.raises(ValueError, match="where one object can have 99"):
        variables.prepare("context", "x" * 100)


def test_the_memory_that_a_machine_has_left_is_told_where_linux_tells_it() -> None:
    if sys.platform == "linux":
        available = available_memory()
        assert available is not None
        assert 0 <= available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        assert available_memory() is None


async def test_what_c_exports_is_found_by_its_name_and_python_can_be_called_from_c(shared: Sandbox) -> None:
    code = """
import ctypes
api = ctypes.pythonapi
api.PyLong_FromLong.restype = ctypes.py_object
made = api.PyLong_FromLong(7)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 5)(3, 1, 5, 2, 4)
ctypes.CDLL(None).qsort(numbers, 5, 4, compare(lambda a, b: a[0] - b[0]))
found = hasattr(api, "PyList_Append"), hasattr(api, "no_such_function")
[made, list(numbers), found]
"""
    assert (await run(shared, code)).value == [7, [1, 2, 3, 4, 5], (True, False)]


async def test_a_timeout_that_is_no_time_is_the_callers_mistake(shared: Sandbox) -> None:
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout must be"):
            await shared.execute("1", timeout=timeout)


async def test_a_sandbox_that_is_not_open_says_so() -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox closed>"
    with pytest.raises(RuntimeError, match="not open"):
        await sandbox.execute("1")
    async with sandbox:
        assert sandbox.alive
        assert repr(sandbox) == "<Sandbox idle, 0 variables>"
        with pytest.raises(RuntimeError, match="open already"):
            await sandbox.__aenter__()
        assert (await run(sandbox, "1")).value == 1
    assert not sandbox.alive
    assert repr(sandbox) == "<Sandbox closed>"
    with pytest.raises(RuntimeError, match="not open"):
        await sandbox.execute("1")


@pytest.mark.parametrize(
    "chosen",
    [
        {"memory_mb": 0},
        {"memory_mb": 5000},
        {"output_chars": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_concurrency": 0},
        {"max_output_words": 0},
        {"functions": {"not a name": print}},
        {"functions": {"naïve": print}},
    ],
)
def test_options_that_make_no_sense_are_refused(chosen: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each names its own field
        Sandbox(**chosen)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError):
        Sandbox(memory=64)
