"""The clients that wrap another, each around one that a test hands in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from rlm_wasm.clients import CachedClient, Client, FallbackClient, RateLimitedClient, RetryingClient, ScriptedClient

Wrap: TypeAlias = Callable[[Client], Any]

WRAPPERS: dict[str, Callable[[Client, Path], Any]] = {
    "cached": lambda client, folder: CachedClient(client, folder / "replies.sqlite"),
    "fallback": lambda client, folder: FallbackClient(client),
    "fallback to the second": lambda client, folder: FallbackClient(ScriptedClient(model="no script"), client),
    "rate limited": lambda client, folder: RateLimitedClient(client, requests_per_minute=1e6),
    "retrying": lambda client, folder: RetryingClient(client),
}
