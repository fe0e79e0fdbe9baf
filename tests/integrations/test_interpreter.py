"""The interpreter that frameworks get: what DSPy's own does by its protocol, held by structure and without DSPy."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest

from rlm_wasm.integrations.dspy import WasmInterpreter
from rlm_wasm.integrations.interpreter import CellFailed, Interpreter, InterpreterFailed, Submitted
from rlm_wasm.sandbox import SandboxOptions


@pytest.fixture
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as made:
        yield made


def test_it_has_the_doors_of_dspys_protocol_and_can_be_made_of_nothing() -> None:
    for kind in (Interpreter, WasmInterpreter):
        assert all(
            parameter.default is not parameter.empty for parameter in inspect.signature(kind).parameters.values()
        )
        assert [*inspect.signature(kind.execute).parameters] == ["self", "code", "variables"]
    made = Interpreter()
    # dspy.RLM updates the one, and sets the other where it is there
    assert made.tools == {}
    assert made.output_fields is None
    assert isinstance(WasmInterpreter.execution_instructions, str)


def test_without_dspy_its_class_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dspy", None)
    monkeypatch.setitem(sys.modules, "dspy.primitives.code_interpreter", None)
    with pytest.raises(ImportError, match=r"rlm-wasm\[dspy\]"):
        WasmInterpreter()


# --- cells ---------------------------------------------------------------------------------------------------------


def test_what_was_printed_comes_back_and_variables_stay(interpreter: Interpreter) -> None:
    assert interpreter.execute("x = 1") is None
    assert interpreter.execute("print(x + 1)\nprint('two')") == "2\ntwo\n"
    assert interpreter("x + n", {"n": 3}) == "4\n"


def test_submit_ends_the_cell_at_once(interpreter: Interpreter) -> None:
    code = "try:\n    SUBMIT(1)\nexcept Exception:\n    pass\nlater = 1"
    assert interpreter.execute(code) == Submitted({"output": 1})
    with pytest.raises(CellFailed, match="NameError"):
        interpreter.execute("later")


def test_submit_takes_the_output_fields_by_place_and_by_name(interpreter: Interpreter) -> None:
    interpreter.output_fields = [{"name": "answer", "type": "str"}, {"name": "sizes"}]
    assert interpreter.execute("SUBMIT('x', sizes={(1, 2)})") == Submitted({"answer": "x", "sizes": {(1, 2)}})
    for wrong, told in {"SUBMIT()": "missing", "SUBMIT(1, 2, 3)": "too many", "SUBMIT(1, size=2)": "sizes"}.items():
        with pytest.raises(CellFailed, match=rf"SUBMIT\(answer, sizes\).*{told}"):
            interpreter.execute(wrong)
    interpreter.output_fields = [{"name": "other"}]
    assert interpreter.execute("SUBMIT(other=None)") == Submitted({"other": None})


@pytest.mark.parametrize("code", ["x = = 1", "if True:\nx = 1", "if True:\n\tx = 1\n        y = 2", "exec('(')"])
def test_what_is_no_python_is_a_syntax_error(interpreter: Interpreter, code: str) -> None:
    with pytest.raises(SyntaxError, match=r"^Invalid Python syntax"):
        interpreter.execute(code)
    assert interpreter.execute("print(1)") == "1\n"


def test_a_mistake_says_what_it_is_and_where_with_what_was_printed_before(interpreter: Interpreter) -> None:
    with pytest.raises(CellFailed) as failure:
        interpreter.execute("kept = 1\nprint('so far')\n1 / 0")
    told = str(failure.value)
    assert told.startswith("ZeroDivisionError: division by zero\n")
    assert "line 3" in told
    assert told.endswith("It had printed:\nso far\n")
    assert interpreter.execute("print(kept)") == "1\n"


def test_a_cell_out_of_time_is_a_mistake_and_its_variables_stay() -> None:
    with Interpreter(sandbox=SandboxOptions(timeout=0.3)) as interpreter:
        with pytest.raises(CellFailed, match="ran out of time"):
            interpreter.execute("x = 1\nwhile True: pass")
        assert interpreter.execute("x") == "1\n"


# --- variables -----------------------------------------------------------------------------------------------------


class Launch(pydantic.BaseModel):
    name: str
    day: datetime.date


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a 'text' with \0 and \N{SNOWMAN}", "\"a 'text' with \\x00 and \N{SNOWMAN}\""),
        (b"\xff", "b'\\xff'"),
        (float("nan"), "nan"),
        (10**30, str(10**30)),
        ((1, {2}, None), "(1, {2}, None)"),
        (datetime.date(2026, 1, 2), "datetime.date(2026, 1, 2)"),
        (Launch(name="A", day=datetime.date(2026, 1, 2)), "{'name': 'A', 'day': '2026-01-02'}"),
        ([Launch(name="A", day=datetime.date(2026, 1, 2))], "[{'name': 'A', 'day': '2026-01-02'}]"),
    ],
)
def test_a_variable_keeps_its_type_or_becomes_what_json_has(interpreter: Interpreter, value: Any, shown: str) -> None:
    assert interpreter.execute("print(repr(value))", {"value": value}) == f"{shown}\n"


def test_a_variable_is_set_anew_before_each_cell(interpreter: Interpreter) -> None:
    for _ in range(2):
        assert interpreter.execute("print(rows); rows.append(1); del rows", {"rows": [0]}) == "[0]\n"


def test_a_name_with_two_underscores_can_be_set_and_pythons_own_stay(interpreter: Interpreter) -> None:
    assert interpreter.execute("print(__token, __name__)", {"__token": "t"}) == "t __main__\n"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"not a name": 1}, "Invalid variable name"),
        ({"class": 1}, "Invalid variable name"),
        ({"value": object()}, "Unsupported value type: object"),
        ({"value": threading.Lock()}, "Unsupported value type: lock"),
    ],
)
def test_variables_that_cannot_be_are_the_callers_error(
    interpreter: Interpreter, variables: dict[str, Any], told: str
) -> None:
    with pytest.raises(InterpreterFailed, match=told):
        interpreter.execute("ran = True", variables)
    with pytest.raises(CellFailed, match="NameError"):
        interpreter.execute("ran")


# --- tools ---------------------------------------------------------------------------------------------------------


def test_tools_take_arguments_by_place_and_by_name_and_give_values_back() -> None:
    def told(text: str, times: int = 2, **more: int) -> tuple[str, dict[str, int]]:
        return text * times, more

    def only_named(*, number: int) -> int:
        return number

    async def slowly(number: int) -> Launch:
        await asyncio.sleep(0)
        return Launch(name=str(number), day=datetime.date(2026, 1, 2))

    def by_name(number: int) -> int:
        return number + 1

    tools = {"told": told, "only_named": only_named, "slowly": slowly, "by_name": lambda **named: by_name(**named)}
    with Interpreter(tools) as interpreter:
        assert interpreter.execute("print(told('a', 3, x=1), told(text='b'))") == "('aaa', {'x': 1}) ('bb', {})\n"
        assert interpreter.execute("print(only_named(number=1), slowly(2)['name'], by_name(number=3))") == "1 2 4\n"


def test_the_signature_that_a_wrapper_shows_names_its_arguments() -> None:
    def asked(question: str, limit: int = 3) -> str:
        return f"{question} {limit}"

    def wrapper(**named: Any) -> str:
        return asked(**named)

    wrapper.__signature__ = inspect.signature(asked)  # type: ignore[attr-defined]  # as dspy.RLM makes its tools
    with Interpreter({"asked": wrapper}) as interpreter:
        assert interpreter.execute("print(asked('why', 2), asked('how'))") == "why 2 how 3\n"


def test_what_a_tool_raises_is_told_with_its_text_and_can_be_caught() -> None:
    def fails() -> None:
        raise LookupError("no such thing")

    with Interpreter({"fails": fails}) as interpreter:
        with pytest.raises(CellFailed, match=r"^RuntimeError: LookupError: no such thing"):
            interpreter.execute("fails()")
        code = "try:\n    fails()\nexcept RuntimeError as error:\n    print('caught', error)"
        assert interpreter.execute(code) == "caught LookupError: no such thing\n"
        with pytest.raises(CellFailed, match="unexpected keyword"):
            interpreter.execute("fails(x=1)")


def test_a_tool_runs_in_the_callers_thread_with_its_context_variables() -> None:
    setting = contextvars.ContextVar("setting", default="unset")

    def seen() -> list[Any]:
        return [setting.get(), threading.get_ident()]

    with Interpreter({"seen": seen}) as interpreter:
        setting.set("mine")
        assert interpreter.execute("SUBMIT(seen())") == Submitted({"output": ["mine", threading.get_ident()]})


async def in_a_loop(interpreter: Interpreter) -> Any:
    return interpreter.execute("print(slowly())")


def test_an_async_tool_works_where_an_event_loop_runs_already() -> None:
    async def slowly() -> str:
        await asyncio.sleep(0)
        return "here"

    with Interpreter({"slowly": slowly}) as interpreter:
        assert asyncio.run(in_a_loop(interpreter)) == "here\n"


def test_tools_may_come_later_and_calls_in_threads_are_answered(interpreter: Interpreter) -> None:
    assert interpreter.execute("print('begun')") == "begun\n"
    interpreter.tools["square"] = lambda number: number**2
    code = "from concurrent.futures import ThreadPoolExecutor\n"
    code += "with ThreadPoolExecutor(4) as pool:\n    print(list(pool.map(square, range(5))))"
    assert interpreter.execute(code) == "[0, 1, 4, 9, 16]\n"
    interpreter.tools["square"] = lambda number: "another"
    assert interpreter.execute("print(square(1))") == "another\n"
    del interpreter.tools["square"]
    with pytest.raises(CellFailed, match="no tool 'square'"):
        interpreter.execute("square(1)")


def test_a_tool_cannot_run_a_cell_of_its_own_interpreter() -> None:
    def again() -> Any:
        return interpreter.execute("1")

    interpreter = Interpreter({"again": again})
    with interpreter, pytest.raises(CellFailed, match="InterpreterFailed: a cell runs already"):
        interpreter.execute("again()")


# --- from start to end ---------------------------------------------------------------------------------------------


def test_it_starts_once_and_after_its_end_never_again(children: Callable[[], set[int]]) -> None:
    before = children()
    interpreter = Interpreter()
    assert children() == before
    interpreter.start()
    interpreter.start()
    assert len(children() - before) == 1
    interpreter.shutdown()
    interpreter.shutdown()
    assert children() == before
    for use in (interpreter.start, lambda: interpreter.execute("1")):
        with pytest.raises(InterpreterFailed, match="has ended"):
            use()


def test_a_lost_sandbox_ends_it_and_no_fresh_one_stands_in_for_it(interpreter: Interpreter) -> None:
    with pytest.raises(InterpreterFailed, match="sandbox was lost"):
        interpreter.execute("import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()")
    with pytest.raises(InterpreterFailed, match="has ended"):
        interpreter.execute("1")


def test_no_deno_is_an_error_that_says_so() -> None:
    with pytest.raises(InterpreterFailed, match="/nowhere/deno"):
        Interpreter(sandbox=SandboxOptions(deno="/nowhere/deno")).execute("1")


def test_functions_among_the_options_are_refused() -> None:
    with pytest.raises(ValueError, match="give the functions as tools"):
        Interpreter(sandbox=SandboxOptions(functions={"f": len}))


def test_ctrl_c_in_a_tool_stops_the_cell_and_the_next_one_runs() -> None:
    def stop() -> None:
        signal.raise_signal(signal.SIGINT)

    with Interpreter({"stop": stop}) as interpreter:
        with pytest.raises(KeyboardInterrupt):
            interpreter.execute("try:\n    stop()\nfinally:\n    x = 1")
        assert interpreter.execute("print('next')") == "next\n"


def test_one_that_is_forgotten_ends_with_the_last_that_knew_of_it(children: Callable[[], set[int]]) -> None:
    before = children()
    interpreter = Interpreter()
    interpreter.execute("1")
    assert children() != before
    del interpreter
    deadline = time.monotonic() + 30
    while children() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert children() == before


def test_a_program_that_forgets_to_shut_it_down_ends_all_the_same() -> None:
    program = (
        "from rlm_wasm.integrations.interpreter import Interpreter\nkept = Interpreter()\nprint(kept.execute('1 + 1'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("2\n\n", "")
