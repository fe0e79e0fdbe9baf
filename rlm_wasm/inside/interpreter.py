"""What another framework's interpreter offers in its REPL: its tools, and `SUBMIT`, which ends the cell.

The host says in a variable, `interpreter_terms`, what they are called; it is gone when this has been read. What a tool
does is done on the host, and what it raised there comes as a RuntimeError with the text that it had.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnsupportedDunderAll=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import rlm_host

_terms = rlm_host.namespace().pop("interpreter_terms")
_TYPES = {kind.__name__: kind for kind in (str, int, float, bool, list, dict, type(None))}


class Submitted(BaseException):
    """Ends a cell that has given its output; no `except Exception` holds it up."""


def _submit(fields: list[dict[str, str]]) -> Callable[..., None]:
    """SUBMIT for these fields, in order, each given by its place or its name."""
    parameters = [
        inspect.Parameter(
            field["name"],
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=_TYPES.get(field.get("type", ""), inspect.Parameter.empty),
        )
        for field in fields
    ]
    signature = inspect.Signature(parameters)

    def SUBMIT(*values: Any, **named: Any) -> None:
        try:
            given = signature.bind(*values, **named).arguments
        except TypeError as error:
            raise TypeError(f"SUBMIT({', '.join(signature.parameters)}): {error}") from None
        rlm_host.FINAL(dict(given))
        raise Submitted

    # what help() and a bare `SUBMIT` show
    SUBMIT.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return SUBMIT


def _tool(name: str) -> Callable[..., Any]:
    def call(*values: Any, **named: Any) -> Any:
        answer = rlm_host.call_tool(name, list(values), named)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    call.__name__ = call.__qualname__ = name
    return call


SUBMIT = _submit(_terms["outputs"] or [{"name": "output"}])
__all__ = ["SUBMIT", *_terms["tools"]]
globals().update({name: _tool(name) for name in _terms["tools"]})
rlm_host.namespace().update(_terms["variables"])
