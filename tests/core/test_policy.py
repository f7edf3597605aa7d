"""What a policy decides: case by case, as properties, and on a long random walk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.core.model import Role
from relay.core.policy import (
    Decision,
    Picture,
    Policy,
    Reason,
    Seat,
    Standing,
    Stragglers,
    awake,
    decide,
    dequeued,
    fresh,
    is_ready,
    next_due,
    restarted,
    set_all,
    stopped,
)
from relay.core.run_states import Status
from tests.core.test_run_states import ALLOWED

S = Status
NOW = 1_000_000_000
SECOND = 1_000_000
LEAVE_OUT = Stragglers.LEAVE_OUT

FAILING = {
    Reason.DEADLINE,
    Reason.ROUND_DEADLINE,
    Reason.COORDINATOR_LOST,
    Reason.TOO_FEW_SITES,
    Reason.MANDATORY_SITE_LOST,
}


def seats(*statuses: Status | None, offline: tuple[int, ...] = ()) -> tuple[Seat, ...]:
    """The coordinator's seat, then the participants': uids `0`, `1`, `2` …"""
    return tuple(
        Seat(
            site_id=number,
            uid=str(number),
            role=Role.PARTICIPANT if number else Role.COORDINATOR,
            online=number not in offline,
            status=status,
        )
        for number, status in enumerate(statuses)
    )


def running(policy: Policy, *statuses: Status | None, offline: tuple[int, ...] = ()) -> Picture:
    """A batch that has begun at NOW."""
    return Picture(policy=policy, standing=fresh(policy, NOW), seats=seats(*statuses, offline=offline))


def waiting(policy: Policy, members: int, offline: tuple[int, ...] = ()) -> Picture:
    """A start that has been queued at NOW."""
    nobody = seats(*[None] * members, offline=offline)
    return Picture(policy=policy, standing=Standing(queued=True, since_us=NOW), seats=nobody)


def statuses(picture: Picture) -> list[Status | None]:
    return [seat.status for seat in picture.seats]


def decided(picture: Picture, after_s: float = 0) -> Decision:
    decision = decide(picture, NOW + int(after_s * SECOND))
    assert decision is not None
    return decision


def settle(picture: Picture, now_us: int) -> Iterator[tuple[Picture, Decision]]:
    """The decisions that are due, one after the other, each with the picture before it."""
    while (decision := decide(picture, now_us)) is not None:
        yield picture, decision
        picture = decision.after


# A start


@pytest.mark.parametrize(
    ("policy", "offline", "ready"),
    [
        (Policy(), (), True),
        (Policy(), (2,), False),
        (Policy(min_sites=1), (2,), True),
        (Policy(min_sites=2), (2,), False),
        (Policy(min_sites=0), (1, 2), True),
        (Policy(min_sites=1), (0,), False),
        (Policy(min_sites=9), (), False),
        (Policy(mandatory_sites=("1",)), (2,), True),
        (Policy(mandatory_sites=("1",)), (1,), False),
        (Policy(mandatory_sites=("0",)), (1, 2), True),
        (Policy(mandatory_sites=("1",), min_sites=2), (2,), False),
        (Policy(mandatory_sites=("1",), min_sites=1), (1,), False),
        (Policy(mandatory_sites=("gone",)), (), False),
    ],
)
def test_who_is_needed_at_the_start(policy: Policy, offline: tuple[int, ...], ready: bool) -> None:
    assert is_ready(policy, seats(None, None, None, offline=offline)) is ready


def test_a_start_gives_a_run_to_who_is_there_and_sets_the_clocks() -> None:
    policy = Policy(min_sites=1, queue_s=60, deadline_s=10)
    decision = decided(waiting(policy, 3, offline=(2,)), 5)
    assert (decision.reason, statuses(decision.after)) == (Reason.STARTED, [S.STANDBY, S.STANDBY, None])
    assert decision.after.standing == Standing(since_us=NOW + 5 * SECOND, due_us=NOW + 15 * SECOND)


def test_a_queued_start_waits_and_is_given_up() -> None:
    picture = waiting(Policy(queue_s=60), 2, offline=(1,))
    assert decide(picture, NOW + 60 * SECOND - 1) is None
    assert next_due(picture) == NOW + 60 * SECOND
    decision = decided(picture, 60)
    assert (decision.reason, decision.after) == (Reason.QUEUE_EXPIRED, dequeued(picture))
    assert decision.after.slowest is S.FAILED


# A batch that runs


def test_without_a_policy_nothing_is_ever_decided() -> None:
    picture = running(Policy(), S.RUNNING, S.FAILED, S.STANDBY, offline=(0, 1, 2))
    assert (decide(picture, NOW + 10**15), next_due(picture)) == (None, None)


def test_at_the_deadline_what_has_not_ended_fails() -> None:
    picture = running(Policy(deadline_s=1), S.RUNNING, S.SUCCESS, S.PENDING_FAILED, None)
    assert (decide(picture, NOW + SECOND - 1), next_due(picture)) == (None, NOW + SECOND)
    decision = decided(picture, 1)
    assert (decision.reason, statuses(decision.after)) == (Reason.DEADLINE, [S.FAILED, S.SUCCESS, S.FAILED, None])


@pytest.mark.parametrize("status", list(Status))
def test_who_is_a_straggler(status: Status) -> None:
    picture = running(Policy(round_deadline_s=1, stragglers=LEAVE_OUT), S.RUNNING, S.PENDING_AGGREGATING, status)
    late = status in {S.PENDING_FAILED, S.STANDBY, S.PREPARING, S.RUNNING, S.PENDING_SUCCESS}
    decision = decide(picture, NOW + SECOND)
    assert (decision is not None) is late
    if decision is not None:
        assert decision.reason is Reason.LEFT_OUT
        assert statuses(decision.after) == [S.RUNNING, S.PENDING_AGGREGATING, S.FAILED]
        assert decision.after.slowest is S.RUNNING


@pytest.mark.parametrize("stragglers", [None, Stragglers.FAIL])
def test_a_straggler_fails_the_batch_unless_it_may_be_left_out(stragglers: Stragglers | None) -> None:
    policy = Policy(round_deadline_s=1, stragglers=stragglers)
    decision = decided(running(policy, S.RUNNING, S.AGGREGATING, S.RUNNING), 1)
    assert (decision.reason, statuses(decision.after)) == (Reason.ROUND_DEADLINE, [S.FAILED] * 3)


def test_the_coordinator_has_as_long_again_to_close_the_round() -> None:
    picture = running(Policy(round_deadline_s=1, stragglers=LEAVE_OUT), S.RUNNING, S.PENDING_AGGREGATING)
    assert next_due(picture) == NOW + 2 * SECOND
    assert decide(picture, NOW + 2 * SECOND - 1) is None
    assert decided(picture, 2).reason is Reason.ROUND_DEADLINE


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(min_sites=1), None),
        (Policy(min_sites=2), None),
        (Policy(stragglers=LEAVE_OUT), None),
        (Policy(stragglers=LEAVE_OUT, min_sites=1), None),
        (Policy(stragglers=LEAVE_OUT, min_sites=2), Reason.TOO_FEW_SITES),
        (Policy(mandatory_sites=("1",)), None),
        (Policy(mandatory_sites=("2",)), Reason.MANDATORY_SITE_LOST),
        (Policy(mandatory_sites=("2",), stragglers=LEAVE_OUT, min_sites=1), Reason.MANDATORY_SITE_LOST),
        (Policy(mandatory_sites=("gone",)), Reason.MANDATORY_SITE_LOST),
    ],
)
def test_a_run_that_failed_is_missed_or_not(policy: Policy, reason: Reason | None) -> None:
    decision = decide(running(policy, S.RUNNING, S.RUNNING, S.FAILED), NOW)
    assert (decision and decision.reason) == reason


def test_nobody_left_is_too_few_but_for_who_wants_nobody() -> None:
    picture = running(Policy(stragglers=LEAVE_OUT), S.RUNNING, S.FAILED)
    assert decided(picture).reason is Reason.TOO_FEW_SITES
    assert decide(replace(picture, policy=Policy(stragglers=LEAVE_OUT, min_sites=0)), NOW) is None


def test_a_batch_that_was_stopped_is_not_blamed_for_whom_it_loses() -> None:
    policy = Policy(mandatory_sites=("1",), min_sites=2, stragglers=LEAVE_OUT)
    picture = stopped(running(policy, S.RUNNING, S.RUNNING, S.SUCCESS))
    assert statuses(picture) == [S.PENDING_FAILED, S.PENDING_FAILED, S.SUCCESS]
    halfway = replace(picture, seats=seats(S.PENDING_FAILED, S.FAILED, S.SUCCESS))
    assert decide(halfway, NOW) is None


# The coordinator is lost


def test_a_lost_coordinator_pauses_the_round_and_its_return_resumes_it() -> None:
    policy = Policy(round_deadline_s=10, coordinator_grace_s=60)
    lost = running(policy, S.RUNNING, S.RUNNING, offline=(0,))
    paused = decided(lost, 4)
    assert (paused.reason, paused.after.standing.lost_us) == (Reason.PAUSED, NOW + 4 * SECOND)
    assert decide(paused.after, NOW + 30 * SECOND) is None
    assert next_due(paused.after) == NOW + 64 * SECOND
    back = replace(paused.after, seats=seats(S.RUNNING, S.RUNNING))
    resumed = decided(back, 30)
    assert resumed.reason is Reason.RESUMED
    assert resumed.after.standing == Standing(since_us=NOW + 26 * SECOND)
    assert next_due(resumed.after) == NOW + 36 * SECOND


def test_a_coordinator_that_stays_away_fails_the_batch() -> None:
    paused = decided(running(Policy(coordinator_grace_s=60), S.RUNNING, S.SUCCESS, offline=(0,))).after
    assert decide(paused, NOW + 60 * SECOND - 1) is None
    failed = decided(paused, 60)
    assert (failed.reason, statuses(failed.after)) == (Reason.COORDINATOR_LOST, [S.FAILED, S.SUCCESS])


def test_the_deadline_holds_in_a_pause() -> None:
    paused = decided(running(Policy(deadline_s=5, coordinator_grace_s=60), S.RUNNING, S.RUNNING, offline=(0,))).after
    assert next_due(paused) == NOW + 5 * SECOND
    assert decided(paused, 5).reason is Reason.DEADLINE


def test_a_coordinator_whose_run_has_ended_is_not_missed() -> None:
    picture = running(Policy(coordinator_grace_s=60), S.SUCCESS, S.PENDING_SUCCESS, offline=(0,))
    assert decide(picture, NOW) is None


def test_after_a_restart_of_the_relay_the_coordinator_has_its_grace_again() -> None:
    policy = Policy(coordinator_grace_s=60, round_deadline_s=100)
    paused = decided(running(policy, S.RUNNING, S.RUNNING, offline=(0,)), 10).after
    woken = awake(paused.standing, NOW + 50 * SECOND)
    assert woken == Standing(since_us=NOW + 40 * SECOND, lost_us=NOW + 50 * SECOND)
    assert awake(replace(woken, lost_us=None), NOW) == replace(woken, lost_us=None)


# What the coordinator does


def test_who_was_left_out_stays_out_and_comes_back_with_the_next_round_if_it_may() -> None:
    policy = Policy(stragglers=LEAVE_OUT)
    picture = running(policy, S.AGGREGATING, S.AGGREGATING, S.FAILED, None)
    assert statuses(set_all(picture, S.SUCCESS, new_round=False, now_us=NOW)) == [S.SUCCESS, S.SUCCESS, S.FAILED, None]
    assert statuses(set_all(picture, S.STANDBY, new_round=True, now_us=NOW)) == [S.STANDBY, S.STANDBY, S.FAILED, None]
    late = replace(picture, policy=replace(policy, late_join=True))
    assert statuses(set_all(late, S.RUNNING, new_round=False, now_us=NOW))[2:] == [S.FAILED, None]
    after = set_all(late, S.STANDBY, new_round=True, now_us=NOW + 7)
    assert (statuses(after), after.standing.since_us) == ([S.STANDBY] * 4, NOW + 7)
    away = replace(late, seats=seats(*statuses(late), offline=(2, 3)))
    assert statuses(set_all(away, S.STANDBY, new_round=True, now_us=NOW))[2:] == [S.FAILED, None]
    assert statuses(set_all(late, S.FAILED, new_round=True, now_us=NOW))[2:] == [S.FAILED, None]


def test_without_a_policy_the_coordinator_moves_all_as_ever() -> None:
    picture = running(Policy(), S.RUNNING, S.FAILED, S.SUCCESS, None)
    assert statuses(set_all(picture, S.STANDBY, new_round=True, now_us=NOW)) == [S.STANDBY] * 3 + [None]
    assert statuses(restarted(picture, NOW)) == [S.STANDBY] * 3 + [None]


def test_a_coordinators_own_failed_run_is_not_left_out() -> None:
    picture = running(Policy(stragglers=LEAVE_OUT), S.FAILED, S.RUNNING)
    assert statuses(set_all(picture, S.SUCCESS, new_round=False, now_us=NOW)) == [S.SUCCESS, S.SUCCESS]
    assert picture.slowest is S.FAILED


def test_a_restart_takes_everybody_and_sets_the_clocks_anew() -> None:
    policy = Policy(stragglers=LEAVE_OUT, deadline_s=10, late_join=True)
    picture = running(policy, S.FAILED, S.SUCCESS, S.FAILED, None, None, offline=(4,))
    after = restarted(picture, NOW + SECOND)
    assert statuses(after) == [S.STANDBY] * 4 + [None]
    assert after.standing == Standing(since_us=NOW + SECOND, due_us=NOW + 11 * SECOND)


# Properties

some_seconds = st.one_of(st.none(), st.integers(1, 50).map(float))
policies = st.builds(
    Policy,
    min_sites=st.one_of(st.none(), st.integers(0, 4)),
    mandatory_sites=st.lists(st.sampled_from(["0", "1", "2", "9"]), max_size=2, unique=True).map(tuple),
    queue_s=some_seconds,
    deadline_s=some_seconds,
    round_deadline_s=some_seconds,
    stragglers=st.one_of(st.none(), st.sampled_from(Stragglers)),
    late_join=st.booleans(),
    coordinator_grace_s=some_seconds,
)
moments = st.integers(NOW - 60 * SECOND, NOW + 60 * SECOND)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Any picture, those included that nobody would come to."""
    status = st.one_of(st.none(), st.sampled_from(Status))
    count = draw(st.integers(1, 5))
    offline = tuple(draw(st.sets(st.integers(0, count - 1))))
    queued = draw(st.booleans())
    taken = [None if queued else draw(status) for _ in range(count)]
    standing = Standing(
        queued=queued,
        since_us=draw(moments),
        due_us=draw(st.one_of(st.none(), moments)),
        lost_us=None if queued else draw(st.one_of(st.none(), moments)),
    )
    policy = draw(policies)
    if policy.coordinator_grace_s is None:
        standing = replace(standing, lost_us=None)
    return Picture(policy=policy, standing=standing, seats=seats(*taken, offline=offline))


@given(pictures(), moments)
def test_decisions_come_to_an_end_and_move_runs_only_as_they_may(picture: Picture, now_us: int) -> None:
    for count, (before, decision) in enumerate(settle(picture, now_us)):
        assert count < 4
        assert decision.after != before
        check_decision(before, decision)


@given(pictures(), moments)
def test_nothing_is_due_before_it_is_due_and_then_something_is(picture: Picture, now_us: int) -> None:
    for _, decision in settle(picture, now_us):
        picture = decision.after
    due_us = next_due(picture)
    if due_us is None:
        assert decide(picture, now_us + 10**15) is None
        return
    assert due_us > now_us
    assert decide(picture, due_us - 1) is None
    assert decide(picture, due_us) is not None


@given(pictures(), moments, st.sampled_from(Status), st.booleans())
def test_the_coordinator_moves_everybody_that_is_in_play(
    picture: Picture, now_us: int, status: Status, new_round: bool
) -> None:
    assume(not picture.standing.queued)
    after = set_all(picture, status, new_round=new_round, now_us=now_us)
    for old, new in zip(picture.seats, after.seats, strict=True):
        assert replace(new, status=None) == replace(old, status=None)
        assert new.status in (old.status, status)
        left_out = picture.policy.stragglers is LEAVE_OUT and old.role is Role.PARTICIPANT and old.status is S.FAILED
        if old.status is not None and not left_out:
            assert new.status is status


def check_decision(before: Picture, decision: Decision) -> None:
    """Whatever a policy decides: a run begins in Standby, or an open one fails, and nothing else changes."""
    changed = {
        (old.status, new.status, old.role)
        for old, new in zip(before.seats, decision.after.seats, strict=True)
        if old != new
    }
    if decision.reason is Reason.STARTED:
        assert before.standing.queued and {to for _, to, _ in changed} == {S.STANDBY}
    elif decision.reason is Reason.LEFT_OUT:
        assert changed and {role for _, _, role in changed} == {Role.PARTICIPANT}
    elif decision.reason in FAILING:
        assert before.is_open and not decision.after.is_open
    else:
        assert not changed
    for now, to, _ in changed:
        assert (now is None and to is S.STANDBY) or (now is not None and not now.is_terminal and to is S.FAILED)


# The walk


class Walk:
    """Projects that are started, worked at, and left to themselves, at random. What it finds is raised at once."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_us = NOW
        self.events = 0
        self.ends = 0
        self.begin()

    def begin(self) -> None:
        """Another project, with another policy."""
        choose, maybe = self.random.choice, self._maybe
        self.policy = Policy(
            min_sites=choose([None, 0, 1, 2]),
            mandatory_sites=choose([(), (), ("1",), ("1", "2")]),
            queue_s=maybe(),
            deadline_s=maybe(),
            round_deadline_s=maybe(),
            stragglers=choose([None, *Stragglers]),
            late_join=choose([True, False]),
            coordinator_grace_s=maybe(),
        )
        members = self.random.randint(1, 6)
        offline = tuple(number for number in range(members) if self.random.random() < 0.2)
        self.picture = waiting(self.policy, members, offline)
        self.picture = replace(self.picture, standing=replace(self.picture.standing, since_us=self.now_us))
        if self.policy.queue_s is None and decide(self.picture, self.now_us) is None:
            self.picture = dequeued(self.picture)  # refused: there is no batch
        self.settle()

    def _maybe(self) -> float | None:
        return self.random.choice([None, 0.5, 5.0, 60.0])

    def step(self) -> None:
        self.events += 1
        if not (self.picture.is_open or self.picture.standing.queued) and self.random.random() < 0.3:
            self.begin()
            return
        event = self.random.choices(
            [self.move_alone, self.set_all, self.presence, self.time, self.control, self.join, self.leave, self.die],
            weights=[60, 12, 8, 12, 2, 2, 1, 0.5],
        )[0]
        event()
        self.settle()

    def settle(self) -> None:
        for count, (before, decision) in enumerate(settle(self.picture, self.now_us)):
            assert count < 4, (before, decision)
            check_decision(before, decision)
            self.picture = decision.after

    def put(self, seat: Seat, **fields: object) -> None:
        others = self.picture.seats
        self.picture = replace(
            self.picture,
            seats=tuple(replace(one, **fields) if one is seat else one for one in others),  # type: ignore[arg-type]
        )

    # --- what happens

    def move_alone(self) -> None:
        seat = self.random.choice(self.picture.seats)
        to = self.random.choice(list(Status))
        if seat.status is None or (seat.status, to) not in ALLOWED:
            return
        if seat.status.is_terminal and not to.is_terminal and not self.picture.is_open:
            self.picture = replace(self.picture, standing=fresh(self.policy, self.now_us))
        self.put(seat, status=to)

    def set_all(self) -> None:
        if all(seat.status is None for seat in self.picture.seats):
            return
        status = self.random.choice(list(Status))
        new_round = status is S.STANDBY or self.random.random() < 0.1
        was_open = self.picture.is_open
        self.picture = set_all(self.picture, status, new_round=new_round, now_us=self.now_us)
        if self.picture.is_open and not was_open:
            self.picture = replace(self.picture, standing=fresh(self.policy, self.now_us))

    def control(self) -> None:
        if self.picture.standing.queued:
            self.picture = dequeued(self.picture)
        elif any(seat.status is not None for seat in self.picture.seats):
            stop = self.random.random() < 0.5
            self.picture = stopped(self.picture) if stop else restarted(self.picture, self.now_us)

    def presence(self) -> None:
        seat = self.random.choice(self.picture.seats)
        self.put(seat, online=not seat.online)

    def time(self) -> None:
        self.now_us += self.random.choice([1, SECOND // 10, SECOND, 10 * SECOND])

    def join(self) -> None:
        number = max(seat.site_id for seat in self.picture.seats) + 1
        seat = Seat(site_id=number, uid=str(number), role=Role.PARTICIPANT, online=self.random.random() < 0.7)
        if len(self.picture.seats) < 8:
            self.picture = replace(self.picture, seats=(*self.picture.seats, seat))

    def leave(self) -> None:
        if len(self.picture.seats) > 1:
            gone = self.random.choice(self.picture.seats[1:])
            self.picture = replace(self.picture, seats=tuple(seat for seat in self.picture.seats if seat is not gone))

    def die(self) -> None:
        """Nobody does anything any more, and perhaps nobody is there: what has an end comes to it, and in time."""
        for seat in self.picture.seats:
            self.put(seat, online=seat.online and self.random.random() < 0.5)
        self.settle()
        latest_us = self._latest()
        for _ in range(8):
            due_us = next_due(self.picture)
            if due_us is None:
                break
            assert due_us > self.now_us
            self.now_us = due_us
            self.settle()
        assert next_due(self.picture) is None
        if latest_us is not None:
            assert not self.picture.is_open and not self.picture.standing.queued
            assert self.now_us <= latest_us
            self.ends += 1

    def _latest(self) -> int | None:
        """By when it must have ended. None: its policy, without a deadline, may let it stand for ever."""
        policy, standing = self.policy, self.picture.standing
        coordinator = self.picture.seats[0]
        if standing.queued:
            if policy.queue_s is None:
                return None
            return standing.since_us + int(policy.queue_s * SECOND)
        if not self.picture.is_open:
            return self.now_us
        ends = [] if standing.due_us is None else [standing.due_us]
        if standing.lost_us is not None:
            assert policy.coordinator_grace_s is not None and coordinator.is_open and not coordinator.online
            ends.append(standing.lost_us + int(policy.coordinator_grace_s * SECOND))
        elif policy.round_deadline_s is not None:
            ends.append(standing.since_us + int(policy.round_deadline_s * 2 * SECOND))
        return min(ends, default=None)


@pytest.mark.parametrize("events", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_walk_finds_no_illegal_transition_and_no_batch_without_an_end(seed: int, events: int) -> None:
    walk = Walk(seed)
    while walk.events < events:
        walk.step()
    assert walk.ends > events / 1000
