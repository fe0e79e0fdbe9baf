"""The ladder: which module may know of which, and what importing the package brings with it. Held by reading it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlm_wasm

ROOT = Path(rlm_wasm.__file__).parent
# Imports go left only. `doctor` and `demo` are commands of `cli`.
LADDER = (
    *(
        "inside",
        "errors",
        "bounds",
        "whole_file",
        "locks",
        "cache_folder",
        "packages",
        "tables",
        "secrets",
        "cards",
        "prices",
        "limits",
        "outputs",
        "parsing",
        "magics",
        "dialects",
    ),
    *("sandbox", "files", "corpora", "contexts", "citations", "images", "prompts", "events", "clients", "retrievers"),
    *("trace_file", "trajectory", "guards", "windows", "conversation", "calls", "bridge", "answers", "survival"),
    *("store", "runs", "branches", "beginnings", "cells", "run", "plain", "sampling", "stream", "sessions"),
    *("questions", "answers_file", "batches", "answering", "rlm", "router", "compat", "trace", "doctor", "demo"),
    *("integrations", "cli"),
)
# What does nothing but hand on, for whoever has the thing in hand: to what makes something of it.
ON_PURPOSE = {("trajectory", "trace"), ("trajectory", "branches"), ("clients", "trajectory")}
ALLOWED_OUTSIDE = {"anyio", "msgspec"}
MODULES = sorted(ROOT.rglob("*.py"))


def rung(path: Path) -> str:
    """The place on the ladder of a file: the name of its module or package at the top level."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def nodes_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a module that runs when it is imported: not the bodies of functions, not what is for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from nodes_at_import(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The dotted names that are imported, a name per thing taken: `rlm_wasm.errors.RLMError`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in MODULES])
def test_a_module_imports_only_what_stands_left_of_it(path: Path) -> None:
    own = rung(path)
    if own in ("__init__", "__main__"):
        # the public face takes from everywhere
        return
    assert own in LADDER, f"{own} has no place on the ladder"
    left = set(LADDER[: LADDER.index(own) + 1])
    # what is imported within a function or for a type alone is known all the same
    for name in imported(ast.walk(ast.parse(path.read_text("utf-8")))):
        package, _, rest = name.partition(".")
        if package == "rlm_wasm":
            taken = rest.partition(".")[0]
            if own == "cli" and taken.startswith("__"):
                continue
            assert taken in left or (own, taken) in ON_PURPOSE, f"{own} may not know of {taken}"


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in MODULES])
def test_a_module_imports_nothing_of_others_when_it_is_imported_but_anyio_and_msgspec(path: Path) -> None:
    names = {name.partition(".")[0] for name in imported(nodes_at_import(ast.parse(path.read_text("utf-8"))))}
    if rung(path) == "inside":
        # runs in the sandbox: held to less, below
        return
    assert names - set(sys.stdlib_module_names) - {"rlm_wasm"} <= ALLOWED_OUTSIDE


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted((ROOT / "inside").glob("*.py"))])
def test_equipment_imports_the_standard_library_its_neighbours_and_rlm_host_alone(path: Path) -> None:
    names = {name.partition(".")[0] for name in imported(ast.walk(ast.parse(path.read_text("utf-8"))))}
    # the one that is sent libraries too
    names -= {"pypdf", "mammoth", "markdownify", "bs4"} if path.stem == "converting" else set()
    neighbours = {f"rlm_{other.stem}" for other in (ROOT / "inside").glob("*.py")}
    assert names <= set(sys.stdlib_module_names) | neighbours | {"rlm_host"}


def test_importing_the_package_loads_no_heavy_one() -> None:
    heavy = ["openai", "anthropic", "google.genai", "pydantic", "httpx", "httpx2", "rich", "trio", "deno"]
    heavy += ["elasticsearch", "numpy", "IPython", "opentelemetry", "shtab", "dspy", "starlette", "mcp"]
    heavy += ["pypdf", "bs4", "charset_normalizer"]
    heavy += ["pandas", "polars", "pyarrow"]
    program = f"import sys, rlm_wasm; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in MODULES])
def test_nothing_but_the_command_line_prints_or_touches_stdout(path: Path) -> None:
    if rung(path) == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print at line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "__stdout__"):
            assert ast.unparse(node) not in ("sys.stdout", "sys.__stdout__"), f"sys.stdout at line {node.lineno}"


def test_the_prisoners_python_knows_nothing_of_the_host() -> None:
    folder = ROOT / "_deno" if (ROOT / "_deno").is_dir() else ROOT.parent / "deno"
    inside = {path.stem for path in folder.glob("*.py")} - {"fetch_pyodide"}
    assert "prelude" in inside
    for name in inside:
        for taken in imported(ast.walk(ast.parse((folder / f"{name}.py").read_text("utf-8")))):
            package = taken.partition(".")[0]
            known = package in sys.stdlib_module_names or package == "pyodide" or package.removeprefix("rlm_") in inside
            assert known, f"{name}.py imports {taken}"
