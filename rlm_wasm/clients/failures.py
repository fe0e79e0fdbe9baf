"""What a failed call means: from a server's status, headers and body to one `ClientError`.

Owns the words that servers use for a full window, an unknown model and a pause, and whether the same call may pass
later. Opens no connection and waits for nothing.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from rlm_wasm.errors import ClientError

# What msgspec raises for bytes that are no JSON, or none that can be read.
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# What servers say of a prompt that is too long.
_OVERFLOW = re.compile(
    r"(?:exceed|greater than|longer than|maximum).{0,40}?context[ _](?:length|window|size)"  # OpenAI, llama.cpp, Ollama
    r"|context[ _](?:length|window|size).{0,40}?(?:exceed|only)|context the overflows"  # vLLM, MiniMax, LM Studio
    r"|maximum (?:model|prompt) length|reduce the length of the (?:messages|input|prompt)"  # vLLM, xAI, Groq
    r"|(?:prompt|input|string) (?:is )?too long"  # Anthropic, Bedrock, OpenAI
    r"|token count.{0,40}?exceeds|exceeded model token limit",  # Gemini, Kimi
    re.IGNORECASE,
)
_UNKNOWN_MODEL = re.compile(r"model_not_found|not a valid model|model .{0,80}?does not exist", re.IGNORECASE)


class Failure(msgspec.Struct, frozen=True):
    """An attempt without a reply. `wait`: seconds until it may be asked again, 0 if not said, None for never."""

    text: str
    status: int | None = None
    wait: float | None = None

    def error(self, after: str = "") -> ClientError:
        """The error to raise, its text followed by `after`."""
        passing = self.wait is not None
        return ClientError(self.text + after, status=self.status, transient=passing, retry_after=self.wait or None)


def refused(
    status: int,
    headers: Mapping[str, str],
    text: str,
    *,
    model: str,
    host: str,
    keys: str = "api_key",
    not_found: str = "",
) -> Failure:
    """What an answer with an error status means.

    `keys` says where the key comes from, for a 401; `not_found` is a hint for a 404 that does not speak of the model.
    """
    said, start = complaint(text), text[:4000]
    # Not 429: "too many tokens per minute" is said in nearly the same words, and passes.
    if status in (400, 413, 422, 500) and _OVERFLOW.search(start):
        # llama.cpp has the numbers beside its message, not in it.
        numbers = said if re.search(r"\d", said) else shown(text)
        return Failure(f"the prompt does not fit the context window of {model!r}: {numbers}", 400)
    if status == 404 or (status < 500 and _UNKNOWN_MODEL.search(start)):
        hint = "" if "model" in start.lower() else not_found
        return Failure(f"{host} does not serve the model {model!r} (HTTP {status}): {said}{hint}", status)
    told = told_seconds(headers, time.time())
    hint = f"; it asks for a pause of {told:g} s" if told else ""
    if status == 401:
        hint = f"; the key comes from {keys}"
    # A spent quota is a 429 too, and no wait refills it.
    final = headers.get("x-should-retry") == "false" or "insufficient_quota" in start
    passing = not final and (status in (408, 409, 429) or status >= 500)
    return Failure(f"{host} answered HTTP {status}: {said}{hint}", status, wait=told if passing else None)


def broken(host: str, reason: BaseException) -> Failure:
    """A connection that was not made, or broke: nothing was answered, so the call may be made again."""
    return Failure(f"no reply from {host} ({type(reason).__name__}: {shown(str(reason))})", wait=0)


def late(host: str, seconds: float) -> Failure:
    """A reply that did not come in time. Not to be asked for again: the server goes on with the first, and bills both.

    `seconds` is the deadline that it missed.
    """
    return Failure(f"{host} gave no reply within {seconds:g} s")


class _Complaint(msgspec.Struct):
    # Where error bodies have their text, each some server's habit.
    error: dict[str, Any] | str | None = None
    message: str | None = None
    detail: str | None = None


def complaint(text: str) -> str:
    """What a server's error body says, without its wrapping."""
    try:
        body = msgspec.json.decode(text, type=_Complaint)
    except NOT_JSON:
        return shown(text)
    error = body.error.get("message") if isinstance(body.error, dict) else body.error
    return shown(str(error or body.message or body.detail or text))


def shown(text: str) -> str:
    """Another machine's text, on one line, printable and at most 400 characters: it goes to terminals and logs."""
    # Never cut inside a word: half a key could not be found and hidden any more.
    line = textwrap.shorten(text, 400, placeholder=" [...]", break_long_words=False, break_on_hyphens=False)
    return "".join(character if character.isprintable() else "?" for character in line) or "(nothing)"


def told_seconds(headers: Mapping[str, str], now: float) -> float:
    """What Retry-After asks for, in seconds, 0 for nothing; `now` is in Unix time, for its form as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,300}(\.\d*)?", written := headers.get(name, "").strip()):
            return float(written) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
