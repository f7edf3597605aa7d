"""How much a session, and a site with all its sessions, may send: token buckets, without a clock of their own.

What comes too fast is refused with `rate_limited` and when to try again; nothing of it is done. Who goes on all the
same is closed with 4429. The defaults are above what an honest client reaches; an operator lowers them where a link is
shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.protocol.errors import CloseCode, ErrorCode, ReplyError, SessionClosed


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimits:
    """Per second, for one session and for one site; `burst_s` seconds' worth may come at once."""

    session_frames: float = 20_000
    session_bytes: float = 512 * 1024 * 1024
    site_frames: float = 40_000
    site_bytes: float = 1024 * 1024 * 1024
    burst_s: float = 3.0
    refusals: int = 50
    """Refusals within `window_s` after which a session is closed."""
    window_s: float = 10.0


class Bucket:
    """A token bucket: `rate` a second flow in, at most `burst` are held."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` could be taken; 0 if it can now. More than the burst waits for a full bucket."""
        level = self._level + (now - self._at) * self.rate
        self._level = level = min(self.burst, level)
        self._at = now
        missing = min(self.burst, amount) - level
        return missing / self.rate if missing > 0.0 else 0.0

    def take(self, amount: float) -> None:
        """Take it, after `wait` said 0. The level may go below nothing for what is more than the burst."""
        self._level -= amount


class Gate:
    """What one session's frames pass: its own buckets, and its site's, which its other sessions share."""

    __slots__ = ("_bytes", "_frames", "_limits", "_refused_at")

    def __init__(self, limits: RateLimits, of_site: Sequence[Bucket]) -> None:
        self._limits = limits
        site_frames, site_bytes = of_site
        self._frames = (Bucket(limits.session_frames, limits.session_frames * limits.burst_s), site_frames)
        self._bytes = (Bucket(limits.session_bytes, limits.session_bytes * limits.burst_s), site_bytes)
        self._refused_at: list[float] = []

    def admit(self, size: int, now: float) -> ReplyError | None:
        """Let a frame of `size` bytes pass, or say why not.

        Raises:
            SessionClosed: with 4429, when it has been said too often.
        """
        own_frames, site_frames = self._frames
        own_bytes, site_bytes = self._bytes
        wait_s = max(
            own_frames.wait(1, now), site_frames.wait(1, now), own_bytes.wait(size, now), site_bytes.wait(size, now)
        )
        if wait_s == 0.0:
            own_frames.take(1)
            site_frames.take(1)
            own_bytes.take(size)
            site_bytes.take(size)
            return None
        self._count(now)
        after = round(wait_s + 0.001, 3)
        return ReplyError(ErrorCode.RATE_LIMITED, f"too much at once; try again in {after} s", {"retry_after": after})

    def _count(self, now: float) -> None:
        recent = self._refused_at
        recent.append(now)
        while recent[0] <= now - self._limits.window_s:
            recent.pop(0)
        if len(recent) > self._limits.refusals:
            raise SessionClosed(CloseCode.RATE_LIMITED, "the rate limit was exceeded again and again")


def site_buckets(limits: RateLimits) -> tuple[Bucket, Bucket]:
    """The frames' and the bytes' bucket of one site."""
    return (
        Bucket(limits.site_frames, limits.site_frames * limits.burst_s),
        Bucket(limits.site_bytes, limits.site_bytes * limits.burst_s),
    )
