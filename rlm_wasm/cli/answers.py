"""What goes to stdout: an answer, or JSON, as it is for a pipe and escaped for a terminal."""

from __future__ import annotations

import json
import sys

import msgspec

from rlm_wasm.trace.lines import escaped
from rlm_wasm.trajectory import Completion


def print_json(value: object) -> None:
    """Print something as JSON; what JSON lacks is written as Python shows it."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=2).decode()
    print(_escaped_json(text), flush=True)


def print_answer(done: Completion) -> None:
    """Print the answer of a run alone; nothing if it has none."""
    if done.response is not None:
        print(shown(done.response), flush=True)


def print_text(text: str) -> None:
    """Print a text."""
    print(escaped(text) if sys.stdout.isatty() else text, flush=True)


def shown(response: object) -> str:
    """The answer for a terminal or a pipe: text as it is, anything else as JSON where it has that form."""
    if isinstance(response, str):
        return response if not sys.stdout.isatty() else escaped(response)
    try:
        return _escaped_json(json.dumps(response, indent=2, ensure_ascii=False))
    except (TypeError, ValueError):
        return repr(response)


def _escaped_json(text: str) -> str:
    """The same for a JSON text, which has escapes of its own; as it is where stdout is no terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
