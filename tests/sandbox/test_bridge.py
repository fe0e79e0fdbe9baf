"""Host functions: called from cells as plain functions, answered by the host, at once and in order."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import json
import math
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import pytest

from rlm_wasm.errors import FunctionError, LimitExceeded, ProtocolError, SandboxCrashed
from rlm_wasm.sandbox import Executed, Sandbox, wire
from rlm_wasm.sandbox import session as session_module

pytestmark = pytest.mark.anyio

WITHIN = 60
SECRET = "sk-do-not-tell"


async def run(sandbox: Sandbox, code: str) -> Executed:
    with anyio.fail_after(WITHIN):
        return await sandbox.execute(code)


class Functions:
    """Host functions of every kind, and what reached them."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        self.heard.append((args, kwargs))
        return args[0] if args else kwargs

    async def later(self, value: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return ("later", value)

    def made(self, value: Any) -> Any:
        """Not declared async, and yet gives something to await."""
        return self.later(value)

    def refuse(self, text: str) -> None:
        raise FunctionError(text)

    def refuse_partly(self, partial: str) -> None:
        raise FunctionError("half of it", partial={"some": (1, 2), "none": object(), "nothing": None}[partial])

    def limit(self) -> None:
        raise LimitExceeded("usd", 0.5, 0.25, partial=["one reply", None])

    def leak(self) -> None:
        raise ConnectionRefusedError(f"could not reach /home/me with key {SECRET}")

    async def leak_later(self) -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error

    def strange(self) -> object:
        return object()

    def cycle(self) -> object:
        items: list[object] = []
        items.append(items)
        return items

    def all(self) -> dict[str, Callable[..., Any]]:
        names = "echo later made refuse refuse_partly limit leak leak_later strange cycle"
        return {name: getattr(self, name) for name in names.split()}


@pytest.fixture(scope="module")
def functions() -> Functions:
    return Functions()


@pytest.fixture(scope="module")
async def shared(functions: Functions) -> AsyncIterator[Sandbox]:
    async with Sandbox(functions=functions.all()) as sandbox:
        yield sandbox


# --- calling -------------------------------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_functions_of_every_colour_are_plain_calls_in_a_cell() -> None:
    functions = Functions()
    async with Sandbox(functions={**functions.all(), "partial": partial(functions.later, "given")}) as sandbox:
        assert (await run(sandbox, "echo(1), later(2), made(3), partial()")).value == (
            1,
            ("later", 2),
            ("later", 3),
            ("later", "given"),
        )
        assert (await run(sandbox, "await later(4)")).value == ("later", 4)
        assert (await run(sandbox, "sorted([3, 1, 2], key=lambda n: -echo(n))")).value == [3, 2, 1]
        assert (await run(sandbox, "echo('a', 'b', key=[1], other=None)")).value == "a"
        assert functions.heard[-1] == (("a", "b"), {"key": [1], "other": None})
        assert (await run(sandbox, "echo.__name__, callable(echo), echo is echo")).value == ("echo", True, True)


@pytest.mark.both_backends
@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_than_max_concurrency_run_at_once_and_answers_keep_their_order(limit: int) -> None:
    running, most, calls = 0, 0, 9
    full = anyio.Event()

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == limit:
            full.set()
        # only when all that may run do run does the first of them go on
        await full.wait()
        await anyio.lowlevel.checkpoint()
        running -= 1
        return number * number

    async with Sandbox(functions={"work": work}, max_concurrency=limit) as sandbox:
        threads = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            f"with ThreadPoolExecutor({calls}) as pool: squares = list(pool.map(work, range({calls})))\nsquares"
        )
        assert (await run(sandbox, threads)).value == [n * n for n in range(calls)]
        tasks = (
            f"import asyncio\nasync def one(n): return work(n)\nawait asyncio.gather(*[one(n) for n in range({calls})])"
        )
        assert (await run(sandbox, tasks)).value == [n * n for n in range(calls)]
    assert most == limit
    assert running == 0


async def test_a_sync_function_runs_in_a_thread_of_its_own_and_keeps_the_loop_free() -> None:
    arrived, release = anyio.Event(), threading.Event()

    def block() -> str:
        anyio.from_thread.run_sync(arrived.set)
        assert release.wait(WITHIN)
        return threading.current_thread().name

    async def let_go() -> None:
        await arrived.wait()
        release.set()

    async with Sandbox(functions={"block": block}) as sandbox, anyio.create_task_group() as tasks:
        tasks.start_soon(let_go)
        assert (await run(sandbox, "block()")).value != threading.current_thread().name


async def test_functions_can_be_bound_anew_name_for_name() -> None:
    async with Sandbox(functions={"who": lambda: "first"}) as sandbox:
        assert (await run(sandbox, "who()")).value == "first"
        sandbox.bind({"who": lambda: "second"})
        assert (await run(sandbox, "who()")).value == "second"
        with pytest.raises(ValueError, match=r"the names must be \['who'\], not \['what'\]"):
            sandbox.bind({"what": lambda: None})


# --- values, both ways ---------------------------------------------------------------------------------------------

VALUES: list[tuple[str, Any]] = [
    ("None", None),
    ("(1, (2,), [3])", (1, (2,), [3])),
    ("{1, 2}", {1, 2}),
    ("frozenset({(1, 2)})", frozenset({(1, 2)})),
    ("b'\\x00\\xff'", b"\x00\xff"),
    ("2**64, -2**63, 2**53 + 1, 10**500", (2**64, -(2**63), 2**53 + 1, 10**500)),
    ("float('inf'), -0.0, 1e-320", (math.inf, -0.0, 1e-320)),
    ("'\\x00 é \\U0001f600 \\u2028'", "\x00 é \U0001f600 \u2028"),
    ("{1: 'a', None: 'b', (2,): 'c', True: 'd'}", {1: "d", None: "b", (2,): "c"}),
    ("{'$set': [1], '': 2}", {"$set": [1], "": 2}),
    ("__import__('datetime').date(2026, 1, 2)", datetime.date(2026, 1, 2)),
    ("__import__('decimal').Decimal('1.10')", decimal.Decimal("1.10")),
    ("[[]] * 3 + [{}]", [[], [], [], {}]),
    ("__import__('functools').reduce(lambda x, _: [x], range(95), 0)", None),
]


@pytest.mark.parametrize(("code", "value"), VALUES, ids=[code[:40] for code, _ in VALUES])
async def test_values_reach_the_host_and_come_back_as_what_they_were(
    shared: Sandbox, functions: Functions, code: str, value: Any
) -> None:
    done = await run(shared, f"sent = {code}\ngot = echo(sent)\ngot == sent and type(got) is type(sent)")
    assert done.value is True
    [heard], _ = functions.heard[-1]
    if value is not None:
        assert repr(heard) == repr(value)


async def test_nan_and_lone_surrogates_arrive_as_what_their_rules_say(shared: Sandbox, functions: Functions) -> None:
    assert (await run(shared, "got = echo(float('nan'))\ngot != got")).value is True
    assert math.isnan(functions.heard[-1][0][0])
    assert (await run(shared, "echo('a\\ud800b') == 'a\\ufffdb'")).value is True
    assert functions.heard[-1][0] == ("a\ufffdb",)
    assert (await run(shared, "echo(**{'k\\udfff': 1})")).value == {"k\ufffd": 1}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("loop = []; loop.append(loop); echo(loop)", "ValueError: the value is nested more than 100 deep"),
        ("deep = 0\nfor _ in range(200): deep = [deep]\necho(deep)", "ValueError: the value is nested more than 100"),
        ("echo(open)", "TypeError: a builtin_function_or_method cannot be sent"),
        ("echo(x=object())", "TypeError: a object cannot be sent"),
        ("echo('x' * 40_000_000)", "ValueError: the value takes 40,000,0"),
    ],
)
async def test_what_cannot_be_sent_is_an_error_at_the_call_and_never_reaches_the_host(
    shared: Sandbox, functions: Functions, code: str, said: str
) -> None:
    before = len(functions.heard)
    done = await run(shared, code)
    assert done.error is not None
    assert said in done.error
    assert len(functions.heard) == before


# --- failures ------------------------------------------------------------------------------------------------------


async def test_the_text_of_a_function_error_is_for_the_model(shared: Sandbox) -> None:
    done = await run(shared, "refuse('there is no such launch: é \\x00')")
    assert done.error is not None
    assert done.error.endswith("FunctionError: refuse: there is no such launch: é \x00")
    assert "refuse('there is" in done.error
    done = await run(shared, "try:\n    refuse('caught')\nexcept FunctionError as error:\n    said = str(error)\nsaid")
    assert done.value == "refuse: caught"
    code = "try:\n    refuse('x' * 100_000)\nexcept RuntimeError as error:\n    length = len(str(error))\nlength"
    done = await run(shared, code)
    assert done.value == 4000


@pytest.mark.parametrize(("code", "name"), [("leak()", "ConnectionRefusedError"), ("leak_later()", "RuntimeError")])
async def test_of_any_other_exception_only_the_class_name_goes_down(shared: Sandbox, code: str, name: str) -> None:
    seen = "(str(error), repr(vars(error)), repr(error.__context__))"
    done = await run(shared, f"try:\n    {code}\nexcept FunctionError as error:\n    seen = {seen}\nseen")
    assert done.value[0] == f"{code[:-2]}: {name}"
    assert SECRET not in repr(done)
    assert "/home" not in repr(done)


async def test_what_was_had_all_the_same_comes_with_the_error(shared: Sandbox) -> None:
    seen = "type(error).__name__, str(error), error.partial"
    code = f"try:\n    {{}}\nexcept FunctionError as error:\n    seen = ({seen})\nseen"
    assert (await run(shared, code.format("refuse_partly('some')"))).value == (
        "FunctionError",
        "refuse_partly: half of it",
        (1, 2),
    )
    # what has no form in which to travel is left behind, and costs nobody anything
    assert (await run(shared, code.format("refuse_partly('none')"))).value[2] is None
    assert (await run(shared, code.format("refuse_partly('nothing')"))).value[2] is None
    assert (await run(shared, code.format("limit()"))).value == (
        "LimitExceeded",
        "limit reached: usd (0.5 used of 0.25 allowed)",
        ["one reply", None],
    )


async def test_a_result_without_a_form_is_an_error_in_the_cell(shared: Sandbox) -> None:
    for code, name in (("strange()", "TypeError"), ("cycle()", "ValueError")):
        done = await run(shared, code)
        assert done.error is not None
        assert done.error.endswith(f"FunctionError: {code[:-2]}: {name}")
    assert (await run(shared, "echo(5)")).value == 5


async def test_a_result_too_large_to_be_sent_is_an_error_in_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(functions={"big": lambda: "x" * 50_000}) as sandbox:
        monkeypatch.setattr(wire, "MAX_MESSAGE", 40_000)
        done = await run(sandbox, "kept = 1\nbig()")
        assert done.error is not None
        assert "FunctionError: the answer cannot be sent: a message of 50," in done.error
        assert (await run(sandbox, "kept")).value == 1


async def test_wrong_arguments_are_an_error_in_the_cell() -> None:
    def exact(a: int, *, b: int = 2) -> int:
        return a + b

    async with Sandbox(functions={"exact": exact}) as sandbox:
        assert (await run(sandbox, "exact(1, b=5)")).value == 6
        for call in ("exact()", "exact(1, 2)", "exact(1, c=3)"):
            done = await run(sandbox, call)
            assert done.error is not None
            assert done.error.endswith("FunctionError: exact: TypeError")


# --- a hostile cell ------------------------------------------------------------------------------------------------


def asking(request: str) -> str:
    """Code that goes past the functions and asks the bridge itself."""
    return f"import rlm_prelude\nrlm_prelude.wait(rlm_prelude.Bridge.call({request!r}))"


async def test_a_function_that_does_not_exist_cannot_be_asked_for(shared: Sandbox) -> None:
    absent = ['["absent", [], {}]', '["__class__", [], {}]', "[[], [], {}]", '["echo"]']
    for request in [*absent, "5", "null", '"echo"', '{"a": 1}']:
        done = await run(shared, asking(request))
        assert done.value == '{"kind":"function","message":"there is no such host function"}'


async def test_arguments_that_are_none_are_refused(shared: Sandbox) -> None:
    for request in ('["echo", 5, {}]', '["echo", [], 5]', '["echo", [], {"$dict": [[1, 2]]}]'):
        done = await run(shared, asking(request))
        assert done.value == '{"kind":"function","message":"echo: TypeError"}'


async def test_a_request_that_is_no_value_ends_the_child_and_the_next_cell_has_another() -> None:
    async with Sandbox(functions={"echo": lambda x: x}) as sandbox:
        await sandbox.load(context="here")
        for request in ("nonsense", '{"$nothing": 1}', "[" * 100_000, '["echo", [{"$int": "x"}], {}]'):
            await run(sandbox, "mine = 1")
            with pytest.raises(ProtocolError, match="a value that breaks the rules"):
                await run(sandbox, asking(request))
            after = await run(sandbox, "context, echo(1)")
            assert after.value == ("here", 1)
            assert after.lost == ("mine",)


async def test_a_prelude_that_lies_about_a_cell_ends_the_child_and_the_next_cell_has_another() -> None:
    reports = [
        "garbage",
        "null",
        '{"output": [], "truncated": 0, "error": null, "value": null}',
        '{"output": [["a"]], "truncated": 0, "error": null, "value": null, "names": []}',
        '{"output": [], "truncated": 0, "error": null, "value": "]", "names": []}',
        '{"output": [], "truncated": 0, "error": null, "value": null, "names": [], "more": 1}',
        '{"output": [], "truncated": -1, "error": null, "value": null, "names": []}',
        '{"output": [["neither", "a"]], "truncated": 0, "error": null, "value": null, "names": []}',
        json.dumps({"output": [["stdout", ""]] * 100_000, "truncated": 0, "error": None, "value": None, "names": []}),
        json.dumps({"output": [["stdout", "a"]] * 10_201, "truncated": 0, "error": None, "value": None, "names": []}),
        json.dumps({"output": [], "truncated": 0, "error": "e" * 10_001, "value": None, "names": []}),
        json.dumps({"output": [], "truncated": 0, "error": None, "value": f'"{"v" * 100_000}"', "names": []}),
        json.dumps({"output": [], "truncated": 0, "error": None, "value": None, "names": ["n"] * 257}),
        json.dumps({"output": [], "truncated": 0, "error": None, "value": None, "names": ["n" * 101]}),
    ]
    async with Sandbox() as sandbox:
        await sandbox.load(context="here")
        for report in reports:
            await run(sandbox, f"import rlm_prelude\nmine = 1\nrlm_prelude.run_cell = lambda code, number: {report!r}")
            with pytest.raises((ProtocolError, SandboxCrashed)):
                await run(sandbox, "1")
            after = await run(sandbox, "context")
            assert (after.value, after.lost) == ("here", ("mine",))


async def test_arguments_that_are_too_large_together_are_an_error_in_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_ARGUMENT_BYTES", 9_000_000)
    leave = anyio.Event()

    async def hold(text: str) -> int:
        await leave.wait()
        return len(text)

    async with Sandbox(functions={"hold": hold}) as sandbox:
        printed: list[str] = []

        def on_print(stream: str, text: str) -> None:
            printed.append(text)
            if "".join(printed).count("together") == 4:
                leave.set()

        sandbox.on_print = on_print
        code = """
from concurrent.futures import ThreadPoolExecutor
def attempt(size):
    try:
        return hold("x" * size)
    except FunctionError as error:
        print(error)
        return None
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(attempt, [1_000_000] * 8))
sum(answer is None for answer in answers), max(answer or 0 for answer in answers)"""
        done = await run(sandbox, code)
        assert done.value == (4, 1_000_000)
        assert "the arguments of the calls that are open are too large together" in done.output


async def test_a_false_final_and_a_false_variable_end_the_child_too() -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(ProtocolError):
            await run(sandbox, "import rlm_prelude\nrlm_prelude.Bridge.finish('nonsense')")
        await run(sandbox, """import rlm_prelude\nrlm_prelude.get = lambda name: '{"value": "nonsense"}'""")
        with pytest.raises(ProtocolError):
            await sandbox.get("anything")
        assert (await run(sandbox, "'still here'")).value == "still here"


# --- calls that outlive their cell ---------------------------------------------------------------------------------


@pytest.mark.both_backends
async def test_a_call_whose_cell_has_ended_is_given_up_and_holds_no_place() -> None:
    asked, given_up = anyio.Event(), anyio.Event()

    async def hang() -> None:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            given_up.set()

    async with Sandbox(functions={"hang": hang, "echo": lambda x: x}, max_concurrency=1) as sandbox:
        with anyio.fail_after(WITHIN), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await asked.wait()
                    scope.cancel()

                tasks.start_soon(cancel)
                await sandbox.execute("kept = 1\nhang()")
        with anyio.fail_after(WITHIN):
            await given_up.wait()
        assert (await run(sandbox, "echo(kept)")).value == 1


async def test_a_pool_of_threads_made_in_one_cell_serves_the_next() -> None:
    async with Sandbox(functions={"double": lambda n: 2 * n}) as sandbox:
        await run(sandbox, "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)")
        await run(sandbox, "first = list(pool.map(double, range(3)))")
        assert (await run(sandbox, "first + list(pool.map(double, range(3, 6)))")).value == [0, 2, 4, 6, 8, 10]


COLLECTING = """
from concurrent.futures import ThreadPoolExecutor
import gc
class Nested:
    def __getattr__(self, name):
        # called from C: each level is an entry frame on the stack that is suspended
        depth = int(name[1:])
        return getattr(self, f"_{depth - 1}") if depth else [wait(), [gc.collect(1) for _ in range(3)]][0]
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(lambda number: getattr(Nested(), f"_{number % 5}"), range(200)))
answers.count("waited")"""


async def test_the_garbage_collector_runs_while_stacks_are_suspended() -> None:
    async def wait() -> str:
        await anyio.sleep(0.001)
        return "waited"

    async with Sandbox(functions={"wait": wait}) as sandbox:
        assert (await run(sandbox, COLLECTING)).value == 200
        # what the collector does by itself is an increment too
        pool = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(100) as pool: "
        assert (
            await run(sandbox, f"{pool}kept = list(pool.map(lambda n: [wait(), n], range(1000)))\nlen(kept)")
        ).value == 1000


def test_host_functions_and_listeners_run_in_a_task_where_asyncio_alone_has_started_the_loop() -> None:
    printed: list[tuple[str, str]] = []

    async def double(number: int) -> int:
        return 2 * number

    def hear(stream: str, text: str) -> None:
        assert asyncio.current_task() is not None
        anyio.current_time()
        printed.append((stream, text))

    async def main() -> list[object]:
        async with Sandbox(functions={"double": double}) as sandbox:
            sandbox.on_print = hear
            return [
                (await sandbox.execute(code)).value for code in ("print('heard')", "[double(n) for n in range(20)]")
            ]

    # not by anyio's runner, which would tell anyio of the loop in another way
    assert asyncio.run(main()) == [None, [2 * n for n in range(20)]]
    assert printed[0] == ("stdout", "heard\n")
