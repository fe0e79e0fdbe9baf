"""One child: find Deno and the runtime files, spawn without any permission, drain stderr, kill.

Knows nothing of what is said on the pipes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from rlm_wasm.errors import SandboxStartError
from rlm_wasm.sandbox.job import Job
from rlm_wasm.sandbox.kernel import Launcher, data_bytes, find_launcher
from rlm_wasm.sandbox.memory import BOOT_MB, DEFAULT_MEMORY_MB
from rlm_wasm.sandbox.pipes import Pipes

MIN_DENO = (2, 9, 0)
_STDERR_KEPT = 64 * 1024
_LAUNCH_WITHIN = 5.0
_INSTALL_DENO = "install it with: pip install 'rlm-wasm[deno]'"
# what main.ts imports, directly or not; `deno/checkpoint.ts` has the same list
SOURCES = (
    *("main.ts", "peer.ts", "wire.ts", "sandbox.ts", "clock.ts", "assets.ts", "sources.ts", "glue.ts", "image.ts"),
    *("linking.ts", "loading.ts", "mailbox.ts", "packages.ts", "realm.ts", "seed.ts", "worker.ts"),
    *("interpreter.ts", "jail_messages.ts", "prelude.py", "awaits.py", "equipment.py", "files.py", "names.py"),
    *("output.py", "packages.py", "threads.py", "tracebacks.py", "values.py"),
)
# the second, because optimised code that was wrong in a guess was thrown away for the slow one, which was gone by then:
# the first cell after a second of rest took three times as long
V8_FLAGS = ("--disallow-code-generation-from-strings", "--no-wasm-deopt")
_PERMISSIONS = ("read", "write", "net", "env", "run", "ffi", "sys", "import")


class ChildOptions(msgspec.Struct, frozen=True):
    """How to start a child: the Deno binary (None: find one), the memory of its sandbox in MB beyond boot, and whether
    the kernel's layer is asked for."""

    deno: str | os.PathLike[str] | None = None
    memory_mb: int = DEFAULT_MEMORY_MB
    confined: bool = True


@cache
def runtime_folder() -> Path:
    """The folder of the prisoner's files: `_deno` in an installed package, `deno` beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_deno"
    return installed if installed.is_dir() else package.parent / "deno"


def find_deno(deno: str | os.PathLike[str] | None = None) -> Path:
    """The Deno binary: `deno`, else RLM_WASM_DENO, else the `deno` package from PyPI, else PATH.

    Raises SandboxStartError, naming the command that mends it.
    """
    for origin, given in (("deno=", deno), ("RLM_WASM_DENO", os.environ.get("RLM_WASM_DENO"))):
        if given:
            found = shutil.which(given)
            if found is None:
                raise SandboxStartError(f"{origin} names {os.fspath(given)!r}, which is not a program; {_INSTALL_DENO}")
            # the child has another working directory
            return Path(found).absolute()
    packaged = _packaged_deno()
    if packaged is not None:
        return packaged
    found = shutil.which("deno")
    if found is None:
        raise SandboxStartError(f"Deno was not found; {_INSTALL_DENO}")
    return Path(found).absolute()


def _packaged_deno() -> Path | None:
    if importlib.util.find_spec("deno") is None:
        return None
    try:
        # a checkout's own folder of that name may stand in for the package where the package is not installed
        from deno import find_deno_bin  # pyright: ignore  # an optional extra, with no types

        return Path(find_deno_bin())
    except (ImportError, FileNotFoundError):
        return None


def deno_version(deno: Path) -> tuple[int, int, int]:
    """The version of a Deno binary. Raises SandboxStartError if it does not run or is older than is needed."""
    try:
        done = subprocess.run([deno, "--version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxStartError(f"{deno} does not run ({error}); {_INSTALL_DENO}") from error
    match = re.match(r"deno (\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise SandboxStartError(f"{deno} is not Deno: it said {done.stdout[:80]!r}; {_INSTALL_DENO}")
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < MIN_DENO:
        wanted = ".".join(map(str, MIN_DENO))
        raise SandboxStartError(f"{deno} is version {match[0][5:]}, and {wanted} or newer is needed; {_INSTALL_DENO}")
    return version


def damaged_files() -> list[str]:
    """The runtime files that are missing or damaged, in words; empty when all are whole. Reads 14 MB."""
    folder = runtime_folder()
    missing = [name for name in SOURCES if not (folder / name).is_file()]
    try:
        listed = json.loads((folder / "pyodide" / "manifest.json").read_text("utf-8"))["files"]
        manifest: dict[str, str] = {name: entry["sha256"] for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [*(f"{name} is missing" for name in missing), "pyodide/manifest.json is missing or damaged"]
    problems = [f"{name} is missing" for name in missing]
    for name, expected in manifest.items():
        try:
            actual = hashlib.sha256((folder / "pyodide" / name).read_bytes()).hexdigest()
        except OSError:
            problems.append(f"pyodide/{name} is missing")
        else:
            if actual != expected:
                problems.append(f"pyodide/{name} is damaged")
    return problems


def check_runtime() -> None:
    """Raise SandboxStartError if a runtime file is missing or damaged."""
    problems = damaged_files()
    if problems:
        mend = "reinstall rlm-wasm (in a checkout: python deno/fetch_pyodide.py)"
        raise SandboxStartError(f"runtime files in {runtime_folder()}: {'; '.join(problems)}; {mend}")


def command(deno: Path, memory_mb: int) -> list[str]:
    """The command line of a child: every permission denied, nothing fetched, nothing read but its own files."""
    pages = (BOOT_MB + memory_mb) * 16
    return [
        os.fspath(deno),
        "run",
        *("--no-prompt", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--cached-only", "--no-code-cache"),
        *("--node-modules-dir=none", "--quiet"),
        *(f"--deny-{permission}" for permission in _PERMISSIONS),
        *("--unstable-worker-options", "--unstable-raw-imports"),
        f"--v8-flags={','.join(V8_FLAGS)},--wasm-max-mem-pages={pages}",
        os.fspath(runtime_folder() / "main.ts"),
    ]


def environment(folder: Path) -> dict[str, str]:
    """The whole environment of a child: nothing of the host's goes in."""
    variables = {
        "DENO_DIR": os.fspath(folder / "deno"),
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PACKAGE_JSON": "1",
        "NO_COLOR": "1",
        # large buffers go back to the system when they are freed: 25 MB less of an idle sandbox
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }
    if sys.platform == "win32":
        variables["SystemRoot"] = os.environ.get("SYSTEMROOT", r"C:\Windows")
    return variables


class Child:
    """A running child process. Made by `spawned`; its pipes are `stdin` and `stdout`."""

    def __init__(
        self,
        process: anyio.abc.Process,
        deno: Path,
        launcher: Launcher | None,
        stdin: anyio.abc.ByteSendStream,
        stdout: anyio.abc.ByteReceiveStream,
        stderr: anyio.abc.ByteReceiveStream,
    ) -> None:
        self._process = process
        self._launcher = launcher
        self.deno = deno
        self.stdin, self.stdout = stdin, stdout
        self._stderr = stderr
        self._tail = bytearray()
        self._layers: tuple[str, ...] = () if launcher is None else launcher.layers
        self._launched = anyio.Event()
        self._job: Job | None = None

    def __repr__(self) -> str:
        state = "running" if self._process.returncode is None else f"ended with {self._process.returncode}"
        return f"<Child {self._process.pid} {state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr_tail(self) -> str:
        """The last that it wrote to stderr, with control characters escaped."""
        text = self._tail.decode("utf-8", "replace")
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text).strip()

    async def drain_stderr(self) -> None:
        """Read stderr until it ends, so that the child never blocks on it."""
        try:
            while True:
                self._tail += await self._stderr.receive()
                if not self._launched.is_set():
                    self._take_launch()
                del self._tail[:-_STDERR_KEPT]
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._launched.set()

    async def kernel_layers(self) -> tuple[str, ...]:
        """The layers of the kernel that hold it, as its launcher named them before the child began."""
        if self._launcher is not None and self._launcher.reports:
            with anyio.move_on_after(_LAUNCH_WITHIN):
                await self._launched.wait()
        return self._layers

    def _take_launch(self) -> None:
        """The launcher's line comes before anything that runs in the sandbox could write."""
        first, newline, rest = bytes(self._tail).partition(b"\n")
        if newline and self._launcher is not None and self._launcher.reports:
            layers = self._launcher.parse(first)
            if layers is not None:
                self._layers = layers
                self._tail[:] = rest
        if newline:
            self._launched.set()

    def kill(self) -> None:
        """End the process and whatever it may have started. Does not wait."""
        if self._process.returncode is not None:
            return
        try:
            if sys.platform == "win32":
                self._process.kill()
            else:
                # it leads a session of its own
                os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def take_job(self, job: Job | None) -> None:
        """Keep the job object that holds it, on Windows."""
        self._job = job
        if job is not None:
            self._layers += job.layers

    async def close(self) -> None:
        """Close the host's ends of its pipes."""
        for stream in (self.stdin, self.stdout, self._stderr):
            await stream.aclose()
        if self._job is not None:
            self._job.close()

    async def ended(self, within: float) -> int | None:
        """The exit code (negative: a signal), waiting at most `within` seconds; None if it still runs."""
        with anyio.move_on_after(within, shield=True):
            return await self._process.wait()
        return None


@asynccontextmanager
async def spawned(options: ChildOptions) -> AsyncGenerator[Child]:
    """A child in an empty directory of its own, killed and swept away at the end.

    Raises SandboxStartError.
    """
    deno = find_deno(options.deno)
    if not (runtime_folder() / "main.ts").is_file():
        check_runtime()
    try:
        folder = Path(tempfile.mkdtemp(prefix="rlm-wasm-"))
    except OSError as error:
        raise SandboxStartError(f"no temporary folder can be made ({error}); set TMPDIR to one with room") from error
    try:
        try:
            child = await _spawn(deno, folder, options)
        except OSError as error:
            raise SandboxStartError(f"{deno} could not be started ({error}); {_INSTALL_DENO}") from error
        try:
            yield child
        finally:
            child.kill()
            with anyio.CancelScope(shield=True):
                await child.ended(within=5)
                await child.close()
    finally:
        _sweep(folder)


def _sweep(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    # rmtree holds a descriptor for each level, and Deno's folder is as deep as the path of the checkout; where so many
    # are not to be had, one at a time will do: nobody is left to put a link in the way
    for parent, folders, files in os.walk(folder, topdown=False):
        for remove, names in ((os.unlink, files), (os.rmdir, folders)):
            for name in names:
                with contextlib.suppress(OSError):
                    remove(os.path.join(parent, name))
    # where not even one is to be had there was no child, and all that is there is ours
    for path in (folder / "work", folder):
        with contextlib.suppress(OSError):
            path.rmdir()


async def _spawn(deno: Path, folder: Path, options: ChildOptions) -> Child:
    work = folder / "work"
    work.mkdir(mode=0o700)
    launcher = find_launcher(deno, runtime_folder(), folder, options.memory_mb) if options.confined else None
    line = [*(launcher.command if launcher else ()), *command(deno, options.memory_mb)]
    if sys.platform == "win32":
        process = await anyio.open_process(line, cwd=work, env=environment(folder))
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        child = Child(process, deno, launcher, process.stdin, process.stdout, process.stderr)
        if options.confined:
            child.take_job(Job.around(process.pid, data_bytes(options.memory_mb)))
        return child
    with Pipes() as pipes:
        stdin, stdout, stderr = pipes.theirs
        try:
            process = await anyio.open_process(
                line,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=work,
                env=environment(folder),
                start_new_session=True,
            )
        except BaseException:
            for stream in (pipes.stdin, pipes.stdout, pipes.stderr):
                await stream.aclose()
            raise
    return Child(process, deno, launcher, pipes.stdin, pipes.stdout, pipes.stderr)
