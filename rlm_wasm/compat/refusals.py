"""Arguments that another system has and that make no sense here: said so, with the reason, and never ignored."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Refused(msgspec.Struct, frozen=True):
    """An argument that is taken only with the value that changes nothing, and why."""

    unchanged: object
    reason: str


def check(given: Mapping[str, object], refused: Mapping[str, Refused]) -> None:
    """Raise ValueError for the first argument that is refused, TypeError for one that is not known at all."""
    for name, value in given.items():
        if name not in refused:
            raise TypeError(f"there is no argument {name!r}, neither there nor here")
        if value != refused[name].unchanged:
            raise ValueError(f"{name}={value!r} is not possible here: {refused[name].reason}")
