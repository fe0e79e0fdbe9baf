"""A question over ten million tokens: code searches, sub models read what was found, the root model sees next to none.

The text is Python's own library as it is on this machine, copy after copy with every file under a heading of its own,
and a few passages planted at fixed parts of the whole. What the library says varies with its version; the answer
rests on the planted passages alone.
"""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import anyio
import pytest

from rlm_wasm import RLM, Completion, ScriptedClient

pytestmark = pytest.mark.anyio

CHARS = 40_000_000  # about ten million tokens
SEEN_AT_MOST = 30_000

# Where in the text (in thousandths), and what stands there.
FACTS = {
    31: "In the winter of 1871 the lighthouse of Skerryvar burned 412 barrels of oil, as its keeper noted with regret.",
    270: "Nobody at the Lighthouse of Ostrand was surprised that the year 1874 took 655 barrels of oil.",
    444: "Of oil the lighthouse of Tormund used 238 barrels; that was 1869, when the fogs came late.",
    718: "The new lamp served the lighthouse of Pellworm well: in 1880 it was content with 197 barrels of oil.",
    962: "1877 is remembered at the lighthouse of Hvitnes for a wreck, and for 530 barrels of oil.",
}
DECOYS = {
    150: "A lighthouse is mentioned here, but nothing is said of what it burned.",
    590: "The lighthouse keeper's daughter counted 900 barrels of herring at the quay in 1876.",
    999: "No lighthouse has ever been lit by electricity alone, it was said in 1870.",
}
USED = {"Skerryvar": 412, "Ostrand": 655, "Tormund": 238, "Pellworm": 197, "Hvitnes": 530}

LOOKS = """```repl
print(f"{len(context):,} characters")
print(context[:300])
```"""
CARELESS = """```repl
print(context)
```"""
SEARCHES = """```repl
import re
found = [match.start() for match in re.finditer("lighthouse", context, re.IGNORECASE)]
pieces = [context[max(0, at - 400) : at + 400] for at in found]
print(len(pieces), "pieces,", "the first near", found[0])
```"""
ASKS = """```repl
question = "Which lighthouse burned how many barrels of oil? Reply 'name: number', or 'none' if this does not say it."
prompts = [question + "\\n\\n" + piece for piece in pieces]
replies = llm_query_batched(prompts)
used = {}
for reply in replies:
    name, _, barrels = reply.partition(": ")
    if barrels:
        used[name] = int(barrels)
most = max(used, key=used.get)
print(len(used), "of", len(replies), "pieces say it")
```"""
ANSWERS = """```repl
FINAL({"used": used, "total": sum(used.values()), "most": most})
```"""


@pytest.fixture(scope="module")
def corpus() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(folder.rglob("*.py")) if not {"site-packages", "test"} & set(path.parts)]
    texts = [(path.relative_to(folder).as_posix(), path.read_text("utf-8", "replace")) for path in files]
    assert texts, "Python's library is not there as files"
    parts: list[str] = []
    chars = copy = 0
    while chars < CHARS:
        copy += 1
        for name, text in texts:
            parts.append(f"\n=== copy {copy}, {name}\n\n{text}")
            chars += len(parts[-1])
    # from the back, so that the places in front stay
    for place, passage in sorted({**FACTS, **DECOYS}.items(), reverse=True):
        at = len(parts) * place // 1000
        parts.insert(at, f"\n=== letter {place}\n\n{passage}\n")
    return "".join(parts)


def reads_the_passage(prompt: str) -> str:
    """The sub model: knows nothing but the piece that it was sent."""
    piece = prompt.partition("\n\n")[2]
    assert len(piece) <= 800
    name = re.search(r"lighthouse (?:of|at) ([A-Z]\w+)", piece, re.IGNORECASE)
    barrels = re.search(r"(\d+) barrels(?: of oil)?", piece)
    return f"{name[1]}: {barrels[1]}" if name and barrels else "none"


async def ask(root: ScriptedClient, sub: ScriptedClient, context: str) -> Completion:
    with anyio.fail_after(100):
        return await RLM(root, sub_model=sub).acompletion(
            "How much oil did each lighthouse burn, how much did all of them, and which burned the most?",
            context=context,
        )


async def test_ten_million_tokens_are_searched_by_code_and_answered_exactly(corpus: str) -> None:
    mentions = len(re.findall("lighthouse", corpus, re.IGNORECASE))
    root = ScriptedClient([LOOKS, CARELESS, SEARCHES, ASKS, ANSWERS], model="root")
    sub = ScriptedClient(rules={"": reads_the_passage}, model="sub")
    done = await ask(root, sub, corpus)

    assert done.raise_for_stop().response == {"used": USED, "total": 2032, "most": "Ostrand"}
    assert len(sub.calls) == mentions >= len(FACTS) + len(DECOYS)
    assert f"{len(corpus):,} characters" in root.calls[0][1].content
    assert len(corpus) // 4 >= 10_000_000

    # What the root model was sent: each call holds all that went before, so the last one holds everything.
    system, *rest = root.calls[-1]
    for messages in root.calls:
        assert messages == (system, *rest)[: len(messages)]
    assert sum(len(message.content) for message in rest) <= SEEN_AT_MOST
    # The same by the record of the run: its replies, and what it was shown after each of them.
    observations = [step.observation or "" for step in done.trajectory]
    assert sum(map(len, observations)) <= SEEN_AT_MOST
    assert [message.content for message in rest[2::2]] == observations[:-1]

    # Of all that was planted it read not a word: not even where it printed everything there is.
    assert len(observations[1]) > 9_000
    window = "".join(message.content for message in rest)
    assert not any(name in window for name in USED)
    # and the sub models read no more than the pieces they were asked about
    assert sum(len(call.prompt) for step in done.trajectory for call in step.calls) <= mentions * 1_000


def test_no_two_copies_of_a_file_are_the_same_text(corpus: str) -> None:
    headings = re.findall(r"^=== (?:copy|letter) .*$", corpus, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert {heading.split(",")[0] for heading in headings} >= {"=== copy 1", "=== copy 2"}
