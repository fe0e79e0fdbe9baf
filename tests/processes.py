"""Processes as they look from outside: the child of a sandbox, and what the kernel tells of one. Linux only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # this module is read by environments that have other sandboxes than ours
    from rlm_wasm.sandbox import Sandbox
    from rlm_wasm.sandbox.session import Session

# as in the figures that are printed
MB = 1_000_000


def session_of(sandbox: Sandbox) -> Session:
    """Its present session: there is no public way to it, and nobody but a test has a reason to go."""
    assert sandbox._session is not None
    return sandbox._session


def pid_of(sandbox: Sandbox) -> int:
    """The process of its present child."""
    return session_of(sandbox)._child.pid


def memory_mb(name: str, pid: int | str = "self", file: str = "status") -> float:
    """A line of `/proc/PID/FILE` ("VmRSS", "VmHWM"; "Pss" in `smaps_rollup`), in MB. Raises OSError elsewhere."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / MB


def forget_peak(pid: int | str = "self") -> None:
    """From now on VmHWM is the highest since now. Raises OSError where the kernel does not let one."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def processor_seconds(pid: int) -> float | None:
    """What a process has computed so far; None if it is gone or this is no Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # in hundredths: sysconf(_SC_CLK_TCK) is 100 on every Linux
    return None if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / 100


def processor_by_thread(pid: int) -> dict[str, float]:
    """What the threads of a process have computed so far, in seconds by name; the first is "main". Linux only."""
    spent: dict[str, float] = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        name = "main" if folder.name == str(pid) else (folder / "comm").read_text().strip()
        spent[name] = spent.get(name, 0.0) + int((folder / "schedstat").read_text().split()[0]) / 1e9
    return spent
