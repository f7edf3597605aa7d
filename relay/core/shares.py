"""What a site, and a user with all its sites, may use of this relay together: how many sessions, and how fast.

Rates are counted over sessions and over REST requests alike. The buckets of who has been quiet for long are forgotten;
by then they are full again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from relay.core.model import Site
from relay.core.rate import Bucket, Gate, RateLimits, buckets
from relay.protocol.errors import ErrorCode, ReplyError

REMEMBERED = 20_000
"""Sites, and users, whose buckets are kept."""
FOLLOWERS_PER_SITE = 256
"""Long polls and event streams of a site that are open at once."""
RETRY_AFTER_S = 30
POLLS_PER_SITE = 5.0
"""Requests a second. A controller that polls sends two each 5 s, a coordinator's three, and more when a run moves."""
ANY = 1e18
"""A rate that nothing reaches."""


class Shares:
    """See the module. One per node."""

    def __init__(self, rates: RateLimits, *, sessions_per_site: int, sessions_per_user: int) -> None:
        self._rates = rates
        self._per_site = sessions_per_site
        self._per_user = sessions_per_user
        self._of_site: Counter[int] = Counter()
        self._of_user: Counter[int] = Counter()
        self._followers: Counter[int] = Counter()
        self._buckets: OrderedDict[tuple[str, int], tuple[Bucket, Bucket]] = OrderedDict()

    # --- sessions

    def require_room(self, site: Site) -> None:
        """Refuse a session of a site, or of a user, that holds as many as it may.

        Raises:
            ReplyError: `too_many_sessions`.
        """
        if self._of_site[site.id] >= self._per_site:
            raise _too_many(f"a site holds at most {self._per_site} sessions; close one")
        if self._of_user[site.owner_id] >= self._per_user:
            raise _too_many(f"the sites of a user hold at most {self._per_user} sessions; close one")

    def opened(self, site: Site) -> None:
        self._of_site[site.id] += 1
        self._of_user[site.owner_id] += 1

    def closed(self, site: Site) -> None:
        for counter, one in ((self._of_site, site.id), (self._of_user, site.owner_id)):
            counter[one] -= 1
            if counter[one] <= 0:
                del counter[one]

    @contextmanager
    def following(self, site: Site) -> Iterator[None]:
        """A request that stays open to follow a project. Raises `ReplyError` with `too_many_sessions`."""
        if self._followers[site.id] >= FOLLOWERS_PER_SITE:
            raise _too_many(f"a site holds at most {FOLLOWERS_PER_SITE} long polls and event streams")
        self._followers[site.id] += 1
        try:
            yield
        finally:
            self._followers[site.id] -= 1
            if not self._followers[site.id]:
                del self._followers[site.id]

    # --- rates

    def gate(self, site: Site) -> Gate:
        """What the frames of a new session are to pass."""
        return Gate(self._rates, self._of(site))

    def admit(self, site: Site, size: int, now: float) -> None:
        """Let a REST request pass, as one frame of `size` bytes, without a session's own limits.

        Raises:
            ReplyError: `rate_limited`.
        """
        refused = Gate(self._rates, self._of(site), alone=False).admit(size, now)
        if refused is not None:
            raise refused

    def admit_poll(self, user_id: int, sites: int, now: float) -> None:
        """Let a request of the polling API pass. It does not say whose controller sends it: all of a user's share what
        its sites may together, and have at least `POLLS_PER_SITE` for each, whatever else the sites do.

        Raises:
            ReplyError: `rate_limited`.
        """
        sites, rates = max(1, sites), self._rates
        rate = max(POLLS_PER_SITE * sites, min(rates.site_frames * sites, rates.user_frames or ANY))
        kept = self._kept((f"polls of {sites}", user_id), rate, ANY)
        refused = Gate(rates, (kept,), alone=False).admit(0, now)
        if refused is not None:
            raise refused

    def _of(self, site: Site) -> tuple[tuple[Bucket, Bucket], ...]:
        rates = self._rates
        of_site = self._kept(("site", site.id), rates.site_frames, rates.site_bytes)
        if not rates.user_frames and not rates.user_bytes:
            return (of_site,)
        return of_site, self._kept(("user", site.owner_id), rates.user_frames or ANY, rates.user_bytes or ANY)

    def _kept(self, whose: tuple[str, int], frames: float, bytes_: float) -> tuple[Bucket, Bucket]:
        kept = self._buckets.get(whose)
        if kept is None:
            kept = self._buckets[whose] = buckets(frames, bytes_, self._rates.burst_s)
        self._buckets.move_to_end(whose)
        if len(self._buckets) > 2 * REMEMBERED:
            self._buckets.popitem(last=False)
        return kept


def _too_many(message: str) -> ReplyError:
    return ReplyError(ErrorCode.TOO_MANY_SESSIONS, message, {"retry_after": RETRY_AFTER_S})
