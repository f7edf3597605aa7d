"""New members that are connected are subscribed to what they have joined, whichever way the news of it comes.

A hub subscribes a member when it comes to the entry that says `joined`. It does not if there is none yet, or one whose
snapshot, as it was loaded, had the new member already: that is done here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relay.core.model import Entry, Kind
from relay.core.ports import StorageUnavailable

if TYPE_CHECKING:
    from relay.core.node import Node

log = logging.getLogger(__name__)

RETRY_S = 0.5
PATIENCE_S = 5.0


class Newcomers:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._joining: dict[int, set[asyncio.Task[None]]] = {}
        """Site → those of the tasks that subscribe it to what it has joined."""

    def meet(self, project_id: int, entries: Sequence[Entry]) -> None:
        """Entries have been committed: some may say that a site has joined."""
        for entry in entries:
            site_id = entry.draft.subject_id
            if entry.draft.kind is Kind.PARTICIPANT and site_id is not None and self._node.sessions.get(site_id):
                task = self._node.spawn(self._welcome(project_id, site_id), f"join-{project_id}-{site_id}")
                self._joining.setdefault(site_id, set()).add(task)
                task.add_done_callback(lambda done, site_id=site_id: self._is_in(site_id, done))  # type: ignore[misc]

    def _is_in(self, site_id: int, task: asyncio.Task[None]) -> None:
        joining = self._joining[site_id]
        joining.discard(task)
        if not joining:
            del self._joining[site_id]

    async def are_in(self, site_id: int) -> None:
        """Wait until the site's sessions are subscribed to what it has joined: it may publish there at once.

        Not for ever: a storage that does not answer holds up the subscription, and nothing else.
        """
        if joining := self._joining.get(site_id):
            await asyncio.wait(joining, timeout=PATIENCE_S)

    async def _welcome(self, project_id: int, site_id: int) -> None:
        """Subscribe the site's sessions. While the storage does not answer, try again as long as there is one."""
        node = self._node
        while node.sessions.get(site_id):
            try:
                async with node.use_hub(project_id) as hub:
                    if hub is not None and (member := hub.members.get(site_id)) is not None:
                        node.member_joined(hub, member)
                return
            except StorageUnavailable as error:
                log.warning("a newcomer waits to be subscribed: %s", error.cause)
                await asyncio.sleep(RETRY_S)
