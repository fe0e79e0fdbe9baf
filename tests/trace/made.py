"""Events of runs that never were, at times that are chosen: for what is drawn from events."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    IterationFinished,
    IterationStarted,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
)
from rlm_wasm.prompts import Message

AnEvent = TypeVar("AnEvent", bound=Event)


class Clock:
    """Seconds, shared by a run and its children."""

    def __init__(self) -> None:
        self.now = 1000.0


class Made:
    """A run that is told: each method says what happened next, and `after` seconds."""

    def __init__(self, question: str, *, events: list[Event] | None = None, clock: Clock | None = None, **how: Any):
        self.events = [] if events is None else events
        self.clock = clock or Clock()
        self.run: str = how.pop("run", "root")
        self.parent: str | None = how.pop("parent", None)
        self.depth: int = how.pop("depth", 0)
        self.above: Made | None = how.pop("above", None)
        self.iteration = 0
        self._calls = self._cells = self._model_calls = self._tokens_in = self._tokens_out = 0
        self._usd = 0.0
        self._asked: list[Message] = []
        self._began = self._iterated = self.clock.now
        how = {"context": "`context` is a str", "model": "gpt-5-mini", "sub_model": "gpt-5-nano", **how}
        self.say(RunStarted(question=question, **how))

    def say(self, event: AnEvent, *, at: float | None = None) -> AnEvent:
        """Enter an event at the clock's time, or at another."""
        stamped = msgspec.structs.replace(
            event,
            run=self.run,
            parent=self.parent,
            depth=self.depth,
            iteration=self.iteration,
            monotonic=self.clock.now if at is None else at,
            wall=1.7e9 + self.clock.now,
        )
        self.events.append(stamped)
        return stamped

    def reply(self, text: str, *, seconds: float = 2.0, tokens: tuple[int, int] = (900, 120), usd: float | None = None):
        """An iteration begins, and the root model replies."""
        self.iteration += 1
        self._iterated = self.clock.now
        self.say(IterationStarted())
        self.say(RootAsked(same=0, messages=(Message("user", f"(iteration {self.iteration})"),)))
        self.clock.now += seconds
        self._spend(tokens, usd)
        self.say(RootReplied(text=text, input_tokens=tokens[0], output_tokens=tokens[1], seconds=seconds, usd=usd))

    def cell(self, code: str) -> None:
        """A cell begins."""
        self._cells += 1
        self.say(CellStarted(code=code, cell=self._cells))

    def call(
        self, prompt: str, reply: str = "", *, begin: float, seconds: float, waited: float = 0.0, **more: Any
    ) -> int:
        """A call from `begin` seconds after now on; the clock stands still. Gives its number."""
        self._calls += 1
        began = self.clock.now + begin
        tokens, usd = more.pop("tokens", (len(prompt) // 4, len(reply) // 4)), more.pop("usd", None)
        function, model = more.pop("function", "llm_query"), more.pop("model", "gpt-5-nano")
        self.say(
            CallStarted(call=self._calls, function=function, model=model, prompt=prompt, of=more.pop("of", 1)), at=began
        )
        if "child" in more:
            more.pop("child")(self._calls, began)
        else:
            self._spend(tokens, usd)
        self.say(
            CallFinished(
                call=self._calls,
                reply=reply,
                error=more.pop("error", None),
                input_tokens=tokens[0],
                output_tokens=tokens[1],
                seconds=seconds,
                waited=waited,
                usd=usd,
                **more,
            ),
            at=began + seconds,
        )
        return self._calls

    def ran(self, output: str = "", *, seconds: float = 0.1, observation: str | None = None, **more: Any) -> None:
        """The cell ends `seconds` later; with an `observation` the iteration does too."""
        self.clock.now += seconds
        more = {"error": None, "truncated": 0, "seconds": min(seconds, 0.2), **more}
        self.say(CellFinished(output=output, cell=self._cells, **more))
        if observation is not None:
            self.say(IterationFinished(seconds=self.clock.now - self._iterated, observation=observation))

    def stop(self, response: Any = None, *, stopped_by: str = "final", usd: float | None = None, **more: Any) -> None:
        """The run is over."""
        self.say(
            RunStopped(
                stopped_by=stopped_by,
                calls=self._model_calls,
                input_tokens=self._tokens_in,
                output_tokens=self._tokens_out,
                usd=usd if usd is not None else (self._usd or None),
                seconds=self.clock.now - self._began,
                response=response,
                **more,
            )
        )

    def _spend(self, tokens: tuple[int, int], usd: float | None) -> None:
        self._tokens_in += tokens[0]
        self._tokens_out += tokens[1]
        self._usd += usd or 0.0
        self._model_calls += 1
        if self.above is not None:
            self.above._spend(tokens, usd)
