"""fast-rlm's log format (pino's JSON lines), as its two viewers read it.

All runs in one file. Every line says its run; a step is one reply with all its cells, and has `output` unless it is
the last. Viewers hang a child under the step within whose time its first step lies, so that a step comes after its
children's, and times only grow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rlm_wasm.events import CallFinished, Event, IterationStarted, RootReplied, RunStarted, RunStopped
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.trace.told import ToldCell, ToldRun, Turn, as_json, code_of, follow, line

_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)


def export_fast_rlm(events: Iterable[Event], *, secrets: Secrets | None = None) -> Iterator[str]:
    """The lines, without their ends, of all runs among the events.

    `secrets` are left out; None leaves out those of the environment.
    """
    lines = _Lines(secrets or Secrets(of_environment()))
    runs: dict[str, ToldRun] = {}
    for event, run in follow(events):
        runs[event.run] = run
        if isinstance(event, RunStarted):
            yield lines.write(run, event.wall, event_type="agent_start")
        elif isinstance(event, IterationStarted) and run.look and not run.turns:
            yield from lines.look(run, event.wall)
        yield from lines.turns(run, event.wall)
        if isinstance(event, RunStopped):
            if event.response is not None or event.stopped_by == "final":
                yield lines.write(run, event.wall, event_type="final_result", result=as_json(event.response))
            yield lines.write(run, event.wall, event_type="agent_end")
    for run in reversed(runs.values()):
        # what a run that was cut off did last, and children before those that they are a part of
        yield from lines.turns(run, 0.0)


class _Lines:
    """Makes the lines, and knows what was written."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._milliseconds = 0
        self._ids: dict[str, str] = {}
        self._written: dict[str, int] = {}

    def write(self, run: ToldRun, wall: float, **fields: object) -> str:
        """A line at this time, or a millisecond after the last if that is later: no two are of one time."""
        self._milliseconds = max(int(wall * 1000), self._milliseconds + 1)
        started = run.started
        # what viewers show of an id are the six characters after the dash
        own = self._ids.setdefault(started.run, f"{int(started.wall * 1000)}-{started.run[:9]:0<9}")
        parent = self._ids.get(started.parent or "")
        parents = {} if parent is None else {"parent_run_id": parent}
        stamps = {"level": 30, "time": _time(self._milliseconds / 1000), "run_id": own, **parents}
        return line({**stamps, "depth": started.depth, **fields}, self._secrets)

    def look(self, run: ToldRun, wall: float) -> Iterator[str]:
        """The step 0: what the root model is shown of the context before it is asked."""
        yield self._step(run, wall, 0, run.look, usage=_usage([]), timestamps=_execution(run.look))

    def turns(self, run: ToldRun, wall: float) -> Iterator[str]:
        """The steps that are not written yet."""
        for number in range(self._written.get(run.started.run, 0), len(run.turns)):
            turn = run.turns[number]
            self._written[run.started.run] = number + 1
            finished = [call.finished for cell in turn.cells for call in cell.calls if call.child is None]
            usage = _usage([*turn.replies, *[call for call in finished if call is not None]])
            times = {"llm_call_start": _time(turn.asked.wall)} if turn.asked else {}
            times |= {"llm_call_end": _time(turn.reply.wall), **_execution(turn.cells)}
            reasoning = _reasoning(turn)
            more = {"reasoning": reasoning} if reasoning else {}
            yield self._step(run, wall, number + 1, turn.cells, turn, **more, usage=usage, timestamps=times)

    def _step(
        self,
        run: ToldRun,
        wall: float,
        number: int,
        cells: Sequence[ToldCell],
        turn: Turn | None = None,
        **fields: object,
    ) -> str:
        code = "\n\n".join(cell.started.code for cell in cells)
        output = _output(cells, turn)
        if output is None:
            return self.write(run, wall, step=number, event_type="code_generated", code=code, **fields)
        failed = any(cell.finished is None or cell.finished.error is not None for cell in cells)
        ran = {"event_type": "execution_result", "code": code, "output": output, "hasError": failed}
        return self.write(run, wall, step=number, **ran, **fields)


def _output(cells: Sequence[ToldCell], turn: Turn | None) -> str | None:
    """What a step printed; None for the last, which ends the run and prints nothing."""
    if turn is not None and turn.observation is not None:
        return turn.observation
    finished = [cell.finished for cell in cells if cell.finished is not None]
    said = [part for cell in finished for part in (cell.output, cell.error) if part]
    return "\n".join(said) if said or turn is None else None


def _reasoning(turn: Turn) -> str:
    """What a reply says beside its code."""
    text = code_of(turn.reply)
    for cell in turn.cells:
        text = text.replace(cell.started.code, "")
    return _FENCE.sub("", text).strip()


def _execution(cells: Sequence[ToldCell]) -> dict[str, str]:
    if not cells:
        return {}
    ended = {} if cells[-1].finished is None else {"execution_end": _time(cells[-1].finished.wall)}
    return {"execution_start": _time(cells[0].started.wall), **ended}


def _usage(calls: Sequence[RootReplied | CallFinished]) -> dict[str, float]:
    given, got = sum(call.input_tokens for call in calls), sum(call.output_tokens for call in calls)
    tokens = {"prompt_tokens": given, "completion_tokens": got, "total_tokens": given + got}
    # no price is 0: older viewers fail on null
    return {**tokens, "cached_tokens": 0, "reasoning_tokens": 0, "cost": sum(call.usd or 0 for call in calls)}


def _time(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
