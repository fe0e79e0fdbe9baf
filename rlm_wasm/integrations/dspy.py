"""A DSPy `CodeInterpreter` whose REPL is our sandbox: for `dspy.RLM`, `dspy.CodeAct` and `dspy.ProgramOfThought`.

Written against dspy.primitives.code_interpreter of DSPy 3.4. Knows only how its outcomes are called there.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlm_wasm.integrations.interpreter import Interpreter, Kinds, Tool
from rlm_wasm.sandbox import SandboxOptions


class WasmInterpreter(Interpreter):
    """DSPy's interpreter in a sandbox that holds no permission.

        rlm = dspy.RLM("context, question -> answer: str", interpreter_factory=WasmInterpreter)
        dspy.configure(interpreter_factory=WasmInterpreter)     # or for all modules

    Cells keep Python types that JSON lacks (tuples, sets, bytes, dates) on the way in and out; a model of pydantic's
    becomes a dict. Unlike `dspy.PythonInterpreter` it mounts no files and grants neither network nor environment.
    Raises ImportError without DSPy. For the rest see `Interpreter`; `sandbox` chooses memory, seconds and the like:
    `interpreter_factory=lambda: WasmInterpreter(sandbox=SandboxOptions(timeout=300))`.
    """

    execution_instructions = (
        "Python runs in CPython compiled to WebAssembly. State persists across executions. The standard library is "
        "there; subprocesses, native extensions, files of the host, its environment and the network are not."
    )

    def __init__(
        self,
        tools: Mapping[str, Tool] | None = None,
        output_fields: Sequence[Mapping[str, str]] | None = None,
        *,
        sandbox: SandboxOptions | None = None,
    ) -> None:
        super().__init__(tools, output_fields, sandbox=sandbox, kinds=_kinds())


def _kinds() -> Kinds:
    try:
        words: Any = importlib.import_module("dspy.primitives.code_interpreter")
        return Kinds(words.FinalOutput, words.CodeExecutionError, words.CodeInterpreterError)
    except (ImportError, AttributeError) as error:
        raise ImportError("WasmInterpreter is for DSPy 3.4 or newer: pip install 'rlm-wasm[dspy]'") from error
