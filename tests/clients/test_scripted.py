"""ScriptedClient: what it hands out, in which order, and what it says when the script has no answer."""

from __future__ import annotations

import re
import threading
from functools import partial

import anyio
import pytest

from rlm_wasm.clients import Message, ScriptedClient
from rlm_wasm.clients.scripted import estimate_tokens
from rlm_wasm.errors import ClientError

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]


def asking(text: str) -> list[Message]:
    return [Message("system", "You are brief."), Message("user", text)]


async def test_replies_are_handed_out_in_order() -> None:
    client = ScriptedClient(["one", "two"])
    assert [(await client.complete(asking("?"))).text for _ in range(2)] == ["one", "two"]


async def test_a_rule_comes_before_the_replies_and_uses_none_up() -> None:
    client = ScriptedClient(["from the list"], {"capital": "Paris"})
    assert (await client.complete(asking("the capital of France?"))).text == "Paris"
    assert (await client.complete(asking("the colour of grass?"))).text == "from the list"


async def test_the_first_rule_that_matches_answers() -> None:
    client = ScriptedClient(rules=[("France", "first"), (re.compile(r"Fr\w+"), "second"), ("", "third")])
    assert (await client.complete(asking("France"))).text == "first"
    assert (await client.complete(asking("in Frankfurt"))).text == "second"
    assert (await client.complete(asking("Spain"))).text == "third"


async def test_a_rule_looks_at_the_last_message_only() -> None:
    client = ScriptedClient(["no rule"], {"brief": "a rule"})
    assert (await client.complete(asking("hello"))).text == "no rule"


async def test_an_answer_may_be_computed_with_or_without_await() -> None:
    async def shout(prompt: str) -> str:
        await anyio.lowlevel.checkpoint()
        return prompt.upper()

    async def count(messages: tuple[Message, ...]) -> str:
        return f"{len(messages)} messages"

    client = ScriptedClient([count, lambda messages: messages[0].role], {"loud": shout, "quiet": str.lower})
    assert (await client.complete(asking("loud"))).text == "LOUD"
    assert (await client.complete(asking("quiet PLEASE"))).text == "quiet please"
    assert (await client.complete(asking("?"))).text == "2 messages"
    assert (await client.complete(asking("?"))).text == "system"


async def test_an_exception_in_the_script_is_raised() -> None:
    refused = ClientError("refused", status=429)
    client = ScriptedClient([refused, "after it"], {"broken": OSError("no route")})
    with pytest.raises(ClientError) as raised:
        await client.complete(asking("?"))
    assert raised.value is refused
    assert (await client.complete(asking("?"))).text == "after it"
    with pytest.raises(OSError, match="no route"):
        await client.complete(asking("broken"))


async def test_an_exhausted_script_says_how_long_it_was_and_what_it_was_asked() -> None:
    client = ScriptedClient(["one", "two"], {"never": "asked"})
    for _ in range(2):
        await client.complete(asking("?"))
    with pytest.raises(ClientError) as raised:
        await client.complete(asking("x" * 300))
    assert "2 replies" in str(raised.value)
    assert "x" * 200 in str(raised.value)
    assert "x" * 201 not in str(raised.value)


async def test_every_call_is_recorded_also_one_that_fails() -> None:
    client = ScriptedClient(["one"])
    await client.complete(asking("first"))
    with pytest.raises(ClientError):
        await client.complete(asking("second"))
    assert client.calls == [tuple(asking("first")), tuple(asking("second"))]


async def test_tokens_are_estimated_at_four_characters() -> None:
    reply = await ScriptedClient(["12345"]).complete([Message("user", "1234"), Message("user", "1234")])
    assert (reply.input_tokens, reply.output_tokens, reply.estimated) == (2, 2, True)
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


async def test_tasks_at_once_share_the_replies_in_the_order_of_their_calls() -> None:
    client = ScriptedClient([str(number) for number in range(50)])
    texts: dict[int, str] = {}

    async def ask(number: int) -> None:
        texts[number] = (await client.complete(asking(str(number)))).text

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, number)
    assert [texts[int(call[-1].content)] for call in client.calls] == [str(number) for number in range(50)]


async def test_a_call_can_be_cancelled() -> None:
    client = ScriptedClient(["one"])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.complete(asking("?"))
    assert scope.cancelled_caught


def test_threads_never_get_the_same_reply() -> None:
    client = ScriptedClient([str(number) for number in range(100)])
    texts: list[str] = []

    async def ask() -> None:
        for _ in range(25):
            texts.append((await client.complete(asking("?"))).text)

    threads = [threading.Thread(target=partial(anyio.run, ask), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(texts, key=int) == [str(number) for number in range(100)]


@pytest.mark.parametrize("replies", ["one text", [None], [3]])
def test_a_script_that_is_none_is_refused_where_it_is_written(replies: object) -> None:
    with pytest.raises(TypeError):
        ScriptedClient(replies)  # type: ignore[arg-type]


async def test_a_callable_that_gives_no_text_is_named() -> None:
    client = ScriptedClient([lambda messages: None])  # type: ignore[list-item,return-value]
    with pytest.raises(TypeError, match="NoneType, not str"):
        await client.complete(asking("?"))


async def test_its_repr_shows_what_is_left() -> None:
    client = ScriptedClient(["one", "two"], {"a": "b"}, model="pretend")
    await client.complete(asking("?"))
    assert repr(client) == "ScriptedClient(model='pretend', calls=1, replies_left=1, rules=1)"
