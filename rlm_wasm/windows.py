"""How much of a model's window a text takes, and what of a conversation gives way when it takes too much.

Owns the counting of tokens, the cutting of a text to a number of them, and the decisions: which outputs are cut, to
what size, and which exchanges are left out. Asks no model and awaits nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from rlm_wasm import prompts
from rlm_wasm.errors import ClientError
from rlm_wasm.prompts import Message

_CHARS_PER_TOKEN = 4
# what a message takes beside its text: its role and its borders (OpenAI's cookbook counts 3 or 4)
_PER_MESSAGE = 4
# A letter repeated a million times takes tiktoken minutes: its time grows with the square of a piece without a border.
_PIECE_CHARS = 20_000
# What models of an unknown name are counted by: nearer to any tokenizer of today than characters are.
_USUAL_ENCODING = "o200k_base"
_ENCODING_FILES = "https://openaipublic.blob.core.windows.net/encodings/"
# A quarter, so that a small window is not eaten up by it; at most what a long thought and a long cell take together.
_REPLY_SHARE, _REPLY_MOST = 4, 16_000


# --- counting --------------------------------------------------------------------------------------------------------


def count_tokens(text: str, model: str) -> int:
    """How many tokens a text is for a model: by tiktoken where it is installed and has its files, else estimated.

    The estimate is 4 characters a token, rounded up. tiktoken's files are never fetched from here: it does so itself
    at its own first use, or finds them in the folder that TIKTOKEN_CACHE_DIR names.
    """
    encoding = _encoding(model)
    if encoding is None:
        return -(-len(text) // _CHARS_PER_TOKEN)
    return sum(len(encoding.encode_ordinary(piece)) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS))


def surely_fits(text: str, tokens: int) -> bool:
    """Whether a text has so few bytes that it is no more than so many tokens for any model: counts none."""
    # a token is a byte or more
    most_bytes = len(text) if text.isascii() else 4 * len(text)
    return most_bytes <= tokens or len(text.encode(errors="surrogatepass")) <= tokens


def check_windows(windows: Mapping[str, int]) -> None:
    """Raise ValueError for a window that is none."""
    for model, tokens in windows.items():
        if tokens < 1:
            raise ValueError(f"windows[{model!r}] must be a number of tokens above 0, not {tokens!r}")


@functools.cache
def _encoding(model: str) -> Any:
    """tiktoken's encoding for a model; None where there is no tiktoken, or it would have to fetch its files."""
    try:
        tiktoken = importlib.import_module("tiktoken")
        try:
            name = tiktoken.encoding_name_for_model(model)
        except KeyError:
            name = _USUAL_ENCODING
        return tiktoken.get_encoding(name) if _has_file(name) else None
    except Exception:
        # whatever is amiss with a package that need not be there: the estimate does
        return None


def _has_file(encoding: str) -> bool:
    """Whether tiktoken has the file of an encoding on disk, by the rule of its `load.read_file_cached`."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    file = {"p50k_edit": "p50k_base", "o200k_harmony": "o200k_base"}.get(encoding, encoding)
    address = f"{_ENCODING_FILES}{file}.tiktoken"
    # sha1 is tiktoken's name for the file, and guards nothing
    return folder != "" and Path(folder, hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()).is_file()


# In the words of OpenAI, Azure, Anthropic, Google, vLLM, llama.cpp and those who pass their errors on.
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|too (?:long|large|many (?:input )?tokens)"
    r"|token count .{0,40}exceeds|maximum number of (?:input )?tokens|reduce the (?:length|size) of|string_above_max",
    re.IGNORECASE,
)


def says_too_long(error: ClientError) -> bool:
    """Whether a model could not be asked because the prompt was too long for it, by the status or the words."""
    return error.status == 413 or _TOO_LONG.search(str(error)) is not None


# --- cutting ---------------------------------------------------------------------------------------------------------


Unit = Literal["characters", "words", "tokens"]


class Cutting(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of an old output when the conversation fills the window: so many of a unit, half at each end.

    First `keep` of each that is cut, and a quarter of the room is made free at once: cutting a little at every reply
    would undo the provider's prompt cache every time. If all were cut and it is still too much, `least` of as few as
    will do. Raises ValueError unless 0 < least <= keep.
    """

    by: Unit = "tokens"  # what a window is measured in; a table or base64 has few words, and many tokens
    keep: int = 500  # about 40 lines: enough to see what it was
    least: int = 100  # the first lines and the last

    def __post_init__(self) -> None:
        if self.by not in get_args(Unit):
            raise ValueError(f"Cutting.by must be one of {', '.join(get_args(Unit))}, not {self.by!r}")
        if not 0 < self.least <= self.keep:
            raise ValueError(f"Cutting: least ({self.least!r}) must be above 0, and keep ({self.keep!r}) no less")


class Cut(msgspec.Struct, frozen=True):
    """A text without its middle; `left_out` is how much that is, in the unit by which it was cut."""

    head: str
    tail: str
    left_out: int


def cut(text: str, most: int, model: str, by: Unit = "tokens") -> Cut | None:
    """The head and tail of a text that has more than `most` of a unit; None if it has no more.

    A model's tokens are those of `count_tokens`.
    """
    if len(text) <= most and by != "tokens":
        return None
    first, last = most - most // 2, most // 2
    if by == "characters":
        return Cut(text[:first], text[len(text) - last :], len(text) - most)
    if by == "words":
        words = [found.span() for found in re.finditer(r"\S+", text)]
        if len(words) <= most:
            return None
        tail = text[words[-last][0] :] if last else ""
        return Cut(text[: words[first - 1][1]], tail, len(words) - most)
    return _cut_by_tokens(text, first, last, model)


def _cut_by_tokens(text: str, first: int, last: int, model: str) -> Cut | None:
    encoding = _encoding(model)
    if encoding is None:
        left_out = count_tokens(text, model) - first - last
        tail = text[len(text) - last * _CHARS_PER_TOKEN :]
        return Cut(text[: first * _CHARS_PER_TOKEN], tail, left_out) if left_out > 0 else None
    numbers = [number for piece in _pieces(text) for number in encoding.encode_ordinary(piece)]
    left_out = len(numbers) - first - last
    if left_out <= 0:
        return None
    # a character that is cut through becomes U+FFFD, at the border of what is left out
    return Cut(encoding.decode(numbers[:first]), encoding.decode(numbers[len(numbers) - last :]), left_out)


# --- deciding --------------------------------------------------------------------------------------------------------

Measure = Callable[[Message], int]
"""How many tokens a message takes."""


class Exchange(msgspec.Struct, frozen=True):
    """A reply and all that came of it, which stay together: a call of the tool is followed by its result.

    `number` is its place in `history`, and of what stands in for several the last one's. `whole` are its messages as
    they were before any was cut; () if none was.
    """

    messages: tuple[Message, ...]
    number: int
    whole: tuple[Message, ...] = ()


def room(window: int) -> int:
    """How many tokens the messages may take, so that the reply has room in the window too."""
    return window - min(window // _REPLY_SHARE, _REPLY_MOST)


def with_room(tokens: int) -> int:
    """The window in which the messages may take so many tokens: the other way round than `room`."""
    return tokens + min(tokens // (_REPLY_SHARE - 1), _REPLY_MOST)


def size(messages: Sequence[Message], measure: Measure) -> int:
    """How many tokens messages take together."""
    return sum(measure(message) for message in messages)


def shrink(exchanges: Sequence[Exchange], room: int, measure: Measure, model: str, cutting: Cutting) -> list[Exchange]:
    """The exchanges with old outputs cut, the oldest first, the last exchange never.

    Those that fit are given back as they are; if all were cut, they may still take more than `room` tokens.
    """
    kept = list(exchanges)
    taken = sum(size(exchange.messages, measure) for exchange in kept)
    if taken <= room:
        return kept
    for most, share in ((cutting.keep, 0.75), (cutting.least, 1.0)):
        for place, exchange in enumerate(kept[:-1]):
            if taken <= room * share:
                return kept
            shorter = _cut_outputs(exchange, most, cutting.by, measure, model)
            taken -= size(exchange.messages, measure) - size(shorter.messages, measure)
            kept[place] = shorter
    return kept


def _cut_outputs(exchange: Exchange, most: int, by: Unit, measure: Measure, model: str) -> Exchange:
    whole = exchange.whole or exchange.messages
    shorter: list[Message] = []
    for message, now in zip(whole, exchange.messages, strict=True):
        # what the model wrote itself is how it knows what it did: only a summary replaces that
        parts = None if message.role == "assistant" else cut(message.content, most, model, by)
        if parts is not None:
            text = prompts.cut_output(parts.head, parts.tail, parts.left_out, by, exchange.number)
            cut_message = msgspec.structs.replace(message, content=text)
            now = cut_message if measure(cut_message) < measure(now) else now
        shorter.append(now)
    if tuple(shorter) == exchange.messages:
        return exchange
    return Exchange(tuple(shorter), exchange.number, whole)


def drop(exchanges: Sequence[Exchange], room: int, measure: Measure) -> list[Exchange]:
    """The exchanges without the oldest, for which a note stands in; as few as it takes to fit, never the last.

    They take more than `room` tokens only if the note and the last exchange do.
    """
    kept = list(exchanges)
    for count in range(len(exchanges)):
        kept = list(exchanges[count:])
        if count:
            kept.insert(0, left_out(exchanges[count - 1].number))
        if sum(size(exchange.messages, measure) for exchange in kept) <= room:
            break
    return kept


def left_out(last: int) -> Exchange:
    """What stands for the exchanges up to the one of a number when they are left out."""
    return _stand_in(*prompts.left_out(last), last)


def summarized(summary: str, last: int) -> Exchange:
    """What stands for the exchanges up to the one of a number when they are summed up."""
    return _stand_in(*prompts.summarized(summary, last), last)


def _stand_in(said: str, told: str, last: int) -> Exchange:
    # one of each role: many chat templates refuse two of one role in a row
    return Exchange((Message("assistant", said), Message("user", told)), last)


class Window:
    """One model's window, as far as it is known: None until somebody has said it, or an overflow has shown it."""

    def __init__(self, model: str, tokens: int | None = None) -> None:
        self.model = model
        self.tokens = tokens
        self._measured: dict[Message, int] = {}

    def __repr__(self) -> str:
        return f"<Window of {self.model}: {self.tokens} tokens>"

    def measure(self, message: Message) -> int:
        """How many tokens a message takes; counted once."""
        known = self._measured.get(message)
        if known is None:
            texts = [message.content, *(call.code for call in message.calls)]
            known = _PER_MESSAGE + sum(count_tokens(text, self.model) for text in texts)
            self._measured[message] = known
        return known

    def surely_holds(self, messages: Sequence[Message]) -> bool:
        """Whether messages are so short that they leave room for a reply for certain: counts no tokens."""
        if self.tokens is None:
            return False
        texts = [text for message in messages for text in (message.content, *(call.code for call in message.calls))]
        left = room(self.tokens) - _PER_MESSAGE * len(messages)
        return surely_fits("".join(texts), left)

    def overflowed(self, messages: Sequence[Message]) -> None:
        """Note that messages did not fit: the window is taken for three quarters of what they are, at most."""
        shown = size(messages, self.measure) * 3 // 4
        self.tokens = shown if self.tokens is None else min(shown, self.tokens)
