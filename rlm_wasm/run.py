"""One question being answered: ask the root model, run its code, show it what happened, until FINAL.

`RLM` (`rlm.py`) holds what is the same for every question. How text is got from a model, how code is run and what is
charged are elsewhere.
"""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread
import msgspec

from rlm_wasm import citations, contexts, prompts
from rlm_wasm.beginnings import Resumed, Shared, Sharing, new_id
from rlm_wasm.bounds import EndedEarly, within
from rlm_wasm.branches import Moment, begun, furnish
from rlm_wasm.bridge import Bridge, ChildAsked, describe_functions, describe_sources
from rlm_wasm.calls import told
from rlm_wasm.cells import Cells
from rlm_wasm.clients.protocol import Reply
from rlm_wasm.conversation import Conversation, Way
from rlm_wasm.errors import (
    ClientError,
    LimitExceeded,
    RLMError,
    SandboxError,
)
from rlm_wasm.events import (
    Emitter,
    HistoryShortened,
    IterationFinished,
    IterationStarted,
    RootAsked,
    RootStreamed,
    RunStarted,
    RunStopped,
)
from rlm_wasm.guards import Watch
from rlm_wasm.limits import Usage
from rlm_wasm.outputs import Output, Unfit
from rlm_wasm.parsing import Parsed, final_is_literal
from rlm_wasm.prompts import Message
from rlm_wasm.sandbox import Sandbox
from rlm_wasm.sandbox.values import decode, encode
from rlm_wasm.store import RunFolder, State
from rlm_wasm.survival import Survivor
from rlm_wasm.trajectory import CellRun, Completion, Iteration, StoppedBy, Trajectory
from rlm_wasm.windows import Window

_log = logging.getLogger(__name__)

# a cell's calls are given up when it ends, and a child's cell may take the 2.5 s that an interrupted one is given
_CALLS_END_WITHIN = 5.0


class Stopped(Exception):
    """The run is over for a reason other than FINAL."""

    def __init__(self, by: StoppedBy, limit: LimitExceeded | None = None) -> None:
        super().__init__(by)
        self.by: StoppedBy = by
        self.limit = limit


class Finished(Exception):
    """FINAL was called with a value that is accepted."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


class Run:
    """One question being answered: the messages so far, the record of it, and what would end it."""

    def __init__(
        self,
        shared: Shared,
        question: str,
        context: contexts.Context,
        output: Any,
        *,
        depth: int,
        parent: str | None,
        call: int | None = None,
        tools: Sequence[str] = (),
        folder: RunFolder | None = None,
        resumed: Resumed | None = None,
        paid: Usage | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._shared = shared
        self._folder, self._resumed, self._sharing = folder, resumed, sharing
        self._state = None if resumed is None else resumed.state
        self._question = question
        self._context = context
        self._asked_output, self._output = output, Output(output)
        self._depth = depth
        self._call = call
        self._tools = tools
        self._id = new_id() if folder is None else folder.run
        self._limits = shared.limits
        self._last = shared.limits.iterations + (0 if resumed is None else resumed.more)
        self._emitter = Emitter(shared.record, run=self._id, parent=parent, depth=depth)
        self._bridge = Bridge(
            shared.models,
            shared.budget,
            self._emitter,
            max_concurrency=shared.max_concurrency,
            model_calls=shared.model_calls,
            run_child=self._run_child if depth < self._limits.depth else None,
            refuses_child=self._refuses_child,
            corpus=context.value,
        )
        if resumed is not None:
            usage = Usage() if resumed.moment is not None else Usage.of(resumed.state.usage)
            self._bridge.go_on(resumed.state.calls, usage)
        if paid is not None:
            self._bridge.usage += paid
        self._dialect = shared.dialect
        root = shared.models.root.model
        window = Window(root, shared.models.windows.get(root))
        self._conversation = Conversation(shared.dialect, window, shared.cutting, self._shortened)
        self._watch = Watch(shared.guards)
        self._iterations: list[Iteration] = []
        self._errors_in_a_row = 0
        self._refused_literal = False
        self._partial: Any = None
        self._citations: tuple[citations.Citation, ...] = ()
        self._asked: list[Message] = []
        # a client of the caller's own need not know how to stream
        self._streams = shared.streaming and "on_text" in inspect.signature(shared.models.root.complete).parameters
        self.completed: Completion | None = None
        self.failed = False

    async def answer(self) -> Completion:
        """Run to the end. The only way out without a `Completion` is a failure of ours or of what we depend on.

        `completed` is set in any case.
        """
        started = time.monotonic()
        if self._resumed is None or self._resumed.moment is not None:
            self._emitter.emit(self._begun())
        try:
            response, stopped_by, limit = await self._bounded()
        except BaseException as error:
            # nothing is lost: what there was goes with the error, or to the parent of a child that is cancelled
            self.failed = True
            by: StoppedBy = "errors" if isinstance(error, Exception) else "cancelled"
            completed = self._completed(None, by, None, started, failure=error)
            if isinstance(error, RLMError):
                error.partial = completed
            raise
        return self._completed(response, stopped_by, limit, started)

    def _completed(
        self,
        response: object,
        stopped_by: StoppedBy,
        limit: LimitExceeded | None,
        started: float,
        failure: BaseException | None = None,
    ) -> Completion:
        usage = self._bridge.usage
        seconds = time.monotonic() - started
        self._emitter.emit(
            RunStopped.of(
                stopped_by,
                usage,
                seconds,
                response=response,
                partial=self._partial,
                limit=None if limit is None else (limit.limit, limit.used, limit.allowed),
                failure=None if failure is None else f"{type(failure).__name__}: {failure}",
                citations=self._citations,
            )
        )
        self.completed = Completion(
            question=self._question,
            response=response,
            stopped_by=stopped_by,
            usage=usage,
            trajectory=Trajectory(
                self._iterations, run=self._id, events=self._shared.record.events, secrets=self._shared.secrets
            ),
            seconds=seconds,
            run=self._id,
            depth=self._depth,
            partial=self._partial,
            limit=limit,
            citations=self._citations,
        )
        return self.completed

    def _begun(self) -> RunStarted:
        models, context = self._shared.models, self._context
        chars, digest = contexts.fingerprint(context.value)
        small = contexts.is_small(context.value)
        return RunStarted(
            question=self._question,
            context=context.description,
            model=models.root.model,
            sub_model=models.sub.model,
            call=self._call,
            context_chars=chars,
            context_sha256=digest,
            has_context=small,
            context_value=context.value if small else None,
            settings=_with(self._shared.settings, context.beside),
            branch=None if self._resumed is None or self._resumed.moment is None else self._resumed.moment.branch,
        )

    async def _bounded(self) -> tuple[object, StoppedBy, LimitExceeded | None]:
        """The loop, within the seconds that are left and until somebody says stop."""
        shared, root = self._shared, self._depth == 0
        # a child is under its parent's bounds already
        seconds, stop = (shared.budget.seconds_left(), shared.stop) if root else (None, None)
        try:
            return await within(self._loop, seconds=seconds, stop=stop)
        except EndedEarly as early:
            if early.by == "cancelled":
                return None, "cancelled", None
        allowed = shared.budget.seconds_limit or 0.0
        return None, "seconds", LimitExceeded("seconds", allowed, allowed)

    async def _loop(self) -> tuple[object, StoppedBy, LimitExceeded | None]:
        shared = self._shared
        functions = {**self._bridge.functions(), **told(shared.own_functions, self._emitter)}
        survivor = Survivor(functions, shared.checkpoints)
        if self._resumed is not None:
            survivor.begin_as(self._resumed.state.repl)
        survivor.on_saved = partial(self._keep_repl, survivor)
        restored = None if self._resumed is None else self._resumed.checkpoint
        # a cell that is run again asks the context again: its answers are not kept
        functions = {**survivor.answers.functions, **self._context.functions}
        lent = shared.pool.lend(functions) if restored is None else begun(shared.pool.options, functions, restored)
        async with lent as sandbox:
            cells = Cells(sandbox, survivor, self._emitter, self._dialect, self._watch)
            await furnish(
                sandbox,
                survivor,
                self._context,
                shared.variables,
                self._dialect,
                restored=restored is not None,
                used=shared.held and self._depth == 0,
            )
            before = number = await self._open(sandbox, survivor, cells)
            try:
                await self._keep(survivor, cells, number)
                for number in range(before + 1, self._last + 1):
                    self._emitter.iteration = number
                    await self._iterate_within_events(survivor, cells, number)
                    await self._keep(survivor, cells, number)
                raise Stopped("iterations", LimitExceeded("iterations", number, self._last))
            except Finished as finished:
                await self._cite(survivor)
                self._note_moment(survivor, cells, number)
                return finished.value, "final", None
            except Stopped as stopped:
                self._note_moment(survivor, cells, number)
                answer = await self._closing_answer(survivor, cells, stopped)
                self._note_moment(survivor, cells, len(self._iterations))
                return answer, stopped.by, stopped.limit

    async def _open(self, sandbox: Sandbox, survivor: Survivor, cells: Cells) -> int:
        """Begin, or go on; gives how many iterations there have been."""
        if self._resumed is not None:
            return await self._go_on(self._resumed, survivor, cells)
        look = await self._first_look(cells)
        system = self._system(sandbox)
        described = sandbox.described.get("context", self._context.description)
        self._conversation.open(prompts.first(system, self._question, described, self._dialect, look))
        return 0

    async def _go_on(self, resumed: Resumed, survivor: Survivor, cells: Cells) -> int:
        state = resumed.state
        self._iterations = list(resumed.iterations)
        self._conversation.go_on(state.opening, state.exchanges, state.history, shortened=state.shortened)
        self._errors_in_a_row, self._refused_literal = state.errors_in_a_row, state.refused_literal
        self._partial = decode(state.partial)
        cells.go_on(state.cells, (cell for iteration in resumed.iterations for cell in iteration.cells))
        self._emitter.iteration = state.number
        back = await survivor.go_on(state.repl, resumed.checkpoint)
        if resumed.moment is not None:
            resumed.moment.check(back)
            if resumed.said:
                self._conversation.note(resumed.said)
            return state.number
        told = cells.tell_back(back, "the program that ran it was ended")
        if told is not None:
            self._conversation.note(told)
        return state.number

    async def _keep(self, survivor: Survivor, cells: Cells, number: int) -> None:
        """Note where the run stands between two iterations, for whoever shares its beginning, and on disk."""
        sharing = self._sharing if self._sharing is not None and number <= self._sharing.after else None
        if sharing is not None and number == sharing.after:
            await survivor.save(keep=True)
        moment = self._note_moment(survivor, cells, number)
        if sharing is not None:
            sharing.moment = moment or sharing.moment
            if number == sharing.after:
                sharing.ready.set()
        if self._folder is not None and number and moment is not None:
            self._state = moment.state
            await self._keep_repl(survivor)

    def _note_moment(self, survivor: Survivor, cells: Cells, number: int) -> Moment | None:
        """Where the run stands; None if that cannot be kept, which costs that it can be forked or resumed there."""
        try:
            moment = self._moment(survivor, cells, number)
        except (ValueError, TypeError):
            _log.exception("run %s is not kept as of iteration %s", self._id, number)
            return None
        if number and number == len(self._iterations):
            self._iterations[-1].hold(moment)
        return moment

    def _moment(self, survivor: Survivor, cells: Cells, number: int) -> Moment:
        opening, exchanges = self._conversation.parts
        repl, checkpoint = survivor.moment()
        state = State(
            number=number,
            opening=opening,
            exchanges=exchanges,
            history=list(self._conversation.history),
            shortened=self._conversation.shortened,
            errors_in_a_row=self._errors_in_a_row,
            refused_literal=self._refused_literal,
            partial=encode(self._partial),
            spent=self._shared.budget.spent(),
            usage=self._bridge.usage.by_model,
            calls=self._bridge.asked,
            cells=cells.count,
            repl=repl,
        )
        return Moment(
            run=self._id,
            question=self._question,
            output=self._asked_output,
            context=self._context,
            variables=self._shared.variables,
            dialect=self._dialect,
            own_functions=self._shared.own_functions,
            options=self._shared.pool.options,
            iterations=tuple(self._iterations),
            state=state,
            checkpoint=checkpoint,
            told=self._shared.record.events,
        )

    async def _keep_repl(self, survivor: Survivor) -> None:
        """The same, when there is a checkpoint and all else is as it was."""
        if self._folder is None or self._state is None:
            return
        repl, checkpoint = survivor.saved()
        self._state = msgspec.structs.replace(self._state, repl=repl)
        try:
            await anyio.to_thread.run_sync(self._folder.keep, self._state, checkpoint)
        except (OSError, ValueError):
            _log.exception("run %s is not kept as of iteration %s", self._id, self._state.number)

    def _system(self, sandbox: Sandbox) -> str:
        schema = self._output.schema
        return prompts.system(
            output_chars=sandbox.options.output_chars,
            timeout=sandbox.options.timeout,
            recursion=self._depth < self._limits.depth,
            functions=describe_functions(self._shared.own_functions) | describe_sources(self._tools),
            schema=None if schema is None else json.dumps(schema),
            dialect=self._dialect,
            packages=sandbox.packages,
        )

    async def _first_look(self, cells: Cells) -> str:
        """What the dialect's first look at the context shows, behind the parent's functions; "" if there is none."""
        code = "\n\n".join([*self._tools, self._dialect.first_look]).strip()
        if not code:
            return ""
        run = await cells.run(code, [])
        return cells.shown(run, number=1, of=1) if self._dialect.first_look or run.error else ""

    async def _cite(self, survivor: Survivor) -> None:
        """Look whether what the answer is said to rest on stands in the context. A failure costs only the citations."""
        if not self._dialect.citations:
            return
        try:
            cited = await survivor.get(self._dialect.citations)
            if isinstance(cited, list) and cited:
                given = cast("list[object]", cited)
                self._citations = await anyio.to_thread.run_sync(citations.check, given, self._context.value)
        except (SandboxError, KeyError, TypeError):
            return

    async def _iterate_within_events(self, survivor: Survivor, cells: Cells, number: int) -> None:
        started, before = time.monotonic(), len(self._iterations)
        self._emitter.emit(IterationStarted())
        try:
            await self._iterate(survivor, cells, number)
        finally:
            entered = self._iterations[before:]
            observation = entered[0].observation if entered else None
            self._emitter.emit(IterationFinished(seconds=time.monotonic() - started, observation=observation))

    async def _iterate(self, survivor: Survivor, cells: Cells, number: int) -> None:
        """One reply, its code, one observation. Raises Finished or Stopped."""
        reply = await self._ask_root(survivor)
        parsed = self._conversation.read(reply)
        ran: list[CellRun] = []
        observation = ""
        enter = partial(self._conversation.add, reply, parsed, iteration=number, iterations=self._last)
        try:
            observation = enter(await self._act(cells, parsed, ran))
        except Finished:
            # for whoever goes on from here
            enter([prompts.accepted(self._dialect)])
            raise
        finally:
            await self._record(reply, ran, observation or None)
        if self._bridge.refused is not None:
            raise Stopped(cast(StoppedBy, self._bridge.refused.limit), self._bridge.refused)
        errors = self._limits.errors
        if errors is not None and self._errors_in_a_row >= errors:
            raise Stopped("errors", LimitExceeded("errors", self._errors_in_a_row, errors))

    async def _record(self, reply: Reply, ran: Sequence[CellRun], observation: str | None) -> None:
        """Enter an iteration, when the calls of its cells have ended too."""
        with anyio.move_on_after(_CALLS_END_WITHIN, shield=True):
            await self._bridge.quiet()
        self._iterations.append(
            Iteration(
                number=len(self._iterations) + 1,
                reply=reply.text,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
                cells=tuple(ran),
                calls=self._bridge.take_calls(),
                observation=observation,
            )
        )

    async def _ask_root(self, survivor: Survivor) -> Reply:
        try:
            async with survivor.saving():
                reply = await self._conversation.ask(self._complete)
        except LimitExceeded as error:
            raise Stopped(cast(StoppedBy, error.limit), error) from error
        if self._conversation.shortened:
            # without it the run goes on: a lost sandbox is told of after the next cell
            with suppress(ValueError, SandboxError):
                before = self._shared.said if self._depth == 0 else ()
                await survivor.load(history=[*before, *self._conversation.history])
        return reply

    async def _complete(self, messages: Sequence[Message]) -> Reply:
        """Ask the root model once; asking it to sum up what was said is such a call too."""
        same = 0
        while same < min(len(messages), len(self._asked)) and messages[same] is self._asked[same]:
            same += 1
        self._asked = list(messages)
        self._emitter.emit(RootAsked(same=same, messages=tuple(messages[same:])))
        started = time.monotonic()
        answered = await self._bridge.complete(
            messages,
            self._shared.models.root,
            # a child's root calls are made for a cell of its parent, and counted so
            inside=self._depth > 0,
            tool=prompts.RUN_PYTHON if self._dialect.act == "tool" else None,
            on_text=self._streamed if self._streams else None,
        )
        self._emitter.emit(answered.of_root(self._shared.models.root.model, time.monotonic() - started))
        return answered.reply

    def _streamed(self, text: str | None) -> None:
        self._emitter.emit(RootStreamed(text=text))

    def _shortened(self, way: Way, before: int, after: int) -> None:
        self._emitter.emit(HistoryShortened(way=way, tokens_before=before, tokens_after=after))

    async def _act(self, cells: Cells, parsed: Parsed, ran: list[CellRun]) -> list[str]:
        """Run the reply's cells in order, to the first error or answer; gives what the model reads of each."""
        if not parsed.cells:
            return await self._act_without_code(cells, parsed, ran)
        parts: list[str] = []
        for position, code in enumerate(parsed.cells, start=1):
            seen_before = any(run.output.strip() for run in ran)
            run = await cells.run(code, ran)
            parts.append(cells.shown(run, number=position, of=len(parsed.cells)))
            refusal = self._finish(run, code, seen_before)
            if refusal:
                parts.append(refusal)
                break
            if run.error is not None:
                rest = len(parsed.cells) - position
                parts += [prompts.not_run(rest)] if rest else []
                break
        self._errors_in_a_row = self._errors_in_a_row + 1 if ran[-1].error is not None else 0
        return parts

    async def _act_without_code(self, cells: Cells, parsed: Parsed, ran: list[CellRun]) -> list[str]:
        if parsed.final_text is not None:
            return [self._finish_with(parsed.final_text)]
        self._errors_in_a_row += 1
        instead = self._watch.replied_without_code()
        if instead == "":
            limit = self._shared.guards.invalid_reply_limit or 0
            raise Stopped("errors", LimitExceeded("errors", limit, limit))
        if instead is None:
            return [prompts.no_code(self._dialect)]
        return [prompts.no_code(self._dialect), *await self._act(cells, Parsed(cells=(instead,), kept=""), ran)]

    def _finish(self, run: CellRun, code: str, seen_before: bool) -> str | None:
        """Raise Finished if the cell called FINAL with a value that is accepted; else why it was not, or None."""
        if run.executed is None or not run.executed.has_final:
            return None
        value = run.executed.final
        if seen_before and not self._refused_literal and final_is_literal(code):
            self._refused_literal = True
            self._partial = value
            return prompts.literal_final(self._dialect)
        return self._finish_with(value)

    def _finish_with(self, value: object) -> str:
        """Raise Finished if the value fits the type asked for and no guard is against it; else say why it does not."""
        early = self._watch.refuses_final(self._bridge.asked)
        if early is not None:
            self._partial = value
            return prompts.guarded(early, self._dialect)
        try:
            accepted = self._output.accept(value)
        except Unfit as error:
            self._partial = value
            return prompts.wrong_type(str(error), self._dialect)
        raise Finished(accepted)

    async def _closing_answer(self, survivor: Survivor, cells: Cells, stopped: Stopped) -> object:
        """One more call for the best answer from what was seen; None if it cannot be paid, or gives none."""
        self._conversation.close(f"limit reached: {stopped.by}")
        try:
            reply = await self._ask_root(survivor)
        except (Stopped, ClientError):
            # the run has ended for a reason of its own, which stays the reason
            return None
        ran: list[CellRun] = []
        try:
            answer = await self._best_answer(cells, self._conversation.read(reply), ran)
        finally:
            await self._record(reply, ran, None)
        try:
            return None if answer is None else self._output.accept(answer)
        except Unfit:
            self._partial = answer
            return None

    async def _best_answer(self, cells: Cells, parsed: Parsed, ran: list[CellRun]) -> object:
        if not parsed.cells:
            return parsed.kept.strip() or None if parsed.final_text is None else parsed.final_text
        for code in parsed.cells:
            run = await cells.run(code, ran)
            if run.executed is not None and run.executed.has_final:
                return run.executed.final
            if run.error is not None:
                break
        return None

    def _refuses_child(self, context: object) -> str | None:
        own = self._context.value
        return self._watch.refuses_child(context, len(own) if isinstance(own, str) else 0)

    async def _run_child(self, asked: ChildAsked, ended: Callable[[Completion], None]) -> Completion:
        models = msgspec.structs.replace(self._shared.models, root=asked.model)
        child = Run(
            msgspec.structs.replace(self._shared, models=models),
            asked.question,
            contexts.Context(asked.context, contexts.describe(asked.context)),
            asked.schema,
            depth=self._depth + 1,
            parent=self._id,
            call=asked.call,
            tools=asked.tools,
        )
        try:
            return await child.answer()
        finally:
            self._bridge.usage += child._bridge.usage
            if child.completed is not None:
                ended(child.completed)


def _with(settings: Mapping[str, Any], beside: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, with what stands beside the context among the variables where they are recorded."""
    variables = settings.get("variables")
    if not beside or variables is None:
        return settings
    return {**settings, "variables": {**beside, **variables} if contexts.is_small(beside) else None}
