"""A corpus that is searched and never loaded: an index on disk, made once, and brought up to date when files change.

Cells search it by `search(...)` and read what they found by `get_document(id)`.
"""

import asyncio
import tempfile
from pathlib import Path

from rlm_wasm import RLM, EmbeddedRetriever, ScriptedClient

CELL = """I search before I read.

```repl
hits = search("signed contract", k=2)
for hit in hits:
    print(hit["id"], hit["metadata"]["start"], hit["preview"])
FINAL(get_document(hits[0]["id"])["text"])
```"""


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus, index = Path(folder) / "corpus", Path(folder) / "corpus.index"
        corpus.mkdir()
        for number in range(200):
            (corpus / f"note-{number:03}.txt").write_text(f"Note {number}: nothing was agreed on.\n", "utf-8")

        async with await EmbeddedRetriever.index(corpus, index) as retriever:
            print("first:", retriever.indexed.added, "files were read")

        (corpus / "note-117.txt").write_text("Note 117: the contract was signed on Monday.\n", "utf-8")
        (corpus / "note-118.txt").unlink()
        async with await EmbeddedRetriever.index(corpus, index) as retriever:
            print("again:", retriever.indexed.changed, "changed,", retriever.indexed.removed, "gone")
            # With a real model: RLM("gpt-5-mini", retriever=retriever).
            done = await RLM(ScriptedClient([CELL]), retriever=retriever).acompletion("When was it signed?")
            print("answer:", done.response.strip())


if __name__ == "__main__":
    asyncio.run(main())
