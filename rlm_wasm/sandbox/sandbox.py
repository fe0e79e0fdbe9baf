"""Sandbox: load variables, execute cells, answer their calls; and when a child is lost, go on in a fresh one.

Knows nothing of models, prompts or money. `Session` is one child and its connection; `Sandbox` is what a caller
holds, and outlives its children.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from rlm_wasm import packages
from rlm_wasm.cards import card, text_of
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxError, SandboxStartError, SandboxTimeout
from rlm_wasm.sandbox import image as images
from rlm_wasm.sandbox import memory
from rlm_wasm.sandbox import peer as rpc
from rlm_wasm.sandbox.checkpoint import Checkpoint, take
from rlm_wasm.sandbox.messages import Empty, Ran, Told, Value
from rlm_wasm.sandbox.peer import ConnectionEnded, Pending, RemoteError
from rlm_wasm.sandbox.process import find_deno, runtime_folder
from rlm_wasm.sandbox.session import (
    DidNotBoot,
    HostFunction,
    Isolation,
    SandboxOptions,
    Session,
    background_tasks,
    initialize,
    make_image,
    serve_child,
)
from rlm_wasm.sandbox.values import decode, well_formed
from rlm_wasm.sandbox.variables import Variable, prepare
from rlm_wasm.sandbox.wire import MAX_MESSAGE

Result = TypeVar("Result")

_log = logging.getLogger(__name__)

# the broker gives an interrupted cell 2 s; what it has not reported 5 s later, it never will
_BROKER_GRACE = 7.0
_PING_EVERY = 2.0
_PING_WITHIN = 10.0
# a little more than the broker's own 2 s, so that its word comes first
_INTERRUPT_WITHIN = 2.5
# parts of a value that are under way at once, of which each takes memory of the child's
_PARTS_AHEAD = 2


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one cell.

    `stdout` and `stderr` are what it wrote to each, `output` both in the order in which they were written, all cut to
    size; `truncated` is how many characters were left out. `error` is the traceback as text, None if the cell ended
    well. `value` is the value of a bare last expression if it has a JSON-like form of at most 100,000 bytes,
    else None. `final` is what the cell gave to FINAL; `has_final` tells None from nothing. `seconds` is the time it
    computed. `timed_out`: it was interrupted at its deadline. `lost`: variables that went down with an earlier child
    and are not in this cell's sandbox. `names`: the variables that exist now, at most 256. `kept`: where a cell finds
    the whole of an output that was cut, as an index of `outputs`. `restored`: names that the cell had overwritten and
    that were put back; what it had given them is in `my_NAME`. `repeatable`: it made no use of a clock, a sleep or the
    system's random numbers, nor was it interrupted, so that it does the same again from the same state and answers.
    """

    stdout: str
    stderr: str
    output: str
    truncated: int
    error: str | None
    value: Any
    final: Any
    has_final: bool
    seconds: float
    timed_out: bool
    lost: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    kept: int | None = None
    restored: tuple[str, ...] = ()
    repeatable: bool = False

    def _repr_html_(self) -> str:
        """What a notebook shows: the output, the traceback, and what was given to FINAL."""
        facts = {"seconds": f"{self.seconds:.2f}"}
        if self.truncated:
            facts["left out"] = f"{self.truncated:,} characters"
        if self.lost:
            facts["lost"] = ", ".join(self.lost)
        texts = [("", self.output)] if self.output else []
        texts += [("error", self.error)] if self.error is not None else []
        texts += [("value", text_of(self.value))] if self.value is not None else []
        texts += [("final", text_of(self.final))] if self.has_final else []
        how = "ran out of time" if self.timed_out else "failed" if self.error is not None else "ran"
        return card(f"The cell {how}" + ("" if texts else ", and printed nothing"), facts, texts)


class ChildGone(Exception):
    """The child that was named is gone, or another has taken its place: nothing was done."""


class Sandbox:
    """CPython in WebAssembly, in a Deno process that holds no permission.

        async with Sandbox() as sandbox:
            await sandbox.load(context=text)
            run = await sandbox.execute("print(len(context))")

    Takes the fields of `SandboxOptions` as keyword arguments. Starting raises SandboxStartError. If the child dies,
    the call that was running raises SandboxCrashed, SandboxTimeout or ProtocolError, and the next one runs in a fresh
    child which holds again what was loaded; its `Executed.lost` names the variables that are gone.
    """

    def __init__(self, *, options: SandboxOptions | None = None, **chosen: Any) -> None:
        base = options or SandboxOptions()
        self._options = msgspec.structs.replace(base, **chosen) if chosen else base
        self._options.__post_init__()
        self._lock = anyio.Lock(fast_acquire=True)
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._session: Session | None = None
        self._loaded: dict[str, Variable] = {}
        self._memory_mb = self._options.memory_mb or memory.DEFAULT_MEMORY_MB
        self._names: tuple[str, ...] = ()
        self._isolation: Isolation | None = None
        self._stages: list[tuple[str, float]] = []
        self._lost: tuple[str, ...] = ()
        self._restored: Checkpoint | None = None
        self._packages: packages.PackageSet | None = None
        self._archive: bytes | None = None
        self._children = 0
        self._told: dict[str, str] = {}
        self.on_print: Callable[[str, str], None] | None = None

    def __repr__(self) -> str:
        if self._tasks is None:
            return "<Sandbox closed>"
        if self._session is None or self._session.ended:
            return "<Sandbox between two children>"
        return f"<Sandbox {'running a cell' if self._session.running else 'idle'}, {len(self._names)} variables>"

    @classmethod
    def restore(cls, checkpoint: Checkpoint, *, options: SandboxOptions | None = None, **chosen: Any) -> Self:
        """A sandbox that goes on from a checkpoint: to be opened by `async with`, as any other.

        Takes what `Sandbox` takes; the checkpoint's host functions must be among `functions`. It is restored inside the
        same prison as any cell, whoever made it. A child that dies is replaced by one that holds the checkpoint again.
        Raises ValueError if it is of another build, does not fit `memory_mb`, or wants functions or packages that are
        not given.
        """
        checkpoint.check_build()
        sandbox = cls(options=options, **chosen)
        missing = sorted(set(checkpoint.functions) - set(sandbox._options.functions))
        if missing:
            raise ValueError(f"the checkpoint's cells can call {', '.join(missing)}: give them in functions=")
        if not sandbox._options.packages:
            checkpoint.check_packages(())
        sandbox._memory_mb = checkpoint.memory_for(sandbox._options.memory_mb)
        sandbox._restored = checkpoint
        sandbox._names = checkpoint.names
        return sandbox

    @property
    def alive(self) -> bool:
        """True while its child lives; a dead one is replaced by the next call."""
        return self._session is not None and not self._session.ended

    def bind(self, functions: Mapping[str, HostFunction]) -> None:
        """Answer the calls of cells by other functions from now on; the names must be those that it was opened with."""
        if set(functions) != set(self._options.functions):
            raise ValueError(f"bind: the names must be {sorted(self._options.functions)}, not {sorted(functions)}")
        self._options = msgspec.structs.replace(self._options, functions=functions)
        if self._session is not None:
            self._session.functions = functions

    @property
    def isolation(self) -> Isolation:
        """Which layers hold it: the process's own, the emptied realm, and the operating system's, by name."""
        if self._isolation is None:
            raise RuntimeError("this Sandbox has not been started")
        return self._isolation

    @property
    def stages(self) -> list[tuple[str, float]]:
        """What its last child says that its start has reached, and when, in milliseconds since 1970."""
        return self._stages

    @property
    def packages(self) -> tuple[str, ...]:
        """What is installed in it beside the standard library: each package with its version."""
        return () if self._packages is None else self._packages.names

    @property
    def options(self) -> SandboxOptions:
        """What was chosen about it."""
        return self._options

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("this Sandbox is open already")
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(background_tasks())
            await self._started()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        try:
            return await stack.__aexit__(*exception)
        finally:
            self._tasks = None

    # --- what a caller does ----------------------------------------------------------------------------------------

    async def load(self, **variables: object) -> None:
        """Set variables in the sandbox: str and bytes as they are, anything JSON-like by value (`values.py`).

        Frames, tables and arrays (of pandas, polars, Arrow, numpy, alone or in a list or dict) are frames and arrays
        there too where pandas and numpy can be imported, else lists of dicts and lists; `described` says what each has
        become, and a warning is logged of what did not stay as it was.

        They are set again in every fresh child. Where `memory_mb` was not chosen and they need more than the sandbox
        has, it is started anew with more, if no cell has made a variable in it yet. Raises ValueError if they do not
        fit the sandbox's memory or the machine's, TypeError for what has no form there.
        """
        prepared = {name: prepare(name, value) for name, value in variables.items()}
        async with self._lock:
            self._make_room(prepared)
            for name, variable in prepared.items():
                await self._load(await self._started(), name, variable)
                self._loaded[name] = variable

    @property
    def described(self) -> Mapping[str, str]:
        """By the names of variables that are or hold tables: a line that says what they are inside."""
        return self._told

    async def load_once(self, **variables: object) -> None:
        """Set variables as `load` does, but not again in a fresh child."""
        before = dict(self._loaded)
        try:
            await self.load(**variables)
        finally:
            self._loaded = before

    async def equip(self, modules: Sequence[tuple[str, str]], library: Sequence[tuple[str, str]] = ()) -> None:
        """Run Python of the caller's own in the sandbox, before any cell: `(name, source)` of each module, in order.

        The names in a module's `__all__` become names of the REPL, which are put back when a cell overwrites them. Such
        a module may `import rlm_host`: the host functions as they are, `FINAL`, `namespace()` (the globals of cells),
        `after_cell(function)` and `protect(name)`; and it may import what is in `library`, which is not run otherwise.
        All is there again in every fresh child, after what was loaded before it. Raises ValueError with the exception
        that a module ended with.
        """
        if not modules and not library:
            return
        sources = msgspec.json.encode({"library": [*library], "modules": [*modules]}).decode()
        async with self._lock:
            name = f"rlm_equipment_{len(self._loaded)}"
            equipment = msgspec.structs.replace(prepare(name, sources), kind="equipment")
            await self._load(await self._started(), name, equipment)
            self._loaded[name] = equipment

    async def execute(self, code: str, *, timeout: float | None = None, child: int | None = None) -> Executed:
        """Run one cell; `timeout` in seconds of computing, the sandbox's own if None. `child`: see `restart`.

        Never raises for a mistake in the code: that is `Executed.error`. Raises SandboxTimeout if the cell did not
        end after it was interrupted, SandboxCrashed or ProtocolError if the child was lost.
        """
        seconds = self._options.timeout if timeout is None else timeout
        if not 0 < seconds < math.inf:
            raise ValueError(f"timeout must be a finite number of seconds above 0, not {seconds!r}")
        async with self._lock:
            session = await self._started(child)
            params = {"code": well_formed(code), "timeout": seconds}
            session.begin_cell(seconds)
            try:
                max_bytes = Ran.max_bytes(self._options.output_chars)
                ran = await self._ask(session, "execute", params, Ran, seconds, max_bytes=max_bytes)
            finally:
                session.cell_ended()
            return self._executed(session, ran)

    async def get(self, name: str, *, child: int | None = None) -> Any:
        """The value of a variable. Raises KeyError if there is none, TypeError if it has no JSON-like form."""
        async with self._lock:
            session = await self._started(child)
            try:
                reply = await self._ask(session, "get", {"name": name}, Value)
            except RemoteError as error:
                kind = KeyError if error.message.startswith("NameError") else TypeError
                raise kind(error.message) from None
            with self._breaches_end(session):
                return decode(reply.value)

    async def checkpoint(self, *, child: int | None = None, at_most_mb: float | None = None) -> Checkpoint:
        """Take the sandbox's whole memory, between two cells: a cell that runs is waited for.

        Everything survives but what is not the sandbox's own: a thread of a cell that still waits, a pipe that is open.
        Raises ValueError that says what is in the way, or that it has more than `at_most_mb`; SandboxCrashed or
        ProtocolError if the child is lost.
        """
        async with self._lock:
            session = await self._started(child)
            ask, functions = partial(self._ask, session), self._options.functions
            with self._breaches_end(session):
                try:
                    return await take(
                        ask,
                        session.peer,
                        memory_mb=self._memory_mb,
                        names=self._names,
                        functions=functions,
                        at_most_mb=at_most_mb,
                        packages=_facts(self._packages),
                    )
                except RemoteError as error:
                    raise ValueError(f"no checkpoint can be taken now: {error.message}") from None

    def start_from(self, checkpoint: Checkpoint) -> None:
        """From now on a fresh child begins with this checkpoint of its own, and with what is loaded after it."""
        self._restored = checkpoint
        self._loaded = {}
        self._memory_mb = max(self._memory_mb, checkpoint.memory_for(None))

    async def restart(self) -> int:
        """Go on in a fresh child, at once; the one that there is ends. Gives the number of the new one.

        A call that is given this number as `child` raises ChildGone, and does nothing, if that child lives no more;
        without it the call would be done in a fresh one. Raises SandboxStartError.
        """
        async with self._lock:
            if self._session is not None:
                self._session.kill("a fresh one takes its place")
                self._bury(self._session)
            await self._started()
            self._lost = ()
            return self._children

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that there are, as far as the host knows: at most 256 beside what was loaded."""
        return self._names

    @property
    def child(self) -> int:
        """The number of the last child that was started, from 1."""
        return self._children

    async def fork(self, count: int = 1) -> list[Sandbox]:
        """So many sandboxes that go on from here, each on its own; each is to be opened by `async with`.

        Raises what `checkpoint` raises.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count!r}")
        checkpoint = await self.checkpoint()
        forks = [Sandbox.restore(checkpoint, options=self._options) for _ in range(count)]
        for forked in forks:
            forked._packages, forked._archive = self._packages, self._archive
        return forks

    def _make_room(self, variables: Mapping[str, Variable]) -> None:
        """Raise ValueError if there is no room for them; where there could be, end the child for a larger one."""
        names = ", ".join(variables)
        size = sum(variable.needed for variable in (self._loaded | dict(variables)).values())
        wanted = memory.choose(names, size, self._memory_mb, self._options.memory_mb)
        if wanted == self._memory_mb:
            return
        made = list(self._names) if self._restored else [name for name in self._names if name not in self._loaded]
        if made and self.alive:
            raise ValueError(
                f"{names} needs about {memory.megabytes(size):,} MB in the sandbox, "
                f"more than the {self._memory_mb:,} MB that it was started with, and starting it anew would lose what "
                f"cells have made ({', '.join(made[:5])}): load it first, or choose memory_mb={wanted}"
            )
        self._memory_mb = wanted
        if self._session is not None:
            self._session.kill("a larger one takes its place")
            self._bury(self._session)

    # --- children --------------------------------------------------------------------------------------------------

    async def _started(self, child: int | None = None) -> Session:
        """The session with a living child, a fresh one if need be. Raises ChildGone if it is not `child`."""
        if self._tasks is None:
            raise RuntimeError("this Sandbox is not open: use 'async with Sandbox() as sandbox'")
        lives = self._session is not None and not self._session.ended
        if child is not None and not (lives and child == self._children):
            raise ChildGone(f"child {child} is gone")
        if self._session is not None and lives:
            return self._session
        if self._session is not None:
            # it may have died while nothing was asked of it
            self._bury(self._session)
        session = await self._fresh_session(self._tasks)
        try:
            for name, variable in self._loaded.items():
                await self._load(session, name, variable)
        except BaseException:
            # cancelled, perhaps: one that holds a part of what was loaded is no sandbox for the next cell
            session.kill("it was not loaded")
            raise
        self._session = session
        self._children += 1
        return session

    async def _find_packages(self) -> None:
        """The set of packages, from the cache or resolved now: once, so that each child has the same."""
        if self._options.packages and self._packages is None:
            wanted, lock = [*self._options.packages], runtime_folder() / "pyodide" / "pyodide-lock.json"
            self._packages, self._archive = await anyio.to_thread.run_sync(packages.ready, wanted, lock)
        if self._restored is not None:
            self._restored.check_packages(_facts(self._packages))

    async def _fresh_session(self, tasks: anyio.abc.TaskGroup) -> Session:
        """Start a child in the best way that works here: from an image if there is one, confined by the kernel."""
        await self._find_packages()
        path, image = await self._image()
        attempts: list[tuple[bytes | None, bool]] = [(image, True)]
        if image is not None:
            attempts.append((None, True))
        if self._options.require is None:
            attempts.append((image, False))
        for image, confined in attempts[:-1]:
            try:
                return await self._start_session(tasks, image, confined)
            except DidNotBoot:
                if image is not None and path is not None:
                    # an image that does not boot is worth nothing to anybody
                    images.discard(path)
        return await self._start_session(tasks, *attempts[-1])

    async def _image(self) -> tuple[Path | None, bytes | None]:
        """The image to start from: that of the set of packages, else the bare one, else none."""
        if not self._options.use_image:
            return None, None
        deno = find_deno(self._options.deno)
        if self._packages is not None:
            path = images.path_for(deno, self._packages.archive)
            image = None if path in _hopeless else await _image(path, partial(self._packages_image, path, deno))
            if image is not None and images.memory_bytes(image) <= memory.whole_bytes(self._memory_mb):
                return path, image
        path = images.path_for(deno)
        return path, await _image(path, partial(make_image, self._options))

    async def _packages_image(self, path: Path, deno: Path) -> bytes:
        own = await _image(images.path_for(deno), partial(make_image, self._options))
        try:
            return images.with_code_of(await make_image(self._options, self._archive), own)
        except (SandboxStartError, ValueError) as error:
            # of imports that take more than a minute, too: cells then do them
            _hopeless.add(path)
            raise DidNotBoot(f"the image of the packages: {error}") from error

    async def _start_session(self, tasks: anyio.abc.TaskGroup, image: bytes | None, confined: bool) -> Session:
        options = msgspec.structs.replace(self._options, memory_mb=self._memory_mb)
        session: Session = await tasks.start(serve_child, options, self._printed, 0, confined)
        started = await initialize(session, options, image, self._restored, self._archive)
        self._stages = started.stages
        tasks.start_soon(self._watch, session)
        self._isolation = await session.isolation()
        if options.require == "kernel" and not self._isolation.kernel:
            session.kill("the kernel's layer is required")
            raise SandboxStartError(
                "the kernel's layer was required and does not hold here (it does on Linux with Landlock or seccomp, on "
                "macOS, on Windows); leave out require= to run with the other layers"
            )
        return session

    def _printed(self, stream: str, text: str) -> None:
        if self.on_print is not None:
            self.on_print(stream, text)

    async def _load(self, session: Session, name: str, variable: Variable) -> None:
        """Announce the variable, send its parts, name it. Raises ValueError if there is no room for it."""
        for earlier, needed in variable.before:
            await self._load(session, earlier, needed)
        try:
            await self._ask(session, "load_begin", {"form": variable.form, "length": len(variable.content)}, Empty)
            await self._load_parts(session, variable.parts())
            await self._ask(session, "load_end", {"name": name, "kind": variable.kind}, Empty)
        except RemoteError as error:
            raise ValueError(f"{name} ({variable.size:,} bytes) could not be loaded: {error.message}") from None
        if variable.before:
            await self._hear(session, name)

    async def _load_parts(self, session: Session, parts: Iterator[bytes]) -> None:
        """Send them, each while the child is at work on those before it."""
        ahead: deque[Pending[Empty]] = deque()
        try:
            for part in parts:
                if len(ahead) == _PARTS_AHEAD:
                    await self._replied(session, ahead.popleft())
                params = {"blob": session.peer.next_blob_id}
                ahead.append(session.peer.begin("load_part", params, Empty, (part,)))
            while ahead:
                await self._replied(session, ahead.popleft())
        finally:
            await self._rest(session, ahead)

    async def _rest(self, session: Session, ahead: Iterable[Pending[Empty]]) -> None:
        """Await what was asked and is of no interest any more, so that the child is between two requests again."""
        with anyio.move_on_after(0 if session.peer.deaf else _INTERRUPT_WITHIN, shield=True):
            for pending in ahead:
                with suppress(RemoteError, ConnectionEnded, ProtocolError):
                    await pending.reply()
        for pending in ahead:
            pending.forget()

    async def _hear(self, session: Session, name: str) -> None:
        """Take down what became of a table, before any cell could have a hand in it; and warn, the first time."""
        reply = await self._ask(session, "get", {"name": "_rlm_told"}, Value)
        with self._breaches_end(session):
            told = Told.of(decode(reply.value))
        if name not in self._told:
            for note in told.notes:
                _log.warning("%s: %s", name, note)
        self._told[name] = told.line

    async def _ask(
        self,
        session: Session,
        method: str,
        params: Mapping[str, object],
        into: type[Result],
        seconds: float = 0.0,
        max_bytes: int = MAX_MESSAGE,
    ) -> Result:
        """Ask the child; raises what `_replied` raises."""
        return await self._replied(session, session.peer.begin(method, params, into), seconds, max_bytes)

    async def _replied(
        self, session: Session, pending: Pending[Result], seconds: float = 0.0, max_bytes: int = MAX_MESSAGE
    ) -> Result:
        """The child's reply; if it is lost, remember what went with it and raise what it is to be called.

        Raises RemoteError only where the child refused what it was asked for.
        """
        try:
            return await pending.reply(session.interrupt, max_bytes)
        except RemoteError as error:
            if error.code == rpc.INVALID_PARAMS:
                raise
            session.kill(error.message)
            if error.code == rpc.UNRESPONSIVE:
                failure: SandboxError = SandboxTimeout(error.message, seconds=seconds)
            elif error.code == rpc.DIED:
                failure = await session.why()
            else:
                failure = ProtocolError(f"the sandbox did not keep to the protocol: {error.message}")
        except ConnectionEnded:
            session.kill(session.killed_because or "")
            failure = await session.why()
        except ProtocolError as error:
            session.kill(str(error))
            failure = error
        except anyio.get_cancelled_exc_class():
            if session.peer.deaf:
                # the cell still runs: no other can be run beside it
                session.kill("a cancelled cell did not end")
                self._bury(session)
            raise
        lost = self._bury(session)
        if isinstance(failure, (SandboxCrashed, SandboxTimeout)):
            failure.lost, failure.output = lost, "".join(session.head)
        raise failure

    def _bury(self, session: Session) -> tuple[str, ...]:
        """Note that the child is gone; gives the names of the variables that went with it."""
        session.ended = True
        kept = {*self._loaded, *(self._restored.names if self._restored else ())}
        lost = tuple(name for name in self._names if name not in kept)
        self._lost += tuple(name for name in lost if name not in self._lost)
        self._names = tuple(kept)
        return lost

    @contextmanager
    def _breaches_end(self, session: Session) -> Generator[None]:
        """What the child sent is looked at in this block: if it breaks the rules, the child is ended."""
        try:
            yield
        except ProtocolError as error:
            session.kill(str(error))
            self._bury(session)
            raise

    async def _watch(self, session: Session) -> None:
        """The host's own eye on the cells of a child, should the broker's fail, and its cap on waiting.

        Kills a child whose broker is silent, or whose cell outlives its deadline while nothing is asked of the host.
        One task for a child and not one for a cell, which would cost as much as the cell.
        """
        cell, computing, waiting, since = 0, 0.0, 0.0, 0.0
        while not session.ended:
            # outside the scope: an event loop that something blocks for long says nothing about the child
            await anyio.sleep(min(_PING_EVERY, self._options.wait_timeout))
            with anyio.move_on_after(_PING_WITHIN) as patience:
                if session.peer.asked:
                    try:
                        await session.peer.request("ping", {}, Empty)
                    except (ConnectionEnded, RemoteError, ProtocolError):
                        return
            if patience.cancelled_caught:
                session.kill(f"the sandbox did not answer for {_PING_WITHIN:g} s")
            if not session.running:
                continue
            if cell != session.cell:
                cell, computing, waiting, since = session.cell, 0.0, 0.0, session.cell_began
            passed, since = time.monotonic() - since, time.monotonic()
            if session.peer.open_calls:
                waiting += passed
            else:
                computing += passed
            if computing > session.cell_seconds + _BROKER_GRACE:
                session.kill(f"the sandbox did not end a cell within {_BROKER_GRACE:g} s of its deadline")
            elif waiting > self._options.wait_timeout and not session.waited_out:
                session.waited_out = True
                session.interrupt()

    def _executed(self, session: Session, ran: Ran) -> Executed:
        with self._breaches_end(session):
            ran.check(self._options.output_chars)
            value = None if ran.value is None else decode(ran.value)
            final = decode(session.finals[0]) if session.finals else None
        lost, self._lost = self._lost, ()
        self._names = tuple(name for name in ran.names if name.isidentifier())
        error = ran.error
        if ran.timed_out:
            note = "the cell ran out of time and was interrupted; its variables are kept"
            error = f"{error}\n({note})" if error else f"KeyboardInterrupt: {note}"
        elif session.waited_out:
            error = f"{error}\n(the cell waited for the host longer than {self._options.wait_timeout:g} s)"
        return Executed(
            stdout="".join([text for stream, text in ran.output if stream == "stdout"]),
            stderr="".join([text for stream, text in ran.output if stream == "stderr"]),
            output="".join([text for _, text in ran.output]),
            truncated=ran.truncated,
            error=error,
            value=value,
            final=final,
            has_final=bool(session.finals),
            seconds=ran.seconds,
            timed_out=ran.timed_out,
            lost=lost,
            names=self._names,
            kept=ran.kept,
            restored=tuple(ran.restored),
            repeatable=ran.repeatable and not (ran.timed_out or session.waited_out),
        )


def _facts(found: packages.PackageSet | None) -> tuple[tuple[str, str], ...]:
    """Each package with its version, and the SHA-256 of its wheel."""
    return () if found is None else tuple((str(package), package.sha256) for package in found.packages)


# images of packages that could not be made in this process: trying again would cost seconds at each start
_hopeless: set[Path] = set()


async def _image(path: Path, make: Callable[[], Awaitable[bytes]]) -> bytes | None:
    """The memory image at `path`, made if there is none; None if it cannot be had, which costs only speed."""
    image = await anyio.to_thread.run_sync(images.load, path)
    if image is not None:
        return image
    with images.making(path) as mine:
        if not mine:
            return None
        try:
            image = await make()
        except DidNotBoot:
            # perhaps it starts in another way; if not, that start says why
            return None
        await anyio.to_thread.run_sync(images.save, path, image)
        return image
