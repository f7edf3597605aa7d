"""Runs and batches: start, move, stop, restart, and what is told of it.

A batch is one execution of a project: one run for each site that takes part in it. A run is moved by its own site along
`run_states.TRANSITIONS`; the coordinator moves the batch as a whole; its policy, if it has one, is looked after by
`relay.core.rounds`. Each change is a `run` event, and when all runs of the batch have come to stand in one status, a
`batch` event says so in the same transaction (`relay.core.batches`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from relay.core import access, batches, polls
from relay.core import policy as policies
from relay.core.access import Action, Principal
from relay.core.audit_chain import Deed
from relay.core.batches import Batch
from relay.core.change import Change
from relay.core.model import Participant, Run, current_task
from relay.core.node import Node
from relay.core.policy import Decision, Picture, Policy, Reason, decide, is_out
from relay.core.ports import StorageUnavailable
from relay.core.run_states import Status, may_move
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_project, unknown_run


async def start(node: Node, principal: Principal, project_id: int, policy: Policy) -> Batch:
    """Begin the next batch: a run in Standby for each member that is online. Or have it wait for who is needed.

    A refused start changes nothing.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `conflict`, while a batch is open or queued; `not_all_connected`;
            `invalid`, for a mandatory site that is no member.
    """
    async with node.change(project_id) as change:
        change.note(Deed.RUNS_START, principal, f"project:{project_id}")
        members = await change.tx.participants.of_project(project_id)
        access.require(principal, Action.CONTROL_BATCH, members)
        _require_members(policy, members)
        await batches.require_none_open(change, project_id)
        project = await change.tx.projects.get(project_id)
        if project is None:
            raise unknown_project()
        online = node.presence.is_online
        batch = batches.queued(project_id, project.batch + 1, members, policy, online, change.now_us)
        decision = decide(batch.picture, change.now_us)
        if decision is None and policy.queue_s is None:
            raise _not_all_connected(batch)
        await change.tx.projects.set_batch(project_id, batch.number, change.now_us)
        if decision is None:
            await batches.enqueue(change, batch)
            return batch
        runs = await batches.apply(change, batch, decision)
    return replace(batch, runs=runs, picture=decision.after)


def _require_members(policy: Policy, members: Sequence[Participant]) -> None:
    unknown = sorted(set(policy.mandatory_sites) - {member.site_uid for member in members})
    if unknown:
        raise invalid(policy=f"mandatory_sites: not members of the project: {', '.join(unknown[:3])[:150]}")


def _not_all_connected(batch: Batch) -> ReplyError:
    uids = [seat.uid for seat in batch.picture.seats if not seat.online]
    return ReplyError(
        ErrorCode.NOT_ALL_CONNECTED, f"{len(uids)} of {len(batch.members)} sites are not connected", {"offline": uids}
    )


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
            target = f"project:{run.project_id}"
            change.note(Deed.RUNS_SET_ALL, principal, target, batch=run.batch, status=status.display)
            access.require(principal, Action.CONTROL_BATCH, members)
            batch = await batches.find(change.tx, run.project_id, run.batch, node.presence.is_online)
            if status is Status.RUNNING and polls.repeats_start(batch.runs, change.now_us, dwell_us):
                return batch.runs
            return await _set_all(change, batch, status, increase_round=increase_round)
        access.require_own_run(principal, run.site_id, members)
        return await _move_alone(change, run, status)


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


async def _set_all(change: Change, batch: Batch, status: Status, *, increase_round: bool) -> list[Run]:
    new_round = increase_round or status is Status.STANDBY
    after = policies.set_all(batch.picture, status, new_round=new_round, now_us=change.now_us)
    runs = await batches.become(change, batch, after, _next_round if increase_round else _as_it_is)
    if _somebody_joins(batch.picture, after):
        batches.tell_batch(change, batch.project_id, batch.number, after.slowest, Reason.LATE_JOINED)
    if runs != batch.runs:
        await batches.tell_if_settled(change, batch.project_id, reason=Reason.ALL_RUNS, batch=batch.number)
    return runs


def _as_it_is(run: Run) -> Run:
    return run


def _somebody_joins(before: Picture, after: Picture) -> bool:
    was_in = {seat.site_id for seat in before.seats if seat.status is not None and not is_out(before.policy, seat)}
    is_in = {seat.site_id for seat in after.seats if seat.status is not None and not is_out(after.policy, seat)}
    return not is_in <= was_in


async def stop(node: Node, principal: Principal, project_id: int, number: int) -> list[Run]:
    """Stop a batch: its runs go to Pending Failed, but for those that have ended. A queued start is given up.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `unknown_run`, if there is no such batch.
    """
    async with node.change(project_id) as change:
        change.note(Deed.RUNS_STOP, principal, f"project:{project_id}", batch=number)
        batch = await _control(node, change, principal, project_id, number)
        if batch.is_queued:
            decision = Decision(reason=Reason.STOPPED, after=policies.dequeued(batch.picture))
            return await batches.apply(change, batch, decision)
        return await _become(change, batch, policies.stopped(batch.picture), Reason.STOPPED)


async def restart(node: Node, principal: Principal, project_id: int, number: int) -> list[Run]:
    """Begin a batch again: all its runs go to Standby.

    Raises:
        ReplyError: `unknown_project`, `forbidden`; `unknown_run`, if there is no such batch; `conflict`, while another
            batch is open, or this one is queued.
    """
    async with node.change(project_id) as change:
        change.note(Deed.RUNS_RESTART, principal, f"project:{project_id}", batch=number)
        batch = await _control(node, change, principal, project_id, number)
        if batch.is_queued:
            raise ReplyError(ErrorCode.CONFLICT, f"batch {number} has not begun", {"batch": number})
        return await _become(change, batch, policies.restarted(batch.picture, change.now_us), Reason.RESTARTED)


async def _control(node: Node, change: Change, principal: Principal, project_id: int, number: int) -> Batch:
    members = await change.tx.participants.of_project(project_id)
    access.require(principal, Action.CONTROL_BATCH, members)
    batch = await batches.find(change.tx, project_id, number, node.presence.is_online)
    if not batch.runs and not batch.is_queued:
        raise unknown_run()
    return batch


async def _become(change: Change, batch: Batch, after: Picture, reason: Reason) -> list[Run]:
    runs = await batches.become(change, batch, after)
    if runs != batch.runs:
        await batches.tell_if_settled(change, batch.project_id, reason=reason, batch=batch.number)
    return runs


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
        batches.tell_run(change, run)
    return run


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
    facts = await node.known_runs.get(run_id)
    return [] if facts is None else [facts.project_id]


async def see(change: Change, principal: Principal, run_id: int) -> tuple[Run, list[Participant]]:
    """A run that the caller may see, and the members of its project. Raises `ReplyError` with `unknown_run`."""
    run = await change.tx.runs.get(run_id)
    members = [] if run is None else await change.tx.participants.of_project(run.project_id)
    if run is None or not access.may_see_run(principal, run.site_id, members):
        raise unknown_run()
    return run, members


async def _move_alone(change: Change, run: Run, status: Status) -> list[Run]:
    if not may_move(run.status, status):
        raise ReplyError(
            ErrorCode.CONFLICT,
            f"a run goes from {run.status.display} to no {status.display}",
            {"from": run.status.display, "to": status.display},
        )
    runs = await batches.store(change, [run], [replace(run, status=status)])
    if runs != [run]:
        await batches.tell_if_settled(change, run.project_id, reason=Reason.ALL_RUNS, batch=run.batch)
    return runs


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


_RETRY_S = 1.0
