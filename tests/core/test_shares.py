"""What a site and a user share: sessions, long polls and rates; and nothing is kept of who is gone."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from relay.core import shares
from relay.core.model import Site
from relay.core.rate import RateLimits
from relay.core.shares import FOLLOWERS_PER_SITE, Shares
from relay.protocol.errors import ErrorCode, ReplyError

RATES = RateLimits(site_frames=10, site_bytes=1000, user_frames=15, user_bytes=1500, burst_s=1.0)


def site(number: int, owner: int = 1) -> Site:
    return Site(
        id=number,
        uid="",
        name="",
        description="",
        owner_id=owner,
        connected=False,
        seen_us=0,
        created_us=0,
        updated_us=0,
    )


@pytest.fixture
def of_all() -> Shares:
    return Shares(RATES, sessions_per_site=2, sessions_per_user=3)


def has_room(of_all: Shares, one: Site) -> bool:
    try:
        of_all.require_room(one)
    except ReplyError as refused:
        return refused.code is not ErrorCode.TOO_MANY_SESSIONS
    return True


def test_sessions_are_counted_by_site_and_by_user(of_all: Shares) -> None:
    of_all.opened(site(1))
    of_all.opened(site(1))
    assert [has_room(of_all, one) for one in (site(1), site(2), site(3, owner=2))] == [False, True, True]
    of_all.opened(site(2))
    assert [has_room(of_all, one) for one in (site(2), site(4), site(3, owner=2))] == [False, False, True]
    of_all.closed(site(1))
    assert [has_room(of_all, one) for one in (site(1), site(2))] == [True, True]


def polls(of_all: Shares, *, user: int, sites: int, now: float) -> int:
    """How many are let pass at once."""
    passed = 0
    with suppress(ReplyError):
        while True:
            of_all.admit_poll(user, sites, now)
            passed += 1
    return passed


def test_polls_are_counted_by_user_and_those_of_all_its_sites_have_room(of_all: Shares) -> None:
    assert polls(of_all, user=1, sites=1, now=0.0) == 10, "as much as its site may"
    assert polls(of_all, user=1, sites=1, now=0.5) == 5
    assert polls(of_all, user=2, sites=2, now=0.0) == 15, "as much as the user may"
    assert polls(of_all, user=3, sites=100, now=0.0) == 500, "an operator that is strict stops no controller"
    assert polls(of_all, user=4, sites=0, now=0.0) == 10
    with pytest.raises(ReplyError) as refused:
        of_all.admit_poll(1, 1, 0.5)
    assert (refused.value.code, refused.value.details["retry_after"] > 0) == (ErrorCode.RATE_LIMITED, True)


def test_long_polls_and_streams_are_bounded(of_all: Shares) -> None:
    with ExitStack() as stack:
        for _ in range(FOLLOWERS_PER_SITE):
            stack.enter_context(of_all.following(site(1)))
        with pytest.raises(ReplyError, match="at most 256"):
            stack.enter_context(of_all.following(site(1)))
        stack.enter_context(of_all.following(site(2)))
    with of_all.following(site(1)):
        pass


def admitted(of_all: Shares, one: Site, count: int, size: int = 1, now: float = 0.0) -> int:
    passed = 0
    for _ in range(count):
        with suppress(ReplyError):
            of_all.admit(one, size, now)
            passed += 1
    return passed


def test_requests_and_frames_draw_on_the_same_rates(of_all: Shares) -> None:
    assert admitted(of_all, site(1), 20) == 10
    assert admitted(of_all, site(2), 20) == 5
    refused = of_all.gate(site(3)).admit(1, 0.0)
    assert refused is not None and refused.code is ErrorCode.RATE_LIMITED
    assert admitted(of_all, site(4, owner=2), 20) == 10
    assert admitted(of_all, site(1), 20, now=1.0) == 10
    assert admitted(of_all, site(5, owner=3), 3, size=600) == 1


def test_nothing_is_kept_of_who_is_gone(of_all: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "REMEMBERED", 10)
    for number in range(1, 100):
        one = site(number, owner=number)
        of_all.opened(one)
        with of_all.following(one):
            of_all.admit(one, 1, 0.0)
        of_all.closed(one)
    assert len(of_all._buckets) == 20
    assert not (of_all._of_site or of_all._of_user or of_all._followers)
