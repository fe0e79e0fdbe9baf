"""A call's texts: as servers take them, and how many tokens they are where nobody has counted."""

from __future__ import annotations

from collections.abc import Sequence

from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.clients.scripted import estimate_tokens


def sendable(text: str) -> str:
    """A text as it can be sent: as UTF-8, and not blank, which Anthropic and Gemini refuse."""
    # A lone surrogate, which a broken corpus or the sandbox may hold, has no UTF-8.
    return text.encode(errors="replace").decode() if text.strip() else "(empty)"


def uncounted(text: str, messages: Sequence[Message]) -> Reply:
    """The reply of a server that gave no counts: 4 characters are taken to be a token."""
    asked = estimate_tokens("".join(message.content for message in messages))
    return Reply(text, asked, estimate_tokens(text), estimated=True)
