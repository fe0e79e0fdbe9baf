"""A terminal, as far as the live view needs one: what stands on it after bytes were written to it.

Knows the few control sequences that are to be expected, and fails on every other.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading
from unicodedata import combining, east_asian_width

_TOKEN = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|([\r\n])|([^\x00-\x1f\x7f-\x9f])", re.DOTALL)


class Terminal:
    """A window of `columns` and `rows`; what scrolls out of it is kept in `above`."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.above: list[str] = []
        self.wrapped = 0
        self.frames = 0
        self.cursor_hidden = False
        self.styles: set[str] = set()
        self._cells: list[list[str]] = [[]]
        self.row = self.column = 0

    @property
    def shown(self) -> list[str]:
        """The rows of the window down to the last that has something in it."""
        return "\n".join("".join(cells).rstrip() for cells in self._cells).rstrip("\n").split("\n")

    @property
    def everything(self) -> str:
        """What was scrolled out and what is shown."""
        return "\n".join([*self.above, *self.shown])

    def write(self, text: str) -> None:
        """Take what a program wrote. Raises AssertionError at a control character that is none of ours."""
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            assert token is not None, f"a control character that is not expected: {text[at : at + 20]!r}"
            private, numbers, letter, end, sign = token.groups()
            if sign is not None:
                self._put(sign)
            elif end == "\r":
                self.column = 0
            elif end == "\n":
                self._down()
            else:
                self._control(private, numbers, letter)
            at = token.end()

    def _control(self, private: str, numbers: str, letter: str) -> None:
        if private:
            assert (numbers, letter) in (("25", "l"), ("25", "h")), (numbers, letter)
            self.cursor_hidden = letter == "l"
        elif letter == "m":
            self.styles.update(numbers.split(";"))
        elif letter == "A":
            self.row = max(0, self.row - int(numbers or 1))
        elif letter == "K":
            assert numbers == "2"
            self._cells[self.row] = []
            self.frames += 1
        else:
            raise AssertionError(f"a control sequence that is not expected: {letter!r}")

    def _put(self, sign: str) -> None:
        width = 0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1
        if self.column + width > self.columns:
            self.wrapped += 1
            self._down()
            self.column = 0
        cells = self._cells[self.row]
        cells += [" "] * (self.column - len(cells))
        if width:
            cells[self.column : self.column + width] = [sign, *[""] * (width - 1)]
        self.column += width

    def _down(self) -> None:
        self.row += 1
        if self.row == self.rows:
            self.above.append("".join(self._cells.pop(0)).rstrip())
            self.row -= 1
        while len(self._cells) <= self.row:
            self._cells.append([])


class Pty:
    """A terminal of 80 columns and 24 rows as programs have it at `theirs`; what they write is read at once."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.read = bytearray()
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while True:
            try:
                piece = os.read(self.ours, 65536)
            except OSError:
                # how Linux says that nobody has the other end open any more
                piece = b""
            with self.changed:
                self.read += piece
                self.changed.notify_all()
            if not piece:
                return

    def seen(self, text: str) -> bool:
        """Wait until a text was written to it; False if it was not within a minute."""
        with self.changed:
            return self.changed.wait_for(lambda: text.encode() in self.read, timeout=60)

    def ended(self) -> Terminal:
        """What stands on it when nobody has the other end open any more."""
        self.thread.join(timeout=60)
        terminal = Terminal(80, 24)
        terminal.write(self.read.decode())
        return terminal
