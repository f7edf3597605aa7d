"""Where a reader stands in a journal, and whether it can go on from there.

A position is (epoch, offset). The offset alone is not enough: after a restored backup the journal counts on from
an earlier number, and a reader that was ahead would silently skip what is new. The epoch names the journal's
incarnation, so such a reader is told `recovered: false` instead. (Centrifugo and Kafka solve it in the same way.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalBounds:
    """What a project's journal holds now: events `oldest` … `head`, none when `oldest > head`."""

    epoch: str
    head: int
    oldest: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Where delivery begins: the events after `start`. Not `recovered`: events may be missing before it."""

    start: int
    recovered: bool


def judge_resume(
    requested: int | Literal["new"] | None,
    requested_epoch: str | None,
    *,
    journal: JournalBounds,
    cursor: int | None,
    joined: int,
) -> Resume:
    """Decide where a session's delivery starts.

    Args:
        requested: the offset after which the client wants to go on, `"new"` to skip the past, None to
            leave it to the relay's own cursor.
        requested_epoch: the epoch that offset belongs to; None means the current one.
        journal: the journal as it stands.
        cursor: the highest offset that the site has acknowledged, None if it never has.
        joined: the head when the site joined; what came before is not for it (0 for a coordinator).
    """
    floor = max(journal.oldest - 1, joined)
    if requested == "new":
        return Resume(start=journal.head, recovered=True)
    if requested is None:
        if cursor is None:
            return Resume(start=floor, recovered=joined >= journal.oldest - 1)
        requested = cursor
    if requested_epoch is not None and requested_epoch != journal.epoch:
        return Resume(start=floor, recovered=False)
    if requested > journal.head:
        return Resume(start=floor, recovered=False)
    if requested >= floor:
        return Resume(start=requested, recovered=True)
    return Resume(start=floor, recovered=joined >= journal.oldest - 1)
