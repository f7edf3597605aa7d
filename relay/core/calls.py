"""The methods of `call` (protocol, section 4): each is its parameters, checked, and one use case.

A parameter that is missing, of a wrong type or out of range is `invalid`, and the details name it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from relay.core import access, admission, member_calls, membership, messaging, projects, runs, sites
from relay.core.access import Right
from relay.core.methods import (
    Caller,
    Id,
    Methods,
    Name,
    Nothing,
    OfProject,
    Seconds,
    Task,
    Text,
    Uid,
    read_params,
    shown_participation,
)
from relay.core.model import JoinPolicy, JsonObject, Kind, Run
from relay.core.objects import project_object, run_object
from relay.core.policy import Policy, Stragglers
from relay.core.run_states import BY_DISPLAY, Status
from relay.protocol.envelope import Call
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_run


class CreateProject(msgspec.Struct):
    name: Name
    tasks: Annotated[list[Task], Meta(max_length=1000)]
    description: Text = ""
    join_policy: JoinPolicy = JoinPolicy.OPEN


class JoinProject(msgspec.Struct):
    name: Name | None = None
    project: Id | None = None
    code: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    notes: Text = ""


class PolicyParams(msgspec.Struct):
    min_sites: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    mandatory_sites: Annotated[list[Uid], Meta(max_length=1000)] | None = None
    queue_s: Seconds | None = None
    deadline_s: Seconds | None = None
    round_deadline_s: Seconds | None = None
    stragglers: Stragglers | None = None
    late_join: bool | None = None
    coordinator_grace_s: Seconds | None = None

    def policy(self) -> Policy:
        return Policy(
            min_sites=self.min_sites,
            mandatory_sites=tuple(sorted({uid.lower() for uid in self.mandatory_sites or ()})),
            queue_s=self.queue_s,
            deadline_s=self.deadline_s,
            round_deadline_s=self.round_deadline_s,
            stragglers=self.stragglers,
            late_join=bool(self.late_join),
            coordinator_grace_s=self.coordinator_grace_s,
        )


class StartRuns(msgspec.Struct):
    project: Id
    policy: PolicyParams | None = None


class ControlRuns(msgspec.Struct):
    project: Id | None = None
    batch: Id | None = None
    run: Id | None = None


class MoveRun(msgspec.Struct):
    run: Id
    status: str | int
    increase_round: bool = False
    update_all: bool = False


class ListRuns(msgspec.Struct):
    project: Id
    batch: Id | None = None
    active: bool | None = None


class GetProgress(msgspec.Struct):
    project: Id
    batch: Id


class ReadHistory(msgspec.Struct):
    project: Id
    after: Id = 0
    limit: Annotated[int, Meta(ge=1, le=messaging.HISTORY_LIMIT)] = 100
    kind: Kind | None = None


class GetReceipts(msgspec.Struct):
    project: Id
    offset: Id


class PutKeys(msgspec.Struct):
    keys: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00]*$")],
            Annotated[str, Meta(max_length=8192, pattern=r"^[A-Za-z0-9+/_-]*={0,2}$")],
        ],
        Meta(max_length=32),
    ]


METHODS = Methods()
method = METHODS.add
READING = frozenset(
    {
        "projects.list",
        "projects.participants",
        "runs.list",
        "progress.get",
        "history.read",
        "cursors.list",
        "receipts.get",
        "keys.get",
        *member_calls.READING,
    }
)
"""The methods that change nothing."""


async def perform(caller: Caller, call: Call) -> Any:
    """Run a method and return its result, ready for JSON.

    Raises:
        ReplyError: `unknown_method`, `invalid`, or what the use case refuses with.
    """
    if call.method is None:
        raise invalid(method="required: the name of a method")
    known = METHODS.get(call.method)
    if known is None:
        raise ReplyError(ErrorCode.UNKNOWN_METHOD, f"no method {call.method[:60]!r}; there are {', '.join(METHODS)}")
    access.require_right(caller.principal, Right.READ if call.method in READING else Right.ACT)
    params, handler = known
    return await handler(caller, read_params(call.params or {}, params))


@method("projects.create", CreateProject)
async def _create_project(caller: Caller, params: CreateProject) -> JsonObject:
    tasks = msgspec.to_builtins(params.tasks)
    project = await projects.create(
        caller.node,
        caller.principal,
        caller.site.id,
        name=params.name,
        description=params.description,
        tasks=tasks,
        join_policy=params.join_policy,
    )
    return project_object(project)


@method("projects.join", JoinProject)
async def _join_project(caller: Caller, params: JoinProject) -> JsonObject:
    if sum(given is not None for given in (params.name, params.project, params.code)) != 1:
        raise invalid(
            name="required: the project's name, or an invitation's `code`, or an id in `project`, one of them"
        )
    if params.code is not None:
        part = await admission.redeem(
            caller.node, caller.principal, caller.site.id, code=params.code, notes=params.notes
        )
        return shown_participation(caller.node, part)
    part = await admission.join(
        caller.node,
        caller.principal,
        caller.site.id,
        project_id=params.project,
        name=params.name,
        notes=params.notes,
    )
    return shown_participation(caller.node, part)


@method("projects.leave", OfProject)
async def _leave_project(caller: Caller, params: OfProject) -> JsonObject:
    await membership.leave(caller.node, caller.principal, caller.site.id, params.project)
    return {}


@method("projects.list", Nothing)
async def _list_projects(caller: Caller, params: Nothing) -> list[JsonObject]:
    parts = await projects.participations(caller.node, caller.principal, caller.site.id)
    return [shown_participation(caller.node, part) for part in parts]


@method("projects.participants", OfProject)
async def _list_participants(caller: Caller, params: OfProject) -> list[JsonObject]:
    parts = await projects.members(caller.node, caller.principal, params.project)
    online = caller.node.presence.is_online
    return [shown_participation(caller.node, part) | {"online": online(part.site.id)} for part in parts]


@method("runs.start", StartRuns)
async def _start_runs(caller: Caller, params: StartRuns) -> JsonObject:
    policy = (params.policy or PolicyParams()).policy()
    batch = await runs.start(caller.node, caller.principal, params.project, policy)
    started: JsonObject = {"batch": batch.number, "runs": [run_object(run) for run in batch.runs]}
    return started if policy.queue_s is None else started | {"queued": batch.is_queued}


@method("runs.stop", ControlRuns)
async def _stop_runs(caller: Caller, params: ControlRuns) -> list[JsonObject]:
    if params.run is not None:
        moved = await _move_own(caller, params, Status.PENDING_FAILED)
    else:
        moved = await runs.stop(caller.node, caller.principal, *_batch_of(params))
    return [run_object(run) for run in moved]


@method("runs.restart", ControlRuns)
async def _restart_runs(caller: Caller, params: ControlRuns) -> list[JsonObject]:
    if params.run is not None:
        moved = await _move_own(caller, params, Status.STANDBY)
    else:
        moved = await runs.restart(caller.node, caller.principal, *_batch_of(params))
    return [run_object(run) for run in moved]


async def _move_own(caller: Caller, params: ControlRuns, status: Status) -> list[Run]:
    """One's own run alone; where a project or a batch is named too, it has to be theirs."""
    assert params.run is not None
    if params.project is not None:
        await projects.members(caller.node, caller.principal, params.project)
    run = await runs.visible(caller.node, caller.principal, params.run)
    if params.project not in (None, run.project_id) or params.batch not in (None, run.batch):
        raise unknown_run()
    return await runs.move(caller.node, caller.principal, run.id, status, update_all=False, increase_round=False)


def _batch_of(params: ControlRuns) -> tuple[int, int]:
    missing = {
        name: "required, or `run` for one's own run alone"
        for name in ("project", "batch")
        if getattr(params, name) is None
    }
    if missing:
        raise invalid(**missing)
    assert params.project is not None
    assert params.batch is not None
    return params.project, params.batch


@method("runs.status", MoveRun)
async def _move_run(caller: Caller, params: MoveRun) -> JsonObject | list[JsonObject]:
    if params.increase_round and not params.update_all:
        raise invalid(increase_round="goes with update_all: a round is the whole batch's")
    moved = await runs.move(
        caller.node,
        caller.principal,
        params.run,
        read_status(params.status),
        update_all=params.update_all,
        increase_round=params.increase_round,
    )
    return [run_object(run) for run in moved] if params.update_all else run_object(moved[0])


def read_status(given: str | int) -> Status:
    """A status by its display string or its code. Raises `ReplyError` with `invalid`."""
    if isinstance(given, str) and given in BY_DISPLAY:
        return BY_DISPLAY[given]
    if isinstance(given, int) and given in Status.__members__.values():
        return Status(given)
    raise invalid(status=f"one of {', '.join(BY_DISPLAY)}, or its code 0 to 8")


@method("runs.list", ListRuns)
async def _list_runs(caller: Caller, params: ListRuns) -> list[JsonObject]:
    found = await runs.listing(caller.node, caller.principal, params.project, batch=params.batch, active=params.active)
    return [run_object(run) for run in found]


@method("progress.get", GetProgress)
async def _get_progress(caller: Caller, params: GetProgress) -> list[JsonObject]:
    return await messaging.newest_progress(caller.node, caller.principal, caller.site.id, params.project, params.batch)


@method("history.read", ReadHistory)
async def _read_history(caller: Caller, params: ReadHistory) -> list[JsonObject]:
    return await messaging.history(
        caller.node,
        caller.principal,
        caller.site.id,
        params.project,
        after=params.after,
        limit=params.limit,
        kind=params.kind,
    )


@method("cursors.list", OfProject)
async def _list_cursors(caller: Caller, params: OfProject) -> list[JsonObject]:
    return await messaging.cursors(caller.node, caller.principal, params.project)


@method("receipts.get", GetReceipts)
async def _get_receipts(caller: Caller, params: GetReceipts) -> JsonObject:
    return await messaging.receipts(caller.node, caller.principal, caller.site.id, params.project, params.offset)


@method("keys.put", PutKeys)
async def _put_keys(caller: Caller, params: PutKeys) -> JsonObject:
    await sites.put_keys(caller.node, caller.principal, caller.site.id, params.keys)
    return {}


@method("keys.get", OfProject)
async def _get_keys(caller: Caller, params: OfProject) -> JsonObject:
    keys: JsonObject = dict(await sites.get_keys(caller.node, caller.principal, params.project))
    return keys


METHODS |= member_calls.METHODS
