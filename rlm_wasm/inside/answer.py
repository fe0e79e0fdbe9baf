"""An answer that is a variable: `answer["content"]`, given when `answer["ready"]` is true after a cell."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import rlm_host

__all__: list[str] = []

rlm_host.namespace()["answer"] = {"content": "", "ready": False}


@rlm_host.after_cell
def finish() -> None:
    """Give the answer, if it is ready."""
    answer = rlm_host.namespace().get("answer")
    if isinstance(answer, dict) and answer.get("ready"):
        # not ready for good: a refused one is mended, and made ready again
        answer["ready"] = False
        rlm_host.FINAL(answer.get("content"))
