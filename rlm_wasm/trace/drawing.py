"""The picture of runs under way: a tree of runs -> rows of text that fit a window.

What is new is shown at length, what is old is folded, and what is older still is counted. Decides without a terminal;
every text of a model or a cell is escaped and cut here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from rlm_wasm.events import RunStopped
from rlm_wasm.trace.lines import escaped, first_line, last_line
from rlm_wasm.trace.tree import Calls, CellNode, RunNode, Step

# of one line; more than the widest window shows
_WIDEST = 500

_TELL_LITTLE = ("#", "import ", "from ")
_FORMS = re.compile("[\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]")
_PILE = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_PILED = re.compile(f"(?<={_PILE}{{2}}){_PILE}+")


class Span(msgspec.Struct, frozen=True):
    """A piece of a row in one style, as rich names them."""

    text: str
    style: str = ""


class Row(msgspec.Struct, frozen=True):
    """One row: its spans from the left, and what stands at its right end where there is room."""

    spans: tuple[Span, ...]
    right: str = ""


class Detail(msgspec.Struct, frozen=True):
    """How much is shown: lines of code and of output in what is under way, rows of each folded iteration, children."""

    code: int
    output: int
    folded: int
    children: int


# from as much as anybody wants to see to as little as says anything
DETAILS = (
    Detail(code=24, output=12, folded=4, children=4),
    Detail(code=12, output=6, folded=3, children=3),
    Detail(code=6, output=4, folded=2, children=2),
    Detail(code=4, output=2, folded=1, children=2),
    Detail(code=2, output=1, folded=1, children=1),
    Detail(code=1, output=0, folded=1, children=0),
)


class Picture:
    """Draws runs into `width` columns and at most `height` rows, at the time `now`; plain ASCII signs if `plain`."""

    def __init__(self, width: int, height: int, now: float, *, plain: bool = False) -> None:
        self._width, self._height, self._now = width, height, now
        self.plain = plain
        self._bar = "#" if plain else "\u2501"
        self._rest = "." if plain else "\u2500"
        self.dots = "..." if plain else "\u2026"
        """What stands where something was left out."""
        self._guide = "| " if plain else "\u2502 "
        self._done = "=> " if plain else "\u2192 "
        turning = "|/-\\" if plain else "\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f"
        self._turning = turning[int(now * 8) % len(turning)]

    def rows(self, roots: Sequence[RunNode]) -> list[Row]:
        """All runs, one under the other; those that do not fit at all are counted."""
        # a run has its question and its status at least
        most = max(1, (self._height - 1) // 3)
        shown = roots[-most:] if len(roots) > 1 else roots
        rows: list[Row] = []
        if len(shown) < len(roots):
            rows.append(_row(Span(f"{self.dots} {len(roots) - len(shown)} more runs", "dim")))
        share = (self._height - len(rows)) // max(1, len(shown))
        for root in shown:
            rows += self._fitted(root, share)
        return rows[: self._height]

    def _fitted(self, root: RunNode, height: int) -> list[Row]:
        """A root with its status under it, in at most `height` rows."""
        status = self._status(root)[: max(1, height - 1)]
        room = max(1, height - len(status))
        rows: list[Row] = []
        for detail in DETAILS:
            rows = self._run(root, detail, room)
            if len(rows) <= room:
                break
        if len(rows) > room:
            left_out = len(rows) - room + 1
            kept = rows[len(rows) - room + 2 :] if room > 2 else []
            between = [_row(Span(f"{self.dots} {left_out} rows", "dim"))] if room > 1 else []
            rows = [rows[0], *between, *kept]
        return rows + status

    def _run(self, run: RunNode, detail: Detail, room: int) -> list[Row]:
        """A run and what is in it. No more iterations are looked at than there is room for."""
        started = run.started
        rows = [_row(Span(_cut(first_line(started.question, _WIDEST)), "bold"))]
        if run.parent is None and detail.folded > 1:
            models = started.model if started.model == started.sub_model else f"{started.model}, {started.sub_model}"
            rows.append(_row(Span(_cut(f"{models}; {started.context}"), "dim")))
        earlier = run.steps_before + max(0, len(run.steps) - room)
        steps = list(run.steps)[-room:]
        if detail.folded == 1 and len(steps) > 2 and 2 + len(steps) > room:
            few = max(1, room // 3)
            earlier, steps = earlier + max(0, len(steps) - few), steps[-few:]
        if earlier:
            rows.append(_row(Span(f"  {self.dots} {earlier} earlier iterations", "dim")))
        if not steps and run.stopped is None:
            rows.append(_row(Span(f"    {self._turning} starting", "yellow")))
        for step in steps:
            under_way = run.stopped is None and step is steps[-1] and step.doing
            rows += self._open_step(step, detail, room) if under_way else self._folded_step(step, detail)
        return rows + self._end(run.stopped)

    def _end(self, stopped: RunStopped | None) -> list[Row]:
        """What a run came to: its answer, else what it failed of."""
        if stopped is not None and stopped.response is not None:
            return [_row(Span(self._done, "green"), Span(_cut(first_line(str(stopped.response), _WIDEST))))]
        if stopped is not None and stopped.failure:
            return [_row(Span(_cut(first_line(stopped.failure, _WIDEST)), "red"))]
        return []

    # --- iterations ------------------------------------------------------------------------------------------------

    def _folded_step(self, step: Step, detail: Detail) -> list[Row]:
        """An iteration that is over, in at most `detail.folded` rows."""
        number, seconds = Span(f"{step.number:>3} ", "cyan"), _seconds(step.seconds)
        if not step.cells:
            return [Row((number, Span(_cut(first_line(step.said, _WIDEST)), "dim")), seconds)]
        rows: list[Row] = []
        for cell in step.cells:
            style = "" if cell.error is None else "red"
            rows.append(Row((number if not rows else Span("    "), Span(_cut(_head(cell.code)), style)), seconds))
            seconds = ""
            rows += [self._calls(calls, None) for calls in cell.calls[: detail.folded - 2]]
            if cell.error is not None:
                rows.append(_row(Span("    "), Span(_cut(last_line(cell.error, _WIDEST)), "red")))
            elif cell.printed.strip():
                rows.append(_row(Span("    "), Span(_cut(first_line(cell.printed, _WIDEST)), "dim")))
        rows += [_row(Span("    "), Span(_cut(note), "yellow")) for note in step.notes]
        return rows[: detail.folded]

    def _open_step(self, step: Step, detail: Detail, room: int) -> list[Row]:
        """The iteration that is under way."""
        doing = Span(f"{self._turning} {step.doing}", "yellow")
        rows = [Row((Span(f"{step.number:>3} ", "cyan"), doing), _seconds(self._now - step.since))]
        if step.written:
            rows += self._lines(step.written, detail.code, "", last=True)
        elif not step.cells and step.said:
            rows += self._lines(step.said, min(detail.code, 3), "dim")
        before, last = step.cells[:-1], step.cells[-1:]
        rows += [_row(Span("    "), Span(_cut(_head(cell.code)), "dim")) for cell in before[-detail.folded :]]
        for cell in last:
            rows += self._open_cell(cell, detail, room)
        rows += [_row(Span("    "), Span(_cut(note), "yellow")) for note in step.notes]
        return rows

    def _open_cell(self, cell: CellNode, detail: Detail, room: int) -> Iterator[Row]:
        yield from self._lines(cell.code, detail.code, "")
        for calls in cell.calls[-max(1, detail.folded) :]:
            yield self._calls(calls, self._turning)
            children = list(calls.children.values())
            for child in children[: detail.children]:
                yield from map(self._nested, self._run(child, _less(detail), max(2, room // (1 + detail.children))))
            if len(children) > detail.children > 0:
                more = len(children) - detail.children
                yield _row(Span(f"    {self.dots} {more} more children under way", "dim"))
        if cell.error is not None:
            yield _row(Span("    "), Span(_cut(last_line(cell.error, _WIDEST)), "red"))
        elif cell.printed.strip() and detail.output:
            yield from self._lines(cell.printed, detail.output, "dim", last=cell.seconds is None)

    def _nested(self, row: Row) -> Row:
        return Row((Span(f"    {self._guide}", "dim"), *row.spans), row.right)

    def _lines(self, text: str, most: int, style: str, *, last: bool = False) -> Iterator[Row]:
        """The first lines of a text, or the last; how many were left out stands in place of one."""
        lines = text.strip("\n").split("\n")
        if len(lines) > most:
            kept = max(1, most - 1)
            lines, left_out = (lines[-kept:] if last else lines[:kept]), len(lines) - kept
        else:
            left_out = 0
        rows = [_row(Span("    "), Span(_cut(line), style)) for line in lines]
        if left_out and most > 1:
            rows.insert(0 if last else len(rows), _row(Span(f"    {self.dots} {left_out:,} lines", "dim")))
        return iter(rows)

    # --- calls and figures -----------------------------------------------------------------------------------------

    def _calls(self, calls: Calls, turning: str | None) -> Row:
        """Calls of one kind in a row: how far a batch is, or how many single ones there were and the last reply."""
        under_way = calls.under_way if turning is not None else 0
        spans = [Span("    "), Span(f"{turning} " if under_way else "", "yellow"), Span(_cut(calls.function), "cyan")]
        many = calls.of > 1 or calls.begun > 1
        if calls.of > 1:
            spans += [Span(" "), *self._progress(calls), Span(f" {calls.finished:,}/{calls.of:,}")]
        elif many:
            spans.append(Span(f" {calls.finished:,} done"))
        if many and under_way:
            spans.append(Span(f", {under_way:,} under way", "dim"))
        if calls.failed:
            spans.append(Span(f" {calls.failed:,} failed", "red"))
        said = calls.said if calls.said or under_way else calls.prompt
        shown = said if calls.finished else calls.prompt
        spans.append(Span("  " + _cut(first_line(shown, _WIDEST)) if shown.strip() else "", "dim"))
        return Row(tuple(spans), _seconds(calls.seconds) if calls.finished else "")

    def _progress(self, calls: Calls) -> list[Span]:
        width = max(4, min(30, self._width // 4))
        filled = calls.finished * width // calls.of
        return [Span(self._bar * filled, "green"), Span(self._rest * (width - filled), "dim")]

    def _status(self, root: RunNode) -> list[Row]:
        """What was spent, and what is left of each limit, in as many rows as the width asks for."""
        rows: list[list[str]] = [[]]
        for part in self._figures(root):
            if rows[-1] and len("  ".join([*rows[-1], part])) > self._width:
                rows.append([])
            rows[-1].append(part)
        ended = root.stopped
        style = "bold" if ended is None else "bold green" if ended.stopped_by == "final" else "bold yellow"
        return [_row(Span("  ".join(parts), style)) for parts in rows]

    def _figures(self, root: RunNode) -> Iterator[str]:
        stopped, spent = root.stopped, root.spent
        if stopped is not None:
            yield f"stopped by {_cut(stopped.stopped_by)}"
            yield f"{stopped.seconds:.1f} s"
        else:
            yield f"{self._now - root.since:.1f} s"
        told = stopped or spent
        if told is None:
            return
        yield f"{told.calls:,} call{'' if told.calls == 1 else 's'}"
        yield f"{told.input_tokens:,} tokens in, {told.output_tokens:,} out"
        yield "price unknown" if told.usd is None else f"{told.usd:.4f} USD"
        if stopped is None and spent is not None:
            yield from _left(spent.left, self._now - root.spent_at)


def _left(left: Mapping[str, float | None], ago: float) -> Iterator[str]:
    """What is left of the limits that there are; the time has gone on since it was told."""
    for name, word in (("seconds_left", "s"), ("usd_left", "USD"), ("tokens_left", "tokens"), ("calls_left", "calls")):
        value = left.get(name)
        if value is not None:
            value = max(0.0, value - ago) if name == "seconds_left" else value
            yield f"{value:.4f} USD left" if word == "USD" else f"{value:,.0f} {word} left"


def _less(detail: Detail) -> Detail:
    """What is shown of a child where that much is shown of its parent."""
    return DETAILS[min(DETAILS.index(detail) + 1, len(DETAILS) - 1)]


def _row(*spans: Span) -> Row:
    return Row(spans)


def _head(code: str) -> str:
    """The first line of code that does something: comments and imports tell little of a cell."""
    lines = code.split("\n")
    telling = (n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(_TELL_LITTLE))
    return first_line("\n".join(lines[next(telling, 0) :]), _WIDEST)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s" if seconds >= 0.05 else f"{seconds * 1000:.0f} ms"


def _cut(text: str) -> str:
    """One line of it, escaped and no longer than any window is wide.

    Signs that change or pile upon the one before them, of which terminals disagree how wide they make it, are left out
    where they choose its form, and where more than two come in a row.
    """
    text = escaped(text[:_WIDEST].replace("\t", "    ")).replace("\n", "\\n")[:_WIDEST]
    return text if text.isascii() else _PILED.sub("", _FORMS.sub("", text))
