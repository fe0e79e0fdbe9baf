"""Tables of all kinds on their way into the sandbox, and out of it as answers."""

from __future__ import annotations

from rlm_wasm.tables.files import TableFile, read_table
from rlm_wasm.tables.given import Tables, as_plain, find, is_tabular

__all__ = ["TableFile", "Tables", "as_plain", "find", "is_tabular", "read_table"]
