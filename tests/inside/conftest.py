"""Equipment on the host: a stand-in for `rlm_host`, which the sandbox makes for the real ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from rlm_wasm.inside import schemas


class FunctionError(RuntimeError):
    """As the sandbox has it."""

    partial: list[Any] | None = None


class Host(ModuleType):
    """Answers as `answer` does, notes what it was asked, and gives the variables that a test sets."""

    def __init__(self) -> None:
        super().__init__("rlm_host")
        self.variables: dict[str, Any] = {}
        self.asked: list[str] = []
        self.batches: list[int] = []
        self.models: list[str | None] = []
        self.answer: Callable[[str], str] = lambda prompt: "NOT FOUND"

    def namespace(self) -> dict[str, Any]:
        return self.variables

    def llm_query(self, prompt: str, model: str | None = None) -> str:
        self.asked.append(prompt)
        self.models.append(model)
        return self.answer(prompt)

    def llm_query_batched(self, prompts: list[str], model: str | None = None) -> list[str]:
        self.batches.append(len(prompts))
        answers: list[Any] = []
        failed: FunctionError | None = None
        for prompt in prompts:
            try:
                answers.append(self.llm_query(prompt, model))
            except FunctionError as error:
                answers.append(None)
                failed = error
        if failed is not None:
            failed.partial = answers
            raise failed
        return answers


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setitem(sys.modules, "rlm_host", made)
    # in the sandbox it is equipment too, under this name
    monkeypatch.setitem(sys.modules, "rlm_schemas", schemas)
    return made


@pytest.fixture
def equipment(host: Host) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of rlm_wasm/inside afresh, upon this test's host: `equipment("asking")`."""
    names: list[str] = []

    def load(name: str) -> ModuleType:
        names.append(f"rlm_wasm.inside.{name}")
        sys.modules.pop(names[-1], None)
        return importlib.import_module(names[-1])

    yield load
    for name in names:
        sys.modules.pop(name, None)
