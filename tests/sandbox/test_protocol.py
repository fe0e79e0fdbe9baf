"""deno/PROTOCOL.md says what the code does: its command line, its frames, its methods and its conversation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rlm_wasm.sandbox import messages, process, wire
from rlm_wasm.sandbox import peer as rpc
from rlm_wasm.sandbox.memory import BOOT_MB

FOLDER = Path(__file__).parents[2] / "deno"
TEXT = (FOLDER / "PROTOCOL.md").read_text("utf-8")
MAIN = (FOLDER / "main.ts").read_text("utf-8")
STEPS: list[dict[str, Any]] = json.loads((FOLDER.parent / "tests/golden/conversation.json").read_text("utf-8"))["steps"]
MEMORY_MB = 128
# Seconds, for one that hangs.
PATIENCE = 60


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """What stands under a heading, up to the next of its rank."""
    rank, _, _ = title.partition(" ")
    after = TEXT.partition(f"\n{title}\n")[2]
    assert after, f"there is no {title}"
    return re.split(rf"^#{{2,{len(rank)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def documented(party: str) -> list[str]:
    return re.findall(r"^### `(\w+)`$", section(f"## Methods of the {party}"), re.MULTILINE)


def command_line() -> list[str]:
    [arguments] = blocks("arguments")
    main = str(process.runtime_folder() / "main.ts")
    return [line.replace("PAGES", str(16 * (BOOT_MB + MEMORY_MB))).replace("MAIN", main) for line in arguments.split()]


def environment(folder: Path) -> dict[str, str]:
    [lines] = blocks("environment")
    return dict(line.replace("FOLDER", str(folder)).split("=", 1) for line in lines.split())


def like(expected: Any, got: Any) -> bool:
    """Whether they are equal, where a null that is expected stands for anything."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(like(expected[name], got[name]) for name in expected)
    return expected is None or (expected == got and type(expected) is type(got))


# --- starting ------------------------------------------------------------------------------------------------------


def test_the_command_line_and_the_environment_are_those_of_a_child(tmp_path: Path) -> None:
    assert command_line() == process.command(Path("deno"), MEMORY_MB)[1:]
    ours = process.environment(tmp_path)
    ours.pop("SystemRoot", None)
    assert environment(tmp_path) == ours


def test_a_child_started_as_it_says_has_the_conversation_that_it_shows(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    child = subprocess.Popen(
        [process.find_deno(), *command_line()],
        cwd=work,
        env=environment(tmp_path) | ({"SystemRoot": "C:\\Windows"} if sys.platform == "win32" else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # a child that is silent is one that has ended
    patience = threading.Timer(PATIENCE, child.kill)
    patience.start()
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        reader = wire.FrameReader()
        for step in STEPS:
            for message in step["send"]:
                child.stdin.write(wire.encode_message(message))
            child.stdin.flush()
            for expected in step["receive"]:
                got = next(one_message(child.stdout, reader))
                assert like(expected, got), got
        _, complaints = child.communicate(timeout=PATIENCE)
        assert (child.returncode, complaints) == (0, b"")
    finally:
        patience.cancel()
        child.kill()
        child.wait(PATIENCE)


def one_message(pipe: Any, reader: wire.FrameReader) -> Iterator[Any]:
    while True:
        # byte by byte, so that what follows stays in the pipe
        byte = pipe.read(1)
        assert byte, "the child ended"
        for frame in reader.feed(byte):
            yield json.loads(msgspec.json.encode(frame))


# --- frames --------------------------------------------------------------------------------------------------------


def test_each_frame_that_it_shows_is_one() -> None:
    shown = blocks("frame")
    assert len(shown) >= 3
    for block in shown:
        header, _, body = block.removesuffix("\n").partition("\n\n")
        reader = wire.FrameReader(max_blob=100)
        whole = "\r\n".join([*header.split("\n"), "", body]).encode()
        [frame] = reader.feed(whole)
        assert reader.idle
        again = (
            wire.encode_blob_header(frame.id, len(frame.content)) + frame.content
            if isinstance(frame, wire.Blob)
            else wire.encode_message(frame)
        )
        assert again == whole


def test_the_conversation_that_it_shows_is_the_golden_one() -> None:
    [shown] = blocks("conversation")
    lines = shown.splitlines()
    golden = [
        (mark, message) for step in STEPS for mark, key in ((">", "send"), ("<", "receive")) for message in step[key]
    ]
    assert len(lines) == len(golden)
    for line, (mark, message) in zip(lines, golden, strict=True):
        assert line[:2] == f"{mark} "
        assert like(message, json.loads(line[2:])), line
        reader = wire.FrameReader()
        [frame] = reader.feed(b"Content-Length: %d\r\n\r\n%b" % (len(line[2:].encode()), line[2:].encode()))
        assert isinstance(frame, wire.Message)


@pytest.mark.parametrize("number", [wire.MAX_MESSAGE, wire.MAX_HEADER, 2**32 - 1, rpc.MAX_OPEN_CALLS])
def test_the_bounds_are_those_of_the_code(number: int) -> None:
    assert f"{number:,}" in TEXT


# --- methods and errors --------------------------------------------------------------------------------------------


def test_it_has_every_method_and_no_other() -> None:
    table = MAIN.partition("const methods: Record")[2].partition("\n};")[0]
    served = re.findall(r"^  (?:async )?(\w+)(?:\(|: \()", table, re.MULTILINE)
    assert sorted(documented("child")) == sorted(served)
    specified = re.findall(r"^    (\w+) +(?:\{|\()", wire.__doc__ or "", re.MULTILINE)
    assert sorted(documented("child")) == sorted(set(specified))
    asked = re.findall(r'peer\.(?:request|notify)\("(\w+)"', MAIN)
    assert sorted(documented("host")) == sorted(asked)


def test_it_has_every_param_under_its_method() -> None:
    table = MAIN.partition("const methods: Record")[2].partition("\n};")[0]
    parts = re.split(r"^  (?:async )?(\w+)(?=\(|: \()", table, flags=re.MULTILINE)[1:]
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    functions = MAIN.partition("function checkProtocol")[2].partition("/** What must fail")[0]
    bodies["initialize"] += functions
    reads = r'params\.(\w+)|(?:text|number|whole)\(params, "(\w+)"'
    for method, body in bodies.items():
        named = {one or other for one, other in re.findall(reads, body)}
        said = section(f"### `{method}`")
        if "checkProtocol(params)" in body:
            named.add("protocol")
        assert not [name for name in named if f"`{name}`" not in said], method


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("initialize", messages.Initialized),
        ("make_image", messages.ImageMade),
        ("execute", messages.Ran),
        ("get", messages.Value),
        ("checkpoint_begin", messages.CheckpointBegun),
        ("checkpoint_part", messages.CheckpointPart),
        ("call", messages.Call),
        ("printed", messages.Printed),
        ("final", messages.Value),
    ],
)
def test_it_has_every_field_that_the_child_sends(method: str, shape: type[msgspec.Struct]) -> None:
    said = section(f"### `{method}`")
    assert not [name for name in shape.__struct_fields__ if f"`{name}`" not in said]


def test_it_has_every_error_and_no_other() -> None:
    rows = re.findall(r"^\| (-\d+) \|", section("## Errors"), re.MULTILINE)
    codes = (FOLDER / "peer.ts").read_text("utf-8").partition("export const ErrorCode")[2].partition("}")[0]
    assert sorted(rows) == sorted(re.findall(r"-\d{5}", codes))
    specified = set(re.findall(r"-\d{5}", wire.__doc__ or ""))
    ours = {str(value) for name, value in vars(rpc).items() if name.isupper() and isinstance(value, int) and value < 0}
    assert specified | ours <= set(rows)


def test_it_has_every_way_in_which_the_child_ends_itself() -> None:
    exits = set(re.findall(r"Deno\.exit\((\d)\)", MAIN))
    rows = set(re.findall(r"^\| (\d) \|", section("## The end of a child"), re.MULTILINE))
    assert rows == exits


def test_it_has_every_tag_of_a_value() -> None:
    source = (FOLDER / "values.py").read_text("utf-8")
    tags = set(re.findall(r'"(\$[a-z]+)"', source))
    assert tags
    assert not [tag for tag in tags if tag not in section("## JSON texts")]
