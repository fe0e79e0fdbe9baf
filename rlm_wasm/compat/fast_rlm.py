"""The door for programs written against fast-rlm: `run(query, ...)` and `RLMConfig`.

Facts of its interface (version 0.5.0) as of November 2026; the runs are this runtime's, in the dialect "fast-rlm".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from rlm_wasm import dialects
from rlm_wasm.clients import Client, Message, OpenAIClient, Reply
from rlm_wasm.clients.connections import host_of, is_local
from rlm_wasm.clients.keys import held_keys
from rlm_wasm.compat.fast_rlm_steps import Steps, log_path
from rlm_wasm.compat.listening import tell
from rlm_wasm.compat.refusals import Refused, check
from rlm_wasm.errors import LimitExceeded, RLMError
from rlm_wasm.limits import Limits
from rlm_wasm.outputs import Output
from rlm_wasm.prices import DEFAULT_PRICES, Price, find_price
from rlm_wasm.rlm import RLM
from rlm_wasm.trajectory import Completion

__all__ = ["CONFIG_REFUSED", "REFUSED", "RLMConfig", "RunFailed", "arun", "run"]

TASK = "Do the task that `context` states, with the data that stands in it."
"""What is asked where the query itself is the context."""

_NO_ENGINE = "models are asked by this runtime's clients: give one as primary_agent or sub_agent"
_NO_MCP = "give the functions that are wanted as tools, which run on the host"
_NO_SESSION = "every run starts in a fresh REPL; give what an earlier one found as part of the query"
REFUSED: Mapping[str, Refused] = {
    "env_variables": Refused(None, "tools run on the host, in its environment, and no secret enters the sandbox"),
    "mcp_servers": Refused(None, _NO_MCP),
    "vertex": Refused(False, _NO_ENGINE),
    "session_dir": Refused(None, _NO_SESSION),
    "session_id": Refused(None, _NO_SESSION),
    "add_session_code_to_context": Refused(True, _NO_SESSION),
}
"""Arguments of `run` that are taken only with the value that changes nothing, and why."""

CONFIG_REFUSED: Mapping[str, Refused] = {
    "enable_tools": Refused(True, "leave tools away; functions of its own a model can always hand down"),
    "enable_structured_io": Refused(True, "leave output_schema away; a schema for a child can always be given"),
    "inherit_mcp": Refused(False, _NO_MCP),
    "acp_agents": Refused(None, _NO_ENGINE),
    "cli_agents": Refused(None, _NO_ENGINE),
    "cli_minimal": Refused(False, _NO_ENGINE),
    "cli_allow_api_key": Refused(False, _NO_ENGINE),
}
"""Fields of `RLMConfig` that are taken only with the value that changes nothing, and why."""

Verbosity = Literal[0, 1, 2, "silent", "quiet", "summary", "full", "verbose"]
_LEVELS: Mapping[object, int] = {"silent": 0, "quiet": 0, "summary": 1, "full": 2, "verbose": 2, 0: 0, 1: 1, 2: 2}


@dataclass
class RLMConfig:
    """What a run may take, and whom it asks. `primary_agent` has no default; `sub_agent` without one is the same.

    Both are names as at OpenRouter, or clients of this runtime. `max_calls_per_subagent` counts the replies of one run,
    `max_global_calls` all model calls. `truncate_len` is in characters, `max_money_spent` in US dollars. Where a child
    would get a context of `compression_min_chars` or more that is not under `compression_ratio` of its parent's, it has
    to be asked for twice. Children have the host's tools with `inherit_tools` and without.
    """

    primary_agent: str | Client | None = None
    sub_agent: str | Client | None = None
    max_depth: int = 3
    max_calls_per_subagent: int = 20
    truncate_len: int = 10_000
    max_money_spent: float = 0.2
    max_completion_tokens: int = 50_000
    max_prompt_tokens: int = 200_000
    max_global_calls: int | None = None
    api_max_retries: int = 3
    api_timeout_ms: int = 600_000
    enable_tools: bool = True
    enable_structured_io: bool = True
    inherit_tools: bool = False
    inherit_mcp: bool = False
    enable_compression_guard: bool = True
    compression_min_chars: int = 5000
    compression_ratio: float = 0.6
    acp_agents: Mapping[str, Any] | None = None
    cli_agents: Mapping[str, Any] | None = None
    cli_minimal: bool = False
    cli_allow_api_key: bool = False

    @classmethod
    def default(cls) -> RLMConfig:
        """The defaults."""
        return cls()


class RunFailed(RuntimeError):
    """A run came to no answer, as there a RuntimeError; `completion` is its record, None if there is none."""

    def __init__(self, message: str, completion: Completion | None = None) -> None:
        super().__init__(message)
        self.completion = completion


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one run that this runtime's own do not hold."""

    question: str
    context: object
    schema: dict[str, Any] | None
    steps: Steps


def run(query: str | dict[str, Any] | list[Any] | None = None, **given: Any) -> dict[str, Any]:
    """Like `arun`, from plain synchronous code; inside a running event loop (Jupyter) too."""
    runtime, asked, summary = _prepared(query, **given)

    async def answer() -> dict[str, Any]:
        return await _answer(runtime, asked, summary)

    return runtime.run_blocking(answer)


async def arun(query: str | dict[str, Any] | list[Any] | None = None, **given: Any) -> dict[str, Any]:
    """Answer `query`, which is the context with the task in it.

        config = RLMConfig(primary_agent="z-ai/glm-5")
        result = run("Generate 50 fruits and count number of r", config=config)
        print(result["results"], result["usage"])

    Further arguments, by name: `config`, an `RLMConfig` or a dict of its fields; `output_schema`, a JSON Schema, a
    pydantic model or a type, which the answer has to fit; `tools`, functions, which run on the host; `instruction`, for
    the root alone; `input_file` in place of `query` (.json, .jsonl, .ndjson, else text); `llm_kwargs`, further fields
    of every request; `verbosity` ("silent", "summary" or "full"; `verbose` if it is not given), to stderr; `on_step`,
    a function that is given a dict for each step and answer, in a thread of its own; `prefix` and `log_dir`: without
    either no log is written. `prices` (US dollars per million tokens by model) are this runtime's: `max_money_spent` is
    held to where the prices of both models are known, as there only where a provider tells its costs.

    The result has `results`, JSON-like, `usage` and `log_file` (None if there is none). The key of models by name is
    RLM_MODEL_API_KEY, their address RLM_MODEL_BASE_URL, or else OpenRouter's.

    Raises RunFailed, a RuntimeError, where there is no answer; ValueError for arguments that make no sense here, with
    the reason (`REFUSED`, `CONFIG_REFUSED`).
    """
    return await _answer(*_prepared(query, **given))


async def _answer(runtime: RLM, asked: _Asked, summary: bool) -> dict[str, Any]:
    try:
        done = await runtime.acompletion(asked.question, context=asked.context, output=asked.schema)
    except RLMError as error:
        so_far = error.partial if isinstance(error.partial, Completion) else None
        raise RunFailed(f"the run failed: {error}", so_far) from error
    if done.response is None and done.stopped_by != "final":
        raise RunFailed(f"the run was stopped without an answer, by its limit: {done.stopped_by}", done)
    usage = asked.steps.usage(done.usage)
    if summary:
        asked.steps.tell(f"{done.response}\n{usage}")
    log = asked.steps.path
    return {"results": done.response, "usage": usage, "log_file": None if log is None else str(log)}


def _prepared(
    query: str | dict[str, Any] | list[Any] | None,
    *,
    prefix: str | None = None,
    config: RLMConfig | Mapping[str, Any] | None = None,
    verbose: bool = True,
    output_schema: object = None,
    tools: Sequence[Callable[..., Any]] | None = None,
    llm_kwargs: Mapping[str, Any] | None = None,
    instruction: str | None = None,
    input_file: str | Path | None = None,
    verbosity: Verbosity | None = None,
    on_step: Callable[[dict[str, Any]], object] | None = None,
    log_dir: str | Path | None = None,
    prices: Mapping[str, Price] | None = None,
    **refused: Any,
) -> tuple[RLM, _Asked, bool]:
    check(refused, REFUSED)
    chosen = _config(config)
    if verbosity is not None and verbosity not in _LEVELS:
        raise ValueError(f"verbosity is 'silent', 'summary' or 'full', not {verbosity!r}")
    level = (2 if verbose else 0) if verbosity is None else _LEVELS[verbosity]
    context = _context(query, input_file)
    root = _client(chosen.primary_agent, chosen, llm_kwargs)
    sub = root if chosen.sub_agent in (None, chosen.primary_agent) else _client(chosen.sub_agent, chosen, llm_kwargs)
    known = {**DEFAULT_PRICES, **(prices or {})}
    steps = Steps(log_path(log_dir, prefix), on_step)
    ledger = _Ledger(chosen)
    runtime = RLM(
        _Counted(root, ledger),
        sub_model=_Counted(sub, ledger),
        dialect=_dialect(chosen, "" if sub is root else sub.model),
        limits=Limits(
            iterations=chosen.max_calls_per_subagent,
            calls=None,  # the ledger counts all calls, of which the root's are a part there
            usd=_dollars(chosen, (root.model, sub.model), known),
            errors=None,
            depth=chosen.max_depth,
        ),
        functions={tool.__name__: tool for tool in tools or ()},
        prices=known,
        listeners=[steps, *([tell] if level == 2 else [])],
    )
    question = f"{TASK}\n\nFollow this closely: {instruction}" if instruction else TASK
    asked = _Asked(question=question, context=context, schema=_schema(output_schema), steps=steps)
    return runtime, asked, level == 1


def _config(config: RLMConfig | Mapping[str, Any] | None) -> RLMConfig:
    if not isinstance(config, RLMConfig):
        names = {field.name for field in fields(RLMConfig)}
        unknown = sorted(set(config or ()) - names)
        if unknown:
            raise TypeError(f"config has no field {unknown[0]!r}, neither there nor here")
        config = RLMConfig(**(config or {}))
    check({name: getattr(config, name) for name in CONFIG_REFUSED}, CONFIG_REFUSED)
    if config.primary_agent is None:
        raise ValueError("primary_agent is needed: config=RLMConfig(primary_agent='provider/model')")
    return config


def _context(query: object, input_file: str | Path | None) -> object:
    if (query is None) == (input_file is None):
        raise ValueError("give the query or an input_file: one of the two")
    if input_file is None:
        if not isinstance(query, (str, dict, list)):
            raise TypeError(f"the query is a str, a dict or a list, not {type(query).__name__}")
        return cast(object, query)
    path = Path(input_file)
    kind = path.suffix.lower()
    if kind in (".yaml", ".yml"):
        raise ValueError(f"{path.name}: YAML is not read here; read it, and give what it holds as the query")
    text = path.read_text("utf-8")
    if kind in (".jsonl", ".ndjson"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text) if kind == ".json" else text


def _client(agent: str | Client | None, config: RLMConfig, parameters: Mapping[str, Any] | None) -> Client:
    if not isinstance(agent, str):
        return cast(Client, agent)
    address = os.environ.get("RLM_MODEL_BASE_URL") or "https://openrouter.ai/api/v1"
    key = os.environ.get("RLM_MODEL_API_KEY")
    if not key and not is_local(address):
        # without this a key for OpenAI would be sent there
        raise ValueError(f"no key for {host_of(address)}: set RLM_MODEL_API_KEY")
    return OpenAIClient(
        agent,
        base_url=address,
        api_key=key or "no-key",
        timeout=config.api_timeout_ms / 1000,
        max_retries=config.api_max_retries,
        parameters=parameters,
    )


def _dollars(config: RLMConfig, models: Sequence[str], prices: Mapping[str, Price]) -> float | None:
    if all(find_price(model, prices) for model in models):
        return config.max_money_spent
    if config.max_money_spent != RLMConfig.max_money_spent:
        raise ValueError(
            f"max_money_spent={config.max_money_spent!r} cannot be held to: give prices={{model: Price(...)}} for "
            f"{' and '.join(dict.fromkeys(models))}"
        )
    return None


def _dialect(config: RLMConfig, sub_model: str) -> dialects.Dialect:
    least = config.compression_min_chars if config.enable_compression_guard else 2**62
    dialect = dialects.giving(
        dialects.find("fast-rlm"),
        SUB_MODEL=sub_model,
        SHRINK_FROM=least,
        SHRINK_TO_PERCENT=round(100 * config.compression_ratio),
    )
    return msgspec.structs.replace(dialect, output_chars=config.truncate_len)


def _schema(wanted: object) -> dict[str, Any] | None:
    """The JSON Schema of what is asked for. Raises TypeError for what has none."""
    try:
        return Output(wanted).schema
    except TypeError as error:
        # such as list[MyModel], where pydantic is installed
        schema = _pydantic_schema(wanted)
        if schema is None:
            raise error from None
        return schema


def _pydantic_schema(wanted: object) -> dict[str, Any] | None:
    try:
        from pydantic import PydanticUserError, TypeAdapter
    except ImportError:
        return None
    try:
        return TypeAdapter(cast("type[Any]", wanted)).json_schema()
    except PydanticUserError:
        return None


class _Ledger:
    """The caps that this runtime's `Limits` lack: of prompts, of replies, of all calls together."""

    def __init__(self, config: RLMConfig) -> None:
        self._most = (config.max_prompt_tokens, config.max_completion_tokens, config.max_global_calls)
        self._used = [0, 0, 0]

    def begin(self) -> None:
        """Enter a call. Raises LimitExceeded where a cap is reached."""
        for limit, used, most in zip(("tokens", "tokens", "calls"), self._used, self._most, strict=True):
            if most is not None and used >= most:
                raise LimitExceeded(limit, used, most)
        self._used[2] += 1

    def end(self, reply: Reply) -> None:
        """Enter what the call took."""
        self._used[0] += reply.input_tokens
        self._used[1] += reply.output_tokens


class _Counted:
    """A client whose calls are entered in a ledger."""

    def __init__(self, client: Client, ledger: _Ledger) -> None:
        self._client = client
        self._ledger = ledger

    @property
    def model(self) -> str:
        """The wrapped client's."""
        return self._client.model

    def held_keys(self) -> set[str]:
        """The keys of the client that it asks."""
        return held_keys(self._client)

    async def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply:
        """Ask, within what is left."""
        self._ledger.begin()
        reply = await self._client.complete(messages, max_output_tokens=max_output_tokens)
        self._ledger.end(reply)
        return reply

    def __repr__(self) -> str:
        return repr(self._client)
