"""Which keys a client says it holds, so that nobody writes them down."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_wasm import (
    AnthropicClient,
    CachedClient,
    FallbackClient,
    GeminiClient,
    GenericClient,
    OpenAIClient,
    RateLimitedClient,
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.compat.adapters import AdapterClient, OpenAICompatAdapter
from rlm_wasm.compat.policy import RootClient, SubClient

KEY = "planted-key-1234567"
URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("client", [OpenAIClient, AnthropicClient, GeminiClient], ids=lambda client: client.__name__)
def test_a_client_holds_the_key_that_it_was_given_or_finds(
    client: type[OpenAIClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "LLM_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert held_keys(client("m", base_url=URL)) == set()
    assert held_keys(client("m", base_url=URL, api_key=KEY)) == {KEY}
    # what can be no key may be one with a slip in it
    assert held_keys(client("m", base_url=URL, api_key=f"{KEY} x")) == {f"{KEY} x"}
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, f"{KEY}-found")
    assert held_keys(client("m", base_url=URL)) == {f"{KEY}-found"}


def test_headers_and_addresses_of_a_generic_client_may_hold_keys() -> None:
    generic = GenericClient(
        "m", f"{URL}?token={KEY}", lambda messages, most: [], str, headers={"Authorization": f"Bearer {KEY}-2"}
    )
    assert {KEY, f"{KEY}-2"} <= held_keys(generic)


def test_a_client_around_others_holds_theirs(tmp_path: Path) -> None:
    one, two = (OpenAIClient("m", base_url=URL, api_key=f"{KEY}-{number}") for number in "12")
    around = RetryingClient(RateLimitedClient(CachedClient(one, tmp_path / "replies.sqlite"), requests_per_minute=1))
    assert held_keys(FallbackClient(around, two), ScriptedClient()) == {f"{KEY}-1", f"{KEY}-2"}


def test_an_adapter_of_another_system_passes_its_clients_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", KEY)
    client = AdapterClient(OpenAICompatAdapter(model="m", base_url=URL))
    sub = SubClient(client, instruction="", max_output_tokens=1, max_tokens=None, allowed=True)
    assert held_keys(RootClient(sub, max_output_tokens=1, history=True, max_history_tokens=0)) == {KEY}
