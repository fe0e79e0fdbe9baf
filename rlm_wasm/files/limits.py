"""How much may be read of files, and what they may unpack to."""

from __future__ import annotations

import msgspec


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be read in all, and what of it archives may make.

    `files`: files and members of archives. `bytes`: of all that is read, unpacked. `unpacked_bytes`: of one archive,
    with those inside it. `ratio`: how many times its own size an archive may unpack to, once it has made 16 MB.
    `depth`: archives inside archives; 1 opens those that are files only. `seconds`: for reading documents, all of them.
    """

    files: int = 100_000
    # what the memory of a sandbox can hold at most is less than twice this
    bytes: int = 2_000_000_000
    unpacked_bytes: int = 1_000_000_000
    # text seldom unpacks to more than 30 times its size, and logs that repeat themselves to a little over 100
    ratio: int = 200
    depth: int = 2
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0, not {getattr(self, field)!r}")


# bytes; below this an archive is no bomb, whatever its ratio
RATIO_COUNTS_FROM = 16_000_000


class TooMuch(ValueError):
    """More than the limits allow; unless `all`, only of one archive, and what comes after it can be read."""

    def __init__(self, message: str, *, all: bool) -> None:
        super().__init__(message)
        self.all = all


def too_many(files: int) -> TooMuch:
    """The error for more files than may be."""
    return TooMuch(f"there are more than {files:,} files: name fewer, or raise FileLimits(files=...)", all=True)


class Ledger:
    """What was read so far, of what may be."""

    def __init__(self, limits: FileLimits) -> None:
        self.limits = limits
        self._files = 0
        self._bytes = 0

    def file(self) -> None:
        """One more file. Raises TooMuch."""
        self._files += 1
        if self._files > self.limits.files:
            raise too_many(self.limits.files)

    def read(self, count: int) -> None:
        """So many bytes more. Raises TooMuch."""
        self._bytes += count
        if self._bytes > self.limits.bytes:
            raise TooMuch(
                f"the files have more than {self.limits.bytes:,} bytes: name fewer, or raise FileLimits(bytes=...)",
                all=True,
            )

    @property
    def left(self) -> int:
        """Bytes that may still be read."""
        return max(0, self.limits.bytes - self._bytes)


class Unpacking:
    """What one archive of `packed` bytes has made, with those inside it, of what it may."""

    def __init__(self, limits: FileLimits, packed: int) -> None:
        self._limits = limits
        self._packed = max(packed, 1)
        self._made = 0

    def made(self, count: int) -> None:
        """So many bytes more. Raises TooMuch."""
        self._made += count
        if self._made > self._limits.unpacked_bytes:
            raise TooMuch(
                f"it unpacks to more than {self._limits.unpacked_bytes:,} bytes (FileLimits(unpacked_bytes=...))",
                all=False,
            )
        if self._made > RATIO_COUNTS_FROM and self._made > self._limits.ratio * self._packed:
            times = f"{self._limits.ratio:,} times its size"
            raise TooMuch(f"it unpacks to more than {times}, as a bomb does (FileLimits(ratio=...))", all=False)
