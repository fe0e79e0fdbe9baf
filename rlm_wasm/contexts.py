"""From what a caller has to what is loaded: a value, and one line that describes it to the model.

Reads the files and folders that are named, by `files/`, and nothing else. Puts no content in the line: a model sees
sizes and names only. Lends `rlm_wasm.inside.documents.Context` the reader that it has on the host.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import msgspec

from rlm_wasm import files, tables
from rlm_wasm.corpora import FUNCTION, Corpus, answering, files_of
from rlm_wasm.dialects.dialect import inside
from rlm_wasm.files import Files, archives
from rlm_wasm.files import documents as to_text
from rlm_wasm.files.texts import refusal
from rlm_wasm.inside import documents
from rlm_wasm.sandbox import SandboxOptions

_SHOWN_KEYS = 20
_SHOWN_NAME = 80


class Context(msgspec.Struct, frozen=True):
    """What to load as `context`, the line that tells the model what it is, and other variables that say more of it."""

    value: Any
    description: str
    beside: dict[str, Any] = {}

    def among(self, variables: Mapping[str, object]) -> dict[str, object]:
        """All that is loaded with it, by name: these variables too, which count before what stands beside it."""
        return {**self.beside, **variables, "context": self.loaded}

    @property
    def loaded(self) -> Any:
        """What is loaded under that name: of a corpus that stays on the host what is told of it."""
        return self.value.told() if isinstance(self.value, Corpus) else self.value

    @property
    def equipment(self) -> tuple[tuple[str, str], ...]:
        """The Python that makes of what is loaded what cells see."""
        return inside("corpus") if isinstance(self.value, Corpus) else ()

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The host functions that answer for it; their names are the same for every context."""
        return {FUNCTION: answering(self.value)}


# bytes; a text takes about four times as much memory on its way into the sandbox, and four bytes a character there
_LAZY_FROM = 500_000_000
_SHARE_OF_MEMORY = 16


def lazy_from() -> int:
    """From how many bytes on files stay on the host, if nothing else is said: 500 MB, or a 16th of the memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _LAZY_FROM
    return min(_LAZY_FROM, memory // _SHARE_OF_MEMORY)


def prepare(
    context: object, *, errors: str = "strict", sandbox: SandboxOptions | None = None, lazy: bool | None = None
) -> Context:
    """Turn a context into what can be loaded; what was prepared before stays as it is.

    Takes None, str, bytes, lists, dicts and other JSON-like values as they are. `Files`, or a `Path` as its paths,
    become what `files.read` makes of them: a file its text (or bytes), a folder, a glob or an archive a dict from
    relative path to those, and a list of Paths likewise; then `context_files` stands beside them, a list of dicts with
    the path, size, kind, modified, encoding and note of each. `errors` is what to do with bytes that are not text, as
    in `bytes.decode`; `sandbox` how the one is started in which documents are read. A `documents.Context` becomes its
    text if it is one document, else the list of its documents: texts, or dicts with `text` and what is known of each.
    With `lazy` files are not read but stay on the host as a `Corpus`, which may be given too; None: if they have
    `lazy_from()` bytes or more and are neither documents, archives nor tables. Frames, tables and arrays, and a `Path`
    to a SQLite database or a Parquet file, become `Tables`; what those are inside is known when they are loaded
    (`Sandbox.described`). Raises as `files.read` and `tables.read_table`, and ValueError for a lazy context that is no
    file.
    """
    if isinstance(context, Context):
        return context
    named = _files(context)
    value = None if lazy else tables.find(context if named is None or named.several else named.named[0])
    corpus = context if isinstance(context, Corpus) else _stays(named, errors, lazy) if value is None else None
    if corpus is not None:
        return Context(corpus, corpus.described())
    if value is None and named is not None:
        return _of_files(files.read(named, errors, sandbox))
    if value is None:
        value = _as_documents(context) if isinstance(context, documents.Context) else context
    return Context(value, describe(value))


def release(given: object, prepared: Context) -> None:
    """Close the files on the host that `prepare` has opened for a context; a corpus that was given stays open."""
    if isinstance(prepared.value, Corpus) and not isinstance(given, (Corpus, Context)):
        prepared.value.close()


async def aprepare(
    context: object, *, errors: str = "strict", sandbox: SandboxOptions | None = None, lazy: bool | None = None
) -> Context:
    """Like `prepare`; files are read in a thread, so that what else goes on meanwhile is not held up."""
    work = partial(prepare, context, errors=errors, sandbox=sandbox, lazy=lazy)
    return work() if _files(context) is None else await anyio.to_thread.run_sync(work)


def _stays(named: Files | None, errors: str, lazy: bool | None) -> Corpus | None:
    """The corpus of files that are not to be read; None for all else."""
    if lazy is False or named is None:
        if lazy:
            raise ValueError("lazy=True is for files and folders: give a Path, or a list of those")
        return None
    paths = named.named if named.several else named.named[0]
    if not lazy and (named.encoding is not None or not all(path.is_file() or path.is_dir() for path in named.named)):
        # a pipe is read as it comes; what is not there is said by what reads
        return None
    found = files_of(paths, hidden=named.hidden)
    if not lazy and (_size(found.values()) < lazy_from() or any(map(_is_packed, found.values()))):
        return None
    return Corpus.of(found, errors)


def _size(paths: Iterable[Path]) -> int:
    """The bytes of files; of what is no regular file, or is gone by now, none."""
    size = 0
    for path in paths:
        with suppress(OSError):
            size += path.stat().st_size
    return size


def _is_packed(path: Path) -> bool:
    """Whether text is made of a file before it can be searched: a document or an archive."""
    try:
        with path.open("rb") as file:
            begins = file.read(1024)
    except OSError:
        return False
    return archives.kind_of(path.name, begins) is not None or to_text.kind_of(path.name, begins) is not None


def _files(context: object) -> Files | None:
    """The files that a context names, if it does."""
    if isinstance(context, Files):
        return context
    if isinstance(context, Path):
        return Files(context)
    items = cast("Sequence[object]", context) if isinstance(context, (list, tuple)) else ()
    return Files(cast("Sequence[Path]", items)) if items and all(isinstance(item, Path) for item in items) else None


def _of_files(read: files.Read) -> Context:
    """What was read of files, with what is known of them beside it."""
    said = [describe(read.value)]
    beside: dict[str, Any] = {}
    if isinstance(read.value, dict):
        beside["context_files"] = [msgspec.structs.asdict(fact) for fact in read.facts]
        said.append("`context_files` is a list of dicts with path, size, kind, modified, encoding and note of each")
        unread = sum(fact.kind == "unread" for fact in read.facts)
        noted = sum(bool(fact.note) and fact.kind not in ("unread", "archive") for fact in read.facts)
        said += [f"could not be read: {unread:,} (kind 'unread', the note says why)"] if unread else []
        said += [f"with another note: {noted:,}"] if noted else []
        said += [f"hidden files and folders, left out: {read.hidden:,}"] if read.hidden else []
        said += [f"links out of what was named, not followed: {read.outside:,}"] if read.outside else []
    else:
        said += [fact.note for fact in read.facts if fact.note]
    return Context(read.value, "; ".join(said), beside)


def kept(value: object) -> object:
    """A prepared value as it is written down with a run; `taken_up` makes it again."""
    return value.reference() if isinstance(value, Corpus) else value


def taken_up(value: object) -> object:
    """The value that was `kept`. Raises FileNotFoundError, or ValueError if a file of it is not what it was."""
    if not isinstance(value, dict):
        return value
    written = cast("dict[str, Any]", value)
    return Corpus.taken_up(written) if Corpus.is_reference(written) else written


# bytes; what is read of each end of a text to tell it from others
_FINGERPRINT = 500_000
# characters; what a record of a run may hold of its context
_SMALL = 100_000


def fingerprint(value: object) -> tuple[int, str]:
    """What tells a context from another: its length and a SHA-256 of that and of its ends.

    (0, "") if it is no text, bytes, tables or files on the host.
    """
    if isinstance(value, tables.Tables):
        told, contents = value.ready("context")
        each = [fingerprint(content) for content in (repr(told), *contents)]
        return sum(length for length, _ in each[1:]), hashlib.sha256(repr(each).encode()).hexdigest()
    if isinstance(value, Corpus):
        ends = value.read(0, _FINGERPRINT), value.read(max(0, value.size - _FINGERPRINT), value.size)
    elif isinstance(value, (str, bytes)):
        ends = value[:_FINGERPRINT], value[-_FINGERPRINT:]
    else:
        return 0, ""
    seen = hashlib.sha256(str(len(value)).encode())
    for end in ends:
        seen.update(end if isinstance(end, bytes) else end.encode(errors="surrogatepass"))
    return len(value), seen.hexdigest()


def is_small(value: object) -> bool:
    """Whether a JSON-like context has so little text that a record may hold it whole; bytes are no text."""
    waiting: list[object] = [value]
    chars = 0
    while waiting and chars <= _SMALL:
        match waiting.pop():
            case str(text):
                chars += len(text)
            case dict() as mapping:  # pyright: ignore[reportUnknownVariableType]
                pairs = cast("dict[object, object]", mapping)
                chars += len(pairs)
                waiting += [*pairs, *pairs.values()] if len(pairs) < _SMALL else []
            case list() | tuple() as several:  # pyright: ignore[reportUnknownVariableType]
                items = cast("Sequence[object]", several)
                chars += len(items)
                waiting += items if len(items) < _SMALL else []
            case None | bool() | int() | float():
                chars += 8
            case _:
                return False
    return chars <= _SMALL


def _as_documents(context: documents.Context) -> object:
    known = [context.metadata(number) for number in range(context.num_documents())]
    for about in known:
        del about["characters"]
    if not any(known):
        return context.text if len(known) == 1 else [context.get_document(number) for number in range(len(known))]
    return [about | {"text": context.get_document(number)} for number, about in enumerate(known)]


def read_documents(paths: Iterable[str | PathLike[str]], errors: str = "strict") -> dict[str, str]:
    """The texts of files by path; of a folder all its files, by their paths within it if it is the one path given.

    Raises FileNotFoundError, or ValueError for a file that is not text and for a folder without files.
    """
    named = [Path(path) for path in paths]
    read = files.read(Files(named[0] if len(named) == 1 and named[0].is_dir() else named), errors)
    values = cast("dict[str, str | bytes]", read.value)
    refused = next((fact for fact in read.facts if fact.kind in ("unread", "bytes")), None)
    if refused is not None:
        raise ValueError(f"{refused.path} is no text{': ' + refused.note if refused.note else ''}")
    return {name: text for name, text in values.items() if isinstance(text, str)}


documents.Context.reader = staticmethod(read_documents)


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a UTF-8 file. Raises FileNotFoundError, or ValueError that says which byte is not UTF-8."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read the context from")
    return decode(path.read_bytes(), str(path), errors=errors)


def decode(content: bytes, origin: str, *, encoding: str | None = None, errors: str = "strict") -> str:
    """Bytes as text, UTF-8 if no `encoding` is given. Raises ValueError that names their `origin` and the byte."""
    try:
        return content.decode(encoding or "utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(refusal(content, origin, error, encoding or "utf-8")) from error


def as_text(value: object, *, at_most: int) -> str | None:
    """A prepared value as text for a prompt; None if that would be over `at_most` characters, or it is bytes or tables.

    A str as it is, None as no text, documents (a list or dict of str, or bytes) each under a line that names it, other
    values as Python writes them. What is too large is noticed without being written out.
    """
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray, Corpus, tables.Tables)) or _exceeds(value, at_most):
        return None
    text = value if isinstance(value, str) else _documents(value) or repr(value)
    return text if len(text) <= at_most else None


def _exceeds(value: object, at_most: int) -> bool:
    """Whether the parts of a value alone, without what joins them, are over a number of characters."""
    waiting, counted = [value], 0
    while waiting and counted <= at_most:
        part = waiting.pop()
        if isinstance(part, Mapping):
            pairs = cast("Mapping[object, object]", part)
            waiting += [*pairs.keys(), *pairs.values()]
        elif isinstance(part, (list, tuple, set, frozenset)):
            waiting += cast("Sequence[object]", part)
        # whatever a thing is, it takes a character at least
        counted += len(part) if isinstance(part, (str, bytes)) else 1
    return counted > at_most


def _documents(value: object) -> str | None:
    """Texts with a line before each that names it, of bytes their size; None if it is not a list or dict of those."""
    if isinstance(value, Mapping):
        named = list(cast("Mapping[object, object]", value).items())
    elif isinstance(value, (list, tuple)):
        named = [(number, item) for number, item in enumerate(cast("Sequence[object]", value))]
    else:
        return None
    if not all(isinstance(item, (str, bytes)) for _, item in named):
        return None
    return "\n\n".join(f"[{name}]\n{_shown(item)}" for name, item in named)


def _shown(item: object) -> object:
    return f"({len(item):,} bytes, which are no text)" if isinstance(item, bytes) else item


def describe(value: object) -> str:
    """One line about a value: its type, its sizes, a dict's first keys. None of its content."""
    if value is None:
        return "`context` is None: the question holds all that is given"
    if isinstance(value, Corpus):
        return value.described()
    if isinstance(value, str):
        lines = value.count("\n") + 1
        sizes = f"{len(value):,} characters in {lines:,} line{'s' if lines > 1 else ''}"
        return f"`context` is a str of {sizes} (about {len(value) // 4:,} tokens)"
    if isinstance(value, tables.Tables):
        return f"`context` is {value.description}"
    if isinstance(value, (bytes, bytearray)):
        return f"`context` is a bytes object of {len(value):,} bytes"
    if isinstance(value, Mapping):
        return _describe_mapping(cast("Mapping[object, object]", value))
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return f"`context` is a {type(items).__name__} of {len(items):,} items{_describe_items(items)}"
    return f"`context` is a {type(value).__name__}"


def _describe_mapping(value: Mapping[object, object]) -> str:
    names = [_short(repr(key)) for key in list(value)[:_SHOWN_KEYS]]
    more = f" and {len(value) - _SHOWN_KEYS:,} more" if len(value) > _SHOWN_KEYS else ""
    sizes = _describe_items(list(value.values()))
    return f"`context` is a dict of {len(value):,} items{sizes}; its keys: {', '.join(names)}{more}"


def _describe_items(items: Sequence[object]) -> str:
    kinds = sorted({type(item).__name__ for item in items})
    texts = [_document_text(item) for item in items]
    if texts and all(isinstance(text, str) for text in texts):
        sizes = [len(cast(str, text)) for text in texts]
        total = f"{sum(sizes):,} characters in all (about {sum(sizes) // 4:,} tokens)"
        each = "a str" if kinds == ["str"] else "a document, a dict with its `text`"
        if kinds not in (["str"], ["dict"]):
            each = "a str, or a dict with its `text`"
        return f", each {each}, of {min(sizes):,} to {max(sizes):,} characters, {total}"
    if kinds == ["bytes", "str"]:
        chars, size = (sum(len(item) for item in items if isinstance(item, kind)) for kind in (str, bytes))
        return f", each a str or bytes, {chars:,} characters (about {chars // 4:,} tokens) and {size:,} bytes in all"
    return f", of type {', '.join(kinds[:5])}" if kinds else ""


def _document_text(item: object) -> object:
    """The text of a document that is a dict with `text`; anything else as it is."""
    if isinstance(item, Mapping):
        return cast("Mapping[str, object]", item).get("text", cast(object, item))
    return item


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_NAME else text[: _SHOWN_NAME - 1] + "…"
