"""The door for programs written against pyrlm-runtime: `RLM(adapter=...).run(query, context)` and what goes with it.

All its names from one place: those that stand in that system's `adapters` and `policy` too.
"""

from rlm_wasm.compat.adapters import (
    AzureOpenAIAdapter,
    FakeAdapter,
    FakeRule,
    GenericChatAdapter,
    ModelAdapter,
    ModelResponse,
    OpenAICompatAdapter,
    Usage,
)
from rlm_wasm.compat.policy import (
    MaxRecursionExceeded,
    MaxStepsExceeded,
    MaxSubcallsExceeded,
    MaxTokensExceeded,
    Policy,
    PolicyError,
)
from rlm_wasm.compat.pyrlm_run import REFUSED, RLM, Context, FileCache
from rlm_wasm.compat.rerank import (
    ListwiseReranker,
    QueryRewriter,
    TournamentReranker,
    ndcg_at_k,
    recall_at_k,
    union_pool,
)
from rlm_wasm.compat.rich_trace import RichTraceListener
from rlm_wasm.compat.smart_router import ROUTER_REFUSED, ExecutionProfile, RouterConfig, RouterResult, SmartRouter
from rlm_wasm.compat.tracing import RLMEvent, RLMEventListener, Trace, TraceStep

__all__ = [
    "REFUSED",
    "RLM",
    "ROUTER_REFUSED",
    "AzureOpenAIAdapter",
    "Context",
    "ExecutionProfile",
    "FakeAdapter",
    "FakeRule",
    "FileCache",
    "GenericChatAdapter",
    "ListwiseReranker",
    "MaxRecursionExceeded",
    "MaxStepsExceeded",
    "MaxSubcallsExceeded",
    "MaxTokensExceeded",
    "ModelAdapter",
    "ModelResponse",
    "OpenAICompatAdapter",
    "Policy",
    "PolicyError",
    "QueryRewriter",
    "RLMEvent",
    "RLMEventListener",
    "RichTraceListener",
    "RouterConfig",
    "RouterResult",
    "SmartRouter",
    "TournamentReranker",
    "Trace",
    "TraceStep",
    "Usage",
    "ndcg_at_k",
    "recall_at_k",
    "union_pool",
]
