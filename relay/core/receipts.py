"""Who has acknowledged what its sender wanted to hear of.

Events that ask for receipts are remembered per project, the newest `PER_PROJECT` of them. An acknowledgement is
cumulative, so one `ack` can settle many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from relay.core import access
from relay.core.hub import Member
from relay.core.model import Entry


class Receipts:
    PER_PROJECT = 4096

    def __init__(self) -> None:
        self._wanted: dict[int, list[Entry]] = {}
        self._acked: dict[tuple[int, int], int] = {}

    def load(self, project_id: int, entries: Sequence[Entry], cursors: Mapping[int, int]) -> None:
        """Take what is stored: the entries that asked for receipts, and by site what it has acknowledged already."""
        self._wanted[project_id] = list(entries)
        for site_id, cursor in cursors.items():
            self.starts_from(project_id, site_id, cursor)

    def expect(self, project_id: int, entry: Entry) -> None:
        wanted = self._wanted.setdefault(project_id, [])
        if wanted and _offset(wanted[-1]) >= _offset(entry):
            return
        wanted.append(entry)
        if len(wanted) > self.PER_PROJECT:
            del wanted[0]

    def drop(self, project_id: int) -> None:
        self._wanted.pop(project_id, None)
        for key in [key for key in self._acked if key[0] == project_id]:
            del self._acked[key]

    def starts_from(self, project_id: int, site_id: int, cursor: int) -> None:
        """The site's cursor, as it was stored: what lies before it has had its receipt."""
        key = (project_id, site_id)
        self._acked[key] = max(cursor, self._acked.get(key, 0))

    def settle(self, project_id: int, member: Member, offset: int) -> Iterable[Entry]:
        """The member has acknowledged everything up to `offset`: the entries whose senders are to be told."""
        key = (project_id, member.site_id)
        before = self._acked.get(key, 0)
        if offset <= before:
            return []
        self._acked[key] = offset
        wanted = self._wanted.get(project_id, [])
        first = bisect_right(wanted, before, key=_offset)
        last = bisect_right(wanted, offset, key=_offset)
        return [
            entry
            for entry in wanted[first:last]
            if entry.draft.sender_id != member.site_id
            and _offset(entry) > member.joined
            and access.sees(member.site_id, member.role, entry.draft)
        ]


def _offset(entry: Entry) -> int:
    assert entry.offset is not None
    return entry.offset
