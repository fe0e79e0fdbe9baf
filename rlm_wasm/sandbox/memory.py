"""How much memory a sandbox gets: what was chosen, or what is loaded asks for, as far as there is so much."""

from __future__ import annotations

import contextlib
from pathlib import Path

# what boot takes (31 MB) plus room for the interpreter's own growth, before anything of the user's
BOOT_MB = 64
# 32-bit WebAssembly cannot hold more
MAX_MEMORY_MB = 4096 - BOOT_MB
# enough for a 100 MB text and what is made of it; a laptop has it
DEFAULT_MEMORY_MB = 1024
# what cells need beside what is loaded
_WORKING_MB = 256


def whole_bytes(memory_mb: int) -> int:
    """Bytes that the interpreter of a sandbox may take in all."""
    return (BOOT_MB + memory_mb) * 1024 * 1024


def megabytes(size: int) -> int:
    """Bytes as the mebibytes of `memory_mb`, rounded up."""
    return -(-size // (1024 * 1024))


def available_memory() -> int | None:
    """Bytes of memory that this machine, or the control group of this process, can still give; None where unknown."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def choose(names: str, size: int, has: int, chosen: int | None) -> int:
    """The memory in MB with which `size` bytes of variables can be loaded; `has` if that is enough.

    `chosen` is what the caller asked for: then there is no other. Raises ValueError, which says what can be done.
    """
    needed = megabytes(size)
    about = f"{names} needs about {needed:,} MB in the sandbox"
    if chosen is not None:
        if needed > has:
            raise ValueError(
                f"{about}, and memory_mb={has}: raise it (at most {MAX_MEMORY_MB:,}), leave it to be chosen by what is "
                "loaded, or load a part"
            )
        return has
    if needed > MAX_MEMORY_MB - _WORKING_MB:
        raise ValueError(f"{about}, and no sandbox holds more than {MAX_MEMORY_MB:,} MB: load a part of it")
    wanted = min(2 * needed + _WORKING_MB, MAX_MEMORY_MB)
    if wanted <= has:
        return has
    available = available_memory()
    if available is not None and megabytes(available) < needed + _WORKING_MB:
        raise ValueError(f"{about}, and the machine has {megabytes(available):,} MB left: load a part of it")
    return wanted
