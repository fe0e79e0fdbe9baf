"""How text is got from a model. Read `protocol.py` first; `cached.py` wraps any of the others."""

from __future__ import annotations

from rlm_wasm.clients.anthropic import AnthropicClient
from rlm_wasm.clients.cached import CachedClient
from rlm_wasm.clients.clock import Clock
from rlm_wasm.clients.fallback import FallbackClient
from rlm_wasm.clients.gemini import GeminiClient
from rlm_wasm.clients.generic import GenericClient, GenericToolClient
from rlm_wasm.clients.openai import OpenAIClient
from rlm_wasm.clients.protocol import Client, Message, Reply
from rlm_wasm.clients.rate_limited import RateLimitedClient
from rlm_wasm.clients.retrying import RetryingClient
from rlm_wasm.clients.scripted import ScriptedClient

__all__ = [
    "AnthropicClient",
    "CachedClient",
    "Client",
    "Clock",
    "FallbackClient",
    "GeminiClient",
    "GenericClient",
    "GenericToolClient",
    "Message",
    "OpenAIClient",
    "RateLimitedClient",
    "Reply",
    "RetryingClient",
    "ScriptedClient",
]
