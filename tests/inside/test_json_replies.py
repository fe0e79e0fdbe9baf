"""A model's reply as JSON: found, checked, and asked for again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


@pytest.fixture
def replies(equipment: Callable[[str], ModuleType]) -> Any:
    return equipment("json_replies")


def answering(host: Any, *texts: str) -> None:
    left: Iterator[str] = iter(texts)
    host.answer = lambda prompt: next(left)


# --- found ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (' "text" ', "text"),
        ("42", 42),
        ("null", None),
        ('Sure!\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
        ("```\n[1, 2]\n```", [1, 2]),
        ('```json\n{"a": 1}', {"a": 1}),
        ('First ```json\n{"draft": 1}\n``` but rather ```json\n{"final": 2}\n```', {"final": 2}),
        ('Here it is: {"a": {"b": [1, 2]}} as you see [1].', {"a": {"b": [1, 2]}}),
        ("In the set {x} the values are [1, 2, 3].", [1, 2, 3]),
        ('<think>{"no": 1}</think>{"yes": 2}', {"yes": 2}),
        ('{"code": "```python\\nx\\n```"}', {"code": "```python\nx\n```"}),
    ],
)
def test_json_is_found_where_models_put_it(replies: Any, reply: str, value: Any) -> None:
    assert replies.json_in(reply) == value


def test_with_a_schema_what_fits_it_is_found_before_what_does_not(replies: Any) -> None:
    reply = 'Of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] I made {"name": "Ann", "age": 5}.'
    assert replies.json_in(reply, PERSON) == {"name": "Ann", "age": 5}
    assert replies.json_in(reply, {"type": "array"})[-1] == 16


@pytest.mark.parametrize("reply", ["", "no JSON", "{'a': 1}", "{a: 1", "NaN", "[Infinity]", "9" * 5000, "<think>"])
def test_what_holds_no_json_says_so(replies: Any, reply: str) -> None:
    with pytest.raises(ValueError, match="there is no JSON value in it") as caught:
        replies.json_in(reply)
    assert vars(caught.value)["reply"] == reply


@shared_fixture
@given(st.text(st.sampled_from('{}[]",:`\n 1atrue\\<>/')) | st.text(), st.none() | st.just(PERSON))
def test_any_text_is_json_or_a_value_error(replies: Any, text: str, schema: Any) -> None:
    try:
        replies.json_in(text, schema)
    except ValueError:
        return


@shared_fixture
@given(values, st.sampled_from(["{}", "```json\n{}\n```", "Here:\n```\n{}\n```\nDone."]))
def test_any_value_comes_back_from_its_json(replies: Any, value: Any, frame: str) -> None:
    assert replies.json_in(frame.replace("{}", json.dumps(value, indent=1))) == value


@pytest.mark.parametrize(
    "reply",
    ["[" * 200_000, '{"a":' * 100_000, "[1," * 50_000 + '"' + "x" * 100_000, "[" * 5000 + "]" * 5000, '{"' * 50_000],
)
def test_a_reply_made_of_brackets_ends_and_holds_no_deep_value(replies: Any, reply: str) -> None:
    # what the decoder would follow into the depth ends the interpreter in the sandbox
    try:
        value = replies.json_in(reply)
    except ValueError:
        return
    for _ in range(101):
        value = value[0] if value else None
    assert value is None


# --- asked for -----------------------------------------------------------------------------------------------------


def test_the_schema_is_told_and_a_good_reply_is_asked_for_once(replies: Any, host: Any) -> None:
    answering(host, '```json\n{"name": "Ann", "age": 5}\n```')
    assert replies.llm_query_json("Who is it?", PERSON, model="small") == {"name": "Ann", "age": 5}
    assert host.asked[0].startswith("Who is it?")
    assert json.dumps(PERSON) in host.asked[0]
    assert host.models == ["small"]


def test_a_bad_reply_is_asked_for_again_with_what_is_wrong(replies: Any, host: Any) -> None:
    answering(host, "It is Ann.", '{"name": "Ann", "age": -1}', '{"name": "Ann", "age": 5}')
    assert replies.llm_query_json("Who?", PERSON) == {"name": "Ann", "age": 5}
    assert "there is no JSON value in it:\n<reply>\nIt is Ann.\n</reply>" in host.asked[1]
    assert '$.age must be at least 0, and is -1:\n<reply>\n{"name": "Ann", "age": -1}\n</reply>' in host.asked[2]
    assert "It is Ann." not in host.asked[2]
    assert all(prompt.startswith("Who?") for prompt in host.asked)


def test_after_the_last_attempt_the_error_holds_the_last_reply(replies: Any, host: Any) -> None:
    last = "y" * 10_000
    answering(host, "x", last)
    with pytest.raises(
        ValueError, match="after 2 attempts there is no JSON value in it; the last reply: yyy"
    ) as caught:
        replies.llm_query_json("Who?", attempts=2)
    assert vars(caught.value)["reply"] == last
    assert len(str(caught.value)) < 5000
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        replies.llm_query_json("Who?", attempts=0)


def test_an_error_of_the_host_passes_through(replies: Any, host: Any) -> None:
    def refuse(prompt: str) -> str:
        raise RuntimeError("no more calls")

    host.answer = refuse
    with pytest.raises(RuntimeError, match="no more calls"):
        replies.llm_query_json("Who?", PERSON)
    assert len(host.asked) == 1


# --- checked -------------------------------------------------------------------------------------------------------


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "inner": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "said"),
    [
        ({"type": "integer"}, 2.0, True, "$ must be of type integer, and is true"),
        ({"type": "integer"}, -3, 2.5, "$ must be of type integer, and is 2.5"),
        ({"type": ["string", "null"]}, None, 1, "$ must be of type string or null, and is 1"),
        ({"const": 1}, 1.0, True, "$ must be 1, and is true"),
        ({"enum": ["a", [0]]}, [0], [False], '$ must be one of "a", [0], and is [false]'),
        ({"minimum": 1, "maximum": 3}, 3, 4, "$ must be at most 3, and is 4"),
        ({"exclusiveMinimum": 0}, 0.1, 0, "$ must be more than 0, and is 0"),
        ({"exclusiveMaximum": 1}, "text", 1, "$ must be less than 1, and is 1"),
        ({"minLength": 2}, "ab", "a", "$ must have at least 2 characters, and has 1"),
        ({"maxLength": 2}, "ab", "abc", "$ must have at most 2 characters, and has 3"),
        ({"pattern": "^a+$"}, "aa", "b", '$ must match the pattern ^a+$, and is "b"'),
        ({"minItems": 1}, [1], [], "$ must have at least 1 items, and has 0"),
        ({"maxItems": 1}, {}, [1, 2], "$ must have at most 1 items, and has 2"),
        ({"uniqueItems": True}, [1, True], [{}, 1, {}], "$[2] stands there twice"),
        ({"items": {"type": "string"}}, [], ["a", 1], "$[1] must be of type string, and is 1"),
        ({"prefixItems": [{}, {"type": "null"}], "items": False}, [1, None], [1, None, 2], "$[2] must not be there"),
        ({"required": ["a"]}, {"a": None}, {"b": 1}, '$ lacks the member "a"'),
        ({"properties": {"a": {"const": 1}}}, {"b": 2}, {"a": 2}, "$.a must be 1, and is 2"),
        (
            {"properties": {"a": True}, "additionalProperties": False},
            {"a": 1},
            {"a": 1, "b": 2},
            '$ has the member "b", and may have only: "a"',
        ),
        ({"additionalProperties": {"type": "number"}}, {"x": 1}, {"x": "1"}, '$.x must be of type number, and is "1"'),
        ({"anyOf": [{"type": "null"}, {"minimum": 5}]}, 5, 4, "$ fits none of 2 forms"),
        ({"oneOf": [{"minimum": 0}, {"minimum": 5}]}, 4, 6, "$ must fit one form alone, and fits 2 of 2"),
        ({"allOf": [{"minimum": 0}, {"maximum": 5}]}, 4, 6, "$ must be at most 5, and is 6"),
        ({"not": {"type": "null"}}, 0, None, "$ has a form that it must not have"),
        (TREE, {"name": "a", "inner": [{"name": "b"}]}, {"name": "a", "inner": [{}]}, "$.inner[0] lacks the member"),
        (True, None, None, None),
        ({"format": "date", "title": "passed over"}, "x", "y", None),
    ],
)
def test_each_keyword_lets_pass_what_fits_and_names_the_place_of_what_does_not(
    replies: Any, schema: Any, good: Any, bad: Any, said: str | None
) -> None:
    assert replies.fault(good, schema) is None
    assert (replies.fault(bad, schema) or "").startswith(said or "")
    assert (replies.fault(bad, schema) is None) == (said is None)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "str"}, "a type that JSON Schema has not: 'str'"),
        ({"$ref": "#/$defs/absent"}, "leads to nothing"),
        ({"$ref": "https://example.org/schema"}, "is not within the schema"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "leads back to itself"),
        ({"pattern": "("}, "the schema cannot be checked"),
        ({"minLength": "2"}, "the schema cannot be checked"),
        ("string", "a schema is an object .* this is a str"),
        ({"properties": {"a": 5}}, "a schema is an object .* this is a int"),
    ],
)
def test_a_schema_that_is_none_is_a_value_error_and_no_reply_is_blamed(
    replies: Any, host: Any, schema: Any, said: str
) -> None:
    text = '{"a": "x"}' if isinstance(schema, dict) and "properties" in schema else '"x"'
    answering(host, text)
    with pytest.raises(ValueError, match=said):
        replies.llm_query_json("?", schema)
    assert len(host.asked) == 1


class Launch(msgspec.Struct):
    """A schema as msgspec writes it."""

    name: str
    revenue: float | None
    sites: list[tuple[str, int]] = []


@shared_fixture
@given(values | st.builds(Launch, st.text(), st.none() | st.floats(0, 9), st.just([("a", 1)])).map(msgspec.to_builtins))
def test_what_fits_a_schema_of_msgspec_is_what_msgspec_takes(replies: Any, value: Any) -> None:
    value = json.loads(json.dumps(value))
    fits = replies.fault(value, msgspec.json.schema(Launch)) is None
    try:
        msgspec.convert(value, Launch)
    except msgspec.ValidationError:
        assert not fits
    else:
        assert fits
