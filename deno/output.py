"""What a cell prints, kept to a size: head and tail stay, the middle is counted.

Knows nothing of how a cell runs. `Output` is the cell's one buffer; `Stream` is what stands in for `sys.stdout` and
`sys.stderr`, so that both keep their order in it.
"""

import collections
import io

from rlm_values import well_formed


class Output:
    """The text of one cell in the order in which it was written.

    At most `max_chars` characters are kept, half from the head and half from the tail; with `max_words` at most that
    many words too. `emit(stream, text)` is called with the head as it comes, so that it outlives a killed sandbox.
    """

    def __init__(self, max_chars, max_words, emit):
        self._max_words = max_words
        self._emit = emit
        self._head = []
        self._head_room = max_chars - max_chars // 2
        self._tail = collections.deque()
        self._tail_chars = 0
        self._tail_room = max_chars // 2
        self._left_out = {"stdout": 0, "stderr": 0}
        self._words = 0
        self._unsent = ""

    def write(self, stream, text):
        if self._max_words:
            self._words += len(text.split())
        if self._head_room:
            piece, text = text[: self._head_room], text[self._head_room :]
            self._head_room -= len(piece)
            self._append(self._head, stream, piece)
            self._send(stream, piece)
        if text:
            self._write_tail(stream, text)

    def _write_tail(self, stream, text):
        room = self._tail_room
        if len(text) > room:
            self._left_out[stream] += len(text) - room
            text = text[len(text) - room :]
        self._tail.append((stream, text))
        self._tail_chars += len(text)
        while self._tail_chars > room:
            oldest_stream, oldest = self._tail.popleft()
            excess = self._tail_chars - room
            dropped = min(excess, len(oldest))
            self._left_out[oldest_stream] += dropped
            self._tail_chars -= dropped
            if dropped < len(oldest):
                self._tail.appendleft((oldest_stream, oldest[dropped:]))

    @staticmethod
    def _append(pieces, stream, text):
        if pieces and pieces[-1][0] == stream:
            pieces[-1][1].append(text)
        else:
            pieces.append((stream, [text]))

    def _send(self, stream, piece):
        # a print is two writes (text, newline): they leave together
        self._unsent += piece
        if piece.endswith("\n") or not self._head_room or len(self._unsent) > 500:
            self._emit(stream, well_formed(self._unsent))
            self._unsent = ""

    def pieces(self):
        """`([[stream, text], ...], characters left out)`, with the marker where something was left out."""
        left_out = sum(self._left_out.values())
        pieces = list(self._head)
        if left_out:
            stream = max(self._left_out, key=self._left_out.__getitem__)
            pieces.append((stream, [f"\n[... {left_out:,} characters left out ...]\n"]))
        for stream, text in self._tail:
            self._append(pieces, stream, text)
        pieces = [[stream, well_formed("".join(texts))] for stream, texts in pieces]
        if self._max_words and self._words > self._max_words:
            return _cut_words(pieces, self._max_words, self._words), left_out
        return pieces, left_out


def _cut_words(pieces, max_words, words):
    """The first and last words of `pieces`, `max_words` in all, of `words` that were printed."""
    head = _first_words(pieces, max_words - max_words // 2)
    tail = _last_words(pieces, max_words // 2)
    marker = ["stdout", f"\n[... output cut to {max_words:,} of {words:,} words ...]\n"]
    return [*head, marker, *tail]


def _first_words(pieces, count):
    kept = []
    for stream, text in pieces:
        words = text.split(maxsplit=count)
        if len(words) > count:
            rest = words[-1] if count else text.lstrip()
            kept.append([stream, text[: len(text) - len(rest)].rstrip()])
            return kept
        kept.append([stream, text])
        count -= len(words)
    return kept


def _last_words(pieces, count):
    kept = []
    for stream, text in reversed(pieces):
        words = text.rsplit(maxsplit=count)
        if len(words) > count:
            rest = words[0] if count else text.rstrip()
            kept.append([stream, text[len(rest) :].lstrip()])
            break
        kept.append([stream, text])
        count -= len(words)
    return kept[::-1]


class Stream(io.TextIOBase):
    """A text stream into the output of whichever cell runs."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name):
        self.name = name
        self.output = None

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.output is not None:
            self.output.write(self.name, text)
        return len(text)

    def close(self):
        """Stays open: the cells that follow print too."""
