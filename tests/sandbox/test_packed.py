"""Values that are packed on the host are the same when the prisoner has unpacked them, and what they cost is known."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.sandbox import Sandbox
from rlm_wasm.sandbox import values as host
from rlm_wasm.sandbox.packed import PART_BYTES, Packed, pack
from rlm_wasm.sandbox.variables import prepare

# of each form in which CPython holds a text, and bytes
LONG = ("ascii" * 100, "Größe" * 100, "日本語" * 100, "🎉" * 300, b"\xff\x00" * 300)


@pytest.fixture(scope="session")
def inside(prisoner_module: Callable[[str], ModuleType]) -> ModuleType:
    return prisoner_module("values")


def unpacked(value: object, inside: ModuleType) -> Any:
    packed = pack(value)
    assert isinstance(packed, Packed)
    content = b"".join(packed.parts())
    assert len(content) == len(packed)
    return inside.unpack(content)


@pytest.mark.parametrize(
    "value",
    [
        [*LONG],
        [*LONG] * 30,
        {f"{number}.txt": text for number, text in enumerate(LONG * 3)},
        ["short", *LONG, ""] * 3,
        ["of a hundred characters, of which there are many: " * 2] * 1000,
        ["mit Umlauten: ä" * 7, "ohne" * 25] * 1000,
        [{"id": number, "text": text, "at": (1, 2)} for number, text in enumerate(LONG)],
        {1: LONG[0], "$text": [*LONG], (2, 3): {"$named": LONG[1]}},
        [{"$text": ["a", 0, 5]}, {"$texts": LONG[0]}, [*LONG] * 9],
        {"empty": [], "deep": [[[[*LONG] * 9]]], "none": None, "bytes": LONG[4]},
        {key: text * 5 for key, text in zip(["$ascii", "ö", "", '"$', "\n"], LONG, strict=True)},
        ["\ud83c\udf89" * 300, "\ud800" * 300, "x" * 5000],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_packed_is_the_same_when_it_is_unpacked(value: object, inside: ModuleType) -> None:
    assert unpacked(value, inside) == inside.decode(host.encode(value))


def test_a_text_of_several_parts_is_packed(inside: ModuleType) -> None:
    value = ["a" * (PART_BYTES + 1), "ü" * PART_BYTES, "日" * PART_BYTES, "end" * 200]
    assert unpacked(value, inside) == value


@pytest.mark.parametrize("value", [["one", "two"], {"a": 1}, [1, 2, [b"ab"]], 42, {"text": "x" * 255}])
def test_what_has_no_bulk_stays_a_json_text(value: object) -> None:
    assert pack(value) == host.encode(value)


pieces = st.text(max_size=20) | st.binary(max_size=20)
bulky = st.tuples(pieces, st.integers(1, 400)).map(lambda drawn: drawn[0] * drawn[1])
keys = st.text(max_size=5) | st.integers() | st.sampled_from(["$text", "$texts", "$named", "$dict"])
anything = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | bulky,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
)


@given(anything)
def test_any_value_that_can_be_packed_is_the_same_inside(inside: ModuleType, value: object) -> None:
    packed = pack(value)
    plain = inside.decode(host.encode(value))
    given = inside.decode(packed) if isinstance(packed, str) else inside.unpack(b"".join(packed.parts()))
    assert given == plain
    assert host.encode(given) == host.encode(plain)


def test_bytes_in_a_dict_cost_what_they_are_and_no_base64() -> None:
    variable = prepare("context", {"a.bin": bytes(100_000), "b.txt": "x" * 100_000})
    assert variable.kind == "packed"
    assert 200_000 < variable.size < 200_200


@pytest.mark.anyio
async def test_texts_and_bytes_of_all_forms_arrive_in_the_sandbox() -> None:
    value = {f"{number}.txt": text for number, text in enumerate(LONG * 10)}
    with anyio.fail_after(60):
        async with Sandbox() as sandbox:
            await sandbox.load(context=value)
            assert await sandbox.get("context") == value
            run = await sandbox.execute(
                "type(context).__name__, [type(text).__name__ for text in context.values()][:5]"
            )
            assert run.value == ("dict", ["str", "str", "str", "str", "bytes"])
