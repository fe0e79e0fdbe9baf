"""A real browser without a window, for the tests of what is looked at in one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
MISSING = (
    "These tests drive a real Chromium, and none was found: `apt-get install chromium` brings one, or `playwright "
    "install chromium`. Who knowingly has none sets RLM_WASM_NO_BROWSER=1, and does without them."
)


def find(playwright: Playwright) -> str | None:
    """The path of a Chromium: one on PATH, or playwright's own."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    own = playwright.chromium.executable_path
    return found or (own if Path(own).is_file() else None)


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """A browser that is closed at the end. Raises FileNotFoundError where there is none."""
    path = find(playwright)
    if path is None:
        raise FileNotFoundError(MISSING)
    browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=60_000)
    try:
        yield browser
    finally:
        browser.close()
