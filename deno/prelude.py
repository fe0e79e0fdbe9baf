"""The Python that runs inside the sandbox: cells, variables, host functions, FINAL.

It is executed once, when a memory image is made or a sandbox is booted without one, and holds nothing of JavaScript
then: `connect` hands it the JavaScript functions afterwards. Nothing here is a defence. The code of a cell can
reach and change all of it; what holds the prisoner is outside (deno/realm.ts, deno/sandbox.ts, the host).
"""

# What JavaScript gives is None until `connect`, and the event loop is Pyodide's.
# pyright: reportAttributeAccessIssue=false, reportOptionalCall=false

import ast
import asyncio
import builtins
import inspect
import json
import linecache
import os
import random
import sys
import time
import warnings

import rlm_files
import rlm_packages
import rlm_threads
import rlm_values
from pyodide.ffi import run_sync
from pyodide.webloop import WebLoop
from rlm_awaits import Awaits
from rlm_equipment import Host, Library, after_cell, equip  # noqa: F401 - which JavaScript calls
from rlm_names import all_builtins, given, namespace, put_back, reserve, reserved, user_names
from rlm_output import MARK, Output, Stream
from rlm_packages import import_packages  # noqa: F401 - which JavaScript calls
from rlm_tracebacks import class_name, explain

MAX_NAMES = 256


class FunctionError(RuntimeError):
    """A host function failed. `partial` holds what was had all the same: of a batch the answers that there were."""

    __module__ = "__main__"
    partial = None


class LimitExceeded(FunctionError):
    """A limit of the run is reached: what was asked for was not done. `limit` names it; `used` is of `allowed`."""

    __module__ = "__main__"
    limit = used = allowed = None


class Bridge:
    """The JavaScript functions: set by `connect`, empty while an image is made."""

    call = None
    emit = None
    sleep = None
    finish = None
    repeatable = None


class Cell:
    """What is true of the cell that runs now."""

    output = None
    max_chars = 10_000
    max_words = None
    keep = "both"
    mark = MARK
    echo = True
    # of `outputs`: how many characters there are in all, and the first that was not dropped yet
    kept_chars = 0
    oldest = 0
    # what `rlm_files` has packed, in a checkpoint alone
    files = None
    # memory that is given up when a cell has taken all the rest: then its error can be told, and a next cell run
    reserve = None


RESERVE = 4 * 1024 * 1024


stdout = Stream("stdout")
stderr = Stream("stderr", first=stdout)
host_functions = set()
# the full text of what each cell has written; the oldest go when they are too much together
outputs = []
OUTPUTS_CHARS = 32_000_000
# it is no cell's own while it is this
given["outputs"] = outputs


def connect(bridge, settings):
    """Install the bridge. `settings` is a JSON text: functions, output_chars, output_words."""
    settings = json.loads(settings)
    files = Cell.files
    reconnect(bridge)
    Cell.max_chars, Cell.max_words = settings["output_chars"], settings.get("output_words")
    Cell.keep = settings.get("output_keep") or "both"
    mark = settings.get("output_mark")
    Cell.mark = MARK if mark is None else mark
    Cell.echo = settings.get("echo") is not False
    rlm_packages.find()
    if files is not None:
        # a checkpoint: its own seeds and functions stay
        rlm_files.unpack(files)
    else:
        sys.stdout, sys.stderr = stdout, stderr
        # the state in the image is the same for all sandboxes that start from it
        random.seed(os.urandom(32))
        rlm_packages.reseed()
        sys.modules["rlm_host"] = Host(FINAL)
    for name in settings["functions"]:
        if name not in host_functions:
            host_functions.add(name)
            reserve(name, host_function(name))
            setattr(sys.modules["rlm_host"], name, reserved[name])


def reconnect(bridge):
    """Take the JavaScript functions, again after `disconnect`."""
    Bridge.call, Bridge.emit, Bridge.sleep, Bridge.finish = bridge.call, bridge.emit, bridge.sleep, bridge.finish
    Bridge.repeatable = bridge.repeatable
    rlm_threads.Waits.spawn, rlm_threads.Waits.wait = bridge.spawn, wait
    rlm_threads.Waits.park, rlm_threads.Waits.wake = bridge.park, bridge.wake
    rlm_threads.Waits.seconds = bridge.seconds
    Cell.files = None


def disconnect():
    """Make ready for a checkpoint: the files go into the memory, and what is of JavaScript goes. "" or why not."""
    try:
        files = rlm_files.pack()
    except BaseException as exception:
        return rlm_values.well_formed(f"{class_name(exception)}: {exception}")[:1000]
    Cell.files = files
    Bridge.call = Bridge.emit = Bridge.sleep = Bridge.finish = Bridge.repeatable = None
    rlm_threads.Waits.spawn = rlm_threads.Waits.park = rlm_threads.Waits.wake = rlm_threads.Waits.seconds = None
    return ""


def wait(promise):
    """Block this stack until `promise` resolves; the host meanwhile answers other stacks.

    Where this is the only stack, JavaScript has waited itself, and gives the answer in the promise's place.
    """
    answer = promise if promise is None or isinstance(promise, str) else rlm_threads.wait(run_sync, promise)
    if answer is None:
        raise KeyboardInterrupt
    return answer


def host_function(name):
    def function(*args, **kwargs):
        request = rlm_values.encode([name, list(args), kwargs])
        return answered(json.loads(wait(Bridge.call(request))))

    function.__name__ = function.__qualname__ = name
    return function


def answered(reply):
    if "value" in reply:
        return rlm_values.decode(reply["value"])
    error = (LimitExceeded if reply["kind"] == "limit" else FunctionError)(reply["message"])
    if reply.get("limit") is not None:
        error.limit, error.used, error.allowed = rlm_values.decode(reply["limit"])
    if reply.get("partial") is not None:
        error.partial = rlm_values.decode(reply["partial"])
    raise error


# --- names that every cell has -------------------------------------------------------------------------------------


def FINAL(value):
    """Give `value` as the answer. The first one counts."""
    Bridge.finish(rlm_values.encode(value))


def FINAL_VAR(name):
    """Give the variable of this name as the answer; a value that is no such name is given itself."""
    if isinstance(name, str) and name in namespace:
        name = namespace[name]
    FINAL(name)


class Listing(str):
    """Text that a bare expression shows as it is."""

    def __repr__(self):
        return str(self)


def SHOW_VARS():
    """The variables that exist, one a line: name, type and size."""
    lines = [f"{name}: {described(namespace[name])}" for name in user_names()]
    return Listing("\n".join(lines) or "(no variables yet)")


def described(value):
    kind = type(value).__name__
    if isinstance(value, (str, bytes, bytearray)):
        return f"{kind} of {len(value):,} {'characters' if isinstance(value, str) else 'bytes'}"
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return f"{kind} of {len(value):,} items"
    if rlm_values.is_tabular(value) and hasattr(value, "shape"):
        return f"{kind} of the shape {value.shape}"
    return kind


def end_cell(code=None):
    """Stands for exit(), quit() and os._exit(): ends the cell, not the interpreter."""
    raise SystemExit(code)


def no_input(prompt=""):
    raise EOFError("there is nobody to answer input() here: the data is in the variables")


def sleep(seconds):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    wait(Bridge.sleep(seconds * 1000))


# --- running a cell ------------------------------------------------------------------------------------------------


def run_cell(code, number):
    """Run one cell; returns a JSON text: output, truncated, kept, error, value, names, restored,
    repeatable.

    Never raises: the one interrupt that a cell may get can land anywhere, in this function too.
    """
    keep_reserve()
    output = Output(Cell.max_chars, Cell.max_words, lambda *piece: Bridge.emit(*piece), Cell.keep, Cell.mark)
    stdout.begin(output)
    stderr.begin(output)
    error = value = None
    try:
        try:
            value = execute(code, f"<cell {number}>")
        except MemoryError as exception:
            Cell.reserve = None
            error = explain(exception)
        except BaseException as exception:
            error = explain(exception)
    except BaseException as exception:
        error = explain(exception)
    for attempt in range(3):
        try:
            result = finished(output, error, value)
            if number == 0:
                # the cell by which a sandbox warms up
                outputs.clear()
            return result
        except BaseException as exception:
            if attempt == 0:
                error = error or explain(exception)
            value = None


def end_lost_cell():
    """What `run_cell` returns, for a cell whose stack an interrupt has missed: it never goes on."""
    return finished(stdout.output, "KeyboardInterrupt", None)


def keep_reserve():
    """Set memory aside, unless there is so little left that a cell needs it more."""
    if Cell.reserve is None:
        try:
            len(bytearray(4 * RESERVE))
            Cell.reserve = bytearray(RESERVE)
        except MemoryError:
            return


def finished(output, error, value):
    sys.stdout, sys.stderr = stdout, stderr
    for function in after_cell:
        try:
            function()
        except Exception as exception:
            error = error or explain(exception)
    tasks = asyncio.all_tasks(asyncio.get_event_loop())
    for task in tasks:
        task.cancel()
    if tasks:
        # their last steps; nothing of a cell runs after its end
        wait(Bridge.sleep(0))
    stdout.flush()
    pieces, truncated = output.pieces()
    kept = keep_output(output.whole()) if truncated else keep_output("".join([text for _, text in pieces]))
    encoded = None
    if value is not None:
        try:
            encoded = rlm_values.encode(value, 100_000)
        except Exception:
            # what has no JSON form, or a large one, was echoed as its repr
            encoded = None
    result = {
        "output": pieces,
        "truncated": truncated,
        "kept": kept if truncated else None,
        "error": error,
        "value": encoded,
        "restored": put_back(),
        "names": [rlm_values.well_formed(name)[:100] for name in user_names(MAX_NAMES)],
        "repeatable": bool(Bridge.repeatable()),
    }
    return rlm_values.as_json(result)


def keep_output(text):
    """Keep what a cell has written where cells can read it; gives its index there."""
    outputs.append(text)
    # a cell may have a variable of that name
    namespace.setdefault("outputs", outputs)
    Cell.kept_chars += len(text)
    while Cell.kept_chars > OUTPUTS_CHARS and Cell.oldest < len(outputs) - 1:
        Cell.kept_chars -= len(outputs[Cell.oldest])
        outputs[Cell.oldest] = "(too old to be kept)"
        Cell.oldest += 1
    return len(outputs) - 1


def execute(code, filename):
    """Run `code` in the namespace; the value of its bare last expression, which is also echoed."""
    # a class or function of this cell must find its source in a later traceback
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    # what ast.parse does, which thinks of much else
    tree = compile(code, filename, "exec", flags=ast.PyCF_ONLY_AST, dont_inherit=True)
    awaits = Awaits(tree, plain_functions()) if "await" in code or "async" in code else None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    quiet = code.rstrip().endswith(";")
    body = compiled(awaits, tree, filename)
    expression = last and compiled(awaits, ast.Expression(last.value), filename, "eval")
    if tree.body:
        evaluate(body)
    if expression is None:
        return None
    value = evaluate(expression)
    if value is not None and not quiet:
        namespace["_"] = value
        if Cell.echo:
            stdout.write(f"{value!r}\n")
    return value


def plain_functions():
    """The host's functions that cells call by their own names: not those that equipment has put another in place of."""
    host = sys.modules["rlm_host"]
    return {name for name in host_functions if namespace.get(name) is getattr(host, name)}


def compiled(awaits, tree, filename, mode="exec"):
    if awaits is not None:
        tree = awaits.rewritten(tree)
    return compile(tree, filename, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def evaluate(code):
    value = eval(code, namespace)
    if code.co_flags & inspect.CO_COROUTINE:
        return run_until_complete(value)
    return value


def run_until_complete(coroutine):
    """Drive a coroutine on the event loop while this stack waits, and give what it returns or raises."""
    outcome = []
    running = rlm_threads.Lock()
    running.acquire()

    async def contained():
        # an exception that leaves a task (KeyboardInterrupt does) would end in the event loop's own frames
        try:
            outcome.append((await coroutine, None))
        except BaseException as exception:
            outcome.append((None, exception))
        running.release()

    task = asyncio.get_event_loop().create_task(contained())
    try:
        # by a lock, because an interrupt ends the wait for one; in an idle event loop it would find nobody to end
        running.acquire()
    except BaseException:
        task.cancel()
        raise
    value, exception = outcome[0]
    if exception is not None:
        raise exception
    return value


# --- loading and reading variables ---------------------------------------------------------------------------------


def load_buffer(name, kind, buffer):
    """Set variable `name` from the bytes in a JavaScript buffer: "text" (UTF-8), "bytes" or "value" (a JSON text).

    False if there is no memory for it.
    """
    try:
        held = bytearray(buffer.byteLength)
        buffer.assign_to(memoryview(held))
        if kind == "bytes":
            namespace[name] = bytes(held)
        elif kind == "text":
            namespace[name] = held.decode()
        else:
            namespace[name] = rlm_values.decode(held)
    except MemoryError:
        return False
    return True


def decode_variable(name, kind):
    """Replace what was loaded under `name`, of kind "value" or "packed", by its value; False if there is no memory."""
    try:
        namespace[name] = (rlm_values.unpack if kind == "packed" else rlm_values.decode)(namespace[name])
    except MemoryError:
        del namespace[name]
        return False
    return True


def get(name):
    """The variable's value as a JSON text, or an error: `{"value": ...}` or `{"error": ...}`."""
    try:
        if name not in namespace or name.startswith("__"):
            raise NameError(f"name {name!r} is not defined in the sandbox")
        return rlm_values.as_json({"value": rlm_values.encode(namespace[name])})
    except BaseException as exception:
        return rlm_values.as_json({"error": rlm_values.well_formed(f"{class_name(exception)}: {exception}")[:1000]})


def prepare():
    """Everything that needs no JavaScript function; what it does is in the memory image."""
    sys.meta_path.insert(0, Library())
    # in the image it is zeros, which take no room, nor does it take memory before it is given up
    Cell.reserve = bytearray(RESERVE)
    names = {"FINAL": FINAL, "FINAL_VAR": FINAL_VAR, "SHOW_VARS": SHOW_VARS, "exit": end_cell, "quit": end_cell}
    for name, value in names.items():
        reserve(name, value)
    for name, value in {"FunctionError": FunctionError, "LimitExceeded": LimitExceeded}.items():
        reserve(name, value)
    builtins.exit = builtins.quit = end_cell
    builtins.input = no_input
    os._exit = os.abort = end_cell
    # an interrupt or exit() in a task ends that task; were it to leave the loop, the interpreter would count as dead
    loop = asyncio.get_event_loop()
    loop._keyboard_interrupt_handler = lambda: None
    loop._system_exit_handler = lambda code: None
    WebLoop.run_until_complete = lambda loop, future: run_until_complete(future)
    time.sleep = sleep
    # of invalid escapes, which models write and Python bears
    warnings.simplefilter("ignore", SyntaxWarning)
    all_builtins.update(builtins.__dict__)
    rlm_files.remember()


prepare()
