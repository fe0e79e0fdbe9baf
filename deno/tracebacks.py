"""Exceptions as text for a model: only the frames of its own cells, with their source, cut to a size.

Exceptions are hostile too: their `__str__`, their class's name and their chain may do anything.
"""

import re
import traceback

from rlm_packages import described as packages_described
from rlm_values import well_formed

MAX_CHARS = 8_000


def explain(exception):
    """The traceback as text, with only the frames of cells in it."""
    try:
        described = traceback.TracebackException.from_exception(exception, compact=True)
        trim(described, set())
        text = "".join(described.format()).rstrip()
    except BaseException as second:
        text = f"{class_name(exception)} (its traceback could not be shown: {class_name(second)})"
    if isinstance(exception, ModuleNotFoundError):
        text += f"\n{packages()}"
    if isinstance(exception, SystemExit):
        text += "\n(the cell ended here; the sandbox and its variables live on)"
    text = well_formed(text)
    if len(text) > MAX_CHARS:
        half = MAX_CHARS // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
    return text


def packages():
    try:
        return packages_described()
    except BaseException as second:
        return f"(which packages are installed cannot be told: {class_name(second)})"


def class_name(exception):
    # past a metaclass that may answer as it likes
    return type.__dict__["__name__"].__get__(type(exception))


def trim(described, seen):
    if described is None or id(described) in seen:
        return
    seen.add(id(described))
    own = [frame for frame in described.stack if re.fullmatch(r"<cell \d+>", frame.filename)]
    described.stack = traceback.StackSummary.from_list(own)
    trim(described.__cause__, seen)
    trim(described.__context__, seen)
    for inner in described.exceptions or ():
        trim(inner, seen)
