"""The live view: runs as a picture on the terminal that grows, drawn with rich.

Owns the terminal while a run is on: when the picture begins, is drawn again, and ends. What is in it is `drawing.py`'s.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from rlm_wasm.events import Event, RunStarted, RunStopped
from rlm_wasm.trace.drawing import Picture, Row
from rlm_wasm.trace.lines import say, write_progress
from rlm_wasm.trace.tree import RunNode, Tree

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

# drawings a second, however much happens
_RATE = 8
# rows of the window, of which the picture leaves the last empty
_LEAST_ROWS = 4

# there is one terminal: a second view at the same time writes lines above the picture of the first
_terminal = threading.Lock()


class LiveView:
    """A listener that draws its runs on stderr as they go: `RLM(..., listeners=[LiveView()])`.

    A tree of iterations, of the code as it is written, its output, the calls of sub models and the children under them,
    and what was spent and is left. It begins with the first run and ends with the last that is under way; any number of
    runs may share it, at once and one after the other. Where stderr is no terminal, or TERM is "dumb", or rich (the
    extra `rich`) is not there, it writes a line for each thing that happens. `console` draws elsewhere than on stderr.

    As a context manager it ends the picture at its exit, whatever became of the runs; no use of it asks for that.
    """

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._tree = Tree(clock)
        # of the tree: the drawing thread holds it while the picture is made, and nothing else
        self._lock = threading.Lock()
        # of beginning and ending, between the threads of several runs
        self._turn = threading.Lock()
        self._live: Live | None = None
        self._under_way: set[str] = set()
        self._told_missing = False

    def __repr__(self) -> str:
        return f"<LiveView, {len(self._under_way)} runs under way>"

    @property
    def hears_pieces(self) -> bool:
        """Whether it wants replies in pieces, as they come (`RootStreamed`): where it draws, and not in lines."""
        return self._console is not None or is_terminal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, RunStarted) and event.parent is None:
            with self._turn:
                self._begin(event)
        if self._live is not None:
            with self._lock:
                self._tree.add(event)
        elif self._under_way:
            write_progress(event)
        if isinstance(event, RunStopped) and event.parent is None:
            with self._turn:
                self._end(event)

    def close(self) -> None:
        """End the picture, and leave the last one standing."""
        with self._turn:
            self._stop()

    def _begin(self, event: RunStarted) -> None:
        if not self._under_way:
            self._live = self._opened()
        self._under_way.add(event.run)

    def _end(self, event: RunStopped) -> None:
        self._under_way.discard(event.run)
        if not self._under_way:
            self._stop()
            return
        with self._lock:
            ended = self._tree.take_out(event.run)
        if self._live is not None and ended is not None:
            # stays above the picture of those that go on
            self._live.console.print(*self._drawn([ended], self._live.console), sep="\n")

    def _opened(self) -> Live | None:
        """A picture that is being drawn, or None where there can be none."""
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            if is_terminal() and not self._told_missing:
                self._told_missing = True
                say("the live view is drawn with rich, which is not installed: pip install 'rlm-wasm[rich]'")
            return None
        console = self._console or (Console(file=sys.stderr) if is_terminal() else None)
        if console is None or not console.is_terminal or console.is_dumb_terminal:
            return None
        if console.height < _LEAST_ROWS or not _terminal.acquire(blocking=False):
            return None
        live = Live(
            console=console,
            get_renderable=lambda: self._renderable(console),
            refresh_per_second=_RATE,
            # what goes to stdout is not ours to send elsewhere
            redirect_stdout=False,
            redirect_stderr=self._console is None,
        )
        try:
            live.start()
            # left visible, it needs nobody to show it again, whatever ends the process
            console.show_cursor(True)
        except BaseException:
            _terminal.release()
            raise
        return live

    def _stop(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            if live is not None:
                _terminal.release()
            with self._lock:
                self._tree = Tree(self._clock)
            self._under_way.clear()

    def _renderable(self, console: Console) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            roots = list(self._tree.roots.values())
            rows = self._drawn(roots, console)
        if any(root.stopped is None for root in roots):
            # an empty row, where the cursor stands: what else is written begins on a line of its own
            rows.append(Text(""))
        return Group(*rows)

    def _drawn(self, roots: list[RunNode], console: Console) -> list[Text]:
        # the last column is left free: some terminals begin a new row there
        width = max(20, console.width - 1)
        height = max(_LEAST_ROWS, console.height) - 2
        picture = Picture(width, height, self._clock(), plain=console.options.ascii_only)
        return [_text(row, width, picture) for row in picture.rows(roots)]


def is_terminal() -> bool:
    """Whether stderr is a terminal in which can be drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _text(row: Row, width: int, picture: Picture) -> Text:
    """A row as rich draws it, no wider than `width` columns; one that is cut ends in dots.

    Each character counts for itself: of signs that are drawn as one, no terminal makes more than their sum.
    """
    from rich.cells import get_character_cell_size
    from rich.text import Text

    dots = picture.dots
    text = Text(no_wrap=True, overflow="crop")
    room = width - len(row.right) - 2 if row.right else width
    used = 0
    for number, span in enumerate(row.spans):
        is_last = not any(later.text for later in row.spans[number + 1 :])
        # what the terminal's encoding lacks is written in full, and as wide as that
        shown = span.text if not picture.plain else span.text.encode("ascii", "backslashreplace").decode()
        ends = list(accumulate((get_character_cell_size(sign) for sign in shown), initial=used))
        if ends[-1] > (room if is_last else room - len(dots)):
            kept = bisect_right(ends, room - len(dots)) - 1
            text.append(shown[:kept] + dots, span.style)
            used = ends[kept] + len(dots)
            break
        text.append(shown, span.style)
        used = ends[-1]
    if row.right:
        text.append(" " * (width - len(row.right) - used) + row.right, "dim")
    return text
