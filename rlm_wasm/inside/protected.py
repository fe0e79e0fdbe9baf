"""The context stays what it is: a cell that overwrites it has it back in the next."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false

from __future__ import annotations

import rlm_host

__all__: list[str] = []

rlm_host.protect("context")
