"""The host's end of the connection, with a child played by the test: in memory, no process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox import peer as peer_module
from rlm_wasm.sandbox import wire
from rlm_wasm.sandbox.peer import ConnectionEnded, Handler, Peer, RemoteError
from rlm_wasm.sandbox.wire import Blob, FrameReader, Message, encode_blob_header, encode_message

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

WITHIN = 10


class Bytes(anyio.abc.ByteReceiveStream, anyio.abc.ByteSendStream):
    """A pipe in memory, whose reader gets what one `send` gave."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[bytes](1000)

    async def send(self, item: bytes) -> None:
        await self._send.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._send.close()


class FakeChild:
    """The other end: sends what it likes, and reads what the host sent."""

    def __init__(self, output: Bytes, input: Bytes) -> None:
        self._output, self._input = output, input
        self._reader = FrameReader(10**9)
        self._frames: list[Message | Blob] = []

    async def send(self, **message: Any) -> None:
        await self.send_raw(encode_message({"jsonrpc": "2.0", **message}))

    async def send_raw(self, raw: bytes) -> None:
        await self._output.send(raw)

    async def end(self) -> None:
        await self._output.aclose()

    async def receive(self) -> Any:
        while not self._frames:
            self._frames += self._reader.feed(await self._input.receive())
        frame = self._frames.pop(0)
        return frame if isinstance(frame, Blob) else json.loads(msgspec.json.encode(frame))


class Connection:
    """A peer that serves, the child at its other end, and how serving ended."""

    def __init__(self, peer: Peer, child: FakeChild) -> None:
        self.peer, self.child = peer, child
        self.ended = anyio.Event()
        self.error: BaseException | None = None


async def refuse(method: str, params: msgspec.Raw) -> object:
    raise RemoteError(-32601, f"no {method}")


@asynccontextmanager
async def connected(
    request: Any = refuse,
    notification: Callable[[str, msgspec.Raw], None] = lambda method, params: None,
    max_blob: int = 0,
) -> AsyncIterator[Connection]:
    down, up = Bytes(), Bytes()
    connection = Connection(Peer(down, up, Handler(request, notification), max_blob=max_blob), FakeChild(up, down))

    async def serve() -> None:
        try:
            await connection.peer.serve()
        except ProtocolError as error:
            connection.error = error
        finally:
            connection.ended.set()

    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield connection
            tasks.cancel_scope.cancel()


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    number: int


async def ask(connection: Connection, reply: Any) -> Answer:
    """Ask, have the child send `reply` (a frame's fields, or raw bytes), and give the result."""
    result: list[Answer] = []
    errors: list[Exception] = []

    async def request() -> None:
        try:
            result.append(await connection.peer.request("question", {"a": 1}, Answer))
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request)
        asked = await connection.child.receive()
        assert asked["method"] == "question"
        assert asked["params"] == {"a": 1}
        if isinstance(reply, bytes):
            await connection.child.send_raw(reply)
        else:
            await connection.child.send(**{"id": asked["id"], **reply})
    if errors:
        raise errors[0]
    return result[0]


async def test_a_reply_settles_the_request_that_asked_for_it() -> None:
    async with connected() as connection:
        assert await ask(connection, {"result": {"number": 1}}) == Answer(1)
        assert await ask(connection, {"result": {"number": 2}}) == Answer(2)


async def test_replies_may_come_in_any_order() -> None:
    answers: dict[str, Answer] = {}

    async def request(connection: Connection, name: str) -> None:
        answers[name] = await connection.peer.request(name, {}, Answer)

    async with connected() as connection:
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b", "c"):
                tasks.start_soon(request, connection, name)
            asked = [await connection.child.receive() for _ in range(3)]
            assert len({message["id"] for message in asked}) == 3
            for message in reversed(asked):
                await connection.child.send(id=message["id"], result={"number": ord(message["method"])})
        assert answers == {"a": Answer(97), "b": Answer(98), "c": Answer(99)}


async def test_what_was_asked_ahead_keeps_its_order_and_each_has_its_own_reply() -> None:
    async with connected() as connection:
        begun = [connection.peer.begin(name, {}, Answer) for name in ("a", "b", "c")]
        asked = [await connection.child.receive() for _ in range(3)]
        assert [message["method"] for message in asked] == ["a", "b", "c"]
        for message in reversed(asked):
            await connection.child.send(id=message["id"], result={"number": ord(message["method"])})
        assert [await pending.reply() for pending in begun] == [Answer(97), Answer(98), Answer(99)]
        assert not connection.peer.asked


async def test_the_reply_to_what_was_forgotten_is_taken_once_and_for_nothing() -> None:
    async with connected() as connection:
        forgotten, kept = (connection.peer.begin(name, {}, Answer) for name in ("a", "b"))
        first, second = [(await connection.child.receive())["id"] for _ in range(2)]
        forgotten.forget()
        assert connection.peer.asked
        await connection.child.send(id=first, result={"number": 1})
        await connection.child.send(id=second, result={"number": 2})
        assert await kept.reply() == Answer(2)
        await connection.child.send(id=first, result={"number": 1})
        await connection.ended.wait()
        assert "a reply to nothing that was asked" in str(connection.error)
        with pytest.raises(ProtocolError):
            await connection.peer.begin("later", {}, Answer).reply()


async def test_an_error_reply_is_raised_with_its_code_message_and_data() -> None:
    async with connected() as connection:
        with pytest.raises(RemoteError, match="it broke") as caught:
            await ask(connection, {"error": {"code": -32004, "message": "it broke", "data": {"partial": "[]"}}})
        assert caught.value.code == -32004
        assert msgspec.json.decode(caught.value.data) == {"partial": "[]"}  # pyright: ignore
        assert await ask(connection, {"result": {"number": 1}}) == Answer(1)


@pytest.mark.parametrize("result", [None, {}, {"number": "1"}, {"number": 1, "more": 2}, [1], 5, {"number": 1.5}])
async def test_a_result_of_another_shape_is_a_protocol_error(result: object) -> None:
    async with connected() as connection:
        with pytest.raises(ProtocolError, match="may not send"):
            await ask(connection, {"result": result})


@pytest.mark.parametrize(
    "reply",
    [
        {"id": 12345, "result": {"number": 1}},
        {"id": 0, "error": {"code": 1, "message": ""}},
        {},
        b'Content-Length: 29\r\n\r\n{"jsonrpc":"2.0","result":{}}',
        b"Content-Length: 999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"Content-Length: 5\r\n\r\n\xff\xff\xff\xff\xff",
        encode_blob_header(1, 0),
        encode_blob_header(1, 5) + b"bytes",
        b"\x00" * 5000,
    ],
)
async def test_a_child_that_breaks_the_protocol_ends_the_connection_and_fails_every_request(reply: Any) -> None:
    async with connected() as connection:
        with pytest.raises(ProtocolError):
            await ask(connection, reply)
        await connection.ended.wait()
        assert isinstance(connection.error, ProtocolError)
        with pytest.raises(ProtocolError):
            await connection.peer.request("again", {}, Answer)


async def test_the_second_reply_to_one_request_is_a_protocol_error() -> None:
    async with connected() as connection:
        await ask(connection, {"result": {"number": 1}})
        await connection.child.send(id=1, result={"number": 2})
        await connection.ended.wait()
        assert "a reply to nothing that was asked: 1" in str(connection.error)


async def test_the_end_of_the_pipe_settles_what_waits_and_what_comes_later() -> None:
    async with connected() as connection:

        async def request() -> None:
            with pytest.raises(ConnectionEnded):
                await connection.peer.request("question", {}, Answer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request)
            await connection.child.receive()
            await connection.child.end()
        await connection.ended.wait()
        assert connection.error is None
        await request()


async def test_a_pipe_that_ends_within_a_frame_is_a_protocol_error() -> None:
    async with connected() as connection:
        await connection.child.send_raw(b"Content-Length: 100\r\n\r\n{")
        await connection.child.end()
        await connection.ended.wait()
        assert "in the middle of a frame" in str(connection.error)


@given(raw=st.binary(max_size=300))
def test_whatever_the_child_says_serving_ends_cleanly_or_in_a_protocol_error(raw: bytes) -> None:
    async def play() -> None:
        async with connected() as connection:
            await connection.child.send_raw(raw or b"\0")
            await connection.child.end()
            await connection.ended.wait()

    anyio.run(play)


# --- calls of the child --------------------------------------------------------------------------------------------


async def test_calls_of_the_child_are_answered_at_once_and_each_by_its_id() -> None:
    gates = {"first": anyio.Event(), "second": anyio.Event()}

    async def answer(method: str, params: msgspec.Raw) -> object:
        await gates[method].wait()
        return {"got": msgspec.json.decode(params)}

    async with connected(answer) as connection:
        await connection.child.send(id=1, method="first", params=[1])
        await connection.child.send(id=2, method="second")
        gates["second"].set()
        assert await connection.child.receive() == {"jsonrpc": "2.0", "id": 2, "result": {"got": {}}}
        assert connection.peer.open_calls == 1
        gates["first"].set()
        assert await connection.child.receive() == {"jsonrpc": "2.0", "id": 1, "result": {"got": [1]}}
        assert connection.peer.open_calls == 0


async def test_a_refused_call_is_answered_with_its_error() -> None:
    async def answer(method: str, params: msgspec.Raw) -> object:
        raise RemoteError(-32000, "no", {"partial": "1"} if method == "partly" else None)

    async with connected(answer) as connection:
        await connection.child.send(id=1, method="wholly")
        await connection.child.send(id=2, method="partly")
        replies = {reply["id"]: reply["error"] for reply in [await connection.child.receive() for _ in range(2)]}
    assert replies == {
        1: {"code": -32000, "message": "no"},
        2: {"code": -32000, "message": "no", "data": {"partial": "1"}},
    }


async def test_an_answer_that_is_too_large_to_be_sent_is_answered_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(method: str, params: msgspec.Raw) -> object:
        return "x" * 1000

    monkeypatch.setattr(wire, "MAX_MESSAGE", 500)
    async with connected(answer) as connection:
        await connection.child.send(id=1, method="all")
        error = (await connection.child.receive())["error"]
        assert error["code"] == peer_module.FUNCTION_FAILED
        assert "a message of 1,036 bytes is too large" in error["message"]
        with pytest.raises(ValueError, match="too large"):
            await connection.peer.request("question", "x" * 1000, Answer)
        assert await ask(connection, {"result": {"number": 1}}) == Answer(1)


async def test_an_id_that_is_in_use_and_too_many_calls_are_protocol_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(method: str, params: msgspec.Raw) -> object:
        await anyio.sleep_forever()

    async with connected(never) as connection:
        await connection.child.send(id=1, method="a")
        await connection.child.send(id=1, method="b")
        await connection.ended.wait()
        assert "in use" in str(connection.error)
    monkeypatch.setattr(peer_module, "MAX_OPEN_CALLS", 3)
    async with connected(never) as connection:
        for id in range(4):
            await connection.child.send(id=id, method="a")
        await connection.ended.wait()
        assert "too many calls" in str(connection.error)


async def test_a_handler_that_finds_a_call_hostile_ends_the_connection() -> None:
    async def answer(method: str, params: msgspec.Raw) -> object:
        raise ProtocolError("hostile")

    async with connected(answer) as connection:
        await connection.child.send(id=1, method="a")
        await connection.ended.wait()
        assert str(connection.error) == "hostile"


async def test_notifications_are_heard_in_order_and_a_bad_one_ends_the_connection() -> None:
    heard: list[tuple[str, bytes]] = []

    def hear(method: str, params: msgspec.Raw) -> None:
        if method == "bad":
            raise ProtocolError("bad")
        heard.append((method, bytes(params)))

    async with connected(notification=hear) as connection:
        await connection.child.send(method="one", params={"a": 1})
        await connection.child.send(method="two")
        await connection.child.send(method="bad")
        await connection.ended.wait()
    assert heard == [("one", b'{"a":1}'), ("two", b"{}")]
    assert str(connection.error) == "bad"


# --- blobs and cancelling ------------------------------------------------------------------------------------------


async def test_blobs_go_ahead_of_the_request_that_names_them_and_arrive_whole() -> None:
    content = bytes(range(256)) * 4000
    async with connected() as connection, anyio.create_task_group() as tasks:
        params = {"blob": connection.peer.next_blob_id}
        tasks.start_soon(connection.peer.request, "load", params, Answer, (content,))
        blob = await connection.child.receive()
        asked = await connection.child.receive()
        assert blob == Blob(asked["params"]["blob"], content)
        await connection.child.send(id=asked["id"], result={"number": 1})


async def test_one_blob_of_the_child_is_kept_where_it_is_expected_and_a_second_is_not() -> None:
    async with connected(max_blob=10) as connection:
        await connection.child.send_raw(encode_blob_header(3, 4) + b"blob")
        await ask(connection, {"result": {"number": 1}})
        assert connection.peer.blobs == {3: b"blob"}
        await connection.child.send_raw(encode_blob_header(4, 4) + b"more")
        await connection.ended.wait()
        assert "a blob that nobody asked for" in str(connection.error)


async def test_a_cancelled_request_says_so_and_waits_until_the_child_is_between_two_requests() -> None:
    async with connected() as connection:
        interrupted = anyio.Event()
        done = anyio.Event()
        scope = anyio.CancelScope()

        async def request() -> None:
            with scope:
                await connection.peer.begin("question", {}, Answer).reply(interrupted.set)
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request)
            asked = await connection.child.receive()
            scope.cancel()
            await interrupted.wait()
            assert not done.is_set()
            await connection.child.send(id=asked["id"], result={"number": 1})
        assert scope.cancelled_caught
        assert not connection.peer.deaf
        assert await ask(connection, {"result": {"number": 2}}) == Answer(2)


async def test_a_child_that_does_not_answer_a_cancelled_request_is_noted_and_may_answer_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "_LINGER", 0)
    async with connected() as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.peer.begin("question", {}, Answer).reply(lambda: None)
        assert connection.peer.deaf
        asked = await connection.child.receive()
        await connection.child.send(id=asked["id"], result={"number": 1})
        assert await ask(connection, {"result": {"number": 2}}) == Answer(2)
        await connection.child.send(id=asked["id"], result={"number": 1})
        await connection.ended.wait()
        assert "nothing that was asked" in str(connection.error)


async def test_a_cancelled_sender_leaves_no_half_frame_on_the_pipe() -> None:
    content = b"x" * 3_000_000
    async with connected() as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.peer.request("load", {}, Answer, (content,))
        assert await connection.child.receive() == Blob(1, content)
        assert (await connection.child.receive())["id"] == 2
        connection.peer.notify("next", {})
        assert (await connection.child.receive())["method"] == "next"


async def test_a_child_that_asks_and_does_not_read_its_answers_is_a_protocol_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "MAX_UNREAD", 1_000_000)

    async def answer(method: str, params: msgspec.Raw) -> object:
        return "x" * 1000

    async with connected(answer) as connection:
        for id in range(1, 2500):
            # what it is sent stays in the pipe, of which it takes nothing
            await connection.child.send(id=id, method="call", params={})
        await connection.ended.wait()
    assert isinstance(connection.error, ProtocolError)
    assert "does not read its answers" in str(connection.error)


async def test_a_reply_longer_than_was_agreed_is_a_protocol_error() -> None:
    async with connected() as connection, anyio.create_task_group() as tasks:

        async def request() -> None:
            with pytest.raises(ProtocolError, match="a longer reply than the 5 bytes that were agreed"):
                await connection.peer.begin("question", {}, Answer).reply(max_bytes=5)

        tasks.start_soon(request)
        asked = await connection.child.receive()
        await connection.child.send(id=asked["id"], result={"number": 1})
