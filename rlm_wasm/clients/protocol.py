"""What a model client is: messages go in, a reply with its token counts comes out.

Knows nothing of HTTP, budgets or the loop. A client may be shared by many runs and called many times at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from rlm_wasm.prompts import Message, Tool, ToolCall


class Reply(msgspec.Struct, frozen=True):
    """What a model answered.

    `input_tokens` and `output_tokens` are the provider's own counts; `estimated` is true where the provider gave
    none and they were estimated from the text (4 characters a token). `cached` is true for a reply that was kept from
    an earlier call: both counts are 0, because nothing was paid for it. `model` names the model that answered, where
    that may be another than the client's own. `calls` are the model's calls of the tool that was offered, in order.
    `cache_reads` and `cache_writes` are those of the input tokens that the provider read from its own cache, and wrote
    to it, where it says so.
    """

    text: str
    input_tokens: int
    output_tokens: int
    estimated: bool = False
    cached: bool = False
    model: str | None = None
    calls: tuple[ToolCall, ...] = ()
    cache_reads: int = 0
    cache_writes: int = 0


OnText: TypeAlias = Callable[[str | None], None]
"""Called with each piece of a reply's text as it comes, or with None: what came so far is void."""


class Client(Protocol):
    """Turns messages into a `Reply`.

    `model` is the name under which its calls are counted and priced.
    """

    @property
    def model(self) -> str: ...

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask once. Raises `ClientError` for anything that is not a reply; never returns an error as text."""
        ...


class ToolClient(Client, Protocol):
    """A client that can offer a native tool: what the root model of a dialect that acts by a tool needs."""

    async def complete(
        self, messages: Sequence[Message], *, max_output_tokens: int | None = None, tool: Tool | None = None
    ) -> Reply:
        """As in `Client`; `tool` is offered to the model as its one tool, and its calls are in the reply."""
        ...


class StreamingClient(Client, Protocol):
    """A client that can tell the text of a reply while it comes."""

    async def complete(
        self, messages: Sequence[Message], *, max_output_tokens: int | None = None, on_text: OnText | None = None
    ) -> Reply:
        """As in `Client`; with `on_text` the provider is asked for a stream, if it has one. The reply is the same.

        `on_text` is called with each piece of the text, in order, none of them empty, before `complete` returns; a
        provider without streams gives the text in one piece. It is called with None where an attempt failed after its
        first piece and another begins: what came so far is void. The pieces after the last None make up the reply's
        text; of a call that raises they make up nothing. It is called in the event loop, so it must not block, and what
        it raises ends the call and is raised. Calls of a tool and a model's thoughts are no text.
        """
        ...
