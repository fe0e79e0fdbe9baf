"""How a question to an RLM is carried out: what it needs is opened, it is run and kept, gone on with, or sampled.

`RLM` (`rlm.py`) is what callers hold; what happens between a question and its answer is in `run.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Protocol, cast

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm import contexts, prompts, trace_file
from rlm_wasm.beginnings import Resumed, Shared, Sharing, new_id
from rlm_wasm.branches import Moment
from rlm_wasm.bridge import Models
from rlm_wasm.clients.openai import OpenAIClient
from rlm_wasm.clients.protocol import Client
from rlm_wasm.corpora import Corpus
from rlm_wasm.dialects import Dialect
from rlm_wasm.events import Event, Listener, Record, hears_pieces
from rlm_wasm.guards import Guards
from rlm_wasm.limits import Budget, Limits, Spent, Usage
from rlm_wasm.outputs import Output
from rlm_wasm.plain import PlainCall
from rlm_wasm.run import Run
from rlm_wasm.runs import Store, pruned
from rlm_wasm.sampling import Samples, choose, gathered, together
from rlm_wasm.sandbox import SandboxOptions, SandboxPool
from rlm_wasm.secrets import Secrets
from rlm_wasm.sessions import Asking
from rlm_wasm.store import Asked as Kept
from rlm_wasm.store import RunFolder, ends_for_good, is_over, paid, until
from rlm_wasm.survival import Checkpoints
from rlm_wasm.trajectory import Completion, rebuild
from rlm_wasm.windows import Cutting

_log = logging.getLogger(__name__)


class SetUp(Protocol):
    """What an `RLM` is set up with, as far as answering takes it; see there."""

    models: Models
    limits: Limits
    own_functions: Mapping[str, Callable[..., Any]]
    variables: Mapping[str, object]
    max_concurrency: int
    dialect: Dialect
    guards: Guards
    cutting: Cutting
    checkpoints: Checkpoints | None
    listeners: Sequence[Listener]
    store: Store | None
    sandbox: SandboxOptions

    @property
    def pool(self) -> SandboxPool | None: ...
    def open_budget(self) -> Budget: ...
    def secrets(self) -> Secrets: ...
    def recorded(
        self, secrets: Secrets | None = None, hear: Listener | None = None, folder: RunFolder | None = None
    ) -> AbstractAsyncContextManager[Record]: ...


class Asked(msgspec.Struct, frozen=True):
    """What is asked: the arguments of `RLM.acompletion` that are of the question itself."""

    question: str
    context: object
    output: Any
    errors: str
    lazy: bool | None = None

    def check(self) -> None:
        """Raise ValueError if nothing is asked."""
        if not self.question.strip():
            raise ValueError("the question is empty: say what to answer about the context")


class Answering:
    """A question to `rlm` being carried out."""

    def __init__(self, rlm: SetUp) -> None:
        self._rlm = rlm

    async def answer(
        self,
        asked: Asked,
        stop: anyio.Event | None,
        budget: Budget | None,
        hear: Listener | None = None,
        *,
        pool: SandboxPool | None = None,
        asking: Asking | None = None,
        folder: RunFolder | None = None,
        spent: Spent | None = None,
        resumed: Resumed | None = None,
    ) -> Completion:
        """Answer it: see `RLM.acompletion`.

        `asking` is of a session; `folder`, `spent` and `resumed` are of a run that goes on.
        """
        asked.check()
        budget = budget or self._rlm.open_budget()
        for part in (spent, None if resumed is None else resumed.state.spent):
            if part is not None:
                budget.charge(part)
        async with AsyncExitStack() as stack:
            prepared = asking.context if asking else await self._prepared(asked, stack)
            asked = msgspec.structs.replace(asked, context=prepared)
            settings = self._settings(asked)
            if self._rlm.store is not None and folder is None and asking is None:
                folder = RunFolder(self._rlm.store.path, new_id())
                kept = Kept.of(asked.question, prepared, settings)
                await anyio.to_thread.run_sync(folder.make, kept)
                stack.enter_context(folder)
                await anyio.to_thread.run_sync(_prune, self._rlm.store)
            shared = await self._open(stack, budget, stop, hear, folder=folder, pool=pool or self._rlm.pool)
            if resumed is not None:
                shared.record.events += resumed.events
            shared = msgspec.structs.replace(
                shared,
                settings=settings,
                held=asking is not None and asking.held,
                said=asking.said if asking else (),
            )
            paid_before = None if spent is None else Usage.of(spent.by_model)
            begin = partial(Run, shared, asked.question, prepared, asked.output, depth=0, parent=None)
            run = begin(folder=folder, resumed=resumed, paid=paid_before)
            try:
                return await run.answer()
            finally:
                if folder is not None and run.completed is not None:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(_close, folder, run.completed, run.failed)

    async def _open(
        self,
        stack: AsyncExitStack,
        budget: Budget,
        stop: anyio.Event | None,
        hear: Listener | None = None,
        *,
        folder: RunFolder | None = None,
        pool: SandboxPool | None = None,
        options: SandboxOptions | None = None,
    ) -> Shared:
        """What a run needs, held by `stack`: a record, and a pool if there is none, of `options` or this RLM's own."""
        secrets = self._rlm.secrets()
        record = await stack.enter_async_context(self._rlm.recorded(secrets, hear, folder))
        pool = pool or await stack.enter_async_context(SandboxPool(0, options=options or self._rlm.sandbox))
        return Shared(
            models=self._rlm.models,
            limits=self._rlm.limits,
            own_functions=self._rlm.own_functions,
            record=record,
            max_concurrency=self._rlm.max_concurrency,
            budget=budget,
            pool=pool,
            model_calls=anyio.Semaphore(self._rlm.max_concurrency),
            stop=stop,
            dialect=self._rlm.dialect,
            guards=self._rlm.guards,
            cutting=self._rlm.cutting,
            variables=self._rlm.variables,
            secrets=secrets,
            checkpoints=self._rlm.checkpoints,
            streaming=hear is not None or any(map(hears_pieces, self._rlm.listeners)),
        )

    async def several(
        self, asked: Asked, samples: Samples, stop: anyio.Event | None, budget: Budget | None
    ) -> Completion:
        """Answer it several times from one beginning: see `Samples`."""
        if self._rlm.store is not None:
            raise ValueError("a run of several samples cannot be kept in a store: use an RLM without store= for it")
        asked.check()
        async with AsyncExitStack() as stack:
            prepared = await self._prepared(asked, stack)
            asked = msgspec.structs.replace(asked, context=prepared)
            shared = await self._open(stack, budget or self._rlm.open_budget(), stop, pool=self._rlm.pool)
            shared = msgspec.structs.replace(shared, settings=self._settings(asked))
            begin = partial(Run, shared, asked.question, prepared, asked.output, depth=0, parent=None)
            return await self._sampled(samples, shared, begin, None, asked.question)

    async def resume(self, run: str, output: Any, stop: anyio.Event | None) -> Completion:
        """Go on with a run of the store: see `RLM.resume`."""
        if self._rlm.store is None:
            raise ValueError("there is no store: give the folder of the runs to RLM(store=...)")
        with RunFolder(self._rlm.store.path, run) as folder:
            events = await anyio.to_thread.run_sync(folder.events)
            if is_over(events, run):
                return rebuild(events, run)
            kept = folder.asked()
            asked = Asked(kept.question, kept.prepared, output, "strict")
            if Kept.of(asked.question, None, self._settings(asked)).settings != kept.settings:
                raise ValueError(
                    f"run {run} was set up otherwise than this RLM is: see RunStarted.settings in its trace"
                )
            stand = await anyio.to_thread.run_sync(folder.stand)
            if stand is None:
                folder.trace.unlink(missing_ok=True)
                return await self.answer(asked, stop, None, folder=folder, spent=_spent_in(events))
            state, checkpoint = stand
            before, after = until(events, run, state.number)
            trace_file.save(folder.trace, before, self._rlm.secrets())
            resumed = Resumed(state, checkpoint, tuple(rebuild(before, run).trajectory), tuple(before))
            return await self.answer(asked, stop, None, folder=folder, spent=_spent_in(after), resumed=resumed)

    async def branch(
        self,
        moment: Moment,
        question: str | None,
        note: str | None,
        output: Any,
        samples: int | Samples,
        stop: anyio.Event | None,
        budget: Budget | None,
    ) -> Completion:
        """Go on from where a run stood: see `RLM.branch`."""
        if question is not None and not question.strip():
            raise ValueError("the question is empty: say what to answer about the context, or leave it out")
        several = Samples(count=samples, after=0) if isinstance(samples, int) else samples
        settings = self._settings(Asked(moment.question, moment.context, moment.output, "strict"))
        async with AsyncExitStack() as stack:
            shared = await self._open(stack, budget or self._rlm.open_budget(), stop, options=moment.options)
            shared.record.events += moment.events
            shared = msgspec.structs.replace(
                shared,
                settings=settings | {"dialect": moment.dialect.name, "act": moment.dialect.act},
                own_functions=moment.own_functions,
                variables=moment.variables,
                dialect=moment.dialect,
            )
            said = prompts.branched(question, note)
            resumed = Resumed.branch(moment, more=moment.state.number, said=said)
            wanted = moment.output if question is None else output
            begin = partial(Run, shared, question or moment.question, moment.context, wanted, depth=0, parent=None)
            return await self._sampled(several, shared, begin, resumed, question or moment.question)

    async def _sampled(
        self, samples: Samples, shared: Shared, begin: Callable[..., Run], resumed: Resumed | None, question: str
    ) -> Completion:
        """The one of several runs that is chosen; they go on from one state, after what they share."""
        if samples.count == 1:
            return await begin(resumed=resumed).answer()
        way = samples.choose
        by = way if callable(way) and not hasattr(way, "complete") else None
        client = None if way == "vote" or by else client_of(way, "Samples.choose")
        started = time.monotonic()
        before = 0 if resumed is None else resumed.state.number
        sharing = Sharing(before + samples.after)

        async def other() -> Completion:
            if sharing.moment is None:
                # the first did not come as far as that, for a reason that may be its own
                return await begin(resumed=resumed).answer()
            more = 0 if resumed is None else resumed.more
            return await begin(resumed=Resumed.branch(sharing.moment, more=more)).answer()

        first = begin(resumed=resumed, sharing=sharing).answer
        done = await gathered(first, sharing.ready, other, count=samples.count, at_once=self._rlm.max_concurrency)
        models = msgspec.structs.replace(shared.models, root=client or shared.models.root)
        judge = PlainCall(models, shared.budget, shared.record)
        ask = partial(judge.ask, question=question, context="(answers to choose from)", stop=shared.stop)
        chosen = await choose(done, question, by, ask if client else None)
        return together(done, chosen, judge.usage, time.monotonic() - started)

    async def _prepared(self, asked: Asked, stack: AsyncExitStack) -> contexts.Context:
        """The context made ready. Files that stay on the host are closed with the stack, unless others use them."""
        given = asked.context
        prepared = await contexts.aprepare(given, errors=asked.errors, sandbox=self._rlm.sandbox, lazy=asked.lazy)
        stack.callback(contexts.release, given, prepared)
        return prepared

    def _settings(self, asked: Asked) -> dict[str, Any]:
        """What a cell or a model can notice of how the run is set up: with it a trace can be run again."""
        sandbox = msgspec.structs.asdict(self._rlm.sandbox)
        left_out = ("functions", "deno") if self._rlm.sandbox.packages else ("functions", "deno", "packages")
        context = asked.context
        lazy = {"lazy": True} if isinstance(context, contexts.Context) and isinstance(context.value, Corpus) else {}
        return {
            **lazy,
            "dialect": self._rlm.dialect.name,
            "act": self._rlm.dialect.act,
            "limits": msgspec.structs.asdict(self._rlm.limits),
            "guards": msgspec.structs.asdict(self._rlm.guards),
            "windows": dict(self._rlm.models.windows),
            "functions": sorted(self._rlm.own_functions),
            "variables": self._rlm.variables if contexts.is_small(self._rlm.variables) else None,
            "output": Output(asked.output).schema,
            "sandbox": {name: value for name, value in sandbox.items() if name not in left_out},
        }


def client_of(model: object, name: str) -> Client:
    """The client of a model name, or the client itself. Raises TypeError for what is neither."""
    if isinstance(model, str):
        return OpenAIClient(model)
    if not hasattr(model, "complete") or not hasattr(model, "model"):
        raise TypeError(f"{name} must be the name of a model or a Client, not {type(model).__name__}")
    return cast(Client, model)


def _prune(store: Store) -> None:
    try:
        pruned(store)
    except OSError:
        # it costs room, and the run that begins does not need it
        _log.exception("the store %s could not be pruned", store.path)


def _close(folder: RunFolder, done: Completion, failed: bool) -> None:
    over = ends_for_good(done.stopped_by, failed=failed)
    try:
        folder.close(done.stopped_by, len(done.trajectory), done.usage, over=over)
    except (OSError, ValueError):
        _log.exception("the end of run %s is not listed", done.run)


def _spent_in(events: Sequence[Event]) -> Spent:
    by_model, inside = paid(events)
    # of the means that the ledger reckons with, a few replies more or less are no matter
    return Spent(by_model, {}, inside, 0.0)
