"""CachedClient: what makes two calls the same, what is kept, who asks when many do, and files that are no cache."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from rlm_wasm.clients import CachedClient, Message, Reply, ScriptedClient, cached
from rlm_wasm.errors import ClientError
from rlm_wasm.limits import Budget, Limits
from rlm_wasm.prices import Price
from rlm_wasm.prompts import RUN_PYTHON, Tool, ToolCall

pytestmark = [pytest.mark.anyio, pytest.mark.both_backends]

HELLO = [Message("system", "You are brief."), Message("user", "hello")]
CALLS = (ToolCall("call_1", "a\ud800b"), ToolCall("call_2", "2", signature="ä"))


class SlowClient:
    """Holds every call until `released`, then answers with the number of the call; the first `failing` fail."""

    def __init__(self, failing: int = 0) -> None:
        self.model = "slow"
        self.asked = 0
        self.cancelled = 0
        self.failing = failing
        self.begun = anyio.Event()
        self.released = anyio.Event()

    async def complete(self, messages: Any, *, max_output_tokens: int | None = None) -> Reply:
        self.asked += 1
        number = self.asked
        self.begun.set()
        try:
            await self.released.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        if number <= self.failing:
            raise ClientError("slow and wrong", status=429, retry_after=3.0)
        return Reply(f"answer {number}", 100, 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replies.sqlite"


async def test_the_second_of_two_equal_calls_is_not_asked_and_costs_no_tokens(path: Path) -> None:
    inner = ScriptedClient(["once"])
    async with CachedClient(inner, path) as client:
        first = await client.complete(HELLO)
        second = await client.complete(tuple(HELLO))
    assert (first.text, first.cached, first.output_tokens) == ("once", False, 1)
    assert second == Reply("once", 0, 0, cached=True)
    assert len(inner.calls) == 1


async def test_a_reply_is_kept_after_the_file_is_closed(path: Path) -> None:
    async with CachedClient(ScriptedClient(["kept"]), path) as client:
        await client.complete(HELLO)
    async with CachedClient(ScriptedClient(), path) as client:
        assert (await client.complete(HELLO)).text == "kept"


async def test_a_closed_client_opens_again(path: Path) -> None:
    client = CachedClient(ScriptedClient(["kept"]), path)
    await client.aclose()
    await client.complete(HELLO)
    await client.aclose()
    await client.aclose()
    assert (await client.complete(HELLO)).cached
    await client.aclose()


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"messages": [HELLO[0], Message("user", "hello ")]},
        {"messages": [Message("user", "You are brief."), Message("user", "hello")]},
        {"messages": [HELLO[0], Message("user", "hel"), Message("user", "lo")]},
        {"messages": HELLO[1:]},
        {"max_output_tokens": 5},
        {"parameters": {"temperature": 1}},
        {"tool": RUN_PYTHON},
        {"messages": [HELLO[0], msgspec.structs.replace(HELLO[1], calls=CALLS)]},
        {"messages": [HELLO[0], msgspec.structs.replace(HELLO[1], answers="call_1")]},
    ],
    ids=str,
)
async def test_calls_that_differ_in_anything_are_two(path: Path, other: dict[str, Any]) -> None:
    asked = {"model": "scripted", "messages": HELLO, "max_output_tokens": None, "parameters": None, "tool": None}
    for number, call in enumerate([asked, asked | other]):
        inner = ScriptedClient([f"answer {number}"], model=call["model"])
        async with CachedClient(inner, path, parameters=call["parameters"]) as client:
            limit, tool = call["max_output_tokens"], call["tool"]
            reply = await client.complete(call["messages"], max_output_tokens=limit, tool=tool)
        assert reply.text == f"answer {number}"


@pytest.mark.parametrize(
    "other",
    [
        {"tool": Tool("run_python", "Runs.")},
        {"tool": Tool("run", RUN_PYTHON.description)},
        {"calls": ()},
        {"calls": CALLS[:1]},
        {"calls": CALLS[::-1]},
        {"calls": (ToolCall("call_1", "a\udcffb"), *CALLS[1:])},
        {"calls": (ToolCall("call_9", CALLS[0].code), *CALLS[1:])},
        {"calls": (msgspec.structs.replace(CALLS[0], signature="another"), *CALLS[1:])},
        {"answers": "call_2"},
    ],
    ids=str,
)
async def test_calls_that_differ_in_anything_about_tools_are_two(path: Path, other: dict[str, Any]) -> None:
    asked = {"tool": RUN_PYTHON, "calls": CALLS, "answers": "call_1"}
    for number, call in enumerate([asked, asked | other]):
        async with CachedClient(ScriptedClient([f"answer {number}"]), path) as client:
            talk = [Message("assistant", "", calls=call["calls"]), Message("tool", "1", answers=call["answers"])]
            assert (await client.complete(talk, tool=call["tool"])).text == f"answer {number}"


async def test_the_calls_in_a_reply_are_kept_and_restored(path: Path) -> None:
    async with CachedClient(ScriptedClient([Reply("", 5, 5, calls=CALLS), Reply("hi", 5, 5)]), path) as client:
        await client.complete(HELLO, tool=RUN_PYTHON)
        await client.complete(HELLO)
    async with CachedClient(ScriptedClient(), path) as client:
        assert await client.complete(HELLO, tool=RUN_PYTHON) == Reply("", 0, 0, cached=True, calls=CALLS)
        assert await client.complete(HELLO) == Reply("hi", 0, 0, cached=True)


async def test_a_file_from_before_there_were_tools_is_read_and_written(path: Path) -> None:
    async with CachedClient(ScriptedClient(["old"]), path) as client:
        await client.complete(HELLO)
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE replies DROP COLUMN calls")
    connection.close()
    async with CachedClient(ScriptedClient([Reply("", 5, 5, calls=CALLS)]), path) as client:
        assert (await client.complete(HELLO)).text == "old"
        await client.complete(HELLO, tool=RUN_PYTHON)
        assert (await client.complete(HELLO, tool=RUN_PYTHON)).calls == CALLS


def test_the_key_of_a_call_without_tools_is_what_it_was_before_there_were_any() -> None:
    key = "68caff0487d154c5f8f7aa8999662c881d5c77851d3c890886d25d7c8ce0b5db"
    assert cached._key("scripted", HELLO, 5, "null", None).hex() == key


@pytest.mark.parametrize("calls", ["no JSON", "[1]", '[{"id": "a"}]', '[{"id": "a", "code": 1}]'])
async def test_calls_in_the_file_that_are_none_are_told_with_what_to_do(path: Path, calls: str) -> None:
    async with CachedClient(ScriptedClient([Reply("", 5, 5, calls=CALLS)]), path) as client:
        await client.complete(HELLO)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE replies SET calls = ?", (calls,))
    connection.commit()
    connection.close()
    assert "delete it" in await failure_of(path)


async def test_the_order_of_the_parameters_does_not_matter(path: Path) -> None:
    async with CachedClient(ScriptedClient(["kept"]), path, parameters={"a": 1, "b": [2]}) as client:
        await client.complete(HELLO)
    async with CachedClient(ScriptedClient(), path, parameters={"b": [2], "a": 1}) as client:
        assert (await client.complete(HELLO)).cached


def test_parameters_that_are_not_json_like_are_refused(path: Path) -> None:
    with pytest.raises(TypeError):
        CachedClient(ScriptedClient(), path, parameters={"stop": {"a", "b"}})


async def test_an_error_is_not_kept(path: Path) -> None:
    async with CachedClient(ScriptedClient([ClientError("no", status=500), "yes"]), path) as client:
        with pytest.raises(ClientError, match="no"):
            await client.complete(HELLO)
        assert (await client.complete(HELLO)).text == "yes"


async def test_any_text_comes_back_as_it_was(path: Path) -> None:
    text = "lone \ud800, none \x00, far \U0001f600, line\r\n"
    async with CachedClient(ScriptedClient([text, "two"]), path) as client:
        for _ in range(2):
            assert (await client.complete([Message("user", "\ud83d\ude00")])).text == text
        assert (await client.complete([Message("user", "\U0001f600")])).text == "two"


async def test_a_reply_from_the_file_costs_the_budget_nothing(path: Path) -> None:
    async with CachedClient(ScriptedClient(["kept"]), path) as client:
        await client.complete(HELLO)
        budget = Budget(Limits(), prices={"scripted": Price(1.0, 1.0)})
        reply = await client.complete(HELLO)
        with budget.reserve("scripted", prompt_chars=19, inside=True) as reservation:
            took = reservation.settle(reply.input_tokens, reply.output_tokens, estimated=reply.estimated)
    assert (took.calls, took.tokens, took.usd) == (1, 0, 0.0)


# Many at once


async def test_equal_calls_at_once_ask_once(path: Path) -> None:
    inner = SlowClient()
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await client.complete(HELLO))

    with anyio.fail_after(30):
        async with CachedClient(inner, path) as client, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
            await inner.begun.wait()
            await anyio.wait_all_tasks_blocked()
            inner.released.set()
    assert inner.asked == 1
    assert {reply.text for reply in replies} == {"answer 1"}
    assert sorted(reply.cached for reply in replies) == [False] + [True] * 19
    assert sum(reply.input_tokens for reply in replies) == 100


async def test_a_leader_that_is_cancelled_is_followed_by_the_next(path: Path) -> None:
    inner = SlowClient()
    replies: list[Reply] = []
    leading = anyio.CancelScope()

    async def lead() -> None:
        with leading:
            await client.complete(HELLO)

    async def follow() -> None:
        replies.append(await client.complete(HELLO))

    with anyio.fail_after(30):
        async with CachedClient(inner, path) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            await inner.begun.wait()
            for _ in range(5):
                tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            inner.begun = anyio.Event()
            leading.cancel()
            await inner.begun.wait()
            inner.released.set()
    assert (inner.asked, inner.cancelled) == (2, 1)
    assert [reply.text for reply in replies] == ["answer 2"] * 5


async def test_a_leader_that_fails_fails_the_others_with_the_same_words(path: Path) -> None:
    inner = SlowClient(failing=1)
    errors: list[ClientError] = []

    async def ask() -> None:
        with pytest.raises(ClientError) as raised:
            await client.complete(HELLO)
        errors.append(raised.value)

    with anyio.fail_after(30):
        async with CachedClient(inner, path) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)
                await inner.begun.wait()
                await anyio.wait_all_tasks_blocked()
                inner.released.set()
            told = [(str(error), error.status, error.transient, error.retry_after) for error in errors]
            assert told == [("slow and wrong", 429, True, 3.0)] * 5
            assert len({id(error) for error in errors}) == 5
            assert (await client.complete(HELLO)).text == "answer 2"


def test_threads_share_one_file(path: Path) -> None:
    inner = ScriptedClient(rules={"": lambda prompt: f"echo {prompt}"})
    client = CachedClient(inner, path)
    wrong: list[str] = []

    async def ask() -> None:
        for number in range(20):
            reply = await client.complete([Message("user", str(number))])
            if reply.text != f"echo {number}":
                wrong.append(reply.text)

    threads = [threading.Thread(target=partial(anyio.run, ask), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    anyio.run(client.aclose)
    assert wrong == []
    assert kept(path) == 20


PROGRAM = """
import sys, warnings, anyio
from rlm_wasm.clients import CachedClient, Message, ScriptedClient

warnings.simplefilter("error")

async def main():
    inner = ScriptedClient(rules={"": lambda prompt: f"echo {prompt}"})
    async with CachedClient(inner, sys.argv[1]) as client:
        sys.stdin.readline()
        for number in range(30):
            reply = await client.complete([Message("user", str(number))])
            assert reply.text == f"echo {number}"

anyio.run(main)
"""


def test_processes_share_one_file_from_its_making_on(path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, complaint = process.communicate(timeout=60)
        assert (process.returncode, complaint) == (0, "")
    assert kept(path) == 30


# Files that are no cache


def overwrite(path: Path, start: int, raw: bytes) -> None:
    head = read(path)[:start] if start else b""
    path.write_bytes(head + raw)


def read(path: Path) -> bytes:
    return path.read_bytes()


async def failure_of(path: Path) -> str:
    inner = ScriptedClient(["never asked"])
    async with CachedClient(inner, path) as client:
        with pytest.raises(ClientError) as raised:
            await client.complete(HELLO)
    assert inner.calls == []
    return str(raised.value)


async def test_a_file_that_is_no_database_is_told_with_what_to_do(path: Path) -> None:
    overwrite(path, 0, b"this is no database at all " * 100)
    message = await failure_of(path)
    assert "is damaged" in message
    assert "delete it" in message
    assert read(path).startswith(b"this is no database")


async def test_a_file_with_a_hole_in_it_is_told_with_what_to_do(path: Path) -> None:
    async with CachedClient(ScriptedClient(["a reply"]), path) as client:
        await client.complete(HELLO)
    overwrite(path, 4096, b"\xff" * (len(read(path)) - 4096))
    assert "delete it" in await failure_of(path)


async def test_a_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE accounts (name)")
    connection.commit()
    before = read(path)
    assert "another program's" in await failure_of(path)
    connection.close()
    assert read(path) == before


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "cannot be used (unable to open database file)" in await failure_of(tmp_path / "missing" / "file")


async def test_a_reply_that_cannot_be_kept_is_handed_back_with_a_warning(path: Path) -> None:
    async with CachedClient(ScriptedClient(["paid for"]), path) as client:
        async with CachedClient(ScriptedClient(["makes the file"]), path) as other:
            await other.complete([Message("user", "another")])
        connection = sqlite3.connect(path)
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        connection.close()
        with pytest.warns(RuntimeWarning, match="disk full"):
            reply = await client.complete(HELLO)
    assert reply.text == "paid for"


async def test_its_repr_shows_what_it_wraps_and_where(path: Path) -> None:
    client = CachedClient(ScriptedClient(["a"]), path)
    assert repr(client) == f"CachedClient({ScriptedClient(['a'])!r}, {str(path)!r})"


def kept(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM replies").fetchone()[0]
    finally:
        connection.close()
