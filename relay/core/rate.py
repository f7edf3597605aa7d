"""How much a session, a site and a user with all their sessions may send: token buckets, without a clock of their own.

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
    """Per second, for one session, one site and one user (0: any); `burst_s` seconds' worth may come at once."""

    session_frames: float = 20_000
    session_bytes: float = 512 * 1024 * 1024
    site_frames: float = 40_000
    site_bytes: float = 1024 * 1024 * 1024
    user_frames: float = 0
    user_bytes: float = 0
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
    """What one session's frames pass: its own buckets, and those that it shares: its site's and its user's.

    Args:
        shared: pairs of a bucket for frames and one for bytes.
        alone: whether there are buckets of its own; a request without a session has none.
    """

    __slots__ = ("_bytes", "_frames", "_limits", "_refused_at")

    def __init__(self, limits: RateLimits, shared: Sequence[tuple[Bucket, Bucket]], *, alone: bool = True) -> None:
        self._limits = limits
        own = [buckets(limits.session_frames, limits.session_bytes, limits.burst_s)] if alone else []
        pairs = [*own, *shared]
        self._frames = tuple(frames for frames, _ in pairs)
        self._bytes = tuple(bytes_ for _, bytes_ in pairs)
        self._refused_at: list[float] = []

    def admit(self, size: int, now: float) -> ReplyError | None:
        """Let a frame of `size` bytes pass, or say why not.

        Raises:
            SessionClosed: with 4429, when it has been said too often.
        """
        wait_s = 0.0
        for bucket in self._frames:
            if (wait := bucket.wait(1, now)) > wait_s:
                wait_s = wait
        for bucket in self._bytes:
            if (wait := bucket.wait(size, now)) > wait_s:
                wait_s = wait
        if wait_s == 0.0:
            for bucket in self._frames:
                bucket.take(1)
            for bucket in self._bytes:
                bucket.take(size)
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


def buckets(frames: float, bytes_: float, burst_s: float) -> tuple[Bucket, Bucket]:
    """A bucket for frames and one for bytes, of these rates a second."""
    return Bucket(frames, frames * burst_s), Bucket(bytes_, bytes_ * burst_s)
