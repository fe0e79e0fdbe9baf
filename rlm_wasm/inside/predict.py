"""predict-rlm's `predict(signature, **inputs)`: one call of a sub model whose answer has named, typed fields.

Owns how a signature is read and how its fields are asked for. Knows nothing of the host; what is asked is JSON, checked
by `rlm_json_replies`.
"""

# `rlm_host` is made by the sandbox; on the host there is no such module.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import ast
import asyncio
from types import SimpleNamespace
from typing import Any

__all__ = ["predict"]

_TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "list": {"type": "array"},
    "dict": {"type": "object"},
    "Any": {},
    "None": {"type": "null"},
}
_IMAGES = (bytes, bytearray)


class Prediction(SimpleNamespace):
    """The output fields, as attributes and by their names."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def toDict(self) -> dict[str, Any]:  # the name that it has there
        """As a dict."""
        return dict(vars(self))


async def predict(signature: str, instructions: str = "", *, model: str | None = None, **inputs: Any) -> Prediction:
    """The output fields of `signature` for the input fields given: `await predict("text -> city: str, year: int",
    text=t)`.

    A field is a name, if need be with a type (`str` where there is none): str, int, float, bool, list[...],
    dict[str, ...], Literal[...], Optional[...], `|`. An input that is bytes, or a list of them, is an image. Raises
    ValueError for a signature that is none, for missing inputs, and where no reply fits.
    """
    # of the library, which is read when it is first used
    import rlm_json_replies

    taken, given = _read(signature)
    missing = [name for name in taken if name not in inputs]
    if missing or not given:
        raise ValueError(f"predict: {signature!r} needs {', '.join(missing) or 'output fields behind ->'}")
    images = [image for value in inputs.values() for image in _images(value)]
    texts = [f"{name}:\n{value}" for name, value in inputs.items() if not _images(value)]
    schema = {"type": "object", "properties": given, "required": list(given), "additionalProperties": False}
    task = instructions or f"Give {', '.join(given)}, from {', '.join(inputs)}."
    prompt = "\n\n".join([task, *texts])
    seen = {"images": images} if images else {}
    found = await asyncio.to_thread(rlm_json_replies.llm_query_json, prompt, schema, model, **seen)
    return Prediction(**found)


def _images(value: Any) -> list[Any]:
    if isinstance(value, _IMAGES):
        return [value]
    several = isinstance(value, (list, tuple)) and value and all(isinstance(each, _IMAGES) for each in value)
    return list(value) if several else []


def _read(signature: str) -> tuple[list[str], dict[str, Any]]:
    """The names of the input fields, and the schemas of the output fields by name."""
    before, arrow, after = str(signature).partition("->")
    if not arrow:
        raise ValueError(f"a signature is 'inputs -> outputs', and {signature!r} has no ->")
    return list(_fields(before)), {name: _schema(kind) for name, kind in _fields(after).items()}


def _fields(text: str) -> dict[str, ast.expr | None]:
    """Names and types; read as a function's arguments are, and not evaluated."""
    try:
        [function] = ast.parse(f"def f({text.strip()}): pass").body
    except (SyntaxError, ValueError):
        raise ValueError(f"{text.strip()!r} is no list of fields, like `text, year: int`") from None
    assert isinstance(function, ast.FunctionDef)
    return {argument.arg: argument.annotation for argument in function.args.args}


def _schema(kind: ast.expr | None) -> dict[str, Any]:
    match kind:
        case None:
            return _TYPES["str"]
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Constant(value=None):
            return _TYPES["None"]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return {"anyOf": [_schema(left), _schema(right)]}
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _of(name, list(inner.elts) if isinstance(inner, ast.Tuple) else [inner])
        case _:
            raise ValueError(f"predict knows no type {ast.unparse(kind)!r}: use str, int, float, bool, list, dict")


def _of(name: str, inner: list[ast.expr]) -> dict[str, Any]:
    if name in ("list", "List"):
        return {"type": "array", "items": _schema(inner[0])}
    if name in ("dict", "Dict"):
        return {"type": "object", "additionalProperties": _schema(inner[-1])}
    if name == "Literal":
        return {"enum": [ast.literal_eval(each) for each in inner]}
    if name == "Optional":
        return {"anyOf": [_schema(inner[0]), _TYPES["None"]]}
    raise ValueError(f"predict knows no type {name!r}: use list, dict, Literal or Optional")
