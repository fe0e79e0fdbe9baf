"""The caps, the prices and the ledger: what is reserved before a call can never be overshot by calls beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rlm_wasm.errors import LimitExceeded
from rlm_wasm.limits import Budget, Limits, ModelUsage, Reservation, Usage
from rlm_wasm.prices import DEFAULT_PRICES, Price, find_price

MODEL = "gpt-5-nano"
DOLLAR_A_TOKEN = {"dear": Price(1_000_000, 1_000_000), "free": Price(0, 0)}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- Limits


def test_the_defaults_are_valid_and_bound_every_run() -> None:
    limits = Limits()
    assert (limits.iterations, limits.calls, limits.errors, limits.depth) == (30, 500, 10, 1)
    assert (limits.tokens, limits.usd, limits.seconds) == (None, None, None)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["iterations", "calls", "tokens", "usd", "seconds", "errors"])
def test_a_cap_that_is_not_a_positive_number_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{field}\b"):
        Limits(**{field: value})


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_a_depth_below_zero_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Limits\.depth\b"):
        Limits(depth=value)


def test_a_depth_of_zero_is_a_run_without_children() -> None:
    assert Limits(depth=0).depth == 0


def test_caps_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Limits().calls = 1_000_000  # pyright: ignore[reportAttributeAccessIssue]


# --- prices


def test_a_price_is_in_dollars_for_a_million_tokens() -> None:
    assert DEFAULT_PRICES["gpt-5-mini"].cost(1_000_000, 500_000) == pytest.approx(0.25 + 1.00)


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-5", Price(1.25, 10, cache_read=0.125)),
        ("gpt-5-mini", Price(0.25, 2, cache_read=0.025)),
        ("gpt-5-mini-2025-08-07", Price(0.25, 2, cache_read=0.025)),
        ("gpt-4o-2024-05-13", Price(5, 15)),
        ("gpt-4o-2024-08-06", Price(2.50, 10, cache_read=1.25)),
        ("gpt-5-pro", None),
        ("gpt-5-mini-high", None),
        ("gpt-5-mini-2025", None),
        ("gpt-5-mini-2025-08-07-preview", None),
        ("gpt-5-codex-2025-08-07", None),
        ("openai/gpt-5", None),
        ("gpt", None),
        ("", None),
    ],
)
def test_a_model_is_priced_by_its_exact_name_or_its_dated_one_and_nothing_looser(
    model: str, price: Price | None
) -> None:
    assert find_price(model) == price


@pytest.mark.parametrize("price", [(-1, 0), (0, -1), (math.nan, 0), (0, math.inf)])
def test_a_price_below_zero_is_refused(price: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="US dollars"):
        Price(*price)


def test_an_unknown_price_under_a_cap_in_dollars_is_refused_at_the_start_with_the_way_to_pass_one() -> None:
    budget = Budget(Limits(usd=1))
    budget.check_prices(["gpt-5", "gpt-5-nano-2025-08-07"])
    with pytest.raises(ValueError, match=r"'qwen3'.*prices=\{'qwen3': Price\("):
        budget.check_prices(["gpt-5", "qwen3"])
    with pytest.raises(ValueError, match="qwen3"):
        budget.reserve("qwen3", prompt_chars=1, inside=True)


def test_an_unknown_price_without_a_cap_in_dollars_makes_the_dollars_unknown() -> None:
    budget = Budget(Limits())
    budget.check_prices(["qwen3"])
    budget.reserve(MODEL, prompt_chars=1, inside=True).settle(1, 1)
    assert budget.usage.usd is not None
    budget.reserve("qwen3", prompt_chars=1, inside=True).settle(1, 1)
    assert budget.usage.usd is None
    assert budget.usage.by_model["qwen3"].usd is None
    assert budget.usage.by_model[MODEL].usd == pytest.approx(0.45e-6)


def test_a_free_model_fits_under_any_cap_in_dollars() -> None:
    budget = Budget(Limits(usd=1e-9), DOLLAR_A_TOKEN)
    budget.reserve("free", prompt_chars=10_000, inside=True).settle(9_000, 9_000)
    assert budget.usage.usd == 0.0


def test_tokens_of_the_providers_cache_cost_what_the_price_says_of_them() -> None:
    price = Price(10, 100, cache_read=1, cache_write=12.5)
    budget = Budget(Limits(usd=1), {"m": price, "plain": Price(10, 100)})
    took = budget.reserve("m", prompt_chars=1, inside=True).settle(1000, 10, cache_reads=600, cache_writes=300)
    assert took.usd == pytest.approx((100 * 10 + 600 * 1 + 300 * 12.5 + 10 * 100) / 1e6)
    assert (took.tokens, took.cache_reads, took.cache_writes) == (1010, 600, 300)
    plain = budget.reserve("plain", prompt_chars=1, inside=True).settle(1000, 10, cache_reads=600)
    assert plain.usd == pytest.approx((1000 * 10 + 10 * 100) / 1e6)
    assert (budget.usage.cache_reads, budget.usage.cache_writes) == (1200, 300)
    assert budget.usage.by_model["plain"].cache_reads == 600


@pytest.mark.parametrize("cached", [{"cache_reads": -1}, {"cache_reads": 11}, {"cache_reads": 6, "cache_writes": 5}])
def test_more_cached_tokens_than_there_are_is_a_mistake(cached: Any) -> None:
    reservation = Budget(Limits()).reserve("m", prompt_chars=1, inside=True)
    with pytest.raises(ValueError, match="cached tokens are a part of 10 in"):
        reservation.settle(10, 1, **cached)


def test_prices_of_the_cache_are_no_less_than_nothing() -> None:
    with pytest.raises(ValueError, match="a price must be 0 or more"):
        Price(1, 1, cache_read=-1)


# --- usage

usages = st.builds(
    ModelUsage,
    calls=st.integers(0, 1000),
    input_tokens=st.integers(0, 10**9),
    output_tokens=st.integers(0, 10**9),
    usd=st.none() | st.integers(0, 1000).map(float),
    estimated=st.booleans(),
)
totals = st.dictionaries(st.sampled_from(["a", "b", "c"]), usages).map(Usage.of)
untimed = settings(deadline=None)  # a busy machine is no failure


@untimed
@given(totals, totals, totals)
def test_usages_add_up_in_any_order(one: Usage, two: Usage, three: Usage) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + Usage() == one
    assert sum([one, two], Usage()) == one + two


@untimed
@given(totals, totals)
def test_a_sum_has_the_tokens_of_both_and_dollars_only_if_both_are_known(one: Usage, two: Usage) -> None:
    both = one + two
    assert both.tokens == one.tokens + two.tokens == sum(part.tokens for part in both.by_model.values())
    assert both.calls == one.calls + two.calls
    assert (both.usd is None) == (one.usd is None or two.usd is None)
    assert both.estimated == (one.estimated or two.estimated)


def test_an_estimated_count_marks_the_usage() -> None:
    budget = Budget(Limits())
    budget.reserve(MODEL, prompt_chars=1, inside=True).settle(1, 1)
    assert not budget.usage.estimated
    assert budget.reserve(MODEL, prompt_chars=1, inside=True).settle(1, 1, estimated=True).estimated
    assert budget.usage.estimated


def test_a_usage_is_a_picture_of_its_moment() -> None:
    budget = Budget(Limits())
    before = budget.usage
    budget.reserve(MODEL, prompt_chars=1, inside=True).settle(1, 1)
    assert before == Usage()
    assert budget.usage.calls == 1


# --- the ledger


def test_a_batch_larger_than_the_calls_left_reserves_exactly_those() -> None:
    budget = Budget(Limits(calls=100))
    reserved: list[Reservation] = []
    refusals: list[LimitExceeded] = []
    for _ in range(500):
        try:
            reserved.append(budget.reserve(MODEL, prompt_chars=400, inside=True))
        except LimitExceeded as refusal:
            refusals.append(refusal)
    assert (len(reserved), len(refusals)) == (100, 400)
    assert (refusals[0].limit, refusals[0].used, refusals[0].allowed) == ("calls", 100, 100)


def test_the_root_models_own_calls_are_not_counted_against_calls_but_used_all_the_same() -> None:
    budget = Budget(Limits(calls=1))
    for _ in range(5):
        budget.reserve(MODEL, prompt_chars=4, inside=False).settle(1, 1)
    budget.reserve(MODEL, prompt_chars=4, inside=True).settle(1, 1)
    budget.reserve(MODEL, prompt_chars=4, inside=False).settle(1, 1)
    assert budget.usage.calls == 7
    with pytest.raises(LimitExceeded):
        budget.reserve(MODEL, prompt_chars=4, inside=True)


def test_a_failed_call_is_a_call_but_takes_no_tokens() -> None:
    budget = Budget(Limits(calls=2, tokens=1000, usd=1000), DOLLAR_A_TOKEN)
    with pytest.raises(ConnectionError), budget.reserve("dear", prompt_chars=40, inside=True):
        raise ConnectionError
    assert budget.usage == Usage.of({"dear": ModelUsage(calls=1)})
    assert budget.left() == {"calls_left": 1, "tokens_left": 1000, "usd_left": 1000, "seconds_left": None}


def test_leaving_a_settled_reservation_changes_nothing() -> None:
    budget = Budget(Limits(tokens=1000))
    with budget.reserve(MODEL, prompt_chars=40, inside=True) as reservation:
        reservation.settle(12, 3)
    reservation.release()
    assert (budget.usage.calls, budget.usage.tokens) == (1, 15)
    assert budget.left()["tokens_left"] == 985


def test_a_reservation_is_settled_once() -> None:
    reservation = Budget(Limits()).reserve(MODEL, prompt_chars=40, inside=True)
    reservation.settle(1, 1)
    with pytest.raises(ValueError, match="before"):
        reservation.settle(1, 1)


def test_negative_counts_are_refused_and_the_reservation_stays_open() -> None:
    budget = Budget(Limits(tokens=1000))
    with budget.reserve(MODEL, prompt_chars=0, max_output_tokens=100, inside=True) as reservation:
        with pytest.raises(ValueError, match="negative"):
            reservation.settle(-1000, 0)
        assert budget.left()["tokens_left"] == 900
    with pytest.raises(ValueError, match="0 or more"):
        budget.reserve(MODEL, prompt_chars=-1, inside=True)
    with pytest.raises(ValueError, match="0 or more"):
        budget.reserve(MODEL, prompt_chars=0, max_output_tokens=-1, inside=True)


def test_a_prompt_is_expected_to_take_a_token_for_every_four_characters_rounded_up() -> None:
    budget = Budget(Limits())
    for chars, tokens in [(0, 0), (1, 1), (4, 1), (5, 2)]:
        assert budget.reserve(MODEL, prompt_chars=chars, max_output_tokens=0, inside=True).tokens == tokens


def test_an_output_is_expected_to_be_as_long_as_those_of_the_same_model_so_far() -> None:
    budget = Budget(Limits())
    assert budget.reserve(MODEL, prompt_chars=0, inside=True).tokens == 256
    for _ in range(3):
        budget.reserve(MODEL, prompt_chars=0, inside=True).settle(10, 56)
    budget.reserve(MODEL, prompt_chars=0, inside=True).release()
    assert budget.reserve(MODEL, prompt_chars=0, inside=True).tokens == (256 + 3 * 56) / 4
    assert budget.reserve("gpt-5", prompt_chars=0, inside=True).tokens == 256


@pytest.mark.parametrize("limits", [Limits(tokens=250), Limits(usd=250)], ids=["tokens", "usd"])
def test_calls_in_flight_count_before_they_are_done(limits: Limits) -> None:
    budget = Budget(limits, DOLLAR_A_TOKEN)
    first = budget.reserve("dear", prompt_chars=200, max_output_tokens=50, inside=True)
    budget.reserve("dear", prompt_chars=200, max_output_tokens=50, inside=False)
    with pytest.raises(LimitExceeded) as refusal:
        budget.reserve("dear", prompt_chars=200, max_output_tokens=51, inside=True)
    assert refusal.value.limit in ("tokens", "usd")
    assert (refusal.value.used, refusal.value.allowed) == (200, 250)
    first.settle(20, 20)
    budget.reserve("dear", prompt_chars=200, max_output_tokens=60, inside=True)


def test_a_refused_call_leaves_no_trace() -> None:
    budget = Budget(Limits(calls=5, tokens=100))
    before = (budget.left(), budget.usage)
    with pytest.raises(LimitExceeded):
        budget.reserve(MODEL, prompt_chars=0, max_output_tokens=101, inside=True)
    assert (budget.left(), budget.usage) == before


def test_a_call_that_took_more_than_was_reserved_is_entered_whole_and_stops_the_next() -> None:
    budget = Budget(Limits(tokens=100))
    budget.reserve(MODEL, prompt_chars=4, max_output_tokens=10, inside=True).settle(200, 10)
    assert budget.usage.tokens == 210
    assert budget.left()["tokens_left"] == 0
    with pytest.raises(LimitExceeded) as refusal:
        budget.reserve(MODEL, prompt_chars=0, max_output_tokens=1, inside=True)
    assert (refusal.value.limit, refusal.value.used) == ("tokens", 210)


def test_no_call_starts_after_the_time_is_over() -> None:
    clock = Clock()
    budget = Budget(Limits(seconds=10), clock=clock)
    assert budget.seconds_left() == 10
    clock.now += 9
    budget.check_seconds()
    assert budget.left()["seconds_left"] == 1
    clock.now += 1
    assert budget.seconds_left() == 0
    with pytest.raises(LimitExceeded) as refusal:
        budget.reserve(MODEL, prompt_chars=0, inside=False)
    assert (refusal.value.limit, refusal.value.used, refusal.value.allowed) == ("seconds", 10, 10)
    clock.now += 100
    assert budget.seconds_left() == 0


def test_without_limits_nothing_is_refused_and_nothing_is_left_to_tell() -> None:
    budget = Budget(Limits(calls=None))
    for _ in range(1000):
        budget.reserve("unknown", prompt_chars=10**6, inside=True)
    budget.check_seconds()
    assert budget.left() == {"calls_left": None, "tokens_left": None, "usd_left": None, "seconds_left": None}


def test_a_budget_and_a_reservation_show_their_state() -> None:
    budget = Budget(Limits(calls=3))
    reservation = budget.reserve(MODEL, prompt_chars=4, max_output_tokens=1, inside=True)
    assert "1 in flight" in repr(budget)
    assert "open" in repr(reservation)
    reservation.settle(1, 1)
    assert "1 calls done, 0 in flight" in repr(budget)
    assert "closed" in repr(reservation)


class AnyInterleaving(RuleBasedStateMachine):
    """Calls that start, end and fail in any order, beside a ledger kept by hand."""

    limits = Limits(calls=7, tokens=2_000, usd=0.003)

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(self.limits)
        self.open: list[Reservation] = []
        self.started_inside = 0
        self.took: list[ModelUsage] = []
        self.refused: list[str] = []

    @rule(
        model=st.sampled_from(["gpt-5-nano", "gpt-5-mini"]),
        chars=st.integers(0, 2_000),
        output=st.none() | st.integers(0, 500),
        inside=st.booleans(),
    )
    def start(self, model: str, chars: int, output: int | None, inside: bool) -> None:
        before = self.budget.left()
        try:
            self.open.append(self.budget.reserve(model, prompt_chars=chars, max_output_tokens=output, inside=inside))
            self.started_inside += inside
        except LimitExceeded as refusal:
            self.refused.append(refusal.limit)
            assert self.budget.left() == before

    @rule(position=st.integers(0, 100), share=st.floats(0, 1), estimated=st.booleans())
    def end(self, position: int, share: float, estimated: bool) -> None:
        if self.open:
            reservation = self.open.pop(position % len(self.open))
            # No more tokens and no more dollars than were reserved: then no limit may ever be passed.
            inputs = int(reservation.tokens * share)
            price = DEFAULT_PRICES[reservation.model]
            outputs = max(0, math.floor((reservation.usd - price.cost(inputs, 0)) * 1_000_000 / price.output))
            self.took.append(reservation.settle(inputs, min(outputs, reservation.tokens - inputs), estimated))

    @rule(position=st.integers(0, 100))
    def fail(self, position: int) -> None:
        if self.open:
            reservation = self.open.pop(position % len(self.open))
            reservation.release()
            self.took.append(ModelUsage(calls=1))

    @invariant()
    def never_more_is_spent_and_reserved_than_allowed(self) -> None:
        used, left = self.budget.usage, self.budget.left()
        reserved_tokens = sum(reservation.tokens for reservation in self.open)
        reserved_usd = sum(reservation.usd for reservation in self.open)
        assert self.started_inside <= 7
        assert left["calls_left"] == 7 - self.started_inside
        assert used.tokens + reserved_tokens <= 2_000
        assert left["tokens_left"] == 2_000 - used.tokens - reserved_tokens
        assert used.usd is not None
        assert used.usd + reserved_usd <= 0.003 + 1e-12
        assert left["usd_left"] == pytest.approx(0.003 - used.usd - reserved_usd, abs=1e-12)

    @invariant()
    def usage_is_the_sum_of_what_the_calls_took(self) -> None:
        total, used = sum(self.took, ModelUsage()), self.budget.usage
        assert (used.calls, used.input_tokens, used.output_tokens) == (
            total.calls,
            total.input_tokens,
            total.output_tokens,
        )
        assert used.usd == pytest.approx(total.usd)
        assert used.estimated == total.estimated


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(deadline=None, max_examples=60)


@untimed
@given(
    st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 4_000), st.integers(0, 400)), max_size=40),
    st.integers(1, 5_000),
)
def test_tokens_are_overshot_only_by_prompts_of_calls_in_flight_when_outputs_are_capped(
    calls: list[tuple[int, int, int]], allowed: int
) -> None:
    budget = Budget(Limits(calls=None, tokens=allowed))
    surplus = 0
    started: list[tuple[Reservation, int, int]] = []
    for chars, prompt_tokens, output_tokens in calls:
        try:
            reservation = budget.reserve(MODEL, prompt_chars=chars, max_output_tokens=400, inside=True)
        except LimitExceeded:
            continue
        surplus += max(0, prompt_tokens - math.ceil(chars / 4))
        started.append((reservation, prompt_tokens, output_tokens))
    for reservation, prompt_tokens, output_tokens in started:
        reservation.settle(prompt_tokens, output_tokens)
    assert budget.usage.tokens <= allowed + surplus


# --- a ledger within another


def test_what_is_entered_in_a_ledger_is_entered_in_the_one_around_it_too() -> None:
    whole = Budget(Limits(calls=None, tokens=100), DOLLAR_A_TOKEN)
    one, other = (Budget(Limits(calls=2), DOLLAR_A_TOKEN, within=whole) for _ in range(2))
    first = one.reserve("dear", prompt_chars=40, max_output_tokens=10, inside=True)
    assert whole.left()["tokens_left"] == 80
    first.settle(20, 10)
    other.reserve("dear", prompt_chars=0, max_output_tokens=5, inside=True).release()
    assert (one.usage.tokens, other.usage.tokens, whole.usage.tokens) == (30, 0, 30)
    assert (one.usage.calls, other.usage.calls, whole.usage.calls) == (1, 1, 2)
    # what is left is the less of the two
    assert one.left() == {"calls_left": 1, "tokens_left": 70, "usd_left": None, "seconds_left": None}


def test_the_limits_of_both_hold_and_each_says_which_of_its_own_was_reached() -> None:
    whole = Budget(Limits(calls=None, tokens=100), DOLLAR_A_TOKEN)
    one = Budget(Limits(calls=1), DOLLAR_A_TOKEN, within=whole)
    one.reserve("free", prompt_chars=0, max_output_tokens=60, inside=True).settle(0, 60)
    with pytest.raises(LimitExceeded, match="calls"):
        one.reserve("free", prompt_chars=0, max_output_tokens=1, inside=True)
    assert one.refused is not None
    assert whole.refused is None
    other = Budget(Limits(), DOLLAR_A_TOKEN, within=whole)
    with pytest.raises(LimitExceeded, match="tokens"):
        other.reserve("free", prompt_chars=0, max_output_tokens=50, inside=True)
    # nothing of it was entered in either
    assert (other.left()["calls_left"], whole.left()["tokens_left"]) == (500, 40)
    assert other.refused is None
    assert whole.refused is not None
    assert whole.refused.limit == "tokens"


def test_the_seconds_that_are_over_first_hold() -> None:
    clock = Clock()
    whole = Budget(Limits(seconds=10), clock=clock)
    clock.now += 6
    short, long = (Budget(Limits(seconds=seconds), within=whole, clock=clock) for seconds in (3, 30))
    none = Budget(Limits(), within=whole, clock=clock)
    assert [each.seconds_left() for each in (short, long, none)] == [3, 4, 4]
    assert [each.seconds_limit for each in (short, long, none)] == [3, 10, 10]
    assert whole.refused is None
    clock.now += 4
    for each in (long, none):
        with pytest.raises(LimitExceeded, match="seconds"):
            each.check_seconds()
    assert whole.refused is not None


def test_an_unknown_price_is_refused_where_the_ledger_around_has_dollars() -> None:
    whole = Budget(Limits(usd=1.0), DOLLAR_A_TOKEN)
    with pytest.raises(ValueError, match="price of model 'unheard-of'"):
        Budget(Limits(), DOLLAR_A_TOKEN, within=whole).check_prices(["dear", "unheard-of"])
