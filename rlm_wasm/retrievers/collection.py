"""From what a caller has to documents: texts, mappings, files. Knows no back end.

Reads the files and folders that are named, by `contexts.py`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rlm_wasm import contexts
from rlm_wasm.retrievers.protocol import Document

Documents = Iterable[str | Mapping[str, Any] | Document]
Paths = str | Path | Sequence[str | Path]
_KEYS = {"text", "id", "metadata"}


def documents_of(given: Documents) -> Iterator[Document]:
    """Documents out of texts, of mappings with `text` and perhaps `id` and `metadata`, or of documents.

    Where there is no id it is the position, from 0. Raises TypeError or ValueError that names the position.
    """
    if isinstance(given, (str, Mapping)):
        raise TypeError("documents must be a list or another iterable of documents, not a single one")
    for position, each in enumerate(given):
        yield _document(each, position)


def _document(given: object, position: int) -> Document:
    if isinstance(given, Document):
        return given
    if isinstance(given, str):
        return Document(str(position), given)
    if not isinstance(given, Mapping):
        raise TypeError(f"document {position:,} must be a str, a mapping or a Document, not {type(given).__name__}")
    fields = cast("Mapping[str, Any]", given)
    if unknown := set(fields) - _KEYS:
        names = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"document {position:,} has {names}: put what is not text or id into metadata")
    text, id, metadata = fields.get("text"), fields.get("id", position), fields.get("metadata", cast("object", {}))
    if not isinstance(text, str):
        raise TypeError(f"the text of document {position:,} must be a str, not {type(text).__name__}")
    if not isinstance(id, (str, int)):
        raise TypeError(f"the id of document {position:,} must be a str or an int, not {type(id).__name__}")
    if not isinstance(metadata, Mapping):
        raise TypeError(f"the metadata of document {position:,} must be a mapping, not {type(metadata).__name__}")
    return Document(str(id), text, dict(cast("Mapping[str, Any]", metadata)))


def documents_in(paths: Paths, *, errors: str = "strict") -> list[Document]:
    """A document for each file that is named or in a folder that is named, its path as id and in its metadata.

    Paths are relative to the folder if one folder is all that is named. `errors` as in `bytes.decode`. Files without
    text in them are left out. Raises as `files.read`.
    """
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    alone = named[0] if len(named) == 1 and named[0].is_dir() else None
    read: dict[str, object] = contexts.prepare(alone or named, errors=errors).value if named else {}
    texts = [(name, text) for name, text in read.items() if isinstance(text, str)]
    return [Document(name, text, {"path": name, "suffix": Path(name).suffix}) for name, text in texts]
