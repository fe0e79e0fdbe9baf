"""PDF, DOCX and HTML become text in a sandbox; what cannot be read is said, and costs only itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from rlm_wasm import FileLimits, Files, SandboxOptions
from rlm_wasm.contexts import prepare
from rlm_wasm.files import documents
from rlm_wasm.sandbox import Sandbox
from tests.files.papers import HTML, docx, pdf

# levels of an entity, each ten times the one before: some characters that stand for three gigabytes
_LEVELS = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
BOMB = f'<!DOCTYPE d [<!ENTITY l0 "lol">{_LEVELS}]>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("papers")
    (made / "a.pdf").write_bytes(pdf("The first page", "The second"))
    (made / "b.docx").write_bytes(docx("Findings", "There were seven."))
    (made / "c.html").write_bytes(HTML)
    (made / "d.pdf").write_bytes(pdf("Cut")[:300])
    (made / "e.docx").write_bytes(docx("x", "y").replace(b"word/document.xml", b"word/docUment.xml"))
    (made / "f.txt").write_text("plain", "utf-8")
    (made / "g.pdf").write_text("no PDF at all", "utf-8")
    return made


@pytest.fixture(scope="module")
def read(folder: Path) -> Any:
    """All of them, read once."""
    return prepare(folder)


def fact(read: Any, name: str) -> dict[str, Any]:
    return next(fact for fact in read.beside["context_files"] if fact["path"] == name)


def test_a_pdf_is_the_text_of_its_pages_with_a_form_feed_between(read: Any) -> None:
    assert read.value["a.pdf"] == "The first page\n\fThe second"
    assert fact(read, "a.pdf")["kind"] == "document"


def test_a_docx_and_html_are_markdown(read: Any) -> None:
    assert read.value["b.docx"] == "# Findings\n\nThere were seven.\n"
    assert "# Results\n\nIt was **good**." in read.value["c.html"]
    assert "| 1999 | 17 |" in read.value["c.html"]
    assert "alert" not in read.value["c.html"]
    assert "color" not in read.value["c.html"]


def test_what_cannot_be_read_stays_bytes_and_says_why_and_the_others_are_read(read: Any, folder: Path) -> None:
    assert list(read.value) == ["a.pdf", "b.docx", "c.html", "d.pdf", "e.docx", "f.txt", "g.pdf"]
    for name in ("d.pdf", "e.docx"):
        assert read.value[name] == (folder / name).read_bytes()
        assert fact(read, name)["kind"] == "bytes"
        assert "it could not be read: " in fact(read, name)["note"]
    assert read.value["g.pdf"] == "no PDF at all"


def test_a_bomb_of_entities_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "bomb.docx").write_bytes(docx("x", "y", doctype=BOMB))
    (tmp_path / "ok.html").write_bytes(b"<p>fine</p>")
    prepared = prepare(tmp_path)
    assert prepared.value["ok.html"] == "fine\n"
    assert "it could not be read" in fact(prepared, "bomb.docx")["note"]


def test_a_single_document_that_cannot_be_read_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"d\.pdf: it could not be read: "):
        prepare(folder / "d.pdf")


def test_without_the_libraries_html_stays_as_it_is_and_a_pdf_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    absent = ("pypdf", "mammoth", "markdownify")
    monkeypatch.setattr(
        "rlm_wasm.files.documents.importlib.util.find_spec", lambda name: None if name in absent else real(name)
    )
    read = prepare(folder)
    assert read.value["c.html"] == HTML.decode()
    assert read.value["a.pdf"] == pdf("The first page", "The second")
    assert "pip install 'rlm-wasm[documents]'" in fact(read, "a.pdf")["note"]
    assert prepare(folder / "c.html").value == HTML.decode()
    with pytest.raises(ImportError, match=r"reading PDF needs pypdf: pip install 'rlm-wasm\[documents\]'"):
        prepare(folder / "a.pdf")


def test_documents_can_be_left_as_they_are(folder: Path) -> None:
    read = prepare(Files([folder / "a.pdf", folder / "c.html"], documents=False))
    assert list(read.value.values()) == [pdf("The first page", "The second"), HTML.decode()]


def test_what_there_is_no_time_for_is_said(folder: Path) -> None:
    limits = FileLimits(seconds=0.000001)
    read = prepare(Files(folder, limits=limits))
    assert read.value["f.txt"] == "plain"
    assert "there was no time left to read it" in fact(read, "a.pdf")["note"]
    assert read.value["c.html"] == HTML.decode()


def test_without_a_sandbox_no_document_is_read(folder: Path) -> None:
    options = SandboxOptions(deno=folder / "no-deno")
    read = prepare(folder, sandbox=options)
    assert read.value["f.txt"] == "plain"
    assert "no sandbox to read it in" in fact(read, "a.pdf")["note"]


def test_documents_are_read_in_a_sandbox_and_the_beginning_of_it_is_kept_for_the_next(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = Sandbox.equip

    async def equip(self: Sandbox, modules: Any, library: Any = ()) -> None:
        made.extend(name for name, _ in modules)
        await real(self, modules, library)

    monkeypatch.setattr(Sandbox, "equip", equip)
    # the others take longer to be imported
    monkeypatch.setattr(documents, "_LIBRARIES", {"html": documents._LIBRARIES["html"]})
    asked = [("html", b"<i>one</i>"), ("html", b"<i>two</i>")]
    for times, damaged in ((1, True), (2, False), (2, False)):
        assert documents.convert(asked) == ["*one*\n", "*two*\n"]
        assert made == ["rlm_converting"] * times
        # the one of other libraries, which was there before, is not needed any more
        [kept] = cache_folder.glob("documents-*.checkpoint")
        if damaged:
            kept.write_bytes(b"no checkpoint")
