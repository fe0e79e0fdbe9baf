"""Cards: what a notebook shows of a value, as a small piece of HTML; and any value as text.

Every text on a card may be an enemy's: it is escaped, cut to size, and what would be invisible or reorder what follows
is a mark. Knows nothing of what is shown.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Mapping, Sequence

import msgspec

# characters of one text; a notebook keeps in its file what it shows
MOST = 4000
_MOST_SHORT = 300

# grey that is seen on white and on black; all else is as the notebook has it
_BORDER = "1px solid rgba(128,128,128,.45)"
_BOX = f"border:{_BORDER};border-radius:6px;padding:.7em 1em;margin:.2em 0;max-width:64em;line-height:1.45"
_TITLE = "margin-bottom:.35em;font-weight:600;overflow-wrap:anywhere"
_SOFT = "opacity:.7;font-size:.9em"
_PRE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:.25em 0 .5em;padding:.1em 0 .1em .8em;background:none;"
    f"color:inherit;border:0;border-left:{_BORDER};max-height:24em;overflow:auto;font-size:.9em;unicode-bidi:isolate"
)
_FACT = "display:inline-block;margin-right:1.4em"
# joiners, without which emoji and some scripts fall apart
_KEPT = frozenset("\n\t\u200c\u200d")
_MARKED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def card(title: str, facts: Mapping[str, str], texts: Sequence[tuple[str, str]] = ()) -> str:
    """A card: a title, facts by their names in one row, and longer texts, each under its name ("" for none).

    At most 4,000 characters of a text are shown, 300 of a title or a fact. No script, no link, inline style alone.
    """
    row = "".join(
        f'<span style="{_FACT}"><span style="{_SOFT}">{_short(name)}</span> <bdi>{_short(fact)}</bdi></span>'
        for name, fact in facts.items()
    )
    parts = [f'<div style="{_TITLE}"><bdi>{_short(title)}</bdi></div>', *(_text(name, text) for name, text in texts)]
    # the classes keep MathJax, which notebooks let loose on HTML, from what stands between two dollar signs
    return f'<div class="mathjax_ignore tex2jax_ignore" style="{_BOX}">{"".join(parts)}<div>{row}</div></div>'


def _text(name: str, text: str) -> str:
    left = len(text) - MOST
    more = f'<div style="{_SOFT}">{left:,} characters more</div>' if left > 0 else ""
    said = f'<div style="{_SOFT}">{_short(name)}</div>' if name else ""
    return f'{said}<pre style="{_PRE}">{_escaped(text[:MOST])}</pre>{more}'


def _short(text: str) -> str:
    return _escaped(text if len(text) <= _MOST_SHORT else f"{text[:_MOST_SHORT]}\u2026")


def _escaped(text: str) -> str:
    return html.escape("".join(map(_visible, text)))


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _MARKED:
        return character
    return f"[U+{ord(character):04X}]"


def text_of(value: object) -> str:
    """Any value as a person reads it: a str as it is, what is like JSON as indented JSON, else its repr."""
    if isinstance(value, str):
        return value
    try:
        plain = msgspec.to_builtins(value, builtin_types=(bytes, bytearray), str_keys=True, enc_hook=repr)
        return json.dumps(plain, indent=2, ensure_ascii=False, default=repr)
    except Exception:
        # deeper than the stack, an int of too many digits, keys that are no text
        try:
            return repr(value)
        except Exception as error:
            return f"(a {type(value).__name__} that cannot be shown: {type(error).__name__})"


def dollars(usd: float | None) -> str:
    """US dollars in at least two digits that say something; "unknown" for None."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd >= 0.995 or usd == 0 else f"${usd:.2g}"
