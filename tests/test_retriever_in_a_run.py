"""A run over a collection that is searched and never loaded."""

from __future__ import annotations

import anyio
import pytest

from rlm_wasm import RLM, ScriptedClient
from rlm_wasm.retrievers import EmbeddedRetriever

pytestmark = pytest.mark.anyio

DOCUMENTS = [
    {"id": "a", "text": "The lighthouse of Alexandria stood on Pharos.", "metadata": {"kind": "wonder"}},
    {"id": "b", "text": "The colossus of Rhodes was of bronze.", "metadata": {"kind": "wonder"}},
    {"id": "c", "text": "A lighthouse keeper's diary.", "metadata": {"kind": "diary"}},
]


async def test_a_collection_is_searched_from_cells_and_needs_no_context() -> None:
    code = """
hits = search("lighthouse", k=5, filters={"kind": "wonder"})
print([hit["id"] for hit in hits], get_document("b")["text"], get_document("missing"))"""
    root = ScriptedClient([f"```repl{code}\n```", "```repl\nFINAL(hits[0]['id'])\n```"])
    with anyio.fail_after(120):
        async with await EmbeddedRetriever.from_documents(DOCUMENTS) as retriever:
            done = await RLM(root, retriever=retriever).acompletion("Which wonder was a lighthouse?")
    assert done.response == "a"
    assert done.trajectory[0].cells[0].output == "['a'] The colossus of Rhodes was of bronze. None\n"
    assert "`search(" in root.calls[0][0].content


async def test_the_names_of_pyrlm_stand_for_the_same_search() -> None:
    code = (
        'hits = es_search("lighthouse", top_k=2)\nprint(sorted(hit["doc_id"] for hit in hits), es_get("c")["content"])'
    )
    root = ScriptedClient([code, "FINAL_VAR: hits"])
    with anyio.fail_after(120):
        async with await EmbeddedRetriever.from_documents(DOCUMENTS) as retriever:
            done = await RLM(root, dialect="pyrlm", retriever=retriever).acompletion("Which?")
    assert done.trajectory[0].cells[0].output == "['a', 'c'] A lighthouse keeper's diary.\n"
    assert {hit["doc_id"] for hit in done.response} == {"a", "c"}
