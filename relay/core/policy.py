"""What a batch's policy decides, given who is there, how the runs stand, and what time it is.

Pure: no clock, no storage. `decide` takes a `Picture` of the batch and gives the one `Decision` that is due now, with
the picture after it, or None. Whoever applies it asks again, until there is none; `next_due` then says when the passing
of time alone will bring the next one. So it does not matter who died meanwhile: what is due is due from the state.

    queued ─┬─▶ started            who is needed is online
            └─▶ queue_expired      they were not, for `queue_s`

    open ───┬─▶ deadline           `deadline_s` after the start                                the batch is Failed
            ├─▶ paused, resumed    the coordinator is lost, is back: the round's clock stands
            ├─▶ coordinator_lost   it was, for `coordinator_grace_s`                           the batch is Failed
            ├─▶ left_out           stragglers at `round_deadline_s`: their runs are Failed, the batch goes on
            ├─▶ round_deadline     they are not to be left out; or the round is not closed     the batch is Failed
            │                      by the coordinator within as long again
            └─▶ too_few_sites,     fewer are left than the policy wants                        the batch is Failed
                mandatory_site_lost
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeVar

from relay.core.model import Role
from relay.core.run_states import Status


class Reason(StrEnum):
    """Why a `batch` event is told: its `reason`."""

    STARTED = "started"
    ALL_RUNS = "all_runs"
    STOPPED = "stopped"
    RESTARTED = "restarted"
    REOPENED = "reopened"
    QUEUED = "queued"
    QUEUE_EXPIRED = "queue_expired"
    LATE_JOINED = "late_joined"
    LEFT_OUT = "left_out"
    PAUSED = "paused"
    RESUMED = "resumed"
    DEADLINE = "deadline"
    ROUND_DEADLINE = "round_deadline"
    COORDINATOR_LOST = "coordinator_lost"
    TOO_FEW_SITES = "too_few_sites"
    MANDATORY_SITE_LOST = "mandatory_site_lost"


class Stragglers(StrEnum):
    """What becomes of participants that have not delivered at the round's deadline."""

    FAIL = "fail"
    LEAVE_OUT = "leave_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When a batch may begin, whom it needs, and when it must have ended. Times are in seconds; None is never.

    Attributes:
        min_sites: participants (the coordinator is not counted) that must be online at the start, and that must be left
            if stragglers are left out. None: at the start every member, or with `mandatory_sites` those; later, one.
        mandatory_sites: uids of sites without which the batch does not begin, or go on.
        queue_s: how long a start waits for who is needed. None: it is refused at once.
        deadline_s: from the start to the end of all runs.
        round_deadline_s: from the begin of a round until each participant has delivered; and as long again until the
            coordinator has closed it.
        stragglers: who has not delivered by then. None: as FAIL.
        late_join: who is not there at the start, or was left out, joins at the next round if it is online.
        coordinator_grace_s: how long the coordinator may be offline before the batch fails.
    """

    min_sites: int | None = None
    mandatory_sites: tuple[str, ...] = ()
    queue_s: float | None = None
    deadline_s: float | None = None
    round_deadline_s: float | None = None
    stragglers: Stragglers | None = None
    late_join: bool = False
    coordinator_grace_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A member's place in a batch. `status` is its run's; None: it has no run."""

    site_id: int
    uid: str
    role: Role
    online: bool
    status: Status | None = None

    @property
    def is_open(self) -> bool:
        return self.status is not None and not self.status.is_terminal


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a batch stands with its policy.

    Attributes:
        queued: it has not begun, and has no runs.
        since_us: when it was queued; once begun, when its round began.
        due_us: when all its runs must have ended.
        lost_us: since when the coordinator has been away; None while it is there.
    """

    queued: bool = False
    since_us: int = 0
    due_us: int | None = None
    lost_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A batch, as far as its policy looks at it: a seat for each member of the project."""

    policy: Policy
    standing: Standing
    seats: tuple[Seat, ...]

    @property
    def is_open(self) -> bool:
        """It has begun, and not ended."""
        return any(seat.is_open for seat in self.seats)

    @property
    def slowest(self) -> Status:
        """Where the batch stands: where the run stands that is least far. Who was left out does not hold it up."""
        statuses = (seat.status for seat in in_play(self.policy, self.seats))
        return min((status for status in statuses if status is not None), default=Status.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Why, and the picture after it."""

    reason: Reason
    after: Picture


class Part(Protocol):
    """A run, or a seat with one."""

    @property
    def role(self) -> Role: ...
    @property
    def status(self) -> Status | None: ...


P = TypeVar("P", bound=Part)


def is_out(policy: Policy, part: Part) -> bool:
    """Whether it was left out, and the batch goes on without it."""
    may_be = policy.stragglers is Stragglers.LEAVE_OUT and part.role is Role.PARTICIPANT
    return may_be and part.status is Status.FAILED


def in_play(policy: Policy, parts: Iterable[P]) -> list[P]:
    """Those that were not left out; all of them, if nobody else has a run."""
    every = [part for part in parts if part.status is not None]
    return [part for part in every if not is_out(policy, part)] or every


# --- what is due


def decide(picture: Picture, now_us: int) -> Decision | None:
    """The decision that is due, the most urgent of them."""
    if picture.standing.queued:
        return _of_a_queued_start(picture, now_us)
    if not picture.is_open:
        return None
    for rule in (_deadline, _coordinator, _losses, _round):
        decision = rule(picture, now_us)
        if decision is not None:
            return decision
    return None


def next_due(picture: Picture) -> int | None:
    """When the next decision is due if nothing but time moves, in microseconds since 1970; None: never.

    For a picture of which `decide` has nothing to say now.
    """
    policy, standing = picture.policy, picture.standing
    if standing.queued:
        return _plus(standing.since_us, policy.queue_s)
    if not picture.is_open:
        return None
    dues = [standing.due_us]
    if standing.lost_us is not None:
        dues.append(_plus(standing.lost_us, policy.coordinator_grace_s))
    else:
        dues.append(_plus(standing.since_us, policy.round_deadline_s, times=1 if _stragglers(picture) else 2))
    return min((due for due in dues if due is not None), default=None)


def is_ready(policy: Policy, seats: Sequence[Seat]) -> bool:
    """Whether all are online without whom a batch does not begin."""
    online = [seat for seat in seats if seat.online]
    if not any(seat.role is Role.COORDINATOR for seat in online):
        return False
    if not {seat.uid for seat in online}.issuperset(policy.mandatory_sites):
        return False
    if policy.min_sites is not None:
        return sum(seat.role is Role.PARTICIPANT for seat in online) >= policy.min_sites
    return bool(policy.mandatory_sites) or len(online) == len(seats)


def _of_a_queued_start(picture: Picture, now_us: int) -> Decision | None:
    if _is_past(_plus(picture.standing.since_us, picture.policy.queue_s), now_us):
        return Decision(reason=Reason.QUEUE_EXPIRED, after=dequeued(picture))
    if not is_ready(picture.policy, picture.seats):
        return None
    seats = tuple(replace(seat, status=Status.STANDBY) if seat.online else seat for seat in picture.seats)
    after = replace(picture, seats=seats, standing=fresh(picture.policy, now_us))
    return Decision(reason=Reason.STARTED, after=after)


def _deadline(picture: Picture, now_us: int) -> Decision | None:
    return _failed(picture, Reason.DEADLINE) if _is_past(picture.standing.due_us, now_us) else None


def _coordinator(picture: Picture, now_us: int) -> Decision | None:
    """It is needed as long as its own run is open; what it has ended goes on without it."""
    standing, grace_s = picture.standing, picture.policy.coordinator_grace_s
    is_lost = grace_s is not None and any(
        seat.role is Role.COORDINATOR and seat.is_open and not seat.online for seat in picture.seats
    )
    if is_lost and standing.lost_us is None:
        return Decision(reason=Reason.PAUSED, after=replace(picture, standing=replace(standing, lost_us=now_us)))
    if standing.lost_us is not None and not is_lost:
        return Decision(reason=Reason.RESUMED, after=replace(picture, standing=_resumed(standing, now_us)))
    if standing.lost_us is not None and _is_past(_plus(standing.lost_us, grace_s), now_us):
        return _failed(picture, Reason.COORDINATOR_LOST)
    return None


def _losses(picture: Picture, _now_us: int) -> Decision | None:
    """Runs that have failed, or are gone with their sites: may the batch go on without them? Unless it was stopped."""
    policy = picture.policy
    if all(seat.status is Status.PENDING_FAILED for seat in picture.seats if seat.is_open):
        return None
    running = [seat for seat in picture.seats if seat.status not in (None, Status.FAILED)]
    if not {seat.uid for seat in running}.issuperset(policy.mandatory_sites):
        return _failed(picture, Reason.MANDATORY_SITE_LOST)
    needed = 1 if policy.min_sites is None else policy.min_sites
    left = sum(seat.role is Role.PARTICIPANT for seat in running)
    if policy.stragglers is Stragglers.LEAVE_OUT and left < needed:
        return _failed(picture, Reason.TOO_FEW_SITES)
    return None


_DELIVERED = frozenset({Status.PENDING_AGGREGATING, Status.AGGREGATING, Status.SUCCESS, Status.FAILED, None})
"""Statuses in which a participant owes the round nothing."""


def _round(picture: Picture, now_us: int) -> Decision | None:
    policy, since_us = picture.policy, picture.standing.since_us
    if picture.standing.lost_us is not None:
        return None
    late = _stragglers(picture)
    if not _is_past(_plus(since_us, policy.round_deadline_s, times=1 if late else 2), now_us):
        return None
    if not late or policy.stragglers is not Stragglers.LEAVE_OUT:
        return _failed(picture, Reason.ROUND_DEADLINE)
    seats = tuple(replace(seat, status=Status.FAILED) if seat in late else seat for seat in picture.seats)
    return Decision(reason=Reason.LEFT_OUT, after=replace(picture, seats=seats))


def _stragglers(picture: Picture) -> list[Seat]:
    return [seat for seat in picture.seats if seat.role is Role.PARTICIPANT and seat.status not in _DELIVERED]


def _failed(picture: Picture, reason: Reason) -> Decision:
    seats = tuple(replace(seat, status=Status.FAILED) if seat.is_open else seat for seat in picture.seats)
    return Decision(reason=reason, after=replace(picture, seats=seats))


# --- what the coordinator does


def set_all(picture: Picture, status: Status, *, new_round: bool, now_us: int) -> Picture:
    """The whole batch is set to a status, and a round may begin with it: then who comes late joins.

    Who was left out stays out, unless a round begins that it may join.
    """
    joins = picture.policy.late_join and new_round and not status.is_terminal

    def moves(seat: Seat) -> bool:
        is_absent = seat.status is None or is_out(picture.policy, seat)
        return joins and seat.online if is_absent else True

    seats = tuple(replace(seat, status=status) if moves(seat) else seat for seat in picture.seats)
    standing = replace(picture.standing, since_us=now_us) if new_round else picture.standing
    return replace(picture, seats=seats, standing=standing)


def restarted(picture: Picture, now_us: int) -> Picture:
    """All begin again, who was left out or comes late too, and the policy's times count anew."""
    late_join = picture.policy.late_join
    seats = tuple(
        replace(seat, status=Status.STANDBY) if seat.status is not None or (late_join and seat.online) else seat
        for seat in picture.seats
    )
    return replace(picture, seats=seats, standing=fresh(picture.policy, now_us))


def stopped(picture: Picture) -> Picture:
    """What has not ended is to end: its controller sees Pending Failed, and says Failed."""
    seats = tuple(replace(seat, status=Status.PENDING_FAILED) if seat.is_open else seat for seat in picture.seats)
    return replace(picture, seats=seats)


def dequeued(picture: Picture) -> Picture:
    """A queued start is given up."""
    return replace(picture, standing=replace(picture.standing, queued=False))


# --- times


def fresh(policy: Policy, now_us: int) -> Standing:
    """A batch begins, or begins again."""
    return Standing(since_us=now_us, due_us=_plus(now_us, policy.deadline_s))


def awake(standing: Standing, now_us: int) -> Standing:
    """After a restart of the relay: a coordinator that was lost before has its whole grace again to come back."""
    if standing.lost_us is None:
        return standing
    return replace(_resumed(standing, now_us), lost_us=now_us)


def _resumed(standing: Standing, now_us: int) -> Standing:
    """The round's clock goes on from where it stood when the coordinator was lost."""
    assert standing.lost_us is not None
    stood_us = max(0, now_us - max(standing.lost_us, standing.since_us))
    return replace(standing, since_us=standing.since_us + stood_us, lost_us=None)


def _plus(at_us: int, seconds: float | None, *, times: int = 1) -> int | None:
    return None if seconds is None else at_us + int(seconds * times * 1_000_000)


def _is_past(due_us: int | None, now_us: int) -> bool:
    return due_us is not None and now_us >= due_us
