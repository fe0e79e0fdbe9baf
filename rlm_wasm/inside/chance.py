"""Random numbers of `random` from a seed of the host's: a sandbox that is begun anew draws the same ones."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import random

import rlm_host

__all__: list[str] = []

# in a REPL that is kept over several runs, and lost, the last seed was taken up by the first of these
if "rlm_chance" in rlm_host.namespace():
    random.seed(rlm_host.namespace().pop("rlm_chance"))
