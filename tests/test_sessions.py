"""Sessions: several questions over one sandbox, saved to a file and taken up again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, ClientError, Completion, Sandbox, ScriptedClient
from tests.processes import pid_of

pytestmark = pytest.mark.anyio


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def rlm(*replies: Any, **given: Any) -> tuple[RLM, ScriptedClient]:
    root = ScriptedClient(replies, model="root")
    return RLM(root, sub_model=ScriptedClient(rules={"": "sub"}, model="sub"), **given), root


def prompt(root: ScriptedClient, call: int) -> str:
    return root.calls[call][-1].content


@pytest.mark.both_backends
async def test_variables_of_one_question_are_there_in_the_next() -> None:
    runtime, root = rlm(
        repl("words = context.split()\nFINAL(len(words))"),
        repl("print(history)\nFINAL([words[0], len(history), history[0][1], context])"),
    )
    with anyio.fail_after(60):
        async with runtime.session(context="one two three") as session:
            first = await session.ask("How many words?")
            then = await session.ask("And the first?")
    assert first.response == 3
    assert then.response == ["one", 2, "How many words?", "one two three"]
    assert then.question == "And the first?"
    assert [(asked.question, asked.answer) for asked in session.questions] == [
        ("How many words?", "3"),
        ("And the first?", str(then.response)),
    ]
    told = prompt(root, 1)
    assert "And the first?" in told
    assert "1. How many words? -> 3" in told
    assert "`context` is a str of 13 characters" in told


async def test_the_context_is_loaded_once_and_put_back_when_a_cell_overwrites_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    load = Sandbox.load

    async def noted(sandbox: Sandbox, **variables: object) -> None:
        loaded.extend(variables)
        await load(sandbox, **variables)

    monkeypatch.setattr(Sandbox, "load", noted)
    runtime, _ = rlm(repl("context = 'mine'\nFINAL(1)"), repl("FINAL(len(context))"), repl("FINAL(len(context))"))
    with anyio.fail_after(60):
        async with runtime.session(context="x" * 100_000) as session:
            answers = [(await session.ask("How long?")).response for _ in range(3)]
    assert answers == [1, 100_000, 100_000]
    assert loaded == ["context", "rlm_chance", "history", "history"]


async def test_children_and_typed_answers_are_as_in_any_run() -> None:
    runtime, _ = rlm(
        repl("FINAL(rlm_query('And here?', 'left'))"),
        repl("FINAL(context)"),
        repl("FINAL('two')"),
        repl("FINAL(2)"),
    )
    with anyio.fail_after(60):
        async with runtime.session(context="abc") as session:
            assert (await session.ask("Which?")).response == "left"
            assert (await session.ask("How many?", output=int)).response == 2


async def test_a_sandbox_that_dies_between_two_questions_holds_the_context_again() -> None:
    runtime, _ = rlm(repl("mine = 1\nFINAL(1)"), repl("print(len(context))\nFINAL('mine' in dir())"))
    with anyio.fail_after(60):
        async with runtime.session(context="abc" * 1000) as session:
            await session.ask("First?")
            assert session._pool is not None
            assert session._pool.kept is not None
            os.kill(pid_of(session._pool.kept), 9)
            then = await session.ask("Then?")
    assert then.response is False
    assert then.trajectory[0].cells[0].output == "3000\n"


async def test_a_question_that_fails_leaves_the_session_as_it_was() -> None:
    runtime, _ = rlm(repl("x = 1\nFINAL(1)"), ClientError("down"), repl("FINAL(x)"))
    with anyio.fail_after(60):
        async with runtime.session(context="abc") as session:
            await session.ask("First?")
            with pytest.raises(ClientError):
                await session.ask("Fails?")
            assert (await session.ask("Again?")).response == 1
    assert [asked.question for asked in session.questions] == ["First?", "Again?"]


# --- saved and taken up --------------------------------------------------------------------------------------------


async def saved(path: Path) -> Completion:
    runtime, _ = rlm(repl("seen = [line for line in context.splitlines()]\nFINAL(seen[0])"))
    async with runtime.session(context="first\nsecond") as session:
        done = await session.ask("The first?")
        await session.save(path)
        return done


async def test_a_saved_session_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "session.checkpoint"
    runtime, root = rlm(repl("FINAL([seen[1], history[0][1], context])"))
    with anyio.fail_after(60):
        await saved(path)
        async with runtime.session(saved=path) as session:
            assert [asked.question for asked in session.questions] == ["The first?"]
            assert (await session.ask("And the second?")).response == ["second", "The first?", "first\nsecond"]
            await session.save(path)
    assert "str of 12 characters" in prompt(root, 0)
    assert "1. The first? -> first" in prompt(root, 0)
    runtime, _ = rlm(repl("FINAL(len(history))"))
    with anyio.fail_after(60):
        async with runtime.session(saved=path) as session:
            assert (await session.ask("How much was said?")).response == 4


async def test_what_is_no_saved_session_is_refused_and_leaves_nothing_running(tmp_path: Path) -> None:
    path = tmp_path / "plain.checkpoint"
    runtime, _ = rlm()
    async with Sandbox(options=runtime.sandbox) as sandbox:
        (await sandbox.checkpoint()).save(path)
    with anyio.fail_after(60):
        with pytest.raises(ValueError, match="not of a session"):
            async with runtime.session(saved=path):
                pass
        with pytest.raises(FileNotFoundError):
            async with runtime.session(saved=tmp_path / "none"):
                pass
        flipped = path.read_bytes()
        path.write_bytes(flipped[:5000] + bytes([flipped[5000] ^ 1]) + flipped[5001:])
        with pytest.raises(ValueError, match="cannot be restored: it is damaged"):
            async with runtime.session(saved=path):
                pass


async def test_a_session_says_what_is_wrong_with_how_it_is_used(tmp_path: Path) -> None:
    runtime, _ = rlm(repl("FINAL(1)"))
    session = runtime.session(context="abc")
    with pytest.raises(RuntimeError, match="not open"):
        await session.ask("Anything?")
    async with session:
        assert repr(session) == "<Session 0 questions>"
        with pytest.raises(ValueError, match="nothing was asked yet"):
            await session.save(tmp_path / "x")
        with pytest.raises(ValueError, match="the question is empty"):
            await session.ask(" ")
    assert repr(session) == "<Session closed>"
