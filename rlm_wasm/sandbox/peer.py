"""JSON-RPC 2.0 over frames: ids, replies, calls coming back. Twin of `deno/peer.ts`.

Knows no message by name. Owns no process: it is handed the two streams and ends with them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.abc
import msgspec

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox.wire import MAX_MESSAGE, Blob, FrameReader, Message, encode_blob_header, encode_message

FUNCTION_FAILED = -32000
UNRESPONSIVE = -32001
DIED = -32002
WRONG_PROTOCOL = -32003
LIMIT_REACHED = -32004
NOT_SAFE = -32005
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

MAX_OPEN_CALLS = 10_000
# of answers that the child has not taken yet: it may ask for no more than it reads
MAX_UNREAD = 256 * 1024 * 1024
_CHUNK = 256 * 1024
# a frame no larger than this is written at once where the pipe takes it, in bytes
_AT_ONCE = 64 * 1024
# tasks that wait for a call, so that it need not start one
_IDLE_ANSWERERS = 16
# a little more than the 2 s that the broker gives an interrupted cell
_LINGER = 2.5

Result = TypeVar("Result")


class RemoteError(Exception):
    """An error reply: received from the child, or raised by a handler to be sent to it."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class ConnectionEnded(Exception):
    """The child's stdout has ended; nothing more will come."""


class Handler:
    """What a peer asks of its owner. `request` answers a call; `notification` takes a fact, without waiting."""

    def __init__(
        self,
        request: Callable[[str, msgspec.Raw], Awaitable[object]],
        notification: Callable[[str, msgspec.Raw], None],
    ) -> None:
        self.request = request
        self.notification = notification


class _Waiting:
    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.outcome: msgspec.Raw | Exception | None = None

    def settle(self, outcome: msgspec.Raw | Exception) -> None:
        self.outcome = outcome
        self.settled.set()


class _Idle:
    """A task that has answered its call and waits for the next."""

    def __init__(self) -> None:
        self._handed = anyio.Event()
        self._call: tuple[int, str, msgspec.Raw] | None = None

    def take(self, *call: Any) -> None:
        self._call = call
        self._handed.set()

    async def call(self) -> tuple[int, str, msgspec.Raw]:
        await self._handed.wait()
        assert self._call is not None
        return self._call


class Pending(Generic[Result]):
    """A request that has been sent: its `reply` is to be awaited, or it is to be forgotten."""

    def __init__(self, peer: Peer, id: int, waiting: _Waiting, into: type[Result]) -> None:
        self._peer = peer
        self._id = id
        self._waiting = waiting
        self._into = into

    async def reply(self, on_cancel: Callable[[], None] | None = None, max_bytes: int = MAX_MESSAGE) -> Result:
        """The result, decoded strictly, if it has no more than `max_bytes`.

        If the caller is cancelled, `on_cancel` is called and the reply is awaited for 2.5 s more, so that the child is
        between two requests again when this returns; if it is not, `Peer.deaf` is set.

        Raises RemoteError for an error reply, ConnectionEnded if the child went away, ProtocolError if the result is
        not what it must be.
        """
        waiting = self._waiting
        try:
            await waiting.settled.wait()
        except anyio.get_cancelled_exc_class():
            if on_cancel is not None:
                on_cancel()
                with anyio.move_on_after(_LINGER, shield=True) as patience:
                    await waiting.settled.wait()
                self._peer.deaf = self._peer.deaf or patience.cancelled_caught
            raise
        finally:
            self.forget()
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        result = waiting.outcome or msgspec.Raw(b"null")
        if len(memoryview(result)) > max_bytes:
            raise ProtocolError(f"the child sent a longer reply than the {max_bytes:,} bytes that were agreed")
        return decode_strictly(result, self._into)

    def forget(self) -> None:
        """The reply is of no interest any more."""
        self._peer.forget(self._id)


class Peer:
    """The host's end of one connection.

    `serve()` must be running for anything to move. What is sent is queued whole, so that a cancelled sender never
    leaves half a frame on the pipe.
    """

    def __init__(
        self,
        send: anyio.abc.ByteSendStream,
        receive: anyio.abc.ByteReceiveStream,
        handler: Handler,
        *,
        max_blob: int = 0,
    ) -> None:
        self._send_stream = send
        self._receive_stream = receive
        self._handler = handler
        self._reader = FrameReader(max_blob)
        self._last_id = 0
        self._waiting: dict[int, _Waiting] = {}
        self._abandoned: set[int] = set()
        self._open_calls: set[int] = set()
        self._idle: list[_Idle] = []
        self._outbox: deque[Sequence[bytes | memoryview]] = deque()
        self._outbox_filled = anyio.Event()
        self._unsent = 0
        # True until `serve` runs, and while its writer is at work
        self._sending = True
        self._send_now: Callable[[bytes | memoryview], int] | None = getattr(send, "send_now", None)
        self._ended: Exception | None = None
        self.blobs: dict[int, bytes] = {}
        self.deaf = False

    @property
    def open_calls(self) -> int:
        """How many calls of the child are being answered now."""
        return len(self._open_calls)

    @property
    def asked(self) -> bool:
        """True while a reply of the child is awaited."""
        return bool(self._waiting)

    async def request(
        self,
        method: str,
        params: object,
        into: type[Result],
        blobs: Sequence[bytes | memoryview] = (),
    ) -> Result:
        """Ask, and give the reply: `begin` and `Pending.reply` in one, which say what is raised."""
        return await self.begin(method, params, into, blobs).reply()

    def begin(
        self, method: str, params: object, into: type[Result], blobs: Sequence[bytes | memoryview] = ()
    ) -> Pending[Result]:
        """Ask, and leave the reply for later. `blobs` go ahead, as numbered by `next_blob_id`.

        Raises ValueError for what is too large to be sent.
        """
        waiting = _Waiting()
        if self._ended is not None:
            waiting.settle(self._ended)
            return Pending(self, 0, waiting, into)
        self._put_blobs(blobs)
        id = self._last_id + 1
        frame = encode_message({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        self._last_id = id
        self._waiting[id] = waiting
        self._put(frame)
        return Pending(self, id, waiting, into)

    def forget(self, id: int) -> None:
        """Take the reply to this request, should it still come, for nothing."""
        waiting = self._waiting.pop(id, None)
        if waiting is not None and not waiting.settled.is_set():
            self._abandoned.add(id)

    @property
    def next_blob_id(self) -> int:
        """The number that the first blob of the next `request` or `notify` will have; the others follow it."""
        return self._last_id + 1

    def notify(self, method: str, params: object, blobs: Sequence[bytes | memoryview] = ()) -> None:
        """Tell the child; no answer comes. `blobs` go ahead, as numbered by `next_blob_id`."""
        self._put_blobs(blobs)
        self._put(encode_message({"jsonrpc": "2.0", "method": method, "params": params}))

    @contextmanager
    def accepting(self, size: int) -> Generator[None]:
        """In the block the child may send blobs of at most so many bytes, one at a time; `blob` takes each."""
        self._reader.max_blob, before = size, self._reader.max_blob
        try:
            yield
        finally:
            self._reader.max_blob = before
            self.blobs.clear()

    def blob(self, id: int) -> bytes:
        """The blob of this number, once. Raises ProtocolError if the child has not sent it."""
        if id not in self.blobs:
            raise ProtocolError("the child refers to a blob that it has not sent")
        return self.blobs.pop(id)

    async def serve(self) -> None:
        """Move frames until the child's stdout ends. Raises ProtocolError; every pending request is settled."""
        ended: Exception = ConnectionEnded()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                await self._read(tasks)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # one failure ends the connection: the first one says why
            errors = [error for error in _leaves(group) if isinstance(error, ProtocolError)]
            ended = errors[0] if errors else ConnectionEnded()
            raise (ended if errors else group) from None
        finally:
            self._ended = ended
            for waiting in self._waiting.values():
                waiting.settle(ended)

    def _put_blobs(self, blobs: Sequence[bytes | memoryview]) -> None:
        for content in blobs:
            self._last_id += 1
            self._put(encode_blob_header(self._last_id, len(content)), memoryview(content))

    def _put(self, *chunks: bytes | memoryview) -> None:
        if not self._sending and not self._outbox and self._send_now is not None:
            # a pipe that is idle takes a small frame at once, and nobody need be woken for it
            chunk = chunks[0] if len(chunks) == 1 else b""
            if 0 < len(chunk) <= _AT_ONCE:
                sent = self._send_now(chunk)
                if sent == len(chunk):
                    return
                chunks = (memoryview(chunk)[sent:],)
        self._outbox.append(chunks)
        self._unsent += sum(map(len, chunks))
        self._outbox_filled.set()

    async def _write(self) -> None:
        try:
            while True:
                self._sending = True
                while self._outbox:
                    for chunk in self._outbox.popleft():
                        # both kinds of stream take any buffer, though anyio's annotation says bytes
                        await self._send_stream.send(cast(bytes, chunk))
                        self._unsent -= len(chunk)
                self._sending = False
                self._outbox_filled = anyio.Event()
                await self._outbox_filled.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            # the child is gone; the reading side will say so
            return

    async def _read(self, tasks: anyio.abc.TaskGroup) -> None:
        def take(chunk: bytes) -> None:
            for frame in self._reader.feed(chunk):
                self._take(frame, tasks)

        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            feed: Callable[[Callable[[bytes], None]], Awaitable[None]] | None
            feed = getattr(self._receive_stream, "feed", None)
            if feed is not None:
                await feed(take)
            else:
                while True:
                    take(await self._receive_stream.receive(_CHUNK))
        if not self._reader.idle:
            raise ProtocolError("the child's output ended in the middle of a frame")

    def _take(self, frame: Message | Blob, tasks: anyio.abc.TaskGroup) -> None:
        if isinstance(frame, Blob):
            if self.blobs:
                raise ProtocolError("a blob that nobody asked for")
            self.blobs[frame.id] = frame.content
        elif isinstance(frame.method, str):
            self._take_call(frame.method, frame, tasks)
        else:
            self._take_reply(frame)

    def _take_call(self, method: str, frame: Message, tasks: anyio.abc.TaskGroup) -> None:
        params = frame.params if isinstance(frame.params, msgspec.Raw) else msgspec.Raw(b"{}")
        if not isinstance(frame.id, int):
            self._handler.notification(method, params)
            return
        if frame.id in self._open_calls or len(self._open_calls) >= MAX_OPEN_CALLS:
            raise ProtocolError("a call with an id that is in use, or too many calls at once")
        self._open_calls.add(frame.id)
        if self._idle:
            self._idle.pop().take(frame.id, method, params)
        else:
            tasks.start_soon(self._answer_calls, frame.id, method, params)

    async def _answer_calls(self, id: int, method: str, params: msgspec.Raw) -> None:
        """Answer a call, and then those that it is handed: a task for each would cost more than most answers."""
        while True:
            await self._answer(id, method, params)
            if len(self._idle) >= _IDLE_ANSWERERS:
                return
            # what it was asked may be large, and is not to be held until the next
            del params
            waiting = _Idle()
            self._idle.append(waiting)
            id, method, params = await waiting.call()
            del waiting

    async def _answer(self, id: int, method: str, params: msgspec.Raw) -> None:
        try:
            reply: dict[str, Any] = {"result": await self._handler.request(method, params)}
        except RemoteError as error:
            body: dict[str, Any] = {"code": error.code, "message": error.message}
            reply = {"error": body | ({} if error.data is None else {"data": error.data})}
        finally:
            self._open_calls.discard(id)
        try:
            frame = encode_message({"jsonrpc": "2.0", "id": id, **reply})
        except ValueError as error:
            refusal = {"code": FUNCTION_FAILED, "message": f"the answer cannot be sent: {error}"}
            frame = encode_message({"jsonrpc": "2.0", "id": id, "error": refusal})
        if self._unsent + len(frame) > MAX_UNREAD:
            raise ProtocolError("the child asks and does not read its answers")
        self._put(frame)

    def _take_reply(self, frame: Message) -> None:
        if not isinstance(frame.id, int):
            raise ProtocolError("a reply without an id")
        waiting = self._waiting.get(frame.id)
        if waiting is None or waiting.settled.is_set():
            if frame.id not in self._abandoned:
                raise ProtocolError(f"a reply to nothing that was asked: {frame.id}")
            self._abandoned.discard(frame.id)
        elif not isinstance(frame.error, msgspec.UnsetType):
            data = frame.error.data if isinstance(frame.error.data, msgspec.Raw) else None
            waiting.settle(RemoteError(frame.error.code, frame.error.message, data))
        elif isinstance(frame.result, msgspec.Raw):
            waiting.settle(frame.result)
        else:
            raise ProtocolError("a reply with neither a result nor an error")


def decode_strictly(raw: msgspec.Raw, into: type[Result]) -> Result:
    """Decode what the child sent as `into`. Raises ProtocolError."""
    try:
        return msgspec.json.decode(raw, type=into)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the child sent what it may not send: {error}") from error


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    # Any: what a nested group holds is not said by its own type
    error: Any
    for error in group.exceptions:
        inner = cast("BaseExceptionGroup[BaseException]", error) if isinstance(error, BaseExceptionGroup) else None
        leaves += [error] if inner is None else _leaves(inner)
    return leaves


__all__ = ["ConnectionEnded", "Handler", "Peer", "Pending", "RemoteError", "decode_strictly"]
