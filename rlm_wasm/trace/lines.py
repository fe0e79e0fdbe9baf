"""A run as plain lines, one for each thing that happens; and how text of models and corpora is made safe to show.

Knows nothing of windows and colours: what it writes is right for a file, a pipe and any terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rlm_wasm.events import (
    CallFinished,
    CellFinished,
    CellStarted,
    Event,
    HistoryShortened,
    RootReplied,
    RunStarted,
    RunStopped,
    SandboxReplaced,
)


def escaped(text: str) -> str:
    """`text` with control characters made visible: model and corpus text must not drive the terminal.

    So are those that change the direction of writing, and halves of surrogate pairs. Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def say(line: str) -> None:
    """Write a line to stderr, escaped."""
    sys.stderr.write(escaped(line) + "\n")
    sys.stderr.flush()


def write_progress(event: Event) -> None:
    """A listener that writes one line to stderr for each thing that happens, children's indented."""
    line = described(event)
    if line:
        say("  " * event.depth + line)


def described(event: Event) -> str:
    """An event as one line, not yet escaped; "" for one that is not worth a line."""
    match event:
        case RunStarted():
            return f"run: {event.model} (sub model {event.sub_model}); {event.context}"
        case RootReplied():
            return f"[{event.iteration}] reply: {event.output_tokens:,} tokens in {event.seconds:.1f} s"
        case CellStarted():
            return f"[{event.iteration}] code: {first_line(event.code)}"
        case CellFinished():
            what = last_line(event.error) if event.error else first_line(event.output)
            return f"[{event.iteration}] {'error' if event.error else 'output'} ({event.seconds:.2f} s): {what}"
        case CallFinished():
            what = first_line(event.error or event.reply)
            return f"[{event.iteration}] call {event.call} ({event.seconds:.1f} s): {what}"
        case SandboxReplaced():
            undone = f" ({event.undone:,} cells are undone)" if event.undone else ""
            return f"[{event.iteration}] sandbox replaced{undone}: {first_line(event.reason)}"
        case HistoryShortened():
            return f"[{event.iteration}] messages {event.way}: {event.tokens_before:,} tokens to {event.tokens_after:,}"
        case RunStopped():
            usd = "unknown price" if event.usd is None else f"{event.usd:.4f} USD"
            tokens = f"{event.input_tokens:,} tokens in, {event.output_tokens:,} out"
            return f"stopped by {event.stopped_by}: {event.calls} calls, {tokens}, {usd}, {event.seconds:.1f} s"
        case _:
            return ""


def first_line(text: str, most: int = 100) -> str:
    """The first line with something in it, at most `most` characters of it, and how many more such lines there are."""
    lines = _with_something(text)
    first = next(lines, None)
    if first is None:
        return "(nothing)"
    more = sum(1 for _ in lines)
    return first[:most] + (f"  (+{more} line{'s' if more > 1 else ''})" if more else "")


def last_line(text: str, most: int = 160) -> str:
    """The last line, where a traceback says what went wrong."""
    return text.strip().splitlines()[-1][:most] if text.strip() else ""


def _with_something(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip())
