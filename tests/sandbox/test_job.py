"""The job object of Windows, with a kernel32 played by the test: what it is told, and what is done when it refuses."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from rlm_wasm.sandbox.job import ExtendedLimits, Job, limits

PROCESS, JOB = 71, 42
MB = 1024 * 1024


class Kernel32:
    """Answers as it was told to, and remembers what it was asked for."""

    def __init__(self, **refused: int) -> None:
        self.refused = refused
        self.asked: list[str] = []
        self.open: list[int] = []
        self.limits: dict[int, bytes] = {}

    def _answer(self, name: str, handle: int) -> int:
        self.asked.append(name)
        if self.refused.get(name, 0) == self.asked.count(name):
            return 0
        if name in ("CreateJobObjectW", "OpenProcess"):
            self.open.append(handle)
        return handle

    def CreateJobObjectW(self, security: object, name: object) -> int:
        return self._answer("CreateJobObjectW", JOB)

    def SetInformationJobObject(self, job: int, kind: int, information: Any, size: int) -> int:
        assert job == JOB
        self.limits[kind] = ctypes.string_at(information, size)
        return self._answer("SetInformationJobObject", 1)

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        assert (access, inherit, pid) == (0x101, False, 1234)
        return self._answer("OpenProcess", PROCESS)

    def AssignProcessToJobObject(self, job: int, process: int) -> int:
        assert (job, process) == (JOB, PROCESS)
        return self._answer("AssignProcessToJobObject", 1)

    def CloseHandle(self, handle: int) -> int:
        self.open.remove(handle)
        return 1


def test_a_child_is_alone_in_its_job_which_caps_its_memory_and_ends_it_with_the_host() -> None:
    kernel32 = Kernel32()
    job = Job.around(1234, 512 * MB, kernel32)
    assert job is not None
    assert job.layers == ("job object",)
    told = ExtendedLimits.from_buffer_copy(kernel32.limits[9])
    assert told.BasicLimitInformation.LimitFlags == 0x2108
    assert told.BasicLimitInformation.ActiveProcessLimit == 1
    assert told.ProcessMemoryLimit == 512 * MB
    assert kernel32.limits[4] == b"\xff\0\0\0"
    assert kernel32.open == [JOB]
    job.close()
    job.close()
    assert kernel32.open == []


@pytest.mark.parametrize(
    "refused",
    [
        {"CreateJobObjectW": 1},
        {"SetInformationJobObject": 1},
        {"SetInformationJobObject": 2},
        {"OpenProcess": 1},
        {"AssignProcessToJobObject": 1},
    ],
)
def test_where_windows_refuses_there_is_no_job_and_no_handle_left(refused: dict[str, int]) -> None:
    kernel32 = Kernel32(**refused)
    assert Job.around(1234, MB, kernel32) is None
    assert kernel32.open == []


def test_the_structure_is_as_large_as_windows_wants_it() -> None:
    # of 64-bit Windows: JOBOBJECT_EXTENDED_LIMIT_INFORMATION
    if ctypes.sizeof(ctypes.c_void_p) == 8:
        assert ctypes.sizeof(limits(1)) == 144
