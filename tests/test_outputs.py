"""What a run is asked to answer with: types of msgspec, JSON Schemas, models of pydantic."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import numpy
import pandas
import polars
import pyarrow
import pydantic
import pytest

from rlm_wasm import RLM, Limits, Router, ScriptedClient
from rlm_wasm.outputs import Output, Unfit

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Struct(msgspec.Struct):
    n: int


class Model(pydantic.BaseModel):
    n: int


@pytest.mark.parametrize(
    ("wanted", "accepted"), [(Struct, Struct(3)), (SCHEMA, {"n": 3}), (Model, Model(n=3)), (None, {"n": 3})]
)
def test_what_fits_is_given_as_the_type_asked_for(wanted: Any, accepted: object) -> None:
    assert Output(wanted).accept({"n": 3}) == accepted


ROWS = [{"n": 1, "text": "a"}, {"n": 2, "text": None}]


@pytest.mark.parametrize("value", [ROWS, {"n": [1, 2], "text": ["a", None]}], ids=["rows", "columns"])
def test_rows_or_columns_are_made_the_frame_that_is_asked_for(value: object) -> None:
    assert list(Output(pandas.DataFrame).accept(value)["n"]) == [1, 2]
    assert Output(polars.DataFrame).accept(value).to_dicts() == ROWS
    assert Output(pyarrow.Table).accept(value).to_pylist() == ROWS


def test_values_are_made_the_array_that_is_asked_for() -> None:
    assert Output(numpy.ndarray).accept([[1, 2], [3, 4]]).sum() == 10
    assert Output(pandas.Series).accept({"a": 1})["a"] == 1
    assert Output(polars.Series).accept([1, 2]).to_list() == [1, 2]


@pytest.mark.parametrize(
    ("wanted", "value", "said"),
    [
        (pandas.DataFrame, 5, "expected the rows of a table, a list of dicts; got a int"),
        (pandas.DataFrame, [1, "a"], "got a list with int, str"),
        (pandas.DataFrame, {"a": 1}, "no lists of one length"),
        (polars.DataFrame, {"a": [1], "b": [1, 2]}, "no lists of one length"),
        (pyarrow.Table, [{"a": 1}, {"a": "x"}], "no Table of pyarrow can be made of it"),
        (numpy.ndarray, [[1], [2, 3]], "no ndarray of numpy can be made of it"),
        (numpy.ndarray, [{}], "of no one type"),
        (pandas.Series, "text", "expected a list of values; got a str"),
    ],
)
def test_what_is_no_table_says_why(wanted: Any, value: object, said: str) -> None:
    output = Output(wanted)
    assert output.schema is not None
    assert output.schema["type"] == "array"
    with pytest.raises(Unfit, match=said):
        output.accept(value)


async def test_a_run_that_is_to_answer_with_a_frame_does() -> None:
    root = ScriptedClient(
        ["```repl\nFINAL('none')\n```", "```repl\nFINAL([row for row in context if row['n'] > 1])\n```"]
    )
    with anyio.fail_after(120):
        frame = pandas.DataFrame(ROWS)
        done = await RLM(root).acompletion("Which?", context=frame, output=pandas.DataFrame)
    assert done.response["n"].tolist() == [2]
    assert "expected the rows of a table" in root.calls[1][-1].content


@pytest.mark.parametrize("wanted", [Struct, SCHEMA, Model], ids=["msgspec", "schema", "pydantic"])
@pytest.mark.parametrize("value", [{"n": "many"}, {}, 5, None])
def test_what_does_not_fit_says_where(wanted: Any, value: object) -> None:
    output = Output(wanted)
    assert output.schema is not None
    with pytest.raises(Unfit) as caught:
        output.accept(value)
    assert str(caught.value)
    if value == {"n": "many"}:
        assert "$.n" in str(caught.value)


@pytest.mark.parametrize("wanted", [Struct, SCHEMA, Model], ids=["msgspec", "schema", "pydantic"])
async def test_a_run_and_a_plain_call_give_it(wanted: Any) -> None:
    expected = Output(wanted).accept({"n": 4})
    root = ScriptedClient(["```repl\nFINAL({'n': 'x'})\n```", "```repl\nFINAL({'n': len(context)})\n```"])
    with anyio.fail_after(120):
        done = await RLM(root).acompletion("How many?", context="four", output=wanted)
        assert done.response == expected
        assert "$.n" in root.calls[1][-1].content
        routed = await Router(RLM(ScriptedClient(['```json\n{"n": 4}\n```']))).acompletion(
            "How many?", context="four", output=wanted
        )
    assert (routed.response, routed.route) == (expected, "plain")


async def test_a_limit_tells_a_cell_its_figures() -> None:
    figures = "FINAL([error.limit, error.used, error.allowed])"
    code = f"try: llm_query_batched(['a', 'b'])\nexcept LimitExceeded as error: {figures}"
    root = ScriptedClient([f"```repl\n{code}\n```", "done"])
    sub = ScriptedClient(rules={"": "said"}, model="sub")
    with anyio.fail_after(120):
        done = await RLM(root, sub_model=sub, limits=Limits(calls=1)).acompletion("What?", context="")
    assert done.response == ["calls", 1, 1]


async def test_a_batch_has_an_image_for_each_prompt() -> None:
    png = b"\x89PNG\r\n\x1a\n"
    sub = ScriptedClient(rules={"": "a cat"}, model="sub")
    code = "FINAL(llm_query_batched(['a', 'b'], images=[context, None]))"
    with anyio.fail_after(120):
        done = await RLM(ScriptedClient([f"```repl\n{code}\n```"]), sub_model=sub).acompletion("What?", context=png)
    assert done.response == ["a cat", "a cat"]
    assert sorted(len(call[0].images) for call in sub.calls) == [0, 1]
