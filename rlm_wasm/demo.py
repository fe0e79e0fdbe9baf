"""The demonstration: a checkable question over the Python language reference, which every Python carries.

With scripted replies standing in for the model, real code runs in the real sandbox and real `llm_query` traffic
crosses the wire; with a real model the same question is asked of it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pydoc_data.topics import topics  # pyright: ignore[reportMissingImports]  # typeshed does not know it
from typing import cast

from rlm_wasm.clients import ScriptedClient

QUESTION = (
    "The context is the Python language reference: topics, each under a line '=== name ==='. For each topic that "
    "mentions generators (the word 'generator' or 'generators', in any case), give its name and the number of times; "
    "and a one-line summary of each of the three that mention them most. Answer with a dict: "
    "{'counts': {name: times}, 'summaries': {name: line}}."
)
_WORD = re.compile(r"\bgenerators?\b", re.IGNORECASE)


def corpus() -> str:
    """The language reference as one text, about 700 kB: each topic under a line `=== name ===`."""
    sections: dict[str, str] = dict(topics)
    return "\n".join(f"=== {name} ===\n{sections[name].strip()}\n" for name in sorted(sections))


def expected_counts() -> dict[str, int]:
    """The counts that a right answer has, found without any model."""
    sections: dict[str, str] = dict(topics)
    counts = {name: len(_WORD.findall(sections[name])) for name in sorted(sections)}
    return {name: count for name, count in counts.items() if count}


def scripted_client() -> ScriptedClient:
    """The stand-in for both models: its replies are in `demo_replies.md`, its summaries are made from the prompt."""
    text = (files("rlm_wasm") / "demo_replies.md").read_text("utf-8")
    replies = [reply.strip() for reply in text.split("\n<!-- next reply -->\n")]
    return ScriptedClient(replies, {"Summarize in one line": _first_sentence}, model="scripted")


def _first_sentence(prompt: str) -> str:
    """What stands in for a summary: the first sentence of the prompt's text that mentions generators."""
    body = " ".join(prompt.split("\n\n", 1)[1].split())
    sentences = re.split(r"(?<=[.:]) (?=[A-Z])", body)
    mentions = [sentence for sentence in sentences if _WORD.search(sentence)]
    return (mentions or sentences)[0][:160]


def verdict(response: object) -> str | None:
    """What is wrong with an answer, in words; None if its counts are exactly right and it has three summaries."""
    if not isinstance(response, dict) or not {"counts", "summaries"} <= response.keys():
        return "the answer is not a dict with 'counts' and 'summaries'"
    expected = expected_counts()
    answer = cast("dict[str, object]", response)
    if answer["counts"] != expected:
        return f"the counts differ from those found without a model ({len(expected)} topics)"
    most = sorted(expected, key=lambda name: (-expected[name], name))[:3]
    summaries = answer["summaries"]
    if not isinstance(summaries, dict) or set(cast("dict[object, object]", summaries)) != set(most):
        return f"the summaries are not those of {', '.join(most)}"
    return None
