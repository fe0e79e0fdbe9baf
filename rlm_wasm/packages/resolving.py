"""Which wheels a set of packages is made of: what the caller names, looked for where the caller names, by pip.

Does the only work with a network that packages take. Versions and dependencies are pip's decision; what is decided
here is what the sandbox wants of it, since pip reckons with the machine that it runs on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rlm_wasm.errors import PackageError
from rlm_wasm.packages.wheels import PLATFORM, PYTHON, Wheel, check_hash, check_installed, read, requirements

# seconds; a set of large packages over a slow line
_RESOLVE_WITHIN = 900
_FETCH_WITHIN = 60
_MOST_BYTES = 512 * 1024 * 1024
_PART = 1024 * 1024
_LOCK = "pyodide-lock.json"
# that pip asks for more of what the sandbox alone wants, each time for what was new
_ROUNDS = 8


class Wanted(NamedTuple):
    """What a caller asks for: requirements by name, wheels (paths and addresses), and places to look in.

    `bases` are addresses of a Pyodide distribution's files, `folders` of any wheels.
    """

    names: list[str]
    wheels: list[Path]
    addresses: list[str]
    folders: list[Path]
    bases: list[str]


def is_path(item: str | os.PathLike[str]) -> bool:
    """Whether a wheel or a folder is meant, and not a name or an address."""
    text = os.fspath(item)
    if text.startswith(("http://", "https://")):
        return False
    return not isinstance(item, str) or text.endswith(".whl") or "/" in text or "\\" in text


def sort(wanted: Iterable[str | os.PathLike[str]]) -> Wanted:
    """Tell requirements, wheels and places apart. Raises PackageError for what is none of them."""
    sorted_out = Wanted([], [], [], [], [])
    for item in wanted:
        text = os.fspath(item)
        if text.startswith(("http://", "https://")):
            (sorted_out.bases if text.endswith("/") else sorted_out.addresses).append(text)
        elif is_path(item):
            path = Path(item).expanduser().absolute()
            if not path.exists():
                raise PackageError(f"there is no wheel or folder of wheels {text!r}")
            (sorted_out.folders if path.is_dir() else sorted_out.wheels).append(path)
        else:
            sorted_out.names.append(text)
    if not (sorted_out.names or sorted_out.wheels or sorted_out.addresses):
        raise PackageError("no package is named: say which, beside the places to look in")
    return sorted_out


def resolve(wanted: Wanted, lock: Path, known: Path, scratch: Path) -> tuple[list[Wheel], list[str]]:
    """The wheels of a set, and the names of those that were asked for themselves. Raises PackageError.

    `lock`: the lock file of the Pyodide distribution. `known`: a folder of wheels from before, for where no network is.
    `scratch`: an empty folder, in which what was downloaded lies when this returns.
    """
    check_installed()
    given = [read(path) for path in wanted.wheels]
    given += [_fetched_wheel(address, scratch) for address in wanted.addresses]
    names = [_checked(name) for name in wanted.names]
    folders = [*wanted.folders]
    if wanted.bases:
        folders.append(_from_distribution(names, wanted.bases, lock, scratch))
    roots = [f"{wheel.name}=={wheel.version}" for wheel in given] + names
    looked_in = _Places(given, folders, known, scratch)
    try:
        chosen = _choose(roots, looked_in, at_once=True)
    except _NotHad:
        # perhaps for something that is wanted on this machine alone, which pip takes itself to be installing for
        chosen = _choose(roots, looked_in, at_once=False)
    return [_verified(wheel, wanted.folders) for wheel in chosen], [_name(root) for root in roots]


class _NotHad(PackageError):
    """Pip found no wheels for all that was asked."""


class _Places(NamedTuple):
    """What there is to choose from: wheels that were named, folders, wheels from before; and room for what is got."""

    given: list[Wheel]
    folders: list[Path]
    known: Path
    scratch: Path


def _choose(roots: Sequence[str], places: _Places, *, at_once: bool) -> list[Wheel]:
    """The wheels of all that the roots want in the sandbox, by name.

    `at_once`: pip follows what packages ask for, and is told what it has left out. Else it chooses for each requirement
    that was found so far, and follows none. Raises PackageError.
    """
    have = {wheel.name: wheel for wheel in places.given}
    asked: list[str] = []
    for number in range(_ROUNDS):
        reached, seen, missing = _closure(roots, have)
        if not missing:
            return [have[name] for name in sorted(reached)]
        # all of it again, so that pip decides on all versions together
        asked = [*asked, *missing] if at_once else [*seen]
        target = places.scratch / f"{'whole' if at_once else 'single'}-{number}"
        target.mkdir()
        for wheel in places.given:
            shutil.copyfile(wheel.path, target / wheel.path.name)
        _download([*dict.fromkeys([*asked, *roots])], places, target, at_once=at_once)
        have = {wheel.name: wheel for wheel in (read(path) for path in sorted(target.glob("*.whl")))}
    raise PackageError(f"what {', '.join(roots)} ask for has no end: {', '.join(asked)}")


def _checked(text: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return str(Requirement(text))
    except InvalidRequirement as error:
        first = str(error).partition("\n")[0]
        raise PackageError(f"{text!r} is no name of a package, wheel or folder: {first}") from None


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(Requirement(requirement).name))


def _closure(roots: Sequence[str], have: Mapping[str, Wheel]) -> tuple[set[str], list[str], list[str]]:
    """Of what there is, the names that are wanted in the sandbox; all requirements; and those that nothing meets."""
    from packaging.requirements import Requirement

    reached: set[str] = set()
    missing: list[str] = []
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        requirement, wheel = Requirement(text), have.get(_name(text))
        if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
            missing.append(text)
            continue
        reached.add(wheel.name)
        waiting += requirements(wheel, sorted(requirement.extras))
    return reached, sorted(seen), sorted(missing)


# --- pip -----------------------------------------------------------------------------------------------------------


def _pip() -> list[str]:
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise PackageError("packages are resolved by pip, and there is none: pip install 'rlm-wasm[packages]'")
    return [found]


def _download(asked: Sequence[str], places: _Places, target: Path, *, at_once: bool) -> None:
    """Have pip choose wheels for the sandbox: from the folders alone if it can, else from the package registry too."""
    links = [argument for folder in (*places.folders, target) for argument in ("--find-links", str(folder))]
    attempts = [("the package registry", links)]
    if places.folders:
        attempts.insert(0, (f"the folders {', '.join(map(str, places.folders))}", ["--no-index", *links]))
    if places.known.is_dir():
        attempts.append(("the wheels in the cache", ["--no-index", *links, "--find-links", str(places.known)]))
    said: list[str] = []
    for what, arguments in attempts:
        failure = _run_pip([*arguments, *([] if at_once else ["--no-deps"]), "--dest", str(target), *asked])
        if failure is None:
            return
        said.append(f"{what} (pip: {failure})")
    names = _named_in(said) or ", ".join(asked)
    raise _NotHad(
        f"{names}: no wheel that runs in the sandbox ({PLATFORM} for CPython {PYTHON[0]}.{PYTHON[1]}, or pure Python) "
        f"can be had; tried: {'; '.join(said)}"
    )


def _run_pip(arguments: Sequence[str]) -> str | None:
    """None if pip found and downloaded all, else the last that it said."""
    line = [*_pip(), "download", "--only-binary=:all:", "--platform", PLATFORM, "--implementation", "cp"]
    line += ["--python-version", f"{PYTHON[0]}.{PYTHON[1]}", "--abi", "cp314", "--abi", "abi3", "--abi", "none"]
    line += ["--disable-pip-version-check", "--no-input", "--retries", "1", "--quiet", *arguments]
    try:
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_RESOLVE_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_RESOLVE_WITHIN} s"
    except OSError as error:
        return f"it does not run: {error}"
    if done.returncode == 0:
        return None
    text = done.stdout.decode("utf-8", "replace")
    errors = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    return (errors[-1] if errors else text.strip()[-300:]).rstrip(".")


def _named_in(said: Sequence[str]) -> str:
    found = [match for text in said for match in re.findall(r"No matching distribution found for (\S+)", text)]
    return ", ".join(sorted({name.rstrip(".);") for name in found}))


# --- addresses and locks -------------------------------------------------------------------------------------------


def _fetched_wheel(address: str, scratch: Path) -> Wheel:
    plain, _, fragment = address.partition("#")
    sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(plain).path)).name
    if not name.endswith(".whl"):
        raise PackageError(f"{plain} is no wheel (.whl) and, without a / at its end, no place to look in")
    return read(_fetched(plain, scratch / name), sha256)


def _fetched(address: str, target: Path) -> Path:
    """Download a file. Raises PackageError."""
    try:
        with urllib.request.urlopen(address, timeout=_FETCH_WITHIN) as answer, target.open("wb") as file:
            while part := answer.read(_PART):
                file.write(part)
                if file.tell() > _MOST_BYTES:
                    raise PackageError(f"{address} is larger than a wheel may be ({_MOST_BYTES:,} bytes)")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise PackageError(f"{target.name} cannot be had from {address}: {reason}") from error
    return target


def _locked(lock: Path) -> dict[str, Any]:
    """The packages in a lock file, by canonical name. Raises PackageError."""
    from packaging.utils import canonicalize_name

    try:
        packages = json.loads(lock.read_text("utf-8"))["packages"]
        return {str(canonicalize_name(name)): entry for name, entry in packages.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise PackageError(f"{lock} is no lock file of a Pyodide distribution ({type(error).__name__})") from error


def _from_distribution(names: Sequence[str], bases: Sequence[str], lock: Path, scratch: Path) -> Path:
    """A folder with those of the names that a Pyodide distribution has, and their dependencies, checked by its lock."""
    packages = _locked(lock)
    folder = scratch / "distribution"
    folder.mkdir()
    waiting, seen = [_name(name) for name in names], set[str]()
    while waiting:
        name = waiting.pop()
        entry = packages.get(name)
        if entry is None or name in seen or not entry["file_name"].endswith(".whl"):
            continue
        seen.add(name)
        waiting += [_name(depended) for depended in entry["depends"]]
        failures: list[str] = []
        for base in bases:
            try:
                fetched = _fetched(urllib.parse.urljoin(base, entry["file_name"]), folder / entry["file_name"])
                check_hash(fetched, entry["sha256"])
                break
            except PackageError as error:
                failures.append(str(error))
        else:
            raise PackageError(f"{name} {entry['version']} ({PLATFORM}) cannot be had: {'; '.join(failures)}")
    return folder


def _verified(wheel: Wheel, folders: Sequence[Path]) -> Wheel:
    """The wheel, if the lock file that lies beside it in a folder of the caller's agrees."""
    for folder in folders:
        if (folder / wheel.path.name).is_file() and (folder / _LOCK).is_file():
            for entry in _locked(folder / _LOCK).values():
                if entry["file_name"] == wheel.path.name:
                    check_hash(wheel.path, entry["sha256"])
    return wheel
