"""What a cell prints, kept to a size: head and tail stay, the middle is counted.

Knows nothing of how a cell runs. `Output` is the cell's one buffer; `Stream` is what stands in for `sys.stdout` and
`sys.stderr`, so that both keep their order in it.
"""

import io

from rlm_values import well_formed

TAIL_SLACK = 20_000


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
        self._tail = []
        self._tail_chars = 0
        self._tail_room = max_chars // 2
        # the tail is cut back to its room only now and then: to do it at every write would cost as much as all the rest
        self._tail_limit = self._tail_room + TAIL_SLACK
        self._written = {"stdout": 0, "stderr": 0}
        self._words = 0
        self._open_word = None
        self._unsent = ("stdout", "")

    def write(self, stream, text):
        if not text:
            return
        size = len(text)
        self._written[stream] += size
        if self._max_words:
            self._count_words(stream, text)
        if self._head_room:
            piece, text = text[: self._head_room], text[self._head_room :]
            self._head_room -= len(piece)
            self._head.append((stream, piece))
            self._send(stream, piece)
            size = len(text)
        if size > self._tail_room:
            text = text[size - self._tail_room :]
            size = len(text)
        if size:
            self._tail.append((stream, text))
            self._tail_chars += size
            if self._tail_chars > self._tail_limit:
                self._cut_tail()

    def _count_words(self, stream, text):
        # a word may come in several writes
        goes_on = self._open_word == stream and not text[0].isspace()
        self._words += len(text.split()) - goes_on
        self._open_word = None if text[-1].isspace() else stream

    def _cut_tail(self):
        """Leave the last characters that there is room for."""
        kept, room = [], self._tail_room
        for stream, text in reversed(self._tail):
            if not room:
                break
            text = text[-room:]
            kept.append((stream, text))
            room -= len(text)
        self._tail = kept[::-1]
        self._tail_chars = self._tail_room - room

    def _send(self, stream, piece):
        unsent_stream, unsent = self._unsent
        if unsent and unsent_stream != stream:
            self._emit(unsent_stream, well_formed(unsent))
            unsent = ""
        unsent += piece
        # a print is two writes (text, newline): they leave together
        if unsent.endswith("\n") or not self._head_room or len(unsent) > 500:
            self._emit(stream, well_formed(unsent))
            unsent = ""
        self._unsent = (stream, unsent)

    def pieces(self):
        """`([[stream, text], ...], characters left out)`, with the marker where something was left out."""
        self._cut_tail()
        head, tail = _joined(self._head), _joined(self._tail)
        note = ""
        if self._max_words and self._words > self._max_words:
            if not any(self._left_out([*head, *tail]).values()):
                head = tail = _joined([*self._head, *self._tail])
            head = _first_words(head, self._max_words - self._max_words // 2)
            tail = _last_words(tail, self._max_words // 2)
            note = f"; at most {self._max_words:,} of {self._words:,} words are shown"
        left_out = self._left_out([*head, *tail])
        count = sum(left_out.values())
        marker = []
        if count:
            stream = max(left_out, key=left_out.__getitem__)
            marker = [[stream, f"\n[... {count:,} characters left out{note} ...]\n"]]
        pieces = _joined([*head, *marker, *tail])
        return [[stream, well_formed(text)] for stream, text in pieces], count

    def _left_out(self, kept):
        left_out = dict(self._written)
        for stream, text in kept:
            left_out[stream] -= len(text)
        return left_out


def _joined(pieces):
    """`pieces` with neighbours of the same stream made one."""
    joined = []
    for stream, text in pieces:
        if joined and joined[-1][0] == stream:
            joined[-1][1].append(text)
        else:
            joined.append((stream, [text]))
    return [[stream, "".join(texts)] for stream, texts in joined]


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
        output = self.output
        if output is not None:
            output.write(self.name, text)
        return len(text)

    def close(self):
        """Stays open: the cells that follow print too."""
