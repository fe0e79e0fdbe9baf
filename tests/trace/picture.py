"""Draws the picture of the report that the README shows: `python -m tests.trace.picture`, from the repository's root.

The run is made up, so that the picture is the same wherever it is drawn but for the fonts. Needs Chromium.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from rlm_wasm.citations import Citation
from rlm_wasm.events import Event
from rlm_wasm.trace.html import report
from tests.trace.browsing import chromium
from tests.trace.made import Made

PICTURE = Path(__file__).with_name("report.png")

_LOOK = """I start with the shape of the data.

```repl
import re
print(len(context), "characters")
reports = re.split(r"^# Report ", context, flags=re.M)[1:]
print(len(reports), "reports, for example", reports[0][:80])
```"""
_ASK = """Each report names its cause in prose, so that a model has to read it. All of them fit into one batch.

```repl
causes = llm_query_batched(
    [f"In at most three words, what caused this outage?\\n\\n{text}" for text in reports]
)
for number, cause in list(enumerate(causes))[:3]:
    print(number, cause)
```"""
_FAIL = """Now count them.

```repl
from collections import Counter
counts = Counter(cause.strip().lower() for cause in causes)
print(counts.most_common(4))
print("share:", counts["expired certificate"] / count(reports))
```"""
_CHILD = """Two causes might be one. A child should read those reports closely.

```repl
close = [text for text, cause in zip(reports, causes) if "certificate" in cause.lower()]
verdict, other = rlm_query_batched(
    ["Is one root cause behind these outages? Name it.", "Which of these were found by customers first?"],
    [close, close],
)
print(verdict)
cite(verdict["sentence"])
```"""
_END = """```repl
FINAL(f"Expired certificates, {len(close)} of {len(reports)} outages: {verdict['cause']}.")
```"""


def _children(made: Made, dice: random.Random) -> None:
    for question, seconds in (("Is one root cause behind these outages? Name it.", 14.0), ("Which were first?", 11.0)):

        def child(number: int, began: float, question: str = question, seconds: float = seconds) -> None:
            now = made.clock.now
            made.clock.now = began
            inner = Made(
                question,
                events=made.events,
                above=made,
                clock=made.clock,
                run=f"child{number}",
                parent="root",
                depth=1,
                call=number,
                context="`context` is a list of 31 strings, 92,114 characters in all",
            )
            for text in ("```repl\nprint([len(t) for t in context][:5])\n```", "```repl\nFINAL(best)\n```"):
                inner.reply(text, seconds=seconds / 4, tokens=(1400, 160), usd=0.0007)
                inner.cell(text.split("\n")[1])
                begin = 0.0
                for _ in range(9 if "print" in text else 0):
                    took = dice.uniform(0.6, 2.2)
                    inner.call(
                        "Quote the sentence that names the cause.",
                        "The renewal job ran as a removed user.",
                        begin=begin,
                        seconds=took,
                        tokens=(700, 30),
                        usd=0.00005,
                    )
                    begin += dice.uniform(0.0, 0.5)
                inner.ran("[3012, 2950, 3120, 2788, 3301]", seconds=begin + 2.2 if begin else 0.1, observation="...")
            inner.stop({"cause": "a renewal job that ran as a removed user"})
            made.clock.now = now

        made.call(
            question,
            "{'cause': 'a renewal job that ran as a removed user'}",
            begin=0.1,
            seconds=seconds,
            function="rlm_query",
            model="gpt-5-mini",
            tokens=(9100, 590),
            usd=0.0019,
            child=child,
            of=2,
        )


def a_run() -> list[Event]:
    """A run with a batch, a mistake and two children: 96 outages, of which 31 have one cause."""
    dice = random.Random(4)
    made = Made(
        "What causes most of our outages, and is it one cause or several?",
        context="`context` is a str of 287,431 characters in 4,108 lines (about 71,857 tokens)",
    )
    made.reply(_LOOK, seconds=2.4, tokens=(1180, 96), usd=0.0005)
    made.cell(_LOOK.split("```repl\n")[1].removesuffix("```"))
    looked = "287431 characters\n96 reports, for example 2031-01-04: checkout was down for 41 minutes"
    made.ran(looked, seconds=0.05, observation=looked)
    made.reply(_ASK, seconds=3.8, tokens=(1390, 141), usd=0.0006)
    made.cell(_ASK.split("```repl\n")[1].removesuffix("```"))
    free = [0.0] * 16
    for number in range(96):
        place = free.index(min(free))
        took = dice.lognormvariate(0.35, 0.5)
        failed = number == 57
        made.call(
            f"In at most three words, what caused this outage?\n\n2031-{number % 12 + 1:02}: the shop was down",
            "" if failed else dice.choice(["expired certificate", "full disk", "bad deploy", "Expired certificate"]),
            begin=free[place],
            seconds=took,
            waited=dice.uniform(0.2, 0.5) if number % 11 == 10 else 0.0,
            of=96,
            tokens=(dice.randint(640, 900), dice.randint(3, 9)),
            usd=0.00004,
            error="FunctionError: the model could not be asked (HTTP 503)" if failed else None,
        )
        free[place] += took
    asked = "0 expired certificate\n1 full disk\n2 bad deploy"
    made.ran(asked, seconds=max(free) + 0.05, observation=asked)
    made.reply(_FAIL, seconds=2.9, tokens=(1610, 88), usd=0.0006)
    made.cell(_FAIL.split("```repl\n")[1].removesuffix("```"))
    counted = "[('expired certificate', 31), ('bad deploy', 28), ('full disk', 22), ('', 15)]"
    trouble = (
        "Traceback (most recent call last):\n"
        '  File "<cell 3>", line 4, in <module>\n'
        "NameError: name 'count' is not defined"
    )
    made.ran(counted, seconds=0.04, error=trouble, observation=f"{counted}\n{trouble}")
    made.reply(_CHILD, seconds=4.1, tokens=(1890, 174), usd=0.0008)
    made.cell(_CHILD.split("```repl\n")[1].removesuffix("```"))
    _children(made, dice)
    told = "{'cause': 'a renewal job that ran as a removed user', 'sentence': 'The job ran as deploy2, ...'}"
    made.ran(told, seconds=14.3, observation=told)
    made.reply(_END, seconds=1.9, tokens=(2210, 61), usd=0.0008)
    made.cell(_END.split("```repl\n")[1].removesuffix("```"))
    made.ran("", seconds=0.02, final="...", has_final=True)
    made.stop(
        "Expired certificates, 31 of 96 outages: a renewal job that ran as a removed user.",
        citations=(
            Citation("The job ran as deploy2, which had been removed in March.", True, None, 120_411, 120_467),
            Citation("Renewals fail silently.", False),
        ),
    )
    return made.events


def main() -> None:
    """Draw it, in PNG of few colours."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, chromium(playwright) as browser:
        page = browser.new_page(viewport={"width": 1240, "height": 1000}, color_scheme="light")
        page.goto(report(a_run(), Path(folder) / "report.html").as_uri())
        page.screenshot(path=PICTURE)
    sys.stderr.write(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
