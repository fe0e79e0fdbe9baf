"""What a caller may require of a run before its answer counts, and what is done at a stall. Decides without I/O."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec


class Guards(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between a model and an answer that rests on nothing. Each is off unless it says otherwise.

    `require_cell_before_final`: an answer as plain text counts only when a cell has run.
    `require_subcall_before_final`: no answer counts before a sub model or a child was asked. `invalid_reply_limit`:
    after so many replies in a row without code, `fallback_code` is run as a cell (once), or the run ends.
    `repeat_limit`: a cell that gives the same output for the so-many-th time is pointed out; 3, because a second look
    may be meant. `max_child_share`: a child whose context is larger than this share of its parent's is refused the
    first time, and made if asked for again.
    """

    require_cell_before_final: bool = False
    require_subcall_before_final: bool = False
    invalid_reply_limit: int | None = None
    fallback_code: str | None = None
    repeat_limit: int | None = 3
    max_child_share: float | None = None

    def __post_init__(self) -> None:
        for field in ("invalid_reply_limit", "repeat_limit", "max_child_share"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise ValueError(f"{field} must be above 0, or None for no such guard, not {value!r}")
        if self.fallback_code is not None and self.invalid_reply_limit is None:
            raise ValueError("fallback_code is run when invalid_reply_limit is reached: set that too")


class Watch:
    """What has happened in one run, as far as its guards ask for it."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._cells: Counter[bytes] = Counter()
        self._invalid = 0
        self._fallen_back = False
        self._confirmed: set[bytes] = set()

    def ran(self, code: str, output: str) -> str | None:
        """Note a cell; gives what to point out to the model, if anything."""
        seen = hashlib.sha256(f"{code}\0{output}".encode(errors="surrogatepass")).digest()
        self._cells[seen] += 1
        self._invalid = 0
        limit = self._guards.repeat_limit
        if limit is None or self._cells[seen] < limit:
            return None
        return f"(this cell has given this output {self._cells[seen]} times now: do something else, or give the answer)"

    def refuses_final(self, subcalls: int) -> str | None:
        """Why an answer does not count yet; None if it does."""
        if self._guards.require_cell_before_final and not self._cells:
            return "no code has been run yet"
        if self._guards.require_subcall_before_final and not subcalls:
            return "no sub model has been asked yet"
        return None

    def replied_without_code(self) -> str | None:
        """Note a reply without code; gives the code to run instead, "" if the run is to end, None to go on."""
        self._invalid += 1
        limit = self._guards.invalid_reply_limit
        if limit is None or self._invalid < limit:
            return None
        if self._guards.fallback_code is None or self._fallen_back:
            return ""
        self._fallen_back, self._invalid = True, 0
        return self._guards.fallback_code

    def refuses_child(self, context: object, own_chars: int) -> str | None:
        """Why a child's context must be confirmed; None if it is small enough, or asked for again."""
        share = self._guards.max_child_share
        # what is short is read in one look, by whomever
        if share is None or not isinstance(context, str) or len(context) < max(1000, share * own_chars):
            return None
        seen = hashlib.sha256(context.encode(errors="surrogatepass")).digest()
        if seen in self._confirmed:
            return None
        self._confirmed.add(seen)
        return (
            f"the child would get {len(context):,} of {own_chars:,} characters: give it less, or ask the same again if "
            "you mean it"
        )
