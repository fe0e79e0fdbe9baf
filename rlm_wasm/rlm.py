"""RLM: what is the same for every question, and the doors by which questions come in.

The answering itself is `run.py`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack

import anyio
import anyio.from_thread
import msgspec

from rlm_wasm import contexts, dialects
from rlm_wasm.answering import Answering, Asked, client_of
from rlm_wasm.answers_file import Answered
from rlm_wasm.batches import Batch, BatchOptions
from rlm_wasm.bridge import Models
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.clients.protocol import Client
from rlm_wasm.corpora import FUNCTION
from rlm_wasm.dialects import HOUSE, Dialect
from rlm_wasm.events import Callbacks, Event, Listener, Record, callbacks
from rlm_wasm.guards import Guards
from rlm_wasm.limits import Budget, Limits
from rlm_wasm.prices import DEFAULT_PRICES, Price
from rlm_wasm.questions import Question
from rlm_wasm.retrievers import Retriever, offered
from rlm_wasm.runs import Store
from rlm_wasm.sampling import Samples
from rlm_wasm.sandbox import SandboxOptions, SandboxPool
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.sessions import Asking, Session
from rlm_wasm.store import RunFolder
from rlm_wasm.stream import Stream
from rlm_wasm.survival import Checkpoints
from rlm_wasm.trace_file import TraceFile
from rlm_wasm.trajectory import Completion, Iteration
from rlm_wasm.windows import Cutting, check_windows

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class RLM:
    """A Recursive Language Model (arXiv 2512.24601): answers questions over contexts of any length.

        rlm = RLM("gpt-5-mini", sub_model="gpt-5-nano", limits=Limits(usd=0.50, seconds=300))
        done = rlm.completion("Which launch had the largest revenue?", context=text)
        print(done.response)

    `model` writes the code, `sub_model` answers `llm_query` (the same one if None); each is a name for `OpenAIClient`
    or any `Client`. `models` are more of them, by the names that cells may use in `llm_query(model=...)`. `dialect` is
    the convention of names, fences and ways to finish that the root model knows: one of `DIALECTS` by its name, or a
    `Dialect`; `act` says otherwise than it how code is carried, in "fences" or by the native "tool" `run_python`.
    `guards` stand between a model and an answer that rests on nothing. `functions` are the caller's own host functions
    that cells may call; `retriever` gives them `search` and `get_document` too. `variables` are JSON-like values that
    stand beside `context`, in the REPL of every child too. `image_sources` are folders (`Path`) and beginnings of
    addresses (str) from which `llm_query(images=...)` may take images; their bytes it takes anyway. `prices` are added
    to `DEFAULT_PRICES`, US dollars per million tokens by model name. `windows` are the models' windows, in tokens by
    model name: a sub-prompt that does not fit is refused before it is paid for, and the root's messages are kept within
    its own; one that is not named is not known. `cutting` says how old outputs are cut for that. `sandbox` chooses the
    sandboxes' options, `packages` what their cells can import beside the standard library (see `SandboxOptions`).
    `max_concurrency` is how many model calls, and how many children of one batch, run at once.
    `checkpoints` says how often the REPL is saved, for the case that its sandbox is lost; None never, and then it comes
    back by its cells alone, which are run again with the answers that they had (`survival.py`).
    `listeners` hear every event of every run, each in a thread of its own; `on_step`, `on_iteration`, `on_subcall` and
    `on_print` are functions that hear some, see `events.callbacks`. `trace` is where the events are written as they
    come: a file whose name ends in .jsonl, to which runs are appended, or a folder, in which each run gets a file.
    `Trajectory.load` reads it; secrets are left out of it (`trace_file.py`). `store` is a folder in which each run has
    one of its own, from which `resume` goes on after the program was ended; nothing is left out there (`store.py`). A
    `Store` says how long runs are kept, see there; of a folder alone old ones are removed as its defaults say.

    As a context manager (`async with RLM(...) as rlm`) it keeps `warm` sandboxes booted between its runs; otherwise
    each run starts its own. `pool` lends sandboxes from elsewhere: one that was opened with `options=rlm.sandbox` of an
    RLM with the same functions.
    """

    def __init__(
        self,
        model: str | Client,
        *,
        sub_model: str | Client | None = None,
        models: Mapping[str, str | Client] | None = None,
        dialect: str | Dialect = HOUSE,
        act: Literal["fences", "tool"] | None = None,
        guards: Guards | None = None,
        limits: Limits | None = None,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        retriever: Retriever | None = None,
        variables: Mapping[str, object] | None = None,
        image_sources: Sequence[str | Path] = (),
        prices: Mapping[str, Price] | None = None,
        windows: Mapping[str, int] | None = None,
        cutting: Cutting | None = None,
        sandbox: SandboxOptions | None = None,
        packages: Sequence[str | Path] = (),
        pool: SandboxPool | None = None,
        warm: int = 2,
        max_concurrency: int = 16,
        checkpoints: Checkpoints | None = Checkpoints(),  # noqa: B008
        listeners: Sequence[Listener] = (),
        trace: str | Path | None = None,
        store: str | Path | Store | None = None,
        **called: Unpack[Callbacks],
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be 1 or more, not {max_concurrency!r}")
        root = client_of(model, "model")
        sub = root if sub_model is None else client_of(sub_model, "sub_model")
        others = {name: client_of(model, f"models[{name!r}]") for name, model in (models or {}).items()}
        self.cutting = cutting or Cutting()
        check_windows(windows or {})
        self.models = Models(root, sub, others, dict(windows or {}), image_sources=tuple(image_sources))
        chosen = dialects.find(dialect)
        self.dialect = chosen if act is None else msgspec.structs.replace(chosen, act=act)
        if self.dialect.act == "tool" and "tool" not in inspect.signature(root.complete).parameters:
            raise TypeError(
                f"the client of {root.model} offers no native tools, by which the dialect {self.dialect.name} acts: "
                "use act='fences', or a client whose complete() takes tool="
            )
        self.guards = guards or Guards()
        self.checkpoints = checkpoints
        self.limits = limits or Limits()
        if functions is not None and not isinstance(functions, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"functions must map names to functions, and is a {type(functions).__name__}")
        self.own_functions: Mapping[str, Callable[..., Any]] = {
            **({} if retriever is None else offered(retriever)),
            **(functions or {}),
        }
        self.prices = {**DEFAULT_PRICES, **(prices or {})}
        self.max_concurrency = max_concurrency
        unknown = sorted(set(called) - Callbacks.__annotations__.keys())
        if unknown:
            raise TypeError(f"RLM() has no argument {unknown[0]!r}")
        self.listeners: Sequence[Listener] = (*listeners, callbacks(**called)) if called else tuple(listeners)
        self.trace = None if trace is None else Path(trace)
        self.store = None if store is None else Store.of(store)
        self._warm = warm
        self._pool = pool
        if sandbox is not None and sandbox.functions:
            raise ValueError("sandbox.functions would not be called: give the functions to RLM(functions=...)")
        if packages:
            if sandbox is not None and sandbox.packages:
                raise ValueError("packages are given twice: to RLM(packages=...) and in its sandbox's options")
            sandbox = msgspec.structs.replace(sandbox or SandboxOptions(), packages=packages)
        self.variables: Mapping[str, object] = dict(variables or {})
        for what, names in (("functions", set(self.own_functions)), ("variables", set(self.variables))):
            taken = sorted(names & RESERVED_NAMES)
            if taken:
                raise ValueError(f"{what}: {', '.join(taken)} has a meaning of its own in the REPL: use another name")
        twice = sorted(set(self.own_functions) & set(self.variables))
        if twice:
            raise ValueError(f"{', '.join(twice)}: one name for a function and for a variable")
        self.sandbox = msgspec.structs.replace(
            _as_shown(sandbox or SandboxOptions(), self.dialect),
            functions=_placeholders((*sorted(BRIDGE_NAMES), FUNCTION, *self.own_functions)),
            max_concurrency=max_concurrency,
        )

    def __repr__(self) -> str:
        return f"<RLM {self.models.root.model}, sub model {self.models.sub.model}>"

    @property
    def pool(self) -> SandboxPool | None:
        """What lends it sandboxes, if that is not each run's own affair."""
        return self._pool

    async def __aenter__(self) -> Self:
        if self._pool is not None:
            raise ValueError("this RLM has a pool already: give pool= or use 'async with', not both")
        pool = SandboxPool(self._warm, options=self.sandbox)
        await pool.__aenter__()
        self._pool = pool
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        assert self._pool is not None
        pool, self._pool = self._pool, None
        return await pool.__aexit__(*exception)

    def completion(
        self,
        question: str,
        *,
        context: object = None,
        output: Any = None,
        errors: str = "strict",
        lazy: bool | None = None,
        samples: int | Samples = 1,
    ) -> Completion:
        """Like `acompletion`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def run() -> Completion:
            given = partial(self.acompletion, context=context, output=output, errors=errors, lazy=lazy)
            return await given(question, samples=samples)

        return self.run_blocking(run)

    def run_blocking(self, run: Callable[[], Awaitable[Result]]) -> Result:
        """Run something that asks this RLM to its end, from plain synchronous code; what `completion` stands on.

        Raises ValueError where there is a pool, which belongs to the event loop that opened it.
        """
        if self._pool is not None:
            raise ValueError("a pool belongs to the event loop that opened it: use 'await acompletion(...)' there")
        return _run_anywhere(run)

    def open_budget(self, limits: Limits | None = None, *, within: Budget | None = None) -> Budget:
        """A ledger with this RLM's limits, or others, and its prices, whose clock starts now; see `Budget`.

        Raises ValueError if there is a limit in US dollars and the price of one of its models is not known.
        """
        budget = Budget(limits or self.limits, self.prices, within=within)
        others = {client.model for client in self.models.others.values()}
        budget.check_prices({self.models.root.model, self.models.sub.model} | others)
        return budget

    def secrets(self) -> Secrets:
        """What may not be written down of a run: keys of its clients and of the environment, as of now."""
        models = self.models
        return Secrets({*held_keys(models.root, models.sub, *models.others.values()), *of_environment()})

    @asynccontextmanager
    async def recorded(
        self, secrets: Secrets | None = None, hear: Listener | None = None, folder: RunFolder | None = None
    ) -> AsyncGenerator[Record]:
        """The record of one run and its children, heard by the listeners and `hear`, and written to the trace.

        Written to the one in `folder` too, if there is one.

        Raises OSError if the trace cannot be opened.
        """
        with ExitStack() as stack:
            targets = [target for target in (self.trace, folder and folder.trace) if target is not None]
            files = [stack.enter_context(TraceFile(target, secrets or self.secrets())) for target in targets]

            def write(event: Event) -> None:
                for file in files:
                    file.write(event)

            async with Record(self.listeners, write if files else None, hear) as record:
                yield record

    async def acompletion(
        self,
        question: str,
        *,
        context: object = None,
        output: Any = None,
        errors: str = "strict",
        lazy: bool | None = None,
        samples: int | Samples = 1,
        stop: anyio.Event | None = None,
        budget: Budget | None = None,
    ) -> Completion:
        """Answer a question about a context.

        `context`: str, bytes, JSON-like values, a `Path` to a file, a folder or a glob, a list of those, or `Files`; a
        frame, a table, an array, or a list or dict with some. `output`: a type that msgspec or pydantic can validate, a
        JSON Schema, or a type of frames or arrays (`pandas.DataFrame`), which FINAL's value must fit; None takes any.
        `errors`: what to do with bytes that are not text in files. `lazy`: whether files stay on the host and are read
        piece by piece (True), or are loaded (False); None looks at their sizes, see `contexts.lazy_from`. `samples`:
        how many times it is answered, from one shared beginning and within one budget; the answer is the one that most
        have, or as `Samples` says. `stop`: when it is set, the run ends and gives what it has ("cancelled"). `budget`:
        the ledger of a larger piece of work that the run is a part of, from `open_budget`; None opens one for it alone.

        Raises ValueError, TypeError or FileNotFoundError for bad arguments, OSError if no trace can be written where it
        is to be, ClientError if the root model cannot be asked, SandboxStartError if there is no sandbox to be had. A
        limit is no exception: see `stopped_by`.
        """
        asked = Asked(question, context, output, errors, lazy)
        several = Samples(count=samples) if isinstance(samples, int) else samples
        if several.count == 1:
            return await Answering(self).answer(asked, stop, budget)
        return await Answering(self).several(asked, several, stop, budget)

    def batch(self, questions: Iterable[object], **options: Unpack[BatchOptions]) -> Batch:
        """Many questions, to be answered by `Batch.run`, which says how far it is; see `amap`."""
        # what makes no sense of the limits of each is said before any is asked
        self.open_budget()
        # one sandbox boots while the others work
        own = None if self._pool is not None else SandboxPool(1, options=self.sandbox)

        async def answer(asked: Question, prepared: contexts.Context, whole: Budget, stop: anyio.Event) -> Completion:
            given = Asked(asked.question, prepared, asked.output, "strict")
            return await Answering(self).answer(given, stop, self.open_budget(within=whole), pool=own)

        return Batch(answer, self.open_budget, questions, pool=own, **options)

    async def amap(
        self, questions: Iterable[object], *, stop: anyio.Event | None = None, **options: Unpack[BatchOptions]
    ) -> list[Answered]:
        """Answer many questions, some of them at once; gives what became of each, in their order.

            answers = await rlm.amap(["Who signed it?", "When?"], context=text, usd=2.0, answers="answers.jsonl")

        Each is a text, or a `Question`, or a mapping with its fields. The context is read once; each question has a
        REPL of its own, in which nothing of the others is. See `BatchOptions`, and `Batch.run` for what is raised.
        """
        return await self.batch(questions, **options).run(stop)

    def map(self, questions: Iterable[object], **options: Unpack[BatchOptions]) -> list[Answered]:
        """Like `amap`, from plain synchronous code; inside a running event loop (Jupyter) too."""
        return self.run_blocking(partial(self.amap, questions, **options))

    def session(
        self,
        *,
        context: object = None,
        errors: str = "strict",
        lazy: bool | None = None,
        saved: str | Path | None = None,
    ) -> Session:
        """Several questions over one living sandbox: see `Session`.

            async with rlm.session(context=text) as session:
                first = await session.ask("Which launches are there?")
                then = await session.ask("And which of them had the largest revenue?")

        `saved`: a file of `Session.save`, from which it goes on; then `context` need not be given again.
        """

        async def answer(asked: Asking, pool: SandboxPool, stop: anyio.Event | None) -> Completion:
            given = Asked(asked.question, None, asked.output, errors)
            return await Answering(self).answer(given, stop, None, pool=pool, asking=asked)

        if saved:
            return Session(answer, self.sandbox, None, saved)
        prepared = contexts.prepare(context, errors=errors, sandbox=self.sandbox, lazy=lazy)
        return Session(answer, self.sandbox, prepared, release=partial(contexts.release, context, prepared))

    async def resume(self, run: str, *, output: Any = None, stop: anyio.Event | None = None) -> Completion:
        """Go on with a run of `store` after its last finished iteration; of one that is over, give its completion.

        Nothing that was asked up to there is asked or paid again, and what was paid after it is charged. This RLM must
        be set up as the one that began the run was, and `output` be the same type. Raises FileNotFoundError if there is
        no such run, RunBusy if it goes on elsewhere, ValueError if it was set up otherwise or its files are damaged,
        and what `acompletion` raises. A run that a failure ended can go on too.
        """
        return await Answering(self).resume(run, output, stop)

    def stream(
        self,
        question: str,
        *,
        context: object = None,
        output: Any = None,
        errors: str = "strict",
        lazy: bool | None = None,
    ) -> Stream:
        """Answer a question as `acompletion` does, and give the events as they come: see `Stream`.

        Where the root model's client can stream, its replies come piece by piece (`RootStreamed`).
        """
        asked = Asked(question, context, output, errors, lazy)

        async def begin(hear: Listener, stop: anyio.Event) -> Completion:
            return await Answering(self).answer(asked, stop, None, hear)

        return Stream(begin)

    async def branch(
        self,
        at: Iteration,
        *,
        question: str | None = None,
        note: str | None = None,
        output: Any = None,
        samples: int | Samples = 1,
        stop: anyio.Event | None = None,
        budget: Budget | None = None,
    ) -> Completion:
        """Go on from where a run stood after an iteration of its trajectory, with the models and limits of this RLM.

            done = await rlm.acompletion("Which launch had the largest revenue?", context=text)
            other = await RLM("gpt-5").branch(done.trajectory[0])
            more = await rlm.branch(done.trajectory[-1], question="And the smallest?")

        The REPL is what it was, in a sandbox of its own, and the model is shown what was said until then; the context,
        the dialect, the functions and the sandbox's options are those of the run. `question`: a new one, answered as
        `output`; None goes on with the run's own. `note`: what the model is told beside. `samples`: as in
        `acompletion`. The limits count from here, and nothing that was paid before is in `usage`; the trajectory has
        the iterations before too. It is not kept in the store. Raises what `Iteration.fork` and `acompletion` raise.
        """
        return await Answering(self).branch(at.moment, question, note, output, samples, stop, budget)


def _as_shown(options: SandboxOptions, dialect: Dialect) -> SandboxOptions:
    """The options, with the dialect's way to cut and show output where none was chosen."""
    plain = SandboxOptions()
    ways = {
        "output_chars": dialect.output_chars,
        "max_output_words": dialect.output_words,
        "output_keep": dialect.output_keep,
        "output_mark": dialect.output_mark,
        "echo": dialect.echo,
    }
    unchosen = {name: way for name, way in ways.items() if getattr(options, name) == getattr(plain, name)}
    return msgspec.structs.replace(options, **unchosen)


BRIDGE_NAMES = frozenset({"llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched", "budget"})
RESERVED_NAMES = BRIDGE_NAMES | {FUNCTION, "context", "history", "FINAL", "FINAL_VAR", "SHOW_VARS", "print"}


def _placeholders(names: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Names for a pool to boot with; each run binds its own functions to them."""

    def unbound(*_: object) -> None:
        raise RuntimeError("this function belongs to no run")

    return dict.fromkeys(names, unbound)


def _run_anywhere(run: Callable[[], Awaitable[Result]]) -> Result:
    """Run to the end from synchronous code, in a thread of its own if this one has an event loop running already."""
    try:
        anyio.get_current_task()
        inside_a_loop = True
    except RuntimeError:
        # raised where no event loop runs
        inside_a_loop = False
    if not inside_a_loop:
        # not in the handler above, whose error would stand before every one of the run's
        return anyio.run(run)
    with anyio.from_thread.start_blocking_portal() as portal:
        return portal.call(run)
