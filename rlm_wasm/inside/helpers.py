"""Short names for what models write over and over. What stands behind one is compiled when it is first used."""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import rlm_host

_HOMES = {
    "rlm_asking": (
        *("ask", "ask_chunks", "ask_chunks_first", "cite", "extract_after", "peek", "pick_first_answer", "tail"),
    ),
    "rlm_json_replies": ("llm_query_json",),
}
# what was cited; a cell may append to it too
used_sections: list[Any] = []


def _home(module: str) -> Any:
    found: Any = importlib.import_module(module)
    if module == "rlm_asking":
        found.citations = used_sections
    return found


def _later(module: str, name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return getattr(_home(module), name)(*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    return function


class _Documents:
    """The context as documents: `rlm_documents.Context`, made when it is first asked for something."""

    def _made(self) -> Any:
        made = self.__dict__.get("made")
        if made is None:
            documents = importlib.import_module("rlm_documents")
            made = documents.Context.of(rlm_host.namespace().get("context"))
            self.__dict__["made"] = made
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made(), name)

    def __len__(self) -> int:
        return len(self._made())

    def __iter__(self) -> Any:
        return iter(self._made())

    def __repr__(self) -> str:
        return repr(self._made())


ctx = _Documents()
globals().update({name: _later(module, name) for module, names in _HOMES.items() for name in names})
rlm_host.namespace()["used_sections"] = used_sections

__all__ = [*_HOMES["rlm_asking"], *_HOMES["rlm_json_replies"], "ctx"]  # pyright: ignore[reportUnsupportedDunderAll]
