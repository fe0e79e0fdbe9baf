"""The settings of the command line: one table from which come flags, environment variables and keys of config files.

Decides which of several values holds, and says where it came from. Reads no file itself.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from rlm_wasm.batches import CONCURRENCY
from rlm_wasm.clients.connections import host_of
from rlm_wasm.dialects import DIALECTS, HOUSE
from rlm_wasm.integrations.serve import MAX_REQUEST_MB
from rlm_wasm.limits import Limits
from rlm_wasm.prices import Price

# Whose file may say it: "any" file that is found; "lower" the same, but a limit is only lowered by a project's; "own"
# the user's alone, since with it a file in a folder of somebody else's could send keys and texts elsewhere (base_url),
# run a program (deno), fetch one (packages), or write and believe a file (cache, trace).
Trust = Literal["any", "lower", "own"]


class SettingError(ValueError):
    """A setting that is wrong where it stands; the text names the place."""


def number(text: str) -> float:
    """A number above 0. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def count(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > 15 or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 0 or above. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or above, not {text!r}")
    return int(text)


def switch(text: str) -> bool:
    """Yes or no. Raises ArgumentTypeError."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return words[text.lower()]


def prices(text: str) -> dict[str, Price]:
    """Prices by model, of "MODEL=INPUT/OUTPUT" with commas between several. Raises ArgumentTypeError."""
    found: dict[str, Price] = {}
    for part in text.split(","):
        # a model's name may have an equals sign in it
        model, _, price = part.strip().rpartition("=")
        try:
            per_input, per_output = map(float, price.split("/"))
            found[model] = Price(per_input, per_output)
        except ValueError:
            model = ""
        if not model:
            raise argparse.ArgumentTypeError(f"must be MODEL=INPUT/OUTPUT, such as qwen=0.2/0.8, not {part.strip()!r}")
    return found


def packages(text: str) -> tuple[str, ...]:
    """Packages with commas between them; a comma before a comparison belongs to one of them."""
    return tuple(part.strip() for part in re.split(r",(?!\s*[<>=!~])", text) if part.strip())


class Form(msgspec.Struct, frozen=True):
    """What the values of a setting are: how one is read from text, and what it is in a TOML file."""

    parse: Callable[[str], Any]
    types: tuple[type, ...]
    words: str


TEXT = Form(str, (str,), "a text")
WHOLE = Form(whole, (int,), "a whole number")
NUMBER = Form(number, (int, float), "a number")
COUNT = Form(count, (int,), "a whole number")
PRICES = Form(prices, (str,), "a text")
PACKAGES = Form(packages, (str,), "a text")
SWITCH = Form(switch, (bool,), "true or false")


class Setting(msgspec.Struct, frozen=True):
    """One setting: the flag --key, the variable RLM_WASM_KEY and the key of a file, with what they mean."""

    key: str
    help: str
    form: Form = TEXT
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    default: Any = None
    trust: Trust = "any"
    named_apart: str | None = None

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return self.named_apart or f"RLM_WASM_{self.key.upper()}"

    def read(self, text: str) -> Any:
        """The value of a text. Raises ArgumentTypeError."""
        value = self.form.parse(text)
        if self.choices is not None and value not in self.choices:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(self.choices)}, not {text!r}")
        return value

    def read_toml(self, value: object) -> Any:
        """The value of what stands in a TOML file. Raises ArgumentTypeError."""
        # to Python true is a number
        if not isinstance(value, self.form.types) or (isinstance(value, bool) and self.form is not SWITCH):
            raise argparse.ArgumentTypeError(f"must be {self.form.words}, not {type(value).__name__}")
        return self.read(str(value))


_LIMITS = Limits()

ALL = {
    setting.key: setting
    for setting in (
        Setting("model", "the model that writes the code"),
        Setting("sub_model", "the model behind llm_query (default: the same)", metavar="MODEL"),
        Setting("dialect", "the model's convention", choices=tuple(DIALECTS), default=HOUSE.name),
        Setting("act", "how code is carried, if not as the dialect has it", choices=("fences", "tool")),
        Setting(
            "base_url", "an OpenAI-compatible server, such as http://127.0.0.1:8080/v1", metavar="URL", trust="own"
        ),
        Setting("usd", "spend at most this many US dollars", NUMBER, "N", trust="lower"),
        # with a price of nothing, a limit in dollars would hold nobody
        Setting("price", "of a model, in US dollars per million tokens", PRICES, "MODEL=INPUT/OUTPUT", trust="own"),
        Setting("seconds", "stop after this many seconds", NUMBER, "N", trust="lower"),
        Setting(
            "iterations",
            f"replies of the root model at most (default: {_LIMITS.iterations})",
            COUNT,
            "N",
            default=_LIMITS.iterations,
            trust="lower",
        ),
        Setting(
            "cache",
            "keep the sub model's replies in this file, and use them again",
            metavar="FILE",
            trust="own",
            # RLM_WASM_CACHE is the folder of memory images
            named_apart="RLM_WASM_CACHE_FILE",
        ),
        Setting(
            "errors",
            "what to do with bytes that are no text",
            choices=("strict", "replace", "ignore", "backslashreplace"),
            default="strict",
        ),
        Setting("encoding", "the encoding of texts (default: found out)", metavar="NAME"),
        Setting("concurrency", "questions at once", COUNT, "N", default=CONCURRENCY),
        Setting("lazy", "leave files where they are and read them piece by piece (default: large ones)", SWITCH),
        Setting("live", "draw the run as it goes, where stderr is a terminal", SWITCH, default=False),
        Setting("json", "print JSON for machines", SWITCH, default=False),
        Setting("debug", "show the traceback of a failure", SWITCH, default=False),
        Setting("trace", "write the run to this .jsonl file, or into this folder", metavar="FILE|DIR", trust="own"),
        Setting(
            "store", "keep the run in this folder, so that it can be resumed after any stop", metavar="DIR", trust="own"
        ),
        # a wheel is code, if code in the sandbox, and an address may be anywhere
        Setting(
            "packages", "what cells can import: names, wheels, folders of wheels", PACKAGES, "NAME,...", trust="own"
        ),
        Setting("seed", "let the sandbox do the same each time: chance from this number, a still clock", WHOLE, "N"),
        # who opens a door to the network is the user alone
        Setting("host", "the address to listen on", metavar="ADDRESS", default="127.0.0.1", trust="own"),
        Setting("port", "the port; 0 takes a free one", WHOLE, "N", default=8808),
        Setting("threshold_chars", "up to so many characters a conversation is one call", WHOLE, "N", default=8000),
        Setting("max_request_mb", "refuse larger requests", COUNT, "N", default=MAX_REQUEST_MB, trust="lower"),
        Setting("deno", "path of a Deno binary", metavar="FILE", trust="own"),
    )
}


class Value(msgspec.Struct, frozen=True):
    """A setting's value, and where it came from: a flag, a variable, the path of a file, or "default"."""

    value: Any
    origin: str


class Source(msgspec.Struct, frozen=True):
    """The values of a file that was found, already read; `own` if it is the user's."""

    path: str
    values: Mapping[str, Any]
    own: bool


def in_force(
    given: Mapping[str, Any], keys: Sequence[str], sources: Sequence[Source], by_flag_alone: Sequence[str] = ()
) -> dict[str, Value]:
    """The values that hold, by key: the flag's, else the variable's, else a project's file's, the user's, the default.

    `sources` are in that order too. Raises SettingError for a variable that makes no sense.
    """
    return {
        key: Value(given[key], ALL[key].flag)
        if given.get(key) is not None
        else Value(ALL[key].default, "default")
        if key in by_flag_alone
        else _of_variable(ALL[key]) or _of_files(ALL[key], sources)
        for key in keys
    }


def _of_variable(setting: Setting) -> Value | None:
    text = os.environ.get(setting.variable, "").strip()
    if not text:
        return None
    try:
        return Value(setting.read(text), setting.variable)
    except argparse.ArgumentTypeError as error:
        raise SettingError(f"{setting.variable} {error}") from None


def _of_files(setting: Setting, sources: Sequence[Source]) -> Value:
    named = [
        (Value(source.values[setting.key], source.path), source) for source in sources if setting.key in source.values
    ]
    if not named:
        return Value(setting.default, "default")
    first, source = named[0]
    if setting.trust != "lower" or source.own:
        return first
    # what would hold without the project's file
    below = named[1][0] if len(named) > 1 else Value(setting.default, "default")
    return below if below.value is not None and below.value < first.value else first


def shown(key: str, value: Any) -> object:
    """A value as it may be shown: of an address the scheme and the host alone, since all else may hold a key."""
    if key == "price" and value is not None:
        return ",".join(f"{model}={price.input:g}/{price.output:g}" for model, price in value.items())
    if key == "packages" and value is not None:
        return ",".join(value)
    if key != "base_url" or value is None:
        return value
    scheme, _, _ = str(value).partition("://")
    try:
        return f"{scheme}://{host_of(str(value))}"
    except ValueError:
        return "(no address)"
