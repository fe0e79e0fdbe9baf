"""What a cell's host functions answered, kept so that the cell can be run again and nobody is asked twice.

Knows neither sandboxes nor models: functions go in, and functions of the same names come out.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec

from rlm_wasm.errors import FunctionError, LimitExceeded
from rlm_wasm.sandbox.session import HostFunction
from rlm_wasm.sandbox.session import call as call_function
from rlm_wasm.sandbox.values import decode, encode

# seconds that an answer waits for those that came before it the first time; a cell that does the same asks for them all
_IN_ORDER_WITHIN = 10.0


class Failure(msgspec.Struct, frozen=True):
    """An exception as far as a cell may know it. `partial` is a text as in `values.py`."""

    kind: str
    text: str
    partial: str | None = None
    figures: tuple[str, float, float] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What is kept of it."""
        if not isinstance(error, (FunctionError, LimitExceeded)):
            return cls(type(error).__name__, "")
        try:
            partial = None if error.partial is None else encode(error.partial)
        except (TypeError, ValueError):
            # it would not go down to the cell either
            partial = None
        if isinstance(error, LimitExceeded):
            return cls("LimitExceeded", str(error), partial, (error.limit, error.used, error.allowed))
        return cls("FunctionError", str(error), partial)

    def error(self) -> Exception:
        """The exception, made again."""
        partial = None if self.partial is None else decode(self.partial)
        if self.figures is not None:
            return LimitExceeded(*self.figures, partial=partial)
        if self.kind == "FunctionError":
            return FunctionError(self.text, partial=partial)
        return type(self.kind, (Exception,), {})(self.text)


def question(name: str, given: Sequence[object], named: Mapping[str, object]) -> str:
    """What a cell asks of a host function, as a text by which it is known again."""
    return encode([name, [*given], {**named}])


class Answer(msgspec.Struct):
    """One answer. `asked` says by a digest what was asked for; `value` is a text as in `values.py`.

    `place` counts the answers to a cell in the order in which they came, from 0; -1 if none came before the cell's end.
    """

    asked: bytes
    value: str | None = None
    error: Failure | None = None
    place: int = -1


class Answers:
    """The functions that the cells of one run may call, and what they answer to each cell."""

    def __init__(self, functions: Mapping[str, HostFunction]) -> None:
        self.functions: Mapping[str, Callable[..., Awaitable[Any]]] = {
            name: partial(self._call, name, function) for name, function in functions.items()
        }
        self._kept: list[Answer] = []
        self._count = 0
        self._again: _Again | None = None

    def record(self) -> list[Answer]:
        """A cell begins, whose calls are made. Gives the list in which they are entered."""
        self._kept, self._count, self._again = [], 0, None
        return self._kept

    def repeat(self, kept: list[Answer]) -> None:
        """A cell is run again: its calls are answered as the first time, in the same order, and none is made.

        All of `kept` have been answered.
        """
        self._again = _Again(kept)

    @property
    def the_same(self) -> bool:
        """Whether the cell that was run again has asked what it had asked the first time, and nothing else."""
        return self._again is None or self._again.complete

    async def _call(self, name: str, function: HostFunction, /, *given: Any, **named: Any) -> Any:
        asked = hashlib.sha256(question(name, given, named).encode()).digest()
        if self._again is not None:
            return await self._again.answer(asked)
        answer = Answer(asked)
        kept = self._kept
        kept.append(answer)
        try:
            value = await call_function(function, given, named)
            # at once: what a caller's function gives may be changed by it later
            answer.value = encode(value)
        except Exception as error:
            answer.error = Failure.of(error)
            raise
        finally:
            if kept is self._kept and (answer.value is not None or answer.error is not None):
                answer.place, self._count = self._count, self._count + 1
        return value


class _Again:
    """The answers to one cell, handed out once more."""

    def __init__(self, kept: list[Answer]) -> None:
        self._waiting: defaultdict[bytes, deque[Answer]] = defaultdict(deque)
        for answer in kept:
            self._waiting[answer.asked].append(answer)
        self._given = 0
        self._turns = [anyio.Event() for _ in kept]
        self._strayed = False

    @property
    def complete(self) -> bool:
        return not self._strayed and not any(self._waiting.values())

    async def answer(self, asked: bytes) -> Any:
        found = self._waiting[asked]
        if not found:
            self._strayed = True
            raise FunctionError("this was not asked before")
        answer = found.popleft()
        await self._turn(answer.place)
        if answer.error is not None:
            raise answer.error.error()
        return decode(answer.value or "null")

    async def _turn(self, place: int) -> None:
        """Wait until all that was answered before it has been answered again."""
        try:
            with anyio.fail_after(_IN_ORDER_WITHIN):
                while self._given < place and not self._strayed:
                    await self._turns[place - 1].wait()
        except TimeoutError:
            self._strayed = True
        self._given = max(self._given, place + 1)
        self._turns[place].set()
