"""The memory image on disk: a booted interpreter from which sandboxes start in a fraction of the time.

Knows where it lies, what it depends on, and when not to trust it. An image is never a reason to fail: whatever goes
wrong here, `load` gives None and the sandbox boots without.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import struct
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rlm_wasm.cache_folder import cache_folder
from rlm_wasm.sandbox.process import SOURCES, V8_FLAGS, check_runtime, runtime_folder
from rlm_wasm.whole_file import written_whole

_MAGIC = b"rlm-wasm image 2\n"
# magic, version, bytes of code, of memory, of Pyodide's header, count of runs of pages
_FIELDS = struct.Struct("<6I")
# of deno/image.ts
_IMAGE_MAGIC, _IMAGE_VERSION = int.from_bytes(b"RLMI", "little"), 1
_LOCK_SECONDS = 60
_PART = ".part"
# one for each version that is installed on a machine, and a few to spare
_KEPT_IMAGES = 6
MAX_BYTES = 256 * 1024 * 1024


@cache
def _runtime_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    # no other file of the folder: an installed package has fewer of them than a checkout, and runs the same
    for name in sorted(SOURCES):
        digest.update((folder / name).read_bytes())
    digest.update((folder / "pyodide" / "manifest.json").read_bytes())
    return digest.hexdigest()


def path_for(deno: Path, packages: str = "") -> Path:
    """The file of the image for this Deno binary, its flags, the runtime files as they are, and the archive with this
    hash.

    Deno stands in the key by the binary's size and time of change: asking it for its version would cost a process.
    Raises SandboxStartError if a runtime file is missing.
    """
    status = deno.stat()
    try:
        runtime = _runtime_hash(runtime_folder())
    except OSError:
        check_runtime()
        raise
    flags = " ".join(V8_FLAGS)
    key = f"{runtime} {deno} {status.st_size} {status.st_mtime_ns} {flags} {platform.machine()} {packages}"
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.image"


def build() -> str:
    """What the memory of an interpreter depends on: Pyodide and the files that run inside. Raises SandboxStartError."""
    check_runtime()
    return _runtime_hash(runtime_folder())


def head(code_of: bytes | None, memory_bytes: int, header: bytes, runs: int) -> bytes:
    """The head of an image of another memory, with the code of this one; None for no code."""
    magic, version, code = _IMAGE_MAGIC, _IMAGE_VERSION, b""
    if code_of is not None:
        magic, version, length = _FIELDS.unpack_from(code_of)[:3]
        code = code_of[_FIELDS.size : _FIELDS.size + length]
    fields = _FIELDS.pack(magic, version, len(code), memory_bytes, len(header), runs)
    return fields + code + bytes(-len(code) % 4) + header + bytes(-len(header) % 4)


def memory_bytes(image: bytes) -> int:
    """Bytes that the image's memory takes; 0 for what is no image."""
    return _FIELDS.unpack_from(image)[3] if len(image) >= _FIELDS.size else 0


def with_code_of(image: bytes, own: bytes | None) -> bytes:
    """An image of which only the memory is taken, with the code of one of our own.

    What ran where it was made is not trusted: code is run outside of the interpreter. Raises ValueError for
    what is no image.
    """
    if len(image) < _FIELDS.size:
        raise ValueError("no image")
    _, _, code, memory, header, runs = _FIELDS.unpack_from(image)
    start = _FIELDS.size + -(-code // 4) * 4
    end = start + -(-header // 4) * 4
    if end + 8 * runs > len(image):
        raise ValueError("a damaged image")
    return head(own, memory, image[start : start + header], runs) + image[end:]


def split(image: bytes) -> tuple[memoryview, memoryview]:
    """The head of an image, which a child can use while the rest is on its way, and the rest (see deno/image.ts)."""
    view = memoryview(image)
    if len(image) < _FIELDS.size:
        return view, view[:0]
    _, _, code, _, header, _ = _FIELDS.unpack_from(image)
    head = _FIELDS.size + -(-code // 4) * 4 + -(-header // 4) * 4
    return view[:head], view[head:]


@cache
def web_assembly() -> bytes:
    """CPython as WebAssembly, read once for all sandboxes of a process. Raises SandboxStartError if it is not there."""
    try:
        return (runtime_folder() / "pyodide" / "pyodide.asm.wasm").read_bytes()
    except OSError:
        check_runtime()
        raise


# one read and one check for each process: sandboxes of a pool share the bytes
_checked: dict[tuple[Path, int, int], bytes] = {}


def load(path: Path) -> bytes | None:
    """The image, if it is there, whole, and nobody else's; None otherwise. A damaged file is removed."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            known = _checked.get((path, status.st_size, status.st_mtime_ns))
            if known is not None:
                return known
            if sys.platform != "win32" and (status.st_uid != os.getuid() or status.st_mode & 0o077):
                return None
            content = file.read(MAX_BYTES)
    except OSError:
        return None
    header = len(_MAGIC) + 32
    image = content[header:]
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : header] != hashlib.sha256(image).digest():
        discard(path)
        return None
    _checked.clear()
    _checked[path, status.st_size, status.st_mtime_ns] = image
    return image


def save(path: Path, image: bytes) -> bool:
    """Write the image whole or not at all, readable by nobody else. False if the disk would not have it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with written_whole(path, durable=False, suffix=_PART) as file:
            file.write(_MAGIC + hashlib.sha256(image).digest())
            file.write(image)
    except OSError:
        return False
    # another process may remove the same files at the same time
    with contextlib.suppress(OSError):
        _prune(path.parent)
    return True


def _prune(folder: Path) -> None:
    """Remove all but the latest images, which nobody asks for again, and what writers that were killed left."""
    latest_first = sorted(folder.glob("*.image"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in latest_first[_KEPT_IMAGES:]:
        discard(path)
    for path in folder.glob(f"*{_PART}"):
        if time.time() - path.stat().st_mtime > _LOCK_SECONDS:
            discard(path)


@contextmanager
def making(path: Path) -> Generator[bool]:
    """True for the one process that is to make the image at `path` now; the others do without, and do not wait."""
    lock = path.with_suffix(".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if time.time() - lock.stat().st_mtime > _LOCK_SECONDS:
            # whoever held it died
            lock.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError:
        yield False
        return
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        discard(lock)


def discard(path: Path) -> None:
    """Remove the file if it is there and may be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
