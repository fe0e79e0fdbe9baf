"""A wheel: what its name says, whether it runs in the sandbox, what it asks for, and the files in it.

Wheels are data from outside: nothing of one is run or written to the disk here, and no name in one is trusted.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import msgspec

from rlm_wasm.errors import PackageError

# of the Pyodide that the sandbox runs, whose lock file says the same
PYTHON = (3, 14)
PLATFORM = "pyemscripten_2026_0_wasm32"
# as it was called before
_PLATFORMS = (PLATFORM, "pyodide_2026_0_wasm32")
ENVIRONMENT = {
    "implementation_name": "cpython",
    "implementation_version": "3.14.2",
    "os_name": "posix",
    "platform_machine": "wasm32",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Emscripten",
    "platform_version": "",
    "python_full_version": "3.14.2",
    "python_version": "3.14",
    "sys_platform": "emscripten",
}
# where Python finds packages in the sandbox, as `deno/packages.ts` has it
_FOLDER = "/packages"
# bytes; what is unpacked of a set lies in the memory of each sandbox
MAX_UNPACKED = 1024 * 1024 * 1024
_MAX_METADATA = 4 * 1024 * 1024
_INSTALL = "pip install 'rlm-wasm[packages]'"


class Wheel(msgspec.Struct, frozen=True):
    """A wheel that runs in the sandbox: the canonical `name` and the `version` of its package, and where it lies."""

    name: str
    version: str
    path: Path
    sha256: str


@cache
def _supported() -> frozenset[object]:
    from packaging.tags import compatible_tags, cpython_tags

    platforms = list(_PLATFORMS)
    return frozenset(
        [
            *cpython_tags(PYTHON, abis=["cp314"], platforms=platforms),
            *compatible_tags(PYTHON, interpreter="cp314", platforms=platforms),
        ]
    )


def check_installed() -> None:
    """Raise PackageError if what resolves packages is not installed."""
    try:
        import packaging  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise PackageError(f"packages cannot be looked for: install what that takes with: {_INSTALL}") from None


def read(path: Path, sha256: str | None = None) -> Wheel:
    """The wheel at `path`. Raises PackageError if it is none, has another hash, or does not run in the sandbox."""
    check_installed()
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise PackageError(f"{path} is no wheel: {error}") from None
    if not tags & _supported():
        has = ", ".join(sorted({tag.platform if tag.abi != "abi3" else str(tag) for tag in tags}))
        raise PackageError(
            f"{path.name} is for another platform or Python ({has}): the sandbox takes {PLATFORM} for CPython "
            f"{PYTHON[0]}.{PYTHON[1]}, or pure Python (any)"
        )
    return Wheel(str(name), str(version), path, check_hash(path, sha256))


def check_hash(path: Path, sha256: str | None) -> str:
    """The SHA-256 of a file in hexadecimal. Raises PackageError if another was expected, or it cannot be read."""
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    if sha256 is not None and actual != sha256.lower():
        raise PackageError(f"{path.name} is not what it should be: its SHA-256 is {actual}, and {sha256} was expected")
    return actual


def requirements(wheel: Wheel, extras: Sequence[str]) -> list[str]:
    """What the package asks for in the sandbox, with these extras of it."""
    from email.parser import BytesParser

    from packaging.requirements import InvalidRequirement, Requirement

    asked = BytesParser().parsebytes(_metadata(wheel)).get_all("Requires-Dist") or []
    found: list[str] = []
    for text in asked:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PackageError(f"{wheel.path.name} asks for {text!r}, which is no requirement: {error}") from None
        marker = requirement.marker
        environments = [{**ENVIRONMENT, "extra": extra} for extra in ("", *extras)]
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            requirement.marker = None
            found.append(str(requirement))
    return found


def _metadata(wheel: Wheel) -> bytes:
    with _opened(wheel.path) as archive:
        for entry in archive.infolist():
            folder, slash, name = entry.filename.partition("/")
            if slash and name == "METADATA" and folder.endswith(".dist-info"):
                if entry.file_size > _MAX_METADATA:
                    break
                return archive.read(entry)
    raise PackageError(f"{wheel.path.name} has no METADATA")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise PackageError(f"{path.name} is no wheel: {error}") from error


def unpacked(wheel: Wheel, most: int = MAX_UNPACKED) -> Iterator[tuple[str, bytes]]:
    """Where each file of a wheel belongs in the sandbox, and its content; `most` bytes of all together.

    Raises PackageError for a wheel that is damaged or too large, or that has a name in it that leads elsewhere.
    """
    with _opened(wheel.path) as archive:
        for entry in archive.infolist():
            place = None if entry.is_dir() else _place(wheel, entry.filename)
            if place is None:
                continue
            most -= entry.file_size
            if most < 0:
                raise PackageError(f"{wheel.path.name} is too large for a sandbox")
            try:
                # a file that is longer than it says fails its checksum, and is not read any further
                content = archive.read(entry)
            except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise PackageError(f"{wheel.path.name} is damaged: {entry.filename!r}: {error}") from error
            yield place, content


def _place(wheel: Wheel, name: str) -> str | None:
    """The path of a wheel's file in the sandbox; None for what has no place there (scripts, headers)."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise PackageError(f"{wheel.path.name} has a file in it whose name leads elsewhere: {name!r}")
    if parts[0].endswith(".data") and len(parts) > 1:
        if len(parts) == 2 or parts[1] not in ("purelib", "platlib"):
            return None
        parts = parts[2:]
    return "/".join([_FOLDER, *parts])


def top_level(paths: Sequence[str]) -> list[str]:
    """The modules that can be imported of these files of a wheel, by name."""
    names: set[str] = set()
    for path in paths:
        first, _, rest = path.removeprefix(f"{_FOLDER}/").partition("/")
        if rest == "__init__.py":
            names.add(first)
        elif not rest and first.endswith((".py", ".so")):
            names.add(first.partition(".")[0])
    return sorted(name for name in names if name.isidentifier() and name[0] != "_" and name not in ("test", "tests"))
