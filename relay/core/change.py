"""A change of state under way: rows and the journal entries that tell of them, in one transaction (`Node.change`)."""

from __future__ import annotations

import json
import secrets
import uuid

from relay.core import audit
from relay.core.access import Principal
from relay.core.audit_chain import Deed, Note
from relay.core.model import Draft, Entry, JsonObject, Kind
from relay.core.ports import Tx
from relay.protocol.errors import unknown_project


class Change:
    """A transaction under way, with the heads of its projects held."""

    def __init__(self, tx: Tx, heads: dict[int, int], now_us: int) -> None:
        self.tx = tx
        self.now_us = now_us
        self.entries: dict[int, list[Entry]] = {}
        self.notes: list[Note] = []
        self._heads = heads
        self._unstored: set[int] = set()

    def head(self, project_id: int) -> int:
        """The offset of the project's last entry, those of this change included."""
        if project_id not in self._heads:
            raise unknown_project()
        return self._heads[project_id]

    async def begin_journal(self, project_id: int) -> None:
        """Give a project that this change creates its journal."""
        await self.tx.journal.create(project_id, new_epoch())
        self._heads[project_id] = 0

    def tell(self, project_id: int, draft: Draft) -> int:
        """Append an entry with this change. Returns its offset."""
        offset = self.head(project_id) + 1
        self._heads[project_id] = offset
        entry = Entry(project_id=project_id, offset=offset, at_us=self.now_us, draft=draft)
        self.entries.setdefault(project_id, []).append(entry)
        return offset

    def forget(self, project_id: int) -> None:
        """The project is deleted with this change, and its journal too: what is told is shown, and not stored."""
        self._unstored.add(project_id)

    def note(self, deed: Deed, by: Principal | str | None, target: str = "", **details: str | int | None) -> None:
        """Record in the audit record what this change does; if it is refused from here on, that it was."""
        self.notes.append(audit.make(self.now_us, deed, by, target, **details))

    async def store(self) -> None:
        """Append what was told and noted. Called once, at the end of the transaction."""
        for project_id, entries in self.entries.items():
            if project_id not in self._unstored:
                await self.tx.journal.append(entries)
        if self.notes:
            await self.tx.audit.append(self.notes)


def new_epoch() -> str:
    """A name for an incarnation of a journal; unlike any other's, with near certainty."""
    return secrets.token_hex(4)


def own_event(
    kind: Kind,
    data: JsonObject,
    *,
    audience: frozenset[int] | None = None,
    subject_id: int | None = None,
    run: int | None = None,
    batch: int | None = None,
) -> Draft:
    """An event of the relay's own: from nobody, with a fresh id."""
    return Draft(
        kind=kind,
        id=str(uuid.uuid4()),
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(),
        audience=audience,
        subject_id=subject_id,
        run=run,
        batch=batch,
    )
