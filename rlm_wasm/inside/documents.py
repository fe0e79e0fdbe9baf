"""A context as one text and as its documents: `Context`, the same on the host and, as `ctx`, in the sandbox.

Owns offsets: which document a place in the text lies in, and how the text is cut. Holds the text once and copies only
the piece that is asked for. Knows nothing of files (`rlm_wasm.contexts` lends it a reader on the host) and of models.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from os import PathLike
from typing import Any, NamedTuple, cast

__all__ = ["Context", "Match"]

_TEXT_KEYS = ("text", "content", "page_content")
_PIECE = 1 << 20


class _Place(NamedTuple):
    start: int
    end: int
    text: str
    document: int


class Match(_Place):
    """A place in a context: offsets in characters, the text there, and the index of the document it begins in.

    `id` is that document's id, None where it has none. It is no item: models unpack the four.
    """

    id: str | None = None

    def __repr__(self) -> str:
        named = "" if self.id is None else f", id={self.id!r}"
        place = f"start={self.start}, end={self.end}, text={self.text!r}, document={self.document}"
        return f"Match({place}{named})"


class Context:
    """One text, and the documents that it is made of.

    Make one by `from_text`, `from_documents` or, on the host, `from_paths`. Offsets and sizes are in characters of
    `text`, in which the documents stand in order with the separator between them. It does not change once made.
    """

    # on the host, what reads files: paths and what to do with bytes that are not UTF-8 -> texts by path
    reader: Callable[[Iterable[str | PathLike[str]], str], Mapping[str, str]] | None = None

    def __init__(
        self,
        text: str,
        starts: Sequence[int],
        separator: str = "",
        about: Sequence[Mapping[str, Any]] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """`starts` are the offsets of the documents in `text`; `about` says what is known of each (id, title, ...)."""
        self._text = text
        self._starts = array("q", starts)
        self._separator = separator
        self._about = [dict(known) for known in about] if any(about) else []
        self._metadata = dict(metadata or {})
        self._by_id: dict[str, int] = {}
        for number, known in enumerate(self._about):
            if "id" in known and self._by_id.setdefault(known["id"], number) != number:
                raise ValueError(
                    f"documents {self._by_id[known['id']]} and {number} have the same id {_short(known['id'])}: "
                    "give each its own, or none"
                )

    # --- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def from_text(cls, text: str, metadata: Mapping[str, Any] | None = None) -> Context:
        """A context of one document. Raises TypeError for what is no str."""
        return cls(_text_of(text, "the text"), [0], metadata=metadata)

    @classmethod
    def of(cls, value: Any, separator: str = "\n\n") -> Context:
        """The documents that the value of a run's `context` stands for: a list of them, a dict of them by id, one text.

        A list that holds other things, as a child may be given, is read as their texts; bytes in a dict, as files that
        are no text have, are left out.
        """
        if isinstance(value, dict):
            named = cast("dict[Any, Any]", value).items()
            value = [(str(key), str(item)) for key, item in named if not isinstance(item, bytes)]
        if not isinstance(value, (list, tuple)):
            return cls.from_text("" if value is None else str(value))
        items = cast("Sequence[Any]", value)
        try:
            return cls.from_documents(items, separator)
        except (TypeError, ValueError):
            return cls.from_documents([str(item) for item in items], separator)

    @classmethod
    def from_documents(
        cls,
        docs: Iterable[Any] | Mapping[str, str],
        separator: str = "\n\n",
        metadata: Mapping[str, Any] | None = None,
    ) -> Context:
        """A context of several documents, in order.

        Each is a str, a pair (id, text), or a mapping with `text` (or `content`) and if need be `id`, `title` and
        `metadata`; what else a mapping holds is put with its metadata. A mapping in place of the list is read as text
        by id. `metadata` is kept for the context as a whole. Raises TypeError for what is none of these, and
        ValueError where an id comes twice.
        """
        if isinstance(docs, str):
            raise TypeError("docs is one str: give a list of documents, or use Context.from_text")
        items = cast("Mapping[str, str]", docs).items() if isinstance(docs, Mapping) else docs
        texts: list[str] = []
        about: list[dict[str, Any]] = []
        for number, item in enumerate(items):
            text, known = _document(item, number)
            texts.append(text)
            about.append(known)
        separator = _text_of(separator, "the separator")
        starts = _starts([len(text) for text in texts], len(separator))
        return cls(separator.join(texts), starts, separator, about, metadata)

    @classmethod
    def from_paths(
        cls,
        paths: str | PathLike[str] | Iterable[str | PathLike[str]],
        separator: str = "\n\n",
        errors: str = "strict",
    ) -> Context:
        """A context of the text files at `paths` (one path or several; of a folder all its files), each with its path
        as id.

        `errors` is what to do with bytes that are not UTF-8, as in `bytes.decode`. Raises FileNotFoundError, and
        ValueError for a file that is not text. In the sandbox there are no files: RuntimeError.
        """
        if cls.reader is None:
            raise RuntimeError(
                "there are no files to read in here: Context.from_paths works on the host; the data is in the variables"
            )
        several = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
        return cls.from_documents(cls.reader(several, errors), separator)

    # --- the text --------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All of the text, the documents with the separator between them."""
        return self._text

    def __len__(self) -> int:
        """The length of the text in characters."""
        return len(self._text)

    def __iter__(self) -> Iterator[str]:
        """The texts of the documents, in order."""
        return (self.get_document(number) for number in range(len(self._starts)))

    def len_chars(self) -> int:
        """The same, by the name that it has in pyrlm-runtime."""
        return len(self._text)

    def __repr__(self) -> str:
        number = len(self._starts)
        documents = f"{number:,} document{'' if number == 1 else 's'}"
        if number > 1:
            lengths = self.document_lengths()
            documents += f" of {min(lengths):,} to {max(lengths):,}"
        return f"<Context of {len(self._text):,} characters (about {len(self._text) // 4:,} tokens) in {documents}>"

    def slice(self, start: int = 0, end: int | None = None) -> str:
        """The text from offset `start` to before offset `end`; both as in `text[start:end]`."""
        return self._text[start:end]

    def find(
        self,
        pattern: str | re.Pattern[str],
        regex: bool = False,
        limit: int | None = None,
        ignore_case: bool = False,
    ) -> list[Match]:
        """Where `pattern` stands in the text, in order and without overlaps, at most `limit` places.

        `pattern` is taken word for word, or with `regex` as a regular expression of Python's; a compiled one may be
        given too. A match in a separator counts to the document before it. Raises ValueError for an empty pattern or
        a negative limit, and re.error for a bad regular expression.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for all places; it is {limit}")
        if not self._starts:
            return []
        return list(self._matches(_spans(self._text, pattern, regex, ignore_case), limit))

    def _matches(self, spans: Iterator[tuple[int, int]], limit: int | None) -> Iterator[Match]:
        document = 0
        for start, end in islice(spans, limit):
            # the places come in order: no document before the last one can hold the next
            document = bisect_right(self._starts, start, lo=document) - 1
            match = Match(start, end, self._text[start:end], document)
            if self._about:
                match.id = self._about[document].get("id")
            yield match

    def chunk(self, size: int, overlap: int = 0) -> list[str]:
        """The text cut into pieces of `size` characters, each of which repeats the last `overlap` of the one before.

        The last piece may be shorter. Raises ValueError if `size` is less than 1 or `overlap` is not less than `size`.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 character; it is {size}")
        if not 0 <= overlap < size:
            raise ValueError(
                f"overlap must be 0 or more and less than size, or the pieces would never reach the end; it is "
                f"{overlap} where size is {size}: choose an overlap of, say, {size // 10}"
            )
        if not self._text:
            return []
        last = max(1, len(self._text) - overlap)
        return [self._text[start : start + size] for start in range(0, last, size - overlap)]

    # --- the documents ---------------------------------------------------------------------------------------------

    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self._starts)

    def get_document(self, i: int | str) -> str:
        """The text of one document, by its index (from 0; negative from the end) or its id.

        Raises IndexError or KeyError where there is none.
        """
        start, end = self.span(i)
        return self._text[start:end]

    def span(self, i: int | str) -> tuple[int, int]:
        """The offsets at which a document begins and ends. Raises as `get_document`."""
        number = self._number(i)
        following = number + 1
        end = self._starts[following] - len(self._separator) if following < len(self._starts) else len(self._text)
        return self._starts[number], end

    def document_lengths(self) -> list[int]:
        """The length of each document in characters, in order."""
        if not self._starts:
            return []
        gap = len(self._separator)
        lengths = [after - before - gap for before, after in pairwise(self._starts)]
        return [*lengths, len(self._text) - self._starts[-1]]

    def chunk_documents(self, docs_per_chunk: int = 10) -> list[str]:
        """The text cut into pieces of `docs_per_chunk` whole documents each, with the separator between them.

        Raises ValueError if `docs_per_chunk` is less than 1.
        """
        if docs_per_chunk < 1:
            raise ValueError(f"docs_per_chunk must be at least 1; it is {docs_per_chunk}")
        number = len(self._starts)
        firsts = range(0, number, docs_per_chunk)
        return [
            self._text[self._starts[first] : self.span(min(first + docs_per_chunk, number) - 1)[1]] for first in firsts
        ]

    def document_at(self, offset: int) -> int:
        """The index of the document at an offset of the text; a separator counts to the document before it.

        Raises IndexError for an offset that is not in the text.
        """
        if not 0 <= offset < len(self._text):
            raise IndexError(f"offset {offset:,} is not in the text of {len(self._text):,} characters")
        return bisect_right(self._starts, offset) - 1

    def metadata(self, i: int | str | None = None) -> dict[str, Any]:
        """What is known of a document by its index or id: `characters`, and if there are any `id`, `title` and so on.

        Without `i` what is known of the whole: `documents`, `characters`, and what it was made with. Raises as
        `get_document`.
        """
        if i is None:
            return {**self._metadata, "documents": len(self._starts), "characters": len(self._text)}
        number = self._number(i)
        start, end = self.span(number)
        return {**(self._about[number] if self._about else {}), "characters": end - start}

    def _number(self, i: int | str) -> int:
        if isinstance(i, str):
            if i not in self._by_id:
                known = ", ".join(map(_short, islice(self._by_id, 5))) or "there are none"
                raise KeyError(f"no document has the id {_short(i)} (ids: {known}{', ...' * (len(self._by_id) > 5)})")
            return self._by_id[i]
        number = len(self._starts)
        if not -number <= i < number:
            raise IndexError(f"there is no document {i}: there are {number:,}, counted from 0")
        return i % number

    # --- on the way into the sandbox -------------------------------------------------------------------------------

    def to_value(self, with_text: bool = True) -> dict[str, Any]:
        """This context as a JSON-like value. Without the text it is small: give that to `from_value` again."""
        value: dict[str, Any] = {"separator": self._separator, "lengths": self.document_lengths()}
        if self._about:
            value["about"] = [dict(known) for known in self._about]
        if self._metadata:
            value["metadata"] = dict(self._metadata)
        return {"text": self._text, **value} if with_text else value

    @classmethod
    def from_value(cls, value: Mapping[str, Any], text: str | None = None) -> Context:
        """The context of which `value` was made by `to_value`; `text` if that is not in the value.

        Raises ValueError if lengths and text do not belong together.
        """
        whole: str = value["text"] if text is None else text
        separator: str = value["separator"]
        lengths: list[int] = value["lengths"]
        about: list[dict[str, Any]] = value.get("about", [])
        told = sum(lengths) + len(separator) * max(0, len(lengths) - 1)
        if told != len(whole) or min(lengths, default=0) < 0 or len(about) not in (0, len(lengths)):
            raise ValueError(f"the documents told make {told:,} characters, and the text has {len(whole):,}")
        return cls(whole, _starts(lengths, len(separator)), separator, about, value.get("metadata"))


def _starts(lengths: Sequence[int], gap: int) -> list[int]:
    starts: list[int] = []
    offset = 0
    for length in lengths:
        starts.append(offset)
        offset += length + gap
    return starts


def _document(item: Any, number: int) -> tuple[str, dict[str, Any]]:
    """The text of a document in any of its forms, and what is known of it."""
    if isinstance(item, str):
        return _text_of(item, f"document {number}"), {}
    if isinstance(item, Mapping):
        return _from_mapping(cast("Mapping[str, Any]", item), number)
    if isinstance(item, (tuple, list)):
        pair = cast("Sequence[Any]", item)
        if len(pair) == 2:
            return _text_of(pair[1], f"document {number}"), {"id": _text_of(str(pair[0]), "the id")}
    kind = type(cast(object, item)).__name__
    raise TypeError(f"document {number} is a {kind}: give a str, a pair (id, text), or a dict with 'text'")


def _from_mapping(item: Mapping[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    key = next((key for key in _TEXT_KEYS if key in item), None)
    if key is None:
        keys = ", ".join(_short(str(key)) for key in islice(item, 10))
        raise TypeError(f"document {number} has no 'text' (or 'content'); its keys: {keys}")
    known: dict[str, Any] = {}
    if item.get("id") is not None:
        known["id"] = _text_of(str(item["id"]), "the id")
    if item.get("title") is not None:
        known["title"] = item["title"]
    rest = {name: value for name, value in item.items() if name not in (key, "id", "title", "metadata")}
    metadata: object = item.get("metadata") or {}
    rest |= cast("Mapping[str, Any]", metadata) if isinstance(metadata, Mapping) else {"metadata": metadata}
    if rest:
        known["metadata"] = rest
    return _text_of(item[key], f"document {number}"), known


def _text_of(value: Any, what: str) -> str:
    """`value` if it is a str that has a form in UTF-8; with U+FFFD for each lone surrogate if it has none.

    What enters the sandbox is made so, and offsets must mean the same on both sides.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str; it is a {type(value).__name__}")
    if value.isascii():
        return value
    try:
        for start in range(0, len(value), _PIECE):
            # a piece at a time: the bytes of all of it would be a copy
            value[start : start + _PIECE].encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def _spans(text: str, pattern: str | re.Pattern[str], regex: bool, ignore_case: bool) -> Iterator[tuple[int, int]]:
    if not pattern:
        raise ValueError("the pattern is empty: give the text to look for")
    if isinstance(pattern, str) and not regex and not ignore_case:
        return _occurrences(text, pattern)
    if isinstance(pattern, str):
        pattern = re.compile(pattern if regex else re.escape(pattern), re.IGNORECASE if ignore_case else 0)
    return (match.span() for match in pattern.finditer(text))


def _occurrences(text: str, pattern: str) -> Iterator[tuple[int, int]]:
    start = text.find(pattern)
    while start >= 0:
        end = start + len(pattern)
        yield start, end
        start = text.find(pattern, end)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
