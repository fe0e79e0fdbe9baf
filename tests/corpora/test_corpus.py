"""A corpus that stays on the host: positions, texts at any place, and files that are not what they were."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm.corpora import Corpus, referred
from rlm_wasm.corpora import corpus as corpora
from rlm_wasm.errors import FunctionError


def made(folder: Path, *contents: bytes, errors: str = "strict") -> Corpus:
    """A corpus of files 0, 1, ... in a folder of their own."""
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    return Corpus.open(folder, errors)


def test_files_follow_one_another_and_each_offset_lies_in_one(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"one\n", b"", b"three") as corpus:
        assert (len(corpus), [file.name for file in corpus.files]) == (9, ["0", "1", "2"])
        assert corpus.read(0, 100) == b"one\nthree"
        assert corpus.read(2, 6) == b"e\nth"
        assert [corpus.locate(offset) for offset in (0, 3, 4, 8)] == [(0, 0), (0, 3), (2, 0), (2, 4)]
        assert corpus.part(2).text(1, 3) == "hr"


@given(text=st.text(), cuts=st.lists(st.integers(0, 100)))
def test_adjacent_texts_make_the_whole_and_hold_no_half_character(
    text: str, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = text.encode(errors="replace")
    with made(tmp_path_factory.mktemp("texts") / "all", content) as corpus:
        places = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
        pieces = [corpus.text(start, end) for start, end in pairwise(places)]
    assert "".join(pieces) == content.decode()


@given(content=st.binary(max_size=20), cut=st.integers(0, 20))
def test_adjacent_texts_of_any_bytes_make_the_whole_too(
    content: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with made(tmp_path_factory.mktemp("bytes") / "all", content) as corpus:
        both = [corpus.text(start, end, "backslashreplace") for start, end in ((0, cut), (cut, 20))]
    assert "".join(both) == content.decode(errors="backslashreplace")


def test_a_byte_that_is_not_utf_8_is_named_by_its_offset_and_read_if_that_is_wanted(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"abc\xff def") as corpus:
        with pytest.raises(FunctionError, match=r"byte 0xff at offset 3 \('0'\) is not UTF-8: set context.errors"):
            corpus.text(1, 6)
        assert corpus.text(4, 8) == " def"
        assert corpus.text(1, 6, "replace") == "bc\ufffd d"


def test_a_file_that_was_written_to_is_not_read_as_it_was_and_the_others_are(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"first", b"second") as corpus:
        assert corpus.read(0, 11) == b"firstsecond"
        with (tmp_path / "all" / "0").open("ab") as file:
            file.write(b"!")
        with pytest.raises(FunctionError, match=r"'0' has changed since it became known .it had 5 bytes and has 6 now"):
            corpus.read(0, 2)
        assert corpus.read(5, 11) == b"second"
        corpus.know_again()
        assert corpus.read(0, 12) == b"first!second"


def test_a_file_that_was_cut_short_is_an_error_and_no_end_of_this_process(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"x" * 100_000) as corpus:
        assert corpus.read(50_000, 50_001) == b"x"
        os.truncate(tmp_path / "all" / "0", 10)
        with pytest.raises(FunctionError, match="it had 100,000 bytes and has 10 now"):
            corpus.read(50_000, 60_000)


def test_a_file_that_is_gone_is_named_without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_OPEN", 1)
    with made(tmp_path / "all", b"first", b"second") as corpus:
        (tmp_path / "all" / "1").unlink()
        with pytest.raises(FunctionError, match="'1' is gone") as gone:
            corpus.read(5, 7)
        assert str(tmp_path) not in str(gone.value)
        assert corpus.read(0, 5) == b"first"


def test_what_is_no_regular_file_cannot_stay_on_the_host(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        Corpus.open(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Corpus.open(tmp_path / "nothing")


def test_a_cell_means_the_corpus_of_its_run_or_a_file_of_it(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"first", b"second") as corpus:
        assert referred({"rlm_wasm_corpus": None}, corpus) is corpus
        part = referred({"rlm_wasm_corpus": 1}, corpus)
        assert isinstance(part, Corpus)
        assert part.text(0, 6) == "second"
        for number in (2, -1, "1", True):
            with pytest.raises(FunctionError, match="there is no document"):
                referred({"rlm_wasm_corpus": number}, corpus)
        assert referred({"rlm_wasm_corpus": None}, None) == {"rlm_wasm_corpus": None}
        assert referred("text", corpus) == "text"


def test_what_is_written_down_of_a_corpus_makes_it_again_unless_a_file_has_changed(tmp_path: Path) -> None:
    with made(tmp_path / "all", b"first", b"second", errors="replace") as corpus:
        written = corpus.reference()
    with Corpus.taken_up(written) as again:
        assert (again.text(0, 11), again.errors) == ("firstsecond", "replace")
    (tmp_path / "all" / "0").write_bytes(b"other")
    os.utime(tmp_path / "all" / "0", ns=(0, 0))
    with pytest.raises(ValueError, match="has changed since the run began"):
        Corpus.taken_up(written)
