"""One child and the connection to it: started, initialised, its calls answered, and its death given a name.

Knows the messages of the protocol (`wire.py`). Does not know what a caller's variables are, nor that there may be a
next child: that is `sandbox.py`.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from rlm_wasm.errors import (
    FunctionError,
    LimitExceeded,
    ProtocolError,
    SandboxCrashed,
    SandboxError,
    SandboxStartError,
)
from rlm_wasm.sandbox import image as images
from rlm_wasm.sandbox import peer as rpc
from rlm_wasm.sandbox.checkpoint import Checkpoint
from rlm_wasm.sandbox.memory import DEFAULT_MEMORY_MB, MAX_MEMORY_MB
from rlm_wasm.sandbox.messages import MARK_CHARS, Call, Greeting, ImageMade, Initialized, Printed, Value
from rlm_wasm.sandbox.peer import ConnectionEnded, Handler, Peer, RemoteError, decode_strictly
from rlm_wasm.sandbox.process import (
    Child,
    ChildOptions,
    check_runtime,
    deno_version,
    spawned,
)
from rlm_wasm.sandbox.values import MAX_HELD, decode, encode, held_bytes, well_formed
from rlm_wasm.sandbox.wire import PROTOCOL

# what the arguments of the calls that are open may take together, by `held_bytes`
_ARGUMENT_BYTES = MAX_HELD
HostFunction = Callable[..., Any]
OnPrint = Callable[[str, str], None]

_START_WITHIN = 60.0
_G = TypeVar("_G", bound="Greeting")


class SandboxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be chosen about a sandbox.

    `functions`: host functions by name, sync (run in a thread) or async. `memory_mb`: megabytes beyond what boot
    needs; None for 1024, or for twice what is loaded and 256 more if that is larger. `output_chars`: characters of
    output shown of a cell. `max_output_words`: words shown, None for no cap. `output_keep`: which part of a longer one:
    "head", "tail", or half of "both". `output_mark`: what stands where something was left out, a format of `count`
    (characters), `limit` and `words`; None for our own. `echo`: show the value of a bare last expression.
    `timeout`: seconds of computing for a cell.
    `wait_timeout`: seconds that a cell may wait for host functions, all waits together; then it is interrupted too.
    `seed`: a number from which all that is random in the sandbox comes, while its clock stands still but for what is
    counted, so that the same cells do the same each time; `clock`: where that clock begins, in seconds since the epoch
    (the beginning of 2026 if None). `max_concurrency`: host functions running at once. `deno`: the path of a Deno
    binary. `use_image`: start from a memory image on disk, and make one if there is none. `require="kernel"`: refuse to
    start where the operating system's layer does not hold (see `Sandbox.isolation`). `packages`: what cells can import
    beside the standard library: names as pip takes them, wheels (paths, addresses), folders in which to look for them.
    """

    functions: Mapping[str, HostFunction] = {}
    memory_mb: int | None = None
    # about 2,500 tokens: what a model reads without losing sight of the rest
    output_chars: int = 10_000
    max_output_words: int | None = None
    output_keep: Literal["both", "head", "tail"] = "both"
    output_mark: str | None = None
    echo: bool = True
    timeout: float = 60.0
    # a child run may take many minutes; past an hour something hangs
    wait_timeout: float = 3600.0
    max_concurrency: int = 16
    seed: int | None = None
    clock: float | None = None
    deno: str | os.PathLike[str] | None = None
    use_image: bool = True
    require: Literal["kernel"] | None = None
    packages: tuple[str | os.PathLike[str], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.functions, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"functions must map names to functions, and is a {type(self.functions).__name__}")
        if isinstance(self.packages, str):
            raise TypeError(f"packages must be a list of names, and is the text {self.packages!r}")
        # a path as a text that is none but a path, wherever one is then
        written = (each if isinstance(each, str) else os.path.abspath(each) for each in self.packages)
        msgspec.structs.force_setattr(self, "packages", tuple(written))
        for name in self.functions:
            if not name.isidentifier() or not name.isascii():
                raise ValueError(f"functions: {name!r} is not a plain Python name")
        for field in ("memory_mb", "output_chars", "timeout", "wait_timeout", "max_concurrency"):
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{field} must be finite and above 0, not {value!r}")
        if self.memory_mb is not None and self.memory_mb > MAX_MEMORY_MB:
            raise ValueError(f"memory_mb: at most {MAX_MEMORY_MB}, the address space of 32-bit WebAssembly")
        if self.seed is not None and not 0 <= self.seed < 1 << 53:
            raise ValueError(f"seed must be a whole number from 0 to 2**53 - 1, not {self.seed!r}")
        if self.clock is not None and (self.seed is None or not 0 < self.clock < 1 << 34):
            raise ValueError(f"clock must be seconds since the epoch, beside a seed, not {self.clock!r}")
        if self.max_output_words is not None and self.max_output_words < 1:
            raise ValueError("max_output_words must be above 0")
        if self.output_keep not in ("both", "head", "tail"):
            raise ValueError(f"output_keep must be 'both', 'head' or 'tail', not {self.output_keep!r}")
        if self.output_mark is not None:
            _check_mark(self.output_mark)


def _check_mark(mark: str) -> None:
    try:
        shown = mark.format(count=1, limit=1, words="")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"output_mark must be a format of count, limit and words: {error!r}") from None
    if len(shown) > MARK_CHARS:
        raise ValueError(f"output_mark has {len(shown)} characters; at most {MARK_CHARS} may stand there")


class DidNotBoot(SandboxStartError):
    """All that a start needs is there, and yet the child did not come up: another way of starting it may work."""


class Isolation(msgspec.Struct, frozen=True):
    """Which layers hold a sandbox.

    `process`: no permission was ever held, the environment and folders are its own. `realm`: the emptied realm passed
    its self-test. `kernel`: the layers that the operating system adds, by name ("rlimits", "landlock 7", "seccomp",
    "seatbelt", "job object"); empty where there are none.
    """

    process: bool
    realm: bool
    kernel: tuple[str, ...]


class Session:
    """One child and the connection to it, from spawn to death."""

    def __init__(self, child: Child, options: SandboxOptions, on_print: OnPrint | None, max_blob: int) -> None:
        self._child = child
        self._options = options
        self._on_print = on_print
        self.functions = options.functions
        self._limiter = anyio.Semaphore(options.max_concurrency, fast_acquire=True)
        self.peer = Peer(child.stdin, child.stdout, Handler(self._request, self._notified), max_blob=max_blob)
        self.error: ProtocolError | None = None
        self.killed_because: str | None = None
        self.head: list[str] = []
        self._head_room = 0
        self.finals: list[str] = []
        self.running = False
        self.ended = False
        self.waited_out = False
        self.cell = 0
        self.cell_seconds = 0.0
        self.cell_began = 0.0
        self._calls: set[anyio.CancelScope] = set()
        self._argument_bytes = 0

    @property
    def deno(self) -> Path:
        """The Deno binary that runs it."""
        return self._child.deno

    async def serve(self) -> None:
        """Move frames until the child ends; it is dead when this returns."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._child.drain_stderr)
                try:
                    await self.peer.serve()
                except ProtocolError as error:
                    self.error = error
                finally:
                    self.ended = True
                    self._child.kill()
        finally:
            self._child.kill()

    async def isolation(self) -> Isolation:
        """Which layers hold the child; to be asked after `initialize`, which fails if the first two do not."""
        return Isolation(process=True, realm=True, kernel=await self._child.kernel_layers())

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs."""
        self.peer.notify("interrupt", {})

    def begin_cell(self, seconds: float) -> None:
        """A cell with a deadline begins: forget what the one before printed and gave."""
        self.cell += 1
        self.cell_seconds = seconds
        self.cell_began = time.monotonic()
        self.head, self.finals = [], []
        self._head_room = self._options.output_chars
        self.waited_out = False
        self.running = True

    def cell_ended(self) -> None:
        """Nothing may be asked for any more, and what is still being answered is given up: nobody waits for it."""
        self.running = False
        for scope in self._calls:
            scope.cancel()

    def kill(self, because: str) -> None:
        self.killed_because = because
        self._child.kill()

    async def why(self) -> SandboxError:
        """What the child's end is to be called."""
        if self.error is not None:
            return self.error
        code = await self._child.ended(within=2)
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        message = self.killed_because or f"the sandbox's process ended {how}"
        tail = self._child.stderr_tail
        return SandboxCrashed(f"{message}{': ' + tail[-500:] if tail else ''}", exit_code=code, stderr_tail=tail)

    async def _request(self, method: str, params: msgspec.Raw) -> object:
        if method != "call" or not self.running:
            raise RemoteError(rpc.METHOD_NOT_FOUND, "nothing may be asked for now")
        text = decode_strictly(params, Call).request
        held = held_bytes(text)
        # one call may be as large as a value may be; a few of that size at once are more than the host should hold
        if self._argument_bytes and self._argument_bytes + held > _ARGUMENT_BYTES:
            raise RemoteError(rpc.FUNCTION_FAILED, "the arguments of the calls that are open are too large together")
        self._argument_bytes += held
        try:
            return await self._answer(decode(text, held))
        finally:
            self._argument_bytes -= held

    async def _answer(self, request: Any) -> object:
        try:
            name, args, kwargs = request
            function = self.functions[name]
        except (ValueError, TypeError, KeyError):
            raise RemoteError(rpc.FUNCTION_FAILED, "there is no such host function") from None
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                async with self._limiter:
                    return {"value": await _called(name, function, args, kwargs)}
            finally:
                self._calls.discard(scope)
        raise RemoteError(rpc.FUNCTION_FAILED, "the cell that asked has ended")

    def _notified(self, method: str, params: msgspec.Raw) -> None:
        if method == "printed":
            printed = decode_strictly(params, Printed)
            # what the jail posts as printed is hearsay: no more is kept than a cell may print
            text = printed.text[: self._head_room]
            self._head_room -= len(text)
            if text:
                self.head.append(text)
                if self._on_print is not None:
                    self._on_print(printed.stream, text)
        elif method == "final":
            if not self.finals:
                self.finals.append(decode_strictly(params, Value).value)
        else:
            raise ProtocolError(f"a notification that does not exist: {method[:100]!r}")


async def _called(name: str, function: HostFunction, args: Any, kwargs: Any) -> str:
    """The result of a host function as a value; its failures as the child may know them."""
    try:
        return encode(await call(function, args, kwargs))
    except (FunctionError, LimitExceeded) as error:
        data = _partial(error.partial)
        if isinstance(error, LimitExceeded):
            figures = {"limit": encode([error.limit, error.used, error.allowed])}
            raise RemoteError(rpc.LIMIT_REACHED, str(error), figures | (data or {})) from error
        raise RemoteError(rpc.FUNCTION_FAILED, well_formed(f"{name}: {error}")[:4000], data) from error
    except Exception as error:
        # its text may hold keys and paths: only the class name goes down
        raise RemoteError(rpc.FUNCTION_FAILED, f"{name}: {type(error).__name__}") from error


async def call(function: HostFunction, args: Any, kwargs: Any) -> Any:
    """What a host function gives: an async one here, a sync one in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    # in a list, because trio refuses a thread's result that is a coroutine
    [result] = await anyio.to_thread.run_sync(lambda: [function(*args, **kwargs)], abandon_on_cancel=True)
    return await result if inspect.isawaitable(result) else result


def _partial(partial: object) -> dict[str, str] | None:
    """What was had all the same, unless there is nothing or it has no form in which to travel."""
    if partial is None:
        return None
    try:
        return {"partial": encode(partial)}
    except (TypeError, ValueError):
        return None


@asynccontextmanager
async def background_tasks() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """A task group whose tasks end with the block, and which lets the block's own exception through as it is.

    A plain task group would wrap it in an ExceptionGroup, and a caller's `except SandboxCrashed` would miss it.
    """
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exception:
            failure = exception
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def serve_child(
    options: SandboxOptions,
    on_print: OnPrint | None = None,
    max_blob: int = 0,
    confined: bool = True,
    *,
    task_status: anyio.abc.TaskStatus[Session],
) -> None:
    """Spawn a child, hand out its `Session`, and serve it until it ends. To be started in a task group."""
    async with spawned(ChildOptions(options.deno, options.memory_mb or DEFAULT_MEMORY_MB, confined)) as child:
        session = Session(child, options, on_print, max_blob)
        task_status.started(session)
        await session.serve()


async def initialize(
    session: Session,
    options: SandboxOptions,
    image: bytes | None,
    checkpoint: Checkpoint | None = None,
    packages: bytes | None = None,
) -> Initialized:
    """The first exchange: boot from `checkpoint`, else from `image`, else anew. Raises SandboxStartError.

    `packages`: the archive of a set of them.
    """
    params: dict[str, object] = {
        "protocol": PROTOCOL,
        "functions": list(options.functions),
        "output_chars": options.output_chars,
        "memory_mb": options.memory_mb or DEFAULT_MEMORY_MB,
    }
    if options.max_output_words is not None:
        params["output_words"] = options.max_output_words
    if options.output_keep != "both":
        params["output_keep"] = options.output_keep
    if options.output_mark is not None:
        params["output_mark"] = options.output_mark
    if not options.echo:
        params["echo"] = False
    if options.seed is not None:
        params["seed"] = options.seed
        if options.clock is not None:
            params["clock"] = options.clock
    blobs: tuple[memoryview, ...] = ()
    if checkpoint is not None:
        params["resumes_after"] = checkpoint.cells
    if image is not None or checkpoint is not None:
        # the head first: the child makes ready what it can while the rest is on its way
        head, body = images.split(image or b"") if checkpoint is None else checkpoint.image(image)
        _prepare(session, head=head, wasm=images.web_assembly(), packages=packages)
        params["image"] = session.peer.next_blob_id
        blobs = (body,)
    elif packages is not None:
        _prepare(session, packages=packages)
    return await _first_exchange(session, "initialize", params, Initialized, blobs)


def _prepare(session: Session, **blobs: bytes | memoryview | None) -> None:
    sent = {name: blob for name, blob in blobs.items() if blob is not None}
    ids = {name: session.peer.next_blob_id + number for number, name in enumerate(sent)}
    session.peer.notify("prepare", ids, tuple(sent.values()))


async def make_image(options: SandboxOptions, packages: bytes | None = None) -> bytes:
    """Boot a child that sees no data, and take its memory image. Raises SandboxStartError.

    `packages`: the archive of a set of them, whose modules are imported in it.
    """
    async with background_tasks() as tasks:
        session: Session = await tasks.start(serve_child, options, None, images.MAX_BYTES)
        if packages is not None:
            _prepare(session, packages=packages)
        made = await _first_exchange(session, "make_image", {"protocol": PROTOCOL}, ImageMade, ())
        image = session.peer.blobs.pop(made.image, None)
        if image is None:
            raise SandboxStartError("the sandbox did not start: its memory image was not sent")
        return image


async def _first_exchange(
    session: Session, method: str, params: object, into: type[_G], blobs: tuple[memoryview, ...]
) -> _G:
    try:
        with anyio.fail_after(_START_WITHIN):
            reply = await session.peer.request(method, params, into, blobs)
    except (RemoteError, ConnectionEnded, ProtocolError, TimeoutError) as error:
        session.kill("")
        raise await _start_error(session, error) from error
    except anyio.get_cancelled_exc_class():
        session.kill("its start was cancelled")
        raise
    if reply.protocol != PROTOCOL:
        session.kill("it speaks another protocol")
        raise SandboxStartError(
            f"the runtime files speak protocol {reply.protocol}, not {PROTOCOL}: reinstall rlm-wasm"
        )
    return reply


async def _start_error(session: Session, error: Exception) -> SandboxStartError:
    """What stopped the start, looked for where it can be mended: files, Deno's version, what the child said."""
    try:
        check_runtime()
        await anyio.to_thread.run_sync(deno_version, session.deno)
    except SandboxStartError as known:
        return known
    if isinstance(error, TimeoutError):
        return SandboxStartError(f"the sandbox did not start within {_START_WITHIN:g} s")
    said = str(error) if isinstance(error, (RemoteError, ProtocolError)) else str(await session.why())
    return DidNotBoot(f"the sandbox did not start: {said}")
