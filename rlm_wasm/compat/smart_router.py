"""pyrlm-runtime's `SmartRouter` over this runtime's `Router`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from rlm_wasm.compat.pyrlm_run import RLM, STALLED
from rlm_wasm.compat.refusals import Refused, check
from rlm_wasm.compat.tracing import Trace
from rlm_wasm.inside import documents
from rlm_wasm.rlm import RLM as Runtime
from rlm_wasm.router import Router

ROUTER_REFUSED: Mapping[str, Refused] = {
    "baseline_max_tokens": Refused(None, "the plain call may put out what RLM(max_output_tokens=...) says"),
    "baseline_system_prompt": Refused(None, "the plain call is one message of the user's, without a system message"),
    "auto_calibrate": Refused(False, "the threshold is what it was set to"),
}
"""Arguments of `RouterConfig` that are taken only with the value that changes nothing, and why."""


class ExecutionProfile(Enum):
    """How to go about a question."""

    DETERMINISTIC_FIRST = "deterministic_first"
    SEMANTIC_BATCHES = "semantic_batches"
    HYBRID = "hybrid"
    VERIFY = "verify"


class RouterConfig:
    """What a `SmartRouter` decides by: a context of less than `baseline_threshold` characters is a plain call."""

    def __init__(
        self,
        baseline_threshold: int = 8000,
        default_profile: ExecutionProfile = ExecutionProfile.DETERMINISTIC_FIRST,
        **refused: Any,
    ) -> None:
        check(refused, ROUTER_REFUSED)
        self.baseline_threshold = baseline_threshold
        self.default_profile = default_profile


class RouterResult(msgspec.Struct, frozen=True):
    """An answer of a `SmartRouter`: `method` is "baseline" or "rlm", `elapsed` in seconds."""

    output: str
    trace: Trace
    method: str
    profile: ExecutionProfile
    context_chars: int
    tokens_used: int
    elapsed: float


class SmartRouter:
    """pyrlm-runtime's router: a plain call where the context is short, else a run by a profile.

    `rlm_extra_kwargs` and all other arguments but `config` are those of `RLM`. A plain call that is too long for the
    model becomes a run.
    """

    def __init__(
        self,
        adapter: object,
        *,
        config: RouterConfig | None = None,
        rlm_extra_kwargs: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> None:
        self.config = config or RouterConfig()
        # what it asks of every run there
        asked: dict[str, Any] = {"require_repl_before_final": True, "invalid_response_limit": STALLED}
        self._rlm = RLM(adapter, **(asked | given | dict(rlm_extra_kwargs or {})))

    def run(
        self,
        query: str,
        context: documents.Context,
        *,
        profile: ExecutionProfile | None = None,
        force_method: str | None = None,
    ) -> RouterResult:
        """Like `arun`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def run() -> RouterResult:
            return await self.arun(query, context, profile=profile, force_method=force_method)

        return self._rlm.run_blocking(run)

    async def arun(
        self,
        query: str,
        context: documents.Context,
        *,
        profile: ExecutionProfile | None = None,
        force_method: str | None = None,
    ) -> RouterResult:
        """Answer by the way that fits, or by `force_method` ("baseline" or "rlm"). Raises as `RLM.arun`."""
        if force_method not in (None, "baseline", "rlm"):
            raise ValueError(f"force_method is 'baseline' or 'rlm', not {force_method!r}")
        way = profile or self.config.default_profile
        plain = len(context) < self.config.baseline_threshold if force_method is None else force_method == "baseline"
        started = time.monotonic()

        async def ask(runtime: Runtime) -> tuple[str, Any]:
            router = Router(runtime, threshold_chars=len(context) if plain else 0, profile=way.value)
            routed = await router.acompletion(query, context=context.text if plain else context)
            return "" if routed.response is None else str(routed.response), routed

        output, trace, routed = await self._rlm.running(query, context, ask)
        return RouterResult(
            output=output,
            trace=trace,
            method="baseline" if routed.route == "plain" else "rlm",
            profile=way,
            context_chars=len(context),
            tokens_used=trace.tokens(),
            elapsed=time.monotonic() - started,
        )
