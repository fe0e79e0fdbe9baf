"""A checkpoint: the whole memory of a used sandbox as a value, and as a file.

Owns the format of the file and what is refused. Does not look into the memory: that is the prisoner's, and is restored
inside the same prison, so that restoring a stranger's checkpoint is as safe as running a stranger's cell.

A file is `rlm-wasm checkpoint`, a space, the version of the format and a newline; the length of the manifest (32 bits,
little-endian) and the manifest, a JSON object; then the header and the body as `deno/image.ts` describes them, one
after the other, compressed by zlib. The manifest holds their lengths and the SHA-256 of both together.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Protocol, Self, TypeVar

import msgspec

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox import image as images
from rlm_wasm.sandbox.memory import BOOT_MB, MAX_MEMORY_MB, megabytes
from rlm_wasm.sandbox.messages import CheckpointBegun, CheckpointPart, Empty
from rlm_wasm.sandbox.peer import Peer
from rlm_wasm.whole_file import written_whole

_MAGIC = b"rlm-wasm checkpoint "
_VERSION = 1
_LENGTH = struct.Struct("<I")
# bytes; a manifest holds names, of which there are at most 256
_MAX_MANIFEST = 1024 * 1024
_MAX_HEADER = 1024 * 1024
# bytes of memory that the child is asked for at a time
_PART = 8 * 1024 * 1024
# bytes that are compressed or read at a time
_CHUNK = 4 * 1024 * 1024
# the quickest: most of a memory is either text, which any level halves, or nothing
_LEVEL = 1


_Reply = TypeVar("_Reply")


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    build: str
    memory_bytes: int
    runs: int
    header_bytes: int
    body_bytes: int
    sha256: str
    memory_mb: int
    cells: int
    names: tuple[str, ...]
    functions: tuple[str, ...]
    packages: tuple[tuple[str, str], ...] = ()

    def check(self) -> None:
        """Raise ValueError for figures that no checkpoint has."""
        # 32 bits, as the image's head has them
        most = (MAX_MEMORY_MB + BOOT_MB) * 1024 * 1024 - 1
        bounds = {
            "memory_bytes": most,
            "runs": most // 4096,
            "header_bytes": _MAX_HEADER,
            "body_bytes": most + 8 * (most // 4096),
            "memory_mb": MAX_MEMORY_MB,
            "cells": 1 << 53,
        }
        for name, bound in bounds.items():
            if not 0 <= getattr(self, name) <= bound:
                raise ValueError(f"{name} is {getattr(self, name):,}")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox's memory between two cells: variables, functions, instances, paused generators, modules and files.

    Taken by `Sandbox.checkpoint`, restored by `Sandbox.restore`. `names` are the variables (256 at most), `functions`
    the host functions, whose answers are the host's affair again. `cells` is how many cells had been run. `packages`
    are those of the sandbox, with versions, and the SHA-256 of their wheels.
    """

    build: str
    memory_bytes: int
    runs: int
    header: bytes
    body: bytes | bytearray
    memory_mb: int
    cells: int
    names: tuple[str, ...]
    functions: tuple[str, ...]
    packages: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<Checkpoint after {self.cells} cells, {len(self.names)} variables, {megabytes(self.size):,} MB>"

    @property
    def size(self) -> int:
        """Bytes that it takes in the host's memory."""
        return len(self.header) + len(self.body)

    def check_build(self) -> None:
        """Raise ValueError if it is of another build of rlm_wasm than this one."""
        if self.build != images.build():
            raise ValueError(
                "the checkpoint is of another build of rlm_wasm: a memory means something only to the interpreter it "
                "was taken of; restore it where it was made, or with the same version installed"
            )

    def check_packages(self, packages: tuple[tuple[str, str], ...]) -> None:
        """Raise ValueError if it needs packages and these, with versions and hashes of their wheels, are others."""
        if self.packages and self.packages != packages:
            needed, there = (", ".join(name for name, _ in each) or "none" for each in (self.packages, packages))
            raise ValueError(
                f"the checkpoint is of a sandbox with other packages: it had {needed}, and there are {there}; give "
                "packages= as its sandbox had them, from wheels with the same hashes"
            )

    def memory_for(self, chosen: int | None) -> int:
        """The memory, in MB, to restore it with. Raises ValueError if `chosen` is less than it holds."""
        needed = max(1, megabytes(self.memory_bytes) - BOOT_MB)
        if chosen is not None and chosen < needed:
            raise ValueError(f"the checkpoint holds {needed:,} MB, and memory_mb={chosen}: raise it, or leave it out")
        return chosen or max(self.memory_mb, needed)

    def image(self, code_of: bytes | None) -> tuple[bytes, memoryview]:
        """Head and body of the image that it is. The code is of an image of our own: never is it a guest's."""
        return images.head(code_of, self.memory_bytes, self.header, self.runs), memoryview(self.body)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it, compressed, whole or not at all, readable by nobody else. Raises OSError."""
        digest = hashlib.sha256(self.header)
        digest.update(self.body)
        manifest = msgspec.json.encode(
            _Manifest(
                build=self.build,
                memory_bytes=self.memory_bytes,
                runs=self.runs,
                header_bytes=len(self.header),
                body_bytes=len(self.body),
                sha256=digest.hexdigest(),
                memory_mb=self.memory_mb,
                cells=self.cells,
                names=self.names,
                functions=self.functions,
                packages=self.packages,
            )
        )
        with written_whole(Path(path)) as file:
            file.write(b"%b%d\n" % (_MAGIC, _VERSION) + _LENGTH.pack(len(manifest)) + manifest)
            self._write_content(file)

    def _write_content(self, file: BinaryIO) -> None:
        compressor = zlib.compressobj(_LEVEL)
        for content in (memoryview(self.header), memoryview(self.body)):
            for start in range(0, len(content), _CHUNK):
                file.write(compressor.compress(content[start : start + _CHUNK]))
        file.write(compressor.flush())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read one from a file. Raises FileNotFoundError, or ValueError that says what is wrong with it."""
        with Path(path).open("rb") as file:
            try:
                return cls._read(file)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)} cannot be restored: {error}") from None

    @classmethod
    def _read(cls, file: BinaryIO) -> Self:
        manifest = _read_manifest(file)
        content = _Content(file)
        header = bytes(content.take(manifest.header_bytes))
        body = content.take(manifest.body_bytes)
        content.end()
        digest = hashlib.sha256(header)
        digest.update(body)
        if digest.hexdigest() != manifest.sha256:
            raise ValueError("it is damaged (its checksum differs)")
        return cls(
            build=manifest.build,
            memory_bytes=manifest.memory_bytes,
            runs=manifest.runs,
            header=header,
            body=body,
            memory_mb=manifest.memory_mb,
            cells=manifest.cells,
            names=manifest.names,
            functions=manifest.functions,
            packages=manifest.packages,
        )


class Ask(Protocol):
    """Asks the child; see `Sandbox._ask`."""

    async def __call__(self, method: str, params: Mapping[str, object], into: type[_Reply], /) -> _Reply: ...


async def take(
    ask: Ask,
    peer: Peer,
    *,
    memory_mb: int,
    names: tuple[str, ...],
    functions: Iterable[str],
    at_most_mb: float | None = None,
    packages: tuple[tuple[str, str], ...] = (),
) -> Checkpoint:
    """Take a checkpoint of the child that is asked.

    Raises RemoteError if it has a reason against it, ValueError if it is larger than `at_most_mb`, ProtocolError.
    """
    with peer.accepting(_MAX_HEADER + _PART):
        begun = await ask("checkpoint_begin", {}, CheckpointBegun)
        begun.check(memory_mb)
        if at_most_mb is not None and begun.size > at_most_mb * 1_000_000:
            await ask("checkpoint_end", {}, Empty)
            raise ValueError(f"the checkpoint has {megabytes(begun.size):,} MB, and {at_most_mb:,} were allowed")
        head = peer.blob(begun.blob)
        header, table = head[: begun.header], head[begun.header :]
        if len(table) != 8 * begun.runs:
            raise ProtocolError("the child sent a checkpoint without its table")
        body = bytearray(len(table) + begun.size)
        body[: len(table)] = table
        with memoryview(body)[len(table) :] as pages:
            for offset in range(0, begun.size, _PART):
                length = min(_PART, begun.size - offset)
                reply = await ask("checkpoint_part", {"offset": offset, "length": length}, CheckpointPart)
                part = peer.blob(reply.blob)
                if len(part) != length:
                    raise ProtocolError("the child sent a part of a checkpoint of another length than was asked for")
                pages[offset : offset + length] = part
        await ask("checkpoint_end", {}, Empty)
    return Checkpoint(
        build=images.build(),
        memory_bytes=begun.memory,
        runs=begun.runs,
        header=header,
        body=body,
        memory_mb=memory_mb,
        cells=begun.cells,
        names=names,
        functions=tuple(functions),
        packages=packages,
    )


def _read_manifest(file: BinaryIO) -> _Manifest:
    first = file.readline(len(_MAGIC) + 10)
    if not first.startswith(_MAGIC) or not first[len(_MAGIC) : -1].isdigit():
        raise ValueError("it is no checkpoint")
    version = int(first[len(_MAGIC) :])
    if version != _VERSION:
        raise ValueError(f"its format is {version}, and this rlm_wasm knows {_VERSION}: install the version it is of")
    length = file.read(_LENGTH.size)
    text = file.read(min(_LENGTH.unpack(length)[0], _MAX_MANIFEST)) if len(length) == _LENGTH.size else b""
    try:
        manifest = msgspec.json.decode(text, type=_Manifest)
        manifest.check()
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is damaged or cut short (its manifest: {error})") from None
    return manifest


class _Content:
    """What is compressed in a file, taken from it by announced lengths and no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zlib.decompressobj()
        self._left = b""

    def take(self, length: int) -> bytearray:
        taken = bytearray()
        while len(taken) < length:
            part = self._part(min(_CHUNK, length - len(taken)))
            if not part:
                raise ValueError("it is cut short")
            taken += part
        return taken

    def _part(self, most: int) -> bytes:
        """More of the content; empty at its end."""
        try:
            while not self._decompressor.eof:
                compressed = self._left or self._file.read(_CHUNK)
                part = self._decompressor.decompress(compressed, most)
                self._left = self._decompressor.unconsumed_tail
                if part or not compressed:
                    return part
        except zlib.error as error:
            raise ValueError(f"it is damaged ({error})") from None
        return b""

    def end(self) -> None:
        if self._part(1) or not self._decompressor.eof or self._decompressor.unused_data or self._file.read(1):
            raise ValueError("it is damaged (there is more in it than was announced, or its end is missing)")
