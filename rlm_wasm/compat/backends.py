"""The backends of alexzhang13/rlm by their names, as clients of this runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from rlm_wasm.clients import AnthropicClient, Client, GeminiClient, OpenAIClient, RetryingClient

# name -> address and environment variable of the key, as there
_GATEWAYS = {
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "vercel": ("https://ai-gateway.vercel.sh/v1", "AI_GATEWAY_API_KEY"),
    "portkey": ("https://api.portkey.ai/v1", "PORTKEY_API_KEY"),
}
_NOT_HERE = {
    "litellm": "run LiteLLM's proxy, which speaks OpenAI's API: backend='openai' with its base_url in backend_kwargs",
}
BACKENDS = ("openai", "vllm", *_GATEWAYS, "azure_openai", "anthropic", "gemini")
_OPTIONS = {"model_name", "api_key", "base_url", "timeout", "parameters"}
_AZURE_OPTIONS = _OPTIONS - {"base_url"} | {"azure_endpoint", "api_version", "azure_deployment"}


def client_of(backend: str, backend_kwargs: Mapping[str, Any] | None) -> Client:
    """The client of a backend's name and arguments; `{"client": ...}` is one of this runtime's own, taken as it is.

    `backend_kwargs`: `model_name`, and if need be `api_key`, `base_url`, `timeout` (seconds) and `parameters` (further
    fields of every request); `max_tokens` for Anthropic; `azure_endpoint`, `api_version` and `azure_deployment` for
    Azure. Raises ValueError for a backend that is not known or lacks something, TypeError for arguments that it does
    not take.
    """
    given = dict(backend_kwargs or {})
    if "client" in given:
        if len(given) > 1:
            raise TypeError(
                f"backend_kwargs: 'client' stands alone, without {', '.join(sorted(given.keys() - {'client'}))}"
            )
        return cast(Client, given["client"])
    if backend in _NOT_HERE:
        raise ValueError(f"backend {backend!r} is not here: {_NOT_HERE[backend]}")
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}: use one of {', '.join(BACKENDS)}")
    if not given.get("model_name"):
        raise ValueError(f"backend_kwargs needs the model_name that {backend} is to be asked for")
    _check_names(backend, given)
    model = str(given.pop("model_name"))
    given = {name: value for name, value in given.items() if value is not None}
    if backend == "azure_openai":
        return _azure(model, given)
    if backend in ("anthropic", "gemini"):
        return _native(backend, model, given)
    if backend == "vllm" and "base_url" not in given:
        raise ValueError("backend_kwargs needs the base_url of the vLLM server, like http://localhost:8000/v1")
    if backend in _GATEWAYS:
        _fill_gateway(backend, given)
    return OpenAIClient(model, **given)


def _check_names(backend: str, given: Mapping[str, Any]) -> None:
    known = _AZURE_OPTIONS if backend == "azure_openai" else _OPTIONS
    if backend == "anthropic":
        known = known | {"max_tokens"}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise TypeError(
            f"backend_kwargs of {backend} takes {', '.join(sorted(known))}, not {', '.join(unknown)}: what is to stand "
            "in every request goes into 'parameters'"
        )


def _fill_gateway(backend: str, given: dict[str, Any]) -> None:
    base_url, variable = _GATEWAYS[backend]
    key = given.get("api_key") or os.environ.get(variable)
    if not key and "base_url" not in given:
        # without this the key for OpenAI would be sent to the gateway
        raise ValueError(f"no key for {backend}: set {variable}, or give api_key in backend_kwargs")
    given.setdefault("base_url", base_url)
    if key:
        given["api_key"] = key


def _azure(model: str, given: dict[str, Any]) -> Client:
    deployment = given.pop("azure_deployment", None) or os.environ.get("AZURE_OPENAI_DEPLOYMENT") or model
    endpoint = given.pop("azure_endpoint", None)
    return OpenAIClient.azure(deployment, model=model, endpoint=endpoint, **given)


def _native(backend: str, model: str, given: dict[str, Any]) -> Client:
    most = given.pop("max_tokens", None)
    if most is not None:
        given["parameters"] = {"max_tokens": most, **given.get("parameters", {})}
    client = AnthropicClient if backend == "anthropic" else GeminiClient
    # these ask once, where the vendors' SDKs in that system ask again by themselves
    return RetryingClient(client(model, **given))
