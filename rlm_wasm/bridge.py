"""The host functions that a run's cells may call: sub models, children, the budget.

Counts and caps on the host, believes no argument, and tells a cell no more of a failure than it may know. Knows
nothing of the loop: a child run is a callable that it is handed.
"""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm import prompts
from rlm_wasm.calls import Answered, CallRecord
from rlm_wasm.clients.protocol import Client, Message
from rlm_wasm.corpora import Corpus, referred
from rlm_wasm.errors import FunctionError, LimitExceeded
from rlm_wasm.events import BudgetSpent, Emitter
from rlm_wasm.images import TOKENS, Image, checked
from rlm_wasm.limits import Budget, ModelUsage, Usage
from rlm_wasm.prompts import Tool
from rlm_wasm.trajectory import Call, Completion
from rlm_wasm.windows import count_tokens, surely_fits

# past this no model's window would hold it; it also bounds what a cell can make the host keep
MAX_PROMPT_CHARS = 8_000_000
MAX_BATCH = 10_000
# what a child is told of and is given to run: a function or two, and no data
MAX_TOOL_CHARS = 50_000


class ChildAsked(msgspec.Struct, frozen=True):
    """What a cell asks of a child run. `schema`: a JSON Schema that its answer must fit, or None.

    `tools`: Python, each the source of a function that the parent's code hands down; it is run in the child's REPL.
    """

    question: str
    context: object
    model: Client
    schema: dict[str, Any] | None = None
    call: int | None = None
    tools: tuple[str, ...] = ()


# and whom to tell what the child came to, however it ended
RunChild = Callable[[ChildAsked, Callable[[Completion], None]], Awaitable[Completion]]


class Models(msgspec.Struct, frozen=True):
    """The clients that a run may use: the root model's, the sub model's, and `others` by the names that cells may use.

    `llm_query(model=)` may name any of them. `windows` are in tokens, by `Client.model`; one that is not there is not
    known, and nothing is held against it.
    """

    root: Client
    sub: Client
    others: Mapping[str, Client] = {}
    windows: Mapping[str, int] = {}
    image_sources: Sequence[str | Path] = ()

    def named(self, name: object) -> Client:
        """The client of a name that a cell gave; None is the sub model. Raises FunctionError for any other."""
        if name is None:
            return self.sub
        known = {client.model: client for client in (self.sub, self.root)} | dict(self.others)
        if not isinstance(name, str) or name not in known:
            raise FunctionError(
                f"there is no model {str(name)[:100]!r} here: leave it out, or use one of {sorted(known)}"
            )
        return known[name]


class Bridge:
    """The functions of one run. `run_child` answers `rlm_query`; None makes it an `llm_query` over the same text.

    `corpus` is the context, if it is one that stays on the host: then cells may hand it on.
    """

    def __init__(
        self,
        models: Models,
        budget: Budget,
        emitter: Emitter,
        *,
        max_concurrency: int,
        model_calls: anyio.Semaphore,
        run_child: RunChild | None,
        refuses_child: Callable[[object], str | None] = lambda _: None,
        corpus: object = None,
    ) -> None:
        self._models = models
        self._budget = budget
        self._emitter = emitter
        self._max_concurrency = max_concurrency
        self._model_calls = model_calls
        self._run_child = run_child
        self._refuses_child = refuses_child
        self._corpus = corpus
        self._calls: list[Call] = []
        self._count = 0
        self._open = 0
        self._all_ended = anyio.Event()
        self.refused: LimitExceeded | None = None
        self.usage = Usage()
        """What this run and its children took; the budget's ledger has that of the whole tree."""

    def functions(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """The functions by the names that cells know."""
        return {
            "llm_query": self.llm_query,
            "llm_query_batched": self.llm_query_batched,
            "rlm_query": self.rlm_query,
            "rlm_query_batched": self.rlm_query_batched,
            "budget": self.budget,
        }

    def go_on(self, calls: int, usage: Usage) -> None:
        """Count on from what an earlier part of the run has asked and taken."""
        self._count, self.usage = calls, usage

    @property
    def asked(self) -> int:
        """How many calls of sub models and children have been begun."""
        return self._count

    def take_calls(self) -> tuple[Call, ...]:
        """The calls that were made since this was last asked, in the order in which they ended."""
        taken, self._calls = tuple(self._calls), []
        return taken

    async def quiet(self) -> None:
        """Wait until no call is under way. Of a cell that was stopped, what it still waited for is given up first."""
        while self._open:
            self._all_ended = anyio.Event()
            await self._all_ended.wait()

    async def budget(self) -> dict[str, float | None]:
        """What is left of the run's limits; None where there is no limit."""
        return self._budget.left()

    async def llm_query(
        self, prompt: object, model: object = None, max_tokens: object = None, images: object = None
    ) -> str:
        """Ask a sub model once. `max_tokens`: of the reply. `images`: one or a list, see `images.checked`."""
        client, most = self._models.named(model), _checked_tokens(max_tokens)
        seen = await anyio.to_thread.run_sync(checked, images, self._models.image_sources) if images else ()
        return await self._ask(_checked_prompt(prompt), client, of=1, max_tokens=most, images=seen)

    async def llm_query_batched(
        self, prompts: object, model: object = None, max_tokens: object = None, images: object = None
    ) -> list[str]:
        """Ask a sub model many prompts at once, at most `max_concurrency` at a time; answers in order.

        `images`: for each prompt what `llm_query` takes.
        """
        if images is not None:
            return await self._batch_with_images(prompts, model, max_tokens, images)
        asked = [_checked_prompt(prompt) for prompt in _checked_list(prompts, "prompts")]
        client, most = self._models.named(model), _checked_tokens(max_tokens)
        return await self._batch(
            [lambda prompt=prompt: self._ask(prompt, client, of=len(asked), max_tokens=most) for prompt in asked]
        )

    async def _batch_with_images(self, prompts: object, model: object, max_tokens: object, images: object) -> list[str]:
        asked, seen = _checked_list(prompts, "prompts"), _checked_list(images, "images")
        if len(asked) != len(seen):
            raise FunctionError(f"there are {len(asked)} prompts but {len(seen)} images")
        pairs = zip(asked, seen, strict=True)
        jobs = [partial(self.llm_query, prompt, model, max_tokens, image) for prompt, image in pairs]
        return await self._batch(jobs)

    async def rlm_query(
        self,
        question: object,
        context: object = None,
        model: object = None,
        schema: object = None,
        tools: object = None,
    ) -> Any:
        """Give a question to a child run; at the depth limit, to a sub model together with the context's text.

        `model`: the child's root model, by name. `schema`: a JSON Schema that its answer must fit. `tools`: the sources
        of functions that the child is to have beside those of its dialect.
        """
        if not isinstance(question, str):
            raise FunctionError(f"the question must be a str, not {type(question).__name__}")
        if schema is not None and not isinstance(schema, dict):
            raise FunctionError(f"the schema must be a dict (a JSON Schema), not {type(schema).__name__}")
        context = referred(context, self._corpus)
        if self._run_child is None:
            if isinstance(context, Corpus):
                raise FunctionError(prompts.too_large_to_read(context.size))
            text = context if isinstance(context, str) else "" if context is None else str(context)
            return await self.llm_query(prompts.sub_prompt(question, text), model)
        refusal = self._refuses_child(context)
        if refusal is not None:
            raise FunctionError(refusal)
        client = self._models.root if model is None else self._models.named(model)
        wanted = cast("dict[str, Any] | None", schema)
        asked = ChildAsked(question, context, client, wanted, tools=_checked_tools(tools))
        return await self._ask_child(self._run_child, asked)

    async def rlm_query_batched(self, questions: object, contexts: object = None, model: object = None) -> list[Any]:
        """Give many questions to as many child runs at once, each with its own context; answers in order."""
        asked = _checked_list(questions, "questions")
        given: Sequence[object] = [None] * len(asked) if contexts is None else _checked_list(contexts, "contexts")
        if len(given) != len(asked):
            raise FunctionError(f"there are {len(asked)} questions but {len(given)} contexts")
        pairs = zip(asked, given, strict=True)
        return await self._batch([lambda pair=pair: self.rlm_query(*pair, model) for pair in pairs])

    async def _batch(self, jobs: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
        """Run all jobs, some at a time. If any failed, raise its error with the answers of the others in `partial`."""
        answers: list[Any] = [None] * len(jobs)
        failures: list[FunctionError | LimitExceeded] = []
        waiting = iter(enumerate(jobs))

        async def work() -> None:
            for index, job in waiting:
                try:
                    answers[index] = await job()
                except (FunctionError, LimitExceeded) as error:
                    failures.append(error)
                except Exception as error:
                    # as of one that fails alone, a cell may know its class name
                    failures.append(FunctionError(type(error).__name__))

        async with anyio.create_task_group() as tasks:
            for _ in range(min(self._max_concurrency, len(jobs))):
                tasks.start_soon(work)
        if not failures:
            return answers
        refusals = [error for error in failures if isinstance(error, LimitExceeded)]
        failure = refusals[0] if refusals else failures[0]
        if isinstance(failure, LimitExceeded):
            raise LimitExceeded(failure.limit, failure.used, failure.allowed, partial=answers)
        raise FunctionError(f"{len(failures)} of {len(jobs)} failed, the first: {failure}", partial=answers)

    async def _ask(
        self, prompt: str, client: Client, *, of: int, max_tokens: int | None, images: tuple[Image, ...] = ()
    ) -> str:
        async with self._recorded("llm_query", client.model, prompt, of) as record:
            await self._check_window(prompt, client.model)
            messages = [Message("user", prompt, images=images)]
            answered = await self.complete(messages, client, inside=True, max_output_tokens=max_tokens)
            record.answered(answered)
            return answered.reply.text

    async def _check_window(self, prompt: str, model: str) -> None:
        """Raise FunctionError for a prompt that has more tokens than its model's window, if that is known."""
        window = self._models.windows.get(model)
        if window is None or surely_fits(prompt, window):
            return
        # tokenizing a long prompt takes seconds
        tokens = await anyio.to_thread.run_sync(count_tokens, prompt, model)
        if tokens > window:
            raise FunctionError(
                f"the prompt has about {tokens:,} tokens, more than the {window:,} of the window of {model}: nothing "
                "was asked; cut it into pieces"
            )

    async def _ask_child(self, run_child: RunChild, asked: ChildAsked) -> Any:
        async with self._recorded("rlm_query", asked.model.model, asked.question, 1) as record:
            child = await run_child(msgspec.structs.replace(asked, call=record.number), record.child_ended)
            if child.response is None and child.stopped_by != "final":
                if child.limit is not None and child.stopped_by in ("calls", "tokens", "usd", "seconds"):
                    raise LimitExceeded(child.limit.limit, child.limit.used, child.limit.allowed)
                raise FunctionError(f"the child was stopped before it had an answer (by its limit: {child.stopped_by})")
            return child.response

    async def complete(
        self,
        messages: Sequence[Message],
        client: Client,
        *,
        inside: bool,
        tool: Tool | None = None,
        max_output_tokens: int | None = None,
        on_text: Callable[[str | None], None] | None = None,
    ) -> Answered:
        """One model call, reserved in the budget before it is made. Raises LimitExceeded, ClientError."""
        given = {"tool": tool, "max_output_tokens": max_output_tokens, "on_text": on_text}
        more: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        came = time.monotonic()
        async with self._model_calls:
            waited = time.monotonic() - came
            chars = sum(_chars(message) for message in messages)
            with self._budget.reserve(client.model, prompt_chars=chars, inside=inside) as reservation:
                took = ModelUsage(calls=1)
                try:
                    reply = await client.complete(messages, **more)
                    took = reservation.settle(
                        reply.input_tokens,
                        reply.output_tokens,
                        estimated=reply.estimated,
                        cache_reads=reply.cache_reads,
                        cache_writes=reply.cache_writes,
                    )
                    return Answered(reply, took, waited)
                finally:
                    self.usage += Usage.of({client.model: took})
                    self._tell_spent()

    def _tell_spent(self) -> None:
        spent, left = self._budget.usage, self._budget.left()
        self._emitter.emit(
            BudgetSpent(
                calls=spent.calls,
                input_tokens=spent.input_tokens,
                output_tokens=spent.output_tokens,
                usd=spent.usd,
                left=left,
            )
        )

    def _recorded(self, function: str, model: str, prompt: str, of: int) -> CallRecord:
        self._count += 1
        self._open += 1
        asked = Call(number=self._count, function=function, model=model, prompt=prompt)
        return CallRecord(asked, self._emitter, self._ended, of=of)

    def _ended(self, call: Call, error: BaseException | None) -> None:
        self._calls.append(call)
        if isinstance(error, LimitExceeded):
            self.refused = error
        self._open -= 1
        if not self._open:
            self._all_ended.set()


def _checked_prompt(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise FunctionError(f"a prompt must be a str, not {type(prompt).__name__}")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise FunctionError(f"the prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARS:,} can be sent")
    return prompt


def _chars(message: Message) -> int:
    # 4 characters a token, as everywhere where nobody has counted
    return len(message.content) + sum(len(call.code) for call in message.calls) + 4 * TOKENS * len(message.images)


def _checked_tokens(most: object) -> int | None:
    if most is None or (type(most) is int and most > 0):
        return most
    raise FunctionError(f"max_tokens must be a whole number above 0, not {str(most)[:100]}")


def _checked_tools(tools: object) -> tuple[str, ...]:
    sources = [] if tools is None else _checked_list(tools, "tools")
    if not all(isinstance(source, str) for source in sources) or len("".join(map(str, sources))) > MAX_TOOL_CHARS:
        raise FunctionError(f"tools must be a list of sources, of at most {MAX_TOOL_CHARS:,} characters together")
    return tuple(cast("list[str]", sources))


def _checked_list(items: object, name: str) -> list[object]:
    if not isinstance(items, (list, tuple)):
        raise FunctionError(f"{name} must be a list, not {type(items).__name__}")
    several = list(cast("Sequence[object]", items))
    if len(several) > MAX_BATCH:
        raise FunctionError(f"{name} has {len(several):,} items; at most {MAX_BATCH:,} can be sent at once")
    return several


def describe_sources(sources: Sequence[str]) -> dict[str, str]:
    """The same of functions that a cell hands down to a child: read from their sources, which are not evaluated."""
    described: dict[str, str] = {}
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # the child's REPL will say what is wrong with it
            continue
        for made in tree.body:
            if isinstance(made, ast.FunctionDef | ast.AsyncFunctionDef):
                awaited = "await " if isinstance(made, ast.AsyncFunctionDef) else ""
                described[f"{awaited}{made.name}({ast.unparse(made.args)})"] = ast.get_docstring(made) or ""
    return described


def describe_functions(functions: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Name with signature, to first docstring line, of a caller's own functions: for the prompt."""
    described: dict[str, str] = {}
    for name, function in functions.items():
        try:
            signature = str(inspect.signature(function))
        except (TypeError, ValueError):
            # some built-in functions have none
            signature = "(...)"
        described[f"{name}{signature}"] = inspect.getdoc(function) or ""
    return described
