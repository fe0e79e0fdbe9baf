"""The kernel's layer of the prison: what goes before a child's command line so that the kernel confines it too.

On Linux that is `confine.py` (rlimits, no_new_privs, Landlock, seccomp), on macOS Seatbelt; neither needs root. On
Windows nothing goes before it: there `job.py` takes the child when it runs. Knows nothing of pipes and processes.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import msgspec

# writable memory of a booted sandbox beside what cells may use: V8, the stacks of its threads, the image on its way in
BOOT_DATA_MB = 1536
# Deno writes little into its cache folder, and sandboxed code writes no file at all
_FILE_BYTES = 64 * 1024 * 1024
_REPORT = b"confined: "


class Launcher(msgspec.Struct, frozen=True):
    """A program that confines itself and then becomes the child.

    `command` goes before the child's; `layers` are those that are known to hold; with `reports` it names them itself,
    in the first line of stderr.
    """

    command: list[str]
    layers: tuple[str, ...] = ()
    reports: bool = False

    def parse(self, line: bytes) -> tuple[str, ...] | None:
        """The layers that a line of stderr names; None if it is not the launcher's."""
        if not line.startswith(_REPORT):
            return None
        return tuple(line[len(_REPORT) :].decode("ascii", "replace").split(", "))


def find_launcher(deno: Path, runtime: Path, folder: Path, memory_mb: int) -> Launcher | None:
    """The launcher for this system; None where there is none.

    The child may read `runtime`, run `deno`, write in `folder`, and take `memory_mb` beyond what boot needs.
    """
    if sys.platform == "darwin":
        return _seatbelt(deno, runtime, folder)
    # an embedded interpreter has no program of its own to start
    if sys.platform != "linux" or not sys.executable:
        return None
    system = ("/proc/self", "/sys/fs/cgroup", "/dev/urandom", "/etc/localtime", "/usr/share/zoneinfo")
    groups = ([runtime, *system], [deno.resolve(), *_library_folders()], [folder, "/dev/null"])
    paths = [[os.fspath(path) for path in group] for group in groups]
    if any(mark in path for group in paths for path in group for mark in "\t\n"):
        return None
    specification = [*("\t".join(group) for group in paths), str(data_bytes(memory_mb)), str(_FILE_BYTES)]
    program = Path(__file__).with_name("confine.py")
    return Launcher([sys.executable, "-I", "-S", os.fspath(program), "\n".join(specification)], reports=True)


def data_bytes(memory_mb: int) -> int:
    """What a child with so much memory for its cells may write to in all, in bytes."""
    return (BOOT_DATA_MB + memory_mb) * 1024 * 1024


@cache
def _library_folders() -> tuple[str, ...]:
    """Where the dynamic loader finds the few libraries that Deno is linked with: where this process has its own."""
    folders = {"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    wanted = ("libc.", "libc-", "ld-", "libm.", "libgcc_s.", "libdl.", "libpthread.")
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        path = line[line.index("/") :] if "/" in line else ""
        if os.path.basename(path).startswith(wanted):
            folders.add(os.path.dirname(path))
    return tuple(sorted(folders))


def _seatbelt(deno: Path, runtime: Path, folder: Path) -> Launcher | None:
    """No network, no other program, no file written but its own, none of a user's read. Not run on a Mac yet."""
    if not Path("/usr/bin/sandbox-exec").exists():
        return None
    binary, own = deno.resolve(), folder.resolve()
    readable = " ".join(f'(subpath "{path}")' for path in (own, runtime.resolve(), binary.parent))
    profile = (
        "(version 1)(allow default)(deny network*)(deny file-write*)(deny process-exec)"
        '(deny file-read* (subpath "/Users") (subpath "/Volumes") (subpath "/private/var/folders"))'
        f'(allow file-read* {readable})(allow file-write* (subpath "{own}") (literal "/dev/null"))'
        f'(allow process-exec (literal "{binary}"))'
    )
    return Launcher(["/usr/bin/sandbox-exec", "-p", profile], layers=("seatbelt",))
