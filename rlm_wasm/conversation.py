"""What has been said between the loop and the root model, in the form that a dialect has for it.

Owns the messages, and how a reply becomes cells. Knows nothing of sandboxes, budgets or how a run ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlm_wasm import prompts
from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.dialects import Dialect
from rlm_wasm.parsing import Parsed, parse


class Conversation:
    """The messages of one run."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.messages: list[Message] = []

    def read(self, reply: Reply) -> Parsed:
        """What a reply asks for: its calls of the tool, else the code in its text."""
        if reply.calls:
            return Parsed(cells=tuple(call.code for call in reply.calls), kept=reply.text)
        parsed = parse(reply.text, colon_finish=self._dialect.colon_finish)
        if self._dialect.together and len(parsed.cells) > 1:
            return Parsed(cells=("\n\n".join(parsed.cells),), kept=parsed.kept)
        return parsed

    def add(self, reply: Reply, parsed: Parsed, parts: Sequence[str], *, iteration: int, iterations: int) -> str:
        """Enter a reply and what came of it, a part for each cell; gives the whole as one text."""
        if not reply.calls:
            shown = prompts.observation(parts, iteration=iteration, iterations=iterations, dialect=self._dialect)
            self.messages += [Message("assistant", parsed.kept), Message("user", shown)]
            return shown
        self.messages.append(Message("assistant", reply.text, calls=reply.calls))
        given = [*parts[: len(reply.calls)], *["(not run)"] * (len(reply.calls) - len(parts))]
        ending = [given[-1], *parts[len(reply.calls) :]]
        given[-1] = prompts.observation(ending, iteration=iteration, iterations=iterations, dialect=self._dialect)
        for call, text in zip(reply.calls, given, strict=True):
            self.messages.append(Message("tool", text, answers=call.id))
        return "\n\n".join(given)

    def close(self, reason: str) -> None:
        """Ask for the best answer, in one message with the last: many chat templates refuse two of a role in a row."""
        last = self.messages[-1]
        said = f"{last.content}\n\n{prompts.closing(reason, self._dialect)}"
        self.messages[-1] = Message(last.role, said, answers=last.answers)
