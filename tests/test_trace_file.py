"""Traces: what goes into a file and comes out, what a crash leaves, and what is never written."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, strategies

from rlm_wasm import RLM, ClientError, FallbackClient, OpenAIClient, RetryingClient, Router, ScriptedClient, Trajectory
from rlm_wasm import trace_file as traces
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.events import (
    BudgetSpent,
    CellFinished,
    CellStarted,
    Event,
    FunctionCalled,
    Printed,
    RootAsked,
    RootReplied,
    RootStreamed,
    RunStarted,
    RunStopped,
)
from rlm_wasm.images import Image
from rlm_wasm.limits import ModelUsage
from rlm_wasm.prompts import Message, ToolCall
from rlm_wasm.secrets import MARK
from rlm_wasm.trace_file import TraceFile, decode, encode

STARTED = RunStarted(run="abc", wall=1.8e9, question="How many?", context="a str", model="root", sub_model="sub")
KEY = "planted-key-1234567"


def repl(code: str) -> str:
    return f"```repl\n{code}\n```"


def written(path: Path, *events: Event) -> Path:
    with TraceFile(path) as file:
        for event in events:
            file.write(event)
    return path


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        (1, ("two", {3}), b"\x00\xff"),
        {1: "one", None: 2, ("a", 2): [], "$tuple": "no tag"},
        [2**70, -(2**63) - 1, float("inf"), 1e-300, True],
        {"when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "cost": decimal.Decimal("1.10")},
        "two lines\n and \x00 \u2028 \U0001f600",
        frozenset({1, "a"}),
    ],
    ids=["tuples", "keys", "numbers", "dates", "text", "frozenset"],
)
def test_the_values_that_a_sandbox_knows_come_back_exact(value: object) -> None:
    event = CellFinished(output="", error=None, seconds=0.5, truncated=0, cell=1, value=value, final=[value])
    back = decode(encode(event))
    assert back == event
    assert repr(back) == repr(event)


def test_what_has_no_form_comes_back_as_near_as_can_be() -> None:
    class Launch(msgspec.Struct):
        name: str
        by: object

    class Opaque:
        def __repr__(self) -> str:
            return "<opaque>"

    class Hostile:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparing")

        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __repr__(self) -> str:
            raise RuntimeError("no words")

    class Model:
        def model_dump(self) -> dict[str, object]:
            return {"a": 1}

    knot: list[Any] = [1]
    knot += [knot, knot]
    deep: Any = "bottom"
    for _ in range(300):
        deep = [deep]

    def after(value: object) -> Any:
        event = decode(encode(RunStopped(**{**_stopped, "response": value})))
        assert isinstance(event, RunStopped)
        return event.response

    assert after([Launch("x", Opaque())]) == [{"name": "x", "by": "<opaque>"}]
    assert after({"m": Model(), Opaque(): (Opaque(),)}) == {"m": {"a": 1}, "<opaque>": ("<opaque>",)}
    assert "Hostile" in after([Hostile()])[0]
    assert "[1, [...]" in str(after(knot))
    assert str(after(deep)).startswith("[" * 40)
    assert after({"s": "lone \ud800"}) == {"s": "lone \ufffd"}


_stopped: dict[str, Any] = {"stopped_by": "final", "calls": 1, "input_tokens": 2, "output_tokens": 3, "usd": None}
_stopped["seconds"] = 1.5


@pytest.mark.parametrize(
    "event",
    [
        RootAsked(
            same=2,
            messages=(
                Message("user", "look", images=(Image(b"\x89PNG\r\n\x1a\n\xff", "image/png"),)),
                Message("assistant", "", calls=(ToolCall("1", "print(1)"),)),
                Message("tool", "out", answers="1"),
            ),
        ),
        RunStopped(**_stopped, by_model={"$odd": ModelUsage(1, 2, 3, None, True)}, limit=("usd", 1.0, 0.5)),
        FunctionCalled(function="f", arguments=({1: 2},), named={"a": {3}}, value=b"x"),
        BudgetSpent(calls=1, input_tokens=2, output_tokens=3, usd=float("nan"), left={"calls_left": None}),
    ],
    ids=lambda event: type(event).__name__,
)
def test_typed_fields_come_back_as_they_were(event: Event) -> None:
    assert repr(decode(encode(event))) == repr(event)


def test_a_field_of_any_type_is_known_to_be_one() -> None:
    for kind in traces.EVENTS.values():
        for field in msgspec.structs.fields(kind):
            assert ("Any" in str(field.type)) == (field.name in traces.FREE), f"{kind.__name__}.{field.name}"


_plain = strategies.none() | strategies.booleans() | strategies.integers() | strategies.text() | strategies.binary()
_values = strategies.recursive(
    _plain | strategies.floats(allow_nan=False),
    lambda inner: (
        strategies.lists(inner)
        | strategies.tuples(inner)
        | strategies.dictionaries(_plain, inner)
        | strategies.frozensets(_plain)
    ),
    max_leaves=20,
)


@given(value=_values, text=strategies.text(strategies.characters(codec=None)))
def test_any_event_is_one_line_and_comes_back(value: object, text: str) -> None:
    event = CellFinished(output=text, error=None, seconds=0.5, truncated=0, final=value)
    line = encode(event)
    # line separators of Unicode are no line ends in a file
    assert "\n" not in line
    back = decode(line.encode())
    assert isinstance(back, CellFinished)
    assert back.final == value
    assert [one == two or two == "\ufffd" for one, two in zip(text, back.output, strict=False)].count(False) == 0


# --- files ---------------------------------------------------------------------------------------------------------


def test_every_line_is_an_event_and_the_first_says_the_format(tmp_path: Path) -> None:
    path = written(tmp_path / "new" / "run.jsonl", STARTED, Printed(run="abc", stream="stdout", text="a"))
    first, second, third = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert first == {"format": "rlm_wasm trace", "version": 1}
    assert (second["event"], second["question"], third["text"]) == ("RunStarted", "How many?", "a")
    assert path.stat().st_mode & 0o777 == 0o600


def test_runs_are_appended_to_a_file_and_have_files_of_their_own_in_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        written(tmp_path / "all.jsonl", STARTED)
    assert traces.read(tmp_path / "all.jsonl") == [STARTED, STARTED]
    other = msgspec.structs.replace(STARTED, run="def")
    for event in (STARTED, other):
        written(tmp_path / "folder", event)
    first, second = sorted((tmp_path / "folder").iterdir())
    assert first.name.endswith("_abc.jsonl")
    assert traces.read(second) == [other]
    with pytest.raises(ValueError, match=r"is a folder: give one of the .jsonl files in it, such as the last"):
        traces.read(tmp_path / "folder")


def test_what_was_printed_is_read_only_where_its_cell_has_no_end(tmp_path: Path) -> None:
    printed = [Printed(run="abc", stream="stdout", text=text) for text in "ab"]
    ended = CellFinished(run="abc", output="a", error=None, seconds=0.1, truncated=0)
    path = written(tmp_path / "t.jsonl", STARTED, printed[0], ended, RootStreamed(run="abc", text="x"), printed[1])
    assert traces.read(path) == [STARTED, ended, printed[1]]
    assert '"Printed"' in path.read_text("utf-8")
    assert "RootStreamed" not in path.read_text("utf-8")


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_has_cut_short_is_left_out_and_the_next_run_is_read(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "t.jsonl", STARTED, CellStarted(run="abc", code="1"))
    os.truncate(path, path.stat().st_size - cut)
    # without its line end alone it is whole
    whole = [STARTED, CellStarted(run="abc", code="1")] if cut == 1 else [STARTED]
    assert traces.read(path) == whole
    written(path, STARTED)
    assert traces.read(path) == [*whole, STARTED]


def test_a_crash_at_the_very_beginning_leaves_a_trace_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for content in ("", '{"form'):
        path.write_text(content)
        assert traces.read(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"event":"CellStarted"', "line 2: it is no JSON"),
        ("[1]", "line 2: it is no JSON object"),
        ('{"event":"Nothing"}', "line 2: it is no event that is known here"),
        ('{"event":"CellStarted","code":1}', r"line 2: it is no CellStarted: .*str"),
        ('{"event":"RunStopped","response":{"$set":[[]]}}', "line 2: it is no RunStopped: a value breaks the rules"),
        ('{"format":"other","version":1}', "line 2: it says another format"),
        ('{"format":"rlm_wasm trace","version":2}', "line 2: its format has version 2.*pip install --upgrade rlm-wasm"),
    ],
)
def test_any_other_damage_is_an_error_with_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"format": "rlm_wasm trace", "version": 1}}\n{content}\n{encode(STARTED)}\n')
    with pytest.raises(ValueError, match=f"t.jsonl, {message}"):
        traces.read(path)


def test_what_is_no_trace_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{encode(STARTED)}\n")
    with pytest.raises(ValueError, match="its first line does not say the format"):
        traces.read(path)
    path.write_text("Dear diary")
    with pytest.raises(ValueError, match="line 1: it is no JSON"):
        traces.read(path)
    with pytest.raises(FileNotFoundError, match=r"there is no trace .*none.jsonl"):
        traces.read(tmp_path / "none.jsonl")


_WRITER = """
import sys
from rlm_wasm.events import CellStarted
from rlm_wasm.trace_file import TraceFile
with TraceFile(sys.argv[1]) as file:
    for number in range(200):
        file.write(CellStarted(run=sys.argv[2], code="x" * 20000, cell=number))
"""


def test_processes_that_write_at_once_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    programs = [[sys.executable, "-c", _WRITER, str(path), name] for name in "abc"]
    children = [subprocess.Popen(program) for program in programs]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    events = traces.read(path)
    for name in "abc":
        assert [event.cell for event in events if isinstance(event, CellStarted) and event.run == name] == [*range(200)]


def test_a_file_that_was_closed_takes_no_more(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t.jsonl")
    with file:
        file.write(STARTED)
    with pytest.raises(ValueError, match="after the end"):
        file.write(STARTED)


# --- runs ----------------------------------------------------------------------------------------------------------


def rlm_with(*replies: Any, **given: Any) -> RLM:
    sub = ScriptedClient(rules={"": "a reply"}, model="sub")
    return RLM(ScriptedClient(replies, model="root"), sub_model=sub, **given)


@pytest.mark.anyio
@pytest.mark.both_backends
async def test_a_run_is_written_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    seen: list[int] = []

    def look() -> None:
        seen.append(len(traces.read(path)))

    rlm = rlm_with(repl("print('hello', flush=True)\nlook()"), repl("FINAL(2)"), functions={"look": look}, trace=path)
    with anyio.fail_after(60):
        done = await rlm.acompletion("How many?", context="abc")
    # what was printed before the function was called is there
    assert seen == [7]
    assert traces.read(path) == list(done.trajectory.events)


@pytest.mark.anyio
async def test_a_router_traces_both_of_its_ways(tmp_path: Path) -> None:
    rlm = rlm_with("plainly", repl("FINAL(2)"), trace=tmp_path / "runs")
    with anyio.fail_after(60):
        await Router(rlm).acompletion("How many?", context="abc")
        await Router(rlm, threshold_chars=1).acompletion("How many?", context="abc")
    ends = [traces.read(path)[-1] for path in (tmp_path / "runs").iterdir()]
    assert sorted(str(end.response) for end in ends if isinstance(end, RunStopped)) == ["2", "plainly"]


@pytest.mark.anyio
async def test_a_full_disk_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Full(TraceFile):
        def __enter__(self) -> Full:
            self._open(Path("/dev/full"))
            return self

    with pytest.MonkeyPatch.context() as patch, anyio.fail_after(60):
        patch.setattr("rlm_wasm.rlm.TraceFile", Full)
        done = await rlm_with(repl("FINAL(2)"), trace="anywhere").acompletion("How many?")
    assert done.response == 2
    assert caplog.text.count("are written no further") == 1


@pytest.mark.anyio
async def test_a_trace_that_cannot_be_had_is_an_error_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = ScriptedClient([repl("FINAL(2)")], model="root")
    for trace in (tmp_path / "file", tmp_path / "file" / "t.jsonl"):
        with anyio.fail_after(60), pytest.raises(OSError, match="file"):
            await RLM(root, trace=trace).acompletion("How many?")
    assert root.calls == []


_KILLED = """
import os, signal, sys
from rlm_wasm import RLM, ScriptedClient
cell = "print('before the end', flush=True)\\nllm_query('and now?')"
def die(prompt):
    os.kill(os.getpid(), signal.SIGKILL)
sub = ScriptedClient(rules={"": die})
rlm = RLM(ScriptedClient(["```repl\\n" + cell + "\\n```"]), sub_model=sub, trace=sys.argv[1])
rlm.completion("How many?")
"""


def test_a_program_that_is_killed_leaves_what_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    trajectory = Trajectory.load(path)
    completion = trajectory.completion
    assert trajectory.cut_off
    assert (completion.stopped_by, completion.response, completion.usage.calls) == ("cancelled", None, 1)
    [cell] = completion.trajectory[0].cells
    assert (cell.executed, cell.output, cell.error) == (None, "before the end\n", "(the trace ends before this does)")
    [call] = completion.trajectory[0].calls
    assert (call.prompt, call.reply, call.error) == ("and now?", "", "(the trace ends before this does)")


# --- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_key_is_nowhere_in_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    path = tmp_path / "t.jsonl"
    cell = f"print('{KEY}', context)\nx = ({KEY!r}, {{{KEY!r}: b'in bytes {KEY}'}})\nx"
    failing = ScriptedClient(rules={"": ClientError(f"401: {KEY} is no key")}, model="sub")
    fetch = {"fetch": lambda url: {"url": url, "key": KEY}}
    root = ScriptedClient(
        [repl(cell), repl("fetch('http://x')\nllm_query('q')"), ClientError(f"{KEY}, sk-abcdefghijklmnop1234")]
    )
    rlm = RLM(root, sub_model=failing, functions=fetch, trace=path)
    with anyio.fail_after(60), pytest.raises(ClientError) as failure:
        await rlm.acompletion(f"What about {KEY}?", context=f"a {KEY}")
    text = path.read_text("utf-8")
    assert KEY not in text
    assert "sk-abc" not in text
    events = traces.read(path)
    (value,) = [event.value for event in events if isinstance(event, CellFinished) and event.cell == 1]
    assert value == (MARK, {MARK: f"in bytes {MARK}".encode()})
    stopped = events[-1]
    assert isinstance(stopped, RunStopped)
    assert stopped.failure == f"ClientError: {MARK}, {MARK}"
    # nor in one that is saved later; the run's own record has it all
    partial: Any = failure.value.partial
    assert KEY in str(partial.trajectory.events)
    partial.trajectory.save(tmp_path / "saved.jsonl")
    assert KEY not in (tmp_path / "saved.jsonl").read_text("utf-8")


@pytest.mark.anyio
async def test_the_key_that_a_client_was_given_is_not_written(tmp_path: Path) -> None:
    inner = OpenAIClient("gpt-5-nano", api_key=KEY, base_url="http://127.0.0.1:9/v1")
    sub = RetryingClient(FallbackClient(inner))
    assert held_keys(sub) == {KEY}
    path = tmp_path / "t.jsonl"
    with anyio.fail_after(60):
        done = await RLM(ScriptedClient([repl(f"FINAL('{KEY}')")]), sub_model=sub, trace=path).acompletion("How?")
    assert done.response == KEY
    assert KEY not in path.read_text("utf-8")
    done.trajectory.save(path)
    assert KEY not in path.read_text("utf-8")
    assert RootReplied in {type(event) for event in traces.read(path)}
