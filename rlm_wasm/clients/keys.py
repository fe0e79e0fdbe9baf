"""Where a key comes from, and that no text of an error holds it.

Knows nothing of servers: it is told which names to look under.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from rlm_wasm.errors import ClientError


def find_key(given: str | None, variables: Sequence[str]) -> str | None:
    """The key that was given, else the first of the environment variables that is set; None if there is none.

    Raises `ClientError` for a text that cannot be a key.
    """
    named = ((name, os.environ.get(name)) for name in variables)
    for name, text in (("api_key", given), *named):
        if key := (text or "").strip():
            if re.fullmatch(r"[!-~]+", key):
                return key
            # Sent on, it would come back whole in the HTTP library's complaint.
            raise ClientError(f"{name} holds a character that no key has (a space, a line end, a curly quote)")
    return None


@runtime_checkable
class KeyHolder(Protocol):
    """A client that says which keys it sends, so that nobody writes them down."""

    def held_keys(self) -> Iterable[str]:
        """Its keys as of now, and those of the clients that it asks."""
        ...


def held_keys(*clients: object) -> set[str]:
    """The keys of those clients that say which they hold."""
    return {key for client in clients if isinstance(client, KeyHolder) for key in client.held_keys()}


def given_key(given: str | None, variables: Sequence[str]) -> set[str]:
    """The key that a client would send, if there is one: see `find_key`."""
    try:
        return {key for key in (find_key(given, variables),) if key}
    except ClientError:
        # the client says so when it is asked
        return {given} if given else set()


def hide_key(error: BaseException | None, key: str) -> None:
    """Take the key out of the texts of an error and its causes: servers quote what they were sent."""
    while error is not None and len(key) >= 8:  # a shorter one is a placeholder, and may be a plain word
        error.args = tuple(part.replace(key, "[key]") if isinstance(part, str) else part for part in error.args)
        texts = {name: part for name, part in vars(error).items() if isinstance(part, str)}
        vars(error).update({name: part.replace(key, "[key]") for name, part in texts.items()})
        error = error.__cause__
