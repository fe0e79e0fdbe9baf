"""pyrlm-runtime's `RichTraceListener`: its events as panels on a terminal, by rich (the extra `rich`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlm_wasm.compat.tracing import RLMEvent, TraceStep

if TYPE_CHECKING:
    from rich.console import Console

# characters of a code or an output that are shown: a terminal is read in passing
_SHOWN = 2000


class RichTraceListener:
    """Shows a run as it goes: its query, each reply, cell and call, and its answer.

    `console` is a `rich.console.Console`; without one it is made, and writes to stderr. Raises ImportError where rich
    is not installed.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True)

    def handle(self, event: RLMEvent) -> None:
        """Show an event."""
        from rich.panel import Panel

        if event.kind == "run_started":
            self.console.print(Panel(_text(event.query), title="query", border_style="cyan"))
        elif event.kind == "run_finished":
            spent = f"{event.total_steps} steps, {event.tokens_used:,} tokens, {event.elapsed:.1f} s"
            self.console.print(Panel(_text(event.output), title="answer", subtitle=spent, border_style="green"))
        elif event.step is not None:
            self.console.print(self._step(event.step))

    def _step(self, step: TraceStep) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.syntax import Syntax

        parts: list[Any] = []
        if step.code:
            # highlighted, and nothing in it is taken for markup
            parts.append(Syntax(_printable(step.code), "python", word_wrap=True))
        for said in (step.prompt_summary if step.depth else None, step.output, step.stdout):
            parts += [_text(said)] if said else []
        if step.error:
            parts.append(_text(step.error, "red"))
        tokens = f", {step.usage.total_tokens:,} tokens" if step.usage else ""
        title = f"{step.step_id} {step.kind} ({step.elapsed or 0:.1f} s{tokens}{', cached' if step.cache_hit else ''})"
        border = "red" if step.error else "blue" if step.depth else "magenta"
        return Panel(Group(*parts), title=_text(title), title_align="left", border_style=border)


def _text(text: str | None, style: str = "") -> Any:
    from rich.text import Text

    # plain: no markup, and no control character that would move the cursor
    return Text(_printable(text or ""), style=style)


def _printable(text: str) -> str:
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text) - _SHOWN:,} more characters)"
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in cut)
