"""`projects/` and `project-participants/`: create, change, delete, look up, join, leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core import admission, invitations, membership, projects
from relay.core.model import JsonObject, Project, Role, rfc3339
from relay.core.objects import participation_object, project_object
from relay.core.projects import Participation
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.legacy import fields, sites
from relay.web.legacy.answers import Answer, Refused, bad, missing_object
from relay.web.legacy.door import Asked, View, page

_FIELDS: Mapping[str, fields.Reader] = {
    "name": fields.name,
    "description": fields.text,
    "site": fields.pk,
    "tasks": fields.tasks,
}
_ECHOED: Mapping[str, fields.Reader] = {**_FIELDS, "agent_config": fields.anything, "agent_log": fields.anything}


def shown(project: Project) -> JsonObject:
    return project_object(project) | {"tasks": tasks_shown(project.tasks)}


def tasks_shown(tasks: list[JsonObject]) -> list[JsonObject]:
    """Tasks as this API shows them: each with a config, whose keys stand in the order that they always had."""
    return [task | {"config": _ordered(task.get("config", fields.NO_CONFIG))} for task in tasks]


def _ordered(value: Any) -> Any:
    """Shorter keys first, then by bytes: what PostgreSQL's jsonb, and so the old router, makes of any order."""
    match value:
        case dict():
            keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
            return {key: _ordered(value[key]) for key in keys}
        case list():
            return [_ordered(one) for one in value]
    return value


def participation_shown(asked: Asked, part: Participation) -> JsonObject:
    return participation_object(part.participant, sites.shown(asked, part.site), shown(part.project))


# --- projects/


async def listing(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await projects.listing(asked.node, asked.principal, limit=limit, skip=skip)
        return count, [shown(project) for project in found]

    return await page(asked, fetch)


async def create(asked: Asked) -> Answer:
    """Make a project, or join the one of this name. The answer says again what was sent.

    A name that begins as an invitation's code does is taken for one: so a controller that knows names only can join.
    """
    given = fields.read(await asked.data(), _ECHOED, optional=frozenset(_ECHOED) - {"site"})
    if not {"name", "description", "tasks"} <= given.keys():
        raise bad([f"Encountered issue while creating project {given.get('name')}"])
    wanted = {name: given[name] for name in ("name", "description", "tasks")}
    try:
        if given["name"].startswith(invitations.PREFIX):
            await admission.redeem_again(asked.node, asked.principal, given["site"], code=given["name"])
        else:
            await admission.create_or_join(asked.node, asked.principal, given["site"], **wanted)
    except ReplyError as error:
        raise _not_made(error, given["site"]) from None
    return Answer(status=201, body=given)


def _not_made(error: ReplyError, site_id: int) -> ReplyError | Refused:
    match error.code:
        case ErrorCode.FORBIDDEN:
            return Refused(403, {"detail": error.message})
        case ErrorCode.UNKNOWN_PROJECT:
            return Refused(403, {"detail": "This invitation is not good, or not any more."})
    return _missing_site(error, site_id)


def _missing_site(error: ReplyError, site_id: int) -> ReplyError | Refused:
    return bad({"site": [missing_object(site_id)]}) if error.code is ErrorCode.UNKNOWN_SITE else error


async def retrieve(asked: Asked) -> Answer:
    return Answer(body=shown(await projects.get(asked.node, asked.principal, asked.id())))


async def replace(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset())


async def patch(asked: Asked) -> Answer:
    return await _change(asked, optional=frozenset(_FIELDS))


async def _change(asked: Asked, optional: frozenset[str]) -> Answer:
    """Change name, description or tasks. The coordinator of a project stays what it is."""
    project = await projects.get(asked.node, asked.principal, asked.id())
    given = fields.read(await asked.data(), _FIELDS, optional=optional)
    if given.pop("site", project.site_id) != project.site_id:
        raise bad({"site": ["The coordinator of a project cannot be changed."]})
    try:
        changed = await projects.update(asked.node, asked.principal, project.id, **given)
    except ReplyError as error:
        if error.code is ErrorCode.EXISTS:
            raise bad({"name": [fields.UNIQUE]}) from None
        raise
    return Answer(body=shown(changed))


async def delete(asked: Asked) -> Answer:
    await projects.delete(asked.node, asked.principal, asked.id())
    return Answer(status=204)


async def look_up(asked: Asked) -> Answer:
    """With `name` the project; with `site_id` what the site takes part in."""
    name = asked.query("name")
    if name is not None:
        try:
            return Answer(body=shown(await projects.look_up(asked.node, asked.principal, name)))
        except ReplyError as error:
            if error.code is ErrorCode.UNKNOWN_PROJECT:
                raise Refused(404, "Project not found") from None
            raise
    site_id = asked.query_id("site_id")
    if site_id is None:
        raise bad("site_id or name is required")
    parts = await projects.participations_seen(asked.node, asked.principal, site_id)
    return Answer(body=[participation_shown(asked, part) for part in parts])


# --- project-participants/

_ROLES = tuple(role.value for role in Role)
_JOIN: Mapping[str, fields.Reader] = {
    "site": fields.pk,
    "project": fields.pk,
    "role": fields.one_of(*_ROLES),
    "notes": fields.text,
}
_PARTICIPATION: Mapping[str, fields.Reader] = {
    "site": fields.dictionary,
    "project": fields.dictionary,
    "role": fields.one_of(*_ROLES, *(role.display for role in Role)),
    "notes": lambda notes: "" if notes == "" else fields.text(notes),
}


async def participants(asked: Asked) -> Answer:
    async def fetch(limit: int, skip: int) -> tuple[int, list[JsonObject]]:
        count, found = await projects.all_participations(asked.node, asked.principal, limit=limit, skip=skip)
        return count, [participation_shown(asked, part) for part in found]

    return await page(asked, fetch)


async def join(asked: Asked) -> Answer:
    given = fields.read(await asked.data(), _JOIN)
    try:
        part = await admission.join(
            asked.node,
            asked.principal,
            given["site"],
            project_id=given["project"],
            name=None,
            notes=given["notes"],
            role=Role(given["role"]),
        )
    except ReplyError as error:
        raise _not_joined(error, given) from None
    joined = part.participant
    body = {"id": joined.id, "site": joined.site_id, "project": joined.project_id, "role": joined.role.value}
    times = {"created_at": rfc3339(joined.created_us), "updated_at": rfc3339(joined.updated_us)}
    return Answer(status=201, body=body | {"notes": joined.notes} | times)


def _not_joined(error: ReplyError, given: JsonObject) -> ReplyError | Refused:
    match error.code:
        case ErrorCode.UNKNOWN_SITE:
            return _missing_site(error, given["site"])
        case ErrorCode.UNKNOWN_PROJECT:
            return bad({"project": [missing_object(given["project"])]})
        case ErrorCode.EXISTS:
            return bad({"non_field_errors": ["The fields site, project must make a unique set."]})
        case ErrorCode.FORBIDDEN:
            return Refused(403, {"detail": error.message})
        case ErrorCode.CONFLICT:
            return bad({"role": ["The project has a coordinator."]})
    return error


async def participant(asked: Asked) -> Answer:
    part = await projects.participation(asked.node, asked.principal, asked.id())
    return Answer(body=participation_shown(asked, part))


async def replace_participant(asked: Asked) -> Answer:
    return await _annotate(asked, optional=frozenset())


async def patch_participant(asked: Asked) -> Answer:
    return await _annotate(asked, optional=frozenset(_PARTICIPATION))


async def _annotate(asked: Asked, optional: frozenset[str]) -> Answer:
    """Change the notes. Who takes part in what, and as what, is changed by joining and leaving."""
    part = (await projects.participation(asked.node, asked.principal, asked.id())).participant
    given = fields.read(await asked.data(), _PARTICIPATION, optional=optional)
    if given.get("role", part.role) not in (part.role.value, part.role.display):
        raise bad({"role": ["The role of a participant cannot be changed."]})
    changed = await projects.annotate(asked.node, asked.principal, part.id, given.get("notes", part.notes))
    return Answer(body=participation_shown(asked, changed))


async def remove_participant(asked: Asked) -> Answer:
    part = await projects.participation(asked.node, asked.principal, asked.id())
    await membership.end(asked.node, asked.principal, part.participant.id)
    return Answer(status=204)


async def look_up_participants(asked: Asked) -> Answer:
    project_id = asked.query_id("project")
    if project_id is None:
        raise bad("project is required")
    try:
        found = await projects.members(asked.node, asked.principal, project_id)
    except ReplyError as error:
        if error.code is not ErrorCode.UNKNOWN_PROJECT:
            raise
        found = []
    return Answer(body=[participation_shown(asked, part) for part in found])


VIEWS = [
    View(path="/projects/lookup/", name="Lookup", handlers={"GET": look_up}, is_polled=True),
    View(path="/projects/", name="Project List", handlers={"GET": listing, "POST": create}),
    View(
        path="/projects/{id}/",
        name="Project Instance",
        handlers={"GET": retrieve, "PUT": replace, "PATCH": patch, "DELETE": delete},
        is_polled=True,
    ),
    View(path="/project-participants/lookup/", name="Lookup", handlers={"GET": look_up_participants}, is_polled=True),
    View(
        path="/project-participants/",
        name="Project Participant List",
        handlers={"GET": participants, "POST": join},
    ),
    View(
        path="/project-participants/{id}/",
        name="Project Participant Instance",
        handlers={
            "GET": participant,
            "PUT": replace_participant,
            "PATCH": patch_participant,
            "DELETE": remove_participant,
        },
        is_polled=True,
    ),
]
