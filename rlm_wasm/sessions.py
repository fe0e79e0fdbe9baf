"""Sessions: several questions over one living sandbox, which can be saved to a file and taken up again.

Owns what is carried from one question to the next. Knows nothing of how a question is answered: that is a callable that
it is handed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from os import PathLike
from typing import Any, Self

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm import contexts
from rlm_wasm.corpora import Corpus
from rlm_wasm.errors import ProtocolError, SandboxCrashed, SandboxTimeout
from rlm_wasm.sandbox import Checkpoint, Sandbox, SandboxOptions, SandboxPool
from rlm_wasm.sandbox.pool import KeptPool
from rlm_wasm.trajectory import Completion

# where what a session knows lies in the sandbox, and so in its checkpoint
_KEPT = "_rlm_session"
# characters of an earlier answer of which a later question reminds
_SHOWN = 200
# characters; a larger context is not fetched from a sandbox that was restored, which costs the check of citations
_FETCHED = 20_000_000


class Question(msgspec.Struct, frozen=True):
    """One question of a session, its answer as text, and what ended its run."""

    question: str
    answer: str
    stopped_by: str


class Asking(msgspec.Struct, frozen=True):
    """A question as it is put: `said` is what was said in the session before, `held` that the context is there."""

    question: str
    output: Any
    context: contexts.Context
    held: bool
    said: list[tuple[str, str]]


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str
    chars: int
    questions: list[Question]
    said: list[tuple[str, str]]


Answer = Callable[[Asking, SandboxPool, anyio.Event | None], Awaitable[Completion]]


class Session:
    """Several questions over one living sandbox: variables stay, and `history` inside is what was said before.

    Made by `RLM.session`, and an async context manager. `history` is a list of pairs, a reply of the root model and
    what it was shown; before those of each question stands a pair of "" and the question. One question is answered
    after the other. Limits hold for each by itself.
    """

    def __init__(
        self,
        answer: Answer,
        options: SandboxOptions,
        context: contexts.Context | None,
        saved: str | PathLike[str] | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._answer = answer
        self._release = release
        self._options = options
        self._context = context
        self._saved = saved
        self._pool: KeptPool | None = None
        self._turn = anyio.Lock()
        self._said: list[tuple[str, str]] = []
        self.questions: list[Question] = []
        """What was asked and answered so far."""

    def __repr__(self) -> str:
        state = "closed" if self._pool is None else f"{len(self.questions)} questions"
        return f"<Session {state}>"

    async def __aenter__(self) -> Self:
        """Open it. Raises FileNotFoundError or ValueError for a file that is no saved session."""
        first: Sandbox | None = None
        if self._saved is not None:
            checkpoint = await anyio.to_thread.run_sync(Checkpoint.load, self._saved)
            first = Sandbox.restore(checkpoint, options=self._options)
        pool = KeptPool(self._options, first)
        await pool.__aenter__()
        try:
            if first is not None:
                async with pool.lend() as sandbox:
                    await self._take_up(sandbox)
        except BaseException:
            await pool.__aexit__(None, None, None)
            raise
        self._pool = pool
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        pool, self._pool = self._opened(), None
        self._release()
        return await pool.__aexit__(*exception)

    def _opened(self) -> KeptPool:
        if self._pool is None:
            raise RuntimeError("this Session is not open: use 'async with rlm.session(...) as session'")
        return self._pool

    async def _take_up(self, sandbox: Sandbox) -> None:
        """Know again what the sandbox has kept: hearsay, as all that comes from there."""
        try:
            kept = msgspec.json.decode(str(await sandbox.get(_KEPT)), type=_Kept)
        except (KeyError, TypeError, msgspec.DecodeError):
            raise ValueError(f"{self._saved} is a checkpoint, but not of a session that was saved") from None
        try:
            value = await sandbox.get("context") if kept.chars <= _FETCHED else None
        except (KeyError, TypeError):
            # a cell has taken it away, or it is a database
            value = None
        self._context = contexts.Context(value, kept.description)
        self.questions, self._said = kept.questions, kept.said

    async def ask(self, question: str, *, output: Any = None, stop: anyio.Event | None = None) -> Completion:
        """Answer the next question. Arguments, and what it raises, as in `RLM.acompletion`."""
        pool = self._opened()
        assert self._context is not None
        async with self._turn:
            # what is answered from a file has the sandbox to begin with
            held = pool.kept is not None
            if self.questions:
                await self._load_history(pool)
            asked = f"{question}\n\n{self._reminder()}" if self.questions and question.strip() else question
            done = await self._answer(Asking(asked, output, self._context, held, self._said), pool, stop)
            self._note(question, done)
            return msgspec.structs.replace(done, question=question)

    async def _load_history(self, pool: KeptPool) -> None:
        try:
            await pool.load(history=self._said)
        except (SandboxCrashed, SandboxTimeout, ProtocolError):
            # it died between two questions; what asks next finds a fresh one, which holds the context
            await pool.load(history=self._said)

    def _reminder(self) -> str:
        lines = [f"This is question {len(self.questions) + 1} in the same REPL. Earlier ones:"]
        for number, earlier in enumerate(self.questions, start=1):
            answer = " ".join(earlier.answer.split())
            lines.append(f"{number}. {earlier.question} -> {answer[:_SHOWN]}{'...' if len(answer) > _SHOWN else ''}")
        lines.append("Your variables from then are there (SHOW_VARS()), and `history` is what was said.")
        return "\n".join(lines)

    def _note(self, question: str, done: Completion) -> None:
        answer = "" if done.response is None else str(done.response)
        self.questions.append(Question(question, answer, done.stopped_by))
        self._said.append(("", question))
        for iteration in done.trajectory:
            self._said.append((iteration.reply, iteration.observation or answer))

    async def save(self, path: str | PathLike[str]) -> None:
        """Write it to one file, from which `RLM.session(saved=path)` goes on, on any machine with the same build.

        Raises ValueError if nothing was asked yet, the context is files that stay on the host, or the sandbox cannot be
        taken now (see `checkpoint`), and OSError.
        """
        if self._context is not None and isinstance(self._context.value, Corpus):
            raise ValueError("the context stays on the host and would not be in the file: ask with lazy=False to save")
        sandbox = self._opened().kept
        if sandbox is None or self._context is None:
            raise ValueError("nothing was asked yet, so there is nothing to be saved")
        async with self._turn:
            chars, _ = contexts.fingerprint(self._context.value)
            described = sandbox.described.get("context", self._context.description)
            kept = _Kept(described, chars, self.questions, self._said)
            await sandbox.load(**{_KEPT: msgspec.json.encode(kept).decode()})
            checkpoint = await sandbox.checkpoint()
        await anyio.to_thread.run_sync(checkpoint.save, path)
