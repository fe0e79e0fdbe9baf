"""The door for programs written against rlm-on-azure: a root session with one tool, to which the question is sent.

Facts of its interface are those that its article of 2026 shows; the runs are this runtime's, in the dialect "azure".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from rlm_wasm import dialects
from rlm_wasm.clients import Client
from rlm_wasm.events import CallStarted, CellFinished, CellStarted, Event, RootReplied, RunStarted
from rlm_wasm.limits import Limits
from rlm_wasm.rlm import RLM
from rlm_wasm.trajectory import Completion

__all__ = ["Answer", "CallCounter", "Repl", "RootSession", "Step", "create_root_session_with_tool"]


class Repl(msgspec.Struct, frozen=True):
    """What stands for the session in the cloud: the corpus, which is `context` in the sandbox of each question.

    `corpus` is anything that `rlm_wasm.RLM.acompletion` takes, a `Path` to a file or folder too.
    """

    corpus: object


class CallCounter:
    """How many model calls there were, of the root and all its children; one counter may serve several sessions."""

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return f"<CallCounter {self.count}>"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What `on_step` is given: a run has its REPL ("INIT"), or one of its cells has run ("CODE").

    `depth` is 0 at the root and 1 more for each child; `iteration` counts the replies of a run from 1, 0 at its INIT.
    """

    stage: Literal["INIT", "CODE"]
    depth: int
    iteration: int = 0
    code: str = ""
    output: str = ""
    error: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of a question: `content` is `Final` as text, `final` with its Python type, None if there is none.

    `used_sections` are the passages that it rests on, as the model gave them; `completion` has where they stand.
    """

    content: str
    final: Any
    used_sections: tuple[str, ...]
    completion: Completion


async def create_root_session_with_tool(
    system_prompt: str | None,
    repl: Repl,
    on_step: Callable[[Step], object] | None = None,
    counter: CallCounter | None = None,
    max_iterations: int = 30,
    *,
    model: str | Client,
    sub_model: str | Client | None = None,
    limits: Limits | None = None,
) -> RootSession:
    """A session whose model has `run_python` as its one tool.

        session = await create_root_session_with_tool(None, Repl(text), print, CallCounter(), 20, model="gpt-5-mini")
        answer = await session.send("Query: Who signed it?")

    `system_prompt` is said word for word; None says what the dialect "azure" says. `on_step` hears the steps of
    children too, in a thread of its own. `model` is a name for `OpenAIClient`, or a client: `OpenAIClient.azure(...)`.
    `limits` are those beside `max_iterations`.
    """
    runtime = RLM(
        model,
        sub_model=sub_model,
        dialect=_dialect(system_prompt),
        limits=msgspec.structs.replace(limits or Limits(), iterations=max_iterations),
        listeners=[_Listening(on_step, counter or CallCounter())],
    )
    return RootSession(repl, runtime)


def _dialect(system_prompt: str | None) -> dialects.Dialect:
    # the message that is sent is the root's message, as there
    dialect = msgspec.structs.replace(dialects.find("azure"), opening="{question}\n\nIn the REPL, {description}.")
    return dialect if system_prompt is None else dialects.instructed(dialect, system_prompt)


class RootSession:
    """A root model with a corpus; made by `create_root_session_with_tool`."""

    def __init__(self, repl: Repl, runtime: RLM) -> None:
        self._repl = repl
        self.runtime = runtime

    def __repr__(self) -> str:
        return f"<RootSession over {self.runtime!r}>"

    async def send(self, message: str) -> Answer:
        """Ask; each message is a run of its own in a fresh sandbox. At the iteration limit the answer is the best there
        was. Raises what `rlm_wasm.RLM.acompletion` raises.
        """
        done = await self.runtime.acompletion(message, context=self._repl.corpus)
        sections = tuple(citation.text for citation in done.citations)
        return Answer("" if done.response is None else str(done.response), done.response, sections, done)


class _Listening:
    """A listener that counts, and tells `on_step`."""

    def __init__(self, on_step: Callable[[Step], object] | None, counter: CallCounter) -> None:
        self._on_step = on_step
        self._counter = counter
        self._code: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        match event:
            case RootReplied() | CallStarted(function="llm_query"):
                self._counter.count += 1
            case RunStarted():
                self._tell(Step(stage="INIT", depth=event.depth))
            case CellStarted():
                self._code[event.run] = event.code
            case CellFinished():
                self._tell(
                    Step(
                        stage="CODE",
                        depth=event.depth,
                        iteration=event.iteration,
                        code=self._code.pop(event.run, ""),
                        output=event.output,
                        error=event.error,
                    )
                )
            case _:
                pass

    def _tell(self, step: Step) -> None:
        if self._on_step is not None:
            self._on_step(step)
