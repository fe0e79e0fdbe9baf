"""Bytes to text: the encoding that is given or found out, and bytes where there is no text in them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import msgspec

# bytes; enough to tell by
_SAMPLE = 100_000
# so few bytes outside ASCII say nothing of their encoding
_TELLING = 8
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF-", b"PK\x03\x04", b"\x7fELF", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")
# control characters that are in no text
_CONTROLS = bytes({*range(32)} - {*b"\t\n\r\f\b\x1b"})


class Decoded(msgspec.Struct, frozen=True):
    """A text with its encoding, or bytes; and what is to be said of it, if anything."""

    value: str | bytes
    encoding: str | None = None
    note: str = ""


def decoded(
    content: bytes, origin: str, *, encoding: str | None = None, errors: str = "strict", explicit: bool = True
) -> Decoded:
    """The text of a file, or its bytes if there is no text in it.

    The encoding is `encoding` if that is given, else that of a byte order mark, UTF-8, UTF-16, or what
    charset-normalizer finds if it is installed and there is enough to tell by. Bytes that are not text are handled by
    `errors` as in `bytes.decode`; where that is "strict" they raise ValueError, which says where, in a file that was
    named by itself (`explicit`), and become U+FFFD in another, which the note says.
    """
    if encoding is not None:
        return _by(encoding, content, origin, errors, explicit)
    for mark, its in _BOMS:
        if content.startswith(mark):
            return _by(its, content[len(mark) :], origin, errors, explicit)
    if content.startswith(_NO_TEXT):
        return Decoded(content)
    if b"\0" in content[:_SAMPLE]:
        wide = _wide(content)
        if wide is not None:
            return _by(wide, content, origin, errors, explicit)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return _without(error, content, origin, errors, explicit)
    return Decoded(content) if _has_controls(content[:_SAMPLE]) else Decoded(text, "utf-8")


def _without(error: UnicodeDecodeError, content: bytes, origin: str, errors: str, explicit: bool) -> Decoded:
    """A file that is not UTF-8."""
    sample = content[max(0, error.start - _SAMPLE) : error.start + _SAMPLE]
    if _has_controls(sample):
        return Decoded(content)
    if errors == "strict" and not _is_damaged(sample):
        found = _guessed(sample)
        if found is not None:
            try:
                return Decoded(content.decode(found), found, f"not UTF-8: taken for {found}, by what is in it")
            except UnicodeDecodeError:
                pass
    return _by("utf-8", content, origin, errors, explicit)


def _by(encoding: str, content: bytes, origin: str, errors: str, explicit: bool) -> Decoded:
    try:
        return Decoded(content.decode(encoding, errors), encoding)
    except UnicodeDecodeError as error:
        if explicit:
            raise ValueError(refusal(content, origin, error, encoding)) from error
        text = content.decode(encoding, "replace")
        line = content.count(b"\n", 0, error.start) + 1
        what = "UTF-8" if encoding == "utf-8" else encoding
        note = f"not {what} from offset {error.start:,} (line {line:,}) on: U+FFFD stands for what is no text"
        return Decoded(text, encoding, note)


def refusal(content: bytes, origin: str, error: UnicodeDecodeError, encoding: str = "utf-8") -> str:
    """What is said of bytes that are not what they should be: which byte, where, and what can be done."""
    line = content.count(b"\n", 0, error.start) + 1
    what = "UTF-8" if encoding == "utf-8" else encoding
    return (
        f"{origin} is not {what}: byte 0x{content[error.start]:02x} at offset {error.start:,} (line {line:,}); "
        "pass errors='replace' (on the command line --errors replace) to read it all the same, "
        "Files(..., encoding='cp1252') (--encoding cp1252) if that is its encoding, or pass the bytes as the context"
    )


def check(encoding: str | None) -> None:
    """Raise ValueError for the name of no encoding of text."""
    try:
        known = encoding is None or codecs.lookup(encoding)._is_text_encoding  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    except LookupError:
        known = False
    if not known:
        raise ValueError(f"encoding: there is no {encoding!r}")


def _wide(content: bytes) -> str | None:
    """UTF-16 without a mark, told by the zeros that most texts have in every other byte."""
    sample = content[:_SAMPLE]
    even, odd = (sample[first::2].count(0) * 2 / len(sample) for first in (0, 1))
    if len(sample) >= 4 and odd > 0.4 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if len(sample) >= 4 and even > 0.4 and odd < 0.05 else None


def _has_controls(sample: bytes) -> bool:
    # a stray one does not make bytes of a log
    return len(sample) - len(sample.translate(None, _CONTROLS)) > len(sample) / 200


def _is_damaged(sample: bytes) -> bool:
    """Whether it is UTF-8 in the main: other encodings seldom have its sequences."""
    text = sample.decode(errors="replace")
    bad = text.count("\ufffd")
    return len(text) - len(text.encode("ascii", "ignore")) - bad > bad


def _guessed(sample: bytes) -> str | None:
    if len(sample.translate(None, bytes(range(128)))) < _TELLING:
        return None
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    best = from_bytes(sample).best()
    # of encodings that differ in a few letters it names one at random, and this is what most such files have
    western = from_bytes(sample, cp_isolation=["cp1252"]).best()
    if western is not None and (best is None or (western.chaos, -western.coherence) <= (best.chaos, -best.coherence)):
        return "cp1252"
    return None if best is None else best.encoding


def join(notes: Sequence[str]) -> str:
    """Several notes as one."""
    return "; ".join(note for note in notes if note)
