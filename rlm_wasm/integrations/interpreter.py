"""A sandbox behind synchronous doors, as frameworks want an interpreter: `start`, `execute`, `shutdown`, `tools`.

The sandbox lives on an event loop in a thread of its own; tools run in the thread that called `execute`, one at a time,
so that they find its context variables and whatever belongs to that thread. Knows no framework by name: what is given
back and raised is told by `Kinds`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import keyword
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Self

import anyio
import anyio.from_thread
import msgspec

from rlm_wasm.dialects.dialect import inside
from rlm_wasm.errors import SandboxError
from rlm_wasm.sandbox import Executed, Sandbox, SandboxOptions
from rlm_wasm.sandbox.values import to_plain

# Frameworks cut what they show to their models themselves. The memory is chosen at once, because a sandbox that had to
# be started anew for a large variable would have lost what a framework has defined in it before.
DEFAULT_OPTIONS = SandboxOptions(output_chars=100_000, memory_mb=2048)
# seconds that an interpreter which nobody shut down may take to end
_END_WITHIN = 5.0
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SYNTAX = ("SyntaxError:", "IndentationError:", "TabError:")

Tool = Callable[..., Any]


class Submitted(msgspec.Struct, frozen=True):
    """What a cell gave to SUBMIT: a dict from the names of the output fields to their values."""

    output: Any


class CellFailed(RuntimeError):
    """A mistake in the code of a cell, or a tool's failure that it did not catch; the next cell can mend it."""


class InterpreterFailed(RuntimeError):
    """What no code can mend: bad variables, a sandbox that cannot be had or was lost, an interpreter that has ended."""


class Kinds(msgspec.Struct, frozen=True):
    """What stands for an outcome: the class of what SUBMIT gave, and of the two errors, each made of one argument."""

    submitted: Callable[[Any], Any] = Submitted
    cell_failed: type[Exception] = CellFailed
    failed: type[Exception] = InterpreterFailed


class _Home(msgspec.Struct, frozen=True):
    """Where a started sandbox lives."""

    sandbox: Sandbox
    portal: anyio.from_thread.BlockingPortal
    thread: threading.Thread


class _Asked(msgspec.Struct, frozen=True):
    """A call of a tool that a cell waits for."""

    name: str
    values: list[Any]
    named: dict[str, Any]
    answer: Callable[[dict[str, Any]], None]


class _Calls:
    """The calls of tools, from the cell that makes them to the thread that answers them.

    Stands apart from the interpreter, so that a sandbox does not keep alive whoever forgot to shut it down.
    """

    def __init__(self) -> None:
        self.waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self.portal: anyio.from_thread.BlockingPortal | None = None

    async def call_tool(self, name: str, values: list[Any], named: dict[str, Any]) -> dict[str, Any]:
        """What cells call."""
        portal, answered, answers = self.portal, anyio.Event(), list[dict[str, Any]]()
        assert portal is not None

        def answer(given: dict[str, Any]) -> None:
            answers.append(given)
            portal.start_task_soon(answered.set)

        self.waiting.put(_Asked(name, values, named, answer))
        await answered.wait()
        return answers[0]


class Interpreter:
    """A Python REPL in a sandbox, for code that knows nothing of event loops.

        with Interpreter(tools={"lookup": lookup}, output_fields=[{"name": "answer", "type": "str"}]) as interpreter:
            interpreter.execute("print(lookup(key='x'))")        # what was printed, None if nothing was
            interpreter.execute("SUBMIT(n + 1)", {"n": 1})       # Submitted({"answer": 2})

    `tools`: functions by the names that cells call them by, sync or async; the text of what they raise goes down to
    the cell. `output_fields`: what SUBMIT takes, each a dict with `name` and perhaps `type`; None for one, `output`.
    Both may be changed between cells. `sandbox` chooses the sandbox's options, but for its functions.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool] | None = None,
        output_fields: Sequence[Mapping[str, str]] | None = None,
        *,
        sandbox: SandboxOptions | None = None,
        kinds: Kinds | None = None,
    ) -> None:
        if sandbox is not None and sandbox.functions:
            raise ValueError("sandbox.functions would not be called: give the functions as tools")
        self.tools: dict[str, Tool] = dict(tools or {})
        self.output_fields = output_fields
        self._kinds = kinds or Kinds()
        self._calls = _Calls()
        self._options = msgspec.structs.replace(
            sandbox or DEFAULT_OPTIONS, functions={"call_tool": self._calls.call_tool}
        )
        self._busy = threading.Lock()
        self._home: _Home | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._ended: str | None = None
        self._offered: object = None

    def __repr__(self) -> str:
        state = self._ended or ("not started" if self._home is None else "running" if self._busy.locked() else "idle")
        return f"<{type(self).__name__} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def __call__(self, code: str, variables: Mapping[str, Any] | None = None) -> Any:
        return self.execute(code, variables)

    def start(self) -> None:
        """Start the sandbox, unless it runs. Raises `Kinds.failed` if there is none to be had, or it has ended."""
        if self._ended is not None:
            raise self._kinds.failed(f"this interpreter has ended ({self._ended}): make a new one")
        if self._home is not None:
            return
        started: Future[tuple[Sandbox, anyio.from_thread.BlockingPortal]] = Future()
        # a daemon: who forgets to shut it down must not wait for it at the exit
        thread = threading.Thread(
            target=anyio.run, args=(_live, self._options, started), name="rlm_wasm interpreter", daemon=True
        )
        thread.start()
        try:
            self._home = _Home(*started.result(), thread)
        except SandboxError as error:
            raise self._kinds.failed(str(error)) from error
        self._calls.portal = self._home.portal
        self._end = weakref.finalize(self, _leave, self._home)

    def execute(self, code: str, variables: Mapping[str, Any] | None = None) -> Any:
        """Run one cell, with these variables set before it; what the cells before it have made is there too.

        Gives what was given to SUBMIT as `Kinds.submitted`, else what was printed, None if that is nothing. Raises
        SyntaxError, `Kinds.cell_failed` for any other mistake of the code's, `Kinds.failed` for what it cannot mend.
        """
        if not self._busy.acquire(blocking=False):
            raise self._kinds.failed("a cell runs already: a tool of it, or another thread, cannot run another one")
        try:
            self.start()
            for name in variables or {}:
                if not name.isidentifier() or keyword.iskeyword(name):
                    raise self._kinds.failed(f"Invalid variable name: {name!r}")
            return self._outcome(self._run(code, variables or {}))
        finally:
            self._busy.release()

    def shutdown(self) -> None:
        """End the sandbox. What was in it is gone, and the interpreter cannot be used again."""
        self._ended = self._ended or "it was shut down"
        end, self._end, self._home = self._end, None, None
        if end is not None:
            end()

    def _run(self, code: str, variables: Mapping[str, Any]) -> Executed:
        assert self._home is not None
        # a new one, so that no call of a cell that was given up is answered by the next
        self._calls.waiting = waiting = SimpleQueue[_Asked | None]()
        cell = self._home.portal.start_task_soon(self._cell, self._home.sandbox, code, variables)
        cell.add_done_callback(lambda _: waiting.put(None))
        try:
            while (asked := waiting.get()) is not None:
                asked.answer(self._answered(asked))
        except BaseException:
            # KeyboardInterrupt, in here or in a tool: the cell is not to go on without anybody
            cell.cancel()
            raise
        try:
            return cell.result()
        except SandboxError as error:
            self.shutdown()
            self._ended = "its sandbox was lost"
            raise self._kinds.failed(f"the sandbox was lost, with all that was in it: {error}") from error

    async def _cell(self, sandbox: Sandbox, code: str, variables: Mapping[str, Any]) -> Executed:
        # a name with two underscores may not be loaded: it could be one of Python's own
        hidden = {name: _crossing(value) for name, value in variables.items() if name.startswith("__")}
        try:
            await self._offer(sandbox, hidden)
            for name, value in variables.items():
                if name not in hidden:
                    await sandbox.load(**{name: _crossing(value)})
        except (ValueError, TypeError) as error:
            raise self._kinds.failed(str(error)) from error
        return await sandbox.execute(code)

    async def _offer(self, sandbox: Sandbox, hidden: Mapping[str, Any]) -> None:
        """Tell the sandbox of the tools, the fields and what else is new since the last cell."""
        terms = {"tools": list(self.tools), "outputs": [dict(field) for field in self.output_fields or ()]}
        if terms == self._offered and not hidden:
            return
        await sandbox.load(interpreter_terms={**terms, "variables": hidden})
        await sandbox.equip(inside("interpreter"))
        self._offered = terms

    def _outcome(self, executed: Executed) -> Any:
        if executed.has_final:
            return self._kinds.submitted(executed.final)
        if executed.error is None:
            return executed.output or None
        last = executed.error.rstrip().rpartition("\n")[2]
        if last.startswith(_SYNTAX):
            raise SyntaxError(f"Invalid Python syntax. {executed.error}")
        printed = f"\n\nIt had printed:\n{executed.output}" if executed.output else ""
        raise self._kinds.cell_failed(f"{last}\n\n{executed.error}{printed}")

    def _answered(self, asked: _Asked) -> dict[str, Any]:
        try:
            if asked.name not in self.tools:
                raise NameError(f"there is no tool {str(asked.name)[:100]!r}")
            value = _called(self.tools[asked.name], asked.values, asked.named)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        try:
            return {"value": _crossing(value)}
        except (TypeError, ValueError):
            # as frameworks do it: what has no form is told in words
            return {"value": str(value)}


async def _live(options: SandboxOptions, started: Future[tuple[Sandbox, anyio.from_thread.BlockingPortal]]) -> None:
    """Keep a sandbox until its portal is told to stop."""
    try:
        async with Sandbox(options=options) as sandbox, anyio.from_thread.BlockingPortal() as portal:
            started.set_result((sandbox, portal))
            await portal.sleep_until_stopped()
    except Exception as error:
        # of one that has started, the next cell says what became of it
        if not started.done():
            started.set_exception(error)


def _leave(home: _Home) -> None:
    with suppress(RuntimeError):
        # raised where it has stopped already
        home.portal.start_task_soon(home.portal.stop)
    if home.thread is not threading.current_thread():
        home.thread.join(_END_WITHIN)


def _called(tool: Tool, values: list[Any], named: dict[str, Any]) -> Any:
    """What a tool gives. Arguments go by their names, as frameworks want it, wherever they have one."""
    if values:
        signature = inspect.signature(tool)
        if all(parameter.kind in _NAMED for parameter in signature.parameters.values()):
            values, named = [], dict(signature.bind(*values, **named).arguments)
    result = tool(*values, **named)
    return _awaited(result) if inspect.iscoroutine(result) else result


def _awaited(coroutine: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # the loop that runs here waits for us: another one has to do it
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


def _crossing(value: Any) -> Any:
    """The value, or where it has no form in the sandbox, what pydantic makes of it for JSON. Raises TypeError."""
    if isinstance(value, (str, bytes)):
        return value
    try:
        to_plain(value)
    except TypeError:
        return _as_json(value)
    return value


def _as_json(value: Any) -> Any:
    # the openai package brings it, and whoever has a model of pydantic's has it anyway
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise TypeError(f"Unsupported value type: {type(value).__name__} ({error})") from None
