"""What the clients of vendors' APIs have in common: the server, its key, what is kept open, and how an await may end.

What is sent, what comes back and which of the SDK's errors means what are the business of each vendor's client.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

import msgspec
from anyio import current_time, fail_after, move_on_after
from anyio.abc import AsyncResource

from rlm_wasm.clients.connections import Connections, checked_address, host_of, is_local
from rlm_wasm.clients.failures import Failure, broken, late, refused
from rlm_wasm.clients.keys import find_key, given_key, hide_key
from rlm_wasm.clients.streams import Hearing, drain
from rlm_wasm.errors import ClientError

if TYPE_CHECKING:
    import httpx2


class Closable(Protocol):
    """An SDK with its connections."""

    async def close(self) -> None:
        """Close the connections."""
        ...


_Sdk = TypeVar("_Sdk", bound=Closable)
_Awaited = TypeVar("_Awaited")


class Server(msgspec.Struct, frozen=True):
    """Where to ask, and the environment variables under which its key is looked for, the first that is set.

    Raises ValueError for an address that is none.
    """

    base_url: str
    key_variables: tuple[str, ...]

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "base_url", checked_address(self.base_url))

    @property
    def host(self) -> str:
        """Host and port."""
        return host_of(self.base_url)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return is_local(self.base_url)


class VendorClient(AsyncResource, Generic[_Sdk]):
    """A client that asks a server by its vendor's SDK.

    A subclass names the `_modules` to import before it opens, says in `_needs` what is to be installed where they are
    missing, lists in `_decided` the fields of a request that are not the caller's, and opens its SDK.
    """

    _modules: ClassVar[tuple[str, ...]]
    _needs: ClassVar[str]
    _decided: ClassVar[frozenset[str]]
    _key_hint: ClassVar[str] = ""

    def __init__(
        self,
        model: str,
        server: Server,
        api_key: str | None,
        timeout: float,
        parameters: Mapping[str, object] | None,
    ) -> None:
        if timeout <= 0:
            raise ValueError("timeout must be more than 0 seconds")
        if taken := self._decided.intersection(parameters or ()):
            raise ValueError(f"parameters may not hold {', '.join(sorted(taken))}: the client decides it")
        self._model = model
        self._server = server
        self._api_key = api_key
        self._timeout = timeout
        self._parameters = dict(parameters or {})
        self._connections = Connections(self._modules, self._open_with_key, _close)

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced."""
        return self._model

    def held_keys(self) -> set[str]:
        """The keys that it sends."""
        return given_key(self._api_key, self._server.key_variables)

    async def aclose(self) -> None:
        """Close the connections of the running event loop. Used again, the client opens new ones."""
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._model!r}, host={self._server.host!r})"

    @abstractmethod
    def _open(self, key: str) -> _Sdk:
        """The SDK for the server with this key. It asks for nothing yet."""

    @abstractmethod
    def _failure(self, error: Exception) -> Failure | None:
        """What an error of the SDK's means; None for one that is not its own."""

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[_Sdk]:
        """The SDK of the running event loop. No text of a `ClientError` raised within holds the key.

        Raises `ClientError` where there is no SDK or no key.
        """
        try:
            sdk, key = await self._connections.connect()
        except ImportError as error:
            raise ClientError(f"{type(self).__name__} needs {self._needs}") from error
        try:
            yield sdk
        except ClientError as error:
            hide_key(error, key)
            raise

    def _deadline(self) -> float:
        """When a call that begins now is out of time, in seconds on the event loop's clock."""
        return current_time() + self._timeout

    async def _before(self, deadline: float, awaited: Awaitable[_Awaited]) -> _Awaited:
        """What is awaited of the SDK, if it comes before `deadline`.

        Raises `ClientError`, with the vendor's error as its `__cause__`.
        """
        import httpx2

        try:
            # The SDKs' timeouts are for each read: a server that drips would never meet them.
            with fail_after(deadline - current_time()):
                return await awaited
        except TimeoutError as error:
            raise late(self._server.host, self._timeout).error() from error
        except httpx2.HTTPError as error:
            raise broken(self._server.host, error).error() from error
        except Exception as error:
            if (failure := self._failure(error)) is None:
                raise
            raise failure.error() from error

    async def _hear(self, response: httpx2.Response, deadline: float, hearing: Hearing) -> bytes:
        """The body that the events of a stream make up, or that came instead of a stream.

        Raises `ClientError` as `_before` and `hearing` do, and where the stream ends before the reply.
        """
        import httpx2

        events, grace = aiter(httpx2.EventSource(response, max_event_size=None)), 0.0
        try:
            if "text/event-stream" not in response.headers.get("content-type", "").lower():
                return await self._before(deadline, response.aread())
            while (event := await self._before(deadline, anext(events, None))) is not None:
                if event.data and hearing.hear(event.data):
                    grace = 1.0  # a connection is used again only if its stream has been read to the end
                    break
        finally:
            await drain(events, grace)
            with move_on_after(1, shield=True):
                await response.aclose()
        if not hearing.is_whole:
            raise self._unfinished().error()
        return hearing.body()

    def _unfinished(self) -> Failure:
        """What it means that a stream ended before the reply: it may pass, as a connection that was cut."""
        return Failure(f"no reply from {self._server.host}: the stream ended before the reply did", wait=0)

    def _refused(self, status: int, headers: Mapping[str, str], text: str, not_found: str = "") -> Failure:
        """What an answer with an error status means; `not_found` as in `refused`."""
        keys = " or ".join(("api_key", *self._server.key_variables))
        host = self._server.host
        return refused(status, headers, text, model=self._model, host=host, keys=keys, not_found=not_found)

    def _open_with_key(self) -> tuple[_Sdk, str]:
        key = find_key(self._api_key, self._server.key_variables)
        if key is None and self._server.is_local:
            key = "no-key"  # the SDKs insist on one
        if key is None:
            names = " or ".join(self._server.key_variables)
            raise ClientError(f"no key for {self._server.host}: set {names}, or pass api_key={self._key_hint}")
        return self._open(key), key


async def _close(opened: tuple[Closable, str]) -> None:
    await opened[0].close()
