"""Who takes part in a project, and with which keys: what the relay says of it, as far as this site's trust allows.

The relay is asked again after `FRESH_S`, when a `participant` or `project` event was read, when a signature is by a key
that is not known, and when it has refused an addressee. Keys are looked at when somebody's are needed: one member with
keys that cannot be trusted does not keep the others from being served.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec

from relay.client.errors import ProtocolViolation, RelayError
from relay.client.methods import Call
from relay.client.sealed.errors import CoordinatorChanged, NoKey, Untrusted
from relay.client.sealed.identity import ANNOUNCED_AS, PublicKeys, read_announcement
from relay.client.sealed.trust import Trust
from relay.protocol.errors import ErrorCode

FRESH_S = 60.0
"""How long what the relay has said of a project's members is taken for what it still would."""


class _Site(msgspec.Struct):
    uid: str


class _Member(msgspec.Struct):
    site: _Site
    role: str


class Circle:
    """The members of one project that this site may see, as told at one moment."""

    def __init__(self, members: dict[str, str], announced: dict[str, dict[str, Any]], trust: Trust) -> None:
        self.made_at = time.monotonic()
        self.coordinator = next((uid for uid, role in members.items() if role == "coordinator"), None)
        self.participants = [uid for uid, role in members.items() if role == "participant"]
        self._announced = announced
        self._trust = trust
        self._accepted: dict[str, PublicKeys] = {}

    def announced(self, uid: str) -> object:
        """The announcement of a site, as the relay shows it; None if it shows none."""
        return self._announced.get(uid, {}).get(ANNOUNCED_AS)

    def keys(self, uid: str) -> PublicKeys:
        """The keys of a site.

        Raises:
            Untrusted: there are none (`NoKey`), or not such that can be trusted.
        """
        if uid not in self._accepted:
            announced = self.announced(uid)
            if announced is None:
                raise NoKey(uid)
            self._accepted[uid] = self._trust.accept(uid, read_announcement(uid, announced))
        return self._accepted[uid]

    def addressees(self, me: str, to: str | list[str] | None) -> list[str]:
        """The uids that an event by `me` is for; the sender itself, if there is nobody.

        Raises:
            RelayError: `forbidden`, as the relay would say.
        """
        if isinstance(to, list):
            return sorted({uid.lower() for uid in to})
        coordinates = me == self.coordinator
        if to == "coordinator" or (to is None and not coordinates):
            return [self.coordinator or me]
        if not coordinates:
            raise RelayError(ErrorCode.FORBIDDEN, "a participant can address only the coordinator")
        return sorted(self.participants) or [me]


class Circles:
    """The circles of this site's projects."""

    def __init__(self, call: Call, trust: Trust) -> None:
        self._call = call
        self._trust = trust
        self._known: dict[int, Circle] = {}
        self._me = ""
        self._announcement = ""

    async def announce(self, me: str, announcement: str) -> None:
        """Put this site's keys at the relay, for all its projects.

        Raises:
            RelayError, SessionEnded: it could not be done.
        """
        self._me, self._announcement = me, announcement
        await self._call("keys.put", keys={ANNOUNCED_AS: announcement})

    def forget(self, project: int) -> None:
        """What is known of a project is not good any more."""
        self._known.pop(project, None)

    async def of(self, project: int) -> Circle:
        """
        Raises:
            CoordinatorChanged: the relay names another coordinator than before.
            RelayError, SessionEnded: it could not be asked.
        """
        known = self._known.get(project)
        if known is None or time.monotonic() - known.made_at > FRESH_S:
            known = self._known[project] = await self._ask(project)
        return known

    async def _ask(self, project: int) -> Circle:
        members, announced = await asyncio.gather(
            self._call("projects.participants", project=project), self._call("keys.get", project=project)
        )
        try:
            found = {member.site.uid: member.role for member in msgspec.convert(members, list[_Member])}
            circle = Circle(found, msgspec.convert(announced, dict[str, dict[str, Any]]), self._trust)
        except msgspec.ValidationError as error:
            raise ProtocolViolation(f"the relay sent members that cannot be read: {error}") from error
        if circle.coordinator is not None:
            self._accept_coordinator(project, circle, circle.coordinator)
        if circle.announced(self._me) != self._announcement:  # a backup was restored, say
            try:
                await self.announce(self._me, self._announcement)
            except RelayError as error:
                if error.code is not ErrorCode.FORBIDDEN:  # which is for who may only read
                    raise
        return circle

    def _accept_coordinator(self, project: int, circle: Circle, uid: str) -> None:
        """Who it was stays it. The keys of another one are remembered, for a person to compare (`keys trust`)."""
        try:
            self._trust.accept_coordinator(project, uid)
        except CoordinatorChanged:
            announced = circle.announced(uid)
            if announced is not None:
                with suppress(Untrusted):
                    self._trust.offer(uid, read_announcement(uid, announced)[-1])
            raise
