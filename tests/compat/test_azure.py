"""The door of rlm-on-azure: what its article shows as the entry runs, with its steps and its counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import Limits, ScriptedClient
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.compat.azure import Answer, CallCounter, Repl, Step, create_root_session_with_tool

pytestmark = pytest.mark.anyio

CORPUS = "## One\nfigs\n## Two\nplums\n"
MESSAGE = "Query: Which fruits?\n\nUse the run_python tool to analyze the `context` variable and answer this query."


async def send(replies: list[Any], *given: Any, system: str | None = None, repl: Any = None, **more: Any) -> Answer:
    root = ScriptedClient(replies, model="root")
    with anyio.fail_after(60):
        session = await create_root_session_with_tool(system, repl or Repl(CORPUS), *given, model=root, **more)
        answer = await session.send(MESSAGE)
    assert root.calls[0][1].content.startswith(MESSAGE)
    return answer


async def test_the_loop_of_the_article_runs_with_its_steps_and_its_counter() -> None:
    steps: list[Step] = []
    counter = CallCounter()
    split = (
        "import re\nsections = re.split(r'^## ', context, flags=re.M)[1:]\nbuffers = []\n"
        "for section in sections:\n"
        "    title = section.split('\\n', 1)[0]\n"
        "    answer = rlm_query(f'What is in {title}?', sub_context=section[:8000])\n"
        "    buffers.append(f'{title}: {answer}')\n"
        "used_sections.append('figs')"
    )
    child = run_python("Final = context.split()[-1]")
    final = run_python("Final = '; '.join(buffers)")
    answer = await send([split_it := run_python(split), child, child, final], steps.append, counter, 5)
    assert split_it.calls[0].code == split
    assert (answer.content, answer.final) == ("One: figs; Two: plums", "One: figs; Two: plums")
    assert answer.used_sections == ("figs",)
    assert answer.completion.citations[0].found
    assert counter.count == answer.completion.usage.calls == 4
    assert [(step.stage, step.depth, step.iteration) for step in steps] == [
        ("INIT", 0, 0),
        ("INIT", 1, 0),
        ("CODE", 1, 1),
        ("INIT", 1, 0),
        ("CODE", 1, 1),
        ("CODE", 0, 1),
        ("CODE", 0, 2),
    ]
    assert steps[5].code == split


async def test_calls_of_sub_models_are_counted_and_a_counter_serves_several_sessions() -> None:
    counter = CallCounter()
    sub = ScriptedClient(rules={"": "yes"}, model="sub")
    for number in (1, 2):
        answer = await send([run_python("Final = llm_query('?')")], None, counter, sub_model=sub)
        assert (answer.content, counter.count) == ("yes", 2 * number)
    assert repr(counter) == "<CallCounter 4>"


async def test_the_iteration_limit_ends_a_question_with_the_best_answer() -> None:
    answer = await send([run_python("1 / 0"), "Perhaps figs."], None, None, 1, limits=Limits(calls=9))
    assert (answer.content, answer.completion.stopped_by) == ("Perhaps figs.", "iterations")
    answer = await send([run_python("1 / 0"), run_python("2 / 0")], None, None, 1)
    assert (answer.content, answer.final) == ("", None)


async def test_a_system_prompt_is_said_word_for_word_and_a_corpus_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(CORPUS)
    root = ScriptedClient([run_python("Final = len(context)")])
    with anyio.fail_after(60):
        session = await create_root_session_with_tool("Be {brief}.", Repl(tmp_path / "corpus.txt"), model=root)
        answer = await session.send("Query: How long?")
    assert answer.final == len(CORPUS)
    assert root.calls[0][0].content == "Be {brief}."
    assert "RootSession over <RLM" in repr(session)
