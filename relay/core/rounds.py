"""Batches under a policy, looked after: what is due is done, whoever died meanwhile.

A project is *poked* when something has happened that its policy may answer: a run moved, a member joined or left, a
site came or went, a time has come, the relay has started. It is then looked at as it is stored, and what
`relay.core.policy` decides is done, in one transaction with the events that tell of it. Nothing is handed over from one
look to the next: a poke too many costs a query, and after a crash the first look does what was left undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from relay.core import audit, batches
from relay.core.audit_chain import Deed
from relay.core.batches import Batch
from relay.core.model import Entry, Kind, Role
from relay.core.node import Node
from relay.core.policy import awake, decide, next_due
from relay.core.ports import StorageUnavailable

log = logging.getLogger(__name__)

GATHER_S = 0.05
"""After a poke, before the look: much happens at once, when many sites come back, say."""
RETRY_S = 1.0
"""Before the next look, after the storage did not answer."""
TURNS = 4
"""Projects that are looked at at once."""

_TELLING = frozenset({Kind.RUN, Kind.BATCH, Kind.PARTICIPANT})


class Rounds:
    """See the module. Lives as long as its node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._poked: set[int] = set()
        self._looking: set[int] = set()
        """Looked at just now: until that is over, all that happens may have been missed by it."""
        self._turns = asyncio.Semaphore(TURNS)
        self._watched: dict[int, frozenset[int]] = {}
        """Project → the sites whose coming and going can decide something."""
        node.deadlines.on_due = self.poke
        node.on_committed.append(self._committed)
        node.on_presence.append(self._presence_changed)
        node.on_elsewhere.append(self._changed_elsewhere)

    async def start(self) -> None:
        """Take up what is stored. What fell due while no relay ran is done at once."""
        async with self._node.store.snapshot() as tx:
            in_force = await tx.policies.in_force()
        for project_id, number in in_force:
            await self._wake_up(project_id, number)
            self.poke(project_id)

    async def _wake_up(self, project_id: int, number: int) -> None:
        """It is not the coordinator's fault that the relay was not there."""
        async with self._node.store.transaction() as tx:
            known = await tx.policies.get(project_id, number)
            if known is not None and (standing := awake(known[1], self._node.now_us())) != known[1]:
                await tx.policies.put(project_id, number, known[0], standing)

    def poke(self, project_id: int) -> None:
        """Look at this project soon."""
        if project_id not in self._poked:
            self._poked.add(project_id)
            self._node.spawn(self._look_soon(project_id), f"rounds-{project_id}")

    def _committed(self, project_id: int, entries: Sequence[Entry]) -> None:
        kinds = {entry.draft.kind for entry in entries}
        # Without entries: a commit whose outcome is not known. A batch that begins, or begins again, tells of itself.
        if not kinds or Kind.BATCH in kinds or (self._minds(project_id) and kinds & _TELLING):
            self.poke(project_id)

    def _changed_elsewhere(self) -> None:
        """The command line may have stopped a batch, or brought one back to life."""
        for project_id in self._watched:
            self.poke(project_id)
        self._node.spawn(self._poke_in_force(), "rounds-elsewhere")

    async def _poke_in_force(self) -> None:
        while True:
            try:
                async with self._node.store.snapshot() as tx:
                    in_force = await tx.policies.in_force()
                break
            except StorageUnavailable as error:
                log.warning("policies changed elsewhere wait: %s", error.cause)
                await asyncio.sleep(RETRY_S)
        for project_id, _ in in_force:
            self.poke(project_id)

    def _minds(self, project_id: int) -> bool:
        return project_id in self._watched or project_id in self._looking

    def _presence_changed(self, site_id: int) -> None:
        for project_id in self._looking:
            self.poke(project_id)
        for project_id, sites in self._watched.items():
            if site_id in sites:
                self.poke(project_id)

    async def _look_soon(self, project_id: int) -> None:
        await asyncio.sleep(GATHER_S)
        async with self._turns:
            self._poked.discard(project_id)
            if project_id in self._looking:  # one after the other: the later one knows more
                self.poke(project_id)
                return
            self._looking.add(project_id)
            try:
                self._watch(project_id, await self._look(project_id))
                return
            except StorageUnavailable as error:
                log.warning("the policy of project %d waits: %s", project_id, error.cause)
            finally:
                self._looking.discard(project_id)
        await asyncio.sleep(RETRY_S)
        self.poke(project_id)

    async def _look(self, project_id: int) -> Batch | None:
        """Do what is due. Returns the batch as it is then, if one waits or runs."""
        online = self._node.presence.is_online
        async with self._node.store.snapshot() as tx:
            batch = await batches.find_open(tx, project_id, online)
        if batch is None or decide(batch.picture, self._node.now_us()) is None:
            return batch
        async with self._node.change(project_id) as change:
            while (batch := await batches.find_open(change.tx, project_id, online)) is not None:
                decision = decide(batch.picture, change.now_us)
                if decision is None:
                    break
                about = {"project": project_id, "batch": batch.number, "reason": decision.reason}
                log.info("batch moved by its policy", extra=about)
                change.note(
                    Deed.RUNS_POLICY,
                    audit.RELAY,
                    f"project:{project_id}",
                    batch=batch.number,
                    reason=decision.reason,
                )
                await batches.apply(change, batch, decision)
        return batch

    def _watch(self, project_id: int, batch: Batch | None) -> None:
        """What is to poke this project next."""
        due_us = None if batch is None else next_due(batch.picture)
        self._node.deadlines.set(project_id, due_us)
        if batch is None or (not batch.is_queued and not batch.has_policy):
            self._watched.pop(project_id, None)
        else:
            self._watched[project_id] = frozenset(
                member.site_id for member in batch.members if batch.is_queued or member.role is Role.COORDINATOR
            )
