"""What has been said between the loop and the root model, in the form that a dialect has for it.

Owns the messages, how a reply becomes cells, and what is done when the messages fill the model's window. Knows nothing
of sandboxes, budgets or how a run ends: asking the model is a callable that it is handed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import anyio.to_thread
import msgspec

from rlm_wasm import prompts, windows
from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.dialects import Dialect
from rlm_wasm.errors import ClientError, LimitExceeded
from rlm_wasm.magics import runnable
from rlm_wasm.parsing import Parsed, parse, without_thought
from rlm_wasm.windows import Cutting, Exchange, Window

Complete = Callable[[Sequence[Message]], Awaitable[Reply]]
Way = Literal["cut", "summarized", "left out"]

# each leaves three quarters: after three, less than half of what was sent first
_SHRUNK_AGAIN = 3
# In tokens. What there is no more room for than this says too little to be paid for.
_SUMMARY_LEAST = 100


class Conversation:
    """The messages of one run. `window` is the root model's, `cutting` how old outputs are cut to fit it.

    `on_shortened` is told when they are: in what way, and their tokens before and after.
    """

    def __init__(
        self,
        dialect: Dialect,
        window: Window | None = None,
        cutting: Cutting | None = None,
        on_shortened: Callable[[Way, int, int], object] | None = None,
    ) -> None:
        self._on_shortened = on_shortened
        self._dialect = dialect
        self._window = window or Window("")
        self._cutting = cutting or Cutting()
        self._opening: list[Message] = []
        self._exchanges: list[Exchange] = []
        self.history: list[tuple[str, str]] = []
        """Every reply so far and the observation that followed, whole."""
        self.shortened = False
        """Whether the model has not been shown all of it any more."""

    @property
    def messages(self) -> list[Message]:
        """What the model is asked with."""
        return [*self._opening, *(message for exchange in self._exchanges for message in exchange.messages)]

    @property
    def parts(self) -> tuple[list[Message], list[Exchange]]:
        """What stays to the end, and the exchanges after it."""
        return list(self._opening), list(self._exchanges)

    def go_on(
        self,
        opening: Sequence[Message],
        exchanges: Sequence[Exchange],
        history: Sequence[tuple[str, str]],
        *,
        shortened: bool,
    ) -> None:
        """Be the conversation that was had before."""
        self._opening, self._exchanges = list(opening), list(exchanges)
        self.history, self.shortened = list(history), shortened

    def note(self, text: str) -> None:
        """Say more in the last message: many chat templates refuse two of a role in a row."""
        if self._exchanges:
            last = self._exchanges[-1]
            self._exchanges[-1] = msgspec.structs.replace(last, messages=tuple(_continued(last.messages, text)))
        else:
            self._opening = _continued(self._opening, text)

    def open(self, messages: Sequence[Message]) -> None:
        """Begin with the messages that stay to the end."""
        self._opening = list(messages)

    def read(self, reply: Reply) -> Parsed:
        """What a reply asks for: its calls of the tool, else the code in its text."""
        if reply.calls:
            return Parsed(cells=tuple(runnable(call.code) for call in reply.calls), kept=reply.text)
        parsed = parse(reply.text, colon_finish=self._dialect.colon_finish)
        parsed = msgspec.structs.replace(parsed, cells=tuple(runnable(cell) for cell in parsed.cells))
        if self._dialect.together and len(parsed.cells) > 1:
            return Parsed(cells=("\n\n".join(parsed.cells),), kept=parsed.kept)
        return parsed

    def add(self, reply: Reply, parsed: Parsed, parts: Sequence[str], *, iteration: int, iterations: int) -> str:
        """Enter a reply and what came of it, a part for each cell; gives the whole as one text."""
        if not reply.calls:
            shown = prompts.observation(parts, iteration=iteration, iterations=iterations, dialect=self._dialect)
            return self._enter(reply, [Message("assistant", parsed.kept), Message("user", shown)], shown)
        given = [*parts[: len(reply.calls)], *["(not run)"] * (len(reply.calls) - len(parts))]
        ending = [given[-1], *parts[len(reply.calls) :]]
        given[-1] = prompts.observation(ending, iteration=iteration, iterations=iterations, dialect=self._dialect)
        results = [Message("tool", text, answers=call.id) for call, text in zip(reply.calls, given, strict=True)]
        return self._enter(reply, [Message("assistant", reply.text, calls=reply.calls), *results], "\n\n".join(given))

    def _enter(self, reply: Reply, messages: Sequence[Message], shown: str) -> str:
        self._exchanges.append(Exchange(tuple(messages), len(self.history)))
        said = [reply.text, *(call.code for call in reply.calls)]
        self.history.append(("\n\n".join(part for part in said if part), shown))
        return shown

    def close(self, reason: str) -> None:
        """Ask for the best answer."""
        self.note(prompts.closing(reason, self._dialect))

    async def ask(self, complete: Complete) -> Reply:
        """The model's next reply. What was said is shortened as far as its window asks for it.

        Raises what `complete` raises; of a prompt that was too long only when it cannot be shortened any more.
        """
        await self._keep_within(complete)
        for _ in range(_SHRUNK_AGAIN):
            try:
                return await complete(self.messages)
            except ClientError as error:
                if error.status not in (400, 413) or not windows.says_too_long(error):
                    raise
                sent = self.messages
                await anyio.to_thread.run_sync(self._window.overflowed, sent)
                await self._keep_within(complete)
                if self.messages == sent:
                    raise
        return await complete(self.messages)

    async def _keep_within(self, complete: Complete) -> None:
        """Shorten what was said until it fits the window: cut old outputs, else sum up, else leave out."""
        if self._window.tokens is None or self._window.surely_holds(self.messages):
            return
        # counting takes a moment, and the event loop has others to serve
        exchanges = await anyio.to_thread.run_sync(self._shrunk)
        room = self._room(self._window.tokens)
        way: Way = "cut"
        if not self._fit(exchanges, room):
            summed_up = await self._summed_up(exchanges, room, complete)
            left = windows.drop(summed_up, room, self._window.measure)
            way = "left out" if left != summed_up else "summarized" if summed_up != exchanges else "cut"
            exchanges = left
        if exchanges == self._exchanges:
            return
        before = windows.size(self.messages, self._window.measure)
        self.shortened = True
        self._exchanges = exchanges
        if self._on_shortened is not None:
            self._on_shortened(way, before, windows.size(self.messages, self._window.measure))

    def _shrunk(self) -> list[Exchange]:
        assert self._window.tokens is not None
        room = self._room(self._window.tokens)
        return windows.shrink(self._exchanges, room, self._window.measure, self._window.model, self._cutting)

    def _room(self, tokens: int) -> int:
        """How many tokens there are for the exchanges."""
        return windows.room(tokens) - windows.size(self._opening, self._window.measure)

    def _fit(self, exchanges: Sequence[Exchange], room: int) -> bool:
        return sum(windows.size(exchange.messages, self._window.measure) for exchange in exchanges) <= room

    async def _summed_up(self, exchanges: list[Exchange], room: int, complete: Complete) -> list[Exchange]:
        """The exchanges with the model's own summary in the place of all but the last; as they are if there is none."""
        if len(exchanges) < 2:
            return exchanges
        *old, last = exchanges
        asking = _continued([message for exchange in old for message in exchange.messages], prompts.SUMMARIZE)
        around = windows.summarized("", old[-1].number)
        left = room - windows.size([*around.messages, *last.messages], self._window.measure)
        if windows.size(asking, self._window.measure) > room or left < _SUMMARY_LEAST:
            return exchanges
        try:
            reply = await complete([*self._opening, *asking])
        except (ClientError, LimitExceeded):
            # the oldest are left out then, and the question itself meets with the same limit
            return exchanges
        summary = (without_thought(reply.text) or "").strip()
        if not summary:
            return exchanges
        # the ellipsis has a few tokens too
        shorter = windows.cut(summary, left - 10, self._window.model)
        text = summary if shorter is None else f"{shorter.head}\n[...]\n{shorter.tail}"
        return [windows.summarized(text, old[-1].number), last]


def _continued(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with more said in the last one."""
    last = messages[-1]
    return [*messages[:-1], msgspec.structs.replace(last, content=f"{last.content}\n\n{text}")]
