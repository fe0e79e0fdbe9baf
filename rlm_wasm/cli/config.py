"""Config files: where they are looked for, what each may say, and what is wrong with one, by file and key.

Two may be found: the user's own, in the user's config folder, and a project's, in the working directory or the nearest
folder above it. Whoever works in a folder has not always written what is in it, so a project's file may choose among
harmless things and lower a limit, and no more; and what it chose is said. No file holds a key.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rlm_wasm.cli.settings import ALL, SettingError, Source, switch

# more than any config file has; a dotted key of 64 kB keeps Python 3.11's tomllib busy for half a minute
_MOST_BYTES = 128_000
_LONGEST_LINE = 4_000
PROJECT_FILE = "rlm-wasm.toml"


def user_file() -> Path:
    """The user's own config file, whether it is there or not."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "rlm-wasm" / "config.toml"


def find(chosen: str | None, none: bool | None) -> list[Source]:
    """The files that count, a project's before the user's; or `chosen` alone, or none of them.

    Where neither is given, RLM_WASM_CONFIG and RLM_WASM_NO_CONFIG are asked. A file that is named by hand counts as the
    user's own. Raises SettingError, which names file and key.
    """
    if chosen is None and none is None:
        chosen, none = os.environ.get("RLM_WASM_CONFIG") or None, _switched_off()
    if none:
        return []
    if chosen is not None:
        path = Path(chosen)
        table = _table_of(path)
        if table is None:
            raise SettingError(f"{path}: there is no such config file, or it says nothing of rlm-wasm")
        return [_source(path, table, own=True)]
    found: list[Source] = []
    try:
        project = _project_file()
        if project is not None:
            found.append(_source(*project, own=False))
    except SettingError as error:
        raise SettingError(f"{error} (--no-config passes over all config files)") from None
    table = _table_of(user_file())
    return found if table is None else [*found, _source(user_file(), table, own=True)]


def _switched_off() -> bool:
    try:
        return switch(os.environ.get("RLM_WASM_NO_CONFIG") or "false")
    except argparse.ArgumentTypeError as error:
        raise SettingError(f"RLM_WASM_NO_CONFIG {error}") from None


def _project_file() -> tuple[Path, Mapping[str, Any]] | None:
    """The nearest of the working directory and the folders above it that has something to say."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        for name in (PROJECT_FILE, "pyproject.toml"):
            table = _table_of(folder / name)
            if table is not None:
                return folder / name, table
    return None


def _table_of(path: Path) -> Mapping[str, Any] | None:
    """The settings in a file: of a pyproject.toml its [tool.rlm-wasm]. None where there is no such file or table."""
    text = _text_of(path)
    if text is None or (path.name == "pyproject.toml" and "rlm-wasm" not in text):
        # what is wrong with a project that does not know us is none of our business
        return None
    if any(len(line) > _LONGEST_LINE for line in text.splitlines()):
        raise SettingError(f"{path} has a line longer than a config file may have ({_LONGEST_LINE:,} characters)")
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from None
    if path.name != "pyproject.toml":
        return table
    tool = table.get("tool")
    ours = cast("dict[str, Any]", tool).get("rlm-wasm") if isinstance(tool, dict) else None
    if ours is not None and not isinstance(ours, dict):
        raise SettingError(f"{path}: tool.rlm-wasm must be a table, not {type(ours).__name__}")
    return cast("dict[str, Any] | None", ours)


def _text_of(path: Path) -> str | None:
    try:
        found = path.stat()
        # a pipe or a device of that name would be read for ever
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > _MOST_BYTES:
            raise SettingError(f"{path} is larger than a config file may be ({_MOST_BYTES:,} bytes)")
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise SettingError(f"{path} is not UTF-8") from None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None


def _source(path: Path, table: Mapping[str, Any], *, own: bool) -> Source:
    """What a file says, checked to the last key. Raises SettingError."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = name.replace("-", "_")
        setting = ALL.get(key)
        if setting is None:
            raise SettingError(f"{path}: {_unknown(name)}")
        if setting.trust == "own" and not own:
            raise SettingError(
                f"{path}: {name} is not taken from a project's file, since others may have written it: use "
                f"{setting.flag}, {setting.variable} or {user_file()}"
            )
        try:
            values[key] = setting.read_toml(value)
        except argparse.ArgumentTypeError as error:
            raise SettingError(f"{path}: {name} {error}") from None
    return Source(str(path), values, own)


def _unknown(name: str) -> str:
    if any(word in name.lower() for word in ("key", "token", "secret", "password")):
        return f"{name!r}: no key is taken from a file: set OPENAI_API_KEY in the environment"
    return f"there is no setting {name!r}; there are {', '.join(ALL)}"
