"""Package sets in the cache: resolved once, and then used again with no network at all.

    packages/wheels/NAME.whl      every wheel that a set here is made of
    packages/sets/KEY.json        a set: what was wanted, and the wheels that it is, with their hashes
    packages/archives/HASH        its files, as a sandbox takes them

All of it belongs to one user, is written whole or not at all, and is checked by hash when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from rlm_wasm.cache_folder import cache_folder
from rlm_wasm.errors import PackageError
from rlm_wasm.packages import archive
from rlm_wasm.packages.resolving import is_path, resolve, sort
from rlm_wasm.packages.wheels import PLATFORM, PYTHON, Wheel, check_hash, read
from rlm_wasm.whole_file import written_whole

# a requirement, an address, or a path
Wish = str | os.PathLike[str]
# several sandboxes of one process that want the same set resolve it once
_one_at_a_time = threading.Lock()
# the archives of this process's sandboxes, which share the bytes
_loaded: dict[str, bytes] = {}


class Package(msgspec.Struct, frozen=True):
    """One package of a set: its wheel's file name and SHA-256 too."""

    name: str
    version: str
    file: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class PackageSet(msgspec.Struct, frozen=True):
    """Packages that were resolved together for the sandbox, whose `platform` that is.

    `wanted` is what the caller named, `roots` the packages among it; `archive` is the SHA-256 of all their files.
    """

    wanted: tuple[str, ...]
    roots: tuple[str, ...]
    platform: str
    packages: tuple[Package, ...]
    archive: str

    @property
    def names(self) -> tuple[str, ...]:
        """Each package with its version."""
        return tuple(map(str, self.packages))


def ready(wanted: Sequence[Wish], lock: Path) -> tuple[PackageSet, bytes]:
    """The set that was resolved for what is wanted, else one resolved now; and its archive.

    `lock` is the lock file of the Pyodide distribution. Touches no network if the set is in the cache. Raises
    PackageError.
    """
    with _one_at_a_time:
        path = _set_path(wanted)
        found = _read_set(path)
        if found is not None:
            content = _archive_of(found)
            if content is not None:
                return found, content
        return _resolved(wanted, lock)


def add(wanted: Sequence[Wish], lock: Path) -> PackageSet:
    """Resolve a set anew, and keep it in the cache in place of an older one, which stays if PackageError is raised."""
    with _one_at_a_time:
        return _resolved(wanted, lock)[0]


def kept() -> list[PackageSet]:
    """The sets in the cache, by what was wanted."""
    found = [_read_set(path) for path in _folder("sets").glob("*.json")]
    return sorted((each for each in found if each is not None), key=lambda each: each.wanted)


def remove(names: Sequence[str]) -> list[PackageSet]:
    """Remove the sets in which one of these packages is, and what no other set needs. Gives those that were removed."""
    with _one_at_a_time:
        wanted = {name.lower().replace("_", "-") for name in names}
        gone = [each for each in kept() if wanted & {package.name for package in each.packages}]
        for each in gone:
            _set_path(each.wanted).unlink(missing_ok=True)
        left = kept()
        needed = {package.file for each in left for package in each.packages} | {each.archive for each in left}
        for folder in ("wheels", "archives"):
            for path in _folder(folder).glob("[!.]*"):
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        return gone


def _folder(name: str) -> Path:
    return cache_folder() / "packages" / name


def _set_path(wanted: Sequence[Wish]) -> Path:
    key = msgspec.json.encode([PLATFORM, PYTHON, sorted(_written(wanted))])
    return _folder("sets") / f"{hashlib.sha256(key).hexdigest()[:32]}.json"


def _written(wanted: Sequence[Wish]) -> tuple[str, ...]:
    """What is wanted, as it is noted: paths from the root, so that they mean the same in another working directory."""
    return tuple(str(Path(item).expanduser().absolute()) if is_path(item) else os.fspath(item) for item in wanted)


def _resolved(wanted: Sequence[Wish], lock: Path) -> tuple[PackageSet, bytes]:
    sorted_out = sort(wanted)
    with _disk(), tempfile.TemporaryDirectory(prefix=".resolving-", dir=_made("")) as scratch:
        wheels, roots = resolve(sorted_out, lock, _folder("wheels"), Path(scratch))
        content = archive.packed(wheels, roots)
        packages = tuple(_keep(wheel) for wheel in wheels)
        made = PackageSet(_written(wanted), tuple(roots), PLATFORM, packages, hashlib.sha256(content).hexdigest())
        _write(_made("archives") / made.archive, content)
        _write(_made("sets") / _set_path(wanted).name, msgspec.json.encode(made))
    _loaded[made.archive] = content
    return made, content


def _keep(wheel: Wheel) -> Package:
    """Put a wheel into the cache. Raises PackageError if another of its name is there."""
    place = _made("wheels") / wheel.path.name
    if place.exists():
        try:
            check_hash(place, wheel.sha256)
        except PackageError as error:
            raise PackageError(
                f"{error}: another wheel of that name is in the cache (rlm-wasm packages remove {wheel.name})"
            ) from None
    else:
        with written_whole(place) as file, wheel.path.open("rb") as source:
            shutil.copyfileobj(source, file)
    return Package(wheel.name, wheel.version, wheel.path.name, wheel.sha256)


def _read_set(path: Path) -> PackageSet | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PackageSet)
    except (OSError, ValueError):
        # none, or one that was not written by this version: it is resolved again
        return None


def _archive_of(found: PackageSet) -> bytes | None:
    """The archive of a set, made again of its wheels if it is gone or damaged; None if they are gone too."""
    content = _loaded.get(found.archive)
    if content is not None:
        return content
    path = _folder("archives") / found.archive
    with contextlib.suppress(OSError):
        content = path.read_bytes()
    if content is None or hashlib.sha256(content).hexdigest() != found.archive:
        content = _repacked(found)
    if content is not None:
        _loaded[found.archive] = content
    return content


def _repacked(found: PackageSet) -> bytes | None:
    wheels = [_folder("wheels") / package.file for package in found.packages]
    if not all(path.is_file() for path in wheels):
        return None
    read_again = [read(path, package.sha256) for path, package in zip(wheels, found.packages, strict=True)]
    content = archive.packed(read_again, found.roots)
    with _disk():
        _write(_made("archives") / found.archive, content)
    return content


def _made(name: str) -> Path:
    folder = _folder(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def _disk() -> Generator[None]:
    try:
        yield
    except OSError as error:
        where = os.fspath(cache_folder())
        raise PackageError(
            f"packages cannot be kept in {where}: {error} (RLM_WASM_CACHE names another place)"
        ) from error
