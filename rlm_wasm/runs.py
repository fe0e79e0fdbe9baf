"""The runs of a store, as they are listed and pruned: what each was asked, where it stands, what it took.

Reads and removes folders of runs; `store.py` says what is in one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from rlm_wasm.store import ID, RunBusy, RunFolder, Summary

_DAY = 86_400
_MB = 1_000_000

Standing = Literal["running", "over", "unfinished", "damaged"]


class Store(msgspec.Struct, frozen=True):
    """A folder of runs, and how long they are kept.

    When a run begins, those are removed whose last change is more than `days` ago, and of the others the oldest, until
    all together have at most `mb` (1,000,000 bytes); None sets no such bound. One that goes on now is never removed.
    Raises ValueError for a bound that makes no sense.
    """

    path: Path
    days: float | None = 30
    mb: float | None = 2000

    def __post_init__(self) -> None:
        for name, bound in (("days", self.days), ("mb", self.mb)):
            if bound is not None and not bound >= 0:
                raise ValueError(f"Store.{name} must be 0 or more, or None, not {bound!r}")

    @classmethod
    def of(cls, store: str | Path | Store) -> Store:
        """The store itself, or the one in a folder, with the bounds that are the default."""
        return store if isinstance(store, Store) else cls(Path(store))


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a store. `unfinished` ones can be resumed; `damaged` ones cannot be read.

    `changed` is in seconds since 1970, `size` in bytes; `summary` is None for a damaged one.
    """

    run: str
    standing: Standing
    changed: float
    size: int
    summary: Summary | None = None


def listed(store: Path) -> list[StoredRun]:
    """The runs of a store, the one that changed last first. Raises FileNotFoundError if there is no such folder."""
    if not store.is_dir():
        raise FileNotFoundError(f"there is no store {str(store)!r}: RLM(store=...) or --store says where runs are kept")
    found = [_stored(path) for path in store.iterdir() if path.is_dir() and ID.fullmatch(path.name)]
    return sorted((run for run in found if run is not None), key=lambda run: -run.changed)


def pruned(store: Store, *, now: float | None = None) -> list[StoredRun]:
    """Remove what a store need not keep any more; gives what was removed. Raises what `listed` raises, and OSError."""
    runs = listed(store.path)
    removed: list[StoredRun] = []
    for run in _too_many(runs, store, time.time() if now is None else now):
        if remove(store.path, run.run):
            removed.append(run)
    return removed


def remove(store: Path, run: str) -> bool:
    """Remove one run; False if it goes on just now. Raises FileNotFoundError if there is none, OSError."""
    try:
        with RunFolder(store, run) as folder:
            # out of sight first: what is half removed is no run any more
            gone = folder.path.with_name(f".{run}.removed")
            folder.path.rename(gone)
    except RunBusy:
        return False
    shutil.rmtree(gone)
    return True


def _too_many(runs: Sequence[StoredRun], store: Store, now: float) -> list[StoredRun]:
    """Those to be removed, of runs that are sorted by age, the youngest first."""
    chosen: list[StoredRun] = []
    kept = 0
    for run in runs:
        old = store.days is not None and now - run.changed > store.days * _DAY
        large = store.mb is not None and kept + run.size > store.mb * _MB
        if run.standing != "running" and (old or large):
            chosen.append(run)
        else:
            kept += run.size
    return chosen


def _stored(path: Path) -> StoredRun | None:
    """The run in a folder; None if it is gone by now."""
    try:
        files = [file.stat() for file in path.iterdir()]
        changed = max((file.st_mtime for file in files), default=path.stat().st_mtime)
    except FileNotFoundError:
        return None
    size = sum(file.st_size for file in files)
    folder = RunFolder(path.parent, path.name)
    try:
        summary = folder.summary()
    except (OSError, ValueError):
        return StoredRun(run=path.name, standing="damaged", changed=changed, size=size)
    standing: Standing = "running" if folder.busy else "over" if summary.over else "unfinished"
    return StoredRun(run=path.name, standing=standing, changed=changed, size=size, summary=summary)
