"""What a host adds to the REPL, what cells may not take away from it, and what of their output stays readable."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from rlm_wasm.errors import SandboxCrashed
from rlm_wasm.sandbox import Executed, Sandbox
from tests.processes import pid_of

pytestmark = pytest.mark.anyio

WITHIN = 60
DOUBLER = """
import rlm_host
__all__ = ["double"]
def double(x):
    return 2 * rlm_host.ask(x)
rlm_host.namespace()["Final"] = None
rlm_host.protect("context")
@rlm_host.after_cell
def finish():
    if rlm_host.namespace().get("Final") is not None:
        rlm_host.FINAL(rlm_host.namespace()["Final"])
"""


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


async def test_equipment_gives_names_that_call_the_host_and_looks_at_variables_after_each_cell() -> None:
    async with Sandbox(functions={"ask": lambda x: x}) as sandbox:
        await sandbox.load(context="a text")
        await sandbox.equip([("doubler", DOUBLER)])
        assert (await run(sandbox, "double(4), context, Final")).value == (8, "a text", None)
        # a host function of which another was put in place keeps its own name for equipment
        assert (await run(sandbox, "Final = {'fruit': (1, 2)}")).final == {"fruit": (1, 2)}
        failed = await run(sandbox, "Final = 'first'\nraise ValueError('then')")
        assert (failed.final, failed.error is None) == ("first", False)
        unfit = await run(sandbox, "Final = object()")
        assert unfit.error is not None
        assert unfit.error.startswith("TypeError: a object cannot be sent")
        assert not unfit.has_final


async def test_equipment_is_there_again_in_a_fresh_child() -> None:
    async with Sandbox(functions={"ask": lambda x: x}) as sandbox:
        await sandbox.load(context="a text")
        await sandbox.equip([("doubler", DOUBLER)])
        os.kill(pid_of(sandbox), signal.SIGKILL)
        with anyio.fail_after(WITHIN):
            try:
                done = await sandbox.execute("double(1)")
            except SandboxCrashed:
                # its end had not been noticed yet
                done = await sandbox.execute("double(1)")
        assert done.value == 2


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("x = 1", "AttributeError.*__all__"),
        ("__all__ = ['missing']", "AttributeError.*missing"),
    ],
)
async def test_equipment_that_fails_says_how(source: str, why: str) -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(ValueError, match=why):
            await sandbox.equip([("broken", source)])
        assert (await run(sandbox, "1")).value == 1


async def test_names_that_a_cell_overwrites_are_put_back_and_what_they_had_been_given_is_kept() -> None:
    async with Sandbox(functions={"ask": lambda x: x}) as sandbox:
        await sandbox.load(context="a text", other=1)
        await sandbox.equip([("doubler", DOUBLER)])
        taken = "context = context[:1]; ask = 'asked'; print = 7; FINAL = 2; del double; other = 3; len = []; id = 5"
        done = await run(sandbox, taken)
        assert set(done.restored) == {"context", "ask", "print", "FINAL", "double", "len"}
        kept = await run(sandbox, "print(my_context, my_ask, my_print, my_FINAL, my_len, other, id)")
        assert kept.stdout == "a asked 7 2 [] 3 5\n"
        assert (await run(sandbox, "context, ask(1), double(1), len('abc')")).value == ("a text", 1, 2, 3)
        # what can still be called was meant
        assert (await run(sandbox, "def len(x): return 42\nprint = lambda *a: None")).restored == ("print",)
        assert (await run(sandbox, "len('abc')")).value == 42
        assert (await run(sandbox, "import builtins\nbuiltins.print = None")).restored == ("print",)
        assert (await run(sandbox, "print('again')")).stdout == "again\n"


async def test_the_whole_of_an_output_that_was_cut_stays_readable() -> None:
    async with Sandbox(output_chars=100) as sandbox:
        assert (await run(sandbox, "print('short')")).kept is None
        long = await run(sandbox, "for number in range(100): print(number)")
        assert long.kept == 1
        assert long.truncated > 0
        text = "".join(f"{number}\n" for number in range(100))
        assert (await run(sandbox, "outputs[1], outputs[0]")).value == (text, "short\n")
        # a variable of that name is the cell's own
        await run(sandbox, "outputs = [5]\nprint(1)")
        assert (await run(sandbox, "outputs")).value == [5]


@pytest.mark.parametrize(
    ("keep", "shown"),
    [("head", "0123456789[16 of 26 beyond 10]"), ("tail", "[16 of 26 beyond 10]qrstuvwxyz")],
)
async def test_output_is_cut_and_marked_as_the_host_chooses(keep: str, shown: str) -> None:
    mark = "[{count} of 26 beyond {limit}]"
    async with Sandbox(output_chars=10, output_keep=keep, output_mark=mark, echo=False) as sandbox:
        code = "import sys\nsys.stdout.write('0123456789abcdefqrstuvwxyz');\n5"
        done = await run(sandbox, code)
        assert (done.output, done.value, done.truncated) == (shown, 5, 16)


def test_what_makes_no_sense_of_an_output_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="output_keep must be 'both', 'head' or 'tail'"):
        Sandbox(output_keep="middle")
    with pytest.raises(ValueError, match="format of count, limit and words"):
        Sandbox(output_mark="{other}")
    with pytest.raises(ValueError, match="output_mark has 300 characters"):
        Sandbox(output_mark="x" * 300)


async def test_the_oldest_outputs_go_when_they_are_too_much_together() -> None:
    async with Sandbox() as sandbox:
        await run(sandbox, "import rlm_prelude\nrlm_prelude.OUTPUTS_CHARS = 100")
        for letter in "abc":
            await run(sandbox, f"print('{letter}' * 40)")
        kept = ["(too old to be kept)", "(too old to be kept)", "b" * 40 + "\n", "c" * 40 + "\n"]
        assert (await run(sandbox, "outputs[:4]")).value == kept
