"""Who is there. A site is online while it has an open session, or a heartbeat that is younger than its lease.

A socket that drops is given a grace period before its site counts as gone: a reconnect within it is no news. A client
that leaves by the closing handshake is gone at once. What changes is told to `on_change`, and is written down by
`dirty`/`record` so that a restart, and a command line beside the server, know it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PresenceLimits:
    """Seconds: after a dropped socket; that a heartbeat is good for; and for all who were there before a restart."""

    grace_s: float = 10.0
    heartbeat_s: float = 60.0
    restart_grace_s: float = 30.0


class _Known:
    __slots__ = ("beats", "online", "sessions", "timer", "until")

    def __init__(self) -> None:
        self.beats = False
        """It was last heard of by a heartbeat, not by a session."""
        self.sessions = 0
        self.until = 0.0
        """Loop time up to which the site counts as online without a session."""
        self.online = False
        self.timer: asyncio.TimerHandle | None = None


class Presence:
    """See the module. `on_change(site_id, online)` is called from the event loop, never from inside a query."""

    def __init__(self, limits: PresenceLimits, on_change: Callable[[int, bool], None]) -> None:
        self._limits = limits
        self._on_change = on_change
        self._sites: dict[int, _Known] = {}

    def is_online(self, site_id: int) -> bool:
        known = self._sites.get(site_id)
        return known is not None and known.online

    def sessions_of(self, site_id: int) -> int:
        """Its open WebSocket sessions and event streams."""
        known = self._sites.get(site_id)
        return 0 if known is None else known.sessions

    def beats(self, site_id: int) -> bool:
        """Whether it is online by its heartbeats and polls alone."""
        known = self._sites.get(site_id)
        return known is not None and known.online and known.sessions == 0 and known.beats

    def online_sites(self) -> list[int]:
        return [site_id for site_id, known in self._sites.items() if known.online]

    def restore(self, site_id: int) -> None:
        """At start: the site was there when this was last written down, and has a while to show itself again."""
        known = self._sites.setdefault(site_id, _Known())
        known.until = _now() + self._limits.restart_grace_s
        known.online = True
        self._arm(site_id, known)

    def session_opened(self, site_id: int) -> None:
        known = self._sites.setdefault(site_id, _Known())
        known.sessions += 1
        known.beats = False
        self._settle(site_id, known)

    def session_closed(self, site_id: int, *, clean: bool) -> None:
        known = self._sites.get(site_id)
        if known is None:  # the site was deleted
            return
        known.sessions -= 1
        if known.sessions == 0 and not clean:
            known.until = max(known.until, _now() + self._limits.grace_s)
        elif known.sessions == 0:
            known.until = 0.0
        self._settle(site_id, known)

    def heartbeat(self, site_id: int, *, alive: bool) -> None:
        known = self._sites.setdefault(site_id, _Known())
        known.until = _now() + self._limits.heartbeat_s if alive else 0.0
        known.beats = True
        self._settle(site_id, known)

    def forget(self, site_id: int) -> None:
        """The site was deleted."""
        known = self._sites.pop(site_id, None)
        if known is not None and known.timer is not None:
            known.timer.cancel()

    def close(self) -> None:
        for known in self._sites.values():
            if known.timer is not None:
                known.timer.cancel()

    def _settle(self, site_id: int, known: _Known) -> None:
        online = known.sessions > 0 or known.until > _now()
        if online and known.sessions == 0:
            self._arm(site_id, known)
        if not online and known.timer is not None:
            known.timer.cancel()
            known.timer = None
        if online != known.online:
            known.online = online
            self._on_change(site_id, online)
        if not online and known.sessions == 0:
            self._sites.pop(site_id, None)

    def _arm(self, site_id: int, known: _Known) -> None:
        """One timer a site, however often it beats: it looks again when it finds that it rang too early."""
        if known.timer is not None and known.timer.when() > known.until:
            known.timer.cancel()
            known.timer = None
        if known.timer is None:
            known.timer = asyncio.get_running_loop().call_at(known.until, self._ring, site_id)

    def _ring(self, site_id: int) -> None:
        known = self._sites.get(site_id)
        if known is not None:
            known.timer = None
            self._settle(site_id, known)


def _now() -> float:
    return asyncio.get_running_loop().time()
