"""A recorded run, run again in a fresh sandbox with the recorded answers, and compared with itself.

Nobody is asked and nothing is paid: model calls and the caller's own functions answer as they did. What differs is
told at its first place.
"""

from __future__ import annotations

import difflib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from rlm_wasm import contexts, dialects
from rlm_wasm.answers import Failure, question
from rlm_wasm.clients.recorded import Recorded
from rlm_wasm.clients.scripted import ScriptedClient
from rlm_wasm.dialects import Dialect
from rlm_wasm.errors import FunctionError, RLMError
from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    FunctionCalled,
    RunStarted,
    RunStopped,
)
from rlm_wasm.guards import Guards
from rlm_wasm.limits import Limits
from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox import SandboxOptions
from rlm_wasm.sandbox.values import encode
from rlm_wasm.trajectory import Completion

# lines of a difference that are shown
_SHOWN_LINES = 40
# of the options that were recorded, those that a replay takes over; the others say how and where, not what
_OPTIONS = (
    *("output_chars", "max_output_words", "output_keep", "output_mark", "echo", "timeout", "memory_mb"),
    *("seed", "clock"),
)


class Difference(msgspec.Struct, frozen=True):
    """The first place where a replay differs: in `what` of the run at `depth` in `iteration`, and both sides of it."""

    what: str
    depth: int
    iteration: int
    recorded: str
    replayed: str

    def __str__(self) -> str:
        place = f"iteration {self.iteration}" + (f" of a child at depth {self.depth}" if self.depth else "")
        lines = difflib.unified_diff(
            self.recorded.splitlines(), self.replayed.splitlines(), "recorded", "replayed", lineterm=""
        )
        return "\n".join([f"{place}: {self.what} differs", *list(lines)[:_SHOWN_LINES]])


class Replayed(msgspec.Struct, frozen=True):
    """What became of a replay: `difference` is None if it was the same; `cells`, `calls`: how many were run."""

    difference: Difference | None
    completion: Completion | None
    cells: int
    calls: int


async def replay(
    events: Sequence[Event],
    *,
    context: object = None,
    dialect: str | Dialect | None = None,
    sandbox: SandboxOptions | None = None,
) -> Replayed:
    """Run a recorded run again. `events` are those of one run at the root and its children, as `Trajectory.events`.

    `context`: the context, where it was too large to be recorded. `dialect`: where the run had one of the caller's own.
    `sandbox`: options that are not recorded, such as `deno`. Raises ValueError for a trace that cannot be run again,
    which says what it lacks, and SandboxStartError.
    """
    begun = _begun(events)
    heard: list[Event] = []
    rlm = _rlm(begun, events, dialect, sandbox or SandboxOptions(), heard)
    done: Completion | None = None
    try:
        given = _context(begun, context)
        output, lazy = begun.settings.get("output"), _was_lazy(begun)
        done = await rlm.acompletion(begun.question, context=given, output=output, lazy=lazy)
    except RLMError as error:
        # as the recorded one failed, perhaps: what it said before is compared
        if not isinstance(error.partial, Completion):
            raise
        done = error.partial
    cells = sum(isinstance(event, CellFinished) for event in heard)
    calls = sum(isinstance(event, (CallFinished, FunctionCalled)) for event in heard)
    return Replayed(compare(events, heard), done, cells, calls)


def _begun(events: Sequence[Event]) -> RunStarted:
    begun = [event for event in events if isinstance(event, RunStarted) and event.parent is None]
    if len(begun) != 1:
        raise ValueError(f"a trace of one run is wanted, and this one has {len(begun)}: say which, by its id")
    if not begun[0].settings:
        raise ValueError("the trace does not say how its sandbox was set up: it is of a plain call, not of a run")
    return begun[0]


def _context(begun: RunStarted, context: object) -> object:
    if context is None:
        if begun.has_context:
            return begun.context_value
        raise ValueError(
            "the context was too large to be recorded: give it in context= (on the command line --context)"
        )
    context = contexts.prepare(context, lazy=_was_lazy(begun))
    if begun.context_sha256 and contexts.fingerprint(context.value)[1] != begun.context_sha256:
        raise ValueError("the context that was given is not the one of the recorded run")
    return context


def _was_lazy(begun: RunStarted) -> bool:
    """Whether the run's context had stayed on the host."""
    return bool(begun.settings.get("lazy"))


def _rlm(
    begun: RunStarted,
    events: Sequence[Event],
    dialect: str | Dialect | None,
    sandbox: SandboxOptions,
    heard: list[Event],
) -> RLM:
    settings = begun.settings
    recorded = Recorded(events)
    others = {event.model for event in events if isinstance(event, CallStarted)} - {begun.model, begun.sub_model}
    options = {name: value for name, value in settings["sandbox"].items() if name in _OPTIONS}
    if settings["sandbox"].get("packages") and not sandbox.packages:
        # what a trace names is not fetched because it is named there
        named = ", ".join(settings["sandbox"]["packages"])
        raise ValueError(
            f"the run had packages in its sandbox ({named}): give them in the sandbox's options (--packages)"
        )
    # what stopped a run by the clock or by its price would do so at another place
    limits = {name: value for name, value in settings["limits"].items() if name not in ("seconds", "usd")}
    if dialect is None and settings["dialect"] not in dialects.DIALECTS:
        raise ValueError(f"the dialect {settings['dialect']!r} is one of the caller's own: give it in dialect=")
    return RLM(
        ScriptedClient.of_recorded(recorded, model=begun.model),
        sub_model=ScriptedClient.of_recorded(recorded, model=begun.sub_model),
        models={name: ScriptedClient.of_recorded(recorded, model=name) for name in others},
        dialect=dialect or settings["dialect"],
        act=settings["act"],
        guards=Guards(**settings["guards"]),
        limits=Limits(**limits),
        functions=_functions(events, settings["functions"]),
        variables=settings["variables"],
        windows=settings["windows"],
        sandbox=msgspec.structs.replace(sandbox, **options),
        listeners=[heard.append],
    )


def _functions(events: Sequence[Event], names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """The caller's own functions, which answer as they did."""
    answers: defaultdict[str, deque[FunctionCalled]] = defaultdict(deque)
    for event in events:
        if isinstance(event, FunctionCalled):
            answers[question(event.function, event.arguments, event.named)].append(event)

    async def answer(name: str, /, *given: Any, **named: Any) -> Any:
        found = answers.get(question(name, given, named))
        if not found:
            raise FunctionError("it was not asked this in the recorded run")
        event = found.popleft() if len(found) > 1 else found[0]
        if event.error is None:
            return event.value
        kind, _, text = event.error.partition(": ")
        raise Failure(kind, text).error()

    return {name: partial(answer, name) for name in names}


# --- comparing -----------------------------------------------------------------------------------------------------


def compare(recorded: Sequence[Event], replayed: Sequence[Event]) -> Difference | None:
    """The first difference in what two runs did: their cells, what these asked and gave, and the answers."""
    one, other = _tell(recorded), _tell(replayed)
    for there, here in zip(one, other, strict=False):
        if there.what != here.what or there.text != here.text:
            what = there.what if there.what == here.what else f"{there.what}, in whose place stands {here.what},"
            return Difference(what, there.depth, there.iteration, there.text, here.text)
    if len(one) == len(other):
        return None
    if len(one) > len(other):
        step = one[len(other)]
        return Difference(f"{step.what}, which was not reached again,", step.depth, step.iteration, step.text, "")
    step = other[len(one)]
    return Difference(f"{step.what}, which was not recorded,", step.depth, step.iteration, "", step.text)


class _Step(msgspec.Struct, frozen=True):
    what: str
    depth: int
    iteration: int
    text: str


class _Story:
    """What the runs in `events` did, in an order that does not depend on who was quicker."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._by_run: defaultdict[str, list[Event]] = defaultdict(list)
        self._children: dict[tuple[str, int], str] = {}
        for event in events:
            self._by_run[event.run].append(event)
            if isinstance(event, RunStarted) and event.parent is not None and event.call is not None:
                self._children[event.parent, event.call] = event.run

    def of(self, run: str) -> list[_Step]:
        """The steps of a run; of its children too, by the numbers of their calls."""
        steps: list[_Step] = []
        asked: list[_Step] = []
        numbers: list[int] = []
        for event in self._by_run[run]:
            step = partial(_Step, depth=event.depth, iteration=event.iteration)
            match event:
                case CellStarted():
                    steps.append(step("the code of a cell", text=event.code))
                case CallStarted():
                    asked.append(step(f"what a cell asks by {event.function}", text=event.prompt))
                    numbers.append(event.call)
                case FunctionCalled():
                    text = question(event.function, event.arguments, event.named)
                    asked.append(step(f"what a cell asks by {event.function}", text=text))
                case CellFinished():
                    # many are asked at once, in an order that is nobody's
                    steps += sorted(asked, key=lambda each: (each.what, each.text))
                    children = [self._children[run, number] for number in numbers if (run, number) in self._children]
                    steps += [each for child in children for each in self.of(child)]
                    asked, numbers = [], []
                    steps.append(step("the output of a cell", text=event.output))
                    steps.append(step("the error of a cell", text=event.error or ""))
                case RunStopped():
                    steps.append(step("what ended the run", text=event.stopped_by))
                    steps.append(step("the answer", text=_shown(event.response)))
                case _:
                    pass
        return steps


def _tell(events: Sequence[Event]) -> list[_Step]:
    root = next(event.run for event in events if isinstance(event, RunStarted) and event.parent is None)
    return _Story(events).of(root)


def _shown(response: object) -> str:
    try:
        return encode(msgspec.to_builtins(response))
    except (TypeError, ValueError):
        return repr(response)
