"""Who is online: by sessions, by heartbeats, and for a while after a drop or a restart."""

from __future__ import annotations

import random

import pytest

from relay.core.presence import Presence, PresenceLimits
from tests.support.clock import Clock

LIMITS = PresenceLimits(grace_s=10, heartbeat_s=60, restart_grace_s=30)
SITE = 7


class Watched(Presence):
    """Presence, and what it has told: `+` online, `-` offline."""

    def __init__(self) -> None:
        super().__init__(LIMITS, self._note)
        self.told = ""

    def _note(self, site_id: int, online: bool) -> None:
        assert site_id == SITE
        assert self.is_online(site_id) is online, "what is told is true already"
        self.told += "+" if online else "-"


@pytest.fixture
async def presence(clock: Clock) -> Watched:
    return Watched()


# Sessions


async def test_a_site_is_online_while_it_has_a_session(presence: Watched) -> None:
    assert not presence.is_online(SITE)
    presence.session_opened(SITE)
    assert presence.is_online(SITE)
    assert presence.online_sites() == [SITE]
    presence.session_opened(SITE)
    presence.session_closed(SITE, clean=True)
    assert presence.told == "+"
    presence.session_closed(SITE, clean=True)
    assert presence.told == "+-"
    assert presence.online_sites() == []


async def test_a_drop_is_news_only_after_the_grace_period(presence: Watched, clock: Clock) -> None:
    presence.session_opened(SITE)
    presence.session_closed(SITE, clean=False)
    await clock.advance(9)
    assert presence.told == "+"
    await clock.advance(2)
    assert presence.told == "+-"


async def test_a_reconnect_within_the_grace_period_is_no_news(presence: Watched, clock: Clock) -> None:
    presence.session_opened(SITE)
    for _ in range(5):
        presence.session_closed(SITE, clean=False)
        await clock.advance(8)
        presence.session_opened(SITE)
        await clock.advance(8)
    assert presence.told == "+"
    presence.session_closed(SITE, clean=False)
    await clock.advance(9)
    assert presence.told == "+"
    await clock.advance(2)
    assert presence.told == "+-"


async def test_the_last_session_says_how_it_ended(presence: Watched, clock: Clock) -> None:
    presence.session_opened(SITE)
    presence.session_opened(SITE)
    presence.session_closed(SITE, clean=False)
    presence.session_closed(SITE, clean=True)
    assert presence.told == "+-"


# Heartbeats


async def test_a_heartbeat_is_good_for_its_lease(presence: Watched, clock: Clock) -> None:
    presence.heartbeat(SITE, alive=True)
    await clock.advance(59)
    assert presence.told == "+"
    await clock.advance(2)
    assert presence.told == "+-"


async def test_heartbeats_in_time_are_no_news(presence: Watched, clock: Clock) -> None:
    for _ in range(10):
        presence.heartbeat(SITE, alive=True)
        await clock.advance(30)
    assert presence.told == "+"
    await clock.advance(29)
    assert presence.told == "+"
    await clock.advance(2)
    assert presence.told == "+-"


async def test_a_heartbeat_may_say_goodbye(presence: Watched) -> None:
    presence.heartbeat(SITE, alive=True)
    presence.heartbeat(SITE, alive=False)
    assert presence.told == "+-"
    presence.heartbeat(SITE, alive=False)
    assert presence.told == "+-"


async def test_a_goodbye_by_heartbeat_does_not_count_against_an_open_session(presence: Watched) -> None:
    presence.session_opened(SITE)
    presence.heartbeat(SITE, alive=False)
    assert presence.told == "+"


async def test_a_lease_outlives_a_dropped_session(presence: Watched, clock: Clock) -> None:
    presence.heartbeat(SITE, alive=True)
    presence.session_opened(SITE)
    presence.session_closed(SITE, clean=False)
    await clock.advance(59)
    assert presence.told == "+"
    await clock.advance(2)
    assert presence.told == "+-"


async def test_a_grace_period_that_ends_before_an_older_lease_is_heeded(presence: Watched, clock: Clock) -> None:
    """A heartbeat, then a session, the lease given back, the session dropped: ten seconds from there."""
    presence.heartbeat(SITE, alive=True)
    presence.session_opened(SITE)
    presence.heartbeat(SITE, alive=False)
    presence.session_closed(SITE, clean=False)
    await clock.advance(11)
    assert presence.told == "+-"


# Restarts, deletion


async def test_who_was_there_before_a_restart_has_a_while_to_show_itself(presence: Watched, clock: Clock) -> None:
    presence.restore(SITE)
    assert presence.is_online(SITE)
    assert presence.told == "", "that it is online is no news"
    await clock.advance(29)
    assert presence.is_online(SITE)
    await clock.advance(2)
    assert presence.told == "-"


async def test_who_comes_back_after_a_restart_is_no_news(presence: Watched, clock: Clock) -> None:
    presence.restore(SITE)
    await clock.advance(20)
    presence.session_opened(SITE)
    await clock.advance(60)
    assert presence.told == ""
    presence.session_closed(SITE, clean=True)
    assert presence.told == "-"


async def test_a_deleted_site_is_forgotten_without_a_word(presence: Watched, clock: Clock) -> None:
    presence.session_opened(SITE)
    presence.heartbeat(SITE, alive=True)
    presence.forget(SITE)
    assert not presence.is_online(SITE)
    presence.session_closed(SITE, clean=False)
    await clock.advance(100)
    assert presence.told == "+"
    presence.forget(SITE)


async def test_after_the_end_nothing_rings(presence: Watched, clock: Clock) -> None:
    presence.session_opened(SITE)
    presence.session_closed(SITE, clean=False)
    presence.close()
    await clock.advance(100)
    assert presence.told == "+"


# Property


@pytest.mark.parametrize("seed", range(30))
async def test_presence_is_what_its_rules_say_at_any_time(presence: Watched, clock: Clock, seed: int) -> None:
    """Against a model without timers: a count of sessions, and the time up to which the site is good without one."""
    random_of = random.Random(seed)
    sessions, until = 0, -1.0
    for _ in range(60):
        match random_of.choice(["open", "drop", "leave", "beat", "goodbye", "wait", "wait"]):
            case "open":
                presence.session_opened(SITE)
                sessions += 1
            case "drop" | "leave" as how if sessions:
                presence.session_closed(SITE, clean=how == "leave")
                sessions -= 1
                if not sessions:
                    until = max(until, clock.now + LIMITS.grace_s) if how == "drop" else -1.0
            case "beat":
                presence.heartbeat(SITE, alive=True)
                until = clock.now + LIMITS.heartbeat_s
            case "goodbye":
                presence.heartbeat(SITE, alive=False)
                until = -1.0
            case "wait":
                await clock.advance(random_of.choice([0.5, 5, 11, 61]))
        if abs(until - clock.now) > 0.2:  # not in the very moment of its end
            assert presence.is_online(SITE) is (sessions > 0 or until > clock.now)
    assert "++" not in presence.told and "--" not in presence.told
