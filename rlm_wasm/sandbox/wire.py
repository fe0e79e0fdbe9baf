"""The wire: frames on the child's stdin and stdout. This docstring is the protocol's specification, the short one.

`deno/PROTOCOL.md` is the long one, to the byte, for whoever writes another host.

**Frames.** Those of the Language Server Protocol's base protocol: header lines ended by CR LF, an empty line, a body.
`Content-Length` is required. A body with no `Content-Type`, or one of `application/vscode-jsonrpc` or
`application/json` in UTF-8, is a JSON-RPC 2.0 message (no batches), at most 64 MiB. A body of
`application/octet-stream` is a *blob*: raw bytes, at most 4 GiB, with a `Content-Id: N` by which one later message of
the same direction refers to them. A client that never sends a blob loses nothing but speed.

**Methods of the child.** Version 1; `protocol` is checked by both sides in the first exchange.

    initialize   {protocol, functions: [name], output_chars, output_words?, output_keep?, output_mark?, echo?,
                  memory_mb?, seed?, clock?, image?: blob, resumes_after?}
                                             -> {protocol, deno, v8}
    prepare      {head: blob, wasm?: blob}   -> null                        an image is coming: this is its head
    make_image   {protocol}                  -> {protocol, image: blob}     the blob is sent ahead of the reply
    load         {name, kind, blob | text}   -> {}                          kind: "text" (UTF-8), "bytes", "value"
    load_begin   {form, length}              -> {}                          a large value, in parts: see below
    load_part    {blob}                      -> {}
    load_end     {name, kind}                -> {}                          kind: "equipment" too, Python to be run
    execute      {code, timeout}             -> {output, truncated, kept, error, value, names, restored,
                                                repeatable, timed_out, seconds}
    get          {name}                      -> {value}
    checkpoint_begin {}                      -> {memory, header, runs, size, cells, blob}
    checkpoint_part  {offset, length}        -> {blob}                      of the `size` bytes of pages
    checkpoint_end   {}                      -> {}
    interrupt    {}                          -> null                        KeyboardInterrupt in the running cell
    ping         {}                          -> {}
    shutdown     {}                          -> null                        then the process ends

An image goes whole with `initialize`, or in two: its head ahead with `prepare`, a notification, and the rest with
`initialize`; then the child is ready sooner, and the sooner if it is handed `pyodide.asm.wasm` too. `deno/image.ts`
says where the head ends.

A checkpoint is the interpreter's memory of `memory` bytes between two cells: the blob of its beginning is Pyodide's
header of `header` bytes and the table of its `runs` of pages, and the pages of all runs, `size` bytes, are asked for in
parts. Between beginning and end nothing else is asked. With `initialize` it stands for an image, whose head then names
that memory and may have no code, and `resumes_after` is the `cells` of the checkpoint.

A value that is loaded in parts comes as CPython holds it, so that nothing is decoded inside: `form` is "bytes", or for
text the width of its widest character, "ascii", "latin1", "ucs2" (UTF-16-LE) or "ucs4" (UTF-32-LE); `length` counts
characters or bytes. Parts may be sent ahead of the replies to those before them.

**Methods of the host.** `call {request}` -> `{value}`: a cell calls a host function; `request` is the value
`[name, args, kwargs]`. Notifications: `printed {stream, text}`, the head of a cell's output as it comes; `final
{value}`, what the cell gave to FINAL.

Values (`value`, `request`, a blob or text of kind "value") are JSON texts as `values.py` defines them. `timeout` and
`seconds` are seconds of computing, `output` is a list of `[stream, text]` in order, `truncated` the number of
characters left out. `kept` is where in `outputs` cells find the whole of an output that was cut, `restored` the names
that the cell had overwritten and that were put back. `repeatable` is false where the cell made use of time or chance
(a clock, a sleep, random numbers of the system's), so that it might do something else another time.

**Errors.** -32000 a host function failed, -32004 a limit of the run is reached (of both the message is shown to the
cell, and `data: {partial, limit}` may hold values: what was had, and `[limit, used, allowed]`), -32001 the cell did not
end after its interrupt, -32002 the interpreter died, -32003 another protocol version, -32005 the sandbox could not be
started or does not hold. After -32001, -32002 and -32005 the child ends.

This module does no I/O. Everything that a hostile child can send ends in a frame or in `ProtocolError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from rlm_wasm.errors import ProtocolError

PROTOCOL = 1
MAX_MESSAGE = 64 * 1024 * 1024
MAX_HEADER = 1024
_JSON_TYPE = re.compile(rb"application/(vscode-jsonrpc|json)\s*(;\s*charset=utf-?8)?", re.IGNORECASE)
_END_OF_HEADER = b"\r\n\r\n"
# the header of almost every frame
_PLAIN_HEADER = re.compile(rb"Content-Length: ([0-9]{1,15})\r\n\r\n")


class RpcError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The error of a reply."""

    code: int
    message: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON-RPC 2.0 message: a request, a notification or a reply. `params` and `result` are not yet decoded."""

    jsonrpc: str
    id: int | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | msgspec.UnsetType = msgspec.UNSET


class Blob(msgspec.Struct, frozen=True):
    """Raw bytes that a later message refers to by `id`."""

    id: int
    content: bytes


_decoder = msgspec.json.Decoder(Message)


def encode_message(message: object) -> bytes:
    """The frame of one JSON-RPC message (a mapping). Raises ValueError if it is larger than the child would take."""
    body = msgspec.json.encode(message)
    if len(body) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(body):,} bytes is too large: at most {MAX_MESSAGE:,} can be sent")
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def encode_blob_header(id: int, length: int) -> bytes:
    """The header of a blob's frame; its `length` bytes follow on the pipe."""
    return b"Content-Length: %d\r\nContent-Type: application/octet-stream\r\nContent-Id: %d\r\n\r\n" % (length, id)


def decode_message(body: bytes) -> Message:
    """Decode a JSON body strictly. Raises ProtocolError."""
    try:
        message = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of the protocol: {error}") from error
    if message.jsonrpc != "2.0":
        raise ProtocolError("not a JSON-RPC 2.0 message")
    return message


class FrameReader:
    """Takes the child's bytes apart into frames.

    `max_blob` is the largest blob that is accepted, in bytes; 0, the default, refuses all: a child sends one only when
    it was asked for a memory image. A frame is refused by its length before anything is kept for it.
    """

    def __init__(self, max_blob: int = 0) -> None:
        self.max_blob = max_blob
        self._buffer = bytearray()
        self._header: tuple[int, int | None] | None = None

    @property
    def idle(self) -> bool:
        """True between frames: the only place where the pipe may end."""
        return self._header is None and not self._buffer

    def feed(self, chunk: bytes) -> Iterator[Message | Blob]:
        """Take the next bytes; gives the frames that they complete. Raises ProtocolError."""
        self._buffer += chunk
        while True:
            if self._header is None:
                self._header = self._take_header()
                if self._header is None:
                    return
            length, blob = self._header
            if len(self._buffer) < length:
                return
            with memoryview(self._buffer) as view:
                body = bytes(view[:length])
            del self._buffer[:length]
            self._header = None
            yield decode_message(body) if blob is None else Blob(blob, body)

    def _take_header(self) -> tuple[int, int | None] | None:
        plain = _PLAIN_HEADER.match(self._buffer)
        if plain is not None and (length := int(plain[1])) <= MAX_MESSAGE:
            end = plain.end()
            # its matches hold the buffer, which could then not be cut
            del plain
            del self._buffer[:end]
            return length, None
        end = self._buffer.find(_END_OF_HEADER, 0, MAX_HEADER)
        if end < 0:
            if len(self._buffer) >= MAX_HEADER:
                raise ProtocolError(f"a header is longer than {MAX_HEADER} bytes")
            return None
        header = bytes(self._buffer[:end])
        del self._buffer[: end + len(_END_OF_HEADER)]
        return self._parse_header(header)

    def _parse_header(self, header: bytes) -> tuple[int, int | None]:
        fields: dict[bytes, bytes] = {}
        for line in header.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            name = name.strip().lower()
            if not colon or not name or name in fields:
                raise ProtocolError(f"bad header line: {line[:100]!r}")
            fields[name] = value.strip()
        length = _number(fields.get(b"content-length", b""), "Content-Length")
        kind = fields.get(b"content-type", b"")
        if kind == b"application/octet-stream":
            if length > self.max_blob or not self.max_blob:
                raise ProtocolError(f"a blob of {length} bytes where at most {self.max_blob} were expected")
            return length, _number(fields.get(b"content-id", b""), "Content-Id")
        if kind and not _JSON_TYPE.fullmatch(kind):
            raise ProtocolError(f"unknown Content-Type: {kind[:100]!r}")
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a message of {length} bytes is too large")
        return length, None


def _number(text: bytes, name: str) -> int:
    if not re.fullmatch(rb"[0-9]{1,15}", text):
        raise ProtocolError(f"{name} is not a number: {text[:100]!r}")
    return int(text)
