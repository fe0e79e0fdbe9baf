"""Which files are named: by paths, by globs, by folders; never one outside what was named. Opens none of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from rlm_wasm.files.limits import too_many


class Found(msgspec.Struct, frozen=True):
    """A file to be read: the name that it gets, where it is, and whether it was named by itself."""

    name: str
    path: Path
    explicit: bool


class Listing(msgspec.Struct):
    """What was found in order, and how many were left out: hidden ones, and links that lead out of what was named."""

    found: list[Found]
    at_most: int
    hidden: int = 0
    outside: int = 0
    seen: int = 0


def listed(paths: Sequence[Path], *, several: bool, hidden: bool, at_most: int) -> Listing:
    """The files that are named, in the order of the paths, those of a folder or a glob by name.

    Of a folder or glob that is alone their names are relative to it; of several paths each begins with the path.
    Raises FileNotFoundError for a path that does not exist and a glob that nothing matches, ValueError for no files
    and for more than `at_most`.
    """
    listing = Listing([], at_most)
    for path in paths:
        if path.is_dir():
            _list_folder(path, path if several else None, listing, hidden)
        elif path.exists():
            listing.found.append(Found(str(path) if several else path.name, path, True))
        elif glob.has_magic(str(path)):
            _list_matches(path, several, listing, hidden)
        else:
            raise FileNotFoundError(f"there is no file or folder {str(path)!r} to read the context from")
    if not listing.found:
        more = f" but {listing.hidden:,} hidden, which Files(..., hidden=True) takes" if listing.hidden else ""
        raise ValueError(f"there are no files in {', '.join(repr(str(path)) for path in paths)}{more}")
    # two paths may name the same file
    listing.found = list({found.name: found for found in listing.found}.values())
    return listing


def _list_folder(folder: Path, prefix: Path | None, listing: Listing, hidden: bool) -> None:
    root = folder.resolve()
    for path in sorted(_files_below(root, listing, hidden)):
        relative = path.relative_to(root)
        _add(path, str(prefix / relative) if prefix else relative.as_posix(), root, listing)


def _list_matches(pattern: Path, several: bool, listing: Listing, hidden: bool) -> None:
    """The files that a glob matches, and those below the folders that it matches."""
    base = Path(*_until_magic(pattern.parts))
    root = base.resolve()
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True, include_hidden=hidden)))
    if not matches:
        raise FileNotFoundError(f"no file matches {str(pattern)!r}")
    for match in matches:
        whole = match.is_dir() and "**" not in pattern.parts
        for path in sorted(_files_below(match, listing, hidden)) if whole else [match]:
            if not path.is_dir():
                relative = path.relative_to(base)
                _add(path, str(base / relative) if several else relative.as_posix(), root, listing)


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _files_below(root: Path, listing: Listing, hidden: bool) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        if not hidden:
            listing.hidden += sum(name.startswith(".") for name in names)
            listing.hidden += sum(name.startswith(".") for name in folders)
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        listing.seen += len(names)
        if listing.seen > listing.at_most:
            raise too_many(listing.at_most)
        yield from (Path(folder, name) for name in names)


def _add(path: Path, name: str, root: Path, listing: Listing) -> None:
    real = path.resolve()
    if not real.is_relative_to(root):
        listing.outside += 1
    elif real.is_file():
        # what is a pipe or a device, or leads nowhere, is no file
        listing.found.append(Found(name, real, False))
