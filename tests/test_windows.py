"""Prompts and conversations held to the models' windows, with scripted models and the real sandbox."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import RLM, ClientError, Completion, Cutting, Limits, Message, Reply, ScriptedClient, windows
from rlm_wasm.clients.scripted import run_python
from rlm_wasm.conversation import Conversation
from rlm_wasm.dialects import HOUSE
from rlm_wasm.events import Event, HistoryShortened
from rlm_wasm.parsing import Parsed
from rlm_wasm.prompts import ToolCall
from rlm_wasm.windows import Exchange, Window, count_tokens, cut, drop, shrink, surely_fits

pytestmark = pytest.mark.anyio

FULL = ClientError("the prompt does not fit the context window of 'root'", status=400)
SUMMARIZE = "Write the summary"


@pytest.fixture(autouse=True)
def _without_tiktoken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether it is installed here must not matter; None in sys.modules makes an import fail."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    windows._encoding.cache_clear()
    yield
    windows._encoding.cache_clear()


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


async def ask(root: ScriptedClient, sub: ScriptedClient | None = None, **given: Any) -> Completion:
    sub = sub or ScriptedClient(rules={"": "said"}, model="sub")
    with anyio.fail_after(120):
        return await RLM(root, sub_model=sub, **given).acompletion("How many?", context="the context")


# --- counting and cutting --------------------------------------------------------------------------------------------


class Words:
    """Stands for one of tiktoken's encodings: a token is a word with the space that follows it."""

    def encode_ordinary(self, text: str) -> list[str]:
        return text.split(" ")

    def decode(self, tokens: list[str]) -> str:
        return " ".join(tokens)


@pytest.fixture
def tiktoken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A tiktoken that knows one model, with a cache folder that has no file yet."""

    def encoding_name_for_model(model: str) -> str:
        return {"gpt-5-mini": "o200k_base", "gpt-4": "cl100k_base"}[model]

    asked: list[str] = []

    def get_encoding(name: str) -> Words:
        asked.append(name)
        return Words()

    module = SimpleNamespace(encoding_name_for_model=encoding_name_for_model, get_encoding=get_encoding, asked=asked)
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return module


def put_file(folder: Path, encoding: str) -> None:
    address = f"https://openaipublic.blob.core.windows.net/encodings/{encoding}.tiktoken"
    (folder / hashlib.sha1(address.encode()).hexdigest()).write_text("")


def test_without_tiktoken_four_characters_are_a_token() -> None:
    assert [count_tokens("x" * length, "gpt-5-mini") for length in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_tiktoken_counts_where_it_has_its_files_and_an_unknown_model_as_most(
    tiktoken: SimpleNamespace, tmp_path: Path
) -> None:
    put_file(tmp_path, "o200k_base")
    assert count_tokens("one two three", "gpt-5-mini") == 3
    assert count_tokens("one two three", "somebody's own") == 3
    assert tiktoken.asked == ["o200k_base", "o200k_base"]
    assert cut("one two three four five six", 4, "gpt-5-mini") == windows.Cut("one two", "five six", 2)


def test_tiktoken_is_never_let_fetch_its_files(tiktoken: SimpleNamespace, tmp_path: Path) -> None:
    put_file(tmp_path, "o200k_base")
    assert count_tokens("one two three", "gpt-4") == 4
    assert tiktoken.asked == []


def test_a_tiktoken_that_fails_costs_only_the_exact_count(tiktoken: SimpleNamespace, tmp_path: Path) -> None:
    put_file(tmp_path, "o200k_base")

    def fail(_: str) -> Words:
        raise ValueError("a damaged file")

    tiktoken.get_encoding = fail
    assert count_tokens("one two three", "gpt-5-mini") == 4


@given(st.text(st.characters(), max_size=40), st.integers(0, 60))
def test_what_surely_fits_has_no_more_bytes_than_tokens(text: str, tokens: int) -> None:
    assert surely_fits(text, tokens) is (len(text.encode(errors="surrogatepass")) <= tokens)


@given(st.text(max_size=300), st.integers(1, 40))
def test_a_cut_text_keeps_its_ends_and_says_how_much_is_gone(text: str, most: int) -> None:
    parts = cut(text, most, "any")
    assert (parts is None) is (count_tokens(text, "any") <= most)
    if parts is not None:
        assert text.startswith(parts.head)
        assert text.endswith(parts.tail)
        assert count_tokens(parts.head + parts.tail, "any") <= most
        assert parts.left_out == count_tokens(text, "any") - most


@given(st.text("ab \n", max_size=300), st.integers(1, 40), st.sampled_from(["characters", "words"]))
def test_characters_and_words_are_cut_likewise(text: str, most: int, by: Any) -> None:
    def count(text: str) -> int:
        return len(text) if by == "characters" else len(text.split())

    parts = cut(text, most, "any", by)
    assert (parts is None) is (count(text) <= most)
    if parts is not None:
        assert text.startswith(parts.head)
        assert text.endswith(parts.tail)
        assert count(parts.head) + count(parts.tail) == most
        assert parts.left_out == count(text) - most


@pytest.mark.parametrize("wrong", [{"by": "lines"}, {"least": 0}, {"keep": 50}])
def test_a_cutting_that_makes_no_sense_is_the_callers_mistake(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Cutting(**wrong)


# --- deciding --------------------------------------------------------------------------------------------------------


def measure(message: Message) -> int:
    return Window("any").measure(message)


def taken(exchanges: Sequence[Exchange]) -> int:
    return sum(windows.size(exchange.messages, measure) for exchange in exchanges)


@st.composite
def exchanges(draw: st.DrawFn) -> list[Exchange]:
    made: list[Exchange] = []
    for number in range(draw(st.integers(1, 7))):
        outputs = ["x" * draw(st.integers(0, 6000)) for _ in range(draw(st.integers(1, 3)))]
        said = "s" * draw(st.integers(0, 800))
        if draw(st.booleans()):
            calls = tuple(ToolCall(f"{number}.{index}", "code") for index in range(len(outputs)))
            results = [Message("tool", text, answers=call.id) for call, text in zip(calls, outputs, strict=True)]
            made.append(Exchange((Message("assistant", said, calls=calls), *results), number))
        else:
            made.append(Exchange((Message("assistant", said), Message("user", outputs[0])), number))
    return made


@given(exchanges(), st.integers(-100, 6000))
def test_shrinking_touches_old_outputs_alone_and_never_lengthens(given: list[Exchange], room: int) -> None:
    kept = shrink(given, room, measure, "any", Cutting())
    assert len(kept) == len(given)
    assert kept[-1] == given[-1]
    assert taken(kept) <= taken(given)
    for now, before in zip(kept, given, strict=True):
        assert [message.role for message in now.messages] == [message.role for message in before.messages]
        assert now.messages[0] == before.messages[0]
        assert [message.answers for message in now.messages] == [message.answers for message in before.messages]
        assert now.whole in ((), before.messages)
    if taken(given) <= room:
        assert kept == given
    elif taken(kept) > room:
        # then no output but the last is longer than what is left of one at least
        assert all(measure(message) <= 200 for now in kept[:-1] for message in now.messages[1:])
    # cut a second time, it is the whole that is cut
    again = shrink(kept, room // 2, measure, "any", Cutting())
    assert all(now.whole in ((), before.messages) for now, before in zip(again, given, strict=True))


@given(exchanges(), st.integers(-100, 6000))
def test_leaving_out_takes_as_few_as_fit_and_never_the_last(given: list[Exchange], room: int) -> None:
    kept = drop(given, room, measure)
    assert kept[-1] == given[-1]
    if kept == given:
        assert taken(given) <= room or len(given) == 1
        return
    assert kept[1:] == given[len(given) - len(kept) + 1 :]
    assert [message.role for message in kept[0].messages] == ["assistant", "user"]
    assert taken(given) > room
    least = taken([windows.left_out(given[-1].number), given[-1]])
    assert taken(kept) <= max(room, least)


# --- sub-prompts -----------------------------------------------------------------------------------------------------


async def test_a_sub_prompt_that_does_not_fit_is_refused_with_both_numbers_and_nothing_is_asked() -> None:
    code = "try: llm_query('x' * 4004)\nexcept FunctionError as error: FINAL(str(error))"
    sub = ScriptedClient(rules={"": "said"}, model="sub")
    done = await ask(ScriptedClient([repl(code)], model="root"), sub, windows={"sub": 1000})
    assert "about 1,001 tokens" in done.response
    assert "1,000 of the window of sub" in done.response
    assert sub.calls == []
    assert done.usage.calls == 1
    (call,) = done.trajectory[0].calls
    assert call.error is not None


async def test_a_sub_prompt_that_just_fits_is_asked() -> None:
    root = ScriptedClient([repl("FINAL(llm_query('x' * 4000))")], model="root")
    assert (await ask(root, windows={"sub": 1000})).response == "said"


async def test_in_a_batch_the_prompts_that_fit_are_answered() -> None:
    code = (
        "try: llm_query_batched(['short', 'x' * 9000, 'short too'])\n"
        "except FunctionError as error: FINAL([str(error), error.partial])"
    )
    done = await ask(ScriptedClient([repl(code)], model="root"), windows={"sub": 1000})
    text, partial = done.response
    assert "1 of 3 failed" in text
    assert "2,250" in text
    assert partial == ["said", None, "said"]


def test_a_window_without_tokens_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="above 0"):
        RLM(ScriptedClient([]), windows={"root": 0})


# --- the root's messages ---------------------------------------------------------------------------------------------


def well_formed(messages: Sequence[Message]) -> bool:
    """Whether roles take turns, and each call of the tool is followed by its result."""
    assert [message.role for message in messages[:2]] == ["system", "user"]
    waiting: list[str] = []
    for before, message in itertools.pairwise(messages[1:]):
        if message.role == "tool":
            assert message.answers == waiting.pop(0)
        else:
            assert not waiting
            assert (message.role == "assistant") == (before.role in ("user", "tool"))
        waiting += [call.id for call in message.calls]
    return not waiting


def tokens_sent(messages: Sequence[Message]) -> int:
    return windows.size(messages, measure)


PRINT = "print('head' + '.' * 8000 + 'tail')"


async def test_old_outputs_shrink_first_and_history_has_them_whole() -> None:
    check = "reply, output = history[0]\nFINAL([len(history), '.' * 8000 in output, 'print' in reply])"
    root = ScriptedClient([*[repl(PRINT)] * 4, repl(check)], model="root")
    done = await ask(root, windows={"root": 10_000})
    assert done.response == [4, True, True]
    last = root.calls[-1]
    assert well_formed(last)
    assert tokens_sent(last) <= windows.room(10_000)
    assert last[:2] == root.calls[0]
    assert "of this old output are left out here: history[0][1] has all of it" in last[3].content
    assert "head" in last[3].content
    assert "tail" in last[3].content
    assert "." * 8000 in last[-1].content
    assert len(root.calls) == 5
    assert "." * 8000 in (done.trajectory[0].observation or "")


async def test_old_outputs_are_cut_by_the_unit_that_was_chosen() -> None:
    code = repl("print('word ' * 1600)")
    root = ScriptedClient([*[code] * 4, repl("FINAL(1)")], model="root")
    await ask(root, windows={"root": 10_000}, cutting=Cutting(by="words", keep=20, least=20))
    # "REPL output:" is two words of it
    assert root.calls[-1][3].content.count("word ") + root.calls[-1][3].content.count("word\n") == 18
    assert "words of this old output are left out here" in root.calls[-1][3].content


@pytest.mark.parametrize("way", ["cut", "summarized", "left out"])
async def test_an_event_says_how_the_messages_were_shortened_and_by_how_much(way: str) -> None:
    long = repl(PRINT) if way == "cut" else repl("# " + "thought " * 500 + "\nprint(1)")

    def reply(messages: tuple[Message, ...]) -> str:
        if SUMMARIZE in messages[-1].content:
            return "Counted." if way == "summarized" else ""
        shortened = any("left out here" in m.content or "Counted." in m.content for m in messages)
        return repl("FINAL(1)") if shortened else long

    root = ScriptedClient([reply] * 12, model="root")
    window = 10_000 if way == "cut" else 8000
    events: list[Event] = []
    await ask(root, windows={"root": window}, listeners=[events.append])
    [shortened] = [event for event in events if isinstance(event, HistoryShortened)]
    assert (shortened.way, shortened.depth) == (way, 0)
    assert shortened.tokens_before > windows.room(window) >= shortened.tokens_after
    assert shortened.tokens_after == tokens_sent(root.calls[-1])


@given(st.integers(1, 2_000_000))
def test_the_window_for_some_room_has_that_room_and_no_more_than_it_needs(tokens: int) -> None:
    assert tokens <= windows.room(windows.with_room(tokens)) <= tokens + 1


async def test_without_need_nothing_is_loaded_or_cut() -> None:
    root = ScriptedClient([repl(PRINT), repl("FINAL('history' in globals())")], model="root")
    assert (await ask(root, windows={"root": 100_000})).response is False


async def test_what_cutting_does_not_make_fit_is_summed_up_by_the_root_model() -> None:
    long = repl("# " + "thought " * 500 + "\nprint(1)")

    def reply(messages: tuple[Message, ...]) -> str:
        if SUMMARIZE in messages[-1].content:
            return "I have counted to one."
        return repl("FINAL(len(history))") if any("counted to one" in m.content for m in messages) else long

    root = ScriptedClient([reply] * 12, model="root")
    done = await ask(root, windows={"root": 8000})
    asked = [call for call in root.calls if SUMMARIZE in call[-1].content]
    assert len(asked) == 1
    assert all(well_formed(call) and tokens_sent(call) <= windows.room(8000) for call in root.calls)
    last = root.calls[-1]
    assert last[2].content == "Summary of my work so far:\nI have counted to one."
    assert f"history[0] to history[{done.response - 2}] hold them" in last[3].content
    assert last[4].content.startswith("```repl\n# thought")
    assert done.usage.calls == len(root.calls)


@pytest.mark.parametrize("refusal", [ClientError("down", status=500), FULL, ""], ids=["down", "too long", "nothing"])
async def test_if_there_is_no_summary_the_oldest_are_left_out(refusal: Any) -> None:
    long = repl("# " + "thought " * 500 + "\nprint(1)")

    def reply(messages: tuple[Message, ...]) -> str:
        if SUMMARIZE in messages[-1].content:
            if isinstance(refusal, ClientError):
                raise refusal
            return refusal
        return repl("FINAL(len(history))") if any("left out here" in m.content for m in messages) else long

    root = ScriptedClient([reply] * 12, model="root")
    done = await ask(root, windows={"root": 8000})
    last = root.calls[-1]
    assert well_formed(last)
    assert tokens_sent(last) <= windows.room(8000)
    assert "Your first replies, and what came of them, are left out here" in last[3].content
    assert "history[0] holds them" in last[3].content
    assert len(last) == 2 + 2 * done.response


async def test_calls_of_the_tool_stay_beside_their_results() -> None:
    root = ScriptedClient([*[run_python(PRINT)] * 4, run_python("FINAL(history[0][0])")], model="root")
    done = await ask(root, windows={"root": 10_000}, act="tool")
    assert done.response == PRINT
    assert all(well_formed(call) for call in root.calls)
    assert "left out here" in root.calls[-1][3].content


# --- overflow --------------------------------------------------------------------------------------------------------


def full_above(tokens: int, *answers: str) -> Any:
    """Replies in turn, as a model whose window the caller has not named: more than `tokens` overflow it."""
    left = list(answers)

    def reply(messages: tuple[Message, ...]) -> str:
        if tokens_sent(messages) > tokens:
            raise FULL
        return left.pop(0)

    return reply


async def test_an_overflow_shrinks_and_asks_again() -> None:
    reply = full_above(6000, *[repl(PRINT)] * 4, repl("FINAL('.' * 8000 in history[1][1])"))
    root = ScriptedClient([reply] * 20, model="root")
    assert (await ask(root)).response is True
    assert all(well_formed(call) for call in root.calls)
    refused = [tokens_sent(call) for call in root.calls if tokens_sent(call) > 6000]
    assert refused
    assert tokens_sent(root.calls[-1]) <= 6000


async def test_after_three_the_overflow_goes_on() -> None:
    replies = [*[repl(PRINT)] * 4, *[FULL] * 20]
    root = ScriptedClient(replies, model="root")
    with pytest.raises(ClientError) as caught:
        await ask(root)
    assert caught.value is FULL
    asked = [call for call in root.calls[4:] if SUMMARIZE not in call[-1].content]
    assert 2 <= len(asked) <= 4
    sizes = [tokens_sent(call) for call in asked]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "error", [ClientError("the content was filtered", status=400), ClientError("too many tokens a minute", status=429)]
)
async def test_other_refusals_are_no_overflow(error: ClientError) -> None:
    root = ScriptedClient([repl(PRINT), repl(PRINT), error], model="root")
    with pytest.raises(ClientError) as caught:
        await ask(root)
    assert caught.value is error
    assert len(root.calls) == 3


async def test_an_overflow_with_nothing_to_shrink_goes_on_at_once() -> None:
    root = ScriptedClient([FULL], model="root")
    with pytest.raises(ClientError):
        await ask(root)
    assert len(root.calls) == 1


async def test_a_summary_is_cut_to_the_room_that_is_left() -> None:
    conversation = Conversation(HOUSE, Window("root", 4000))
    conversation.open([Message("system", "s"), Message("user", "u")])
    for number in range(3):
        said = Reply("s" * 5000, 1, 1)
        conversation.add(said, Parsed(cells=(), kept=said.text), ["done"], iteration=number, iterations=30)
    sent: list[Sequence[Message]] = []

    async def complete(messages: Sequence[Message]) -> Reply:
        sent.append(messages)
        return Reply("a summary " * 2000, 1, 1)

    await conversation.ask(complete)
    assert len(sent) == 2
    assert conversation.shortened
    assert sent[1][2].content.startswith("Summary of my work so far:\na summary")
    assert windows.room(4000) - 50 <= tokens_sent(sent[1]) <= windows.room(4000)


async def test_the_closing_question_is_kept_within_the_window_too() -> None:
    root = ScriptedClient([*[repl(PRINT)] * 4, "four"], model="root")
    done = await ask(root, windows={"root": 10_000}, limits=Limits(iterations=4))
    assert (done.response, done.stopped_by) == ("four", "iterations")
    assert tokens_sent(root.calls[-1]) <= windows.room(10_000)
    assert "This is the end of the work" in root.calls[-1][-1].content
