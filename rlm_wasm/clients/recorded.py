"""The model calls of a run that was recorded, found again by what was asked.

Takes events, and knows nothing of files. A call is known by what it was asked with: a sub model's by its prompt, a root
model's by the messages with which its run began and by what it had said since. What cells printed is not looked at, so
that a run which differs in that still finds its replies.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TypeAlias

from rlm_wasm.clients.protocol import Message, Reply
from rlm_wasm.errors import ClientError
from rlm_wasm.events import CallFinished, CallStarted, Event, RootAsked, RootReplied, RunStopped

Answer: TypeAlias = Reply | ClientError
_Said: TypeAlias = tuple[str, ...]


class Recorded:
    """The replies in `events`, each handed out once and in order; the last of those to one question again and again."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._by_prompt: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._by_opening: defaultdict[tuple[tuple[Message, ...], _Said], deque[Answer]] = defaultdict(deque)
        self._asked: dict[str, list[Message]] = {}
        # of runs whose root model has been asked and has not answered yet
        self._open: set[str] = set()
        self._prompts: dict[tuple[str, int], str] = {}
        for event in events:
            self._hear(event)

    def __len__(self) -> int:
        by_prompt = sum(len(answers) for answers in self._by_prompt.values())
        return by_prompt + sum(len(answers) for answers in self._by_opening.values())

    def _hear(self, event: Event) -> None:
        match event:
            case RootAsked():
                self._asked[event.run] = [*self._asked.get(event.run, [])[: event.same], *event.messages]
                self._open.add(event.run)
            case RootReplied():
                tokens = event.input_tokens, event.output_tokens
                self._answered(event.run, Reply(event.text, *tokens, model=event.model or None, calls=event.calls))
            case CallStarted(function="llm_query"):
                self._prompts[event.run, event.call] = event.prompt
            case CallFinished() if (event.run, event.call) in self._prompts:
                answer = Reply(event.reply, event.input_tokens, event.output_tokens)
                text = (event.error or "").removeprefix("ClientError: ")
                failed = ClientError(text, status=event.status) if event.error is not None else None
                self._by_prompt[self._prompts.pop((event.run, event.call))].append(failed or answer)
            case RunStopped() if event.run in self._open:
                self._answered(event.run, ClientError((event.failure or "").removeprefix("ClientError: ")))
            case _:
                pass

    def _answered(self, run: str, answer: Answer) -> None:
        if run not in self._open:
            return
        self._open.discard(run)
        messages = self._asked[run]
        self._by_opening[_opening(messages), _said(messages)].append(answer)

    def reply_to(self, messages: Sequence[Message]) -> Reply:
        """The reply that these messages got. Raises the ClientError that they got, or one that says there was none."""
        prompt = messages[-1].content if messages else ""
        found = self._by_opening.get((_opening(messages), _said(messages)))
        if not found and len(messages) == 1:
            found = self._by_prompt.get(prompt)
        if not found:
            raise ClientError(f"the recorded run has no reply to this; the last message begins {prompt[:200]!r}")
        answer = found.popleft() if len(found) > 1 else found[0]
        if isinstance(answer, ClientError):
            raise answer.with_traceback(None)
        return answer


def _opening(messages: Sequence[Message]) -> tuple[Message, ...]:
    # what the system is told may be worded otherwise in another version
    said = takewhile(lambda message: message.role != "assistant", messages)
    return tuple(message for message in said if message.role != "system")


def _said(messages: Sequence[Message]) -> _Said:
    """What the model has said in them."""
    spoken = [message for message in messages if message.role == "assistant"]
    return tuple("\n".join([message.content, *(call.code for call in message.calls)]) for message in spoken)
