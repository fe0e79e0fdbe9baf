"""rlm_wasm: Recursive Language Models whose REPL is a prisoner, CPython in WebAssembly without any permission.

The names below are the public face, in the order in which to read the package.
"""

from rlm_wasm.answers_file import Answered, BatchBusy
from rlm_wasm.batches import Batch
from rlm_wasm.citations import Citation
from rlm_wasm.clients import (
    AnthropicClient,
    CachedClient,
    Client,
    FallbackClient,
    GeminiClient,
    GenericClient,
    GenericToolClient,
    Message,
    OpenAIClient,
    RateLimitedClient,
    Reply,
    RetryingClient,
    ScriptedClient,
)
from rlm_wasm.dialects import DIALECTS, Dialect, Offer
from rlm_wasm.errors import (
    ClientError,
    FunctionError,
    LimitExceeded,
    ProtocolError,
    RetrieverError,
    RLMError,
    SandboxCrashed,
    SandboxError,
    SandboxStartError,
    SandboxTimeout,
)
from rlm_wasm.events import Event, callbacks
from rlm_wasm.files import FileLimits, Files
from rlm_wasm.guards import Guards
from rlm_wasm.inside.documents import Context
from rlm_wasm.limits import Limits, Usage
from rlm_wasm.prices import Price
from rlm_wasm.questions import Question
from rlm_wasm.retrievers import ElasticsearchRetriever, EmbeddedRetriever, Retriever
from rlm_wasm.rlm import RLM
from rlm_wasm.router import Profile, Routed, Router
from rlm_wasm.runs import Store
from rlm_wasm.sampling import Samples
from rlm_wasm.sandbox import Checkpoint, Executed, Isolation, Sandbox, SandboxOptions, SandboxPool
from rlm_wasm.sessions import Session
from rlm_wasm.store import RunBusy
from rlm_wasm.stream import Stream
from rlm_wasm.survival import Checkpoints
from rlm_wasm.tables import TableFile, read_table
from rlm_wasm.trace.live import LiveView
from rlm_wasm.trajectory import Call, CellRun, Completion, Iteration, Trajectory
from rlm_wasm.windows import Cutting

__version__ = "0.1.0"

__all__ = [
    "DIALECTS",
    "RLM",
    "Answered",
    "AnthropicClient",
    "Batch",
    "BatchBusy",
    "CachedClient",
    "Call",
    "CellRun",
    "Checkpoint",
    "Checkpoints",
    "Citation",
    "Client",
    "ClientError",
    "Completion",
    "Context",
    "Cutting",
    "Dialect",
    "ElasticsearchRetriever",
    "EmbeddedRetriever",
    "Event",
    "Executed",
    "FallbackClient",
    "FileLimits",
    "Files",
    "FunctionError",
    "GeminiClient",
    "GenericClient",
    "GenericToolClient",
    "Guards",
    "Isolation",
    "Iteration",
    "LimitExceeded",
    "Limits",
    "LiveView",
    "Message",
    "Offer",
    "OpenAIClient",
    "Price",
    "Profile",
    "ProtocolError",
    "Question",
    "RLMError",
    "RateLimitedClient",
    "Reply",
    "Retriever",
    "RetrieverError",
    "RetryingClient",
    "Routed",
    "Router",
    "RunBusy",
    "Samples",
    "Sandbox",
    "SandboxCrashed",
    "SandboxError",
    "SandboxOptions",
    "SandboxPool",
    "SandboxStartError",
    "SandboxTimeout",
    "ScriptedClient",
    "Session",
    "Store",
    "Stream",
    "TableFile",
    "Trajectory",
    "Usage",
    "__version__",
    "callbacks",
    "read_table",
]
