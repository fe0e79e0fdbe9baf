"""What dspy.RLM offers in its REPL: the input fields as variables, and `SUBMIT`."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import keyword
from typing import Any

import rlm_host

__all__ = ["SUBMIT"]


def _equip() -> None:
    names = rlm_host.namespace()
    given = names.get("context")
    for name, value in given.items() if isinstance(given, dict) else ():
        if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and name not in names:
            names[name] = value
            rlm_host.protect(name)


_equip()


def SUBMIT(*values: Any, **fields: Any) -> None:  # the name that it has there
    """Give the output fields: one value as it is, also as the one field `answer`; several as a dict by their names."""
    if values and fields:
        raise TypeError("SUBMIT takes values or fields by name, not both")
    if not values and not fields:
        raise TypeError("SUBMIT(field=value, ...) needs the output fields")
    if values:
        rlm_host.FINAL(values[0] if len(values) == 1 else values)
    else:
        rlm_host.FINAL(fields["answer"] if list(fields) == ["answer"] else fields)
