"""alexzhang13/rlm's `persistent`: one REPL for several completions, kept open between them.

Knows nothing of that system's arguments: the runtime that asks in it is a callable that it is handed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import anyio

from rlm_wasm.rlm import RLM
from rlm_wasm.sandbox import SandboxOptions, SandboxPool
from rlm_wasm.sandbox.pool import KeptPool
from rlm_wasm.trajectory import Completion


class Persistent:
    """A REPL in which completion after completion finds the variables of those before it, as an async context manager.

    `runtime(pool, number)` makes what asks in it, for the completion of a number from 0. Beside what cells leave there,
    `context_0`, `context_1` and so on are what each was given, and `history_0` and so on what was said in it, as
    messages; `context` stays the first.
    """

    def __init__(self, options: SandboxOptions, runtime: Callable[[SandboxPool, int], RLM]) -> None:
        self._pool = KeptPool(options)
        self._runtime = runtime
        self._turn = anyio.Lock()
        self._first: object = None
        self._said: list[list[dict[str, str]]] = []

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._pool.__aexit__(*exception)

    async def acompletion(self, question: str, context: object) -> Completion:
        """Answer the next question over its context. Raises what `rlm_wasm.RLM.acompletion` raises."""
        async with self._turn:
            number = len(self._said)
            asked = question
            if number:
                await self._pool.load(**{f"context_{number}": context, f"history_{number - 1}": self._said[-1]})
                asked = f"{question}\n\n{_told(number)}"
            else:
                self._first = context
            done = await self._runtime(self._pool, number).acompletion(asked, context=self._first)
            self._said.append(_messages(question, done))
            return done


def _told(number: int) -> str:
    return (
        f"This is question {number + 1} in the same REPL, and its data is `context_{number}`. Everything from before "
        f"is there: your variables, `context_0` to `context_{number - 1}`, and what was said, `history_0` to "
        f"`history_{number - 1}`, each a list of messages."
    )


def _messages(question: str, done: Completion) -> list[dict[str, str]]:
    said = [{"role": "user", "content": question}]
    for iteration in done.trajectory:
        said.append({"role": "assistant", "content": iteration.reply})
        if iteration.observation is not None:
            said.append({"role": "user", "content": iteration.observation})
    return said
