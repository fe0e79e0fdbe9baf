"""Ways to ask that models write over and over: one question to many pieces of text, and a look at the context.

Owns the words of those questions, and what counts as no answer. Model calls go through `rlm_host`, whose errors
(FunctionError, LimitExceeded) pass through here. Knows nothing of the host.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from rlm_host import llm_query, llm_query_batched, namespace

__all__ = [
    "ask",
    "ask_chunks",
    "ask_chunks_first",
    "citations",
    "cite",
    "extract_after",
    "peek",
    "pick_first_answer",
    "tail",
]

# what was noted by `cite`, in order: {"text": ..., "document": id, index or None}
citations: list[dict[str, Any]] = []

_llm_query = cast("Callable[..., str]", llm_query)
_llm_query_batched = cast("Callable[..., list[str]]", llm_query_batched)
_namespace = cast("Callable[[], dict[str, Any]]", namespace)

# as many as a host commonly asks at once: more would be asked in vain when the first holds the answer
_BATCH = 4
_GAP = "\n\n"


# --- one question, many pieces -------------------------------------------------------------------------------------


def ask(question: str, text: str, model: str | None = None, *, max_tokens: int | None = None) -> str:
    """The model's answer to `question` from `text` alone; it is told to say NOT FOUND where the text has none.

    `max_tokens`: of the answer, as in `llm_query`.
    """
    return _llm_query(_question(question, text), model, *_at_most(max_tokens))


def ask_chunks(
    question: str,
    chunks: Sequence[str],
    model: str | None = None,
    parallel: int | bool | None = None,
    *,
    max_tokens: int | None = None,
) -> list[str]:
    """The answers to `question` from each of `chunks`, in their order; `max_tokens`: of each.

    They are asked at once; with a number in `parallel` at most so many at a time, with False one by one. An error
    carries what was answered as `.partial`, with None where there is no answer.
    """
    prompts = [_question(question, chunk) for chunk in _checked(chunks)]
    size = max(1, len(prompts) if parallel is None or parallel is True else int(parallel))
    answers: list[Any] = []
    for first in range(0, len(prompts), size):
        batch = prompts[first : first + size]
        try:
            answers += _llm_query_batched(batch, model, *_at_most(max_tokens))
        except RuntimeError as error:
            told = answers + _partial(error)
            # the error tells of its own batch only
            cast(Any, error).partial = told + [None] * (len(prompts) - len(told))
            raise
    return answers


def ask_chunks_first(
    question: str, chunks: Sequence[str], model: str | None = None, *, max_tokens: int | None = None
) -> str | None:
    """The first answer in the order of `chunks` that is one, or None. Asks a few chunks at a time and then stops."""
    chunks = _checked(chunks)
    for first in range(0, len(chunks), _BATCH):
        try:
            answers = ask_chunks(question, chunks[first : first + _BATCH], model, max_tokens=max_tokens)
        except RuntimeError as error:
            partial = _partial(error)
            # beyond the first that is missing, an answer might not be the first
            before = partial[: partial.index(None)] if None in partial else partial
            found = pick_first_answer(before)
            if found is None:
                raise
            return found
        found = pick_first_answer(answers)
        if found is not None:
            return found
    return None


def pick_first_answer(answers: Sequence[str | None]) -> str | None:
    """The first of `answers` that is one, or None: not empty, no "not found", no "the text does not say"."""
    return next((answer for answer in answers if isinstance(answer, str) and _is_answer(answer)), None)


def _question(question: str, text: str) -> str:
    return (
        f"{question}\n\nAnswer briefly, from the text below alone. If it does not hold the answer, reply NOT FOUND and "
        f"nothing else.\n\n<text>\n{text}\n</text>"
    )


def _at_most(max_tokens: int | None) -> tuple[int, ...]:
    return () if max_tokens is None else (max_tokens,)


def _checked(chunks: Sequence[str]) -> Sequence[str]:
    if isinstance(chunks, str):
        raise TypeError("chunks is one str, and each of its characters would be asked about: give a list of str")
    return chunks if isinstance(chunks, (list, tuple)) else list(chunks)


def _partial(error: RuntimeError) -> list[Any]:
    return list(getattr(error, "partial", None) or [])


_PREFIX = re.compile(r"\W*(?:final )?answer\s*[:=]", re.IGNORECASE)
_NOTHING = " \t\r\n.,;:!?-\u2013\u2014\u2026'\"`*_#()[]{}<>"
_UNKNOWN = frozenset(
    (
        *("none", "null", "nil", "nan", "na", "n a", "unknown", "not known", "nothing", "nothing found", "not found"),
        *("not applicable", "unanswerable", "no answer", "no match", "no matches", "no result", "no results"),
        *("idk", "not sure", "unclear"),
    )
)
_STATED = "(?:found|mentioned|stated|specified|provided|given|determined)"
# in small letters, with one space between words and "not" for each "n't"
_DENIAL = re.compile(
    "|".join(
        (
            r"(?:sorry )?(?:i |we )?(?:(?:do|did|can|could) not|(?:am |are )?unable to) "
            r"(?:know|find|determine|answer|tell|see|locate|identify)\b.*",
            r"(?:the |this |that )?(?:provided |given )?(?:text|passage|document|context|excerpt|chunk|section)s?"
            r"(?: provided| given)? (?:do|does|did) not (?:\w+ly )?"
            r"(?:contain|mention|provide|say|include|hold|state|specify|give|have|answer|tell|describe|discuss)\b.*",
            rf"(?:the |this |that )?(?:answer|information) (?:is|was|can|could) not (?:be )?{_STATED}\b.*",
            r"(?:there (?:is|was) )?no (?:relevant |specific |such )?(?:answer|information|mention)"
            rf"(?: (?:about|on|of|in|regarding|here|(?:is |was )?{_STATED})\b.*)?",
            rf"not (?:explicitly )?{_STATED}(?: (?:in|within|by|from|here)\b.*)?",
        )
    )
)
# characters; no denial is as long
_LONG = 300
_TURN = re.compile(r"\b(?:but|however|although|though|instead)\b")


def _is_answer(answer: str) -> bool:
    prefix = _PREFIX.match(answer)
    plain = answer[prefix.end() if prefix else 0 :].strip(_NOTHING)
    words = " ".join(re.findall(r"\w+", plain[:_LONG].casefold()))
    words = re.sub(r"\b(?:can t|cannot)\b", "can not", words)
    words = re.sub(r"n t\b", " not", words)
    if not plain or words in _UNKNOWN:
        return False
    # what goes on after a denial, or is long, says something
    return len(plain) > _LONG or _TURN.search(words) is not None or _DENIAL.fullmatch(words) is None


# --- the context ---------------------------------------------------------------------------------------------------


def extract_after(marker: str, max_len: int = 128, text: str | None = None) -> str | None:
    """What follows the first `marker` on its line, at most `max_len` characters, or None. Calls no model.

    Looks in `text`, or else in the variable `context`. Where the line ends at the marker, it is the next line that
    holds anything within `max_len`.
    """
    if not marker:
        raise ValueError("the marker is empty: give the text that stands before what is sought")
    for piece in _texts(text):
        at = piece.find(marker)
        if at >= 0:
            start = at + len(marker)
            return next(iter(piece[start : start + max_len].strip().splitlines()), "").strip() or None
    return None


def peek(n: int = 2000) -> str:
    """The first `n` characters of the variable `context`; of several documents with an empty line between them."""
    n = max(0, n)
    return _GAP.join(piece[:n] for piece in _enough(_texts(None), n))[:n]


def tail(n: int = 2000) -> str:
    """The last `n` characters of the variable `context`; of several documents with an empty line between them."""
    if n <= 0:
        return ""
    return _GAP.join([piece[-n:] for piece in _enough(_texts(None)[::-1], n)][::-1])[-n:]


def cite(text: str, document: int | str | None = None) -> None:
    """Note that the answer rests on these words of the context, and of which document (id or index). Word for word."""
    if not isinstance(cast(object, text), str):
        raise TypeError(f"a citation is the words themselves, a str; this is a {type(text).__name__}")
    citations.append({"text": text, "document": document})


def _enough(pieces: list[str], n: int) -> list[str]:
    """So many of the first pieces as hold `n` characters with what stands between them."""
    held = number = 0
    while number < len(pieces) and held < n:
        held += len(pieces[number]) + len(_GAP)
        number += 1
    # the gap behind the last one is there only with the next
    return pieces[: number + 1]


def _texts(text: str | None) -> list[str]:
    """The pieces of text there are to look in: one for a str, one for each document otherwise."""
    value: Any = text
    if text is None:
        if "context" not in _namespace():
            raise NameError("there is no variable `context` to look in")
        value = _namespace()["context"]
    # a Context of documents has its text, too
    value = getattr(value, "text", value)
    if isinstance(value, str):
        return [value]
    kind = type(value).__name__
    items: Any = value
    if isinstance(items, Mapping):
        items = list(cast("Mapping[Any, Any]", items).values())
    if isinstance(items, (list, tuple)):
        pieces = [_document_text(item) for item in cast("Sequence[Any]", items)]
        if None not in pieces:
            return cast("list[str]", pieces)
    raise TypeError(f"this works on text, and `context` is a {kind} that holds other things: look at it with Python")


def _document_text(item: object) -> str | None:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        known = cast("Mapping[str, object]", item)
        text = known.get("text", known.get("content"))
        return text if isinstance(text, str) else None
    return None
