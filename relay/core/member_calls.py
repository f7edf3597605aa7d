"""The methods of `call` by which a coordinator decides who takes part: the join policy, invitations, requests, members.

See `relay.core.calls`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from relay.core import admission, invitations, membership, projects
from relay.core.admission_ports import Invitation
from relay.core.methods import Caller, Id, Methods, Name, OfProject, Seconds, Task, Text, Uid, shown_participation
from relay.core.model import JoinPolicy, JsonObject, Project, Site, rfc3339
from relay.core.objects import project_object
from relay.protocol.errors import invalid

INVITATION_S = 7 * 86400.0


class UpdateProject(msgspec.Struct):
    project: Id
    name: Name | None = None
    description: Text | None = None
    tasks: Annotated[list[Task], Meta(max_length=1000)] | None = None
    join_policy: JoinPolicy | None = None


class CreateInvitation(msgspec.Struct):
    project: Id
    label: Annotated[str, Meta(max_length=100, pattern=r"^[^\x00]*$")] = ""
    expires_in: Seconds = INVITATION_S


class OfInvitation(msgspec.Struct):
    project: Id
    invitation: Id


class OfSite(msgspec.Struct):
    project: Id
    site: Uid


METHODS = Methods()
method = METHODS.add
READING = frozenset({"projects.get", "invitations.list", "requests.list", "members.barred"})
"""Those of them that change nothing."""


def _with_policy(project: Project) -> JsonObject:
    return project_object(project) | {"join_policy": project.join_policy.value}


def _who(site: Site) -> JsonObject:
    return {"site": site.uid, "name": site.name}


@method("projects.get", OfProject)
async def _get_project(caller: Caller, params: OfProject) -> JsonObject:
    return _with_policy(await projects.get(caller.node, caller.principal, params.project))


@method("projects.update", UpdateProject)
async def _update_project(caller: Caller, params: UpdateProject) -> JsonObject:
    names = ("name", "description", "tasks", "join_policy")
    fields: dict[str, Any] = {name: value for name in names if (value := getattr(params, name)) is not None}
    if not fields:
        raise invalid(params=f"at least one of {', '.join(names)}")
    if "tasks" in fields:
        fields["tasks"] = msgspec.to_builtins(fields["tasks"])
    return _with_policy(await projects.update(caller.node, caller.principal, params.project, **fields))


@method("projects.transfer", OfSite)
async def _transfer_project(caller: Caller, params: OfSite) -> JsonObject:
    await membership.transfer(caller.node, caller.principal, params.project, params.site)
    return {}


# --- members


@method("members.remove", OfSite)
async def _remove_member(caller: Caller, params: OfSite) -> JsonObject:
    await membership.remove(caller.node, caller.principal, params.project, params.site)
    return {}


@method("members.barred", OfProject)
async def _list_barred(caller: Caller, params: OfProject) -> list[JsonObject]:
    barred = await admission.barred(caller.node, caller.principal, params.project)
    return [_who(site) | {"since": rfc3339(bar.since_us)} for bar, site in barred]


@method("members.unbar", OfSite)
async def _unbar(caller: Caller, params: OfSite) -> JsonObject:
    await admission.unbar(caller.node, caller.principal, params.project, params.site)
    return {}


# --- invitations


@method("invitations.create", CreateInvitation)
async def _create_invitation(caller: Caller, params: CreateInvitation) -> JsonObject:
    invitation, code = await invitations.create(
        caller.node, caller.principal, params.project, label=params.label, expires_s=params.expires_in
    )
    return _invitation(invitation, caller.node.now_us()) | {"code": code}


@method("invitations.list", OfProject)
async def _list_invitations(caller: Caller, params: OfProject) -> list[JsonObject]:
    found = await invitations.listing(caller.node, caller.principal, params.project)
    now_us = caller.node.now_us()
    return [_invitation(invitation, now_us) for invitation in found]


@method("invitations.revoke", OfInvitation)
async def _revoke_invitation(caller: Caller, params: OfInvitation) -> JsonObject:
    await invitations.revoke(caller.node, caller.principal, params.project, params.invitation)
    return {}


def _invitation(invitation: Invitation, now_us: int) -> JsonObject:
    return {
        "id": invitation.id,
        "label": invitation.label,
        "state": invitation.state(now_us),
        "used_by": invitation.used_by,
        "created_at": rfc3339(invitation.created_us),
        "expires_at": rfc3339(invitation.expires_us),
    }


# --- requests


@method("requests.list", OfProject)
async def _list_requests(caller: Caller, params: OfProject) -> list[JsonObject]:
    waiting = await admission.requests(caller.node, caller.principal, params.project)
    return [
        _who(site)
        | {"notes": request.notes, "at": rfc3339(request.asked_us), "expires_at": rfc3339(request.expires_us)}
        for request, site in waiting
    ]


@method("requests.approve", OfSite)
async def _approve_request(caller: Caller, params: OfSite) -> JsonObject:
    part = await admission.approve(caller.node, caller.principal, params.project, params.site)
    return shown_participation(caller.node, part)


@method("requests.reject", OfSite)
async def _reject_request(caller: Caller, params: OfSite) -> JsonObject:
    await admission.reject(caller.node, caller.principal, params.project, params.site)
    return {}
