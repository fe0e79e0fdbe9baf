"""Documents to text: runs in a sandbox that is started for nothing else, on libraries that the host sends as data.

Owns how the text of each kind is laid out. Knows nothing of files, nor of a run.
"""

# `rlm_host` is made by the sandbox, and the libraries need not be on the host.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import io
import logging
import re
import sys
from pathlib import Path
from typing import Any

import rlm_host

__all__ = ["document_text", "import_for"]

_LIBRARIES = Path("/tmp/document_libraries.zip")
_READERS = {"pdf": ["pypdf"], "docx": ["mammoth", "markdownify", "bs4"], "html": ["markdownify", "bs4"]}
_NO_TEXT = ["script", "style", "noscript", "template", "svg"]


def document_text(kind: str, content: bytes, encoding: str | None = None) -> str:
    """The text of a document of kind "pdf" (a form feed after each page), "docx" or "html" (as Markdown)."""
    if kind == "pdf":
        return _of_pdf(content)
    return _of_html(_html_of_docx(content) if kind == "docx" else content, encoding)


def import_for(kinds: list[str]) -> None:
    """Import what documents of these kinds are read by, which takes longer than to read most of them."""
    for name in {name for kind in kinds for name in _READERS[kind]}:
        importlib.import_module(name)


def _of_pdf(content: bytes) -> str:
    import pypdf

    # what it says of a damaged file goes to nobody
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    reader = pypdf.PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is encrypted")
    texts: list[str] = []
    for page in reader.pages:
        try:
            texts.append(page.extract_text())
        except Exception as error:
            # the other pages are not lost with it
            texts.append(f"[this page could not be read: {type(error).__name__}]")
    if not "".join(texts).strip():
        raise ValueError("it has no text: pictures of pages, perhaps")
    return "\n\f".join(texts)


def _html_of_docx(content: bytes) -> str:
    import mammoth

    def without(image: Any) -> list[Any]:
        # it would be written out in base64
        return []

    made: Any = mammoth.convert_to_html(io.BytesIO(content), convert_image=without)
    return made.value


def _of_html(html: str | bytes, encoding: str | None) -> str:
    import bs4
    import markdownify

    soup = bs4.BeautifulSoup(html, "html.parser", from_encoding=encoding if isinstance(html, bytes) else None)
    for element in soup(_NO_TEXT):
        element.decompose()
    converter: Any = markdownify.MarkdownConverter(heading_style="ATX", strip=["img"])
    text: str = converter.convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _begin() -> None:
    _LIBRARIES.write_bytes(rlm_host.namespace().pop("document_libraries"))
    sys.path.insert(0, str(_LIBRARIES))


_begin()
