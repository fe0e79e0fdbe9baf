"""Coverage-guided fuzzing of what reads a hostile child: `wire.py`, `peer.py` and `values.py`. A job run by hand:

    pip install atheris && python tests/fuzz/fuzz_wire.py -max_total_time=300 tests/fuzz/corpus

Whatever bytes come, the only exception may be ProtocolError, and a peer must end. New inputs that reach new code are
added to the corpus folder, which is kept in the repository. Needs Linux and a Python that atheris has a wheel for.
"""

# atheris has no types
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import sys

import anyio
import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["rlm_wasm"]):
    import msgspec

    from rlm_wasm.errors import ProtocolError
    from rlm_wasm.sandbox.peer import ConnectionEnded, Handler, Peer, RemoteError
    from rlm_wasm.sandbox.values import decode
    from rlm_wasm.sandbox.wire import FrameReader


class Fed:
    """A stream that hands out what it was given, in pieces, and then ends; what is sent to it is dropped."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._pieces:
            raise anyio.EndOfStream
        return self._pieces.pop(0)

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()


def split(data: bytes) -> list[bytes]:
    """The bytes in pieces whose sizes the first byte chooses."""
    size = data[0] + 1 if data else 1
    return [data[start : start + size] for start in range(1, len(data), size)]


def read_frames(data: bytes) -> None:
    """The reader gives frames or ProtocolError."""
    reader = FrameReader(max_blob=1000)
    try:
        for piece in split(data):
            for _ in reader.feed(piece):
                pass
    except ProtocolError:
        return


async def serve(data: bytes) -> None:
    """A peer ends, with or without ProtocolError, and settles what was asked."""

    async def answer(method: str, params: msgspec.Raw) -> object:
        if method == "fail":
            raise RemoteError(-32000, "no")
        return {"value": params}

    stream = Fed(split(data))
    peer = Peer(stream, stream, Handler(answer, lambda method, params: None), max_blob=1000)  # pyright: ignore
    settled: list[str] = []

    async def ask() -> None:
        with contextlib.suppress(ConnectionEnded, ProtocolError, RemoteError):
            await peer.request("execute", {}, dict[str, int])
        settled.append("settled")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            with contextlib.suppress(ProtocolError):
                await peer.serve()
    assert settled == ["settled"]


def test_one_input(data: bytes) -> None:
    """What the fuzzer calls with each input."""
    read_frames(data)
    anyio.run(serve, data)
    with contextlib.suppress(ProtocolError):
        decode(data.decode("utf-8", "replace"))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
