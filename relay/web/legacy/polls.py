"""Rendered answers of polls, kept per user until something that they may tell of has changed.

A controller polls every few seconds and hardly ever learns anything new: such a poll costs no query. What a user may
see are the projects of its sites, so an answer is forgotten with

    a commit in one of those projects; or one that makes one of its sites join another
    for an operator, any commit
    a change of presence, if the answer shows who is connected
    the end of a dwell, if the answer shows a run as Preparing that is so no longer (`relay.core.polls`)
    any change by another process, and any change of sites or users through this API

An answer that was being read while something changed is not kept. Publishes between sites change nothing here.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from relay.core.access import Principal
from relay.core.model import PUBLISHABLE, Entry, Kind
from relay.core.node import Node

Key = tuple[str, str]
"""Path and query."""

_SETTLE_S = 1.0
"""Presence is written down a moment after it has changed, and `updated_at` with it: until then nothing is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A body that can be sent again. `until_us`: when time alone makes it wrong; `presence`: whether it shows any."""

    body: bytes
    etag: str
    until_us: int | None
    presence: bool


class _Kept:
    """What is kept for one user: its answers, and what makes them wrong."""

    __slots__ = ("answers", "projects", "sites")

    def __init__(self, projects: frozenset[int] | None, sites: frozenset[int]) -> None:
        self.projects = projects
        """None: all of them."""
        self.sites = sites
        self.answers: OrderedDict[Key, Rendered] = OrderedDict()

    def tells_of(self, project_id: int, entries: Sequence[Entry]) -> bool:
        if self.projects is None or project_id in self.projects:
            return True
        return any(entry.draft.kind is Kind.PARTICIPANT and entry.draft.subject_id in self.sites for entry in entries)


class Reading:
    """One answer that is being made. The handler says what it depends on beside the user's projects."""

    __slots__ = ("changes", "presence", "until_us")

    def __init__(self, changes: int) -> None:
        self.changes = changes
        self.presence = False
        self.until_us: int | None = None

    def holds_until(self, until_us: int) -> None:
        self.until_us = until_us if self.until_us is None else min(self.until_us, until_us)


class Polls:
    """See the module."""

    USERS = 10_000
    ANSWERS = 64
    BODY_BYTES = 1024 * 1024

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._changes = 0
        self._presence_changed = -_SETTLE_S
        node.on_committed.append(self._committed)
        node.on_presence.append(self._presence)
        node.on_elsewhere.append(self.forget)

    def forget(self) -> None:
        """Anything may be different."""
        self._changes += 1
        self._kept.clear()

    def _committed(self, project_id: int, entries: Sequence[Entry]) -> None:
        if entries and all(entry.draft.kind in PUBLISHABLE for entry in entries):
            return
        self._changes += 1
        for user_id in [user_id for user_id, kept in self._kept.items() if kept.tells_of(project_id, entries)]:
            del self._kept[user_id]

    def _presence(self, _site_id: int) -> None:
        self._presence_changed = time.monotonic()
        for kept in self._kept.values():
            for key in [key for key, answer in kept.answers.items() if answer.presence]:
                del kept.answers[key]

    def get(self, principal: Principal, key: Key) -> Rendered | None:
        kept = self._kept.get(principal.user_id)
        if kept is None or kept.sites != principal.sites or (kept.projects is None) != principal.is_operator:
            return None
        answer = kept.answers.get(key)
        if answer is None or (answer.until_us is not None and self._node.now_us() >= answer.until_us):
            return None
        return answer

    def read(self) -> Reading:
        """To be called before anything is read for an answer."""
        return Reading(self._changes)

    async def keep(self, principal: Principal, key: Key, reading: Reading, body: bytes) -> Rendered:
        """The answer with its ETag; it is kept for the next poll unless something has changed since `read`."""
        etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        answer = Rendered(body=body, etag=etag, until_us=reading.until_us, presence=reading.presence)
        settled = not reading.presence or time.monotonic() - self._presence_changed >= _SETTLE_S
        if len(body) <= self.BODY_BYTES and settled:
            kept = await self._of(principal)
            if reading.changes == self._changes:
                self._add(principal, kept, key, answer)
        return answer

    def _add(self, principal: Principal, kept: _Kept, key: Key, answer: Rendered) -> None:
        self._kept[principal.user_id] = kept
        kept.answers[key] = answer
        if len(kept.answers) > self.ANSWERS:
            kept.answers.popitem(last=False)
        if len(self._kept) > self.USERS:
            self._kept.popitem(last=False)

    async def _of(self, principal: Principal) -> _Kept:
        kept = self._kept.get(principal.user_id)
        if kept is not None and kept.sites == principal.sites and (kept.projects is None) == principal.is_operator:
            return kept
        if principal.is_operator:
            return _Kept(None, principal.sites)
        async with self._node.store.snapshot() as tx:
            projects = await tx.projects.ids_visible_to(principal.user_id)
        return _Kept(frozenset(projects), principal.sites)
