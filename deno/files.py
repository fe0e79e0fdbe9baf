"""The files of the sandbox, which live in JavaScript's memory, as plain Python values and back.

A checkpoint is the interpreter's memory; what is packed here first is in it, and is unpacked where it is restored.
Knows nothing of checkpoints themselves.
"""

import fcntl
import os
import stat

# made by the system, or of packages: the same everywhere
NOT_KEPT = ("/dev", "/proc", "/packages", "/usr/lib")
# what was there before any cell: path to (size, time of change)
before = {}


class NotKept(Exception):
    """Something is open that cannot be kept; says what to close."""


def remember():
    """Note what is there now, as what every sandbox has."""
    before.update({path: seen(status) for path, status in walk("/")})


def seen(status):
    return status.st_size, status.st_mtime_ns


def walk(folder):
    """`(path, status)` of all that is in a folder, folders ahead of what is in them."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.path not in NOT_KEPT:
            status = entry.stat(follow_symlinks=False)
            yield entry.path, status
            if stat.S_ISDIR(status.st_mode):
                yield from walk(entry.path)


def pack():
    """What there is beyond what every sandbox has. Raises NotKept."""
    entries = [packed(path, status) for path, status in walk("/") if before.get(path) != seen(status)]
    return {"entries": entries, "open": [opened(number) for number in open_files()], "folder": os.getcwd()}


def packed(path, status):
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    else:
        content = None
    return path, status.st_mode, status.st_mtime_ns, content


def open_files():
    """The numbers of open files, past the three of every process, in order."""
    return sorted(number for number in map(int, os.listdir("/proc/self/fd")) if number > 2 and is_open(number))


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        # the one by which the folder was listed
        return False
    return True


def opened(number):
    status = os.fstat(number)
    path = os.readlink(f"/proc/self/fd/{number}")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or path.startswith("/dev/")):
        raise NotKept(f"file {number} ({path}) is a pipe or the like, which cannot be kept: close it first")
    regular = stat.S_ISREG(status.st_mode)
    gone = regular and not same_file(path, status)
    return {
        "number": number,
        "path": path,
        "flags": fcntl.fcntl(number, fcntl.F_GETFL),
        "position": os.lseek(number, 0, os.SEEK_CUR) if regular else 0,
        # a file without a name lives in whoever has it open
        "content": os.pread(number, status.st_size, 0) if gone else None,
    }


def same_file(path, status):
    try:
        return os.stat(path).st_ino == status.st_ino
    except OSError:
        return False


def unpack(kept):
    """Make what `pack` gave, in a sandbox that has seen no cell."""
    for path, mode, _, content in kept["entries"]:
        if stat.S_ISDIR(mode):
            os.makedirs(path, exist_ok=True)
        elif stat.S_ISLNK(mode):
            os.symlink(content, path)
        else:
            with open(path, "wb") as file:
                file.write(content)
    for file in kept["open"]:
        reopen(file)
    # last and from the innermost, because all that was done above shows in them
    for path, mode, changed, _ in reversed(kept["entries"]):
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
            os.utime(path, ns=(changed, changed))
    os.chdir(kept["folder"])


def reopen(file):
    path = file["path"]
    if file["content"] is not None:
        path = f"/tmp/unnamed {file['number']}"
        with open(path, "wb") as unnamed:
            unnamed.write(file["content"])
    number = os.open(path, file["flags"] & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
    if file["content"] is not None:
        os.unlink(path)
    if number != file["number"]:
        os.dup2(number, file["number"])
        os.close(number)
    if file["position"]:
        os.lseek(file["number"], file["position"], os.SEEK_SET)
