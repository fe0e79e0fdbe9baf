"""The kernel's layer of the prison on Windows: a job object. Not run on a Windows machine yet.

The job holds the child alone (it can start no other process), caps its memory, and ends it when the host does. Needs no
administrator.
"""

from __future__ import annotations

import ctypes
from typing import Any, Self

# winnt.h
_EXTENDED_LIMITS = 9
_ACTIVE_PROCESS, _PROCESS_MEMORY, _KILL_ON_CLOSE = 0x8, 0x100, 0x2000
_BASIC_UI_RESTRICTIONS, _ALL_UI_RESTRICTIONS = 4, 0xFF
_SET_QUOTA, _TERMINATE = 0x100, 0x1


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


def limits(memory_bytes: int) -> ExtendedLimits:
    """One process, so much committed memory, ended with the last handle of the job."""
    found = ExtendedLimits()
    found.BasicLimitInformation.LimitFlags = _ACTIVE_PROCESS | _PROCESS_MEMORY | _KILL_ON_CLOSE
    found.BasicLimitInformation.ActiveProcessLimit = 1
    found.ProcessMemoryLimit = memory_bytes
    return found


class Job:
    """A job object with a child in it; `layers` names what holds. Close it when the child has ended."""

    def __init__(self, kernel32: Any, handle: int, layers: tuple[str, ...]) -> None:
        self._kernel32 = kernel32
        self._handle = handle
        self.layers = layers

    @classmethod
    def around(cls, pid: int, memory_bytes: int, kernel32: Any = None) -> Self | None:
        """Put a process into a job of its own; None where Windows refuses. `kernel32`: for tests."""
        kernel32 = kernel32 or _load_kernel32()
        handle = kernel32.CreateJobObjectW(None, None)
        if not handle:
            return None
        job = cls(kernel32, handle, ())
        information = limits(memory_bytes)
        size = ctypes.sizeof(information)
        restrictions = ctypes.c_uint32(_ALL_UI_RESTRICTIONS)
        if (
            kernel32.SetInformationJobObject(handle, _EXTENDED_LIMITS, ctypes.byref(information), size)
            and kernel32.SetInformationJobObject(handle, _BASIC_UI_RESTRICTIONS, ctypes.byref(restrictions), 4)
            and job._take(pid)
        ):
            job.layers = ("job object",)
            return job
        job.close()
        return None

    def _take(self, pid: int) -> bool:
        process = self._kernel32.OpenProcess(_SET_QUOTA | _TERMINATE, False, pid)
        if not process:
            return False
        try:
            return bool(self._kernel32.AssignProcessToJobObject(self._handle, process))
        finally:
            self._kernel32.CloseHandle(process)

    def close(self) -> None:
        """Give the handle back; a child that still runs in it is ended."""
        handle, self._handle = self._handle, 0
        if handle:
            self._kernel32.CloseHandle(handle)


def _load_kernel32() -> Any:
    # Any: ctypes' own loader for Windows, which other systems do not have
    load: Any = vars(ctypes)["WinDLL"]
    kernel32: Any = load("kernel32", use_last_error=True)
    for name in ("CreateJobObjectW", "OpenProcess"):
        getattr(kernel32, name).restype = ctypes.c_void_p
    kernel32.SetInformationJobObject.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
    kernel32.AssignProcessToJobObject.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    kernel32.OpenProcess.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32)
    kernel32.CloseHandle.argtypes = (ctypes.c_void_p,)
    return kernel32
