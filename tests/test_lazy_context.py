"""Runs over files that stay on the host: what cells see of them, and what becomes of it when things go wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from rlm_wasm import RLM, Checkpoints, Completion, Limits, Message, Reply, Router, ScriptedClient, contexts
from rlm_wasm.corpora import Corpus
from rlm_wasm.errors import ClientError
from rlm_wasm.trace.replay import replay

pytestmark = pytest.mark.anyio

DEADLY = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of 2.5 MB, a short note, and one with a byte that is not UTF-8."""
    made = tmp_path / "corpus"
    made.mkdir()
    lines = [f"line {number}: all is well\n" for number in range(100_000)]
    lines[77_000] = "line 77000: the NEEDLE is here\n"
    (made / "a.log").write_text("".join(lines))
    (made / "b.txt").write_text("für alle\r\nund keinen")
    (made / "c.txt").write_bytes(b"abc\xffdef\n")
    return made


async def ran(context: object, *cells: str, lazy: bool | None = True, **given: Any) -> Completion:
    """A run of the cells over a context."""
    client = ScriptedClient([f"```repl\n{cell}\n```" for cell in cells])
    rlm = RLM(client, sub_model=ScriptedClient(rules=[("", "yes")]), **given)
    with anyio.fail_after(90):
        return await rlm.acompletion("What?", context=context, lazy=lazy)


def held_open(folder: Path) -> list[str]:
    """The names of the folder's files that this process holds open."""
    opened = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return [link.readlink().name for link in opened if link.is_symlink() and link.readlink().parent == folder]


def errors_of(done: Completion) -> list[str | None]:
    return [cell.error for iteration in done.trajectory for cell in iteration.cells]


async def test_a_cell_reads_cuts_and_searches_what_is_not_in_its_memory(folder: Path) -> None:
    cell = """
found = context.grep(r"needle", ignore_case=True, context_lines=1)
log = context["a.log"]
FINAL([
    repr(context), len(context), context.size == sum(len(one) for one in context.documents.values()),
    context[5:11], context["b.txt"][:4], context["b.txt"][2:], log.tail(12),
    list(context.documents), found, repr(log.grep("all", limit=1)), log.grep("all", limit=2).more,
    len(context.grep("line 1.*well", limit=None)), log.find("NEEDLE"), context.find("nowhere"), "NEEDLE" in context,
    context.count("line"), log.count(r"\\d7:", regex=True), sum(1 for line in context["a.log"]),
    list(context["b.txt"].lines()), len(list(log.chunk(1_000_000, overlap=10))), len(log.sample(5)),
])
"""
    done = await ran(folder, cell)
    (text, size, same, part, half, rest, tail, names, found, shown, more, many, *others) = done.response
    assert (text, size, same) == (f"<Corpus of {size:,} bytes in 3 documents>", size, True)
    assert (part, half, rest, tail) == ("0: all", "für", "r alle\r\nund keinen", "all is well\n")
    assert names == ["a.log", "b.txt", "c.txt"]
    assert found == [
        (1_836_906, 77_001, "line 76999: all is well\nline 77000: the NEEDLE is here\nline 77001: all is well", "a.log")
    ]
    assert shown == "8: line 0: all is well\n(there may be more: go on with start=20)"
    assert (more, many) == (40, 11_111)
    assert others == [1_836_906, -1, True, 100_000, 9_999, 100_000, ["für alle\r", "und keinen"], 3, 5]


async def test_what_would_be_all_of_the_text_is_an_error_that_says_what_to_do(folder: Path) -> None:
    cells = ["print(context)", "f'{context}'", "context.split()", "context.grep('(')", "context[::2]", "FINAL(1)"]
    done = await ran(folder, *cells)
    said = [
        *("cannot become one str. Take parts: context[a:b]", "Take parts", "is no str and has no 'split': it has find"),
        *("unclosed group", "no step"),
    ]
    for error, words in zip(errors_of(done), said, strict=False):
        assert error is not None
        assert words in error
    # what the model sees names no path and no function that it does not know
    assert str(folder) not in str(errors_of(done))
    assert "_corpus: " not in str(errors_of(done))


async def test_a_byte_that_is_not_utf_8_is_an_error_and_the_run_goes_on(folder: Path) -> None:
    done = await ran(
        folder,
        "kept = 1\nlist(context.lines())",
        "context.errors = 'replace'\nFINAL([kept, context['c.txt'][:], context['c.txt'].grep('def')[0].text])",
    )
    assert "byte 0xff at offset 2,388,921 ('c.txt') is not UTF-8: set context.errors" in str(errors_of(done)[0])
    assert done.response == [1, "abc\ufffddef\n", "abc\ufffddef"]


async def test_a_file_that_changes_or_vanishes_is_an_error_and_the_rest_can_be_read(folder: Path) -> None:
    def meddle() -> None:
        (folder / "a.log").write_text("new")

    done = await ran(
        folder,
        "first = context[:4]\nmeddle()\ncontext.count('line')",
        "context['a.log'][:3]",
        "note = context['b.txt'].head(4)\ncontext.reopen()\nFINAL([first, note, context['a.log'][:], len(context)])",
        functions={"meddle": meddle},
    )
    assert "'a.log' has changed since it became known" in str(errors_of(done)[0])
    assert "it had 2,388,897 bytes and has 3 now" in str(errors_of(done)[1])
    assert done.response == ["line", "für", "new", 3 + 21 + 8]


async def test_a_child_gets_all_of_it_or_a_file_of_it_and_not_its_text(folder: Path) -> None:
    replies = [
        "```repl\na = rlm_query('whole', context=context)\nb = rlm_query('part', context['b.txt'])\nFINAL([a, b])\n```",
        "```repl\nFINAL([context.size, list(context.documents)])\n```",
        "```repl\nFINAL([context.size, context[:4], context['b.txt'].find('und')])\n```",
    ]
    rlm = RLM(ScriptedClient(replies), limits=Limits(depth=1))
    with anyio.fail_after(90):
        done = await rlm.acompletion("What?", context=folder, lazy=True)
    assert done.response == [[2_388_926, ["a.log", "b.txt", "c.txt"]], [21, "für", 11]]


async def test_where_no_child_can_be_had_it_is_refused_and_no_model_asked(folder: Path) -> None:
    done = await ran(folder, "rlm_query('whole', context)", "FINAL(1)", limits=Limits(depth=0))
    assert "a sub model cannot read 2,388,926 bytes: find the parts that matter" in str(errors_of(done)[0])
    assert done.usage.calls == 2


async def test_a_sandbox_that_is_lost_comes_back_with_what_cells_had_read(folder: Path) -> None:
    cells = ["n = context.count('line')\nhead = context.head(4)", DEADLY, "FINAL([n, head, context.find('NEEDLE')])"]
    done = await ran(folder, *cells, checkpoints=None)
    assert done.response == [100_000, "line", 1_836_906]


async def test_a_run_with_no_time_left_ends_in_the_middle_of_a_search(folder: Path) -> None:
    with (folder / "large").open("wb") as file:
        # data and no hole, so that there is something to read
        file.write(b"x\n" * 50_000_000)
    cell = "while True: context.count('[a-z]?x$', regex=True)"
    done = await ran(folder, cell, limits=Limits(seconds=3))
    assert done.stopped_by == "seconds"


async def test_large_files_stay_on_the_host_by_themselves_and_anything_is_loaded_if_that_is_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(contexts.prepare(folder / "b.txt").value, str)
    monkeypatch.setattr(contexts, "_LAZY_FROM", 1000)
    described = contexts.prepare(folder).description
    assert described.startswith("`context` is a text of 2,388,926 bytes in 3 files ('a.log', 'b.txt', 'c.txt')")
    assert "context.grep(" in described
    assert isinstance(contexts.prepare([folder / "a.log", folder / "b.txt"]).value, Corpus)
    assert isinstance(contexts.prepare(folder / "a.log", lazy=False).value, str)
    assert isinstance(contexts.prepare("x" * 2000).value, str)
    with pytest.raises(ValueError, match="lazy=True is for files"):
        contexts.prepare("text", lazy=True)


class Dying(ScriptedClient):
    """Fails at its second reply."""

    async def complete(self, messages: Sequence[Message], **given: Any) -> Reply:
        if len(messages) > 2:
            raise ClientError("away")
        return await super().complete(messages, **given)


async def test_a_run_that_is_kept_goes_on_over_the_same_files(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    beginning = Dying(["```repl\nn = context.find('NEEDLE')\n```"], model="model")
    with anyio.fail_after(60), pytest.raises(ClientError):
        await RLM(beginning, store=store, checkpoints=Checkpoints(cells=1)).acompletion("?", context=folder, lazy=True)
    [run] = os.listdir(store)
    going_on = RLM(ScriptedClient(["```repl\nFINAL([n, context[:4]])\n```"], model="model"), store=store)
    with anyio.fail_after(60):
        assert (await going_on.resume(run)).response == [1_836_906, "line"]


async def test_a_replay_reads_the_same_files_again(folder: Path) -> None:
    done = await ran(folder, "print(context.grep('NEEDLE'))", "FINAL(context.count('all'))")
    with anyio.fail_after(60):
        again = await replay(done.trajectory.events, context=folder)
        assert again.difference is None
        (folder / "b.txt").write_text("another text")
        with pytest.raises(ValueError, match="is not the one of the recorded run"):
            await replay(done.trajectory.events, context=folder)


async def test_a_session_over_it_asks_on_and_is_not_saved(folder: Path, tmp_path: Path) -> None:
    rlm = RLM(
        ScriptedClient(["```repl\nn = context.find('all')\nFINAL(n)\n```", "```repl\nFINAL(context[n:n + 3])\n```"])
    )
    with anyio.fail_after(60):
        async with rlm.session(context=folder, lazy=True) as session:
            assert (await session.ask("Where?")).response == 8
            assert (await session.ask("What?")).response == "all"
            with pytest.raises(ValueError, match="stays on the host"):
                await session.save(tmp_path / "session")


async def test_a_session_closes_what_it_has_opened_and_not_what_it_was_given(folder: Path) -> None:
    def rlm() -> RLM:
        return RLM(ScriptedClient(["```repl\nFINAL(context.find('all'))\n```"]))

    with anyio.fail_after(60), Corpus.open(folder) as corpus:
        for given, kept in ((folder, False), (corpus, True)):
            async with rlm().session(context=given, lazy=True) as session:
                assert (await session.ask("Where?")).response == 8
                assert "a.log" in held_open(folder)
            assert ("a.log" in held_open(folder)) is kept


async def test_a_router_closes_what_it_has_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "lazy_from", lambda: 1_000_000)
    seen: list[str] = []
    rlm = RLM(
        ScriptedClient(["```repl\nFINAL([context.find('all'), look()])\n```"]),
        functions={"look": lambda: seen.extend(held_open(folder))},
    )
    with anyio.fail_after(60):
        routed = await Router(rlm).acompletion("Where?", context=folder)
    assert (routed.route, routed.response) == ("rlm", [8, None])
    assert ("a.log" in seen, held_open(folder)) == (True, [])


async def test_a_router_never_puts_it_into_a_prompt(folder: Path) -> None:
    rlm = RLM(ScriptedClient(["```repl\nFINAL(context[:4])\n```"]))
    with anyio.fail_after(60), Corpus.open(folder / "b.txt") as corpus:
        routed = await Router(rlm, threshold_chars=8000).acompletion("What?", context=corpus)
    assert (routed.route, routed.response) == ("rlm", "für")


async def test_what_goes_on_from_an_iteration_reads_the_same_files(folder: Path) -> None:
    done = await ran(folder, "n = context.find('NEEDLE')", "FINAL(n)")
    with anyio.fail_after(60):
        async with done.trajectory[0].fork() as sandbox:
            assert (await sandbox.execute("context[n:n + 6], context.count('all')")).value == ("NEEDLE", 100_000)
        other = RLM(ScriptedClient(["```repl\nFINAL(context[n:n + 6])\n```"]))
        assert (await other.branch(done.trajectory[0])).response == "NEEDLE"
