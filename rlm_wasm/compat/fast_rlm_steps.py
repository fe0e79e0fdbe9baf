"""fast-rlm's steps, made of this runtime's events as they come: for its log file and its `on_step`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rlm_wasm.events import CellFinished, CellStarted, Event, RootReplied, RunStarted, RunStopped
from rlm_wasm.limits import Usage

_log = logging.getLogger(__name__)

Step = dict[str, Any]
NOTHING: Step = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
    "cost": 0.0,
}
"""What a step without a model call took; `cost` is in US dollars."""


def log_path(log_dir: str | Path | None, prefix: str | None) -> Path | None:
    """The file of a new run's log, as it is named there; None where neither a folder nor a prefix is given."""
    if log_dir is None and prefix is None:
        return None
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Path(log_dir or "logs") / f"{prefix or 'run'}_{now.replace(':', '-').replace('.', '-')}.jsonl"


class Steps:
    """A listener that writes each run's beginning, steps, answer and end to `path`, and tells `on_step` of the middle.

    The folder is made if need be. What `on_step` raises is logged, and stops nothing.
    """

    def __init__(self, path: Path | None = None, on_step: Callable[[Step], object] | None = None) -> None:
        self.path = path
        self._on_step = on_step
        self._runs: dict[str, _Run] = {}
        self._total = dict(NOTHING)

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, RunStarted):
            parent = self._runs.get(event.parent or "")
            self._runs[event.run] = _Run(event, parent)
            self._write(self._runs[event.run].line(event, "agent_start"))
            return
        run = self._runs.get(event.run)
        if run is None:
            return
        match event:
            case RootReplied():
                run.reply(event)
                self._add(run.usage)
            case CellStarted():
                run.code, run.began = event.code, event.wall
            case CellFinished():
                self._tell({**run.step(event), "totalUsage": dict(self._total)})
            case RunStopped():
                if event.response is not None or event.stopped_by == "final":
                    self._tell({**run.line(event, "final_result"), "result": event.response})
                self._write(run.line(event, "agent_end"))
            case _:
                pass

    def usage(self, took: Usage) -> Step:
        """What a whole run took, as that system says it; `cost` is None where a price is not known."""
        tokens = {"prompt_tokens": took.input_tokens, "completion_tokens": took.output_tokens}
        return {**NOTHING, **tokens, "total_tokens": took.tokens, "cached_tokens": took.cache_reads, "cost": took.usd}

    def tell(self, text: str) -> None:
        """Write a text to stderr, without what would move a terminal's cursor."""
        sys.stderr.write("".join(c if c.isprintable() or c == "\n" else " " for c in text) + "\n")
        sys.stderr.flush()

    def _add(self, usage: Step) -> None:
        self._total = {name: self._total[name] + usage[name] for name in NOTHING}

    def _tell(self, step: Step) -> None:
        self._write({name: value for name, value in step.items() if name != "totalUsage"})
        if self._on_step is None:
            return
        try:
            self._on_step(step)
        except Exception:
            _log.exception("on_step failed on %s", step["event_type"])

    def _write(self, line: Step) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(line, enc_hook=repr) + b"\n")


class _Run:
    """One run, as far as it has come."""

    def __init__(self, started: RunStarted, parent: _Run | None) -> None:
        self.id = f"{int(started.wall * 1000)}-{started.run}"
        self.code = ""
        self.began = started.wall
        self.usage = dict(NOTHING)
        self._parent = parent
        self._reply: RootReplied | None = None
        self._steps = -1

    def reply(self, event: RootReplied) -> None:
        """Note the reply whose cells come next."""
        self._reply = event
        tokens = event.input_tokens + event.output_tokens
        self.usage = {
            **NOTHING,
            "prompt_tokens": event.input_tokens,
            "completion_tokens": event.output_tokens,
            "total_tokens": tokens,
            # a number always: readers of older logs fall over null
            "cost": event.usd or 0.0,
        }

    def line(self, event: Event, kind: str) -> Step:
        """The fields that every line has."""
        parent = {} if self._parent is None else {"parent_run_id": self._parent.id}
        return {
            "level": 30,
            "time": _time(event.wall),
            "run_id": self.id,
            **parent,
            "depth": event.depth,
            "event_type": kind,
        }

    def step(self, event: CellFinished) -> Step:
        """A cell that has run. The one that gave the answer shows no output there."""
        self._steps = max(self._steps + 1, event.iteration)
        times = {"execution_start": _time(self.began), "execution_end": _time(event.wall)}
        reply, self._reply = self._reply, None
        if reply is not None:
            began = reply.wall - reply.seconds
            times = {"llm_call_start": _time(began), "llm_call_end": _time(reply.wall), **times}
        shown = {} if event.has_final else {"output": event.error or event.output, "hasError": event.error is not None}
        usage, self.usage = self.usage, dict(NOTHING)
        kind = "code_generated" if event.has_final else "execution_result"
        more = {"step": self._steps, "code": self.code, **shown, "usage": usage, "timestamps": times}
        return {**self.line(event, kind), **more}


def _time(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
