"""The log format of alexzhang13/rlm (its `RLMLogger`), as its visualizer reads it.

A line of metadata, then one line for each iteration of one run. The visualizer takes every other line for an
iteration, finds the question in the first user message by the words `original query: "..."`, and a run with errors by
its stderr. It reads no child inside a call: children get files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlm_wasm.events import Event
from rlm_wasm.limits import ModelUsage
from rlm_wasm.prompts import Message
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.trace.told import ToldCall, ToldCell, ToldRun, code_of, line, together


def export_rlm(events: Iterable[Event], run: str | None = None, *, secrets: Secrets | None = None) -> Iterator[str]:
    """The lines, without their ends, of the last root run or of the one named; its children stand inside its calls.

    `secrets` are left out; None leaves out those of the environment. Raises ValueError if there is no such run.
    """
    runs = together(events)
    chosen = [told for name, told in runs.items() if (len(told.path) == 1 if run is None else name == run)]
    if not chosen:
        raise ValueError(f"there is no run{'' if run is None else f' {run}'} among the events")
    return _lines(chosen[-1], secrets or Secrets(of_environment()))


def export_rlm_files(events: Iterable[Event], folder: str | Path, *, secrets: Secrets | None = None) -> list[Path]:
    """Write a file for each run, children too, named as that system names its own; gives their paths in order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, told in together(events).items():
        begun = datetime.fromtimestamp(told.started.wall).strftime("%Y-%m-%d_%H-%M-%S")
        kind = "child" if told.started.depth else "rlm"
        path = folder / f"{kind}_{begun}_{name[:8]}.jsonl"
        written = "".join(f"{text}\n" for text in _lines(told, secrets or Secrets(of_environment())))
        path.write_text(written, "utf-8", newline="\n")
        paths.append(path)
    return paths


def _lines(told: ToldRun, secrets: Secrets) -> Iterator[str]:
    timestamp = _timestamp(told.started.wall)
    yield line({"type": "metadata", "timestamp": timestamp, **_metadata(told)}, secrets)
    for iteration in _iterations(told):
        yield line({"type": "iteration", **iteration}, secrets)


def _metadata(told: ToldRun) -> dict[str, object]:
    started = told.started
    caps: Mapping[str, Any] = started.settings.get("limits") or {}
    return {
        "root_model": started.model,
        "max_depth": caps.get("depth"),
        "max_iterations": caps.get("iterations"),
        "backend": "rlm_wasm",
        "backend_kwargs": {"model_name": started.model},
        "environment_type": "wasm",
        "environment_kwargs": {},
        "other_backends": None if started.sub_model == started.model else ["rlm_wasm"],
    }


def _iterations(told: ToldRun) -> Iterator[dict[str, object]]:
    for number, turn in enumerate(told.turns, start=1):
        ended = turn.ended or turn.reply
        yield {
            "iteration": number,
            "timestamp": _timestamp(ended.wall),
            "prompt": _prompt(turn.prompt, told.started.question),
            "response": code_of(turn.reply),
            "code_blocks": [_block(cell, told) for cell in turn.cells],
            "final_answer": _final(told) if turn is told.turns[-1] else None,
            "iteration_time": ended.monotonic - (turn.asked or turn.reply).monotonic,
        }


def _prompt(messages: tuple[Message, ...], question: str) -> list[dict[str, str]]:
    """The messages, the first of a user saying the question as the visualizer looks for it."""
    chat = [{"role": each.role, "content": each.content} for each in messages]
    # its pattern ends at the next quotation mark
    quoted = 'original query: "{}"'.format(question.replace('"', "'"))
    first = next((each for each in chat if each["role"] == "user"), None)
    if first is None:
        return [*chat, {"role": "user", "content": quoted}]
    first["content"] = f"{quoted}\n\n{first['content']}"
    return chat


def _block(cell: ToldCell, told: ToldRun) -> dict[str, object]:
    finished = cell.finished
    started = told.started
    names = finished.names if finished else ()
    values = {name: "(not recorded)" for name in names if name != "context"}
    # shown by the visualizer as the context, if it is a text
    has_text = started.has_context and isinstance(started.context_value, str)
    result = {
        "stdout": finished.output if finished else "",
        "stderr": (finished.error or "") if finished else "the trace ends while this cell runs",
        "locals": {"context": started.context_value if has_text else started.context, **values},
        "execution_time": finished.seconds if finished else 0.0,
        "rlm_calls": [_call(call) for call in cell.calls],
        "final_answer": _text(finished.final) if finished and finished.has_final else None,
    }
    return {"code": cell.started.code, "result": result}


def _call(call: ToldCall) -> dict[str, object]:
    started, finished, child = call.started, call.finished, call.child
    tokens = (finished.input_tokens, finished.output_tokens) if finished else (0, 0)
    usd = finished.usd if finished else None
    taken: Mapping[str, ModelUsage] = {started.model: ModelUsage(1, *tokens, usd)}
    if child is not None and child.stopped is not None:
        taken = child.stopped.by_model
    told: dict[str, object] = {
        "root_model": started.model,
        "prompt": started.prompt,
        "response": finished.reply if finished else "",
        "usage_summary": _usage(taken, usd),
        "execution_time": finished.seconds if finished else 0.0,
        # which that system's logger does not write, and its visualizer reads
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
    }
    if child is not None:
        told["metadata"] = {"run_metadata": _metadata(child), "iterations": list(_iterations(child))}
    error = finished.error if finished else "the trace ends before this call"
    return {**told, "error": error} if error else told


def _usage(taken: Mapping[str, ModelUsage], usd: float | None) -> dict[str, object]:
    summaries: dict[str, object] = {}
    for model, used in taken.items():
        counts = {"total_calls": used.calls, "total_input_tokens": used.input_tokens}
        cost = {} if used.usd is None else {"total_cost": used.usd}
        summaries[model] = {**counts, "total_output_tokens": used.output_tokens, **cost}
    return {"model_usage_summaries": summaries, **({} if usd is None else {"total_cost": usd})}


def _final(told: ToldRun) -> str | None:
    stopped = told.stopped
    if stopped is None or (stopped.response is None and stopped.stopped_by != "final"):
        return None
    return _text(stopped.response)


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _timestamp(wall: float) -> str:
    # local time without its zone, as datetime.now().isoformat() gives it
    return datetime.fromtimestamp(wall, UTC).astimezone().replace(tzinfo=None).isoformat(timespec="microseconds")
