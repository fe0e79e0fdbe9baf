"""What may not be written down: keys and passwords, found in texts and replaced by a mark.

Pure but for one look at the environment. Knows nothing of events or files. It finds what is there as it is: not a key
that code has encoded, nor one that is cut in two.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import cast

MARK = "[secret left out]"
# a shorter one is a placeholder, and may be a plain word
_SHORTEST = 8
# not AUTHOR, KEYBOARD, TOKENIZERS_PARALLELISM or PWD, the folder
_NAMES = re.compile(
    r"KEY(?!BOARD)|TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|_PASS(?![A-Z])|_PWD|AUTH(?!OR)|CREDENTIAL|COOKIE|_DSN",
    re.IGNORECASE,
)
# values that are no secrets: settings, a password that is none, and words without which a trace could not be read
_WORDS = frozenset(
    {"disabled", "required", "optional", "password", "localhost", "assistant", "iterations", "cancelled", "llm_query"}
)
# each with what must stand in a text before it is searched (a regular expression takes a while); a group is kept
_SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (hints, re.compile(shape))
    for hints, shape in (
        # OpenAI, Anthropic, OpenRouter and others
        (("sk-",), r"(?<![A-Za-z0-9])()sk-[A-Za-z0-9_-]{16,}"),
        (("earer ", "EARER "), r"((?:[Bb]earer|BEARER) )[A-Za-z0-9._~+/=-]{12,}"),
        (("asic ",), r"([Bb]asic )[A-Za-z0-9+/]{16,}={0,2}"),
        # a header's value as it stands in a request, in JSON, in the repr of a dict or in code
        (
            ("uthorization", "pi-key", "pi-Key", "pi_key"),
            r"((?:[Aa]uthorization|[Aa]pi[-_][Kk]ey)['\"]? ?[:=] ?['\"]?(?:[Tt]oken )?)"
            r"(?=[A-Za-z._~+/=-]{0,60}[0-9])[A-Za-z0-9._~+/=-]{16,}",
        ),
        # user and password in an address
        (("://",), r"(://)[^\s/:@]{0,100}:[^\s/@]{1,200}(?=@)"),
        # Google, GitHub, Slack, AWS, Hugging Face, Groq
        (("AIza",), r"()AIza[A-Za-z0-9_-]{30,}"),
        (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"()gh[pousr]_[A-Za-z0-9]{30,}"),
        (("github_pat_",), r"()github_pat_[A-Za-z0-9_]{30,}"),
        (("xox",), r"()xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        (("AKIA", "ASIA"), r"(?<![A-Za-z0-9])()A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        (("hf_",), r"(?<![A-Za-z0-9])()hf_[A-Za-z0-9]{30,}"),
        (("gsk_",), r"(?<![A-Za-z0-9])()gsk_[A-Za-z0-9]{30,}"),
        # JSON Web Tokens, and keys in PEM
        (("eyJ",), r"(?<![A-Za-z0-9])()eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
        (("PRIVATE KEY-----",), r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[A-Za-z0-9+/=\s\\]{1,20000}"),
    )
)


def of_environment(environment: Mapping[str, str] | None = None) -> set[str]:
    """The values of the environment variables whose names sound like keys or passwords, of 8 characters and more."""
    variables = os.environ if environment is None else environment
    return {value.strip() for name, value in variables.items() if _NAMES.search(name)}


class Secrets:
    """Takes secrets out of texts: those that are `known`, and whatever has the shape of a well-known kind of key."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        usable = {text for text in known if len(text) >= _SHORTEST and text not in _WORDS}
        # the longest first: one may be a part of another
        self._known = sorted(usable, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<Secrets: {len(self._known)} known>"

    def __reduce__(self) -> tuple[Callable[[], Secrets], tuple[()]]:
        # what is pickled is written down: the copy knows what is in its own environment
        return _known_here, ()

    def hide(self, text: str) -> str:
        """The text with a mark in the place of each secret."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, MARK)
        for hints, shape in _SHAPES:
            if any(hint in text for hint in hints):
                text = shape.sub(_marked, text)
        return text

    def hide_in(self, plain: object) -> object:
        """A JSON-like value with the secrets in its texts hidden, those in tagged bytes (`$bytes`) too."""
        if type(plain) is str:
            return self.hide(plain)
        if type(plain) is list:
            return [self.hide_in(item) for item in cast("list[object]", plain)]
        if type(plain) is not dict:
            return plain
        fields = cast("dict[str, object]", plain)
        if len(fields) == 1 and "$bytes" in fields:
            return {"$bytes": self._hide_encoded(cast(str, fields["$bytes"]))}
        return {(key if key[:1] == "$" else self.hide(key)): self.hide_in(item) for key, item in fields.items()}

    def _hide_encoded(self, encoded: str) -> str:
        # latin-1 gives every byte a character and back
        text = base64.b64decode(encoded).decode("latin-1")
        hidden = self.hide(text)
        return encoded if hidden == text else base64.b64encode(hidden.encode("latin-1")).decode()


def _known_here() -> Secrets:
    return Secrets(of_environment())


def _marked(found: re.Match[str]) -> str:
    return found[1] + MARK
