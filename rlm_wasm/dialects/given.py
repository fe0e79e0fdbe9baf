"""A dialect with what a caller has chosen in it: values for its equipment, the answer's variable, a system message.

Pure functions from a dialect to another. Values travel to the equipment as data (`rlm_wasm/inside/given.py`).
"""

from __future__ import annotations

import ast

import msgspec

from rlm_wasm.dialects.dialect import Dialect, Offer, inside
from rlm_wasm.inside import given

_MODULE = "rlm_given"


def giving(dialect: Dialect, **chosen: str | int | list[str]) -> Dialect:
    """The dialect, whose equipment is given values other than those that stand in `rlm_wasm/inside/given.py`."""
    known = {name: value for name, value in vars(given).items() if name.isupper()}
    for module, text in dialect.equipment:
        if module == _MODULE:
            known |= _read(text)
    if not chosen.keys() <= known.keys():
        raise ValueError(f"equipment may be given {', '.join(sorted(known))}, not {', '.join(sorted(chosen))}")
    text = "".join(f"{name} = {value!r}\n" for name, value in (known | chosen).items())
    text += "__all__ = []\n"
    others = tuple(part for part in dialect.equipment if part[0] != _MODULE)
    return msgspec.structs.replace(dialect, equipment=((_MODULE, text), *others))


def _read(text: str) -> dict[str, object]:
    """The values in the module's text, which is assignments of literals alone."""
    values: dict[str, object] = {}
    for node in ast.parse(text).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
                values[name] = ast.literal_eval(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name.isupper():
                values[name] = ast.literal_eval(value)
            case _:
                continue
    return values


def finishing_by(dialect: Dialect, variable: str, *, at_least: int = 1, no_answers: list[str] | None = None) -> Dialect:
    """The dialect, in which a run ends when a variable of this name is set.

    `at_least` is how many characters it must have as text, `no_answers` are regular expressions that must not be found
    in that. Raises ValueError for what is no Python name, or is the context's.
    """
    if not variable.isidentifier() or variable == dialect.context:
        raise ValueError(f"{variable!r} is no name for a variable that is to be the answer")
    values = giving(dialect, FINAL_VARIABLE=variable, AT_LEAST=max(1, at_least), NO_ANSWERS=no_answers or [])
    offer = Offer(f"`{variable}`: set it to the answer when you have it: that ends the work.")
    return msgspec.structs.replace(
        values, equipment=(*values.equipment, *inside("final_variable")), offers=(*dialect.offers, offer)
    )


def instructed(dialect: Dialect, system: str) -> Dialect:
    """The dialect with another system message, word for word: its braces are braces."""
    return msgspec.structs.replace(dialect, system=system.replace("{", "{{").replace("}", "}}"))
