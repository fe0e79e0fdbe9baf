"""PDF, DOCX and HTML to text, by libraries that run in a sandbox of their own.

A document is hostile input to whatever reads it. So it is read where code that a model wrote is run: in a process
without permissions, which is started for it, gets the sources of the libraries as data, and is ended afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import time
import zipfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import anyio.from_thread
import anyio.to_thread
import msgspec

import rlm_wasm.inside
from rlm_wasm.errors import SandboxError, SandboxStartError
from rlm_wasm.sandbox import Checkpoint, Sandbox, SandboxOptions
from rlm_wasm.sandbox.image import build, cache_folder

# by kind: what reads it, with what that imports
_LIBRARIES = {
    "pdf": ("pypdf",),
    "html": ("markdownify", "bs4", "soupsieve", "six", "typing_extensions"),
    "docx": ("mammoth", "cobble", "markdownify", "bs4", "soupsieve", "six", "typing_extensions"),
}
_SUFFIXES = {".pdf": "pdf", ".docx": "docx", ".html": "html", ".htm": "html", ".xhtml": "html"}
_BEGINNINGS = {"pdf": b"%PDF-", "docx": b"PK\x03\x04", "html": b""}
_SHOWN = 300


class NotRead(msgspec.Struct, frozen=True):
    """Why a document has no text; `missing`: because the libraries are not installed."""

    why: str
    missing: bool = False


def kind_of(name: str, content: bytes) -> str | None:
    """Which document it is, by its name and its beginning: "pdf", "docx", "html" or None."""
    kind = _SUFFIXES.get(PurePosixPath(name).suffix.lower())
    return kind if kind is not None and _BEGINNINGS[kind] in content[:1024] else None


def convert(
    documents: Sequence[tuple[str, bytes]],
    *,
    encoding: str | None = None,
    seconds: float = 300.0,
    sandbox: SandboxOptions | None = None,
) -> list[str | NotRead]:
    """The texts of documents of these kinds, in order, or why there is none; Markdown of DOCX and HTML.

    Takes no longer than `seconds` to read them, all together; what is left then is not read. `encoding`: of HTML that
    does not say it. Without a sandbox none is read.
    """
    kinds = {kind for kind, _ in documents}
    missing = {kind: NotRead(_missing(kind), missing=True) for kind in kinds if _missing(kind)}
    wanted = [(kind, content) for kind, content in documents if kind not in missing]
    made: list[str | NotRead] = []
    if wanted:
        base = sandbox or SandboxOptions()
        options = SandboxOptions(deno=base.deno, use_image=base.use_image, require=base.require, timeout=seconds)
        convert_there = functools.partial(_convert, wanted, encoding, options)
        # in a thread of its own, which has an event loop whatever there is in this one
        with anyio.from_thread.start_blocking_portal() as portal:
            made = portal.call(convert_there)
    converted = iter(made)
    return [missing[kind] if kind in missing else next(converted) for kind, _ in documents]


def _missing(kind: str) -> str:
    """What is to be installed for a kind of document; "" if all is there."""
    absent = [name for name in _LIBRARIES[kind] if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    return f"reading {kind.upper()} needs {absent[0]}: pip install 'rlm-wasm[documents]'"


async def _convert(
    documents: Sequence[tuple[str, bytes]], encoding: str | None, options: SandboxOptions
) -> list[str | NotRead]:
    ends = time.monotonic() + options.timeout
    made: list[str | NotRead] = []
    try:
        async with _reader(sorted({kind for kind, _ in documents}), options) as sandbox:
            for kind, content in documents:
                left = ends - time.monotonic()
                made.append(
                    await _read_one(sandbox, kind, content, encoding, left)
                    if left > 0
                    else NotRead(f"there was no time left to read it (FileLimits(seconds={options.timeout:g}))")
                )
    except (SandboxStartError, ValueError) as error:
        made += [NotRead(f"no sandbox to read it in: {_short(error)}")] * (len(documents) - len(made))
    return made


@asynccontextmanager
async def _reader(kinds: Sequence[str], options: SandboxOptions) -> AsyncGenerator[Sandbox]:
    """A sandbox that has imported what reads these kinds, as one was kept before it read anything; else it is made.

    One that is to be kept has imported what reads the others too, so that there is one for all.
    """
    if options.use_image:
        kinds = [kind for kind in _LIBRARIES if not _missing(kind)]
    libraries = _bundle({name for kind in kinds for name in _LIBRARIES[kind]})
    program = Path(rlm_wasm.inside.__file__).with_name("converting.py").read_text("utf-8")
    digest = hashlib.sha256(libraries + program.encode() + build().encode()).hexdigest()[:16]
    path = cache_folder() / f"documents-{digest}.checkpoint"
    kept = await anyio.to_thread.run_sync(_kept, path) if options.use_image else None
    if kept is not None:
        async with Sandbox.restore(kept, options=options) as sandbox:
            yield sandbox
        return
    async with Sandbox(options=options) as sandbox:
        await sandbox.load(document_libraries=libraries)
        await sandbox.equip([("rlm_converting", program)])
        await sandbox.execute(f"import_for({list(kinds)!r})")
        if options.use_image:
            await anyio.to_thread.run_sync(_keep, path, await sandbox.checkpoint())
        yield sandbox


def _kept(path: Path) -> Checkpoint | None:
    try:
        return Checkpoint.load(path)
    except (OSError, ValueError):
        # what is damaged is made and written anew
        return None


def _keep(path: Path, checkpoint: Checkpoint) -> None:
    # what cannot be written costs only time, the next time
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for older in path.parent.glob("documents-*.checkpoint"):
            older.unlink(missing_ok=True)
        checkpoint.save(path)


async def _read_one(sandbox: Sandbox, kind: str, content: bytes, encoding: str | None, left: float) -> str | NotRead:
    try:
        await sandbox.load_once(document=content, document_kind=kind, document_encoding=encoding)
        run = await sandbox.execute("text = document_text(document_kind, document, document_encoding)", timeout=left)
        if run.timed_out:
            return NotRead("reading it took too long")
        if run.error is not None:
            return NotRead(f"it could not be read: {_short(run.error.strip().rpartition(chr(10))[2])}")
        text: Any = await sandbox.get("text")
    except (SandboxError, ValueError, TypeError, KeyError) as error:
        return NotRead(f"it could not be read: {_short(error)}")
    return text if isinstance(text, str) else NotRead("it could not be read")


def _short(what: object) -> str:
    return " ".join(str(what).split())[:_SHOWN]


def _bundle(names: set[str]) -> bytes:
    """The Python sources of installed modules and packages as a zip that Python imports from."""
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as target:
        for name in sorted(names):
            spec = importlib.util.find_spec(name)
            assert spec is not None
            for folder in spec.submodule_search_locations or ():
                for path in sorted(Path(folder).rglob("*.py")):
                    target.write(path, f"{name}/{path.relative_to(folder).as_posix()}")
            if spec.submodule_search_locations is None and spec.origin is not None:
                target.write(spec.origin, f"{name}.py")
    return bundle.getvalue()
