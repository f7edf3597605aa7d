"""`runs` and `runs/`: start a batch, move runs, look at them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from relay.core import polls, projects, runs
from relay.core.model import JsonObject, Run
from relay.core.objects import run_object
from relay.core.policy import Policy
from relay.core.run_states import Status
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.legacy.answers import Answer, Refused, bad
from relay.web.legacy.door import Asked, View, page
from relay.web.legacy.fields import number
from relay.web.legacy.projects import participation_shown, tasks_shown
from relay.web.legacy.projects import shown as project_shown

PATIENCE_S = 20.0
"""How long a change of status waits for a storage that does not answer: its sender does not look at the answer."""


def shown(asked: Asked, run: Run) -> JsonObject:
    """A run as polls show it: Preparing for a while (see `relay.core.polls`), each task with a config."""
    dwell_us = asked.door.dwell_us
    now_us = asked.node.now_us()
    status = polls.shown(run, now_us, dwell_us)
    until_us = polls.ends_us(run, dwell_us)
    if status is not run.status and until_us is not None:
        asked.reading.holds_until(until_us)
    return run_object(run, status=status) | {"tasks": tasks_shown(run.tasks)}


def _all_shown(asked: Asked, found: Iterable[Run]) -> list[JsonObject]:
    return [shown(asked, run) for run in found]


async def start(asked: Asked) -> Answer:
    data = await asked.data()
    project_id = number(data.get("project")) if isinstance(data, dict) else None
    try:
        await runs.start(asked.node, asked.principal, project_id or 0, Policy())
    except ReplyError as error:
        raise _not_started(error) from None
    return Answer(status=201)


def _not_started(error: ReplyError) -> ReplyError | Refused:
    match error.code:
        case ErrorCode.CONFLICT:
            return bad("Last round of runs not completed")
        case ErrorCode.NOT_ALL_CONNECTED:
            return bad("Not all sites are connected")
        case ErrorCode.UNKNOWN_PROJECT:
            return bad("project not found")
    return error


async def listing(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await polls.page(asked.node, asked.principal, limit=limit, skip=skip)
        return count, _all_shown(asked, found)

    return await page(asked, fetch)


async def retrieve(asked: Asked) -> Answer:
    run = await runs.visible(asked.node, asked.principal, asked.id())
    part = await projects.participation(asked.node, asked.principal, run.participant_id)
    nested = {"project": project_shown(part.project), "participant": participation_shown(asked, part)}
    return Answer(body=shown(asked, run) | nested)


async def set_lists(asked: Asked) -> Answer:
    """Put `artifacts` in the place of the run's, and `log` in that of its logs: data, never opened as files."""
    run = await runs.visible(asked.node, asked.principal, asked.id())
    data = await asked.data()
    if not isinstance(data, dict):
        raise bad({"non_field_errors": [f"Invalid data. Expected a dictionary, but got {type(data).__name__}."]})
    artifacts = data.get("artifacts")
    if artifacts is None:
        raise bad({"artifacts": ["This field may not be null."]})
    if not isinstance(artifacts, list):
        raise bad({"artifacts": [f'Expected a list of items but got type "{type(artifacts).__name__}".']})
    log = data.get("log")
    logs = log if isinstance(log, list) or log is None else [log]
    changed = await runs.set_lists(asked.node, asked.principal, run.id, artifacts=artifacts, logs=logs)
    return Answer(status=202, body=shown(asked, changed))


async def set_status(asked: Asked) -> Answer:
    run = await runs.visible(asked.node, asked.principal, asked.id())
    data = await asked.data()
    given = data.get("status") if isinstance(data, dict) else None
    if isinstance(given, str) and given.isdigit():
        return Answer(status=202)  # as ever: a number in quotes is taken, and moves nothing
    if isinstance(given, bool) or not isinstance(given, int | float) or given not in Status.__members__.values():
        raise bad("status is invalid")
    await runs.move_surely(
        asked.node,
        asked.principal,
        run.id,
        Status(int(given)),
        update_all=bool(data.get("update_all")),
        increase_round=bool(data.get("increase_round")),
        dwell_us=asked.door.dwell_us,
        patience_s=PATIENCE_S,
    )
    return Answer(status=202)


async def active(asked: Asked) -> Answer:
    return Answer(body=_all_shown(asked, await polls.active(asked.node, asked.principal)))


async def look_up(asked: Asked) -> Answer:
    """The runs of a project, one entry a batch: a site's own, or all that the caller may see merged into one."""
    project_id, batch, uid = asked.query_id("project"), asked.query_id("batch_id"), asked.query("site_uid")
    if project_id is None:
        raise bad("project is required")
    try:
        found = await runs.listing(asked.node, asked.principal, project_id, batch=batch)
    except ReplyError as error:
        if error.code is not ErrorCode.UNKNOWN_PROJECT:
            raise
        found = []
    if uid is not None:
        return Answer(body=_all_shown(asked, [run for run in found if run.site_uid == uid.lower()]))
    return Answer(body=[_merged(asked, list(batch)) for _, batch in groupby(found, key=lambda run: run.batch)])


def _merged(asked: Asked, batch: list[Run]) -> JsonObject:
    """A batch as one entry: the first run, with the earliest and latest times and the alphabetically first status."""
    entries = _all_shown(asked, batch)
    return entries[0] | {
        "status": min(entry["status"] for entry in entries),
        "created_at": min(entry["created_at"] for entry in entries),
        "updated_at": max(entry["updated_at"] for entry in entries),
    }


async def detail(asked: Asked) -> Answer:
    """What a member is to see of a batch. What is not there, or not the caller's business, is `{}`."""
    batch, project_id = asked.query_id("batch"), asked.query_id("project")
    uid = asked.query("site_uid")
    site = uid.lower() if uid else asked.query_id("site")
    if batch is None or project_id is None or site is None:
        return Answer(body={})
    found = await polls.of_member(asked.node, asked.principal, project_id, batch, site)
    if found is None:
        return Answer(body={})
    member, batch_runs = found
    return Answer(body={"participant": member.id, "runs": _all_shown(asked, batch_runs)})


VIEWS = [
    View(path="/runs/active/", name="Active", handlers={"GET": active}, is_polled=True),
    View(path="/runs/detail/", name="Detail", handlers={"GET": detail}, is_polled=True),
    View(path="/runs/lookup/", name="Lookup", handlers={"GET": look_up}, is_polled=True),
    View(path="/runs", name="Run List", handlers={"GET": listing, "POST": start}),
    View(path="/runs/", name="Run List", handlers={"GET": listing}),
    View(path="/runs/{id}/status/", name="Status", handlers={"PUT": set_status}, is_sent_once=True),
    View(
        path="/runs/{id}/",
        name="Run Instance",
        handlers={"GET": retrieve, "PUT": set_lists, "PATCH": set_lists},
        is_polled=True,
    ),
]
