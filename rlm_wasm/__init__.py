"""rlm_wasm: Recursive Language Models whose REPL is a prisoner, CPython in WebAssembly without any permission.

The names below are the public face, in the order in which to read the package.
"""

from rlm_wasm.clients import Client, Message, OpenAIClient, Reply, ScriptedClient
from rlm_wasm.errors import (
    ClientError,
    FunctionError,
    LimitExceeded,
    ProtocolError,
    RLMError,
    SandboxCrashed,
    SandboxError,
    SandboxStartError,
    SandboxTimeout,
)
from rlm_wasm.events import Event
from rlm_wasm.limits import Limits, Price, Usage
from rlm_wasm.rlm import RLM
from rlm_wasm.router import Profile, Routed, Router
from rlm_wasm.sandbox import Executed, Isolation, Sandbox, SandboxOptions, SandboxPool
from rlm_wasm.trajectory import Call, CellRun, Completion, Iteration

__version__ = "0.1.0"

__all__ = [
    "RLM",
    "Call",
    "CellRun",
    "Client",
    "ClientError",
    "Completion",
    "Event",
    "Executed",
    "FunctionError",
    "Isolation",
    "Iteration",
    "LimitExceeded",
    "Limits",
    "Message",
    "OpenAIClient",
    "Price",
    "Profile",
    "ProtocolError",
    "RLMError",
    "Reply",
    "Routed",
    "Router",
    "Sandbox",
    "SandboxCrashed",
    "SandboxError",
    "SandboxOptions",
    "SandboxPool",
    "SandboxStartError",
    "SandboxTimeout",
    "ScriptedClient",
    "Usage",
    "__version__",
]
