"""Search outside the context. Read `protocol.py` first; `offered.py` is what code in a sandbox sees of it."""

from __future__ import annotations

from rlm_wasm.retrievers.elasticsearch import ElasticsearchRetriever
from rlm_wasm.retrievers.embedded import EmbeddedRetriever
from rlm_wasm.retrievers.fusion import fused
from rlm_wasm.retrievers.offered import offered
from rlm_wasm.retrievers.protocol import Document, Embed, Filters, Hit, HybridRetriever, Retriever, VectorRetriever

__all__ = [
    "Document",
    "ElasticsearchRetriever",
    "Embed",
    "EmbeddedRetriever",
    "Filters",
    "Hit",
    "HybridRetriever",
    "Retriever",
    "VectorRetriever",
    "fused",
    "offered",
]
