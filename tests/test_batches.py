"""Many questions: order, one context, one budget, failures, and what a batch that was ended leaves to the next."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest

from rlm_wasm import (
    RLM,
    Answered,
    Batch,
    BatchBusy,
    ClientError,
    Completion,
    LimitExceeded,
    Limits,
    Message,
    Price,
    Question,
    Reply,
    SandboxOptions,
    SandboxStartError,
    Trajectory,
    Usage,
)
from rlm_wasm.answers_file import AnswersFile
from rlm_wasm.contexts import Context
from rlm_wasm.limits import Budget
from rlm_wasm.outputs import Output

pytestmark = pytest.mark.anyio

Answers = list[Answered]
ANSWER = "```repl\nFINAL(len(context or ''))\n```"


class Model:
    """Answers each question by `code`, where `fails` has no exception for a text in it; notes what it is asked."""

    model = "model"

    def __init__(self, fails: dict[str, Exception] | None = None, reply: str = ANSWER) -> None:
        self.fails = fails or {}
        self.reply = reply
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        text = messages[-1].content
        self.asked.append(text)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(0.01)
            for part, error in self.fails.items():
                if part in text:
                    raise error
        finally:
            self.at_once -= 1
        return Reply(self.reply, 1000, 10)

    def heard_of(self, *questions: str) -> list[bool]:
        return [any(question in text for text in self.asked) for question in questions]


async def answers(
    model: Model, questions: Sequence[object], rlm: dict[str, Any] | None = None, **given: Any
) -> Answers:
    """What becomes of the questions, in runs that have sandboxes."""
    options: dict[str, Any] = rlm or {}
    with anyio.fail_after(60):
        return await RLM(model, **options).amap(questions, **given)


async def test_files_that_stay_on_the_host_are_read_by_all_questions_and_closed_at_the_end(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared.log", tmp_path / "own.log"
    shared.write_text("an error\n" * 3)
    own.write_text("an error\n")
    model = Model(reply="```repl\nFINAL(context.count('error'))\n```")
    questions = ["How many?", "Again?", Question("And there?", context=own)]
    found = await answers(model, questions, context=shared, lazy=True)
    assert [answered.response for answered in found] == [3, 3, 1]
    assert not {str(shared), str(own)} & open_files()


def open_files() -> set[str]:
    """The files that this process has open, where the system says so."""
    folder = Path("/proc/self/fd")
    return {str(fd.resolve()) for fd in folder.iterdir()} if folder.exists() else set()


def batch(model: Model, questions: Sequence[object], prices: dict[str, Price] | None = None, **given: Any) -> Batch:
    """A batch whose runs are one call of the model each, and answer with the length of the context."""

    async def answer(asked: Question, context: Context, whole: Budget, stop: anyio.Event) -> Completion:
        taken: dict[str, Any] = {"question": asked.question, "trajectory": Trajectory(), "seconds": 0.5, "run": "0"}
        try:
            with whole.reserve("model", prompt_chars=4000, max_output_tokens=10, inside=False) as reservation:
                reply = await model.complete([Message("user", asked.question)])
                took = reservation.settle(reply.input_tokens, reply.output_tokens)
        except LimitExceeded as limit:
            return Completion(response=None, stopped_by=cast(Any, limit.limit), usage=Usage(), limit=limit, **taken)
        response = Output(asked.output).accept(len(context.value or ""))
        return Completion(response=response, stopped_by="final", usage=Usage.of({"model": took}), **taken)

    return Batch(answer, lambda limits: Budget(limits, prices or {}), questions, **given)


async def dry(
    model: Model, questions: Sequence[object], prices: dict[str, Price] | None = None, **given: Any
) -> Answers:
    with anyio.fail_after(60):
        return await batch(model, questions, prices, **given).run()


def states(answered: Sequence[Answered]) -> list[str]:
    return [each.state for each in answered]


@pytest.mark.both_backends
async def test_answers_come_in_the_order_of_the_questions_and_a_failure_is_one_of_them() -> None:
    model = Model({"second": ClientError("too long", status=400)})
    questions = ["first?", "second?", Question("third?", context=["a", "b"]), {"question": "fourth?", "id": "4"}]
    done = await answers(model, questions, context="the context", concurrency=2)
    assert states(done) == ["answered", "failed", "answered", "answered"]
    assert [each.response for each in done] == [11, None, 2, 11]
    assert [each.question for each in done] == ["first?", "second?", "third?", "fourth?"]
    assert done[3].id == "4"
    assert done[1].failure is not None
    assert (done[1].failure.type, done[1].failure.text) == ("ClientError", "too long")
    assert isinstance(done[0].completion, Completion)
    assert done[0].usage.calls == 1
    assert model.most_at_once <= 2


async def test_a_question_finds_nothing_of_another_in_its_repl() -> None:
    model = Model(reply="```repl\nseen = globals().get('mine', 0) + 1\nmine = seen\nFINAL(seen)\n```")
    done = await answers(model, ["a", "b", "a"], concurrency=1)
    assert [each.response for each in done] == [1, 1, 1]
    # the same question twice is two questions
    assert len({each.id for each in done}) == 3


async def test_each_answer_fits_the_type_that_is_asked_for() -> None:
    done = await dry(Model(), ["a", Question("b", output={"type": "integer"})], context="xyz", output=float)
    assert [repr(each.response) for each in done] == ["3.0", "3"]


async def test_only_what_has_no_answer_is_asked_by_the_next_batch(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = Model({"b?": ClientError("away", status=503)})
    before = await dry(first, ["a?", "b?", "c?"], context="x", answers=path)
    assert states(before) == ["answered", "failed", "answered"]
    second = Model()
    told: list[str] = []
    questions = ["c?", "b?", "a?", "d?"]
    done = await dry(second, questions, context="x", answers=path, on_answered=lambda each: told.append(each.question))
    assert states(done) == ["answered"] * 4
    assert [each.earlier for each in done] == [True, False, True, False]
    assert second.heard_of("a?", "b?", "c?", "d?") == [False, True, False, True]
    assert sorted(told) == ["b?", "d?"]
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["question"] for line in lines] == questions
    # of another context, or as another type, they are other questions
    third = Model()
    await dry(third, ["a?"], context="y", answers=path)
    await dry(third, ["a?"], context="x", answers=path, output=int)
    assert len(third.asked) == 2
    assert len(path.read_text("utf-8").splitlines()) == 6


async def test_failures_are_left_alone_where_that_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    await dry(Model({"b?": ClientError("no", status=400)}), ["a?", "b?"], answers=path)
    model = Model()
    done = await dry(model, ["a?", "b?"], answers=path, ask_again=False)
    assert states(done) == ["answered" if each.response is not None else "failed" for each in done]
    assert (states(done), model.asked) == (["answered", "failed"], [])


async def test_an_answer_of_an_earlier_batch_has_its_type(tmp_path: Path) -> None:
    class Size(msgspec.Struct):
        size: int

    path, model = tmp_path / "answers.jsonl", Model(reply="```repl\nFINAL({'size': len(context)})\n```")
    for _ in range(2):
        [done] = await answers(model, ["a?"], context="xyz", output=Size, answers=path)
        assert done.response == Size(3)
    assert len(model.asked) == 1


async def test_when_the_budget_is_spent_the_rest_is_not_asked_and_the_next_batch_asks_it(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    given: dict[str, Any] = {"answers": path, "concurrency": 1}
    # a call is reserved at 1,000 dollars
    prices = {"model": Price(1_000_000, 0)}
    done = await dry(Model(), ["a?", "b?", "c?", "d?"], prices, usd=2500.0, **given)
    assert states(done)[0] == "answered"
    assert states(done)[-1] == "not asked"
    stopped = [each for each in done if each.state == "stopped"]
    assert [each.stopped_by for each in stopped] == ["usd"]
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["state"] for line in lines] == states(done)
    again = await dry(Model(), ["a?", "b?", "c?", "d?"], prices, usd=100_000.0, **given)
    assert states(again) == ["answered"] * 4
    # what was spent on a question before is not forgotten
    assert sum(each.usage.calls for each in again) == 4


async def test_the_limits_of_the_rlm_hold_for_each_question_and_those_of_the_batch_for_all() -> None:
    done = await answers(Model(), ["a?", "b?", "c?"], {"limits": Limits(tokens=3500)}, concurrency=1, tokens=2500)
    assert states(done)[:2] == ["answered", "answered"]
    assert [each.stopped_by for each in done[2:]] == ["tokens"]
    [alone] = await answers(Model(), ["a?"], {"limits": Limits(tokens=100)}, tokens=5000)
    assert alone.stopped_by == "tokens"


async def test_a_batch_that_is_stopped_says_what_was_not_asked() -> None:
    stop, model = anyio.Event(), Model()
    with anyio.fail_after(60):
        made = batch(model, ["a?", "b?", "c?"], concurrency=1, on_answered=lambda _: stop.set())
        done = await made.run(stop)
    assert states(done) == ["answered", "not asked", "not asked"]


@pytest.mark.parametrize(
    ("error", "asked"), [(ClientError("no such key", status=401), 1), (ClientError("away", status=503), 10)]
)
async def test_where_no_question_could_fare_better_the_batch_ends_with_what_there_is(
    error: ClientError, asked: int
) -> None:
    model = Model({"": error})
    with pytest.raises(ClientError) as raised:
        await dry(model, [f"question {number}?" for number in range(12)], concurrency=1)
    assert raised.value is error
    assert isinstance(error.partial, list)
    assert states(error.partial) == ["failed"] * asked + ["not asked"] * (12 - asked)


async def test_without_a_sandbox_a_batch_ends_at_once(tmp_path: Path) -> None:
    options = SandboxOptions(deno=str(tmp_path / "nothing"))
    with pytest.raises(SandboxStartError):
        await answers(Model(), ["a?", "b?"], {"sandbox": options})


async def test_what_cannot_be_written_ends_the_batch_and_what_was_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_: object) -> None:
        # Linux counts it for each file: the images and pipes of the sandboxes are there already
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))

    model = Model()
    try:
        with pytest.raises(OSError, match=r"answers could not be written .*those before are in the file"):
            await dry(model, ["a?", "b?", "c?", "d?"], answers=path, concurrency=1, on_answered=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(model.asked) == 2
    [line] = path.read_text("utf-8").splitlines()
    assert json.loads(line)["question"] == "a?"


async def test_two_batches_cannot_write_one_file_at_once(tmp_path: Path) -> None:
    path, model = tmp_path / "answers.jsonl", Model()
    with AnswersFile(path), pytest.raises(BatchBusy):
        await dry(model, ["a?"], answers=path)
    assert model.asked == []


async def test_a_batch_says_how_far_it_is() -> None:
    counted: list[tuple[dict[str, int], int, bool]] = []

    def count(_: Answered) -> None:
        counted.append((dict(made.counts), made.usage.calls, made.seconds_left is None))

    made = batch(Model({"b?": ValueError("no")}), ["a?", "b?"], concurrency=1, on_answered=count)
    assert (made.total, made.seconds_left, made.limit) == (2, None, None)
    with anyio.fail_after(60):
        await made.run()
    # the call that failed was a call
    assert counted == [({"answered": 1}, 1, False), ({"answered": 1, "failed": 1}, 2, False)]


def test_a_batch_runs_from_plain_synchronous_code() -> None:
    done = RLM(Model()).map(["a?"], context="xyz")
    assert [each.response for each in done] == [3]


def test_what_makes_no_sense_is_refused_before_anything_is_asked() -> None:
    model = Model()
    rlm = RLM(model)
    with pytest.raises(ValueError, match="concurrency"):
        rlm.map(["a?"], concurrency=0)
    with pytest.raises(ValueError, match="price"):
        rlm.map(["a?"], usd=1.0)
    with pytest.raises(TypeError, match="question 2"):
        rlm.map(["a?", None])
    with pytest.raises(FileNotFoundError):
        rlm.map(["a?"], context=Path("/nowhere/corpus.txt"))
    assert model.asked == []


# --- a batch whose program was killed ------------------------------------------------------------------------------

QUESTIONS = [f"question {number}?" for number in range(4)]
KILLED = """
import os, signal, sys
from tests.test_batches import Model, QUESTIONS
from rlm_wasm import RLM

def hear(answered):
    told.append(answered)
    if len(told) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

told = []
RLM(Model()).map(QUESTIONS, context="the context", concurrency=2, answers=sys.argv[1], on_answered=hear)
"""


async def test_after_a_kill_each_question_is_answered_once_and_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with anyio.fail_after(120):
        program = [sys.executable, "-c", KILLED, str(path)]
        ended = await anyio.run_process(program, check=False, cwd=Path(__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    kept = [json.loads(line)["question"] for line in path.read_text("utf-8").splitlines()]
    assert len(kept) == 2
    model = Model()
    done = await answers(model, QUESTIONS, context="the context", concurrency=2, answers=path)
    assert states(done) == ["answered"] * 4
    assert len(model.asked) == 2
    assert model.heard_of(*kept) == [False] * 2
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [(line["question"], line["response"]) for line in lines] == [(question, 11) for question in QUESTIONS]
    assert os.listdir(tmp_path) == ["answers.jsonl"]


# --- what is the same question -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "other"),
    [
        ("x" * 3_000_000, "x" * 1_500_000 + "y" + "x" * 1_499_999),
        ("xy", b"xy"),
        ({"a": [1, 2]}, {"a": [1, 3]}),
    ],
    ids=["changed in the middle", "of another type", "JSON-like"],
)
async def test_an_answer_is_of_one_context_alone(tmp_path: Path, context: object, other: object) -> None:
    model, path = Model(), tmp_path / "answers.jsonl"
    for given in (context, other, context, other):
        await dry(model, ["a?"], context=given, answers=path)
    assert len(model.asked) == 2
