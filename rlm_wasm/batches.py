"""Many questions, so many at once, under one budget, with one context: what is asked, what becomes of it, when it ends.

Knows nothing of how a question is answered: that is a callable that it is handed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm import contexts
from rlm_wasm.answers_file import Answered, AnswersFile, Failure
from rlm_wasm.errors import ClientError, LimitExceeded, RLMError, SandboxStartError
from rlm_wasm.limits import Budget, Limits, Usage
from rlm_wasm.outputs import Output, Unfit
from rlm_wasm.questions import Question, questions_of
from rlm_wasm.sandbox import SandboxPool
from rlm_wasm.sandbox.values import encode
from rlm_wasm.trajectory import Completion

CONCURRENCY = 4
"""Questions at once: each has a sandbox of its own, which takes some 100 MB and a core while its cells compute."""
# with these no question can be answered: no such key, no money, no such model
_HOPELESS = frozenset({401, 402, 404})
# in a row, of a provider that is away; as many as `Limits.errors`
_FAILURES = 10
# characters or bytes of a context that are hashed at a time
_PIECE = 4 * 1024 * 1024

Answer = Callable[[Question, contexts.Context, Budget, anyio.Event], Awaitable[Completion]]


class BatchOptions(TypedDict, total=False):
    """What `RLM.map` takes beside the questions.

    `context`, `output`, `errors` and `lazy` are as in `acompletion`, for all questions that have none of their own.
    `concurrency` is how many are asked at once. `usd` (US dollars), `tokens` and `seconds` hold over all of them
    together; the limits of the RLM hold for each. `answers` is a file to which each answer is appended as it comes, and
    whose answers are not asked for again; `ask_again` says whether those that failed or were stopped are. `on_answered`
    is told each that was asked.
    """

    context: object
    output: Any
    errors: str
    lazy: bool | None
    concurrency: int
    usd: float | None
    tokens: int | None
    seconds: float | None
    answers: str | Path | None
    ask_again: bool
    on_answered: Callable[[Answered], object]


class Batch:
    """Many questions being answered; made by `RLM.batch`, and run once. Its properties say how far it is."""

    def __init__(
        self,
        answer: Answer,
        open_budget: Callable[[Limits], Budget],
        questions: Iterable[object],
        *,
        pool: SandboxPool | None = None,
        context: object = None,
        output: Any = None,
        errors: str = "strict",
        lazy: bool | None = None,
        concurrency: int = CONCURRENCY,
        usd: float | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        answers: str | Path | None = None,
        ask_again: bool = True,
        on_answered: Callable[[Answered], object] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency!r}")
        Output(output)
        self._answer = answer
        self._open_budget = partial(open_budget, Limits(usd=usd, tokens=tokens, seconds=seconds, calls=None))
        self._questions = questions_of(questions)
        self._context, self._output, self._errors, self._lazy = context, output, errors, lazy
        self._pool = pool
        self._concurrency = concurrency
        self._file = None if answers is None else AnswersFile(answers)
        self._ask_again = ask_again
        self._on_answered = on_answered
        self._entered: dict[int, Answered] = {}
        self._budget: Budget | None = None
        self._stop: anyio.Event | None = None
        self._asked_to_stop: anyio.Event | None = None
        self._failure: Exception | None = None
        self._away = 0
        self._began = 0.0
        self._asked = 0

    def __repr__(self) -> str:
        return f"<Batch {len(self._entered):,}/{self.total:,} questions>"

    # --- how far it is ---------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """How many questions there are."""
        return len(self._questions)

    @property
    def counts(self) -> Counter[str]:
        """How many questions have come to which state so far, those of earlier batches included."""
        return Counter(answered.state for answered in self._entered.values())

    @property
    def usage(self) -> Usage:
        """What was spent in this batch so far, also on what is under way."""
        return Usage() if self._budget is None else self._budget.usage

    @property
    def limit(self) -> LimitExceeded | None:
        """The limit over all questions that was reached, if one was."""
        return None if self._budget is None else self._budget.refused

    @property
    def seconds_left(self) -> float | None:
        """How long what is left will take if it goes on like this; None as long as nothing is known."""
        if not self._asked:
            return None
        return (time.monotonic() - self._began) / self._asked * (self.total - len(self._entered))

    # --- how it goes -----------------------------------------------------------------------------------------------

    async def run(self, stop: anyio.Event | None = None) -> list[Answered]:
        """Ask what is to be asked; gives all in the order of the questions. `stop` ends it as in `acompletion`.

        A question that fails is told as such, and the others go on. Raises, with what was reached as `partial`,
        SandboxStartError and ClientError where no question could fare better; OSError if an answer could not be
        written; BatchBusy, and what preparing the context raises, before anything is asked.
        """
        self._stop, self._asked_to_stop = anyio.Event(), stop
        async with AsyncExitStack() as stack:
            if self._file is not None:
                await anyio.to_thread.run_sync(stack.enter_context, self._file)
            prepare = partial(contexts.prepare, self._context, errors=self._errors, lazy=self._lazy)
            shared = await anyio.to_thread.run_sync(prepare)
            stack.callback(contexts.release, self._context, shared)
            keyed = await anyio.to_thread.run_sync(self._keyed, shared)
            self._budget = self._open_budget()
            self._began = time.monotonic()
            self._take_earlier(keyed)
            if len(self._entered) < self.total and self._pool is not None:
                await stack.enter_async_context(self._pool)
            await self._ask_all(keyed, shared)
            results = [self._entered.get(place) or self._not_asked(keyed[place]) for place in range(self.total)]
            self._entered = dict(enumerate(results))
            await self._settle(results)
        if isinstance(self._failure, RLMError):
            self._failure.partial = results
        if self._failure is not None:
            raise self._failure
        return results

    def _keyed(self, shared: contexts.Context) -> list[Answered]:
        """What is known of each question before it is asked, with its id and its key."""
        digest, seen = _digest(shared), Counter[str]()
        keyed: list[Answered] = []
        for question in self._questions:
            try:
                own = digest if question.context is None else self._own_digest(question, shared)
            except (OSError, ValueError, TypeError):
                # it is asked, and fails of that
                own = ""
            schema = Output(self._output if question.output is None else question.output).schema
            key = hashlib.sha256(json.dumps([question.question, own, schema], sort_keys=True).encode()).hexdigest()[:32]
            seen[key] += question.id is None
            # a question that stands there twice is asked twice
            id = question.id or f"{key[:12]}{f'-{seen[key]}' if seen[key] > 1 else ''}"
            keyed.append(
                Answered(id=id, question=question.question, state="not asked", key=key, metadata=question.metadata)
            )
        return keyed

    def _prepared(self, question: Question, shared: contexts.Context) -> contexts.Context:
        if question.context is None:
            return shared
        return contexts.prepare(question.context, errors=self._errors, lazy=self._lazy)

    def _own_digest(self, question: Question, shared: contexts.Context) -> str:
        prepared = self._prepared(question, shared)
        try:
            return _digest(prepared)
        finally:
            contexts.release(question.context, prepared)

    def _take_earlier(self, keyed: Sequence[Answered]) -> None:
        for place, known in enumerate(keyed):
            found = None if self._file is None else self._file.find(known.id, known.key)
            if found is None:
                continue
            settled = found.state == "failed" or found.stopped_by in ("iterations", "errors")
            if found.state == "answered" or (settled and not self._ask_again):
                self._entered[place] = self._typed(found, self._questions[place])

    def _typed(self, found: Answered, question: Question) -> Answered:
        """An answer that was written, as the type that is asked for where it still fits it."""
        try:
            output = Output(self._output if question.output is None else question.output)
            return msgspec.structs.replace(found, response=output.accept(found.response))
        except Unfit:
            return found

    async def _ask_all(self, keyed: Sequence[Answered], shared: contexts.Context) -> None:
        places = iter([place for place in range(self.total) if place not in self._entered])
        async with anyio.create_task_group() as watching:
            if self._asked_to_stop is not None:
                watching.start_soon(self._pass_on, self._asked_to_stop)
            async with anyio.create_task_group() as tasks:
                for _ in range(self._concurrency):
                    tasks.start_soon(self._work, places, keyed, shared)
            watching.cancel_scope.cancel()

    async def _pass_on(self, stop: anyio.Event) -> None:
        assert self._stop is not None
        await stop.wait()
        self._stop.set()

    async def _work(self, places: Iterator[int], keyed: Sequence[Answered], shared: contexts.Context) -> None:
        for place in places:
            if self._is_over():
                return
            known = keyed[place]
            answered = await self._ask(self._questions[place], known, shared)
            before = None if self._file is None else self._file.find(known.id, known.key)
            if before is not None:
                usage, seconds = before.usage + answered.usage, before.seconds + answered.seconds
                answered = msgspec.structs.replace(answered, usage=usage, seconds=seconds)
            self._entered[place] = answered
            self._asked += 1
            await self._hand_on(answered)

    def _is_over(self) -> bool:
        assert self._budget is not None
        assert self._stop is not None
        stopped = self._stop.is_set() or (self._asked_to_stop is not None and self._asked_to_stop.is_set())
        return stopped or self._failure is not None or self._budget.refused is not None

    async def _ask(self, question: Question, known: Answered, shared: contexts.Context) -> Answered:
        assert self._budget is not None
        assert self._stop is not None
        began = time.monotonic()
        try:
            context = await anyio.to_thread.run_sync(self._prepared, question, shared)
            asked = msgspec.structs.replace(
                question, output=self._output if question.output is None else question.output
            )
            try:
                done = await self._answer(asked, context, self._budget, self._stop)
            finally:
                if question.context is not None:
                    contexts.release(question.context, context)
        except Exception as error:
            # any: a client and functions of the caller's own may raise what they like
            self._note(error)
            reached = error.partial if isinstance(error, RLMError) else None
            failed = msgspec.structs.replace(
                known,
                state="failed",
                failure=Failure(type(error).__name__, str(error)),
                seconds=time.monotonic() - began,
            )
            return _with(failed, reached) if isinstance(reached, Completion) else failed
        self._away = 0
        state = "answered" if done.stopped_by == "final" else "stopped"
        answered = _with(msgspec.structs.replace(known, state=state), done)
        return answered if self._file is not None else msgspec.structs.replace(answered, completion=done)

    def _note(self, error: Exception) -> None:
        """End the batch if no question could fare better."""
        hopeless = isinstance(error, SandboxStartError)
        if isinstance(error, ClientError):
            self._away += error.transient
            hopeless = error.status in _HOPELESS or self._away >= _FAILURES
        if hopeless and self._failure is None:
            self._failure = error

    async def _hand_on(self, answered: Answered) -> None:
        try:
            if self._file is not None:
                await anyio.to_thread.run_sync(self._file.add, answered)
            if self._on_answered is not None:
                self._on_answered(answered)
        except Exception as error:
            assert self._stop is not None
            # what cannot be kept is not to be paid for
            self._stop.set()
            if isinstance(error, OSError) and self._file is not None:
                text = f"the answers could not be written ({error.strerror or error}); those before are in the file"
                error = OSError(error.errno, text, str(self._file.path))
            self._failure = self._failure or error

    async def _settle(self, results: Sequence[Answered]) -> None:
        if self._file is None:
            return
        try:
            await anyio.to_thread.run_sync(self._file.settle, results)
        except OSError as error:
            # all of it is in the file, in the order in which it came
            self._failure = self._failure or error

    def _not_asked(self, known: Answered) -> Answered:
        before = None if self._file is None else self._file.find(known.id, known.key)
        return known if before is None else before


def _with(answered: Answered, done: Completion) -> Answered:
    return msgspec.structs.replace(
        answered,
        response=done.response,
        stopped_by=done.stopped_by,
        partial=done.partial,
        usage=done.usage,
        seconds=done.seconds,
        run=done.run,
    )


def _digest(context: contexts.Context) -> str:
    """A SHA-256 of the whole content, as far as it can be had."""
    content = context.value
    if not isinstance(content, (str, bytes)):
        size, ends = contexts.fingerprint(content)
        try:
            # what is known by its size and its ends is too large, or of no such form, to be written out
            content = f"{size} {ends}" if ends else encode(content)
        except (TypeError, ValueError):
            content = context.description
    seen = hashlib.sha256(type(content).__name__.encode())
    for start in range(0, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        seen.update(piece if isinstance(piece, bytes) else piece.encode(errors="surrogatepass"))
    return seen.hexdigest()
