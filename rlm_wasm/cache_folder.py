"""Where this machine's user keeps what can be had again: memory images, packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """RLM_WASM_CACHE, else a folder of our own in the user's cache folder; it may not be there yet."""
    chosen = os.environ.get("RLM_WASM_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "rlm-wasm"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "rlm-wasm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlm-wasm"
