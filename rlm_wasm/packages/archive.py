"""The archive of a package set: the files of its wheels, unpacked, as one piece that a sandbox takes as it is.

`deno/packages.ts` describes its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgspec

from rlm_wasm.packages.wheels import MAX_UNPACKED, Wheel, top_level, unpacked

_FIELDS = struct.Struct("<3I")
_MAGIC, _VERSION = int.from_bytes(b"RLMP", "little"), 1


def packed(wheels: Iterable[Wheel], roots: Sequence[str]) -> bytes:
    """The archive of these wheels; the modules of the packages in `roots` are to be imported when an image is made.

    Raises PackageError for a wheel that is damaged, too large, or not to be trusted.
    """
    files: dict[str, bytes] = {}
    imports: list[str] = []
    left = MAX_UNPACKED
    for wheel in wheels:
        own = dict(unpacked(wheel, left))
        left -= sum(map(len, own.values()))
        if wheel.name in roots:
            imports += top_level([*own])
        files |= own
    sizes = [(path, len(content)) for path, content in files.items()]
    table = msgspec.json.encode({"files": sizes, "imports": imports})
    return b"".join([_FIELDS.pack(_MAGIC, _VERSION, len(table)), table, *files.values()])
