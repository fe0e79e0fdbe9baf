"""`batch`: questions out of a file, answers into another, and how far it is to stderr."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import anyio

from rlm_wasm.answers_file import Answered
from rlm_wasm.batches import Batch
from rlm_wasm.cli.answers import print_json, print_text
from rlm_wasm.questions import BadLine, read_questions
from rlm_wasm.rlm import RLM
from rlm_wasm.trace.lines import say
from rlm_wasm.trace.questions import BatchView, told

# of the lines that are no questions
_SHOWN = 20
# seconds between two looks at what was spent
_EVERY = 0.5

Signals = Callable[[anyio.Event], AbstractAsyncContextManager[None]]


def answer_all(rlm: RLM, context: object, options: argparse.Namespace, set_by_signals: Signals) -> int:
    """Ask what has no answer yet; gives the exit code. Raises what `Batch.run` raises."""
    questions, bad = read_questions(options.questions)
    for line in bad[:_SHOWN]:
        say(f"{options.questions}, line {line.line:,}: {line.reason}")
    if len(bad) > _SHOWN:
        say(f"{options.questions}: {len(bad) - _SHOWN:,} more lines are no questions")
    stop = anyio.Event()
    with BatchView() as view:
        batch = rlm.batch(
            questions,
            context=context,
            errors=options.errors,
            lazy=options.lazy,
            concurrency=options.concurrency,
            usd=options.usd,
            seconds=options.seconds,
            answers=options.output,
            ask_again=options.ask_again,
            on_answered=view.hear,
        )
        view.begin(batch)
        answers = anyio.run(_run, batch, view, stop, set_by_signals)
    return _told(batch, answers, bad, options, stopped=stop.is_set())


async def _run(batch: Batch, view: BatchView, stop: anyio.Event, set_by_signals: Signals) -> list[Answered]:
    answers: list[Answered] = []
    failure: Exception | None = None
    async with set_by_signals(stop), anyio.create_task_group() as tasks:
        tasks.start_soon(_refreshed, view)
        try:
            answers = await batch.run(stop)
        except Exception as error:
            # out of the group it would come in a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answers


async def _refreshed(view: BatchView) -> None:
    while True:
        view.refresh()
        await anyio.sleep(_EVERY)


def _told(
    batch: Batch, answers: Sequence[Answered], bad: Sequence[BadLine], options: argparse.Namespace, *, stopped: bool
) -> int:
    """Say what became of it; gives the exit code."""
    counts = batch.counts
    earlier = sum(answered.earlier and answered.state == "answered" for answered in answers)
    say(told(batch) + (f" ({earlier:,} of the answers were there before)" if earlier else ""))
    if batch.limit is not None:
        say(f"the limit over all questions: {batch.limit}")
    if counts["answered"] < batch.total:
        say("the same command asks what has no answer yet")
    if options.json:
        states = {state.replace(" ", "_"): counts[state] for state in ("answered", "stopped", "failed", "not asked")}
        lines = [{"line": line.line, "reason": line.reason} for line in bad]
        print_json({"answers": options.output, **states, "earlier": earlier, "bad_lines": lines, "usage": batch.usage})
    else:
        print_text(options.output)
    if stopped:
        return 130
    return 1 if bad or counts["failed"] else 0 if counts["answered"] == batch.total else 3
