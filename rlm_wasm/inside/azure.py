"""What rlm-on-azure offers in its REPL: `Final`, and `rlm_query` with a part of the text."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

import rlm_host

__all__ = ["rlm_query"]

rlm_host.namespace()["Final"] = None


def rlm_query(question: str, sub_context: Any = None, *, context: Any = None) -> Any:
    """Give a question over `sub_context` to a child with a namespace of its own; its answer."""
    return rlm_host.rlm_query(question, context if sub_context is None else sub_context)


@rlm_host.after_cell
def finish() -> None:
    """Give the answer, if there is one."""
    answer = rlm_host.namespace().get("Final")
    if answer is not None:
        # one that was refused is mended, and set again
        rlm_host.namespace()["Final"] = None
        rlm_host.FINAL(answer)
