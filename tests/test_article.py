"""The two problems of "Recursive Language Models" (@neural_avb, 2026), end to end: names from models, letters by code.

The article's claim is that the answer is built in variables and returned as one: nothing of it passes through the
window of the model that hands it over. So everything that the root model was sent is read here.
"""

from __future__ import annotations

import re

import anyio
import pytest

from rlm_wasm import RLM, Completion, ScriptedClient

pytestmark = pytest.mark.anyio

# Problem 1 and problem 2 in the article's words, the context as in the article: the user's prompt, in a variable.
FIRST = "Generate 50 names of fruits and count the number of R in each, return as a dictionary"
SECOND = (
    "Generate a dictionary of different categories: fruits, countries, animals. For each category, generate 50 names "
    "of that and count the number of R in each, return as a nested dictionary"
)
TASK = "Do what the context asks for."

NAMES = {
    "fruits": """
        apple, apricot, avocado, banana, bilberry, blackberry, blackcurrant, blueberry, boysenberry, cantaloupe,
        cherimoya, cherry, clementine, cloudberry, coconut, cranberry, damson, durian, elderberry, feijoa, fig,
        gooseberry, grapefruit, guava, honeydew, jackfruit, jujube, kiwifruit, kumquat, lemon, lime, lychee, mandarin,
        mango, mangosteen, mulberry, nectarine, papaya, peach, pear, persimmon, pineapple, plum, pomegranate, quince,
        rambutan, raspberry, redcurrant, strawberry, tamarind
    """,
    "countries": """
        Albania, Algeria, Andorra, Argentina, Armenia, Australia, Austria, Azerbaijan, Brazil, Bulgaria, Burundi,
        Canada, Chile, Costa Rica, Croatia, Denmark, Ecuador, Eritrea, Finland, France, Georgia, Germany, Greece,
        Honduras, Hungary, Iceland, Ireland, Jordan, Kenya, Madagascar, Mauritius, Morocco, Myanmar, Netherlands,
        Norway, Paraguay, Peru, Portugal, Romania, Russia, Rwanda, Serbia, Singapore, Sri Lanka, Suriname, Turkey,
        Ukraine, United States of America, Uruguay, Zimbabwe
    """,
    "animals": """
        aardvark, albatross, armadillo, badger, barracuda, bear, beaver, buffalo, caribou, cheetah, cormorant,
        crocodile, deer, dormouse, eagle, ferret, flamingo, giraffe, gorilla, grasshopper, hamster, heron, hornet,
        kangaroo, koala, lemur, leopard, lizard, lobster, meerkat, mongoose, newt, ostrich, otter, panther, parrot,
        porcupine, rabbit, raccoon, reindeer, rhinoceros, salamander, sparrow, squirrel, sturgeon, tiger, turkey,
        vulture, warthog, zebra
    """,
}
EXPECTED = {
    kind: {name: name.lower().count("r") for name in re.split(r",\s+", names.strip())} for kind, names in NAMES.items()
}

LOOKS = "```repl\nprint(type(context).__name__, len(context))\n```"
NAMES_FRUITS = """```repl
names = [line.strip() for line in llm_query("List 50 names of fruits, one a line, nothing else.").splitlines()]
counts = {name: name.lower().count("r") for name in names}
print(len(counts), "names,", sum(counts.values()), "times the letter")
```"""
HANDS_OVER = "```repl\nFINAL(counts)\n```"

SPLITS = """Three parts that do not need each other: a child for each.

```repl
kinds = ["fruits", "countries", "animals"]
parts = rlm_query_batched([f"Name 50 {kind} and count the letter R in each; answer with a dict." for kind in kinds])
counts = dict(zip(kinds, parts))
print({kind: (type(part).__name__, len(part)) for kind, part in counts.items()})
```"""
CHILD_NAMES = """```repl
names = llm_query("List 50 names of %s, one a line, nothing else.").splitlines()
counts = {name: name.lower().count("r") for name in names}
print(len(counts))
```"""


def lists_names() -> ScriptedClient:
    """The sub model: knows names, and is asked for no letters."""
    rules = {f"names of {kind}": "\n".join(counts) for kind, counts in EXPECTED.items()}
    return ScriptedClient(rules=rules, model="sub")


async def ask(root: ScriptedClient, context: str, output: object) -> Completion:
    with anyio.fail_after(60):
        return await RLM(root, sub_model=lists_names()).acompletion(TASK, context=context, output=output)


def window_of(client: ScriptedClient, calls: slice = slice(None)) -> str:
    """Everything that a client was sent."""
    return "\n".join(message.content for messages in client.calls[calls] for message in messages)


def entries_in(text: str) -> list[str]:
    """The names of all three dictionaries that stand in a text as words, and entries as Python or JSON writes them."""
    names = [name for counts in EXPECTED.values() for name in counts]
    words = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)]
    return words + re.findall(r"""["'][\w ]+["']: \d+""", text)


def test_the_answers_are_those_of_the_article() -> None:
    assert {kind: len(counts) for kind, counts in EXPECTED.items()} == {"fruits": 50, "countries": 50, "animals": 50}
    assert EXPECTED["fruits"]["strawberry"] == 3
    assert EXPECTED["countries"]["United States of America"] == EXPECTED["countries"]["France"] == 1
    assert (EXPECTED["animals"]["kangaroo"], EXPECTED["animals"]["tiger"]) == (1, 1)


async def test_problem_1_comes_back_as_a_dict_that_the_root_model_never_read() -> None:
    root = ScriptedClient([LOOKS, NAMES_FRUITS, HANDS_OVER], model="root")
    done = await ask(root, FIRST, dict[str, int])
    assert done.raise_for_stop().response == EXPECTED["fruits"]
    assert list(done.response) == list(EXPECTED["fruits"])
    assert len(root.calls) == 3
    window = window_of(root)
    assert "50 names, 47 times the letter" in window
    assert entries_in(window) == []
    assert FIRST not in window


async def test_problem_2_comes_back_as_a_nested_dict_that_neither_root_nor_children_read() -> None:
    children = {f"Question: Name 50 {kind}": CHILD_NAMES % kind for kind in EXPECTED}
    # the children ask the same client, whose rules are tried first: the root's own replies are handed out in order
    root = ScriptedClient([LOOKS, SPLITS, HANDS_OVER], children | {"REPL output:\n50": HANDS_OVER}, model="root")
    done = await ask(root, SECOND, dict[str, dict[str, int]])
    assert done.raise_for_stop().response == EXPECTED
    assert list(done.response) == ["fruits", "countries", "animals"]
    assert [child.stopped_by for child in done.children] == ["final"] * 3
    # in the order in which they ended
    assert all(child.response in EXPECTED.values() for child in done.children)
    # three calls of the root's and two of each child's, and all of their windows
    assert len(root.calls) == 9
    assert entries_in(window_of(root)) == []
    assert [step.observation for step in done.trajectory][1] == (
        "REPL output:\n{'fruits': ('dict', 50), 'countries': ('dict', 50), 'animals': ('dict', 50)}"
    )


async def test_only_the_sub_model_named_them_and_nobody_counted_but_the_code() -> None:
    sub = lists_names()
    root = ScriptedClient([NAMES_FRUITS, HANDS_OVER], model="root")
    with anyio.fail_after(60):
        done = await RLM(root, sub_model=sub).acompletion(TASK, context=FIRST)
    (call,) = done.trajectory[0].calls
    assert entries_in(call.reply) == list(EXPECTED["fruits"])
    assert not re.search(r"\d", call.reply)
    assert [len(messages) for messages in sub.calls] == [1]


def test_a_window_that_holds_an_entry_would_be_noticed() -> None:
    assert entries_in("and so Kangaroo it is") == ["kangaroo"]
    assert entries_in("{'durian': 1}") == ["durian", "'durian': 1"]
