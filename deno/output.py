"""What a cell prints, shown cut to a size: head and tail stay, or one of them, and what is left out is counted.

Knows nothing of how a cell runs. `Output` is the cell's one buffer; `Stream` is what stands in for `sys.stdout` and
`sys.stderr`, so that both keep their order in it.
"""

import io

from rlm_values import well_formed

# TextIOWrapper's own buffer and `write` are set here, which typeshed does not know.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

# characters of which all is kept, for `whole`, with what each piece takes beside them; of more only what is shown
MAX_WHOLE = 8_000_000
PIECE = 64
# bytes that are gathered before they are passed on
GATHERED = 1 << 16
MARK = "\n[... {count:,} characters left out{words} ...]\n"


class Output:
    """The text of one cell in the order in which it was written.

    At most `max_chars` characters are shown, with `max_words` at most that many words too: by `keep` the "head", the
    "tail", or half of "both". `emit(stream, text)` is called with the head as it comes, so that it outlives a killed
    sandbox. `mark` stands where something was left out: a format of `count`, `limit` and `words`.
    """

    def __init__(self, max_chars, max_words, emit, keep="both", mark=MARK):
        self._max_chars, self._max_words = max_chars, max_words
        self._emit = emit
        self._mark = mark
        self._shares = {"both": (1, 2), "head": (1, 1), "tail": (0, 1)}[keep]
        self._head_chars = self._share(max_chars)
        self._emit_room = self._head_chars or max_chars
        self._unsent = ("stdout", "")
        self._pieces = []
        self._room = MAX_WHOLE
        # what was moved out of `_pieces` when they had become too many: the head, and how much was dropped
        self._head = None
        self._dropped = {"stdout": 0, "stderr": 0}
        self._words = 0
        self._open_word = None

    @property
    def all_sent(self):
        """Whether no more of what is written is sent as it comes."""
        return self._emit_room == 0

    def _share(self, count):
        """How much of `count` the head has; the tail has the rest."""
        part, of = self._shares
        return count - count // 2 if of == 2 else count * part

    def write(self, stream, text):
        if not text:
            return
        if self._max_words:
            self._count_words(stream, text)
        if self._emit_room:
            self._send(stream, text)
        self._pieces.append((stream, text))
        self._room -= len(text) + PIECE
        if self._room < 0:
            self._cut()

    def _count_words(self, stream, text):
        # a word may come in several writes
        goes_on = self._open_word == stream and not text[0].isspace()
        self._words += len(text.split()) - goes_on
        self._open_word = None if text[-1].isspace() else stream

    def _send(self, stream, text):
        piece = text[: self._emit_room]
        self._emit_room -= len(piece)
        unsent_stream, unsent = self._unsent
        if unsent and unsent_stream != stream:
            self._emit(unsent_stream, well_formed(unsent))
            unsent = ""
        unsent += piece
        # a print is two writes (text, newline): they leave together
        if unsent.endswith("\n") or not self._emit_room or len(unsent) > 500:
            self._emit(stream, well_formed(unsent))
            unsent = ""
        self._unsent = (stream, unsent)

    def _cut(self):
        """Drop what is not shown. Only now and then, because it costs as much as the tail is long."""
        self._head = self._head or []
        more = _first_chars(self._pieces, self._head_chars - sum([len(text) for _, text in self._head]))
        moved = _sizes(more)
        self._head += more
        before = {stream: size - moved[stream] for stream, size in _sizes(self._pieces).items()}
        tail_chars = self._max_chars - self._head_chars
        self._pieces = _last_chars(self._pieces, min(sum(before.values()), tail_chars))
        after = _sizes(self._pieces)
        for stream in self._dropped:
            self._dropped[stream] += before[stream] - after[stream]
        # so much that looking through the tail costs little for each of the writes until the next time
        self._room = 2 * PIECE * (self._max_chars + PIECE)

    def whole(self):
        """All that was written, as one text; of more than 8,000,000 characters what there still is."""
        if self._head is None:
            return well_formed("".join([text for _, text in self._pieces]))
        dropped = f"\n[... {sum(self._dropped.values()):,} characters were not kept ...]\n"
        return well_formed("".join([text for _, text in [*self._head, ("", dropped), *self._pieces]]))

    def pieces(self):
        """`([[stream, text], ...], characters left out)`, with the mark where something was left out."""
        if self._head is not None:
            self._cut()
            head, tail = self._head, self._pieces
        elif not self._pieces:
            return [], 0
        elif sum([len(text) for _, text in self._pieces]) > self._max_chars:
            head = _first_chars(self._pieces, self._head_chars)
            tail = _last_chars(self._pieces, self._max_chars - self._head_chars)
        else:
            head, tail = self._pieces, []
        head, tail = _joined(head), _joined(tail)
        words = ""
        if self._max_words and self._words > self._max_words:
            if not any(self._left_out([*head, *tail]).values()):
                head = tail = _joined([*head, *tail])
            kept = self._share(self._max_words)
            head, tail = _first_words(head, kept), _last_words(tail, self._max_words - kept)
            words = f"; at most {self._max_words:,} of {self._words:,} words are shown"
        left_out = self._left_out([*head, *tail])
        count = sum(left_out.values())
        mark = []
        if count:
            stream = max(left_out, key=left_out.__getitem__)
            limit = self._max_words if words else self._max_chars
            mark = [[stream, self._mark.format(count=count, limit=limit, words=words)]]
        pieces = _joined([*head, *mark, *tail])
        return [[stream, well_formed(text)] for stream, text in pieces], count

    def _left_out(self, kept):
        left_out = {stream: size + self._dropped[stream] for stream, size in _sizes(self._pieces).items()}
        for stream, size in _sizes(self._head or []).items():
            left_out[stream] += size
        for stream, size in _sizes(kept).items():
            left_out[stream] -= size
        return left_out


def _sizes(pieces):
    sizes = {"stdout": 0, "stderr": 0}
    for stream, text in pieces:
        sizes[stream] += len(text)
    return sizes


def _first_chars(pieces, room):
    kept = []
    for stream, text in pieces:
        if not room:
            break
        kept.append((stream, text[:room]))
        room -= len(kept[-1][1])
    return kept


def _last_chars(pieces, room):
    kept = []
    for stream, text in reversed(pieces):
        if not room:
            break
        kept.append((stream, text[-room:]))
        room -= len(kept[-1][1])
    return kept[::-1]


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


class Gathered(io.BufferedIOBase):
    """What a TextIOWrapper writes to: passes its pieces on to the output."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def write(self, piece):
        self._stream.output.write(self._stream.name, bytes(piece).decode("utf-8", "surrogatepass"))
        return len(piece)


class Stream(io.TextIOBase):
    """A text stream into the output of whichever cell runs.

    `first` is the stream whose text goes before this one's. What is no longer sent as it comes is gathered in C, so
    that a cell which prints without end is not held up by Python at each `print`.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name, first=None):
        self.name = name
        self.output = None
        self._first = first
        self._gathering = None

    def begin(self, output):
        """Write into this output from now on."""
        self.output = output
        self._gathering = None
        # back to the class's own
        vars(self).pop("write", None)

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output = self.output
        if output is not None:
            if self._first is not None:
                self._first.flush()
            output.write(self.name, text)
            # one of the two alone: their texts would lose their order
            if self._first is None and output.all_sent:
                self._gather()
        return len(text)

    def _gather(self):
        self._gathering = io.TextIOWrapper(Gathered(self), "utf-8", "surrogatepass", newline="\n")
        self._gathering._CHUNK_SIZE = GATHERED
        self.write = self._gathering.write

    def flush(self):
        if self._gathering is not None:
            self._gathering.flush()

    def close(self):
        """Stays open: the cells that follow print too."""
