"""The kernel's part of the prison on Linux, with no root: limits, no_new_privs, Landlock, seccomp, then exec.

Run as a program of its own, between the host and Deno, so that nothing of it touches the host process:

    python -I -S confine.py SPECIFICATION COMMAND...

`SPECIFICATION` has a line each for the paths to read, to execute and to write (tabs between them), the bytes of memory
and those of a file. Before it becomes COMMAND it writes one line to stderr, which names the
layers that took hold; one that this kernel does not have is left out, and the host decides whether it goes on. Only the
standard library, and little of it: each import is time before every sandbox (json would be a quarter of it all).
"""

import ctypes
import os
import resource
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
O_PATH = 0o10000000

# access rights of Landlock (linux/landlock.h)
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

# What no sandbox needs, by the kernel's names: sockets, other processes, mounts, namespaces, keys, kernel interfaces
# that have been roads out before, and leaving the process group in which the host kills it.
DENIED: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "bind": 49, "listen": 50, "kill": 62, "ptrace": 101, "setpgid": 109,
            "setsid": 112, "personality": 135, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
            "swapon": 167, "reboot": 169, "init_module": 175, "delete_module": 176, "tkill": 200, "kexec_load": 246,
            "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
            "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    # the numbers of arm64's own table; not run on such a machine yet
    "aarch64": (
        0xC00000B7,
        {
            "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "personality": 92, "unshare": 97,
            "kexec_load": 104, "init_module": 105, "delete_module": 106, "ptrace": 117, "kill": 129, "tkill": 130,
            "reboot": 142, "setpgid": 154, "setsid": 157, "socket": 198, "bind": 200, "listen": 201, "connect": 203,
            "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "perf_event_open": 241,
            "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280, "userfaultfd": 282,
            "kexec_file_load": 294,
        },
    ),
}  # fmt: skip
# the same numbers on every architecture
DENIED_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
EPERM_RESULT, ALLOW_RESULT, KILL_RESULT = 0x00050001, 0x7FFF0000, 0x80000000

libc = ctypes.CDLL(None, use_errno=True)


def set_limits(data_bytes: int, file_bytes: int) -> None:
    """Cap all writable memory (WebAssembly's, V8's, buffers'), the size of a file and open descriptors."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: data_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 256,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))


def set_landlock(read: list[str], execute: list[str], write: list[str]) -> int:
    """Leave the files that are named, and no TCP; gives the version of the kernel's Landlock, 0 if there is none."""
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return 0
    files = (1 << 13) - 1
    files |= REFER if version >= 2 else 0
    files |= TRUNCATE if version >= 3 else 0
    files |= IOCTL_DEV if version >= 5 else 0
    network = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    attributes = struct.pack("<QQQ", files, network, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    writing = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE
    for paths, rights in ((read, READ_FILE | READ_DIR), (execute, READ_FILE | READ_DIR | EXECUTE), (write, writing)):
        for path in paths:
            allow(ruleset, path, rights & files)
    if libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0):
        return 0
    os.close(ruleset)
    return version


def allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, O_PATH | os.O_CLOEXEC)
    except OSError:
        # what is not here need not be allowed
        return
    if not os.path.isdir(path):
        rights &= OF_FILES
    libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, descriptor), 0)
    os.close(descriptor)


def set_seccomp(machine: str) -> bool:
    """Refuse the system calls of `DENIED` with EPERM, and any of another architecture's table; True if it holds."""
    if machine not in DENIED or struct.calcsize("P") != 8:
        return False
    architecture, numbers = DENIED[machine]
    program = [
        instruction(0x20, 0, 0, 4),  # the architecture of the call
        instruction(0x15, 1, 0, architecture),
        instruction(0x06, 0, 0, KILL_RESULT),
        instruction(0x20, 0, 0, 0),  # its number
        instruction(0x35, 0, 1, 0x40000000),  # x32's table
        instruction(0x06, 0, 0, EPERM_RESULT),
    ]
    for number in (*numbers.values(), *DENIED_EVERYWHERE.values()):
        program += [instruction(0x15, 0, 1, number), instruction(0x06, 0, 0, EPERM_RESULT)]
    program.append(instruction(0x06, 0, 0, ALLOW_RESULT))
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    return libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(header), 0, 0) == 0


def instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)


def main() -> None:
    # No PR_SET_PDEATHSIG: it follows the thread that started this process, which under trio is a worker thread that
    # soon ends. The child ends by itself when its stdin does.
    read, execute, write, data_bytes, file_bytes = sys.argv[1].split("\n")
    command = sys.argv[2:]
    layers: list[str] = []
    set_limits(int(data_bytes), int(file_bytes))
    layers.append("rlimits")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        version = set_landlock(*(paths.split("\t") for paths in (read, execute, write)))
        layers += [f"landlock {version}"] if version else []
        layers += ["seccomp"] if set_seccomp(os.uname().machine) else []
    # Python sets it for itself where the locale is C; the child gets what the host chose
    os.environ.pop("LC_CTYPE", None)
    os.write(2, f"confined: {', '.join(layers)}\n".encode())
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
