"""The MCP server, asked by the package's own client, with a scripted model behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from rlm_wasm import RLM, Limits, ScriptedClient
from rlm_wasm.errors import ClientError
from rlm_wasm.integrations.mcp import Shelf, server

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("Ada signed.\n" * 1000)
    (folder / "deep" / "b.txt").write_text("Bob did not.\n")
    return folder


Connect = Callable[..., Client]


@pytest.fixture
def connect(corpus: Path) -> Connect:
    def client(*replies: Any, **options: Any) -> Client:
        return Client(server(RLM(ScriptedClient(replies), **options), Shelf([corpus])))

    return client


async def call(client: Client, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
    with anyio.fail_after(60):
        result = await client.call_tool(name, arguments, **options)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Client, name: str, arguments: dict[str, Any]) -> str:
    with anyio.fail_after(60):
        result = await client.call_tool(name, arguments)
    assert result.is_error
    return result.content[0].text  # pyright: ignore[reportAttributeAccessIssue]


async def test_the_tools_are_offered_with_what_they_take(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"list_files", "load", "ask", "cancel"}
    assert list(tools["ask"].input_schema["properties"]) == ["question"]
    assert all(tool.description for tool in tools.values())


async def test_a_question_is_about_all_files_until_some_are_loaded(connect: Connect) -> None:
    async with connect(repl("FINAL(sorted(context))"), repl("FINAL({'chars': len(context)})")) as client:
        listed = await call(client, "list_files")
        assert listed["files"] == [{"name": "a.txt", "bytes": 12000}, {"name": "deep/b.txt", "bytes": 13}]
        done = await call(client, "ask", {"question": "Which files are there?"})
        assert done["answer"] == ["a.txt", "deep/b.txt"]
        assert (done["stopped_by"], done["iterations"]) == ("final", 1)
        assert "12,000 characters" in (await call(client, "load", {"names": ["a.txt"]}))["result"]
        done = await call(client, "ask", {"question": "How long is it?"})
        assert done["answer"] == {"chars": 12000}


async def test_progress_is_told_while_it_goes(connect: Connect) -> None:
    told: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async with connect(repl("print('looked at it')"), repl("FINAL(1)")) as client:
        await call(client, "ask", {"question": "How many?"}, progress_callback=hear)
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert any("looked at it" in (message or "") for _, message in told)


async def test_nothing_but_the_named_files_can_be_loaded(connect: Connect, corpus: Path) -> None:
    (corpus.parent / "secret.txt").write_text("secret")
    (corpus / "link.txt").symlink_to(corpus.parent / "secret.txt")
    async with connect() as client:
        assert [file["name"] for file in (await call(client, "list_files"))["files"]] == ["a.txt", "deep/b.txt"]
        for name in ("../secret.txt", str(corpus.parent / "secret.txt"), "link.txt", "deep", "", "deep/../a.txt"):
            assert "there is no file" in await refused(client, "load", {"names": [name]})
        assert "no file was named" in await refused(client, "load", {"names": []})


async def test_cancel_ends_what_is_under_way(connect: Connect) -> None:
    began, results = anyio.Event(), list[Any]()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if "code" in (message or ""):
            began.set()

    async with connect(repl("while True: pass")) as client:
        assert await call(client, "cancel") == {"cancelled": 0}

        async def ask() -> None:
            results.append(await call(client, "ask", {"question": "?"}, progress_callback=hear))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(60):
                await began.wait()
            assert await call(client, "cancel") == {"cancelled": 1}
    assert results[0]["stopped_by"] == "cancelled"


async def test_a_client_that_gives_up_its_question_ends_the_run(corpus: Path) -> None:
    asked, cancelled = anyio.Event(), anyio.Event()

    class Slow:
        model = "slow"

        async def complete(self, messages: object, *, max_output_tokens: int | None = None) -> Any:
            asked.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    async with Client(server(RLM(Slow()), Shelf([corpus]))) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "ask", {"question": "?"})
            with anyio.fail_after(60):
                await asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            await cancelled.wait()


async def test_failures_are_told_without_keys_and_the_server_goes_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "hidden-thing-123456")
    async with connect(ClientError("bad key hidden-thing-123456", status=401), repl("FINAL(2)")) as client:
        said = await refused(client, "ask", {"question": "?"})
        assert "bad key" in said
        assert "hidden-thing" not in said
        assert "question is empty" in await refused(client, "ask", {"question": " "})
        assert (await call(client, "ask", {"question": "?"}))["answer"] == 2


async def test_a_limit_is_told_with_the_best_that_there_was(connect: Connect) -> None:
    async with connect(*[repl("print(1)")] * 3, limits=Limits(iterations=1)) as client:
        assert (await call(client, "ask", {"question": "?"}))["stopped_by"] == "iterations"


def test_shelves_that_cannot_be_are_the_callers_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="missing"):
        Shelf([tmp_path / "missing"])
    with pytest.raises(ValueError, match="no files"):
        Shelf([tmp_path / "empty"])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="two files have the name"):
        Shelf([tmp_path / "a.txt", corpus / "a.txt"])
    assert [file["name"] for file in Shelf([corpus, tmp_path / "a.txt"]).listed()] == [
        "corpus/a.txt",
        "corpus/deep/b.txt",
        "a.txt",
    ]
