"""What a machine has of what rlm_wasm needs, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator

import anyio
import msgspec

from rlm_wasm.errors import SandboxError, SandboxStartError
from rlm_wasm.sandbox import Sandbox, SandboxOptions
from rlm_wasm.sandbox import image as images
from rlm_wasm.sandbox.process import check_runtime, deno_version, find_deno, runtime_folder
from rlm_wasm.sandbox.session import make_image

Say = Callable[[str], None]

_SEALED = "a process without permissions; broker and jail; an emptied realm (self-test passed)"
_KEYS = ("OPENAI_API_KEY", "LLM_API_KEY", "AZURE_OPENAI_API_KEY")


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `state` is "ok", "fail" or "note"; `text` says what was found, or what mends it."""

    about: str
    state: str
    text: str


def findings(deno: str | None) -> Iterator[Finding]:
    """Look at everything, one thing after the other."""
    yield Finding("python", "ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    checks = {"deno": _check_deno, "runtime": _check_runtime, "image": _check_image, "sandbox": _check_sandbox}
    for about, check in checks.items():
        try:
            yield Finding(about, "ok", check(deno))
        except SandboxError as error:
            yield Finding(about, "fail", str(error))
    keys = [name for name in _KEYS if os.environ.get(name)]
    told = f"keys set: {', '.join(keys)}" if keys else "no API key is set; a local server needs none"
    yield Finding("keys", "note", told)


def report(deno: str | None, say: Say) -> int:
    """Look at everything, say what was found, and return 0 if a sandbox works here, else 1."""
    words = {"ok": "ok    ", "fail": "FAIL  ", "note": "note  "}
    sound = True
    for finding in findings(deno):
        say(f"{words[finding.state]}{finding.text}")
        sound = sound and finding.state != "fail"
    return 0 if sound else 1


def steps(deno: str | None) -> Iterator[str]:
    """Check the runtime files and make the memory image, saying what was done; raises what stops it."""
    yield _check_runtime(deno)
    path = images.path_for(find_deno(deno))
    if images.load(path) is None:
        image = anyio.run(make_image, SandboxOptions(deno=deno))
        if not images.save(path, image):
            raise SandboxStartError(f"the image could not be written to {path.parent}: set RLM_WASM_CACHE elsewhere")
    yield _check_image(deno)


def setup(deno: str | None, say: Say) -> int:
    """The same, said line by line; returns 0."""
    for step in steps(deno):
        say(f"ok    {step}")
    return 0


def _check_deno(deno: str | None) -> str:
    found = find_deno(deno)
    return f"Deno {'.'.join(map(str, deno_version(found)))} at {found}"


def _check_runtime(deno: str | None) -> str:
    check_runtime()
    return f"runtime files in {runtime_folder()}"


def _check_image(deno: str | None) -> str:
    path = images.path_for(find_deno(deno))
    if images.load(path) is not None:
        return f"memory image {path}"
    return f"no memory image yet in {path.parent}: the first start makes one"


def _check_sandbox(deno: str | None) -> str:
    async def start() -> str:
        started = time.perf_counter()
        async with Sandbox(deno=deno) as sandbox:
            ran = await sandbox.execute("import sys\nsys.version.split()[0]")
            kernel = ", ".join(sandbox.isolation.kernel) or "none here"
            took = time.perf_counter() - started
            return f"sandbox: Python {ran.value} in {took:.2f} s; {_SEALED}; the kernel's layer: {kernel}"

    return anyio.run(start)
