"""What a caller has -> what is loaded, and the one line that a model is told of it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import RLM, SandboxOptions, ScriptedClient
from rlm_wasm.contexts import as_text, decode, describe, prepare, read_text
from rlm_wasm.inside.documents import Context
from rlm_wasm.store import Asked


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "b.txt").write_text("second\n", "utf-8")
    (folder / "a.txt").write_text("first", "utf-8")
    (folder / "deep" / "er" / "ü.txt").write_text("third: ü", "utf-8")
    return folder


# --- what is loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, "text", b"\xff\x00", ["one", 2], ("a", "b"), {"key": [1.5]}, 42, [], {}],
    ids=lambda value: type(value).__name__,
)
def test_values_are_loaded_as_they_are(value: object) -> None:
    assert prepare(value).value is value


def test_a_path_to_a_file_becomes_its_text_with_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("one\r\ntwo\nü".encode())
    assert prepare(path).value == "one\r\ntwo\nü"


def test_a_folder_becomes_its_files_by_relative_path_in_order(corpus: Path) -> None:
    read = prepare(corpus).value
    assert list(read.items()) == [("a.txt", "first"), ("b.txt", "second\n"), ("deep/er/ü.txt", "third: ü")]


def test_a_list_of_paths_becomes_texts_by_path(corpus: Path) -> None:
    paths = [corpus / "b.txt", corpus / "a.txt"]
    assert prepare(paths).value == {str(paths[0]): "second\n", str(paths[1]): "first"}


def test_a_list_of_paths_may_name_folders(corpus: Path) -> None:
    read = prepare([corpus / "deep", corpus / "a.txt"]).value
    assert read == {str(corpus / "deep" / "er" / "ü.txt"): "third: ü", str(corpus / "a.txt"): "first"}


def test_links_that_lead_out_of_a_folder_are_not_read(corpus: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("sk-secret", "utf-8")
    (corpus / "linked.txt").symlink_to(secret / "key.txt")
    (corpus / "linked").symlink_to(secret, target_is_directory=True)
    (corpus / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (corpus / "inside.txt").symlink_to(corpus / "a.txt")
    assert list(prepare(corpus).value) == ["a.txt", "b.txt", "deep/er/ü.txt", "inside.txt"]


def test_what_is_no_file_in_a_folder_is_not_opened(corpus: Path) -> None:
    os.mkfifo(corpus / "pipe")
    assert "pipe" not in prepare(corpus).value


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_path_that_does_not_exist_is_named(tmp_path: Path, corpus: Path) -> None:
    missing = tmp_path / "missing.txt"
    for context in (missing, [corpus / "a.txt", missing]):
        with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
            prepare(context)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no files in"):
        prepare(tmp_path)


def test_a_file_that_is_not_utf_8_says_which_byte_where_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")
    for context in (path, [path]):
        with pytest.raises(ValueError, match="not UTF-8") as caught:
            prepare(context)
        assert "byte 0xe9 at offset 11 (line 3)" in str(caught.value)
        assert str(path) in str(caught.value)
        assert "errors='replace'" in str(caught.value)
        assert "caf" not in str(caught.value)
    assert read_text(path, errors="replace") == "one\ntwo\ncaf\ufffd\n"
    assert prepare(tmp_path, errors="ignore").value == {"latin.txt": "one\ntwo\ncaf\n"}
    assert prepare(tmp_path).value == {"latin.txt": "one\ntwo\ncaf\ufffd\n"}


@given(st.binary(max_size=50))
def test_bytes_are_their_text_or_an_error_that_points_at_one_of_them(content: bytes) -> None:
    try:
        text, refusal = decode(content, "it"), ""
    except ValueError as error:
        text, refusal = "", str(error)
    if not refusal:
        assert text.encode() == content
        return
    offset = int(refusal.partition("offset ")[2].partition(" ")[0])
    assert f"byte 0x{content[offset]:02x}" in refusal
    # all before it was good
    content[:offset].decode()


# --- the line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "`context` is None: the question holds all that is given"),
        ("one\ntwo", "`context` is a str of 7 characters in 2 lines (about 1 tokens)"),
        ("x" * 4_000_000, "`context` is a str of 4,000,000 characters in 1 line (about 1,000,000 tokens)"),
        (b"1234", "`context` is a bytes object of 4 bytes"),
        (
            ["a" * 10, "b" * 30],
            "`context` is a list of 2 items, each a str, of 10 to 30 characters, 40 characters in all "
            "(about 10 tokens)",
        ),
        ((1, "a", None), "`context` is a tuple of 3 items, of type NoneType, int, str"),
        ([], "`context` is a list of 0 items"),
        (
            {"a.txt": "abcd", "b.txt": "efghijkl"},
            "`context` is a dict of 2 items, each a str, of 4 to 8 characters, 12 characters in all (about 3 tokens); "
            "its keys: 'a.txt', 'b.txt'",
        ),
        (
            {"a.txt": "abcd", "b.png": b"\x00\x01"},
            "`context` is a dict of 2 items, each a str or bytes, 4 characters (about 1 tokens) and 2 bytes in all; "
            "its keys: 'a.txt', 'b.png'",
        ),
        (7, "`context` is a int"),
    ],
    ids=["None", "str", "large", "bytes", "texts", "mixed", "empty", "dict", "files", "int"],
)
def test_the_line_says_type_and_sizes(value: object, line: str) -> None:
    assert describe(value) == line


def test_only_the_first_keys_of_a_dict_are_named_and_long_ones_are_cut() -> None:
    line = describe({"k" * 200: 1} | {f"key {number}": number for number in range(1000)})
    assert "'key 18'" in line
    assert "'key 19'" not in line
    assert line.endswith("and 981 more")
    assert "k" * 80 not in line
    assert "\n" not in describe({"two\nlines": 1})


texts = st.text("αβγδεζ", min_size=1)  # letters that no description has of its own


@given(texts | st.lists(texts, min_size=1) | st.dictionaries(st.just("key"), texts, min_size=1) | st.tuples(texts))
def test_the_line_never_holds_content(value: object) -> None:
    assert not set("αβγδεζ") & set(describe(value))


# --- loading -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_context_larger_than_the_sandboxs_memory_says_both_sizes() -> None:
    root = ScriptedClient(model="root")
    rlm = RLM(root, sandbox=SandboxOptions(memory_mb=16))
    with anyio.fail_after(60), pytest.raises(ValueError, match=r"context needs about 23 MB .* memory_mb=16"):
        await rlm.acompletion("How many?", context="a" * 24_000_000)
    assert root.calls == []


@pytest.mark.anyio
async def test_what_has_no_form_in_the_sandbox_is_a_type_error() -> None:
    root = ScriptedClient(model="root")
    with anyio.fail_after(60), pytest.raises(TypeError, match="Random cannot be sent"):
        await RLM(root).acompletion("How many?", context=[random.Random(1)])
    assert root.calls == []


@pytest.mark.anyio
async def test_a_folder_arrives_in_the_sandbox(corpus: Path) -> None:
    root = ScriptedClient(["```repl\nFINAL(context)\n```"], model="root")
    with anyio.fail_after(60):
        done = await RLM(root).acompletion("How many?", context=corpus)
    assert done.response == {"a.txt": "first", "b.txt": "second\n", "deep/er/ü.txt": "third: ü"}
    opening = "".join(message.content for message in root.calls[0])
    assert "'deep/er/ü.txt'" in opening
    assert "third: " not in opening


@pytest.mark.anyio
async def test_what_is_known_of_files_stands_beside_them_in_the_sandbox(corpus: Path) -> None:
    code = "FINAL([(file['path'], file['size'], file['kind']) for file in context_files])"
    root = ScriptedClient([f"```repl\n{code}\n```"], model="root")
    with anyio.fail_after(60):
        done = await RLM(root).acompletion("How large?", context=corpus)
    assert done.response == [("a.txt", 5, "text"), ("b.txt", 7, "text"), ("deep/er/ü.txt", 9, "text")]
    assert "`context_files` is a list of dicts" in "".join(message.content for message in root.calls[0])


def test_a_folders_pictures_are_no_documents(corpus: Path) -> None:
    (corpus / "picture.png").write_bytes(b"\x89PNG\r\n")
    documents = Context.of(prepare(corpus).value)
    assert documents.num_documents() == 3
    assert "PNG" not in documents.text


def test_of_a_folders_pictures_a_prompt_has_the_size(corpus: Path) -> None:
    (corpus / "c.png").write_bytes(b"\x89PNG\r\n")
    told = as_text(prepare(corpus).value, at_most=1000)
    assert told is not None
    assert told.endswith("[c.png]\n(6 bytes, which are no text)\n\n[deep/er/ü.txt]\nthird: ü")


def test_what_stands_beside_a_context_is_kept_with_it_in_a_store(corpus: Path) -> None:
    prepared = prepare(corpus)
    assert Asked.of("How large?", prepared, {}).prepared == prepared
    assert prepare(prepared) is prepared


# --- documents -----------------------------------------------------------------------------------------------------


def test_a_context_of_one_document_is_its_text_and_of_several_their_texts() -> None:
    assert prepare(Context.from_text("one")).value == "one"
    prepared = prepare(Context.from_documents(["one", "three"], separator="--"))
    assert prepared.value == ["one", "three"]
    assert prepared.description.startswith("`context` is a list of 2 items, each a str, of 3 to 5 characters")


def test_what_is_known_of_documents_comes_with_them() -> None:
    known = {"id": "a", "title": "A", "text": "one", "metadata": {"year": 1999}}
    prepared = prepare(Context.from_documents([known, "three"]))
    assert prepared.value == [known, {"text": "three"}]
    assert "of 2 items, each a document, a dict with its `text`, of 3 to 5 characters" in prepared.description
    assert "1999" not in prepared.description
