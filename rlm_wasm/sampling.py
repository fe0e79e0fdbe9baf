"""Several continuations of one run, and the choice among them.

Knows neither sandboxes nor how a run goes: that is a callable that it is handed.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import anyio
import msgspec

from rlm_wasm import prompts, tables
from rlm_wasm.clients.protocol import Client, Message, Reply
from rlm_wasm.errors import RLMError
from rlm_wasm.limits import Usage
from rlm_wasm.parsing import without_thought
from rlm_wasm.sandbox.values import encode
from rlm_wasm.trajectory import Completion

Choose = Callable[[Sequence[Completion]], int | Awaitable[int]]
Judge = Callable[[Sequence[Message]], Awaitable[Reply]]


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """How many times a question is answered, and which of the answers is the run's.

    `count` runs go on from one shared state: the first `after` iterations, with what was asked and paid in them, are
    had once; with 0 they share the loaded context alone. A run that ends within those is a sample too, and the others
    then go on from its last iteration before. `choose` is "vote": the answer that most have, the earliest of several;
    or a model (a `Client`, or a name for `OpenAIClient`) that is shown the question and the different answers; or a
    function that is given the completions which have an answer and returns the index of one, plain or async.
    Raises ValueError for a number that makes no sense.
    """

    count: int
    after: int = 1
    choose: Literal["vote"] | Choose | Client | str = "vote"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"samples must be 1 or more, not {self.count!r}")
        if self.after < 0:
            raise ValueError(f"Samples.after must be 0 or more, not {self.after!r}")


async def gathered(
    first: Callable[[], Awaitable[Completion]],
    ready: anyio.Event,
    other: Callable[[], Awaitable[Completion]],
    *,
    count: int,
    at_once: int,
) -> list[Completion]:
    """The completions of `first`, and of `count` - 1 others when `ready` is set, at most `at_once` at a time.

    One that fails with an RLMError comes as far as it went; if all do, what the first of them raised is raised.
    """
    done: list[Completion | None] = [None] * count
    failures: list[tuple[int, RLMError]] = []
    faults: list[Exception] = []
    places = anyio.Semaphore(at_once)

    async def run(number: int, work: Callable[[], Awaitable[Completion]]) -> None:
        async with places:
            try:
                done[number] = await work()
            except RLMError as error:
                failures.append((number, error))
                if isinstance(error.partial, Completion):
                    done[number] = error.partial
            except Exception as error:
                # out of the group it would come in a group
                faults.append(error)
                tasks.cancel_scope.cancel()

    async def run_first() -> None:
        try:
            await run(0, first)
        finally:
            ready.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_first)
        await ready.wait()
        for number in range(1, count):
            tasks.start_soon(run, number, other)
    if faults:
        raise faults[0]
    if len(failures) == count:
        raise min(failures, key=lambda failure: failure[0])[1]
    return [completion for completion in done if completion is not None]


async def choose(done: Sequence[Completion], question: str, by: Choose | None, judge: Judge | None) -> int:
    """The index of the one among the completions that is chosen: by a function, by a model, or else by their votes.

    Raises what a caller's own function raises, TypeError or IndexError for what is no index of it, ClientError and
    LimitExceeded if the model cannot be asked.
    """
    ended = [index for index, one in enumerate(done) if one.stopped_by == "final"]
    answered = ended or [index for index, one in enumerate(done) if one.response is not None]
    if not answered:
        # none has an answer: the one that went furthest
        return max(range(len(done)), key=lambda index: len(done[index].trajectory))
    if by is not None:
        return answered[await _by_function(by, [done[index] for index in answered])]
    ballots = [_ballot(done[index].response) for index in answered]
    candidates = list(Counter(ballots))
    best = Counter(ballots).most_common(1)[0][0]
    if judge is not None and len(candidates) > 1:
        reply = await judge(prompts.judge(question, candidates))
        named = re.findall(r"\d+", without_thought(reply.text) or "")
        # one that does not say leaves it to the votes
        if named and 1 <= int(named[-1][:9]) <= len(candidates):
            best = candidates[int(named[-1][:9]) - 1]
    return answered[ballots.index(best)]


async def _by_function(function: Choose, given: Sequence[Completion]) -> int:
    chosen: Any = function(given)
    if inspect.isawaitable(chosen):
        chosen = await chosen
    if isinstance(chosen, bool) or not isinstance(chosen, int):
        raise TypeError(f"Samples.choose must return the index of a completion, not {chosen!r}")
    if not 0 <= chosen < len(given):
        raise IndexError(f"Samples.choose returned {chosen}, and there are {len(given)} completions")
    return chosen


def _ballot(response: object) -> str:
    """An answer as a text; two that differ in white space alone are one."""
    if isinstance(response, str):
        return " ".join(response.split())
    try:
        return encode(msgspec.to_builtins(response, enc_hook=_known))
    except (TypeError, ValueError):
        return repr(response)


def _known(value: object) -> object:
    """A frame or an array as its values, which its repr leaves out; anything else as its repr."""
    return tables.as_plain(value) if tables.is_tabular(value) else repr(value)


def together(done: Sequence[Completion], chosen: int, judged: Usage, seconds: float) -> Completion:
    """The chosen completion, with all of them in `samples`, and what they and the judge took in its usage."""
    usage = sum((one.usage for one in done), judged)
    return msgspec.structs.replace(done[chosen], usage=usage, seconds=seconds, samples=tuple(done))
