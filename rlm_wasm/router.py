"""Router: a plain model call where the context is short, a run of the RLM where it is not, and why.

Owns the choice of the way and of the profile. What a model is told is in `prompts.py`, how a run goes in `run.py`;
both ways spend from one budget.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

import anyio
import msgspec

from rlm_wasm import contexts, prompts
from rlm_wasm.bounds import EndedEarly
from rlm_wasm.clients.protocol import Reply
from rlm_wasm.errors import ClientError, LimitExceeded, RLMError
from rlm_wasm.limits import Budget, Usage
from rlm_wasm.outputs import Output, Unfit
from rlm_wasm.parsing import without_thought
from rlm_wasm.plain import PlainCall
from rlm_wasm.rlm import RLM
from rlm_wasm.tables import Tables
from rlm_wasm.trajectory import Completion, StoppedBy
from rlm_wasm.windows import says_too_long

Route = Literal["plain", "rlm"]


class Profile(msgspec.Struct, frozen=True):
    """A way to go about a question: `instruction` is added to the question of an RLM run."""

    name: str
    instruction: str


PROFILES: Mapping[str, Profile] = MappingProxyType({n: Profile(n, text) for n, text in prompts.PROFILES.items()})
"""The four of pyrlm-runtime's SmartRouter, by their names."""

# English words, most of them by how they begin. What asks for certainty outweighs all else.
_CERTAIN = re.compile(
    r"\b(?:verify\b|double[- ]check|cross[- ]check|make sure|(?:are you|be) (?:sure|certain)|confirm\b|prove\b"
    r"|certainty)",
    re.IGNORECASE,
)
_EXACT = re.compile(
    r"\b(?:how (?:many|much|often)|count(?:s|ed|ing)?\b|number of|list (?:all|every|each)|find (?:all|every|the)"
    r"|which (?:line|file|id)s?\b|when\b|what (?:date|year|time|price|address|number|is the (?:id|name|date|value))\b"
    r"|exact|total\b|sum of|average|largest|smallest|highest|lowest|longest|shortest|earliest|latest|first\b|last\b"
    r"|e-?mail|phone|identifier|regex|occur|mention|contain)",
    re.IGNORECASE,
)
_MEANING = re.compile(
    r"\b(?:summar|sentiment|classif|categor|theme|topic|tone\b|mood|opinion|feel|attitude|argu|explain|why\b|describ"
    r"|compar|interpret|positive|negative|angry|happy|complain|imply|implies|mean(?:s|ing)?\b|kind of)",
    re.IGNORECASE,
)


def choose_profile(question: str) -> str:
    """The name of the profile for a question, by its words.

    "verify" if it asks for certainty; "deterministic_first" if it asks for what code finds or counts,
    "semantic_batches" if for what must be understood; "hybrid" if for both, or for neither that can be told.
    """
    if _CERTAIN.search(question):
        return "verify"
    exact, meaning = _EXACT.search(question), _MEANING.search(question)
    if bool(exact) == bool(meaning):
        return "hybrid"
    return "deterministic_first" if exact else "semantic_batches"


class Routed(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and the way by which it was got.

    `route` is the way that gave the answer, `reason` says why it was taken. `response`, `stopped_by`, `limit` and
    `raise_for_stop` are as in `Completion`; `usage` is of all calls on the way, of a plain call that came to nothing
    too; `seconds` is by the clock. `profile` (its name) and `completion` are None after a plain call.
    """

    question: str
    response: Any
    route: Route
    reason: str
    stopped_by: StoppedBy
    usage: Usage
    seconds: float
    profile: str | None = None
    completion: Completion | None = None
    limit: LimitExceeded | None = None

    def raise_for_stop(self) -> Routed:
        """Itself if `stopped_by` is "final"; otherwise raises LimitExceeded, whose `partial` is this answer."""
        if self.stopped_by == "final":
            return self
        limit = self.limit or LimitExceeded(self.stopped_by, self.seconds, self.seconds)
        raise LimitExceeded(limit.limit, limit.used, limit.allowed, partial=self)


class Router:
    """Answers a question by one call of an RLM's root model where the context is short, else by a run of the RLM.

        router = Router(RLM("gpt-5-mini"), profile="deterministic_first")
        routed = router.completion("When was it signed?", context=text)
        print(routed.response, routed.route, routed.reason)

    A context of at most `threshold_chars` characters goes into the plain call whole; if the model finds that too
    long, or its reply does not fit the type asked for, the RLM runs after all. `profile` is one of `PROFILES` by its
    name, a `Profile` of the caller's own, or "auto" for `choose_profile`. The RLM's limits hold over both ways
    together. Raises ValueError for a threshold below 0 or an unknown profile.
    """

    def __init__(self, rlm: RLM, *, threshold_chars: int = 8000, profile: str | Profile = "auto") -> None:
        if threshold_chars < 0:
            raise ValueError(f"threshold_chars must be 0 or more, not {threshold_chars!r}")
        if isinstance(profile, str) and profile != "auto" and profile not in PROFILES:
            raise ValueError(f"there is no profile {profile!r}: use 'auto', one of {sorted(PROFILES)}, or a Profile")
        self.rlm = rlm
        # 8,000 characters (about 2,000 tokens) are the default of pyrlm-runtime: any model reads that well in one look
        self.threshold_chars = threshold_chars
        self._profile = profile

    def __repr__(self) -> str:
        name = self._profile if isinstance(self._profile, str) else self._profile.name
        return f"<Router of {self.rlm!r}, plain up to {self.threshold_chars:,} characters, profile {name}>"

    def completion(
        self, question: str, *, context: object = None, output: Any = None, errors: str = "strict"
    ) -> Routed:
        """Like `acompletion`, from plain synchronous code; inside a running event loop (Jupyter) too."""

        async def route() -> Routed:
            return await self.acompletion(question, context=context, output=output, errors=errors)

        return self.rlm.run_blocking(route)

    async def acompletion(
        self,
        question: str,
        *,
        context: object = None,
        output: Any = None,
        errors: str = "strict",
        stop: anyio.Event | None = None,
    ) -> Routed:
        """Answer a question about a context. Arguments and errors are those of `RLM.acompletion`.

        `partial` of an error that was raised by an RLM run or a plain call is the `Routed` so far.
        """
        if not question.strip():
            raise ValueError("the question is empty: say what to answer about the context")
        prepared = await contexts.aprepare(context, errors=errors, sandbox=self.rlm.sandbox)
        asked = _Asked(question, prepared, output, stop)
        try:
            return await _Routing(self.rlm, asked).answer(self.threshold_chars, self._chosen(question))
        finally:
            contexts.release(context, prepared)

    def _chosen(self, question: str) -> Profile:
        if isinstance(self._profile, Profile):
            return self._profile
        return PROFILES[choose_profile(question) if self._profile == "auto" else self._profile]


class _Asked(msgspec.Struct, frozen=True):
    question: str
    context: contexts.Context
    output: Any
    stop: anyio.Event | None = None


class _NotPlain(Exception):
    """A plain call came to no answer, and the RLM is to run; the text says why."""


class _Routing:
    """One question on its way: the ledger of both ways, and what the plain call took."""

    def __init__(self, rlm: RLM, asked: _Asked) -> None:
        self._rlm = rlm
        self._asked = asked
        self._budget: Budget = rlm.open_budget()
        self._started = time.monotonic()
        self._plain_usage = Usage()

    async def answer(self, threshold: int, profile: Profile) -> Routed:
        value = self._asked.context.value
        text = contexts.as_text(value, at_most=threshold)
        if text is None:
            kinds = {"bytes": (bytes, bytearray), "a table": Tables}
            kind = next((name for name, types in kinds.items() if isinstance(value, types)), None)
            why = f"is {kind}, which no prompt holds" if kind else f"has more than {threshold:,} characters"
            return await self._run(profile, f"the context {why}")
        try:
            return await self._plain(text, f"the context has {len(text):,} characters, and {threshold:,} are short")
        except _NotPlain as failure:
            return await self._run(profile, str(failure))

    def _routed(self, completion: Completion | None, **fields: Any) -> Routed:
        usage = self._plain_usage + completion.usage if completion else self._plain_usage
        seconds = time.monotonic() - self._started
        return Routed(question=self._asked.question, completion=completion, usage=usage, seconds=seconds, **fields)

    async def _run(self, profile: Profile, reason: str) -> Routed:
        way: dict[str, Any] = {"route": "rlm", "reason": reason, "profile": profile.name}
        try:
            done = await self._rlm.acompletion(
                prompts.with_instruction(self._asked.question, profile.instruction),
                context=self._asked.context,
                output=self._asked.output,
                budget=self._budget,
                stop=self._asked.stop,
            )
        except RLMError as error:
            so_far = error.partial if isinstance(error.partial, Completion) else None
            error.partial = self._routed(so_far, response=None, stopped_by="errors", **way)
            raise
        return self._routed(done, response=done.response, stopped_by=done.stopped_by, limit=done.limit, **way)

    async def _plain(self, text: str, reason: str) -> Routed:
        """The answer by a plain call. Raises _NotPlain if the RLM is to run, ClientError if nobody can be asked."""
        way: dict[str, Any] = {"route": "plain", "reason": reason}
        try:
            reply = await self._ask_plainly(text)
        except EndedEarly:
            return self._routed(None, response=None, stopped_by="cancelled", **way)
        except LimitExceeded as limit:
            by = cast(StoppedBy, limit.limit)
            return self._routed(None, response=None, stopped_by=by, limit=limit, **way)
        except ClientError as error:
            if says_too_long(error):
                raise _NotPlain(f"the plain call was too long for the model ({error})") from error
            error.partial = self._routed(None, response=None, stopped_by="errors", **way)
            raise
        return self._routed(None, response=_read(reply.text, self._asked.output), stopped_by="final", **way)

    async def _ask_plainly(self, text: str) -> Reply:
        """Ask the root model once, within the budget. Raises LimitExceeded, ClientError, EndedEarly."""
        rlm, asked = self._rlm, self._asked
        wanted = Output(asked.output).schema
        messages = prompts.plain(asked.question, text, None if wanted is None else json.dumps(wanted))
        described = asked.context.description
        async with rlm.recorded() as record:
            call = PlainCall(rlm.models, self._budget, record)
            try:
                return await call.ask(messages, question=asked.question, context=described, stop=asked.stop)
            finally:
                self._plain_usage = call.usage


_FENCED = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)


def _read(reply: str, output: Any) -> object:
    """The answer in a reply to a plain call, as the type asked for. Raises _NotPlain if there is none in it."""
    text = (without_thought(reply) or "").strip()
    if not text:
        raise _NotPlain("the reply to the plain call held no answer")
    if output is None:
        return text
    fenced = _FENCED.fullmatch(text)
    wanted = Output(output)
    try:
        return wanted.accept(msgspec.json.decode(fenced[1] if fenced else text))
    except (msgspec.DecodeError, Unfit) as error:
        mismatch = error
    try:
        # a str, or a choice of texts, may have been given without its quotes
        return wanted.accept(text)
    except Unfit:
        raise _NotPlain(f"the reply to the plain call did not fit the type asked for ({mismatch})") from mismatch
