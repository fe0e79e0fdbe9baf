"""Runs as OpenTelemetry spans, by its semantic conventions for generative AI (status: development, as of 1.41).

`invoke_agent` is a run, `chat` a model call, `execute_tool` a cell or a call of one's own functions. A cell is below
its run, what it calls is below the cell, a child's run too. Prompts, replies, code and output are in no span unless
that is asked for. Knows of the SDK nothing: who exports what is the application's affair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rlm_wasm.events import (
    CallFinished,
    CallStarted,
    CellFinished,
    CellStarted,
    Event,
    FunctionCalled,
    RootAsked,
    RootReplied,
    RunStarted,
    RunStopped,
)
from rlm_wasm.prompts import RUN_PYTHON, Message
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.trace.told import as_json, line

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

# what a model's name says of who runs it, to the best of anybody's knowledge
_PROVIDERS = (
    (re.compile(r"gpt-|o[134](-|$)|chatgpt"), "openai"),
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini"), "gcp.gemini"),
    (re.compile(r"mistral|ministral|codestral"), "mistral_ai"),
    (re.compile(r"deepseek"), "deepseek"),
    (re.compile(r"grok"), "x_ai"),
    (re.compile(r"command-"), "cohere"),
)
_AGENT = "rlm_wasm"
_ERROR_CHARS = 60


class _Open(msgspec.Struct):
    """The spans of a run that have not ended."""

    started: RunStarted
    span: Any
    prompt: list[Message] = []
    chat: Any = None
    cell: Any = None
    calls: dict[int, Any] = {}


class OpenTelemetryListener:
    """A listener that makes spans of events: `RLM(..., listeners=[OpenTelemetryListener()])`.

    `tracer` is that of the application's tracer provider if None. A run is below the span that is current where it
    begins. `providers` names the providers of models whose names do not tell them, as `gen_ai.provider.name` has it.
    With `content` prompts, replies, code, arguments and what came of them are in the spans too, without the secrets
    that the environment holds. Needs the extra `otel`; raises ImportError without it.
    """

    def __init__(
        self, tracer: Tracer | None = None, *, content: bool = False, providers: Mapping[str, str] | None = None
    ) -> None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise ImportError("OpenTelemetryListener needs OpenTelemetry: pip install 'rlm-wasm[otel]'") from error
        self._trace = trace
        self._tracer = tracer or trace.get_tracer("rlm_wasm")
        self._providers = dict(providers or {})
        self._secrets = Secrets(of_environment()) if content else None
        self._runs: dict[str, _Open] = {}

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, RunStarted):
            self._run_started(event)
        elif (run := self._runs.get(event.run)) is not None:
            self._hear(event, run)

    def _hear(self, event: Event, run: _Open) -> None:
        match event:
            case RootAsked():
                self._asked(event, run)
            case RootReplied():
                self._replied(event, run)
            case CellStarted():
                run.cell = self._tool(RUN_PYTHON.name, event.wall, event, run.span)
                self._say(run.cell, "tool.call.arguments", {"code": event.code})
            case CellFinished() if run.cell is not None:
                run.cell = self._end_tool(run.cell, event, event.output)
            case CallStarted(function="llm_query"):
                asked = [Message("user", event.prompt)]
                run.calls[event.call] = self._chat(event.model, event, run.cell or run.span, asked)
            case CallFinished() if event.call in run.calls:
                self._end_chat(run.calls.pop(event.call), event, event.reply)
            case FunctionCalled():
                self._function(event, run)
            case RunStopped():
                self._run_stopped(event, run)
            case _:
                pass

    # --- runs ---

    def _run_started(self, event: RunStarted) -> None:
        parent = self._runs.get(event.parent or "")
        more = {"gen_ai.agent.name": _AGENT, "gen_ai.request.model": event.model}
        above = None if parent is None else parent.cell or parent.span
        name = f"invoke_agent {_AGENT}"
        span = self._span("invoke_agent", name, event.wall, event, above, more, model=event.model)
        self._say(span, "input.messages", _messages([Message("user", event.question)]))
        self._runs[event.run] = _Open(event, span)

    def _run_stopped(self, event: RunStopped, run: _Open) -> None:
        del self._runs[event.run]
        failed = _kind(event.failure)
        for left in (*run.calls.values(), run.chat, run.cell):
            # what the end has cut short
            if left is not None:
                self._end(left, event.wall, failed or "cancelled", event.failure)
        taken = {
            "gen_ai.usage.input_tokens": event.input_tokens,
            "gen_ai.usage.output_tokens": event.output_tokens,
            "rlm_wasm.stopped_by": event.stopped_by,
            "rlm_wasm.calls": event.calls,
        }
        run.span.set_attributes(taken | _usd(event.usd))
        self._say(run.span, "output.messages", _said(event.response))
        self._end(run.span, event.wall, failed, event.failure)

    # --- model calls ---

    def _asked(self, event: RootAsked, run: _Open) -> None:
        if run.chat is not None:
            # an error that the run has got over, or its end would have come
            self._end(run.chat, event.wall, "_OTHER", None)
        run.prompt = [*run.prompt[: event.same], *event.messages]
        run.chat = self._chat(run.started.model, event, run.span, run.prompt)

    def _replied(self, event: RootReplied, run: _Open) -> None:
        if run.chat is not None:
            run.chat.set_attribute("gen_ai.response.model", event.model)
            run.chat = self._end_chat(run.chat, event, event.text)

    def _chat(self, model: str, event: Event, above: Span, prompt: Sequence[Message]) -> Span:
        more = {"gen_ai.request.model": model}
        kind = self._trace.SpanKind.CLIENT
        span = self._span("chat", f"chat {model}", event.wall, event, above, more, model=model, kind=kind)
        system = [message for message in prompt if message.role == "system"]
        if system:
            instructions = [{"type": "text", "content": message.content} for message in system]
            self._say(span, "system_instructions", instructions)
        self._say(span, "input.messages", _messages([message for message in prompt if message.role != "system"]))
        return span

    def _end_chat(self, span: Span, event: RootReplied | CallFinished, text: str) -> None:
        error = event.error if isinstance(event, CallFinished) else None
        tokens = {
            "gen_ai.usage.input_tokens": event.input_tokens,
            "gen_ai.usage.output_tokens": event.output_tokens,
            "rlm_wasm.cached": event.cached,
        }
        span.set_attributes(tokens | _usd(event.usd))
        if error is None:
            self._say(span, "output.messages", _said(text))
        self._end(span, event.wall, _kind(error), error)

    # --- cells and functions ---

    def _tool(self, name: str, wall: float, event: Event, above: Span) -> Span:
        more = {"gen_ai.tool.name": name, "gen_ai.tool.type": "function"}
        return self._span("execute_tool", f"execute_tool {name}", wall, event, above, more)

    def _end_tool(self, span: Span, event: CellFinished | FunctionCalled, result: object) -> None:
        if event.error is None:
            self._say(span, "tool.call.result", as_json(result))
        self._end(span, event.wall, _kind(event.error), event.error)

    def _function(self, event: FunctionCalled, run: _Open) -> None:
        span = self._tool(event.function, event.wall - event.seconds, event, run.cell or run.span)
        arguments = {"arguments": as_json(event.arguments), **{k: as_json(v) for k, v in event.named.items()}}
        self._say(span, "tool.call.arguments", arguments)
        self._end_tool(span, event, event.value)

    # --- spans ---

    def _span(
        self,
        operation: str,
        name: str,
        wall: float,
        event: Event,
        above: Span | None,
        more: Mapping[str, str],
        *,
        model: str | None = None,
        kind: Any = None,
    ) -> Span:
        stamps: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.conversation.id": event.run,
            "rlm_wasm.depth": event.depth,
            "rlm_wasm.iteration": event.iteration,
        }
        if model is not None and (provider := self._provider(model)) is not None:
            stamps["gen_ai.provider.name"] = provider
        return self._tracer.start_span(
            name,
            # without a span above it the one that is current counts
            context=None if above is None else self._trace.set_span_in_context(above),
            kind=kind or self._trace.SpanKind.INTERNAL,
            attributes={**stamps, **more},
            start_time=_nanoseconds(wall),
        )

    def _end(self, span: Span, wall: float, error: str | None, text: str | None) -> None:
        if error is not None:
            span.set_attribute("error.type", error)
            told = self._secrets.hide(text) if self._secrets is not None and text else None
            span.set_status(self._trace.StatusCode.ERROR, told)
        span.end(_nanoseconds(wall))

    def _say(self, span: Span, name: str, content: Any) -> None:
        if self._secrets is not None:
            text = line({"content": content}, self._secrets)
            # a JSON text, because spans know no structures; the braces are only for `line`
            span.set_attribute(f"gen_ai.{name}", text[len('{"content": ') : -1])

    def _provider(self, model: str) -> str | None:
        known = (provider for pattern, provider in _PROVIDERS if pattern.match(model))
        return self._providers.get(model) or next(known, None)


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for message in messages:
        calls = [_part("tool_call", call.id, arguments={"code": call.code}) for call in message.calls]
        if message.role == "tool":
            parts = [{"type": "tool_call_response", "id": message.answers, "response": message.content}]
        else:
            parts = [*([{"type": "text", "content": message.content}] if message.content or not calls else []), *calls]
        told.append({"role": message.role, "parts": parts})
    return told


def _part(kind: str, number: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": number, "name": RUN_PYTHON.name, **fields}


def _said(value: object) -> list[dict[str, Any]]:
    text = value if isinstance(value, str) else str(as_json(value))
    return [{"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": "stop"}]


def _kind(error: str | None) -> str | None:
    """The class of an error by its text, the last line of which begins with it in a traceback."""
    if error is None:
        return None
    lines = error.strip().splitlines() or [""]
    for text in (lines[-1], lines[0]):
        name = text.partition(":")[0]
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) and len(name) <= _ERROR_CHARS:
            return name
    return "_OTHER"


def _usd(usd: float | None) -> dict[str, float]:
    return {} if usd is None else {"rlm_wasm.usd": usd}


def _nanoseconds(wall: float) -> int:
    return int(wall * 1e9)
