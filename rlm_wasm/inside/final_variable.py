"""An answer that is a variable of a name that the host has chosen: given after each cell once it is set."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import re

import rlm_host
from rlm_given import AT_LEAST, FINAL_VARIABLE, NO_ANSWERS

__all__: list[str] = []


@rlm_host.after_cell
def finish() -> None:
    """Give the answer, if there is one. One that is refused stays, and is given again after the next cell."""
    answer = rlm_host.namespace().get(FINAL_VARIABLE)
    if answer is None:
        return
    text = str(answer).strip()
    if len(text) >= AT_LEAST and not any(re.search(pattern, text) for pattern in NO_ANSWERS):
        rlm_host.FINAL(answer)
