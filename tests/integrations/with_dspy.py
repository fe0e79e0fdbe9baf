"""By hand, where DSPy 3.4 is installed beside rlm_wasm: `python -m tests.integrations.with_dspy`.

`dspy.RLM` itself, its prompts and its parsing, with `WasmInterpreter` and a scripted model. Says what was tried, and
ends with exit code 0 if all of it went as it should.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import threading
from collections.abc import Callable
from typing import Any

import dspy  # pyright: ignore[reportMissingImports]
import pydantic
from dspy.primitives.code_interpreter import (  # pyright: ignore[reportMissingImports]
    CodeExecutionError,
    CodeInterpreter,
    CodeInterpreterError,
    FinalOutput,
)
from dspy.utils import DummyLM  # pyright: ignore[reportMissingImports]

from rlm_wasm.integrations.dspy import WasmInterpreter


class Launch(pydantic.BaseModel):
    """What a signature may be typed with."""

    name: str
    day: datetime.date


def steps(*codes: str) -> list[dict[str, str]]:
    """The replies of a model that writes this code, a cell a reply."""
    return [{"reasoning": "so", "code": f"```python\n{code}\n```"} for code in codes]


def outputs(done: Any) -> list[str]:
    """What the model was shown of its cells."""
    return [step["output"] for step in done.trajectory]


def submits_with_types() -> None:
    """Typed outputs, and an input of a model of pydantic's."""
    launches = [Launch(name="A", day=datetime.date(2026, 1, 2)), Launch(name="B", day=datetime.date(2025, 1, 2))]
    code = "print(type(launches).__name__, launches[0]['name'])", "SUBMIT(names=[l['name'] for l in launches], count=2)"
    with dspy.context(lm=DummyLM(steps(*code))):
        rlm = dspy.RLM(
            dspy.Signature({"launches": (list[Launch], dspy.InputField())}, "List them.")
            .append("names", dspy.OutputField(), list[str])
            .append("count", dspy.OutputField(), int),
            interpreter_factory=WasmInterpreter,
        )
        done = rlm(launches=launches)
    assert (done.names, done.count) == (["A", "B"], 2), done
    assert outputs(done)[0] == "list A\n", outputs(done)


def calls_tools_in_the_callers_thread() -> None:
    """Tools by place and by name, an async one, one that fails; in the thread of whoever asked."""
    threads: list[int] = []

    def double(number: int, times: int = 2) -> int:
        threads.append(threading.get_ident())
        return number * times

    async def slowly(word: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return {"word": word}

    def fails() -> str:
        raise ValueError("no such thing")

    code = (
        "print(double(2), double(number=2, times=5), slowly('x'))",
        "fails()",
        "try:\n    fails()\nexcept RuntimeError as error:\n    SUBMIT(f'{error}')",
    )
    with dspy.context(lm=DummyLM(steps(*code))):
        done = dspy.RLM("q -> answer", tools=[double, slowly, fails], interpreter_factory=WasmInterpreter)(q="?")
    assert outputs(done)[0] == "4 10 {'word': 'x'}\n", outputs(done)
    assert outputs(done)[1].startswith("[Error]"), outputs(done)
    assert "ValueError: no such thing" in done.answer, done
    assert set(threads) == {threading.get_ident()}, threads


def asks_sub_models() -> None:
    """llm_query and its batch, and their limit."""
    code = (
        "print(llm_query('a'), llm_query_batched(['b', 'c']))",
        "llm_query_batched(['x'] * 9)",
        "SUBMIT(answer=llm_query('d'))",
    )
    sub = DummyLM([{"answer": str(number)} for number in range(9)])
    with dspy.context(lm=DummyLM(steps(*code))):
        done = dspy.RLM("q -> answer", sub_lm=sub, max_llm_calls=5, interpreter_factory=WasmInterpreter)(q="?")
    assert "LLM call limit exceeded" in outputs(done)[1], outputs(done)
    assert done.answer, done


def builds_sub_agents() -> None:
    """`import dspy` in a cell, where a predictor runs on the host, and a child RLM in a sandbox of its own."""
    code = (
        "import dspy\nshort = dspy.Predict('text -> summary')\nprint(short(text='long').summary)",
        "print(dspy.RLM('text -> size: int')(text='12345').size)",
        "SUBMIT('done')",
    )
    replies = [steps(code[0])[0], {"summary": "brief"}, steps(code[1])[0], *steps("SUBMIT(len(text))", code[2])]
    with dspy.context(lm=DummyLM(replies)):
        done = dspy.RLM("q -> answer", interpreter_factory=WasmInterpreter)(q="?")
    assert outputs(done)[:2] == ["brief\n", "5\n"], outputs(done)


def survives_mistakes() -> None:
    """A syntax error, a NameError, a wrong SUBMIT: each is shown, and the run goes on."""
    code = "x = = 1", "print(nothing)", "SUBMIT(1, 2)", "SUBMIT('no number')", "SUBMIT(n=3)"
    with dspy.context(lm=DummyLM(steps(*code))):
        done = dspy.RLM("q -> n: int", interpreter_factory=WasmInterpreter)(q="?")
    assert done.n == 3, done
    for output, told in zip(outputs(done), ("SyntaxError", "NameError", "too many", "[Type Error]"), strict=False):
        assert told in output, output


def works_when_it_is_configured() -> None:
    """As the interpreter of all modules, from async code."""
    with dspy.context(lm=DummyLM(steps("SUBMIT(len(context))")), interpreter_factory=WasmInterpreter):
        done = asyncio.run(dspy.RLM("context -> size: int").acall(context="x" * 3_000_000))
    assert done.size == 3_000_000, done


def keeps_to_the_protocol() -> None:
    """The class against DSPy's own protocol and words."""
    with WasmInterpreter() as interpreter:
        assert isinstance(interpreter, CodeInterpreter)
        assert interpreter.execute("SUBMIT((1, {2}))") == FinalOutput({"output": (1, {2})})
        for code, kind in {"1/0": CodeExecutionError, "(": SyntaxError}.items():
            assert raised(lambda code=code: interpreter.execute(code)) is kind
        for variables in ({"not a name": 1}, {"x": object()}):
            assert raised(lambda given=variables: interpreter.execute("1", given)) is CodeInterpreterError
        assert interpreter.execute("print('it lives')") == "it lives\n"
    assert raised(lambda: interpreter.execute("1")) is CodeInterpreterError


def raised(run: Callable[[], object]) -> type[BaseException] | None:
    """The class of what it raises."""
    try:
        run()
    except Exception as error:
        return type(error)
    return None


TRIED = (
    submits_with_types,
    calls_tools_in_the_callers_thread,
    asks_sub_models,
    builds_sub_agents,
    survives_mistakes,
    works_when_it_is_configured,
    keeps_to_the_protocol,
)


def main() -> int:
    """Try all of it, and say what came of each."""
    failed = 0
    for tried in TRIED:
        try:
            tried()
        except Exception as error:
            failed += 1
            sys.stderr.write(f"FAILED  {tried.__name__}: {type(error).__name__}: {str(error)[:2000]}\n")
        else:
            sys.stderr.write(f"ok      {tried.__name__}: {tried.__doc__}\n")
    sys.stderr.write(f"DSPy {dspy.__version__}: {len(TRIED) - failed} of {len(TRIED)} as they should be\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
