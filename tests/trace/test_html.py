"""The report in a real browser: what it shows, what it bears, and that nothing in it runs, loads or leaves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_wasm import RLM, ScriptedClient
from rlm_wasm.citations import Citation
from rlm_wasm.events import CellInterrupted, Event, FunctionCalled, HistoryShortened, Record, RootAsked, SandboxReplaced
from rlm_wasm.prompts import Message, ToolCall
from rlm_wasm.trace import html
from rlm_wasm.trace.html import page, report
from tests.trace import browsing, picture
from tests.trace.made import Made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Locator, Page

VIEWER = Path(html.__file__).with_name("viewer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if os.environ.get("RLM_WASM_NO_BROWSER"):
        pytest.skip("RLM_WASM_NO_BROWSER is set")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        if browsing.find(playwright) is None:
            pytest.fail(browsing.MISSING)
        with browsing.chromium(playwright) as opened:
            yield opened


@pytest.fixture
def look(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report on events, as a file; at its end, the console must be silent and nothing else asked for."""
    opened: list[Page] = []
    said: list[str] = []
    asked: list[str] = []

    def hear_dialog(dialog: Dialog) -> None:
        said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_it(events: Sequence[Event], *, width: int = 1280, height: int = 900, scheme: Any = "light") -> Page:
        path = report(events, tmp_path / f"report{len(opened)}.html")
        shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        shown.set_default_timeout(20_000)
        shown.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: said.append(f"error: {error.stack}"))
        shown.on("dialog", hear_dialog)
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(path.as_uri())
        opened.append(shown)
        return shown

    yield open_it
    for shown in opened:
        shown.close()
    assert said == []
    assert asked == [(tmp_path / f"report{number}.html").as_uri() for number in range(len(opened))]


def a_real_run() -> list[Event]:
    """A run with a child, a batch, a mistake and a host function, out of the loop and the sandbox themselves."""
    replies = [
        "First a mistake.\n```repl\nprint('looking')\n1 / 0\n```",
        "```repl\nparts = llm_query_batched([f'Shout {part}' for part in context.split()])\n"
        "turned = rlm_query('Turn this around.', context)\nprint(parts, turned, lookup('stone'))\n```",
        "Done.\n```repl\nFINAL({'parts': parts, 'turned': turned})\n```",
    ]
    client = ScriptedClient(
        replies, rules={"Turn this": "```repl\nFINAL(context[::-1])\n```", "Shout": lambda prompt: prompt[6:].upper()}
    )
    heard: list[Event] = []
    rlm = RLM(client, functions={"lookup": lambda name: f"{name} of {name}s"}, listeners=[heard.append])
    # in a thread of its own: playwright has an event loop running in this one
    with ThreadPoolExecutor(1) as thread:
        thread.submit(rlm.completion, "What do the words say?", context="alpha beta gamma").result(timeout=120)
    return heard


def wait_for(locator: Locator, text: str | re.Pattern[str]) -> None:
    """Wait until a text stands there. (Playwright's `wait_for_function` evaluates a string: the page forbids that.)"""
    from playwright.sync_api import expect

    expect(locator).to_have_text(text, timeout=20_000)


def with_one(**parts: Any) -> list[Event]:
    """A run of one iteration, whose parts are given."""
    made = Made(parts.get("question", "What is it?"))
    made.reply(parts.get("reply", "```repl\nprint(1)\n```"))
    made.cell(parts.get("code", "print(1)"))
    made.call(parts.get("prompt", "Say it."), parts.get("said", "It."), begin=0.1, seconds=1.0)
    made.ran(parts.get("output", "1"), seconds=2.0, observation=parts.get("observation", "1"), error=parts.get("error"))
    made.stop(parts.get("response", "It is 1."), citations=parts.get("citations", ()))
    return made.events


def of_many_calls(count: int) -> list[Event]:
    made = Made("What do they all say?")
    made.reply("All at once.\n```repl\nllm_query_batched(prompts)\n```")
    made.cell("llm_query_batched(prompts)")
    for number in range(count):
        made.call(
            f"Prompt {number} of many",
            f"Reply {count - number}",
            begin=number % 300 * 0.01,
            seconds=1 + number * 0.001,
            waited=0.2,
            tokens=(number, 1),
            of=count,
            error="FunctionError: refused" if number % 1000 == 7 else None,
        )
    made.ran("done", seconds=30, observation="done")
    made.stop("All of them.")
    return made.events


def test_the_answer_and_what_it_cost_stand_on_top(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    assert shown.title() == "What causes most of our outages, and is it one cause or seve\u2026 \u2013 run report"
    assert shown.locator("h1").inner_text() == "What causes most of our outages, and is it one cause or several?"
    assert shown.locator("#answer .answer").inner_text().startswith("Expired certificates, 31 of 96 outages")
    figures = shown.locator("#answer dl").inner_text().split("\n")
    assert dict(zip(figures[::2], figures[1::2], strict=True)) == {
        "stopped by": "final",
        "time": "41.9 s",
        "dollars": "$0.011",
        "tokens in": "99,957",
        "tokens out": "2,339",
        "model calls": "123",
        "iterations": "5",
        "child runs": "2",
        "models": "gpt-5-mini, gpt-5-nano",
    }
    citations = shown.locator(".citations li").all_inner_texts()
    assert [text.split()[0] for text in citations] == ["found", "not"]


def test_a_real_run_is_shown_with_its_child_under_the_call_that_made_it(look: Callable[..., Page]) -> None:
    shown = look(a_real_run())
    assert '"turned": "ammag ateb ahpla"' in shown.locator("#answer .answer").inner_text()
    steps = shown.locator("details.iteration")
    assert steps.count() == 3
    assert "ZeroDivisionError" in steps.nth(0).locator(".text.error").inner_text()
    assert steps.nth(0).locator(".prose").inner_text() == "First a mistake."
    assert steps.nth(1).locator(".text.code .py-bridge").all_inner_texts() == [
        "llm_query_batched",
        "context",
        "rlm_query",
        "context",
    ]
    assert "stone of stones" in steps.nth(1).locator(".fold.function").inner_text()
    names = shown.locator("[role=treeitem] > .head .name")
    assert names.all_inner_texts() == ["1 What do the words say?", "iteration 1", "iteration 2", "iteration 3"]
    shown.locator("[role=treeitem].iteration[aria-expanded] > .head .twist").click()
    shown.locator("[role=treeitem].call > .head .twist").click()
    assert names.all_inner_texts()[3:5] == ["rlm_query 4", "1.1 Turn this around."]
    names.nth(4).click()
    assert shown.locator("#steps h3").inner_text().startswith("child 1.1")
    assert shown.locator("#steps .answer").inner_text() == "ammag ateb ahpla"
    shown.get_by_role("button", name="answers rlm_query 4").click()
    assert shown.locator("tr.whole pre").first.inner_text() == "Turn this around."


HOSTILE = [
    "<script>globalThis.pwned = 1</script>",
    "</script><script>globalThis.pwned = 1</script>",
    "</SCRIPT ><img src=x onerror='globalThis.pwned = 1'>",
    "<!-- <script>",
    "--> ]]> <![CDATA[ <style>*{display:none}</style>",
    "<svg onload='globalThis.pwned = 1'><a href='javascript:globalThis.pwned = 1'>x</a></svg>",
    "<iframe srcdoc='<script>parent.pwned = 1</script>'></iframe><meta http-equiv=refresh content='0;url=data:,x'>",
    "javascript:alert(1)",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m",
    "a\u202eb\u2066c\u2069d\u200fe",
    "lone \ud800 and \udfff surrogates",
    "nul \x00 and \ufeff and \u2028 and \uffff",
    "tags \U000e0041\U000e0042",
    "`${globalThis.pwned = 1}` {{7*7}} $events $$policy ${scripts}",
    "".join(map(chr, range(160))),
    "\u0489" * 300,
    "'''" * 200 + '"""' + "\\" * 99,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text_wherever_it_stands(look: Callable[..., Page], text: str) -> None:
    made = Made(text, context=text, model=text, sub_model=text, context_value={text: text}, settings={"a": text})
    made.reply(f"{text}\n```repl\n{text}\n```\n{text}")
    made.cell(text)
    made.call(text, text, begin=0.1, seconds=1.0, model=text, function=text, error=text)
    made.say(FunctionCalled(function=text, arguments=(text,), named={"name": text}, value=text, seconds=0.1))
    made.say(SandboxReplaced(reason=text, lost=(text,)))
    made.ran(text, observation=text, error=text, lost=(text,), restored=(text,), truncated=3, final=text)
    cited = Citation(text, True, text, 1, 2), Citation(text, False)
    made.stop(text, citations=cited, stopped_by=text, failure=text, limit=(text, 1.0, 1.0))
    shown = look(made.events)
    shown.keyboard.press("e")
    for fold in shown.locator("details:not([open]) > summary").all():
        if fold.is_visible():
            fold.click()
    shown.locator("button.open").first.click()
    shown.get_by_role("application").focus()
    shown.keyboard.press("End")
    shown.fill("#query", text[:40].replace("\ud800", "").replace("\udfff", "") or "x")
    wait_for(shown.locator("#count"), re.compile("hit"))
    shown.keyboard.press("Enter")
    assert shown.evaluate("globalThis.pwned") is None
    assert shown.locator("#report script, #report img, #report iframe, #report meta, #report svg a").count() == 0
    assert shown.locator("section").count() == 5
    body = shown.evaluate("document.body.innerText")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200f\u202e\u2066\u2069\ufeff\ud800-\udfff]", body)


def test_the_policy_of_the_page_lets_no_other_script_run(browser: Browser, tmp_path: Path) -> None:
    planted = page(with_one()).replace("</body>", "<script>globalThis.pwned = 1</script></body>")
    (tmp_path / "planted.html").write_text(planted, "utf-8")
    shown = browser.new_page()
    refused: list[str] = []
    shown.on("console", lambda message: refused.append(message.text))
    shown.goto((tmp_path / "planted.html").as_uri())
    assert shown.evaluate("globalThis.pwned") is None
    assert any("Content Security Policy" in text for text in refused)
    assert shown.locator("h1").inner_text() == "What is it?"
    inserted = shown.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return 'no' } })()"
    )
    assert inserted == "no"
    shown.close()


def test_what_would_not_show_is_a_mark(look: Callable[..., Page]) -> None:
    shown = look(with_one(output="\x1b[31mred\x07 a\u202eb \ud800 \r\nnext \U000e0041"))
    output = shown.locator(".text.output pre")
    assert output.text_content() == "[ESC][31mred[BEL] a[RLO]b [U+D800] \r\nnext [U+E0041]"
    assert output.locator(".mark").all_text_contents() == ["[ESC]", "[BEL]", "[RLO]", "[U+D800]", "[U+E0041]"]


def test_a_line_of_megabytes_is_cut_and_shown_whole_when_asked_for(look: Callable[..., Page]) -> None:
    size = 3_000_000
    shown = look(with_one(output="x" * size + "END", code="y = '" + "\u05d0" * size + "'"))
    output = shown.locator(".text.output pre")
    assert len(output.inner_text()) < 3100
    nodes = shown.evaluate("document.querySelectorAll('*').length")
    # the page has its turn while the text is poured in
    poured = "(button) => { button.click(); return document.querySelectorAll('.piece').length; }"
    assert 0 < shown.get_by_role("button", name=f"Show all {size + 3:,} characters").evaluate(poured) < 20
    wait_for(output.locator(".piece").last, re.compile("END$"))
    assert len(output.text_content() or "") == size + 3
    assert shown.evaluate("document.querySelectorAll('*').length") < nodes + size / 4000
    shown.get_by_role("button", name="Show less").click()
    assert len(output.inner_text()) < 3100


def test_a_megabyte_of_marks_makes_few_elements(look: Callable[..., Page]) -> None:
    shown = look(with_one(output="a\u202e" * 499_990 + "END"))
    shown.get_by_role("button", name="Show all 999,983 characters").click()
    wait_for(shown.locator(".text.output .piece").last, re.compile(r"END$"))
    assert shown.evaluate("document.querySelectorAll('.mark').length") < 1_000_000 / 8000 * 200 + 400


def test_search_counts_over_everything_and_jumps(look: Callable[..., Page]) -> None:
    deep = "z" * 50_000 + " needle in the depth " + "z" * 50_000
    events = with_one(
        question="Where is the NEEDLE?",
        reply="A needle?\n```repl\nprint('needle')\n```",
        code="print('needle')",
        prompt="needle or no needle",
        output=deep,
        observation="seen",
    )
    shown = look(events)
    shown.keyboard.press("/")
    shown.keyboard.type("needle")
    wait_for(shown.locator("#count"), "6 hits")
    kinds = shown.locator(".kinds li").all_inner_texts()
    assert kinds == ["question 1", "reply 1", "code 1", "output 1", "prompt 2"]
    shown.locator(".hits ol button").nth(3).click()
    assert shown.locator("#count").inner_text() == "4 of 6"
    box = shown.locator(".text.output")
    assert "needle in the depth" in box.locator("pre").inner_text()
    assert shown.evaluate("document.activeElement.className") == "text output"
    assert shown.evaluate("[...CSS.highlights.get('hit')].map(String)") == ["needle"]
    shown.keyboard.press("n")
    assert shown.locator("#count").inner_text() == "5 of 6"
    assert shown.locator("tr.whole pre").first.inner_text() == "needle or no needle"
    shown.keyboard.press("n")
    shown.keyboard.press("n")
    assert shown.locator("#count").inner_text() == "1 of 6"
    shown.keyboard.press("Shift+N")
    assert shown.locator("#count").inner_text() == "6 of 6"
    shown.keyboard.press("/")
    shown.keyboard.type("(no.such[thing")
    wait_for(shown.locator("#count"), "0 hits")
    shown.keyboard.press("Escape")
    assert shown.locator("#hits").is_hidden()


def test_five_thousand_calls_are_sorted_filtered_and_searched_in_few_elements(look: Callable[..., Page]) -> None:
    shown = look(of_many_calls(5000))
    assert shown.evaluate("document.querySelectorAll('*').length") < 2500
    rows = shown.locator("#calls tbody tr")
    assert rows.count() == 50
    assert "5,000 calls" in shown.locator("#calls .title").inner_text()
    time = shown.get_by_role("columnheader", name="time")
    time.get_by_role("button").click()
    assert time.get_attribute("aria-sort") == "descending"
    assert "Prompt 4999 of many" in rows.first.inner_text()
    time.get_by_role("button").click()
    assert time.get_attribute("aria-sort") == "ascending"
    assert "Prompt 0 of many" in rows.first.inner_text()
    shown.get_by_label("any state").select_option("failed")
    assert "5 of 5,000 calls" in shown.locator("#calls .title").inner_text()
    assert rows.count() == 5
    shown.get_by_label("any state").select_option("")
    shown.get_by_role("button", name="Last page").click()
    assert "Prompt 4999 of many" in rows.last.inner_text()
    shown.fill("#query", "Prompt 42")
    wait_for(shown.locator("#count"), "111 hits")
    shown.keyboard.press("Enter")
    assert shown.locator("#count").inner_text() == "1 of 111"
    assert shown.locator("tr.whole pre").first.inner_text() == "Prompt 4200 of many"
    assert shown.evaluate("document.querySelectorAll('*').length") < 3500
    # the timeline packs three hundred that overlap, and goes from one to the next
    shown.get_by_role("application").focus()
    shown.keyboard.press("End")
    assert "llm_query 4800" in shown.locator("#timeline-details").inner_text()


def test_hundreds_of_children_and_iterations_are_paged(look: Callable[..., Page]) -> None:
    made = Made("How deep is it?")
    for number in range(300):
        made.reply(f"Step {number}", seconds=0.1)
    made.reply("```repl\nrlm_query_batched(qs)\n```")
    made.cell("rlm_query_batched(qs)")
    for number in range(400):

        def child(call: int, began: float) -> None:
            inner = Made("A part", events=made.events, run=f"c{call}", parent="root", depth=1, call=call)
            inner.stop(f"part {call}")

        made.call(f"Part {number}", "x", begin=number * 0.001, seconds=1, function="rlm_query", child=child)
    made.ran("done", seconds=3, observation="done")
    made.stop("Very.")
    shown = look(made.events)
    assert shown.evaluate("document.querySelectorAll('*').length") < 5000
    assert shown.locator("details.iteration").count() == 50
    shown.get_by_role("button", name="Show 50 more of 301").click()
    assert shown.locator("details.iteration").count() == 100
    shown.locator("#steps h3").focus()
    shown.keyboard.press("]")
    assert shown.locator("#steps h3").inner_text().startswith("child 1.1")
    assert shown.locator("[role=treeitem][aria-current] .name").first.inner_text() == "1.1 A part"


def test_everything_can_be_reached_by_keyboard(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    active = "(() => { const at = document.activeElement; return at.id || at.className || at.textContent; })()"
    shown.keyboard.press("Tab")
    assert shown.evaluate(active) == "skip"
    seen: list[str] = []
    for _ in range(60):
        shown.keyboard.press("Tab")
        seen.append(shown.evaluate(active))
        focused = "getComputedStyle(document.activeElement).outlineStyle === 'solid'"
        assert shown.evaluate(focused), f"no focus is seen on {seen[-1]}"
    assert seen[:7] == ["Answer", "Timeline", "Steps", "Calls", "Costs", "query", "theme"]
    assert {"help", "frame", "run"} <= set(seen)
    shown.keyboard.press("?")
    assert shown.locator("dialog").is_visible()
    assert "search everything" in shown.locator("dialog").inner_text()
    shown.keyboard.press("Escape")
    assert shown.locator("dialog").is_hidden()
    shown.keyboard.press("j")
    shown.keyboard.press("j")
    assert shown.evaluate("document.activeElement.querySelector('.number').textContent") == "2"
    shown.keyboard.press("k")
    assert shown.evaluate("document.activeElement.querySelector('.number').textContent") == "1"
    shown.keyboard.press("e")
    assert shown.locator("details.iteration[open]").count() == 5
    shown.keyboard.press("e")
    assert shown.locator("details.iteration[open]").count() == 0
    shown.keyboard.press("4")
    assert shown.evaluate("document.activeElement.id") == "calls-title"


def test_the_timeline_and_the_tree_are_walked_by_arrow_keys(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    details = shown.locator("#timeline-details")
    shown.get_by_role("application").focus()
    shown.keyboard.press("Home")
    assert details.inner_text().startswith("reply 1")
    shown.keyboard.press("ArrowRight")
    assert details.inner_text().startswith("cell 1")
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowDown")
    assert details.inner_text().startswith("llm_query 1 ")
    view = "(() => { const drawn = document.querySelector('.frame canvas').toDataURL(); return drawn; })()"
    whole = shown.evaluate(view)
    shown.keyboard.press("+")
    assert shown.evaluate(view) != whole
    shown.keyboard.press("0")
    assert shown.evaluate(view) == whole
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.className") == "open"
    shown.locator("[role=tree] [tabindex='0']").focus()
    for key in (
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowRight",
        "ArrowRight",
        "ArrowRight",
        "ArrowRight",
    ):
        shown.keyboard.press(key)
    assert shown.evaluate("document.activeElement.querySelector('.name').textContent").startswith("1.1 Is one root")
    shown.keyboard.press("Enter")
    assert shown.locator("#steps h3").inner_text().startswith("child 1.1")


def test_pointing_at_a_span_says_what_it_is(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    frame = shown.get_by_role("application")
    frame.hover(position={"x": 900, "y": 30})
    assert shown.locator("#timeline-details strong").inner_text() == "cell 4"
    assert "2 calls" in shown.locator("#timeline-details").inner_text()
    frame.click(position={"x": 900, "y": 30})
    shown.locator("#timeline-details button").click()
    assert shown.evaluate("document.activeElement.querySelector('.number').textContent") == "4"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_systems_colours_until_the_switch_says_otherwise(look: Callable[..., Page], scheme: str) -> None:
    shown = look(with_one(), scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    papers = {"light": "rgb(252, 251, 248)", "dark": "rgb(21, 23, 26)"}
    assert shown.evaluate(paper) == papers[scheme]
    shown.locator("#theme").click()
    assert shown.evaluate(paper) == papers["light"]
    shown.locator("#theme").click()
    assert shown.evaluate(paper) == papers["dark"]
    shown.locator("#theme").click()
    assert shown.evaluate(paper) == papers[scheme]


@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_the_page_never_scrolls_sideways(look: Callable[..., Page], width: int) -> None:
    events = [*picture.a_run()]
    wide = with_one(question="q" * 900, output="w" * 5000, response="r" * 3000, reply="p" * 900, observation="o" * 900)
    for shown in (look(events, width=width, height=740), look(wide, width=width, height=740)):
        shown.keyboard.press("e")
        shown.locator("button.open").first.click()
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        # nor is any text cut off
        cut = "[...document.querySelectorAll('pre, h1')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
        assert shown.evaluate(cut) == 0
        assert shown.evaluate("document.scrollingElement.scrollLeft = 50, document.scrollingElement.scrollLeft") == 0


def test_the_plots_hold_what_the_run_spent_once(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    by_depth = shown.locator("#costs svg").nth(2).get_attribute("aria-label") or ""
    by_model = shown.locator("#costs svg").nth(1).get_attribute("aria-label") or ""
    assert by_depth == "Tokens by depth. root run: 82.9k, depth 1: 19.4k"
    assert by_model == "Tokens by model. gpt-5-nano: 87.2k, gpt-5-mini: 15.1k"
    # as the run itself counted: 99,957 in and 2,339 out
    assert round(82.9 + 19.4, 1) == round(87.2 + 15.1, 1) == 102.3
    shown.get_by_label("Dollars").check()
    assert (shown.locator("#costs svg").nth(0).get_attribute("aria-label") or "").startswith(
        "Dollars by iteration of the root run. 1: $0.0005, 2: "
    )
    assert "gpt-5-nano: $0.0047" in (shown.locator("#costs svg").nth(1).get_attribute("aria-label") or "")


def test_landmarks_and_names_are_there(look: Callable[..., Page]) -> None:
    shown = look(picture.a_run())
    for role in ("banner", "main", "search", "tree", "table"):
        assert shown.get_by_role(role).count() >= 1, role
    for name in ("Answer", "Timeline", "Steps", "Calls", "Costs"):
        assert shown.get_by_role("region", name=name, exact=True).count() == 1, name
    for role in ("button", "searchbox", "combobox", "radio"):
        found = shown.get_by_role(role)
        assert found.count() >= 1
        assert found.count() == shown.get_by_role(role, name=re.compile(r"\S")).count(), f"a {role} without a name"


def test_what_is_cut_off_missing_or_out_of_order_is_shown_as_far_as_it_goes(look: Callable[..., Page]) -> None:
    whole = picture.a_run()
    for events in (whole[:7], whole[3:60], whole[-1:], list(reversed(whole)), [whole[0]], with_one()[:4]):
        shown = look(events)
        assert shown.locator("section").count() == 5
    assert look([]).locator(".empty").inner_text() == "There are no events in this report."
    cut = look(whole[:-1])
    assert cut.locator("#answer dd").first.inner_text() == "cut off"


def test_two_runs_in_one_report_are_chosen_between(look: Callable[..., Page]) -> None:
    first = with_one(question="The first?", response="one")
    second = [msgspec.structs.replace(event, run="other") for event in with_one(question="The second?", response="two")]
    shown = look([*first, *second])
    assert shown.locator("h1").inner_text() == "The second?"
    shown.get_by_label("Run", exact=True).select_option("0")
    assert shown.locator("h1").inner_text() == "The first?"
    assert shown.locator("#answer .answer").inner_text() == "one"


def test_tool_calls_images_and_interruptions_have_their_place(look: Callable[..., Page]) -> None:
    made = Made("Tools?")
    made.reply("")
    made.events[-2] = msgspec.structs.replace(
        made.events[-2], messages=(Message("assistant", "", calls=(ToolCall("1", "print(2)"),)), Message("tool", "2"))
    )
    assert isinstance(made.events[-2], RootAsked)
    made.cell("while True: pass")
    made.say(CellInterrupted(cell=1, seconds=60.0))
    made.say(HistoryShortened(way="summarized", tokens_before=12_000, tokens_after=900))
    made.ran("", error="KeyboardInterrupt", observation="")
    made.stop(None, stopped_by="seconds", partial=["a", "b"], limit=("seconds", 61.5, 60.0))
    shown = look(made.events)
    assert "interrupted" in shown.locator(".cell-facts").inner_text()
    note = shown.locator("details.iteration .note").first.inner_text()
    assert note == "The messages were shortened (summarized), from 12,000 tokens to 900."
    shown.get_by_text("sent to the model: 2 new messages").click()
    assert shown.locator(".message pre").all_inner_texts() == ["", "print(2)", "2"]
    answer = shown.locator("#answer").inner_text()
    assert "There is no answer. This came nearest:" in answer
    assert "The limit of seconds ended it: 61.5 used of 60." in answer


class _Reader(HTMLParser):
    """What a parser of HTML finds: the elements, and the text of the script that holds the events."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.elements: list[str] = []
        self.events = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._inside = ("id", "events") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.events += data


@given(st.text(st.characters(), max_size=200) | st.sampled_from(HOSTILE))
def test_any_text_comes_back_out_of_the_page_as_it_went_in(text: str) -> None:
    made = page(with_one(question=text, output=text))
    made.encode()
    reader = _Reader()
    reader.feed(made)
    plain = _Reader()
    plain.feed(page(with_one()))
    assert reader.elements == plain.elements
    assert not set("<>&\u202e\u2028\x9b") & set(reader.events)
    events = msgspec.json.decode(reader.events.encode()) if "\\ud" not in reader.events else None
    if events is not None:
        assert events[0].get("question", "") == text


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_answers_of_any_type_stand_in_the_page() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, Unshowable(), 10**5000, float("inf"), {object(): 1}, b"\x00", {"k": Unshowable()}):
        assert '"response_type":' in page(with_one(response=value))


def test_what_is_shown_for_a_moment_alone_is_left_out(anyio_backend: str) -> None:
    heard = a_real_run()
    record = Record()
    for event in heard:
        record.enter(event)
    assert {type(event).__name__ for event in heard} > {type(event).__name__ for event in record.events}
    assert page(record.events) == page(heard)


def test_the_page_reads_every_kind_of_event_that_it_is_given() -> None:
    kinds = {kind.__name__ for kind in Event.__subclasses__() if kind not in html._LEFT_OUT}
    read = set(re.findall(r"^  ([A-Z]\w+)\(", (VIEWER / "model.js").read_text("utf-8"), re.M))
    assert read == kinds


def test_the_scripts_declare_each_name_once() -> None:
    declared = [
        name
        for script in VIEWER.glob("*.js")
        for name in re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", script.read_text("utf-8"), re.M)
    ]
    assert len(declared) == len(set(declared)) > 50
    used = {path.stem for path in VIEWER.glob("*.js")}
    assert set(html._SCRIPTS) == used


@pytest.mark.parametrize("path", sorted(VIEWER.iterdir()), ids=lambda path: path.name)
def test_the_page_takes_nothing_from_elsewhere_and_builds_no_markup_from_text(path: Path) -> None:
    text = path.read_text("utf-8")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text) == []
