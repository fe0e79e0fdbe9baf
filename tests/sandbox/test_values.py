"""The two twins that turn values into JSON texts, the host's and the prisoner's, held to the same texts."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlm_wasm.errors import ProtocolError
from rlm_wasm.sandbox import values as host

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "values.json").read_text("utf-8"))
NAMES = {
    "collections": collections,
    "dataclasses": dataclasses,
    "datetime": datetime,
    "decimal": decimal,
    "enum": enum,
    "functools": functools,
}


def named(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in GOLDEN[kind]]


def evaluated(expression: str) -> Any:
    return eval(expression, dict(NAMES))


@pytest.fixture(scope="session")
def inside(prisoner_module: Callable[[str], ModuleType]) -> ModuleType:
    return prisoner_module("values")


def same(first: Any, second: Any) -> bool:
    """Equal, and of the same types all the way down; NaN is itself."""
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return repr(first) == repr(second)
    if isinstance(first, decimal.Decimal):
        return str(first) == str(second)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return same(list(first.items()), list(second.items()))
    if isinstance(first, (set, frozenset)):
        return first == second and sorted(map(repr_of_type, first)) == sorted(map(repr_of_type, second))
    return first == second


def repr_of_type(value: object) -> str:
    return type(value).__name__


# --- golden --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named("cases"))
def test_both_twins_write_and_read_the_golden_texts(case: dict[str, Any], inside: ModuleType) -> None:
    expected = evaluated(case.get("decoded", case["python"]))
    for twin in (host, inside):
        assert twin.encode(evaluated(case["python"])) == case["text"]
        assert same(twin.decode(case["text"]), expected)


@pytest.mark.parametrize("case", named("refused"))
def test_both_twins_refuse_what_has_no_form(case: dict[str, Any], inside: ModuleType) -> None:
    for twin in (host, inside):
        with pytest.raises((TypeError, ValueError)) as caught:
            twin.encode(evaluated(case["python"]))
        assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("case", named("broken"))
def test_the_host_refuses_a_text_that_breaks_the_rules(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="breaks the rules"):
        host.decode(case["text"])


# --- there and back ------------------------------------------------------------------------------------------------

TIMEZONES = st.none() | st.integers(-23, 23).map(lambda hours: datetime.timezone(datetime.timedelta(hours=hours)))
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=TIMEZONES, allow_imaginary=False)
    | st.times()
)
HASHABLE = st.recursive(
    PLAIN | st.floats(allow_nan=False) | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE | st.floats() | st.decimals(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.sampled_from(["$int", "$", "$dict"]), inner, max_size=5),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
    ),
    max_leaves=20,
)


@given(value=VALUES)
def test_every_value_goes_in_and_comes_out_with_its_type(value: Any, inside: ModuleType) -> None:
    text = host.encode(value)
    assert inside.encode(value) == text
    assert same(inside.decode(text), value)
    assert same(host.decode(inside.encode(value)), value)
    text.encode()


@given(text=st.text(st.characters()))
def test_texts_become_well_formed_and_nothing_else_changes(text: str, inside: ModuleType) -> None:
    repaired = host.well_formed(text)
    repaired.encode()
    assert inside.well_formed(text) == repaired == host.well_formed(repaired)
    assert host.decode(host.encode(text)) == repaired
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert repaired == text


def test_an_enormous_value_is_refused_inside_by_its_bytes(inside: ModuleType) -> None:
    assert inside.encode("\u20ac" * 100, 302) == '"' + "\u20ac" * 100 + '"'
    with pytest.raises(ValueError, match="takes 305 bytes as JSON; at most 304 can be sent"):
        inside.encode("\u20ac" * 101, 304)
    # quotes and backslashes take two bytes each as a string of a message, of which there are 64 MiB
    assert 2 * inside.MAX_BYTES < 64 * 1024 * 1024


MANY_PARTS = {
    "lists": lambda: [[]] * 2_000_000,
    "numbers": lambda: [7] * 5_000_000,
    "fields": lambda: [{"a": 1}] * 1_000_000,
}


@pytest.mark.parametrize("kind", MANY_PARTS)
def test_a_value_of_very_many_parts_is_refused_inside_and_again_on_the_host(kind: str, inside: ModuleType) -> None:
    value = MANY_PARTS[kind]()
    with pytest.raises(ValueError, match=r"has too many parts .*send it as text, or a part of it"):
        inside.encode(value)
    with pytest.raises(ProtocolError, match="would take more than"):
        host.decode(json.dumps(value))
    assert (inside.MAX_HELD, inside.WEIGHTS) == (host.MAX_HELD, host._WEIGHTS)


def test_a_value_with_many_marks_in_its_texts_has_few_parts(inside: ModuleType) -> None:
    for text in ('a,b,c:"[{' * 1_000_000, "\\" * 1_000_000 + '"' + "[" * 5_000_000):
        assert host.decode(inside.encode([text])) == [text]


@pytest.mark.parametrize("text", ['"', '"' + "," * 5_000_000, '"\\' + '",' * 5_000_000, '"' + '\\"' * 5_000_000 + "\\"])
def test_a_text_that_is_not_closed_is_measured_as_fast_as_any(text: str) -> None:
    assert host.held_bytes(text) <= host.MAX_HELD or text.count('"') > 1
    with pytest.raises(ProtocolError):
        host.decode(text)


@pytest.mark.parametrize(
    "form", ['{"$set":[%s]}', '{"$frozenset":[%s]}', '{"$dict":[%s]}'], ids=["set", "frozenset", "dict"]
)
@pytest.mark.parametrize("kind", ["int", "tuple", "float"])
def test_members_that_share_one_hash_are_refused(form: str, kind: str) -> None:
    def member(number: int) -> str:
        same = f'{{"$int":"{(number + 1) * (2**61 - 1):#x}"}}'
        text = {"int": same, "tuple": f'{{"$tuple":[1,{same}]}}', "float": f"{2.0 ** (61 * (number % 16))!r}"}[kind]
        return f"[{text},1]" if "dict" in form else text

    assert len(host.decode(form % ",".join(map(member, range(8))))) == 8
    with pytest.raises(ProtocolError, match="breaks the rules"):
        host.decode(form % ",".join(map(member, range(1000))))


def test_a_struct_of_the_hosts_goes_in_as_a_dict() -> None:
    class Launch(msgspec.Struct):
        name: str
        stages: tuple[int, ...]

    assert host.encode(Launch("Ariane", (1, 2))) == '{"name":"Ariane","stages":{"$tuple":[1,2]}}'


def test_a_set_within_dicts_of_a_hundred_levels_is_still_read() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {1: (deep,)}
    assert host.decode(host.encode(deep)) == deep
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        host.encode([deep])


# --- what a hostile child may send ---------------------------------------------------------------------------------

TAGS = [f"${tag}" for tag in ("int", "float", "tuple", "set", "frozenset", "bytes", "decimal", "dict")]
TAGS += ["$datetime", "$date", "$time", "$nothing"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(["0x", "nan", "inf", "2026-01-02", "T25:00", "1e999999999", "sNaN", "=", "YQ==", "-"]),
)
HOSTILE = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=2),
        st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ),
    max_leaves=12,
)


@given(text=HOSTILE.map(json.dumps) | st.text() | st.text('{}[]":,$intup0123456789eE+-. '))
@example(text="[" * 100_000)
@example(text='{"$tuple":[' * 50_000)
@example(text="[" * 250 + "]" * 250)
@example(text='{"a":' * 250 + "1" + "}" * 250)
@example(text="9" * 5000)
@example(text='{"$set":[{"$decimal":"sNaN"}]}')
@example(text='{"$set":[{"$set":[]}]}')
@example(text='{"$dict":[[[],1]]}')
@example(text='{"$dict":5}')
@example(text='{"$int":"' + "f" * 100_000 + '"}')
@example(text='{"$decimal":"1e99999999999999999999"}')
@example(text='{"$bytes":"\u00e9"}')
@example(text='{"$datetime":null}')
@example(text="\ufeff1")
@example(text="\ud800")
def test_whatever_a_child_sends_is_a_value_or_a_protocol_error(text: str) -> None:
    try:
        value = host.decode(text)
    except ProtocolError:
        return
    for string in strings_of(value):
        string.encode()


def strings_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [string for item in value.items() for string in strings_of(item)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [string for item in value for string in strings_of(item)]
    return []


def test_a_lone_surrogate_that_is_smuggled_in_as_an_escape_is_repaired() -> None:
    assert host.decode(r'["\ud800", {"\udfff": "\ud83d\ude00"}]') == ["\ufffd", {"\ufffd": "\U0001f600"}]


def test_infinities_and_nan_arrive_only_by_their_tag() -> None:
    assert math.isnan(host.decode('{"$float":"nan"}'))
    for constant in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ProtocolError):
            host.decode(constant)
