"""Failed logins cost time: how soon the next one is let through. Pure: no clock of its own, and bounded in memory.

Four things are counted. A wrong credential that is sent again and again is no new guess: it waits by itself, and only
after as many as a whole network has free, so that a controller with an old password is told so for a while. Different
passwords from one network for one account wait longer each time. All that fails from one network, for whatever account,
empties its bucket. And where an account is guessed at from many networks, strangers to it are held for a moment.

Nobody can keep an honest site out by guessing. A credential that was good before passes all of this, and whatever is
against an account as a whole only slows down. What nobody can guess (a token, a signature) is not held, and counts only
once it has failed: a crowd that comes back after a restart is no attack.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from typing import Generic, TypeVar

from relay.core.rate import Bucket
from relay.protocol.errors import ErrorCode, ReplyError

FIRST_WAIT_S = 1.0
"""After the last failure that is free; it doubles with each one that follows."""
FORGET_S = 900.0
"""Failures are forgotten when none has followed for so long; an account's bucket fills up in this time."""
ADDRESS_RATE = 1.0
"""Failures a second that a network may go on with, once its bucket is empty."""
HELD = 128
"""Attempts that are held at once; who comes while there are as many is refused."""
REMEMBERED = 20_000
"""Of each kind of thing that is counted, how many; the one that was heard of longest ago goes."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, slots=True)
class ThrottleLimits:
    """How many failures are free, by network and account (0: nothing is throttled), by network, and by account."""

    failures: int = 10
    backoff_s: float = 30.0
    address_failures: int = 100
    account_failures: int = 100
    hold_s: float = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A login that is to be tried.

    Attributes:
        network: where it comes from (`network_of`).
        credential: a digest of what is shown. Of what is good for once, it names the key and the network instead.
        account: a digest of the account, if what is shown could be guessed.
        is_once: another one is shown each time.
    """

    network: str
    credential: bytes
    account: bytes | None = None
    is_once: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """An attempt that may go on, after `hold_s`. Whoever has it says what came of it."""

    attempt: Attempt
    hold_s: float = 0.0
    is_counted: bool = False
    """It counts as failed until it is known to be good: many at once are no way round the limit."""


class TooOften(ReplyError):
    """`rate_limited`: nothing was checked. `why` is what was exceeded; `is_news`: it was not said a minute ago."""

    def __init__(self, why: str, wait_s: float, *, is_news: bool) -> None:
        after = round(wait_s + 0.001, 3)
        message = f"too many failed logins; try again in {after} s"
        super().__init__(ErrorCode.RATE_LIMITED, message, {"retry_after": after})
        self.why = why
        self.is_news = is_news


class _Recent(Generic[K, V]):
    """The newest of what is remembered."""

    def __init__(self, make: Callable[[], V]) -> None:
        self._items: OrderedDict[K, V] = OrderedDict()
        self._make = make

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def find(self, key: K) -> V | None:
        return self._items.get(key)

    def note(self, key: K) -> V:
        if key in self._items:
            self._items.move_to_end(key)
        else:
            self._items[key] = self._make()
            if len(self._items) > REMEMBERED:
                self._items.popitem(last=False)
        return self._items[key]

    def drop(self, key: K) -> None:
        self._items.pop(key, None)


class _Failures:
    """How many in a row, and until when the next one waits."""

    __slots__ = ("_at", "_count", "_until")

    def __init__(self) -> None:
        self._count = 0
        self._at = 0.0
        self._until = 0.0

    def wait(self, now: float) -> float:
        return max(0.0, self._until - now)

    def add(self, free: int, backoff_s: float, now: float) -> None:
        if now - self._at > FORGET_S:
            self._count = 0
        self._count += 1
        self._at = now
        over = self._count - free
        if over >= 0:
            self._until = now + min(backoff_s, FIRST_WAIT_S * 2.0 ** min(over, 30))

    def take_back(self) -> None:
        self._count -= 1
        self._until = 0.0


class Throttle:
    """See the module. `admit` is followed by one of `good`, `failed` and `void`."""

    def __init__(self, limits: ThrottleLimits | None = None) -> None:
        self._limits = own = limits or ThrottleLimits()
        self._good: _Recent[bytes, None] = _Recent(lambda: None)
        self._known: _Recent[tuple[str, bytes], None] = _Recent(lambda: None)
        self._repeats: _Recent[tuple[str, bytes], _Failures] = _Recent(_Failures)
        self._pairs: _Recent[tuple[str, bytes], _Failures] = _Recent(_Failures)
        self._networks: _Recent[str, Bucket] = _Recent(lambda: Bucket(ADDRESS_RATE, own.address_failures))
        self._accounts: _Recent[bytes, Bucket] = _Recent(
            lambda: Bucket(own.account_failures / FORGET_S, own.account_failures)
        )
        self._said: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.held = 0

    @property
    def remembered(self) -> int:
        """How much is, in all."""
        kinds = (self._good, self._known, self._repeats, self._pairs, self._networks, self._accounts, self._said)
        return sum(len(kind) for kind in kinds)

    def admit(self, attempt: Attempt, now: float) -> Ticket:
        """Let an attempt go on.

        Raises:
            TooOften: it has to wait, and nothing of it is to be checked.
        """
        if not self._limits.failures or attempt.credential in self._good:
            return Ticket(attempt)
        if why := self._obstacle(attempt, now):
            raise self._too_often(*why, attempt, now)
        hold_s = self._hold_s(attempt, now)
        if hold_s and self.held >= HELD:
            raise self._too_often("held", hold_s, attempt, now)
        if attempt.account is not None:
            self._count(attempt, now)
        return Ticket(attempt, hold_s, attempt.account is not None)

    def good(self, ticket: Ticket, now: float) -> None:
        """It was let in: what had failed before is forgiven, and this credential passes from now on."""
        attempt = ticket.attempt
        self._good.note(attempt.credential)
        if attempt.account is not None:
            if ticket.is_counted:
                self._give_back(ticket, now)
                self._pairs.drop((attempt.network, attempt.account))
            self._known.note((attempt.network, attempt.account))
        self._repeats.drop((attempt.network, attempt.credential))

    def failed(self, ticket: Ticket, now: float) -> None:
        """It was not good. A password or token that was is not trusted any more."""
        attempt = ticket.attempt
        if not attempt.is_once:
            self._good.drop(attempt.credential)
        if not self._limits.failures:
            return
        if not ticket.is_counted:
            self._count(attempt, now)
        if not attempt.is_once:
            free, backoff_s = self._limits.address_failures, self._limits.backoff_s
            self._repeats.note((attempt.network, attempt.credential)).add(free, backoff_s, now)

    def void(self, ticket: Ticket, now: float) -> None:
        """It could not be said whether it was good."""
        if ticket.is_counted:
            self._give_back(ticket, now)

    # --- counting

    def _obstacle(self, attempt: Attempt, now: float) -> tuple[str, float] | None:
        """What is in the way of an attempt, and for how many seconds."""
        repeat = None if attempt.is_once else self._repeats.find((attempt.network, attempt.credential))
        if repeat is not None:
            return ("repeated", wait_s) if (wait_s := repeat.wait(now)) else None
        known = False
        if attempt.account is not None:
            pair = (attempt.network, attempt.account)
            failures, known = self._pairs.find(pair), pair in self._known
            if failures is not None and (wait_s := failures.wait(now)):
                return "account", wait_s
        bucket = self._networks.find(attempt.network)
        if bucket is not None and not known and (wait_s := bucket.wait(1, now)):
            return "address", wait_s
        return None

    def _hold_s(self, attempt: Attempt, now: float) -> float:
        """How long a stranger is held before the password of an account that is guessed at is looked at."""
        if attempt.account is None or (attempt.network, attempt.account) in self._known:
            return 0.0
        bucket = self._accounts.find(attempt.account)
        return self._limits.hold_s if bucket is not None and bucket.wait(1, now) else 0.0

    def _count(self, attempt: Attempt, now: float) -> None:
        """Count it as failed, unless it is one more time the same."""
        if not attempt.is_once and (attempt.network, attempt.credential) in self._repeats:
            return
        self._charge(self._networks.note(attempt.network), now)
        if attempt.account is not None:
            pair = (attempt.network, attempt.account)
            self._pairs.note(pair).add(self._limits.failures, self._limits.backoff_s, now)
            if pair not in self._known:
                self._charge(self._accounts.note(attempt.account), now)

    def _charge(self, bucket: Bucket, now: float) -> None:
        if not bucket.wait(1, now):
            bucket.take(1)

    def _give_back(self, ticket: Ticket, now: float) -> None:
        attempt = ticket.attempt
        if attempt.account is None or (attempt.network, attempt.credential) in self._repeats:
            return
        pair = (attempt.network, attempt.account)
        failures = self._pairs.find(pair)
        if failures is not None:
            failures.take_back()
        was_charged = pair not in self._known and not ticket.hold_s
        account = self._accounts.find(attempt.account) if was_charged else None
        for bucket in (self._networks.find(attempt.network), account):
            if bucket is not None:
                bucket.wait(0, now)
                bucket.take(-1)

    def _too_often(self, why: str, wait_s: float, attempt: Attempt, now: float) -> TooOften:
        key = (why, attempt.network)
        at = self._said.get(key)
        is_news = at is None or now - at >= 60.0
        if is_news:
            self._said[key] = now
            self._said.move_to_end(key)
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        return TooOften(why, wait_s, is_news=is_news)


@lru_cache(maxsize=4096)
def network_of(origin: str) -> str:
    """What counts as one place: an IPv4 address, or the /64 of an IPv6 one, which a single machine has to itself."""
    try:
        address = ip_address(origin)
    except ValueError:
        return origin[:64]
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:8].hex(":", 2) + "::/64"
