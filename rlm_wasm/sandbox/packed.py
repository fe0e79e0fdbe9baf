"""Values whose bulk is text or bytes, on their way into the sandbox: a short index, and the bulk as it is.

As a JSON text such a value would be escaped here, scanned there, and held twice on both sides. Packed it is, one after
the other: the length of the index in decimal digits and a line feed; the index, a JSON text as in `values.py` in UTF-8;
and the bulk. In the index stand for what is in the bulk:

    {"$text": [form, start, size]}      a text in that form ("a" ASCII, "l" Latin-1, "u" UTF-16-LE, "w" UTF-32-LE), or
                                        bytes ("b"); `start` and `size` count bytes of the bulk
    {"$texts": [order, runs]}           a list of such: `runs` has by form [start, size, lengths in characters or
                                        bytes], one after the other; `order` is a form for each item
    {"$named": [keys, texts]}           a dict with such a list as its values

Only the host packs; `deno/values.py` unpacks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from rlm_wasm.sandbox.values import to_plain, well_formed

# one part: large enough that its frame costs nothing, small enough to be on its way while the next is made
PART_BYTES = 4 * 1024 * 1024
WIDTHS = {"ascii": 1, "latin1": 1, "ucs2": 2, "ucs4": 4, "bytes": 1}
_CODECS = {"ascii": "ascii", "latin1": "latin-1", "ucs2": "utf-16-le", "ucs4": "utf-32-le"}
_LETTERS = {"ascii": "a", "latin1": "l", "ucs2": "u", "ucs4": "w", "bytes": "b"}
_SURROGATES = re.compile("[\ud800-\udfff]")
# characters or bytes; what is shorter, or a list or dict that has less in all, costs no less in the bulk
_LONG = 256
_LONG_IN_ALL = 4096


class Packed(msgspec.Struct, frozen=True):
    """A packed value: `head` is the index with its length before it, `bulk` what follows, texts of a form together."""

    head: bytes
    bulk: tuple[tuple[str, Sequence[str | bytes]], ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def parts(self) -> Iterator[bytes]:
        """All of it, some megabytes at a time, none of it held twice."""
        waiting, length = [self.head], len(self.head)
        for form, contents in self.bulk:
            for group in _groups(contents, PART_BYTES // WIDTHS[form]):
                for piece in pieces(form, group):
                    if length + len(piece) > PART_BYTES:
                        yield b"".join(waiting)
                        waiting, length = [], 0
                    waiting.append(piece)
                    length += len(piece)
        yield b"".join(waiting)


class _Bulk:
    """What is taken out of a value."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Sequence[str | bytes]]] = []
        self.end = 0

    def keep(self, value: object) -> object | None:
        """What stands in the index for a value, if it belongs into the bulk."""
        if isinstance(value, (str, bytes)):
            if len(value) < _LONG:
                return None
            form, content = _formed(value)
            start, size = self._take(form, [content])
            return {"$text": [_LETTERS[form], start, size]}
        if isinstance(value, list):
            return self._keep_list(cast("list[object]", value))
        named = cast("dict[object, object]", value)
        texts = self._keep_list(list(named.values())) if set(map(type, named)) == {str} else None
        return None if texts is None else {"$named": [[well_formed(cast(str, key)) for key in named], texts]}

    def _keep_list(self, items: list[object]) -> object | None:
        kinds = set(map(type, items))
        if not kinds <= {str, bytes}:
            return None
        texts = cast("list[str | bytes]", items)
        if sum(map(len, texts)) < _LONG_IN_ALL:
            return None
        if kinds == {str} and all(map(str.isascii, cast("list[str]", texts))):
            # what most are, and what is told soonest
            return {"$texts": ["", {"a": [*self._take("ascii", texts), list(map(len, texts))]}]}
        formed = [_formed(text) for text in texts]
        by_form: dict[str, list[str | bytes]] = {}
        for form, text in formed:
            by_form.setdefault(form, []).append(text)
        runs = {_LETTERS[form]: [*self._take(form, run), list(map(len, run))] for form, run in by_form.items()}
        return {"$texts": ["".join([_LETTERS[form] for form, _ in formed]) if len(runs) > 1 else "", runs]}

    def _take(self, form: str, contents: Sequence[str | bytes]) -> tuple[int, int]:
        start, size = self.end, sum(map(len, contents)) * WIDTHS[form]
        self.taken.append((form, contents))
        self.end += size
        return start, size


def pack(value: object) -> Packed | str:
    """A value packed, or as the JSON text that `encode` makes of it where there is no bulk. Raises as `encode` does."""
    bulk = _Bulk()
    text = json.dumps(to_plain(value, bulk.keep), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if not bulk.taken:
        return text
    index = text.encode()
    head = b"%d\n%b" % (len(index), index)
    return Packed(head, tuple(bulk.taken), len(head) + bulk.end)


def pieces(form: str, content: str | bytes) -> Iterator[bytes]:
    """A text in its form, or bytes, some megabytes at a time. Lone surrogates become U+FFFD."""
    step = PART_BYTES // WIDTHS[form]
    for start in range(0, len(content), step):
        piece = content[start : start + step]
        yield piece if isinstance(piece, bytes) else _encoded(piece, _CODECS[form])


def find_form(text: str) -> str:
    """The form in which CPython holds a text: by its widest character."""
    if text.isascii():
        return "ascii"
    form = _narrow(text)
    if form == "ucs2" and any(_is_wide(text[start : start + PART_BYTES]) for start in range(0, len(text), PART_BYTES)):
        return "ucs4"
    return form


def _formed(content: str | bytes) -> tuple[str, str | bytes]:
    """The form of a text or of bytes, and the text without lone surrogates."""
    if isinstance(content, bytes):
        return "bytes", content
    if content.isascii():
        return "ascii", content
    if len(content) <= PART_BYTES:
        try:
            return ("ucs4" if len(content.encode("utf-16-le")) > 2 * len(content) else _narrow(content)), content
        except UnicodeEncodeError:
            pass
    content = well_formed(content)
    return find_form(content), content


def _narrow(text: str) -> str:
    try:
        # fails at the first character that does not fit, which is near the start of most texts that have one
        text.encode("latin-1")
    except UnicodeEncodeError:
        return "ucs2"
    return "latin1"


def _groups(contents: Sequence[str | bytes], most: int) -> Iterator[str | bytes]:
    """What is short put together: each piece by itself would cost more than what is in it."""
    group: list[str | bytes] = []
    length = 0
    for content in contents:
        if group and length + len(content) > most:
            yield _joined(group)
            group, length = [], 0
        group.append(content)
        length += len(content)
    if group:
        yield _joined(group)


def _joined(group: list[str | bytes]) -> str | bytes:
    if len(group) == 1:
        return group[0]
    return b"".join(cast("list[bytes]", group)) if isinstance(group[0], bytes) else "".join(cast("list[str]", group))


def _encoded(piece: str, codec: str) -> bytes:
    try:
        return piece.encode(codec)
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", piece).encode(codec)


def _is_wide(piece: str) -> bool:
    return len(piece.encode("utf-16-le", "surrogatepass")) > 2 * len(piece)
