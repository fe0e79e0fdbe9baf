"""Frames: what the child's bytes are taken apart into, and that nothing else can come of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox import wire
from rlm_wasm.sandbox.wire import Blob, FrameReader, Message, decode_message, encode_blob_header, encode_message

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "wire.json").read_text("utf-8"))
ROOMY = 1000


def read(chunks: Sequence[bytes], max_blob: int = ROOMY) -> tuple[list[Message | Blob], bool]:
    """The frames that the chunks hold, and whether they end between two frames."""
    reader = FrameReader(max_blob)
    frames = [frame for chunk in chunks for frame in reader.feed(chunk)]
    return frames, reader.idle


def split(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[start:end] for start, end in pairwise(places)]


def json_frame(body: bytes, header: bytes = b"") -> bytes:
    return b"Content-Length: %d\r\n%b\r\n%b" % (len(body), header, body)


def blob_frame(id: int, content: bytes) -> bytes:
    return encode_blob_header(id, len(content)) + content


def as_written(frame: Message | Blob) -> object:
    """What was given to make the frame, to compare with."""
    return (frame.id, frame.content) if isinstance(frame, Blob) else json.loads(msgspec.json.encode(frame))


# --- golden --------------------------------------------------------------------------------------------------------


def golden_frame(frame: dict[str, Any]) -> object:
    return (frame["blob"], frame["bytes"].encode("latin-1")) if "blob" in frame else frame["message"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]])
def test_the_golden_bytes_are_read_as_the_other_language_reads_them(case: dict[str, Any]) -> None:
    whole = case["bytes"].encode("latin-1")
    expected = [golden_frame(frame) for frame in case["frames"]]
    for chunks in ([whole], [whole[place : place + 1] for place in range(len(whole))]):
        reader = FrameReader(GOLDEN["max_blob"])
        frames: list[Message | Blob] = []
        error = None
        try:
            for chunk in chunks:
                frames.extend(reader.feed(chunk))
        except ProtocolError as refused:
            error = refused
        assert [as_written(frame) for frame in frames] == expected
        assert (error is not None) == ("error" in case)
        if error is None:
            assert reader.idle == case.get("idle", True)
    if case.get("canonical"):
        assert written(expected) == whole


# --- any bytes -----------------------------------------------------------------------------------------------------

MESSAGES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": st.integers(-(2**70), 2**70),
        "method": st.text(max_size=5),
        "params": st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
    },
)
FRAMES = st.lists(MESSAGES | st.tuples(st.integers(0, 10**15 - 1), st.binary(max_size=ROOMY)), max_size=5)


def written(frames: Sequence[Any]) -> bytes:
    return b"".join(blob_frame(*frame) if isinstance(frame, tuple) else encode_message(frame) for frame in frames)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_frames_come_out_as_they_went_in_however_the_pipe_cuts_them(frames: list[Any], cuts: list[int]) -> None:
    read_back, idle = read(split(written(frames), cuts))
    assert idle
    assert [as_written(frame) for frame in read_back] == frames


@given(frames=FRAMES.filter(bool), short=st.integers(1, 2000))
def test_a_pipe_that_ends_within_a_frame_is_known_to_have(frames: list[Any], short: int) -> None:
    whole = written(frames)
    last = len(written(frames[-1:]))
    read_back, idle = read([whole[: len(whole) - 1 - short % last]])
    assert [as_written(frame) for frame in read_back] == frames[:-1]
    assert idle == (short % last == last - 1)


@given(garbage=st.binary(max_size=200), frames=FRAMES, cuts=st.lists(st.integers(0, 3000), max_size=5))
@example(garbage=b"\r\n\r\n", frames=[], cuts=[])
@example(garbage=b"Content-Length: 1\r\n\r\n\xff", frames=[], cuts=[])
@example(garbage=b"Content-Length: 2\r\n\r\n{}", frames=[], cuts=[])
@example(garbage=b"Content-Length: 0\r\n\r\n", frames=[], cuts=[])
def test_any_bytes_are_frames_or_a_protocol_error_and_nothing_else(
    garbage: bytes, frames: list[Any], cuts: list[int]
) -> None:
    before: list[Message | Blob] = []
    reader = FrameReader(ROOMY)
    try:
        for chunk in split(written(frames) + garbage, cuts):
            before.extend(reader.feed(chunk))
    except ProtocolError:
        pass
    assert [as_written(frame) for frame in before[: len(frames)]] == frames


NUMBERS = st.integers(0, 2000).map(b"%d".__mod__) | st.sampled_from(
    [b"", b"-1", b"+1", b"1.0", b"1e3", b"0x10", b" 7 ", b"1 2", b"9" * 16, b"9" * 15, b"\xc2\xb2", b"1_0"]
)
LINES = st.lists(
    st.one_of(
        NUMBERS.map(b"Content-Length: %b".__mod__),
        NUMBERS.map(b"content-id:%b".__mod__),
        st.sampled_from(
            [
                b"Content-Type: application/octet-stream",
                b"Content-Type: application/vscode-jsonrpc; charset=utf-8",
                b"CONTENT-TYPE: application/json",
                b"Content-Type: text/html",
                b"X-Other: kept quiet",
                b": nameless",
                b"no colon",
                b"",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=4,
)


@given(lines=LINES, body=st.binary(max_size=30) | st.just(b'{"jsonrpc":"2.0"}'))
def test_any_header_is_a_frame_or_a_protocol_error(lines: list[bytes], body: bytes) -> None:
    reader = FrameReader(ROOMY)
    try:
        for frame in reader.feed(b"\r\n".join(lines) + b"\r\n\r\n" + body):
            assert isinstance(frame, (Message, Blob))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", "bad header line"),
        (b"Content-Type: application/json", "Content-Length is not a number: b''"),
        (b"Content-Length: ten", "Content-Length is not a number: b'ten'"),
        (b"Content-Length: -5", "Content-Length is not a number"),
        (b"Content-Length: 1\r\nContent-Length: 1", "bad header line"),
        (b"Content-Length: 1\r\ncontent-length: 2", "bad header line"),
        (b"Content-Length 5", "bad header line"),
        (b"Content-Length: 5\nX: y", "Content-Length is not a number"),
        (b"Content-Length: 5\r\nContent-Type: text/plain", "unknown Content-Type"),
        (b"Content-Length: 5\r\nContent-Type: application/json; charset=latin-1", "unknown Content-Type"),
        (b"Content-Length: 5\r\nContent-Type: application/octet-stream", "Content-Id is not a number"),
        (b"Content-Length: 1001\r\nContent-Type: application/octet-stream\r\nContent-Id: 1", "a blob of 1001 bytes"),
        (b"Content-Length: %d" % (wire.MAX_MESSAGE + 1), "is too large"),
        (b"Content-Length: 999999999999999", "is too large"),
        (b"X" * 2000, "a header is longer than 1024 bytes"),
    ],
)
def test_a_bad_header_is_refused_before_anything_is_kept_for_its_body(header: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        read([header + b"\r\n\r\n"])


def test_a_header_without_end_is_refused_when_it_is_too_long() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"Content-Length: 5\r\nX: " + b"y" * 900)) == []
    with pytest.raises(ProtocolError, match="longer than 1024 bytes"):
        list(reader.feed(b"y" * 200))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b"{}",
        b'{"jsonrpc":"1.0","id":1,"result":1}',
        b'{"jsonrpc":2.0}',
        b'{"jsonrpc":"2.0","extra":1}',
        b'{"jsonrpc":"2.0","id":"1","result":1}',
        b'{"jsonrpc":"2.0","id":1.5,"result":1}',
        b'{"jsonrpc":"2.0","id":null,"result":1}',
        b'{"jsonrpc":"2.0","id":true,"result":1}',
        b'{"jsonrpc":"2.0","method":5}',
        b'{"jsonrpc":"2.0","id":1,"error":"text"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","more":1}}',
        b'[{"jsonrpc":"2.0","id":1,"result":1}]',
        b'{"jsonrpc":"2.0","method":"\xff"}',
        b'{"jsonrpc":"2.0","method":"\\ud800"}',
        b'{"jsonrpc":"2.0","method":"a"} trailing',
        b'{"jsonrpc":"2.0","params":' + b"[" * 100_000,
        b'{"jsonrpc":"2.0","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'\xef\xbb\xbf{"jsonrpc":"2.0"}',
    ],
)
def test_a_body_that_is_no_message_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_message(body)
    with pytest.raises(ProtocolError):
        read([json_frame(body)])


@pytest.mark.parametrize("type_", ["application/vscode-jsonrpc; charset=utf-8", "application/json", "Application/JSON"])
def test_the_content_types_of_the_language_server_protocol_are_taken(type_: str) -> None:
    frames, idle = read([json_frame(b'{"jsonrpc":"2.0","id":1,"result":null}', f"Content-Type: {type_}\r\n".encode())])
    assert idle
    [frame] = frames
    assert isinstance(frame, Message)
    assert frame.id == 1
    assert bytes(frame.result) == b"null"  # pyright: ignore[reportArgumentType]


def test_blobs_are_taken_only_where_they_are_expected_and_up_to_what_was_said() -> None:
    [blob], _ = read([blob_frame(7, b"x" * 10)], max_blob=10)
    assert blob == Blob(7, b"x" * 10)
    with pytest.raises(ProtocolError, match="a blob of 11 bytes where at most 10 were expected"):
        read([blob_frame(7, b"x" * 11)], max_blob=10)
    for content in (b"", b"x"):
        with pytest.raises(ProtocolError, match="where at most 0 were expected"):
            read([blob_frame(7, content)], max_blob=0)


def test_no_message_is_sent_that_is_larger_than_what_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE", 100)
    assert encode_message({"a": "x" * 90}) == b'Content-Length: 98\r\n\r\n{"a":"' + b"x" * 90 + b'"}'
    with pytest.raises(ValueError, match="a message of 101 bytes is too large: at most 100 can be sent"):
        encode_message({"a": "x" * 93})
