"""Which files are read of what is named, in which order, what is known of each, and what becomes of bad ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import FileLimits, Files
from rlm_wasm.contexts import prepare
from rlm_wasm.files import read
from rlm_wasm.sandbox.values import decode, encode


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "b.txt").write_text("second\n", "utf-8")
    (folder / "a.md").write_text("first", "utf-8")
    (folder / "deep" / "er" / "c.txt").write_text("third: ü", "utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]", "utf-8")
    (folder / ".env").write_text("KEY=sk-secret", "utf-8")
    return folder


def facts_of(context: object, **chosen: Any) -> dict[str, dict[str, Any]]:
    return {fact["path"]: fact for fact in prepare(context, **chosen).beside["context_files"]}


# --- what is named -------------------------------------------------------------------------------------------------


def test_a_folder_is_its_files_in_order_without_hidden_ones_and_says_so(corpus: Path) -> None:
    prepared = prepare(corpus)
    assert list(prepared.value) == ["a.md", "b.txt", "deep/er/c.txt", "picture.png"]
    assert prepared.value["picture.png"] == b"\x89PNG\r\n\x1a\n\x00"
    assert "hidden files and folders, left out: 2" in prepared.description
    assert "sk-secret" not in repr(prepared)
    assert list(prepare(Files(corpus, hidden=True)).value)[:3] == [".env", ".git/config", "a.md"]


def test_each_file_has_its_size_kind_date_and_encoding(corpus: Path) -> None:
    os.utime(corpus / "b.txt", (1_000_000_000, 1_000_000_000))
    facts = facts_of(corpus)
    assert facts["b.txt"] == {
        "path": "b.txt",
        "size": 7,
        "kind": "text",
        "modified": "2001-09-09T01:46:40Z",
        "encoding": "utf-8",
        "note": "",
    }
    assert [fact["kind"] for fact in facts.values()] == ["text", "text", "text", "bytes"]
    assert facts["deep/er/c.txt"]["size"] == 9


def test_a_glob_is_the_files_that_match_by_their_paths_from_where_it_begins(corpus: Path) -> None:
    assert list(prepare(corpus / "*.txt").value) == ["b.txt"]
    assert list(prepare(corpus / "**" / "*.txt").value) == ["b.txt", "deep/er/c.txt"]
    assert list(prepare(Files(f"{corpus}/d*")).value) == ["deep/er/c.txt"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        prepare(corpus / "*.pdf")


def test_several_paths_are_read_in_their_order_each_once(corpus: Path) -> None:
    named = [corpus / "deep", corpus / "*.md", corpus / "b.txt", corpus / "a.md"]
    expected = [corpus / "deep" / "er" / "c.txt", corpus / "a.md", corpus / "b.txt"]
    assert list(prepare(named).value) == [str(path) for path in expected]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "notes [1].txt").write_text("one", "utf-8")
    assert prepare(tmp_path / "notes [1].txt").value == "one"


def test_links_out_of_a_folder_or_a_glob_are_counted_and_not_followed(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("sk-secret", "utf-8")
    (corpus / "out.txt").symlink_to(tmp_path / "secret.txt")
    (corpus / "in.txt").symlink_to(corpus / "a.md")
    (corpus / "up").symlink_to(tmp_path, target_is_directory=True)
    for context in (corpus, corpus / "*", corpus / "**" / "*"):
        prepared = prepare(context)
        assert "sk-secret" not in prepared.value.values()
        assert prepared.value["in.txt"] == "first"
    assert "links out of what was named, not followed: 1" in prepare(corpus).description


def test_a_pipe_that_is_named_by_itself_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("from a pipe",), daemon=True)
    writer.start()
    assert prepare(tmp_path / "pipe").value == "from a pipe"
    writer.join(10)
    (tmp_path / "empty.txt").write_text("", "utf-8")
    assert prepare(tmp_path / "empty.txt").value == ""
    assert prepare(tmp_path).value == {"empty.txt": ""}


def test_names_and_dates_that_are_none_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("latin", "utf-8")
    except OSError:
        # not every system takes such a name
        (tmp_path / "cafe.txt").write_text("latin", "utf-8")
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = list(real(descriptor))
        # a time of change in the year 33,658
        status[8] = 10**12
        return os.stat_result(status)

    monkeypatch.setattr("rlm_wasm.files.reading.os.fstat", fstat)
    prepared = prepare(tmp_path)
    assert list(prepared.value.values()) == ["latin"]
    assert prepared.beside["context_files"][0]["modified"] is None
    assert decode(encode(prepared.value)) != {}
    prepared.description.encode()


# --- what is too much ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (FileLimits(files=3), "more than 3 files: name fewer"),
        (FileLimits(bytes=20), "have 30 bytes, and at most 20 are read: name fewer"),
    ],
)
def test_more_than_the_limits_allow_says_which_and_what_to_do(corpus: Path, limits: FileLimits, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prepare(Files(corpus, limits=limits))
    assert "raise FileLimits(" in str(caught.value)


def test_a_limit_that_allows_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="ratio must be above 0"):
        FileLimits(ratio=0)


# --- what changes meanwhile ----------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen each time that a file was opened and is about to be read."""

    def arrange(happens: Callable[[], object]) -> None:
        real, calls = os.fstat, [0]

        def fstat(descriptor: int) -> os.stat_result:
            status = real(descriptor)
            calls[0] += 1
            if calls[0] % 2:
                happens()
            return status

        monkeypatch.setattr("rlm_wasm.files.reading.os.fstat", fstat)

    return arrange


def test_a_file_that_vanishes_before_it_is_read_is_said_and_the_others_are_read(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlm_wasm.files import reading

    real = reading.listed

    def listed(*args: Any, **named: Any) -> Any:
        listing = real(*args, **named)
        (corpus / "b.txt").unlink()
        return listing

    monkeypatch.setattr(reading, "listed", listed)
    facts = facts_of(corpus)
    assert facts["b.txt"]["kind"] == "unread"
    assert facts["b.txt"]["note"] == "it vanished before it was read"
    (corpus / "b.txt").write_text("again", "utf-8")
    with pytest.raises(FileNotFoundError):
        prepare(corpus / "b.txt")


def test_a_file_that_changes_while_it_is_read_is_said_and_the_others_are_read(
    tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    path, ticks = tmp_path / "state.txt", iter(range(1, 1000))
    path.write_text("state", "utf-8")

    def change() -> None:
        path.write_text("other", "utf-8")
        os.utime(path, (1, next(ticks)))

    meanwhile(change)
    with pytest.raises(OSError, match=r"state\.txt changed each time"):
        prepare(path)
    (tmp_path / "z.txt").write_text("z", "utf-8")
    assert "changed each time" in facts_of(tmp_path)["state.txt"]["note"]


def test_of_a_file_that_grows_while_it_is_read_is_what_was_there_at_first(
    tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    path = tmp_path / "run.log"
    path.write_text("one\n", "utf-8")

    def grow() -> None:
        with path.open("a") as file:
            file.write("two\n")

    meanwhile(grow)
    prepared = prepare(path)
    assert prepared.value == "one\n"
    assert "it grew while it was read" in prepared.description


def test_what_may_not_be_read_is_said_and_the_others_are_read(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *args: Any, **named: Any) -> int:
        if str(path).endswith("b.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **named)

    monkeypatch.setattr("rlm_wasm.files.reading.os.open", refuse)
    prepared = prepare(corpus)
    assert "b.txt" not in prepared.value
    assert "could not be read: 1 (kind" in prepared.description
    assert facts_of(corpus)["b.txt"]["note"] == "Permission denied"
    with pytest.raises(PermissionError):
        prepare(corpus / "b.txt")


def test_a_file_that_becomes_a_link_is_not_followed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlm_wasm.files import reading

    real = reading.listed
    (tmp_path / "secret.txt").write_text("sk-secret", "utf-8")

    def listed(*args: Any, **named: Any) -> Any:
        listing = real(*args, **named)
        (corpus / "b.txt").unlink()
        (corpus / "b.txt").symlink_to(tmp_path / "secret.txt")
        return listing

    monkeypatch.setattr(reading, "listed", listed)
    prepared = prepare(corpus)
    assert "b.txt" not in prepared.value
    assert "sk-secret" not in repr(prepared)


def test_where_nothing_can_be_read_that_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"nothing could be read: broken\.zip: it is damaged"):
        read(Files(tmp_path))
