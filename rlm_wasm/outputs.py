"""What a run is to answer with: its JSON Schema for the model, and whether a value fits.

Takes whatever msgspec understands, a pydantic model (which is known by its methods, so that pydantic need not be
there), a JSON Schema as a dict, or a type of frames or arrays (`tables/answers.py`). Knows nothing of messages.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from rlm_wasm.inside.schemas import fault
from rlm_wasm.tables import answers


class Unfit(ValueError):
    """The value does not fit; the text says where and why."""


class Output:
    """A type asked for; `None` takes anything. Raises TypeError for what msgspec cannot make a schema of."""

    def __init__(self, wanted: Any) -> None:
        self._wanted: Any = wanted
        self._is_schema = isinstance(wanted, dict)
        self._is_pydantic = isinstance(wanted, type) and hasattr(wanted, "model_validate")
        self.schema: dict[str, Any] | None = None
        self._is_frame = answers.schema(wanted) is not None
        if self._is_schema:
            self.schema = cast("dict[str, Any]", wanted)
        elif self._is_frame:
            self.schema = answers.schema(wanted)
        elif self._is_pydantic:
            self.schema = self._wanted.model_json_schema()
        elif wanted is not None:
            self.schema = msgspec.json.schema(wanted)

    def accept(self, value: object) -> Any:
        """The value as the type asked for. Raises Unfit."""
        if self._wanted is None:
            return value
        if self._is_schema:
            wrong = fault(value, self._wanted)
            if wrong is not None:
                raise Unfit(wrong)
            return value
        if self._is_pydantic:
            return self._validated(value)
        if self._is_frame:
            return self._framed(value)
        try:
            return msgspec.convert(value, self._wanted)
        except msgspec.ValidationError as error:
            raise Unfit(str(error)) from error

    def _framed(self, value: object) -> Any:
        try:
            return answers.make(self._wanted, value)
        except ValueError as error:
            raise Unfit(str(error)) from error

    def _validated(self, value: object) -> Any:
        try:
            return self._wanted.model_validate(value)
        except ValueError as error:
            # pydantic's own error is a ValueError; its errors() say where each fault is
            faults: list[dict[str, Any]] = getattr(error, "errors", list)()
            told = [f"{fault['msg']} - at `$.{'.'.join(map(str, fault['loc']))}`" for fault in faults[:5]]
            raise Unfit("; ".join(told) or str(error)) from error
