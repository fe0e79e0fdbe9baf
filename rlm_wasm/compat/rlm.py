"""The door for programs written against alexzhang13/rlm: `RLM(backend=..., ...)` and `.completion(prompt)`.

Facts of its interface as of November 2026; the runs are this runtime's, in the dialect "rlm".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, cast

import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rlm_wasm import dialects
from rlm_wasm.bridge import describe_functions
from rlm_wasm.clients import Client
from rlm_wasm.compat.backends import client_of
from rlm_wasm.compat.compaction import compacting, window_of
from rlm_wasm.compat.listening import Callbacks, RLMLogger, tell
from rlm_wasm.compat.persistent import Persistent
from rlm_wasm.compat.refusals import Refused, check
from rlm_wasm.compat.results import (
    BudgetExceededError,
    CancellationError,
    ErrorThresholdExceededError,
    ModelUsageSummary,
    RLMChatCompletion,
    TimeoutExceededError,
    TokenLimitExceededError,
    UsageSummary,
    result,
)
from rlm_wasm.dialects import Dialect, Offer
from rlm_wasm.events import Listener
from rlm_wasm.limits import Limits
from rlm_wasm.prices import Price
from rlm_wasm.rlm import RLM as Runtime
from rlm_wasm.sandbox import SandboxPool
from rlm_wasm.sandbox.variables import prepare
from rlm_wasm.trajectory import Completion

__all__ = [
    "RLM",
    "BudgetExceededError",
    "CancellationError",
    "ErrorThresholdExceededError",
    "ModelUsageSummary",
    "RLMChatCompletion",
    "RLMLogger",
    "TimeoutExceededError",
    "TokenLimitExceededError",
    "UsageSummary",
]

NO_QUESTION = "The question, or the task, stands in the context itself: find it there first, then do what it asks."
"""What is asked when no `root_prompt` is given."""

_NOT_OPEN = (
    "persistent keeps a REPL open, which somebody has to close: use 'with RLM(..., persistent=True) as rlm' for "
    "completion, and 'async with' for acompletion"
)
REFUSED: Mapping[str, Refused] = {
    "depth": Refused(0, "a run counts its own depth, from 0, and its children's"),
}
"""Arguments that are taken only with the value that changes nothing, and why."""

ENVIRONMENTS: Mapping[str, str] = {
    "modal": "code runs in a sandbox on this machine, and nothing is sent to a cloud",
    "prime": "code runs in a sandbox on this machine, and nothing is sent to a cloud",
    "daytona": "code runs in a sandbox on this machine, and nothing is sent to a cloud",
    "e2b": "code runs in a sandbox on this machine, and nothing is sent to a cloud",
    "ipython": "code runs in a sandbox that has no IPython, and no kernel that others could join",
}
"""Environments that are refused, and why. "local" and "docker" are the sandbox, which keeps more out than both."""


class RLM:
    """alexzhang13/rlm's `RLM`, whose code runs in this runtime's sandbox.

        rlm = RLM(backend="openai", backend_kwargs={"model_name": "gpt-5-mini"}, verbose=True)
        print(rlm.completion(text, root_prompt="Which launch had the largest revenue?").response)

    Arguments have the names, defaults and meanings that they have there. `backend_kwargs` and `other_backend_kwargs`
    are as in `client_of`; of the other backends the first answers sub calls, all can be named in them. `max_depth` of 1
    means no children: `rlm_query` is a plain call then. `max_budget` is in US dollars and needs the models' `prices`,
    `max_timeout` in seconds, `max_tokens` counts input and output. `environment` is "local" or "docker", both of which
    mean the sandbox; `environment_kwargs` may hold `setup_code`, which is run first. `custom_tools` are functions,
    which run on the host, and JSON-like values, each plain or as `{"tool": ..., "description": ...}`. With `compaction`
    the root's messages give way at `compaction_threshold_pct` of its model's window (`windows`, in tokens by model,
    says what that is, see `compaction.window_of`), and `history` has them whole. `logger` is an `RLMLogger` or any
    listener of events; `verbose` writes lines to stderr.

    With `persistent` the completions within `with` (or `async with`) share one REPL, see `persistent.Persistent`.

    Raises ValueError, with the reason, for arguments that make no sense here (`REFUSED`, `ENVIRONMENTS`).
    """

    def __init__(
        self,
        backend: str = "openai",
        backend_kwargs: Mapping[str, Any] | None = None,
        environment: str = "local",
        environment_kwargs: Mapping[str, Any] | None = None,
        *,
        max_depth: int = 1,
        max_iterations: int = 30,
        max_budget: float | None = None,
        max_timeout: float | None = None,
        max_tokens: int | None = None,
        max_errors: int | None = None,
        custom_system_prompt: str | None = None,
        other_backends: Sequence[str] | None = None,
        other_backend_kwargs: Sequence[Mapping[str, Any]] | None = None,
        logger: Listener | None = None,
        verbose: bool = False,
        persistent: bool = False,
        custom_tools: Mapping[str, Any] | None = None,
        custom_sub_tools: Mapping[str, Any] | None = None,
        compaction: bool = False,
        compaction_threshold_pct: float = 0.85,
        max_concurrent_subcalls: int = 4,
        on_subcall_start: Callable[[int, str, str], object] | None = None,
        on_subcall_complete: Callable[[int, str, float, str | None], object] | None = None,
        on_iteration_start: Callable[[int, int], object] | None = None,
        on_iteration_complete: Callable[[int, int, float], object] | None = None,
        prices: Mapping[str, Price] | None = None,
        windows: Mapping[str, int] | None = None,
        **refused: Any,
    ) -> None:
        check(refused, REFUSED)
        _check_sense(max_depth, custom_tools, custom_sub_tools, logger)
        root = client_of(backend, backend_kwargs)
        self._root_model = root.model
        self._logged = logger is not None
        others = _others(other_backends, other_backend_kwargs)
        tools = _Tools(custom_tools)
        callbacks = Callbacks(on_subcall_start, on_subcall_complete, on_iteration_start, on_iteration_complete)
        setup_code = _setup_code(environment, environment_kwargs)
        make = functools.partial(
            Runtime,
            root,
            sub_model=others[0] if others else None,
            models={client.model: client for client in others},
            limits=Limits(
                iterations=max_iterations,
                calls=None,  # as there: what bounds a run is its iterations, tokens, dollars and seconds
                tokens=max_tokens,
                usd=max_budget,
                seconds=max_timeout,
                errors=max_errors,
                depth=max_depth - 1,
            ),
            functions=tools.functions,
            variables=tools.variables,
            prices=prices,
            windows=_windows(root.model, windows or {}, compaction_threshold_pct if compaction else None),
            max_concurrency=max_concurrent_subcalls,
            listeners=[callbacks, *([logger] if logger else []), *([tell] if verbose else [])],
        )
        self.runtime = make(dialect=_dialect(custom_system_prompt, tools, setup_code))
        self._open = ExitStack()
        self._portal: BlockingPortal | None = None
        self._is_open = False

        def in_the_repl(pool: SandboxPool, number: int) -> Runtime:
            # what is set up stays
            first_look = "" if number else f"context_0 = context\n{setup_code}"
            return make(dialect=_dialect(custom_system_prompt, tools, first_look), pool=pool)

        self._persistent = Persistent(self.runtime.sandbox, in_the_repl) if persistent else None

    def __repr__(self) -> str:
        return f"<RLM of alexzhang13/rlm over {self.runtime!r}>"

    def __enter__(self) -> Self:
        if self._persistent is not None:
            with ExitStack() as stack:
                self._portal = stack.enter_context(start_blocking_portal())
                stack.enter_context(self._portal.wrap_async_context_manager(self._persistent))
                self._open = stack.pop_all()
            self._is_open = True
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if self._persistent is not None:
            await self._persistent.__aenter__()
            self._is_open = True
        return self

    async def __aexit__(self, *exception: Any) -> None:
        if self._persistent is not None:
            self._is_open = False
            await self._persistent.__aexit__(*exception)

    def close(self) -> None:
        """Close the REPL that `with` has opened. Does nothing where there is none."""
        self._is_open = False
        self._open.close()

    def completion(self, prompt: str | list[Any] | dict[Any, Any], root_prompt: str | None = None) -> RLMChatCompletion:
        """Like `acompletion`, from plain synchronous code; inside a running event loop (Jupyter) too."""
        question, context = _asked(prompt, root_prompt)
        if self._persistent is None:
            return self._result(prompt, self.runtime.completion(question, context=context))
        if self._portal is None or not self._is_open:
            raise ValueError(_NOT_OPEN)
        done = self._portal.call(self._persistent.acompletion, question, context)
        return self._result(prompt, done)

    async def acompletion(
        self, prompt: str | list[Any] | dict[Any, Any], root_prompt: str | None = None
    ) -> RLMChatCompletion:
        """Answer `root_prompt` over `prompt`, which is the context; without it the question is looked for in there.

        At the end of the iterations the response is the best answer that there was, "" if there was none. Raises one of
        this module's errors at any other limit, and what `rlm_wasm.RLM.acompletion` raises.
        """
        question, context = _asked(prompt, root_prompt)
        if self._persistent is None:
            return self._result(prompt, await self.runtime.acompletion(question, context=context))
        if self._portal is not None or not self._is_open:
            raise ValueError(_NOT_OPEN)
        return self._result(prompt, await self._persistent.acompletion(question, context))

    def _result(self, prompt: Any, done: Completion) -> RLMChatCompletion:
        return result(prompt, self._root_model, done, logged=self._logged)


def _windows(model: str, windows: Mapping[str, int], share: float | None) -> dict[str, int]:
    """The windows that are held to: those given, and the root model's so that its messages give way at `share`."""
    if share is None:
        return dict(windows)
    return {**windows, model: compacting(windows.get(model) or window_of(model), share)}


def _check_sense(max_depth: int, tools: object, sub_tools: object, logger: object) -> None:
    if max_depth < 1:
        raise ValueError(f"max_depth={max_depth!r} is a plain model call there: ask a client, or use Router, for that")
    if sub_tools is not None and sub_tools != (tools or {}):
        raise ValueError("custom_sub_tools must be None or the custom_tools: children have their parent's tools here")
    if logger is not None and not callable(logger):
        raise TypeError("logger must be an RLMLogger of rlm_wasm.compat.rlm, or a function that is given each event")


def _asked(prompt: object, root_prompt: str | None) -> tuple[str, object]:
    if not isinstance(prompt, (str, list, dict)):
        raise TypeError(f"the prompt is a str, a list or a dict, not {type(prompt).__name__}")
    return (root_prompt or NO_QUESTION), cast(object, prompt)


def _others(backends: Sequence[str] | None, backend_kwargs: Sequence[Mapping[str, Any]] | None) -> list[Client]:
    if len(backends or ()) != len(backend_kwargs or ()):
        raise ValueError("other_backends and other_backend_kwargs go in pairs: give as many of the one as of the other")
    return [client_of(backend, given) for backend, given in zip(backends or (), backend_kwargs or (), strict=True)]


def _setup_code(environment: str, environment_kwargs: Mapping[str, Any] | None) -> str:
    if environment in ENVIRONMENTS:
        raise ValueError(f"environment={environment!r} is not possible here: {ENVIRONMENTS[environment]}")
    if environment not in ("local", "docker"):
        raise ValueError(f"there is no environment {environment!r}: use 'local'")
    given = dict(environment_kwargs or {})
    setup_code = given.pop("setup_code", None) or ""
    if given:
        raise ValueError(
            f"environment_kwargs: {', '.join(sorted(given))} is not possible here: the sandbox is CPython with its "
            "standard library, and has no image, packages or address to choose; it takes setup_code alone"
        )
    return str(setup_code)


class _Tools:
    """`custom_tools`, told apart: what is called on the host, what stands in the REPL, and what the model is told."""

    def __init__(self, custom_tools: Mapping[str, Any] | None) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.variables: dict[str, object] = {}
        self.offers: list[Offer] = []
        for name, entry in (custom_tools or {}).items():
            tool, description = _described(entry)
            if callable(tool):
                self.functions[name] = _with_docstring(tool, description) if description else tool
                continue
            try:
                prepare(name, tool)
            except TypeError as error:
                raise TypeError(
                    f"custom_tools[{name!r}] is neither a function, which would run on the host, nor JSON-like, to be "
                    f"copied into the sandbox: {error}"
                ) from error
            self.variables[name] = tool
            kind = type(tool).__name__
            self.offers.append(Offer(f"`{name}`: {description or f'a {kind} of the caller, for you to use'}"))


def _described(entry: object) -> tuple[Any, str]:
    if not isinstance(entry, dict) or "tool" not in entry:
        return cast(object, entry), ""
    described = cast("dict[str, Any]", entry)
    return described["tool"], str(described.get("description") or "")


def _with_docstring(function: Callable[..., Any], description: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def described(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    described.__doc__ = description
    return described


def _dialect(system: str | None, tools: _Tools, setup_code: str) -> Dialect:
    dialect = dialects.find("rlm")
    dialect = msgspec.structs.replace(dialect, offers=(*dialect.offers, *tools.offers), first_look=setup_code)
    if system is None:
        return dialect
    lines = [f"- {offer.text}" for offer in tools.offers]
    lines += [f"- `{name}`: {text}" for name, text in describe_functions(tools.functions).items()]
    also = "\n".join(["\n\nIn the REPL there are also:", *lines]) if lines else ""
    return dialects.instructed(dialect, system + also)
