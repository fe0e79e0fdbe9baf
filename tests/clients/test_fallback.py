"""FallbackClient: who is asked when, what is said of it, and what is left when all fail."""

from __future__ import annotations

import pytest

from rlm_wasm.clients import FallbackClient, Message, ScriptedClient
from rlm_wasm.errors import ClientError

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("user", "hello")]


async def test_the_second_answers_where_the_first_fails_and_is_named() -> None:
    first = ScriptedClient([ClientError("down", status=503), "back"], model="first")
    second = ScriptedClient(["instead"], model="second")
    client = FallbackClient(first, second)
    reply = await client.complete(HELLO)
    assert (reply.text, reply.model, client.model) == ("instead", "second", "first")
    reply = await client.complete(HELLO)
    assert (reply.text, reply.model) == ("back", "first")
    assert len(second.calls) == 1


async def test_one_within_another_names_who_answered() -> None:
    broken = ScriptedClient(model="broken")
    inner = FallbackClient(broken, ScriptedClient(["deep"], model="deep"))
    assert (await FallbackClient(broken, inner).complete(HELLO)).model == "deep"


async def test_when_all_fail_the_last_error_tells_of_the_others() -> None:
    errors = [ClientError(f"failure {number}", status=500 + number) for number in range(3)]
    client = FallbackClient(*(ScriptedClient([error], model=f"model {error.status}") for error in errors))
    with pytest.raises(ClientError) as raised:
        await client.complete(HELLO)
    assert raised.value is errors[2]
    assert raised.value.__notes__ == [
        "before it 'model 500' failed: failure 0",
        "before it 'model 501' failed: failure 1",
    ]


async def test_an_error_that_is_no_clients_is_not_covered_up() -> None:
    second = ScriptedClient(["never"])
    with pytest.raises(TypeError, match="a mistake"):
        await FallbackClient(ScriptedClient([TypeError("a mistake")]), second).complete(HELLO)
    assert second.calls == []


def test_no_clients_are_refused() -> None:
    with pytest.raises(TypeError, match="at least one"):
        FallbackClient()


def test_its_repr_shows_all() -> None:
    clients = [ScriptedClient(model="a"), ScriptedClient(model="b")]
    assert repr(FallbackClient(*clients)) == f"FallbackClient({clients[0]!r}, {clients[1]!r})"
