"""A batch inside a change: found with its policy, stored as it becomes, and told of.

Everything here happens in a transaction that holds the project's journal (`Change`): runs and the events that tell of
them are one commit, whoever moves the batch: its coordinator, its sites, or its policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from relay.core.change import Change, own_event
from relay.core.model import JsonObject, Kind, Participant, Role, Run
from relay.core.policy import Decision, Picture, Policy, Reason, Seat, Standing, fresh, in_play, is_out
from relay.core.ports import Tx
from relay.core.run_states import Status, common
from relay.protocol.errors import ErrorCode, ReplyError

Online = Callable[[int], bool]
"""Whether a site is there, by its id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch as it was found: its runs, and what its policy sees of it."""

    project_id: int
    number: int
    members: Sequence[Participant]
    runs: list[Run]
    picture: Picture

    @property
    def is_queued(self) -> bool:
        return self.picture.standing.queued

    @property
    def has_policy(self) -> bool:
        return self.picture.policy != Policy() or self.picture.standing.due_us is not None


# --- finding


async def find(tx: Tx, project_id: int, number: int, online: Online) -> Batch:
    """A batch by its number. One without runs that is not queued does not exist."""
    members = await tx.participants.of_project(project_id)
    runs = await tx.runs.of_batch(project_id, number)
    policy, standing = await tx.policies.get(project_id, number) or (Policy(), Standing())
    return _batch(project_id, number, members, runs, policy, standing, online)


async def find_open(tx: Tx, project_id: int, online: Online) -> Batch | None:
    """The project's batch that waits for its sites, or has a run that has not ended."""
    number = await open_number(tx, project_id)
    return None if number is None else await find(tx, project_id, number, online)


async def open_number(tx: Tx, project_id: int) -> int | None:
    number = await tx.runs.open_batch(project_id)
    return number if number is not None else await tx.policies.queued(project_id)


async def require_none_open(change: Change, project_id: int, *, but: int | None = None) -> None:
    """Raises `ReplyError` with `conflict` while a batch, other than `but`, is open or queued."""
    number = await open_number(change.tx, project_id)
    if number not in (None, but):
        raise ReplyError(ErrorCode.CONFLICT, f"batch {number} has not ended", {"batch": number})


def queued(
    project_id: int, number: int, members: Sequence[Participant], policy: Policy, online: Online, now_us: int
) -> Batch:
    """A batch that has not begun, and that nobody but the caller knows of."""
    return _batch(project_id, number, members, [], policy, Standing(queued=True, since_us=now_us), online)


def _batch(
    project_id: int,
    number: int,
    members: Sequence[Participant],
    runs: list[Run],
    policy: Policy,
    standing: Standing,
    online: Online,
) -> Batch:
    status = {run.site_id: run.status for run in runs}
    seats = tuple(
        Seat(
            site_id=member.site_id,
            uid=member.site_uid,
            role=member.role,
            online=online(member.site_id),
            status=status.get(member.site_id),
        )
        for member in members
    )
    picture = Picture(policy=policy, standing=standing, seats=seats)
    return Batch(project_id=project_id, number=number, members=members, runs=runs, picture=picture)


# --- storing


async def apply(change: Change, batch: Batch, decision: Decision) -> list[Run]:
    """Do what the policy has decided, and tell of it. Returns the batch's runs."""
    runs = await become(change, batch, decision.after)
    tell_batch(change, batch.project_id, batch.number, decision.after.slowest, decision.reason)
    if decision.reason is Reason.LEFT_OUT:
        await tell_if_settled(change, batch.project_id, reason=Reason.ALL_RUNS, batch=batch.number)
    return runs


async def become(
    change: Change, batch: Batch, after: Picture, turn: Callable[[Run], Run] = lambda run: run
) -> list[Run]:
    """Have the runs and the policy stand as in `after`; tell of each run that is new or has changed.

    `turn` is what happens to a run's tasks besides, if it is in play. Who joins late, or comes back, is where the
    coordinator is.
    """
    status = {seat.site_id: seat.status for seat in after.seats}
    lead = next((turn(run) for run in batch.runs if run.role is Role.COORDINATOR), None)
    wanted = []
    for run in batch.runs:
        to = status[run.site_id]
        assert to is not None
        if not is_out(after.policy, run):
            run = turn(run)
        elif to is not run.status and lead is not None:
            run = replace(run, tasks=lead.tasks, cur_seq=lead.cur_seq)
        wanted.append(replace(run, status=to))
    # Before the runs: a batch that comes back to life has its policy put anew by `store`.
    if after.standing != batch.picture.standing:
        await _put_standing(change, batch, after)
    runs = await store(change, batch.runs, wanted)
    known = {run.site_id for run in runs}
    joiners = [one for one in batch.members if status[one.site_id] is not None and one.site_id not in known]
    return runs + await _create(change, batch, joiners, lead, after) if joiners else runs


async def _create(
    change: Change, batch: Batch, joiners: Sequence[Participant], lead: Run | None, after: Picture
) -> list[Run]:
    """Runs for those who had none: at the start with the project's tasks, later where the coordinator is."""
    tx = change.tx
    if lead is not None:
        tasks = lead.tasks
    else:
        project = await tx.projects.get(batch.project_id)
        tasks = [] if project is None else project.tasks
    status = {seat.site_id: seat.status for seat in after.seats}
    sites = {joiner.site_id for joiner in joiners}
    made = []
    for run in await tx.runs.create(joiners, batch=batch.number, tasks=tasks, now_us=change.now_us):
        if run.site_id not in sites:
            continue
        wanted = replace(run, status=status[run.site_id] or run.status, cur_seq=lead.cur_seq if lead else run.cur_seq)
        if wanted != run:
            await _set_state(change, wanted)
        tell_run(change, wanted)
        made.append(wanted)
    return made


async def store(change: Change, before: Sequence[Run], after: Sequence[Run]) -> list[Run]:
    """Store the runs that differ, and tell of each."""
    changed = [
        (old, replace(new, updated_us=change.now_us)) for old, new in zip(before, after, strict=True) if old != new
    ]
    if any(old.status.is_terminal and not new.status.is_terminal for old, new in changed):
        await _reopen(change, changed[0][1])
    for _, new in changed:
        await _set_state(change, new)
        tell_run(change, new)
    by_id = {new.id: new for _, new in changed}
    return [by_id.get(run.id, run) for run in after]


async def _set_state(change: Change, run: Run) -> None:
    await change.tx.runs.set_state(
        run.id, status=run.status, cur_seq=run.cur_seq, tasks=run.tasks, now_us=change.now_us
    )


async def _reopen(change: Change, run: Run) -> None:
    """An ended run comes back to life only while no other batch is open; with an ended batch, its policy does too."""
    await require_none_open(change, run.project_id, but=run.batch)
    known = await change.tx.policies.get(run.project_id, run.batch)
    if known is None or await change.tx.runs.open_batch(run.project_id) is not None:
        return
    policy, _ = known
    await change.tx.policies.put(run.project_id, run.batch, policy, fresh(policy, change.now_us))
    tell_batch(change, run.project_id, run.batch, Status.STANDBY, Reason.REOPENED)


async def _put_standing(change: Change, batch: Batch, after: Picture) -> None:
    policies, key = change.tx.policies, (batch.project_id, batch.number)
    if batch.is_queued and not after.is_open and not after.standing.queued:
        await policies.drop(*key)  # it was given up
    elif after.policy != Policy():
        await policies.put(*key, after.policy, after.standing)


async def enqueue(change: Change, batch: Batch) -> None:
    """The start waits for its sites."""
    await change.tx.policies.put(batch.project_id, batch.number, batch.picture.policy, batch.picture.standing)
    tell_batch(change, batch.project_id, batch.number, Status.STANDBY, Reason.QUEUED)


# --- telling


async def tell_if_settled(change: Change, project_id: int, *, reason: Reason, batch: int) -> None:
    """Tell of a batch all of whose runs now stand in one status; those apart that were left out."""
    runs = await change.tx.runs.of_batch(project_id, batch)
    policy, _ = await change.tx.policies.get(project_id, batch) or (Policy(), None)
    status = common(run.status for run in in_play(policy, runs))
    if status is not None:
        tell_batch(change, project_id, batch, status, reason)


def tell_run(change: Change, run: Run) -> None:
    data: JsonObject = {
        "run": run.id,
        "site": run.site_uid,
        "batch": run.batch,
        "role": run.role.display,
        "status": run.status.display,
        "status_code": int(run.status),
        "cur_seq": run.cur_seq,
        "round": run.round,
    }
    event = own_event(
        Kind.RUN, data, audience=frozenset({run.site_id}), subject_id=run.site_id, run=run.id, batch=run.batch
    )
    change.tell(run.project_id, event)


def tell_batch(change: Change, project_id: int, batch: int, status: Status, reason: Reason) -> None:
    data: JsonObject = {"batch": batch, "status": status.display, "status_code": int(status), "reason": reason}
    change.tell(project_id, own_event(Kind.BATCH, data, batch=batch))
