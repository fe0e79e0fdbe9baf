"""Whether a value fits a JSON Schema, as far as models are asked for one. Knows nothing of models or replies.

On the host the same module checks what a run is to answer.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

__all__ = ["fault"]


def fault(value: Any, schema: Any) -> str | None:
    """What is wrong with `value` by the JSON Schema, with the path to it (`$.items[2].price`), or None.

    Of the schema these keywords count: type, enum, const, $ref within it, anyOf, oneOf, allOf, not; properties,
    required, additionalProperties; items, prefixItems, minItems, maxItems, uniqueItems; minLength, maxLength, pattern;
    minimum, maximum, exclusiveMinimum, exclusiveMaximum. Others are passed over. Raises ValueError for a schema that
    is none.
    """
    try:
        return _Check(schema).fault(value, schema, "$", ())
    except RecursionError:
        raise ValueError("the schema or the value is nested too deeply to be checked") from None
    except (re.error, TypeError, AttributeError) as error:
        raise ValueError(f"the schema cannot be checked: {error}") from error


_KINDS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and value == value // 1,
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class _Check:
    """One schema, against which values are held. Each step returns the first fault, or None."""

    def __init__(self, root: Any) -> None:
        self.root = root

    def fault(self, value: Any, schema: Any, path: str, refs: tuple[str, ...]) -> str | None:
        """`refs` are those that led here without a step into the value: one that comes again would never end."""
        if schema is True:
            return None
        if schema is False:
            return f"{path} must not be there"
        if not isinstance(schema, Mapping):
            raise ValueError(f"a schema is an object (a dict), or true or false; this is a {type(schema).__name__}")
        rules = cast("Mapping[str, Any]", schema)
        steps = (self._referred, self._kind, self._chosen, self._combined, self._number, self._string)
        for step in (*steps, self._array, self._object):
            wrong = step(value, rules, path, refs)
            if wrong is not None:
                return wrong
        return None

    def _referred(self, value: Any, rules: Mapping[str, Any], path: str, refs: tuple[str, ...]) -> str | None:
        if "$ref" not in rules:
            return None
        ref: str = rules["$ref"]
        if ref in refs:
            raise ValueError(f"the schema's $ref {ref!r} leads back to itself")
        found = self.root
        if not ref.startswith("#"):
            raise ValueError(f"the schema's $ref {ref!r} is not within the schema: only '#/$defs/...' is followed")
        for name in ref[1:].split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"the schema's $ref {ref!r} leads to nothing")
            found = cast("Mapping[str, Any]", found)[name]
        return self.fault(value, found, path, (*refs, ref))

    def _kind(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if "type" not in rules:
            return None
        given: Any = rules["type"]
        kinds = cast("list[str]", given) if isinstance(given, list) else [cast(str, given)]
        unknown = [kind for kind in kinds if kind not in _KINDS]
        if unknown:
            raise ValueError(f"the schema has a type that JSON Schema has not: {unknown[0]!r}")
        if any(_KINDS[kind](value) for kind in kinds):
            return None
        return f"{path} must be of type {' or '.join(kinds)}, and is {_shown(value)}"

    def _chosen(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if "const" in rules and not _same(value, rules["const"]):
            return f"{path} must be {_shown(rules['const'])}, and is {_shown(value)}"
        if "enum" in rules and not any(_same(value, choice) for choice in rules["enum"]):
            choices = ", ".join(map(_shown, rules["enum"]))
            return f"{path} must be one of {choices}, and is {_shown(value)}"
        return None

    def _combined(self, value: Any, rules: Mapping[str, Any], path: str, refs: tuple[str, ...]) -> str | None:
        for part in rules.get("allOf", ()):
            wrong = self.fault(value, part, path, refs)
            if wrong is not None:
                return wrong
        for keyword in ("anyOf", "oneOf"):
            if keyword not in rules:
                continue
            faults = [self.fault(value, part, path, refs) for part in rules[keyword]]
            fitting = faults.count(None)
            if not fitting:
                return f"{path} fits none of {len(faults)} forms ({'; '.join(str(wrong) for wrong in faults)})"
            if keyword == "oneOf" and fitting > 1:
                return f"{path} must fit one form alone, and fits {fitting} of {len(faults)}"
        if "not" in rules and self.fault(value, rules["not"], path, refs) is None:
            return f"{path} has a form that it must not have"
        return None

    def _number(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if not _is_number(value):
            return None
        for keyword, said, holds in (
            ("minimum", "at least", operator.ge),
            ("maximum", "at most", operator.le),
            ("exclusiveMinimum", "more than", operator.gt),
            ("exclusiveMaximum", "less than", operator.lt),
        ):
            if keyword in rules and not holds(value, rules[keyword]):
                return f"{path} must be {said} {rules[keyword]}, and is {_shown(value)}"
        return None

    def _string(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if not isinstance(value, str):
            return None
        if "pattern" in rules and re.search(rules["pattern"], value) is None:
            return f"{path} must match the pattern {rules['pattern']}, and is {_shown(value)}"
        return _size_fault(len(value), rules, "Length", f"{path} must have at", "characters")

    def _array(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if not isinstance(value, list):
            return None
        items = cast("list[Any]", value)
        first: list[Any] = rules.get("prefixItems", [])
        rest = rules.get("items", True)
        for number, item in enumerate(items):
            wrong = self.fault(item, first[number] if number < len(first) else rest, f"{path}[{number}]", ())
            if wrong is not None:
                return wrong
        if rules.get("uniqueItems") is True:
            for number, item in enumerate(items):
                if any(_same(item, earlier) for earlier in items[:number]):
                    return f"{path}[{number}] stands there twice"
        return _size_fault(len(items), rules, "Items", f"{path} must have at", "items")

    def _object(self, value: Any, rules: Mapping[str, Any], path: str, _: tuple[str, ...]) -> str | None:
        if not isinstance(value, dict):
            return None
        members = cast("dict[str, Any]", value)
        for name in rules.get("required", ()):
            if name not in members:
                return f"{path} lacks the member {_shown(name)}"
        properties: Mapping[str, Any] = rules.get("properties", {})
        others = rules.get("additionalProperties", True)
        for name, member in members.items():
            if name not in properties and others is False:
                known = ", ".join(map(_shown, properties)) or "none"
                return f"{path} has the member {_shown(name)}, and may have only: {known}"
            wrong = self.fault(member, properties.get(name, others), f"{path}.{name}", ())
            if wrong is not None:
                return wrong
        return None


def _size_fault(size: int, rules: Mapping[str, Any], of: str, said: str, unit: str) -> str | None:
    if size < rules.get(f"min{of}", 0):
        return f"{said} least {rules[f'min{of}']} {unit}, and has {size}"
    if f"max{of}" in rules and size > rules[f"max{of}"]:
        return f"{said} most {rules[f'max{of}']} {unit}, and has {size}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and neither is true."""
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(items) == len(others) and all(map(_same, items, others))
    if isinstance(one, dict) and isinstance(other, dict):
        members, twins = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return members.keys() == twins.keys() and all(_same(members[name], twins[name]) for name in members)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"
