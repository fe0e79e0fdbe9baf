"""pyrlm-runtime's `RLM` over this runtime: its arguments, a run, and what it gives. `pyrlm.py` is the door.

Facts of its interface as of November 2026; the runs are this runtime's, in the dialect "pyrlm".
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rlm_wasm import dialects
from rlm_wasm.clients import CachedClient, Client
from rlm_wasm.compat.adapters import client_over
from rlm_wasm.compat.compaction import compacting, window_of
from rlm_wasm.compat.policy import Policy, RootClient, SubClient, stopped
from rlm_wasm.compat.refusals import Refused, check
from rlm_wasm.compat.tracing import RLMEvent, RLMEventListener, Trace, Tracing
from rlm_wasm.dialects import Dialect
from rlm_wasm.events import Event, RunStarted
from rlm_wasm.guards import Guards
from rlm_wasm.inside import documents
from rlm_wasm.limits import Limits
from rlm_wasm.retrievers import Retriever
from rlm_wasm.rlm import RLM as Runtime
from rlm_wasm.trajectory import Completion

SUBCALL_SYSTEM_PROMPT = "You are a sub-LLM: do what the prompt asks, from the text in it alone, and briefly."
"""What a sub model is told before its prompt."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)

_GUARDS = "the guards that there are: require_repl_before_final, require_subcall_before_final, invalid_response_limit"
_CHILDREN = "children work as their parent does, under the same max_steps and the same system prompt"
_NO_LOG = "nothing is logged with code or output; event_listener is given both"
REFUSED: Mapping[str, Refused] = {
    "max_tokens": Refused(None, "its name is max_output_tokens there too, since version 0.3"),
    "subcall_max_tokens": Refused(None, "its name is subcall_max_output_tokens there too, since version 0.3"),
    "repl_extensions": Refused(None, "functions of your own go to rlm_wasm.RLM(functions=..., dialect='pyrlm')"),
    "cache_dir": Refused(None, "nothing is kept on disk unasked: give cache=FileCache(root=...)"),
    "repl_error_limit": Refused(None, f"{_GUARDS}; a run that only fails ends at max_steps"),
    "subcall_guard_steps": Refused(None, _GUARDS),
    "fallback_guard_steps": Refused(None, _GUARDS),
    "min_steps": Refused(0, _GUARDS),
    "recursive_subcall_system_prompt": Refused(None, _CHILDREN),
    "recursive_subcall_max_steps": Refused(None, _CHILDREN),
    "rlm_diagnostics": Refused(False, _NO_LOG),
    "log_truncate_code": Refused(None, _NO_LOG),
    "log_truncate_output": Refused(None, _NO_LOG),
}
"""Arguments of `RLM` that are taken only with the value that changes nothing, and why."""

USUAL_SHARE = 0.85
"""Of the model's window: where messages give way with `compaction` alone, which is what its README advises."""

STALLED = 2
"""Replies without code in a row after which the fallback runs, where the caller has not said: a second chance."""


class Context(documents.Context):
    """A context, whose documents stand apart by a rule of their own where no separator is given."""

    @classmethod
    def from_documents(
        cls,
        docs: Iterable[Any] | Mapping[str, str],
        separator: str = "\n\n---\n\n",
        metadata: Mapping[str, Any] | None = None,
    ) -> documents.Context:
        """A context of several documents, in order; as in `rlm_wasm.inside.documents.Context`."""
        return super().from_documents(docs, separator, metadata)


class FileCache:
    """Where replies of sub models are kept, so that the same call is paid for once: a file in the folder `root`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def around(self, client: Client) -> CachedClient:
        """The client, which asks only what is not kept yet. Makes the folder if need be."""
        self.root.mkdir(parents=True, exist_ok=True)
        return CachedClient(client, self.root / "replies.sqlite")


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for every run of an `RLM`."""

    policy: Policy | None
    cache: FileCache | None
    max_output_tokens: int
    subcall_max_output_tokens: int
    subcall_system_prompt: str
    conversation_history: bool
    max_history_tokens: int
    window: int | None
    recursive_subcalls: bool
    max_recursion_depth: int
    max_concurrent_subcalls: int
    event_listener: RLMEventListener | None
    logger: logging.Logger | None
    repl_backend: str
    retriever: Retriever | None


class RLM:
    """pyrlm-runtime's `RLM`, whose code runs in this runtime's sandbox.

        output, trace = RLM(adapter=OpenAICompatAdapter(model="gpt-5-mini")).run("What is it about?", context)

    Arguments have the names, defaults and meanings that they have there. `adapter` and `subcall_adapter` are adapters,
    or clients of this runtime. `repl_backend` may be either name: both mean the sandbox. `recursive_subcalls` makes
    calls of the sub model children with a REPL, `max_recursion_depth - 1` deep, and no deeper than the policy's.
    With `compaction` the root's messages give way at `compaction_threshold_pct` of its model's window, as far as that
    is known, or at `compaction_threshold_tokens`, and `history` has them whole. `parallel_subcalls` is for calls in
    batches that do not say; `llm_batch` is always at once. Without `cache` nothing is kept. `retriever` is one of this
    runtime's; with it a run needs no context.

    Raises ValueError, with the reason, for arguments that make no sense here (`REFUSED`).
    """

    def __init__(
        self,
        adapter: object,
        policy: Policy | None = None,
        cache: FileCache | None = None,
        max_output_tokens: int = 4096,
        system_prompt: str | None = None,
        *,
        subcall_adapter: object = None,
        subcall_max_output_tokens: int = 1024,
        subcall_system_prompt: str = SUBCALL_SYSTEM_PROMPT,
        system_prompt_supplement: str = "",
        require_repl_before_final: bool = False,
        require_subcall_before_final: bool = False,
        invalid_response_limit: int | None = None,
        fallback_code: str | None = None,
        auto_finalize_var: str | None = None,
        auto_finalize_min_length: int = 0,
        auto_finalize_reject_patterns: list[str] | None = None,
        recursive_subcalls: bool = False,
        max_recursion_depth: int = 2,
        parallel_subcalls: bool = False,
        max_concurrent_subcalls: int = 10,
        conversation_history: bool = True,
        max_history_tokens: int = 0,
        compaction: bool = False,
        compaction_threshold_pct: float = 0.0,
        compaction_threshold_tokens: int | None = None,
        compaction_model_name: str | None = None,
        compaction_model_context_limit: int | None = None,
        repl_backend: str = "python",
        event_listener: RLMEventListener | None = None,
        logger: logging.Logger | None = None,
        retriever: Retriever | None = None,
        **refused: Any,
    ) -> None:
        check(refused, REFUSED)
        if retriever is not None and not inspect.iscoroutinefunction(getattr(retriever, "search", None)):
            raise TypeError("a retriever is one of rlm_wasm.retrievers, or has their methods, which are async")
        if repl_backend not in ("python", "monty"):
            raise ValueError(f"repl_backend is 'python' or 'monty', which both mean the sandbox, not {repl_backend!r}")
        self._root = client_over(adapter)
        self._sub = self._root if subcall_adapter is None else client_over(subcall_adapter)
        self._guards = Guards(
            require_cell_before_final=require_repl_before_final,
            require_subcall_before_final=require_subcall_before_final,
            invalid_reply_limit=invalid_response_limit if invalid_response_limit or not fallback_code else STALLED,
            fallback_code=fallback_code,
        )
        self._options = _Options(
            policy=policy,
            cache=cache,
            max_output_tokens=max_output_tokens,
            subcall_max_output_tokens=subcall_max_output_tokens,
            subcall_system_prompt=subcall_system_prompt,
            conversation_history=conversation_history,
            max_history_tokens=max_history_tokens,
            window=compacting(
                compaction_model_context_limit or window_of(compaction_model_name or self._root.model),
                compaction_threshold_pct or USUAL_SHARE,
                compaction_threshold_tokens,
            )
            if compaction
            else None,
            recursive_subcalls=recursive_subcalls,
            max_recursion_depth=max_recursion_depth,
            max_concurrent_subcalls=max_concurrent_subcalls,
            event_listener=event_listener,
            logger=logger,
            repl_backend=repl_backend,
            retriever=retriever,
        )
        dialect = _dialect(system_prompt, system_prompt_supplement)
        dialect = dialects.giving(dialect, PARALLEL=int(parallel_subcalls), SUB_MODEL=self._sub.model)
        if auto_finalize_var is not None:
            least, rejected = auto_finalize_min_length, auto_finalize_reject_patterns
            dialect = dialects.finishing_by(dialect, auto_finalize_var, at_least=least, no_answers=rejected)
        if recursive_subcalls:
            parts = (*dialect.equipment, *dialects.inside("recursive"))
            dialect = msgspec.structs.replace(dialect, equipment=parts)
        self._dialect = dialect

    def __repr__(self) -> str:
        return f"<RLM of pyrlm-runtime over {self._root!r}, sub model {self._sub.model}>"

    def run(self, query: str, context: object = None) -> tuple[str, Trace]:
        """Like `arun`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def run() -> tuple[str, Trace]:
            return await self.arun(query, context)

        return self.run_blocking(run)

    def run_blocking(self, run: Callable[[], Awaitable[Result]]) -> Result:
        """Run something that asks this RLM to its end, from plain synchronous code."""
        return Runtime(self._root).run_blocking(run)

    async def arun(self, query: str, context: object = None) -> tuple[str, Trace]:
        """The answer to `query` over `context` as text, and the trace of how it was found.

        `context` is a `Context`, or anything that `rlm_wasm.RLM.acompletion` takes. After a stop by a limit the answer
        is the best that there was. Raises the PolicyError of the limit if there was none, ValueError without a context,
        and what `rlm_wasm.RLM.acompletion` raises.
        """

        async def ask(runtime: Runtime) -> tuple[str, Completion]:
            done = await runtime.acompletion(query, context=context)
            return "" if done.response is None else str(done.response), done

        output, trace, _ = await self.running(query, context, ask)
        return output, trace

    async def running(
        self, query: str, context: object, ask: Callable[[Runtime], Awaitable[tuple[str, Any]]]
    ) -> tuple[str, Trace, Any]:
        """One run on a runtime of its own, which `ask` is handed: what `arun` and `SmartRouter` stand on.

        Gives the answer, the trace, and the record that `ask` gave beside the answer: a `Completion` or a `Routed`.
        """
        if context is None and self._options.retriever is None:
            raise ValueError("a context is needed: give Context.from_text(...) or Context.from_documents(...)")
        options, started = self._options, time.monotonic()
        policy = options.policy or Policy()
        depth = options.max_recursion_depth - 1 if options.recursive_subcalls else 0
        limits = policy.limits(max(0, depth))
        tracing = Tracing(query, options.event_listener)
        async with AsyncExitStack() as stack:
            sub = self._sub
            if options.cache is not None:
                sub = await stack.enter_async_context(options.cache.around(sub))
            runtime = self._runtime(sub, policy, limits, context, [*self._listeners(query, context), tracing])
            try:
                output, record = await ask(runtime)
            finally:
                policy.account(tracing.trace)
        if record.stopped_by != "final" and record.response is None:
            limit = record.limit.limit if record.limit is not None else record.stopped_by
            raise stopped(limit, tracing.trace, record if isinstance(record, Completion) else None)
        self._finished(query, output, tracing.trace, time.monotonic() - started)
        return output, tracing.trace, record

    def _runtime(self, sub: Client, policy: Policy, limits: Limits, context: object, listeners: list[Any]) -> Runtime:
        options = self._options
        root = RootClient(
            self._root,
            max_output_tokens=options.max_output_tokens,
            history=options.conversation_history,
            max_history_tokens=options.max_history_tokens,
        )
        left = None if policy.max_subcall_tokens is None else policy.max_subcall_tokens - policy.subcall_tokens
        sub_client = SubClient(
            sub,
            instruction=options.subcall_system_prompt,
            max_output_tokens=options.subcall_max_output_tokens,
            max_tokens=left,
            allowed=policy.max_recursion_depth > 0,
        )
        dialect = self._dialect
        if isinstance(context, documents.Context):
            dialect = dialects.giving(dialect, SEPARATOR=context.to_value(with_text=False)["separator"])
        return Runtime(
            root,
            sub_model=sub_client,
            dialect=dialect,
            guards=self._guards,
            limits=limits,
            windows={} if options.window is None else {root.model: options.window},
            retriever=options.retriever,
            max_concurrency=options.max_concurrent_subcalls,
            listeners=listeners,
        )

    def _listeners(self, query: str, context: object) -> list[Callable[[Event], object]]:
        listener, logger, backend = self._options.event_listener, self._options.logger, self._options.repl_backend
        known = context.metadata() if isinstance(context, documents.Context) else None

        def begin(event: Event) -> None:
            if listener is not None and isinstance(event, RunStarted) and not event.depth:
                listener.handle(RLMEvent(kind="run_started", query=query, context_metadata=known, repl_backend=backend))

        def log(event: Event) -> None:
            if logger is not None:
                logger.debug("%s", event)

        return [begin, log]

    def _finished(self, query: str, output: str, trace: Trace, elapsed: float) -> None:
        listener, steps = self._options.event_listener, len(trace.steps)
        if listener is None:
            return
        try:
            listener.handle(
                RLMEvent(
                    kind="run_finished",
                    query=query,
                    output=output,
                    total_steps=steps,
                    tokens_used=trace.tokens(),
                    elapsed=elapsed,
                )
            )
        except Exception:
            # as any other event's: a listener's bug is not the run's
            _log.exception("a listener failed on run_finished")


def _dialect(system_prompt: str | None, supplement: str) -> Dialect:
    dialect = dialects.find("pyrlm")
    if system_prompt is not None:
        return dialects.instructed(dialect, f"{system_prompt}\n\n{supplement}" if supplement else system_prompt)
    if not supplement:
        return dialect
    more = dialects.instructed(dialect, supplement).system
    return msgspec.structs.replace(dialect, system=f"{dialect.system}\n{more}\n")
