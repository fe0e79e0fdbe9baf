"""A call's texts: as servers take them, and how many tokens they are where nobody has counted."""

from __future__ import annotations

from collections.abc import Sequence

from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.clients.scripted import estimate_input, estimate_tokens
from rlm_wasm.prompts import ToolCall


def encodable(text: str) -> str:
    """A text that has UTF-8: a lone surrogate, which a broken corpus or the sandbox may hold, becomes "?"."""
    return text.encode(errors="replace").decode()


def sendable(text: str) -> str:
    """A text as it can be sent: as UTF-8, and not blank, which Anthropic and Gemini refuse."""
    return encodable(text) if text.strip() else "(empty)"


def uncounted(text: str, messages: Sequence[Message], calls: tuple[ToolCall, ...] = ()) -> Reply:
    """The reply of a server that gave no counts: 4 characters are taken to be a token."""
    said = text + "".join(call.code for call in calls)
    return Reply(text, estimate_input(messages), estimate_tokens(said), estimated=True, calls=calls)
