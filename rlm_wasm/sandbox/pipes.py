"""The host's ends of the pipes to a child, as anyio byte streams.

On POSIX the descriptors are read and written directly, when the event loop says that they are ready: there is nothing
between a frame and the kernel, and a large pipe moves a context with few switches. Elsewhere anyio's own streams serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel

# the most that an unprivileged process may ask for on Linux
PIPE_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
# reads in a row that need no waiting, before others get their turn
_READS_UNWAITED = 2
_F_SETPIPE_SZ = 1031


class _Descriptor:
    """An open file descriptor, not blocking, closed once."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._open: int | None = descriptor
        # what is to be done before it is closed
        self._on_close: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._open is None else self._open}>"

    @property
    def _fd(self) -> int:
        if self._open is None:
            raise anyio.ClosedResourceError
        return self._open

    async def aclose(self) -> None:
        """Close it; whoever waits for it is woken."""
        if self._open is None:
            return
        descriptor, self._open = self._open, None
        if self._on_close is not None:
            self._on_close()
        anyio.notify_closing(descriptor)
        os.close(descriptor)


class PipeSendStream(_Descriptor, anyio.abc.ByteSendStream):
    """The writing end of a pipe."""

    def send_now(self, item: bytes | memoryview) -> int:
        """Write what the pipe takes at once, perhaps nothing, and give how many bytes. Raises nothing: `send` will."""
        if self._open is None:
            return 0
        try:
            return os.write(self._open, item)
        except OSError:
            return 0

    async def send(self, item: bytes | memoryview) -> None:
        """Write all of it. Raises BrokenResourceError if nobody reads any more."""
        view = memoryview(item)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._fd)
            except BrokenPipeError as error:
                raise anyio.BrokenResourceError from error


class PipeReceiveStream(_Descriptor, anyio.abc.ByteReceiveStream):
    """The reading end of a pipe."""

    _unwaited = 0
    # what came last was less than was asked for: there is no more, and to try would be in vain
    _drained = False

    async def receive(self, max_bytes: int = _READ_BYTES) -> bytes:
        """What is there, at most `max_bytes`. Raises EndOfStream at the end."""
        while True:
            if self._drained:
                self._unwaited = 0
                await anyio.wait_readable(self._fd)
            try:
                chunk = os.read(self._fd, max_bytes)
            except BlockingIOError:
                self._drained = True
                continue
            self._drained = len(chunk) < max_bytes
            if not chunk:
                raise anyio.EndOfStream
            self._unwaited += 1
            if self._unwaited > _READS_UNWAITED:
                # a child that never stops writing must not keep the event loop from everybody else
                self._unwaited = 0
                await anyio.lowlevel.checkpoint()
            return chunk

    async def feed(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with what comes, as it comes, until the end. Raises what `take` raises.

        On asyncio's own event loop the kernel is asked once to tell of what comes, and not for each message, which
        costs as much as a small message itself.
        """
        pieces = _Pieces.of(self._fd)
        with contextlib.suppress(anyio.EndOfStream):
            if pieces is None:
                while True:
                    take(await self.receive())
            self._on_close = lambda: pieces.end(anyio.ClosedResourceError())
            try:
                await pieces.each(take)
            finally:
                self._on_close()
                self._on_close = None


class _Pieces:
    """What asyncio's event loop reads of a descriptor, held for the task that takes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._held: deque[bytes] = deque()
        self._ended: Exception | None = None
        self._came: asyncio.Future[None] | None = None
        loop.add_reader(descriptor, self._read)

    @classmethod
    def of(cls, descriptor: int) -> Self | None:
        """None where the event loop of the task that runs is not asyncio's, or cannot read pipes."""
        loop = _asyncio_loop()
        try:
            return None if loop is None else cls(loop, descriptor)
        except NotImplementedError:
            return None

    def _read(self) -> None:
        try:
            piece = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error)
            return
        if piece:
            self._held.append(piece)
            self._wake()
        else:
            self.end(anyio.EndOfStream())

    def _wake(self) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    def end(self, error: Exception) -> None:
        """Nothing more is read; `each` raises `error` after what is held. The first one counts."""
        if self._ended is None:
            # not a second time: the number may be another's by then
            self._loop.remove_reader(self._descriptor)
            self._ended = error
            self._wake()

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with each piece until the end, which is raised."""
        while True:
            while self._held:
                take(self._held.popleft())
            if self._ended is not None:
                raise self._ended
            self._came = self._loop.create_future()
            await self._came


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the task that runs, if it is asyncio's."""
    try:
        return asyncio.get_running_loop() if asyncio.current_task() else None
    except RuntimeError:
        return None


class Pipes:
    """The three pipes of a child: the child's ends as descriptors, the host's as streams. POSIX only."""

    def __init__(self) -> None:
        opened: list[int] = []
        try:
            for make in (_pipe, _pipe, os.pipe):
                opened += make()
        except OSError:
            # no more may be opened: those that were are given back
            for descriptor in opened:
                os.close(descriptor)
            raise
        stdin_read, stdin_write, stdout_read, stdout_write, stderr_read, stderr_write = opened
        self.theirs = (stdin_read, stdout_write, stderr_write)
        self.stdin = PipeSendStream(stdin_write)
        self.stdout = PipeReceiveStream(stdout_read)
        self.stderr = PipeReceiveStream(stderr_read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the child's ends: it has copies of its own."""
        for descriptor in self.theirs:
            os.close(descriptor)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    if sys.platform == "linux":
        import fcntl

        # where the user's share of pipe memory is used up, a small pipe is only slower
        with contextlib.suppress(OSError):
            fcntl.fcntl(ends[1], _F_SETPIPE_SZ, PIPE_BYTES)
    return ends
