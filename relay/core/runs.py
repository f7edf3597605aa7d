"""Runs and batches: start, move, stop, restart, and what is told of it.

A batch is one execution of a project: one run for each site that takes part in it. A run is moved by its own site along
`run_states.TRANSITIONS`; the coordinator moves the batch as a whole. Each change is a `run` event, and when all runs of
the batch have come to stand in one status, a `batch` event says so in the same transaction.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from relay.core import access, polls
from relay.core.access import Action, Principal
from relay.core.model import JsonObject, Kind, Participant, Role, Run, current_task
from relay.core.node import Change, Node, own_event
from relay.core.ports import StorageUnavailable
from relay.core.run_states import Status, common, may_move
from relay.protocol.errors import ErrorCode, ReplyError, unknown_project, unknown_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """When a batch may begin and when it must have ended.

    Attributes:
        min_sites: participants (not counting the coordinator) that must be online; the others get no run. None: every
            member must be online.
        deadline_s: seconds after which runs that have not ended are failed. None: no deadline.
    """

    min_sites: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    number: int
    runs: list[Run]


async def start(node: Node, principal: Principal, project_id: int, policy: Policy) -> Batch:
    """Begin the next batch: a run in Standby for each member. A refused start changes nothing.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `conflict`, while a batch is open; `not_all_connected`.
    """
    async with node.change(project_id) as change:
        members = await change.tx.participants.of_project(project_id)
        access.require(principal, Action.CONTROL_BATCH, members)
        open_batch = await change.tx.runs.open_batch(project_id)
        if open_batch is not None:
            raise ReplyError(ErrorCode.CONFLICT, f"batch {open_batch} has not ended", {"batch": open_batch})
        starters = _starters(node, members, policy)
        project = await change.tx.projects.get(project_id)
        if project is None:
            raise unknown_project()
        batch = project.batch + 1
        await change.tx.projects.set_batch(project_id, batch, change.now_us)
        runs = await change.tx.runs.create(starters, batch=batch, tasks=project.tasks, now_us=change.now_us)
        if policy.deadline_s is not None:
            due_us = change.now_us + int(policy.deadline_s * 1e6)
            await change.tx.deadlines.set(project_id, batch, due_us)
        for run in runs:
            _tell_run(change, run)
        _tell_batch(change, project_id, batch, Status.STANDBY, "started")
    if policy.deadline_s is not None:
        node.deadlines.add(due_us, project_id, batch)
    return Batch(number=batch, runs=runs)


def _starters(node: Node, members: Sequence[Participant], policy: Policy) -> list[Participant]:
    """Who gets a run, if enough are online for a start at all."""
    offline = [member for member in members if not node.presence.is_online(member.site_id)]
    online = [member for member in members if member not in offline]
    if policy.min_sites is None:
        ready = not offline
    else:
        ready = sum(member.role is Role.PARTICIPANT for member in online) >= policy.min_sites
        ready = ready and any(member.role is Role.COORDINATOR for member in online)
    if not ready:
        uids = [member.site_uid for member in offline]
        raise ReplyError(
            ErrorCode.NOT_ALL_CONNECTED, f"{len(uids)} of {len(members)} sites are not connected", {"offline": uids}
        )
    return online


async def move(
    node: Node,
    principal: Principal,
    run_id: int,
    status: Status,
    *,
    update_all: bool,
    increase_round: bool,
    dwell_us: int = 0,
) -> list[Run]:
    """Set a run's status, or with `update_all` that of its whole batch, whatever each run stands in.

    `increase_round` goes with `update_all`: the round of the current task counts up first, or the next task begins.
    `dwell_us` is given for a caller that polls, and may still be shown what is no longer so (see `relay.core.polls`).

    Raises:
        ReplyError: `unknown_run`, `forbidden`; `conflict`, for a transition that a run alone does not have.
    """
    async with node.change(*await project_of(node, run_id)) as change:
        run, members = await see(change, principal, run_id)
        if update_all:
            access.require(principal, Action.CONTROL_BATCH, members)
            batch = await change.tx.runs.of_batch(run.project_id, run.batch)
            if status is Status.RUNNING and polls.repeats_start(batch, change.now_us, dwell_us):
                return batch
            wanted = [_next_round(each) if increase_round else each for each in batch]
            moved = [replace(each, status=status) for each in wanted]
            return await _store(change, batch, moved, "all_runs")
        access.require_own_run(principal, run.site_id, members)
        return await _move_alone(change, run, status, "all_runs")


async def move_surely(
    node: Node,
    principal: Principal,
    run_id: int,
    status: Status,
    *,
    update_all: bool,
    increase_round: bool,
    dwell_us: int,
    patience_s: float,
) -> list[Run]:
    """Like `move`, for a caller that does not ask twice: while the storage does not answer, it is tried again.

    A commit whose outcome is not known is not done twice: what it would have done is looked for first.
    """
    give_up_at = asyncio.get_running_loop().time() + patience_s
    before: Run | None = None
    while True:
        try:
            now = await visible(node, principal, run_id)
            if before is not None and now.status is status and now.updated_us != before.updated_us:
                return [now]
            before = before or now
            return await move(
                node,
                principal,
                run_id,
                status,
                update_all=update_all,
                increase_round=increase_round,
                dwell_us=dwell_us,
            )
        except StorageUnavailable:
            if asyncio.get_running_loop().time() > give_up_at:
                raise
            await asyncio.sleep(_RETRY_S)


async def stop(node: Node, principal: Principal, project_id: int, batch: int) -> list[Run]:
    """Stop a batch: its runs go to Pending Failed, but for those that have ended.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `unknown_run`, if there is no such batch.
    """
    return await _control(node, principal, project_id, batch, Status.PENDING_FAILED, "stopped")


async def restart(node: Node, principal: Principal, project_id: int, batch: int) -> list[Run]:
    """Begin a batch again: all its runs go to Standby.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `unknown_run`, if there is no such batch; `conflict`, while another
            batch is open.
    """
    return await _control(node, principal, project_id, batch, Status.STANDBY, "restarted")


async def _control(
    node: Node, principal: Principal, project_id: int, batch: int, status: Status, reason: str
) -> list[Run]:
    async with node.change(project_id) as change:
        members = await change.tx.participants.of_project(project_id)
        access.require(principal, Action.CONTROL_BATCH, members)
        runs = await change.tx.runs.of_batch(project_id, batch)
        if not runs:
            raise unknown_run()
        stays = frozenset({Status.FAILED, Status.SUCCESS}) if status is Status.PENDING_FAILED else frozenset()
        moved = [run if run.status in stays else replace(run, status=status) for run in runs]
        return await _store(change, runs, moved, reason)


async def set_lists(
    node: Node, principal: Principal, run_id: int, *, artifacts: list[Any] | None = None, logs: list[Any] | None = None
) -> Run:
    """Put other lists in the place of a run's own: data, whatever it looks like; never opened as files.

    Raises:
        ReplyError: `unknown_run`, `forbidden`.
    """
    async with node.change(*await project_of(node, run_id)) as change:
        run, members = await see(change, principal, run_id)
        access.require_own_run(principal, run.site_id, members)
        run = replace(
            run,
            artifacts=run.artifacts if artifacts is None else artifacts,
            logs=run.logs if logs is None else logs,
            updated_us=change.now_us,
        )
        await change.tx.runs.set_fields(run_id, {"artifacts": run.artifacts, "logs": run.logs}, change.now_us)
        _tell_run(change, run)
    return run


async def expire(node: Node, project_id: int, batch: int) -> None:
    """A batch's deadline has come: what has not ended is Failed, and the batch says why."""
    async with node.change(project_id) as change:
        runs = await change.tx.runs.of_batch(project_id, batch)
        due_us = await change.tx.deadlines.get(project_id, batch)
        if due_us is None or due_us > change.now_us:
            return
        await change.tx.deadlines.drop(project_id, batch)
        late = [run for run in runs if not run.status.is_terminal]
        if not late:
            return
        failed = [replace(run, status=Status.FAILED) for run in late]
        await _store(change, late, failed, "deadline", settle=False)
        _tell_batch(change, project_id, batch, Status.FAILED, "deadline")


async def visible(node: Node, principal: Principal, run_id: int) -> Run:
    """A run that the caller may see.

    Raises:
        ReplyError: `unknown_run`.
    """
    async with node.store.snapshot() as tx:
        run = await tx.runs.get(run_id)
        members = [] if run is None else await tx.participants.of_project(run.project_id)
    if run is None or not access.may_see_run(principal, run.site_id, members):
        raise unknown_run()
    return run


async def listing(
    node: Node, principal: Principal, project_id: int, *, batch: int | None = None, active: bool | None = None
) -> list[Run]:
    """A project's runs, ordered by batch: for a coordinator all, for a participant its own.

    Raises:
        ReplyError: `unknown_project`.
    """
    async with node.store.snapshot() as tx:
        members = await tx.participants.of_project(project_id)
        access.require(principal, Action.SEE_PROJECT, members)
        runs = await tx.runs.of_project(project_id, batch=batch, active=active)
    return [run for run in runs if access.may_see_run(principal, run.site_id, members)]


# --- inside a change


async def project_of(node: Node, run_id: int) -> list[int]:
    """The project whose journal is to be held; none if there is no such run, which `see` then says."""
    facts = await node.run_facts(run_id)
    return [] if facts is None else [facts.project_id]


async def see(change: Change, principal: Principal, run_id: int) -> tuple[Run, list[Participant]]:
    """A run that the caller may see, and the members of its project. Raises `ReplyError` with `unknown_run`."""
    run = await change.tx.runs.get(run_id)
    members = [] if run is None else await change.tx.participants.of_project(run.project_id)
    if run is None or not access.may_see_run(principal, run.site_id, members):
        raise unknown_run()
    return run, members


async def _move_alone(change: Change, run: Run, status: Status, reason: str) -> list[Run]:
    if not may_move(run.status, status):
        raise ReplyError(
            ErrorCode.CONFLICT,
            f"a run goes from {run.status.display} to no {status.display}",
            {"from": run.status.display, "to": status.display},
        )
    return await _store(change, [run], [replace(run, status=status)], reason)


async def _store(
    change: Change, before: Sequence[Run], after: Sequence[Run], reason: str, *, settle: bool = True
) -> list[Run]:
    """Store the runs that differ, tell of each, and of the batch if it has come to stand in one status."""
    changed = [
        (old, replace(new, updated_us=change.now_us)) for old, new in zip(before, after, strict=True) if old != new
    ]
    if not changed:
        return list(after)
    first = changed[0][1]
    if any(old.status.is_terminal and not new.status.is_terminal for old, new in changed):
        await _require_only_batch(change, first)
    for _, new in changed:
        await change.tx.runs.set_state(
            new.id, status=new.status, cur_seq=new.cur_seq, tasks=new.tasks, now_us=change.now_us
        )
        _tell_run(change, new)
    if settle:
        await tell_if_settled(change, first.project_id, batch=first.batch, reason=reason)
    by_id = {new.id: new for _, new in changed}
    return [by_id.get(run.id, run) for run in after]


async def _require_only_batch(change: Change, run: Run) -> None:
    """An ended run comes back to life only while no other batch is open."""
    open_batch = await change.tx.runs.open_batch(run.project_id)
    if open_batch is not None and open_batch != run.batch:
        raise ReplyError(ErrorCode.CONFLICT, f"batch {open_batch} is open", {"batch": open_batch})


async def tell_if_settled(change: Change, project_id: int, *, reason: str, batch: int | None = None) -> None:
    """Tell of a batch all of whose runs now stand in one status (left out: of the open one)."""
    number = batch if batch is not None else await change.tx.runs.open_batch(project_id)
    if number is None:
        return
    status = common(run.status for run in await change.tx.runs.of_batch(project_id, number))
    if status is None:
        return
    _tell_batch(change, project_id, number, status, reason)
    if status.is_terminal:
        await change.tx.deadlines.drop(project_id, number)


def _tell_run(change: Change, run: Run) -> None:
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


def _tell_batch(change: Change, project_id: int, batch: int, status: Status, reason: str) -> None:
    data: JsonObject = {"batch": batch, "status": status.display, "status_code": int(status), "reason": reason}
    change.tell(project_id, own_event(Kind.BATCH, data, batch=batch))


def _next_round(run: Run) -> Run:
    """The run with its round counted up, or, after the task's last round, with the next task begun if there is one."""
    tasks = copy.deepcopy(run.tasks)
    task = current_task(tasks, run.cur_seq)
    if task is None:
        return run
    config = task.get("config") or {}
    now, total = config.get("current_round"), config.get("total_round")
    if isinstance(now, int) and isinstance(total, int) and now < total:
        config["current_round"] = now + 1
        return replace(run, tasks=tasks)
    if current_task(tasks, run.cur_seq + 1) is not None:
        return replace(run, cur_seq=run.cur_seq + 1)
    return run


def by_site(runs: Iterable[Run]) -> dict[str, Run]:
    """A batch's runs by the uid of their site."""
    return {run.site_uid: run for run in runs}


# --- deadlines

_RETRY_S = 1.0


async def watch_deadlines(node: Node) -> None:
    """From now on batches end at their deadlines, those included that were set before a restart."""

    def due(project_id: int, batch: int) -> None:
        node.spawn(_expire_surely(node, project_id, batch), f"deadline-{project_id}-{batch}")

    node.deadlines.on_due = due
    async with node.store.snapshot() as tx:
        known = await tx.deadlines.all()
    for due_us, project_id, batch in known:
        node.deadlines.add(due_us, project_id, batch)


async def _expire_surely(node: Node, project_id: int, batch: int) -> None:
    while True:
        try:
            await expire(node, project_id, batch)
            return
        except StorageUnavailable:
            await asyncio.sleep(_RETRY_S)
