"""What is found in a corpus: by ripgrep and, for plain words, without it, in all the ways in which it is fed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.corpora import Corpus, feed, search
from rlm_wasm.corpora.query import Query, Search, Stopped
from rlm_wasm.corpora.search import count, find_ripgrep, hits
from rlm_wasm.errors import FunctionError

WAYS = ("by itself", "through a pipe", "carefully", "without ripgrep")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the text is brought to what searches it."""
    if request.param != "carefully":
        monkeypatch.setattr(feed, "LARGE", 1)
    if request.param == "without ripgrep":
        monkeypatch.setattr(search, "find_ripgrep", lambda: None)
    else:
        assert find_ripgrep() is not None, "the tests need ripgrep: the extra 'lazy' brings it"
    return request.param


@pytest.fixture
def corpus_of(tmp_path: Path) -> Callable[..., Corpus]:
    def make(*contents: bytes) -> Corpus:
        for number, content in enumerate(contents):
            (tmp_path / f"{number}.txt").write_bytes(content)
        return Corpus.open(tmp_path)

    return make


def found(corpus: Corpus, pattern: str, way: str = "", most: int = 100, **more: bool) -> list[tuple[int, int | None]]:
    """The hits as pairs. Through a pipe goes what does not reach the end of its file."""
    end = corpus.size - 1 if way == "through a pipe" else corpus.size
    return [(hit.offset, hit.line) for hit in hits(corpus, Query(pattern, **more), 0, end, most, Search())]


def test_plain_words_are_found_once_a_line_and_counted_each(way: str, corpus_of: Callable[..., Corpus]) -> None:
    with corpus_of(b"a fox, a fox\nnothing\n\xff\xfe fox\n", "für den Fuchs\nfox.\n".encode()) as corpus:
        offsets = [offset for offset, _ in found(corpus, "fox", way)]
        assert offsets == [2, 24, 43]
        assert corpus.read(24, 27) == corpus.read(43, 46) == b"fox"
        assert [offset for offset, _ in found(corpus, "fox", way, most=2)] == [2, 24]
        assert count(corpus, Query("fox"), 0, corpus.size - (way == "through a pipe"), Search()) == 4
        assert count(corpus, Query("fox"), 3, 24, Search()) == 1
        assert found(corpus, "für den", way)[0][0] == 28


@pytest.mark.parametrize("way", WAYS[:3], indirect=True)
def test_patterns_are_held_to_a_line_and_lines_are_numbered_in_their_document(
    way: str, corpus_of: Callable[..., Corpus]
) -> None:
    with corpus_of(b"one\ntwo\nthree\n", b"four\nfive", b"two\n.\n") as corpus:
        assert found(corpus, r"^t\w+$", way, regex=True) == [(4, 2), (8, 3), (23, 1)]
        assert found(corpus, "FIVE", way, ignore_case=True) == [(19, 2)]
        assert found(corpus, "five.two", way, regex=True) == []
        # a search that begins in a document does not know its lines
        assert [tuple(hit) for hit in hits(corpus, Query("three"), 5, 20, 9, Search())] == [(8, None)]


@pytest.mark.parametrize("pattern", ["(", r"(?=a)", r"(a)\1", "a{2,100000}{1000}"])
def test_a_pattern_that_cannot_be_used_is_said_and_why(pattern: str, corpus_of: Callable[..., Corpus]) -> None:
    with corpus_of(b"text") as corpus, pytest.raises(FunctionError, match=r"Rust's regex.*: \w+"):
        found(corpus, pattern, regex=True)


@pytest.mark.parametrize("way", ["without ripgrep"], indirect=True)
def test_without_ripgrep_a_pattern_is_an_error_that_names_the_extra(way: str, corpus_of: Callable[..., Corpus]) -> None:
    with corpus_of(b"a plain word") as corpus:
        with pytest.raises(FunctionError, match=r"need ripgrep on the host .pip install 'rlm-wasm\[lazy\]'"):
            found(corpus, "a.*b", regex=True)
        with pytest.raises(FunctionError, match="with their case"):
            found(corpus, "PLAIN", ignore_case=True)
        assert found(corpus, "plain", regex=True) == [(2, None)]


@given(words=st.lists(st.sampled_from([b"ab", b"aab", b"\n", b" ", b"b"]), max_size=40), block=st.integers(3, 9))
def test_words_on_the_borders_of_what_is_read_at_once_are_found_and_counted(
    words: list[bytes], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = b"".join(words)
    path = tmp_path_factory.mktemp("words") / "file"
    path.write_bytes(content)
    with Corpus.open(path) as corpus, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "find_ripgrep", lambda: None)
        patch.setattr("rlm_wasm.corpora.plain.BLOCK", block)
        assert count(corpus, Query("ab"), 0, corpus.size, Search()) == content.count(b"ab")
        lines = {content.count(b"\n", 0, place) for place, _ in found(corpus, "ab")}
        assert lines == {content.count(b"\n", 0, match.start()) for match in re.finditer(b"ab", content)}


def test_holes_of_a_sparse_file_are_left_out(corpus_of: Callable[..., Corpus], tmp_path: Path) -> None:
    size = 4 << 30
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"begin\n")
        file.seek(size - 10)
        file.write(b"\nthe end.\n")
    assert (tmp_path / "sparse").stat().st_blocks < 10_000, "this file system makes no sparse files"
    with corpus_of() as corpus:
        assert (corpus.size, found(corpus, r"\bend", regex=True)) == (size, [(size - 5, 3)])
        assert count(corpus, Query("e"), 0, corpus.size, Search()) == 3
        assert corpus.text(size - 9, size) == "the end.\n"


@pytest.mark.parametrize("way", ["by itself", "carefully"], indirect=True)
def test_a_line_that_no_memory_holds_is_searched_in_parts(
    way: str, corpus_of: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LONGEST_LINE", 3 << 20)
    # what a child may take is less than the line by which it reads
    monkeypatch.setattr("rlm_wasm.corpora.query._MEMORY", 80 << 20)
    line = b"some words " * ((60 << 20) // 11 + 1)
    with corpus_of(line[: 60 << 20] + b"needle and more\n", b"needle\n") as corpus:
        offsets = [offset for offset, _ in found(corpus, "ne+dle", regex=True)]
        assert offsets == [60 << 20, (60 << 20) + 16]
        assert count(corpus, Query("needle"), 0, corpus.size, Search()) == 2


@pytest.mark.parametrize("way", ["by itself"], indirect=True)
def test_a_file_that_changes_while_it_is_searched_is_an_error(
    way: str, corpus_of: Callable[..., Corpus], tmp_path: Path
) -> None:
    with corpus_of(b"word\n" * 1000) as corpus:
        walk = hits(corpus, Query("word"), 0, corpus.size, 10_000, Search())
        assert next(walk).offset == 0
        os.truncate(tmp_path / "0.txt", 100)
        with pytest.raises(FunctionError, match=r"'0.txt' has changed"):
            list(walk)
        with pytest.raises(FunctionError, match=r"'0.txt' has changed"):
            found(corpus, "word")


def test_a_search_that_is_stopped_ends_from_another_thread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    stopping, failures = Search(), list[BaseException]()
    started = threading.Event()

    def run() -> None:
        try:
            with stopping.running(["sleep", "1000"], 0) as process:
                started.set()
                assert process.stdout is not None
                process.stdout.read()
            stopping.go_on()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
    stopping.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(failure) for failure in failures] == [Stopped]
