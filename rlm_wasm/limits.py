"""How much a run may take, and the one ledger of what it and all its children took.

Owns the caps (`Limits`), what was spent (`Usage`) and the live ledger (`Budget`). Knows nothing of clients,
sandboxes or the loop, and awaits nothing: what is reserved before a call starts cannot be overshot by calls that start
beside it. Not made for threads: one event loop asks.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from rlm_wasm.errors import LimitExceeded
from rlm_wasm.prices import DEFAULT_PRICES, Price, find_price


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may take at most; None where there is no cap.

    `iterations` counts the root model's replies in one completion, and each child has a count of its own against the
    same cap. All else is one ledger for the run and its children: `calls` are the model calls made from inside the
    sandbox (each llm_query, and every model call of a child), `tokens` are input and output together, `usd` is US
    dollars, `seconds` is wall-clock time. `errors` is how many iterations in a row may fail. `depth` is how deep
    children may nest; with 0 there are none. Raises ValueError, which names the field, for a bad value.
    """

    iterations: int = 30  # what the reference implementation (alexzhang13/rlm) uses
    calls: int | None = 500  # one for every 20 kB of a 10 MB context; a loop gone wild ends soon
    tokens: int | None = None  # a token's worth depends on the model: only the caller can tell
    usd: float | None = None  # needs a known price for each model, which a local one does not have
    seconds: float | None = None  # a local model may take minutes for what another does in one second
    errors: int | None = 10  # in a row; a model that has not found its mistake by then repeats it
    depth: int = 1  # what the paper's experiments use: children, and no grandchildren

    def __post_init__(self) -> None:
        counts = {"iterations": self.iterations, "calls": self.calls, "tokens": self.tokens, "errors": self.errors}
        for name, value in {**counts, "usd": self.usd, "seconds": self.seconds}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Limits.{name} must be a positive number, not {value!r}")
        if not 0 <= self.depth < math.inf:
            raise ValueError(f"Limits.depth must be 0 or more, not {self.depth!r}")


def _add_usd(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


class ModelUsage(msgspec.Struct, frozen=True):
    """What the calls of one model took. `usd` is None if its price is unknown, `estimated` true if one was guessed.

    `cache_reads` and `cache_writes` are those of the input tokens that the provider read from its own cache, or wrote.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    estimated: bool = False
    cache_reads: int = 0
    cache_writes: int = 0

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: ModelUsage) -> ModelUsage:
        return ModelUsage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=_add_usd(self.usd, other.usd),
            estimated=self.estimated or other.estimated,
            cache_reads=self.cache_reads + other.cache_reads,
            cache_writes=self.cache_writes + other.cache_writes,
        )


class Usage(msgspec.Struct, frozen=True):
    """What a run and its children took in all finished model calls, the root model's included.

    `usd` is US dollars, and None as soon as the price of one call was unknown; `estimated` is true if a token count
    was guessed because the provider gave none; `by_model` splits the same numbers by model name. Usages add up.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    by_model: dict[str, ModelUsage] = {}
    estimated: bool = False
    cache_reads: int = 0
    cache_writes: int = 0

    @classmethod
    def of(cls, by_model: Mapping[str, ModelUsage]) -> Usage:
        """The usage of several models as one."""
        total = sum(by_model.values(), ModelUsage())
        return cls(
            calls=total.calls,
            input_tokens=total.input_tokens,
            output_tokens=total.output_tokens,
            usd=total.usd,
            by_model=dict(by_model),
            estimated=total.estimated,
            cache_reads=total.cache_reads,
            cache_writes=total.cache_writes,
        )

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        names = {**self.by_model, **other.by_model}
        none = ModelUsage()
        return Usage.of({name: self.by_model.get(name, none) + other.by_model.get(name, none) for name in names})


class Spent(msgspec.Struct, frozen=True):
    """A ledger as it can be written down: see `Budget.spent`. `seconds` is how long it had been open."""

    by_model: dict[str, ModelUsage]
    replies: dict[str, int]
    calls_inside: int
    seconds: float


# The output tokens expected of a model's first call: about 200 words, the length of an answer to a sub-question.
_FIRST_OUTPUT_TOKENS = 256
_CHARS_PER_TOKEN = 4  # of English, as OpenAI's documentation counts it


class Budget:
    """The live ledger of one run and all its children; its clock starts when it is made.

    Before each model call, `reserve` checks the limits against what was spent plus what all unfinished calls are
    expected to take, and enters the new call; afterwards the reservation is settled with the real counts. Of `calls`
    and `seconds` this is exact: never more than `limits.calls` calls are started, and none after `limits.seconds`.
    Tokens and dollars are known only afterwards, so that they can be overshot, by the calls that were in flight when
    the limit was reached and by no other. With `max_output_tokens` given (and kept to by the provider), such a call
    exceeds its reservation only by the tokens of its prompt above one for every 4 characters: little for English, 7
    times what was reserved where a script takes two tokens a character. Without it, also by its output above the mean
    of that model's outputs so far, up to all that the model can put out.

    `within`: the ledger of all the work of which this run is a part; what is entered here is entered there too, and
    the limits of both hold.
    """

    def __init__(
        self,
        limits: Limits,
        prices: Mapping[str, Price] = DEFAULT_PRICES,
        *,
        within: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._prices = prices
        self._within = within
        self._refused: LimitExceeded | None = None
        self._clock = clock
        self._started_at = clock()
        self._spent: dict[str, ModelUsage] = {}
        self._replies: Counter[str] = Counter()  # by model; a failed call has none, and no part in the mean
        self._calls_inside = 0  # started from inside the sandbox, finished or not
        self._reserved_tokens = 0
        self._reserved_usd = 0.0
        self._in_flight = 0

    def __repr__(self) -> str:
        return f"<Budget {self.usage.calls} calls done, {self._in_flight} in flight, left: {self.left()}>"

    @property
    def limits(self) -> Limits:
        """The caps of the run."""
        return self._limits

    @property
    def usage(self) -> Usage:
        """What the finished calls took, as of now."""
        return Usage.of(self._spent)

    def spent(self) -> Spent:
        """What was spent so far, calls in flight left out."""
        return Spent(dict(self._spent), dict(self._replies), self._calls_inside, self._clock() - self._started_at)

    def charge(self, spent: Spent) -> None:
        """Enter what was spent before in another ledger of the same run."""
        for model, took in spent.by_model.items():
            self._spent[model] = self._spent.get(model, ModelUsage()) + took
        self._replies.update(spent.replies)
        self._calls_inside += spent.calls_inside
        self._started_at -= spent.seconds
        if self._within is not None:
            # the time before was not of the work that goes on now
            self._within.charge(msgspec.structs.replace(spent, seconds=0.0))

    @property
    def refused(self) -> LimitExceeded | None:
        """The last of this ledger's own limits that was reached; None as long as there is something left of each."""
        try:
            self._check_own_seconds()
        except LimitExceeded as error:
            return error
        return self._refused

    def check_prices(self, models: Iterable[str]) -> None:
        """Raise ValueError if there is a limit in US dollars and the price of one of the models is not known."""
        models = list(models)
        if self._within is not None:
            self._within.check_prices(models)
        for model in models if self._limits.usd is not None else ():
            if find_price(model, self._prices) is None:
                raise ValueError(
                    f"limits.usd is set, but the price of model {model!r} is not known: pass "
                    f"prices={{{model!r}: Price(input=..., output=...)}} (US dollars per 1,000,000 tokens)"
                )

    def reserve(
        self, model: str, *, prompt_chars: int, max_output_tokens: int | None = None, inside: bool
    ) -> Reservation:
        """Enter a call that is about to start; raise `LimitExceeded`, and enter nothing, if a limit would be passed.

        `prompt_chars` is the length of all messages in characters; `inside` says that the call is made from inside
        the sandbox or by a child, and counts against `limits.calls`. The call is expected to take a token for every 4
        characters of prompt, and `max_output_tokens`, or else the mean of this model's outputs so far (256 at first).
        Raises ValueError if there is a limit in US dollars and the model's price is not known.
        """
        if prompt_chars < 0 or (max_output_tokens is not None and max_output_tokens < 0):
            raise ValueError("prompt_chars and max_output_tokens must be 0 or more")
        self.check_seconds()
        self.check_prices([model])
        input_tokens = -(-prompt_chars // _CHARS_PER_TOKEN)
        output_tokens = self._expected_output(model) if max_output_tokens is None else max_output_tokens
        price = find_price(model, self._prices)
        usd = price.cost(input_tokens, output_tokens) if price else 0.0
        self._check_room(input_tokens + output_tokens, usd, inside)
        around = None
        if self._within is not None:
            around = self._within.reserve(
                model, prompt_chars=prompt_chars, max_output_tokens=max_output_tokens, inside=inside
            )
        self._calls_inside += inside
        self._reserved_tokens += input_tokens + output_tokens
        self._reserved_usd += usd
        self._in_flight += 1
        tokens = input_tokens + output_tokens
        return Reservation(model, price, tokens=tokens, usd=usd, close=self._close, around=around)

    def _check_room(self, tokens: int, usd: float, inside: bool) -> None:
        used = self.usage
        try:
            if inside:
                _check("calls", self._calls_inside, 1, self._limits.calls)
            _check("tokens", used.tokens + self._reserved_tokens, tokens, self._limits.tokens)
            _check("usd", (used.usd or 0.0) + self._reserved_usd, usd, self._limits.usd)
        except LimitExceeded as error:
            self._refused = error
            raise

    def seconds_left(self) -> float | None:
        """Seconds until `limits.seconds`, 0 if they are over; None if there is no such limit."""
        return _least(self._own_seconds_left(), None if self._within is None else self._within.seconds_left())

    @property
    def seconds_limit(self) -> float | None:
        """The limit in seconds; where the work around has one that is reached before it, that one."""
        own, around = self._own_seconds_left(), None if self._within is None else self._within.seconds_left()
        if self._within is None or around is None or (own is not None and own <= around):
            return self._limits.seconds
        return self._within.seconds_limit

    def _own_seconds_left(self) -> float | None:
        if self._limits.seconds is None:
            return None
        return max(0.0, self._limits.seconds - (self._clock() - self._started_at))

    def check_seconds(self) -> None:
        """Raise `LimitExceeded` if the time of the run is over."""
        if self._within is not None:
            self._within.check_seconds()
        self._check_own_seconds()

    def _check_own_seconds(self) -> None:
        elapsed = self._clock() - self._started_at
        if self._limits.seconds is not None and elapsed >= self._limits.seconds:
            raise LimitExceeded("seconds", elapsed, self._limits.seconds)

    def left(self) -> dict[str, float | int | None]:
        """What the model inside is told by `budget()`: what may still be reserved; None where there is no limit."""
        used = self.usage
        usd = (used.usd or 0.0) + self._reserved_usd
        own = {
            "calls_left": _left(self._limits.calls, self._calls_inside),
            "tokens_left": _left(self._limits.tokens, used.tokens + self._reserved_tokens),
            "usd_left": _left(self._limits.usd, usd),
            "seconds_left": self.seconds_left(),
        }
        around = {} if self._within is None else self._within.left()
        return {name: _least(left, around.get(name)) for name, left in own.items()}

    def _expected_output(self, model: str) -> int:
        seen = self._spent.get(model, ModelUsage()).output_tokens
        return math.ceil((_FIRST_OUTPUT_TOKENS + seen) / (1 + self._replies[model]))

    def _close(self, reservation: Reservation, took: ModelUsage) -> None:
        self._in_flight -= 1
        self._reserved_tokens -= reservation.tokens
        # With no call in flight nothing is reserved; the rounding of many sums must not say otherwise.
        self._reserved_usd = self._reserved_usd - reservation.usd if self._in_flight else 0.0
        self._spent[reservation.model] = self._spent.get(reservation.model, ModelUsage()) + took
        self._replies[reservation.model] += took.tokens > 0


class Reservation:
    """A model call's place in the ledger, from before it starts until it is settled or released.

    As a context manager it releases itself if it was not settled, so that a call that raised leaves nothing reserved.
    """

    def __init__(
        self,
        model: str,
        price: Price | None,
        *,
        tokens: int,
        usd: float,
        close: Callable[[Reservation, ModelUsage], None],
        around: Reservation | None = None,
    ) -> None:
        self._price = price
        self._close = close
        self._around = around
        self._is_open = True
        self.model = model
        self.tokens = tokens
        """Tokens, input and output together, that the call is expected to take."""
        self.usd = usd
        """US dollars that the call is expected to take; 0.0 if the price is unknown."""

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Reservation {self.model}: {self.tokens} tokens, {self.usd:g} USD, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def settle(
        self,
        input_tokens: int,
        output_tokens: int,
        estimated: bool = False,
        *,
        cache_reads: int = 0,
        cache_writes: int = 0,
    ) -> ModelUsage:
        """Enter what the call took, and return it. A limit that it passes is for the next `reserve` to raise.

        `cache_reads` and `cache_writes` are a part of the input tokens. Raises ValueError for negative counts, for a
        part that is more than the whole, and for a reservation that was settled or released before.
        """
        if not self._is_open:
            raise ValueError(f"settled or released before: {self!r}")
        if input_tokens < 0 or output_tokens < 0:
            raise ValueError(f"negative token counts: {input_tokens} in, {output_tokens} out")
        if min(cache_reads, cache_writes) < 0 or cache_reads + cache_writes > input_tokens:
            raise ValueError(f"cached tokens are a part of {input_tokens} in, not {cache_reads} and {cache_writes}")
        cost = self._price.cost(input_tokens, output_tokens, cache_reads, cache_writes) if self._price else None
        took = ModelUsage(1, input_tokens, output_tokens, cost, estimated, cache_reads, cache_writes)
        self._is_open = False
        self._close(self, took)
        if self._around is not None:
            self._around.settle(
                input_tokens, output_tokens, estimated, cache_reads=cache_reads, cache_writes=cache_writes
            )
        return took

    def release(self) -> None:
        """Give back the tokens and dollars of a call that failed; it still counts as a call. Does nothing if closed."""
        if self._is_open:
            self._is_open = False
            self._close(self, ModelUsage(calls=1))
            if self._around is not None:
                self._around.release()


def _check(limit: str, used: float, more: float, allowed: float | None) -> None:
    if allowed is not None and used + more > allowed:
        raise LimitExceeded(limit, used, allowed)


def _left(allowed: float | None, used: float) -> float | None:
    return None if allowed is None else max(allowed - used, 0)


def _least(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)
