"""Bytes to text: encodings that are given or found out, what is no text, and what is only damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import Files
from rlm_wasm.contexts import prepare
from rlm_wasm.files.texts import decoded

FRENCH = "Le café est très agréable à côté de l'hôtel, où l'été passe. " * 3
POLISH = "Zażółć gęślą jaźń, proszę państwa. " * 4
RUSSIAN = "Привет, как дела? Это обычный русский текст для проверки. " * 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_told_by_its_mark_or_its_zeros(encoding: str) -> None:
    text = "plain words, and größer\n" * 3
    assert decoded(text.encode(encoding), "it").value == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        ("これは日本語のテキストです。文字コードを確認します。" * 3, "shift_jis"),
        ("这是一个中文文本。用于检查编码。" * 5, "gb18030"),
    ],
    ids=lambda value: value if value.isascii() else "",
)
def test_an_older_encoding_is_found_out_and_said(text: str, encoding: str) -> None:
    found = decoded(text.encode(encoding), "it")
    assert found.value == text
    assert found.note == f"not UTF-8: taken for {found.encoding}, by what is in it"


def test_where_charset_normalizer_is_not_installed_it_is_an_error_as_for_any_bad_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    with pytest.raises(ValueError, match=r"it is not UTF-8: byte 0xe9 at offset 6 \(line 1\);"):
        decoded(FRENCH.encode("cp1252"), "it")


@pytest.mark.parametrize("content", [b"one\ncaf\xe9\n", "Größe ".encode() * 20 + b"\xff" + "Größe ".encode() * 20])
def test_what_says_too_little_or_is_damaged_utf_8_is_not_guessed_at(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"not UTF-8.*encoding='cp1252'"):
        decoded(content, "it")
    marked = decoded(content, "it", explicit=False)
    assert marked.value == content.decode(errors="replace")
    assert "U+FFFD stands for what is no text" in marked.note
    assert decoded(content, "it", errors="ignore").value == content.decode(errors="ignore")


def test_an_encoding_that_is_given_wins(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("größer".encode())
    assert prepare(Files(path, encoding="latin-1")).value == "grÃ¶Ãer".replace("Ã", "Ã\x9f", 2).replace("Ã\x9f¶", "Ã¶")
    path.write_bytes(b"caf\xe9")
    assert prepare(Files(path, encoding="cp1252")).value == "café"
    with pytest.raises(ValueError, match="is not ascii: byte 0xe9 at offset 3"):
        prepare(Files(path, encoding="ascii"))
    for unknown in ("klingon", "hex"):
        with pytest.raises(ValueError, match=f"encoding: there is no '{unknown}'"):
            prepare(Files(path, encoding=unknown))


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(range(256)) * 4, b"\x1f\x8b\x08", bytes(100), b"\x7fELF\x02\x01"],
)
def test_what_is_no_text_stays_bytes(content: bytes) -> None:
    assert decoded(content, "it").value == content
    assert decoded(content, "it", errors="replace").value == content


def test_a_stray_nul_or_colour_does_not_make_bytes_of_a_log() -> None:
    text = "\x1b[31mred\x1b[0m line of a log\n" * 100 + "\0" + "and more\n" * 100
    assert decoded(text.encode(), "it").value == text


def test_a_folder_with_a_damaged_file_is_read_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good", "utf-8")
    (tmp_path / "bad.txt").write_bytes("Größe ".encode() * 9 + b"\n\xff" + "Größe ".encode() * 9)
    prepared = prepare(tmp_path)
    assert list(prepared.value) == ["bad.txt", "good.txt"]
    assert "with another note: 1" in prepared.description
    assert "not UTF-8 from offset 73 (line 2) on" in prepared.beside["context_files"][0]["note"]


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_bytes_in_a_folder(content: bytes) -> None:
    value = decoded(content, "it", explicit=False).value
    assert value == content if isinstance(value, bytes) else isinstance(value, str)
