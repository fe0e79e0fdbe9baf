"""The report: a run and its children as one HTML file that loads nothing and runs nothing but its own script.

Owns how events become data for a page. What the page looks like and does is in `viewer/`; every text in the events is
an enemy's, so that here it becomes JSON which nothing closes, and there text nodes. Knows nothing of where events come
from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, cast

import msgspec

from rlm_wasm.cards import text_of
from rlm_wasm.events import BudgetSpent, Event, Printed, RootStreamed
from rlm_wasm.images import Image

# in the order in which they are run; each is a plain script, and what one declares the next ones know
_SCRIPTS = (
    "model",
    "text",
    "python",
    "spans",
    "picture",
    "timeline",
    "tree",
    "steps",
    "calls",
    "costs",
    "search",
    "main",
)
# what a page has no use for: it stands in other events as a whole
_LEFT_OUT = (BudgetSpent, Printed, RootStreamed)
# values of a cell, a caller or a typed answer: any type, shown as text
_VALUES = frozenset({"context_value", "settings", "value", "final", "arguments", "named", "response", "partial"})
# JavaScript's numbers are exact up to here
_MOST_EXACT = 2**53
# What HTML would read as markup, and what reorders or breaks the source where it is looked at. Lone surrogates have no
# UTF-8. (json.dumps itself escapes the rest of the control characters.)
_ESCAPED = re.compile("[<>&\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff0-\uffff]")


def page(events: Sequence[Event]) -> str:
    """The report on one run and its children, or on several: a whole HTML document.

    `events` are in the order in which they happened, as a listener hears them; a run that was cut off is shown as far
    as it went. Nothing in them can run, load or break the page: see the module's docstring.
    """
    folder = files("rlm_wasm.trace") / "viewer"
    scripts = [(folder / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    style = (folder / "style.css").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_source, scripts))}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Template((folder / "page.html").read_text("utf-8")).substitute(
        policy=policy,
        style=style,
        events=_as_script_data([_plain_event(event) for event in events if not isinstance(event, _LEFT_OUT)]),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def report(events: Sequence[Event], path: str | Path) -> Path:
    """Write the report to a file, and give its path. It opens in any browser, from the disk too."""
    written = Path(path)
    written.write_text(page(events), "utf-8")
    return written


def _source(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _as_script_data(value: object) -> str:
    """JSON that can stand in a script element: no character in it means anything to HTML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain_event(event: Event) -> dict[str, object]:
    plain: dict[str, object] = {"event": type(event).__name__}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _VALUES:
            if value is not None and value != {}:
                plain[name] = text_of(value)
        elif value is not None and value != () and value != {}:
            plain[name] = _plain(value)
    if "response" in plain:
        plain["response_type"] = type(cast(Any, event).response).__name__
    return plain


def _plain(value: object) -> object:
    """A value of JSON that JavaScript reads as it is meant."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -_MOST_EXACT < value < _MOST_EXACT else text_of(value)
        case float():
            return value if math.isfinite(value) else None
        case Image():
            return f"{value.media_type or value.url or 'image'}, {len(value.content):,} bytes"
        case msgspec.Struct():
            return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        case Mapping():
            members = cast("Mapping[object, object]", value)
            return {str(key): _plain(item) for key, item in members.items()}
        case list() | tuple():
            return [_plain(item) for item in cast("Sequence[object]", value)]
        case _:
            return text_of(value)
