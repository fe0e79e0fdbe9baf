"""pyrlm-runtime's trace: a JSON list of steps, which its `Trace.from_json` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

import msgspec

from rlm_wasm.compat.tracing import Tracing
from rlm_wasm.events import Event, RunStarted
from rlm_wasm.secrets import Secrets, of_environment
from rlm_wasm.trace.told import line


def export_pyrlm(events: Iterable[Event], *, secrets: Secrets | None = None) -> str:
    """The steps of all runs among the events, as one text of JSON.

    `secrets` are left out; None leaves out those of the environment.
    """
    tracing, hidden = Tracing(""), secrets or Secrets(of_environment())
    known: set[str] = set()
    for event in events:
        if isinstance(event, RunStarted):
            known.add(event.run)
        if event.run in known:
            tracing(event)
    steps = cast("list[dict[str, object]]", msgspec.to_builtins(tracing.trace.steps))
    return "[\n" + ",\n".join(line(step, hidden) for step in steps) + "\n]" if steps else json.dumps(steps)
