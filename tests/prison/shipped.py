"""The shipped sandbox as a target: a Sandbox out of a SandboxPool, a second one that must never notice anything."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from rlm_wasm.errors import SandboxError
from rlm_wasm.sandbox import Executed, Sandbox, SandboxOptions, SandboxPool
from tests.prison.hostile import tools
from tests.prison.judge import PROBE, Came
from tests.prison.traps import Traps
from tests.processes import pid_of, processor_seconds, session_of

OUTPUT_CHARS = 10_000
# a traceback is cut to 8,000 characters inside, and a note may follow
_ERROR_CHARS = 10_000
_VALUE_BYTES = 100_000
_NAMES = 256
_LOOKED_AT = 100_000
# a bomb in a smaller room is the same bomb, and sooner over
_MEMORY_MB = {"resource": 256}


class Shipped:
    """One sandbox of a pool at a time, thrown away when it is spoiled. Use `opened`."""

    documented: tuple[type[Exception], ...] = (SandboxError,)

    def __init__(self, pool: SandboxPool, bystander: Sandbox, traps: Traps) -> None:
        self._pool = pool
        self._bystander = bystander
        self._traps = traps
        self._stack = AsyncExitStack()
        self._sandbox: Sandbox | None = None
        self._prepared: object = None
        self._pid: int | None = None

    async def close(self) -> None:
        await self._stack.aclose()

    async def _ready(self) -> Sandbox:
        """A sandbox in which the tools are; one that was replaced gets them again."""
        if self._sandbox is None:
            self._sandbox = await self._stack.enter_async_context(self._pool.lend(self._traps.functions()))
        await self._prepare(self._sandbox)
        return self._sandbox

    async def _prepare(self, sandbox: Sandbox) -> None:
        session = sandbox._session
        if session is self._prepared and sandbox.alive:
            return
        await _equip(sandbox, self._traps)
        self._prepared = session_of(sandbox)
        self._pid = pid_of(sandbox)

    async def run(self, code: str, timeout: float, other: bool = False) -> Came:
        if not other:
            return _came(await (await self._ready()).execute(code, timeout=timeout))
        async with self._pool.lend(self._traps.functions()) as second:
            await _equip(second, self._traps)
            return _came(await second.execute(code, timeout=timeout))

    async def get(self, name: str) -> Came:
        sandbox = await self._ready()
        try:
            value = await sandbox.get(name)
        except (KeyError, TypeError) as error:
            # both are documented of it
            return Came([str(error)])
        return Came([_text(value)])

    async def load(self) -> Came:
        sandbox = await self._ready()
        try:
            await sandbox.load(loaded_by_the_host=[1, 2.5, None, {"text": "é" * 1000}], loaded_text="x" * 100_000)
        except (ValueError, TypeError) as error:
            return Came([str(error)])
        return Came([])

    async def works(self) -> bool | None:
        sandbox = self._sandbox or await self._ready()
        ran = await sandbox.execute(PROBE, timeout=10)
        return ran.value == 42 and ran.stdout == "probe\n" and not ran.has_final

    async def renew(self) -> None:
        stack, self._stack, self._sandbox = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def unharmed(self) -> list[str]:
        ran = await self._bystander.execute("mine, sorted(name for name in globals() if 'plant' in name.lower())")
        return [] if ran.value == ("a bystander", []) else [f"another sandbox has {_text(ran.value)}, {ran.error}"]

    def computed(self) -> float | None:
        return None if self._pid is None else processor_seconds(self._pid)


async def _equip(sandbox: Sandbox, traps: Traps) -> None:
    names = "\n".join(f"{name} = {value!r}" for name, value in traps.variables().items())
    equipped = await sandbox.execute(f"{names}\n{tools('shipped')}", timeout=30)
    assert equipped.error is None, equipped.error


def _came(ran: Executed) -> Came:
    beyond: list[str] = []
    # the marker that stands for what was left out is not counted
    if len(ran.output) > OUTPUT_CHARS + 200:
        beyond.append(f"{len(ran.output):,} characters of output where {OUTPUT_CHARS:,} were agreed")
    if ran.error is not None and len(ran.error) > _ERROR_CHARS:
        beyond.append(f"a traceback of {len(ran.error):,} characters")
    if len(ran.names) > _NAMES:
        beyond.append(f"{len(ran.names):,} names where {_NAMES} were agreed")
    if not 0 <= ran.truncated < 2**63:
        beyond.append(f"{str(ran.truncated)[:20]} characters left out")
    value = _text(ran.value)
    # its JSON text is what is capped; a text of so many characters takes more
    if len(value) > _VALUE_BYTES:
        beyond.append(f"a value of {len(value):,} characters where {_VALUE_BYTES:,} bytes were agreed")
    return Came([ran.stdout, ran.stderr, ran.error or "", value, _text(ran.final)], beyond)


def _text(value: object) -> str:
    """The text of a value and of all in it, cut short: a hostile value must not grow in the hands of who judges it."""
    parts: list[str] = []
    waiting: list[Any] = [value]
    while waiting and len(parts) < _LOOKED_AT:
        thing = waiting.pop()
        if isinstance(thing, dict):
            waiting += itertools.islice(itertools.chain.from_iterable(thing.items()), _LOOKED_AT)
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += itertools.islice(thing, _LOOKED_AT)
        elif isinstance(thing, str | bytes):
            parts.append(str(thing[:1_000_000]))
        elif isinstance(thing, int) and thing.bit_length() > 1000:
            parts.append(f"a number of {thing.bit_length():,} bits")
        else:
            parts.append(str(thing))
    return "\n".join(parts)


def without_the_kernel() -> None:
    """From now on every sandbox of this process is started as on a system whose kernel has nothing to give."""
    original = Sandbox._start_session

    async def start(self: Sandbox, tasks: Any, image: bytes | None, confined: bool) -> Any:
        session = await original(self, tasks, image, False)
        assert self.isolation.kernel == ()
        return session

    Sandbox._start_session = start


@asynccontextmanager
async def opened(traps: Traps, group: str) -> AsyncIterator[Shipped]:
    """The shipped sandbox, warm, with its bystander."""
    memory_mb = _MEMORY_MB.get(group)
    options = SandboxOptions(functions=traps.functions(), output_chars=OUTPUT_CHARS, memory_mb=memory_mb)
    async with SandboxPool(1, options=options) as pool, Sandbox() as bystander:
        await bystander.execute("mine = 'a bystander'")
        target = Shipped(pool, bystander, traps)
        try:
            # what is made once for all (the image, the first of everything) is not a cell's growth
            await target.works()
            yield target
        finally:
            await target.close()
