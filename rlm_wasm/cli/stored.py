"""The commands about runs that are kept on disk: what there is, what to remove, with what to go on."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from rlm_wasm.cards import dollars
from rlm_wasm.cli.answers import print_json, print_text
from rlm_wasm.cli.settings import ALL
from rlm_wasm.errors import RLMError
from rlm_wasm.events import RunStarted
from rlm_wasm.limits import Limits
from rlm_wasm.runs import Store, StoredRun, listed, pruned, remove
from rlm_wasm.sandbox.values import decode
from rlm_wasm.store import RunFolder
from rlm_wasm.trace.lines import say

# characters of a question in a line
_SHOWN = 60


class Recorded(msgspec.Struct, frozen=True):
    """How a run was set up, as far as the command line can set one up."""

    model: str
    sub_model: str
    dialect: str
    act: str
    limits: Limits
    seed: int | None
    packages: tuple[str, ...]


def store_of(options: argparse.Namespace) -> Path:
    """The folder of the runs. Ends the process where none is named."""
    if not options.store:
        options.parser.error(
            f'which runs? give --store, set {ALL["store"].variable}, or write store = "..." in a config file'
        )
    return Path(options.store)


def recorded(store: Path, run: str) -> Recorded:
    """What a run was set up with. Raises FileNotFoundError if there is none, ValueError if it is damaged."""
    folder = RunFolder(store, run)
    if not folder.path.is_dir():
        raise FileNotFoundError(f"there is no run {run} in {store}: rlm-wasm runs lists them")
    settings = decode(folder.asked().settings)
    begun = next((event for event in folder.events() if isinstance(event, RunStarted) and event.run == run), None)
    return Recorded(
        "" if begun is None else begun.model,
        "" if begun is None else begun.sub_model,
        settings["dialect"],
        settings["act"],
        Limits(**settings["limits"]),
        settings["sandbox"]["seed"],
        tuple(settings["sandbox"].get("packages", ())),
    )


def list_runs(options: argparse.Namespace) -> int:
    """`runs`: what is in a store, after what is to be removed."""
    store = store_of(options)
    removed = _removed(options, store)
    runs = listed(store)
    if options.json:
        print_json({"runs": runs, "removed": [run.run for run in removed]})
        return 0
    for run in removed:
        say(f"removed: {_line(run)}")
    for run in runs:
        print_text(_line(run))
    total = sum(run.size for run in runs)
    say(f"{len(runs):,} {'run' if len(runs) == 1 else 'runs'}, {_megabytes(total)} in {store}")
    return 0


def _removed(options: argparse.Namespace, store: Path) -> list[StoredRun]:
    there = {run.run: run for run in listed(store)}
    removed: list[StoredRun] = []
    for run in options.remove or ():
        if run not in there:
            raise FileNotFoundError(f"there is no run {run} in {store}: nothing more was removed")
        if not remove(store, run):
            raise RLMError(f"run {run} goes on just now: wait for its end, or end that program")
        removed.append(there[run])
    if options.prune:
        removed += pruned(Store(store, options.days, options.mb))
    elif options.days is not None or options.mb is not None:
        options.parser.error("--days and --mb say what --prune removes: give that too")
    return removed


def _line(run: StoredRun) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
    summary = run.summary
    if summary is None:
        return f"{run.run}  {when}  damaged      {_megabytes(run.size):>9}"
    standing = run.standing if run.standing != "over" else summary.stopped_by
    question = " ".join(summary.question.split())
    shown = question if len(question) <= _SHOWN else f"{question[: _SHOWN - 3]}..."
    took = f"{summary.iterations:>3} it.  {summary.calls:>5,} calls  {dollars(summary.usd):>9}"
    return f"{run.run}  {when}  {standing:<11}  {_megabytes(run.size):>9}  {took}  {shown}"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
