"""What a client keeps open: opened on first use, once for each event loop, and closed before that loop ends.

Knows nothing of what is opened beyond how to open and close it, and of addresses only how to read them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from importlib import import_module
from typing import Generic, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from anyio import move_on_after, to_thread
from anyio.lowlevel import current_token

_Opened = TypeVar("_Opened")

_LOCAL = re.compile(r"(?:.+\.)?localhost|127(?:\.\d+){3}|0\.0\.0\.0|::1?")


class Connections(Generic[_Opened]):
    """One opened thing for each event loop, because sockets belong to the loop that they were opened in.

    `modules` are imported before the first `opener()` call, in a thread, because the vendors' SDKs take up to seconds
    and would hold up everything else in the loop. `closer` is given a second.
    """

    def __init__(
        self, modules: Sequence[str], opener: Callable[[], _Opened], closer: Callable[[_Opened], Awaitable[object]]
    ) -> None:
        self._modules = modules
        self._open = opener
        self._close = closer
        self._leases: WeakKeyDictionary[object, tuple[_Opened, AsyncGenerator[None]]] = WeakKeyDictionary()

    async def connect(self) -> _Opened:
        """What is open in the running event loop. Raises ImportError, and what `opener` raises."""
        loop = current_token().native_token
        if loop not in self._leases:
            for module in self._modules:
                await to_thread.run_sync(import_module, module)
        if loop not in self._leases:  # asked again, because another task may have been faster
            opened = self._open()
            lease = self._until_the_loop_ends(loop, opened)
            self._leases[loop] = opened, lease
            await anext(lease)
        return self._leases[loop][0]

    async def aclose(self) -> None:
        """Close what is open in the running event loop. Used again, it is opened again."""
        if leased := self._leases.get(current_token().native_token):
            await leased[1].aclose()

    async def _until_the_loop_ends(self, loop: object, opened: _Opened) -> AsyncGenerator[None]:
        # asyncio and trio close the async generators that are still open when a loop ends. It is the last moment at
        # which the sockets of an `anyio.run(...)` can be closed: after it they belong to a dead loop.
        try:
            yield
        finally:
            self._leases.pop(loop, None)
            with move_on_after(1, shield=True):
                await self._close(opened)


def checked_address(url: str, name: str = "base_url") -> str:
    """The address without space around it. Raises ValueError, under the argument's `name`, for what is none."""
    address = url.strip()
    if not re.fullmatch(r"https?://[^/\s]\S*", address):
        raise ValueError(f"a {name} begins with http:// or https:// and holds no space: {address[:8]!r}...")
    return address


def host_of(url: str) -> str:
    """Host and port, without the user and password that an address may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_local(url: str) -> bool:
    """Whether the address is on this machine: such a server needs no key and is behind no proxy."""
    return _LOCAL.fullmatch(urlsplit(url).hostname or "") is not None
