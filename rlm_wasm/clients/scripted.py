"""A client that answers from a script: for tests, for demonstrations without a key, and for users' own tests.

Owns the script and the record of what was asked. Knows nothing of models, HTTP or budgets.
"""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeAlias, TypeVar, cast

from anyio.lowlevel import checkpoint

from rlm_wasm.clients.protocol import Message, OnText, Reply
from rlm_wasm.clients.recorded import Recorded
from rlm_wasm.errors import ClientError
from rlm_wasm.events import RunStarted
from rlm_wasm.prompts import Tool, ToolCall

_Asked = TypeVar("_Asked")
_Spoken: TypeAlias = str | Reply
_Answer: TypeAlias = _Spoken | BaseException | Callable[[_Asked], _Spoken | Awaitable[_Spoken]]

ScriptedReply: TypeAlias = _Answer[tuple[Message, ...]]
"""A text or `Reply`, an exception to raise, or a callable (sync or async) from the messages to a text or `Reply`."""

RuleReply: TypeAlias = _Answer[str]
"""A text, an exception to raise, or a callable (sync or async) from the last message's text to a text."""

# Mapping[str, ...] by itself too: the keys of a Mapping are invariant, and a dict[str, str] is the usual one.
Rules: TypeAlias = (
    Mapping[str, RuleReply]
    | Mapping[str | re.Pattern[str], RuleReply]
    | Sequence[tuple[str | re.Pattern[str], RuleReply]]
)


def run_python(code: str) -> Reply:
    """A scripted reply that calls the tool `run_python`."""
    return Reply("", 0, estimate_tokens(code), estimated=True, calls=(ToolCall("call_1", code),))


def estimate_tokens(text: str) -> int:
    """How many tokens a text is likely to be: 4 characters a token, rounded up. No text is 0 tokens."""
    return -(-len(text) // 4)


def estimate_input(messages: Sequence[Message]) -> int:
    """How many tokens messages are likely to be, with the code of the calls in them."""
    texts = (text for message in messages for text in (message.content, *(call.code for call in message.calls)))
    return estimate_tokens("".join(texts))


class ScriptedClient:
    """A `Client` that answers by rules and from a list, and records what it was asked in `calls`.

    `rules` are tried first, in order, on the text of the last message: a str that it contains (so "" matches any), or
    a pattern that finds something in it. Where none matches, the next of `replies` is handed out, each once, in the
    order of the calls. A reply is a text, an exception to raise, or a callable that gives the text: a rule's is
    given the last message's text, one of `replies` the tuple of messages; both may be async.

    `calls` holds a tuple of messages for each call, in the order of the calls, also of those that failed. Token counts
    are estimated, but for a `Reply`, which is given as it is; `max_output_tokens` and `tool` are ignored. `on_text` is
    told a text in four pieces, or as many as it has characters.
    One client may serve many tasks, event loops and threads at once.

    `complete` raises the scripted exceptions, and `ClientError` when the script has no answer. Raises TypeError
    for a script that is none.
    """

    def __init__(
        self, replies: Sequence[ScriptedReply] = (), rules: Rules | None = None, *, model: str = "scripted"
    ) -> None:
        if isinstance(replies, str):
            # A str is a sequence of texts too, and would be handed out letter by letter.
            raise TypeError(f"replies is a sequence of texts, not one text: write ScriptedClient([{replies[:40]!r}])")
        pairs = rules.items() if isinstance(rules, Mapping) else rules or ()
        self.calls: list[tuple[Message, ...]] = []
        self._recorded: Recorded | None = None
        self._model = model
        # A deque because its popleft is atomic: two threads never get the same reply.
        self._replies = deque(_checked(reply) for reply in replies)
        self._replies_given = len(self._replies)
        self._rules = [(_matcher(key), _checked(reply)) for key, reply in pairs]

    @classmethod
    def from_trace(cls, path: str | Path, *, run: str | None = None, model: str | None = None) -> Self:
        """A client that answers as the models of a recorded run did: any trace is a fixture for a test.

        A call is found by what it is asked with (see `Recorded`), so that one client serves as root and as sub model.
        `run`: the id of the run, where the file holds several; the last one if None. `model`: the name that it goes by,
        the recorded root model's if None. Raises FileNotFoundError, and ValueError for a file that is no trace.
        """
        from rlm_wasm.trajectory import Trajectory

        events = Trajectory.load(path, run).events
        named = next(event.model for event in events if isinstance(event, RunStarted))
        return cls.of_recorded(Recorded(events), model=model or named)

    @classmethod
    def of_recorded(cls, recorded: Recorded, *, model: str) -> Self:
        """A client that answers from what was recorded."""
        client = cls(model=model)
        client._recorded = recorded
        return client

    @property
    def model(self) -> str:
        """The name under which its calls are counted and priced."""
        return self._model

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        max_output_tokens: int | None = None,
        tool: Tool | None = None,
        on_text: OnText | None = None,
    ) -> Reply:
        """Answer from the script. The reply is chosen before the first await, so in the order of the calls.

        Raises `ClientError` where the script has no answer, and whatever exception the script holds.
        """
        asked = tuple(messages)
        self.calls.append(asked)
        prompt = asked[-1].content if asked else ""
        if self._recorded is not None:
            await checkpoint()
            reply = self._recorded.reply_to(asked)
            if on_text is not None:
                await _tell(reply.text, on_text)
            return reply
        rule = next((reply for matches, reply in self._rules if matches(prompt)), None)
        # The next reply is taken before anything is awaited, so that replies keep the order of the calls.
        text = await (_speak(self._next_reply(prompt), asked) if rule is None else _speak(rule, prompt))
        if not isinstance(text, Reply):
            text = Reply(text, estimate_input(asked), estimate_tokens(text), estimated=True)
        if on_text is not None:
            await _tell(text.text, on_text)
        return text

    def _next_reply(self, prompt: str) -> ScriptedReply:
        try:
            return self._replies.popleft()
        except IndexError:
            raise ClientError(
                f"the script has no answer: no rule of {len(self._rules)} matches, and its {self._replies_given} "
                f"replies have been handed out; the prompt begins {prompt[:200]!r}"
            ) from None

    def __repr__(self) -> str:
        return (
            f"ScriptedClient(model={self._model!r}, calls={len(self.calls)}, "
            f"replies_left={len(self._replies)}, rules={len(self._rules)})"
        )


def _checked(reply: _Answer[_Asked]) -> _Answer[_Asked]:
    # The script is written by hand: a slip in it is told where it is written, not at the call that reaches it.
    if not (isinstance(reply, str | Reply | BaseException) or callable(reply)):
        raise TypeError(f"a scripted reply is a str, an exception or a callable, not {type(reply).__name__}")
    return reply


def _matcher(key: str | re.Pattern[str]) -> Callable[[str], object]:
    if isinstance(key, str):
        return lambda prompt: key in prompt
    return key.search


async def _tell(text: str, on_text: OnText) -> None:
    # Other tasks run between the pieces of a real stream, and it can be cancelled there: so here.
    size = -(-len(text) // 4) or 1
    for start in range(0, len(text), size):
        on_text(text[start : start + size])
        await checkpoint()


async def _speak(reply: _Answer[_Asked], asked: _Asked) -> _Spoken:
    # A real client always lets other tasks run and can be cancelled while it waits: so does this one.
    await checkpoint()
    if isinstance(reply, str | Reply):
        return reply
    if isinstance(reply, BaseException):
        # Without its old traceback, which would grow with every call that raises the same instance.
        raise reply.with_traceback(None)
    spoken = cast("object", reply(asked))  # users' callables are often untyped
    text = await spoken if inspect.isawaitable(spoken) else spoken
    if not isinstance(text, str | Reply):
        raise TypeError(f"the scripted callable {reply!r} returned {type(text).__name__}, not str")
    return text
