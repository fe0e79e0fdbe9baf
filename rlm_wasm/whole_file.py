"""Files that are written whole or not at all: beside their place first, then moved there. Knows no format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path, *, durable: bool = True, suffix: str = "") -> Generator[BinaryIO]:
    """A file to be written in the block, which takes the place of the one at `path` when the block ends well.

    It can be read by its owner alone. `durable`: it is on the disk before that, also if the machine then fails.
    `suffix`: of its name until then, by which it is known if whoever wrote it was killed. Raises OSError.
    """
    # a temporary file can be read by its owner alone
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
