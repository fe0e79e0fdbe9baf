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
from typing import Any

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
# What is left of an old output, and how full the room may then be. First as much as tells what it was (40 lines), and
# a quarter of the room is made free at once: cutting a little at every reply would undo the provider's prompt cache
# every time. Then its first and last lines, of as few as will do.
_CUTS = ((500, 0.75), (100, 1.0))


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


class Cut(msgspec.Struct, frozen=True):
    """A text without its middle; `left_out` is in tokens."""

    head: str
    tail: str
    left_out: int


def cut(text: str, most: int, model: str) -> Cut | None:
    """The head and tail of a text that has more than `most` tokens, half of them each; None if it has no more."""
    if surely_fits(text, most):
        return None
    encoding = _encoding(model)
    if encoding is None:
        tokens = count_tokens(text, model)
        if tokens <= most:
            return None
        half = most * _CHARS_PER_TOKEN // 2
        return Cut(text[:half], text[len(text) - half :], tokens - most)
    numbers = [number for piece in _pieces(text) for number in encoding.encode_ordinary(piece)]
    if len(numbers) <= most:
        return None
    half = most // 2
    # a character that is cut through becomes U+FFFD, at the border of what is left out
    head, tail = encoding.decode(numbers[:half]), encoding.decode(numbers[len(numbers) - half :])
    return Cut(head, tail, len(numbers) - 2 * half)


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


def size(messages: Sequence[Message], measure: Measure) -> int:
    """How many tokens messages take together."""
    return sum(measure(message) for message in messages)


def shrink(exchanges: Sequence[Exchange], room: int, measure: Measure, model: str) -> list[Exchange]:
    """The exchanges with old outputs cut, the oldest first, the last exchange never.

    Those that fit are given back as they are; if all were cut, they may still take more than `room` tokens.
    """
    kept = list(exchanges)
    taken = sum(size(exchange.messages, measure) for exchange in kept)
    if taken <= room:
        return kept
    for most, share in _CUTS:
        for place, exchange in enumerate(kept[:-1]):
            if taken <= room * share:
                return kept
            shorter = _cut_outputs(exchange, most, measure, model)
            taken -= size(exchange.messages, measure) - size(shorter.messages, measure)
            kept[place] = shorter
    return kept


def _cut_outputs(exchange: Exchange, most: int, measure: Measure, model: str) -> Exchange:
    whole = exchange.whole or exchange.messages
    shorter: list[Message] = []
    for message, now in zip(whole, exchange.messages, strict=True):
        # what the model wrote itself is how it knows what it did: only a summary replaces that
        parts = None if message.role == "assistant" else cut(message.content, most, model)
        if parts is not None:
            text = prompts.cut_output(parts.head, parts.tail, parts.left_out, exchange.number)
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
