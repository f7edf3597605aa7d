"""Who may what: a row for each endpoint and method, a column for each caller.

    nobody        sends no credentials
    outsider      has a site, which takes part in nothing
    participant   its site takes part in the project
    coordinator   its site coordinates the project
    operator      has a site, which takes part in nothing

A row is asked for several targets: what is the coordinator's, the participant's, a fellow participant's, or a foreign
project's. A cell is the status of the answer; behind it `+` or `-`, for what lists and looks up: it is there, or not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CALLERS = ("nobody", "outsider", "participant", "coordinator", "operator")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked for: a site, with what it has in its project."""

    site: int
    uid: str
    project: int
    name: str
    lead: int
    """The site of the project's coordinator."""
    participation: int
    role: str
    run: int
    event: int = 0
    """The offset of an event with a payload."""
    blob: str = ""
    """A blob of the coordinator's, in whole."""
    size: int = 0
    user: int = 0
    group: int = 0


Body = Callable[[Target], dict[str, Any]]
Headers = Callable[[Target], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One endpoint and method, or one way to ask it.

    Attributes:
        path: as in the routes, below the API's; or from the root, if it begins with a slash.
        at: which of the target's ids is the one in the path.
        query: with the target's fields in braces.
        call: the method, for `calls/{method}/`.
        shows: a field of the target's, and of the entries that are found: it is there, or not.
        ended: the batches have ended before.
        policy: the projects' join policy.
        compared: what is foreign answers as what is absent. Not if the answer is new each time, or tells on
            purpose that there is a project (a name is an invitation).
        spoils: what comes after it would find things changed.
        cells: target → a cell for each caller.
    """

    method: str
    path: str
    cells: Mapping[str, str]
    at: str = ""
    query: str = ""
    call: str = ""
    body: Body | None = None
    files: bool = False
    headers: Headers | None = None
    content: bytes | None = None
    shows: tuple[str, str] | None = None
    ended: bool = False
    policy: str = "open"
    compared: bool = True
    spoils: bool = False


def row(request: str, *, own: str = "", fellow: str = "", **options: Any) -> Row:
    """A row. What is given for `coordinators`, `own`, `fellow`, `foreign` or `project` are its cells."""
    method, path = request.split()
    cells = {"own": own, "fellow": fellow}
    cells |= {name: options.pop(name, "") for name in ("coordinators", "foreign", "project")}
    options.setdefault("spoils", method == "DELETE")
    return Row(method=method, path=path, cells={name: said for name, said in cells.items() if said}, **options)


def same(cells: str) -> dict[str, str]:
    """For what does not depend on a project."""
    return {"project": cells, "foreign": cells}


FOREIGN = "403 404 404 404 200"


def changing(done: int, *, peers: str) -> dict[str, str]:
    """What changes a site: its owner's and the operators' business. `peers`: what who may see it is told."""
    return {
        "coordinators": f"403 404 {peers} {done} {done}",
        "own": f"403 404 {done} {peers} {done}",
        "fellow": f"403 404 404 {peers} {done}",
        "foreign": f"403 404 404 404 {done}",
    }


def moving(done: int) -> dict[str, str]:
    """What changes a run: its own site's and the operators' business. A participant sees no run but its own."""
    return changing(done, peers="403") | {"coordinators": f"403 404 404 {done} {done}"}


def listed(*, sees_coordinators: bool) -> dict[str, str]:
    plus = "+" if sees_coordinators else "-"
    return {
        "coordinators": f"403 200- 200{plus} 200+ 200+",
        "own": "403 200- 200+ 200+ 200+",
        "fellow": "403 200- 200- 200+ 200+",
        "foreign": "403 200- 200- 200- 200+",
    }


def operators(done: int) -> dict[str, str]:
    return same(f"403 403 403 403 {done}")


SEEN = {
    "coordinators": "403 404 200 200 200",
    "own": "403 404 200 200 200",
    "fellow": "403 404 404 200 200",
    "foreign": FOREIGN,
}
RUN_SEEN = SEEN | {"coordinators": "403 404 404 200 200"}
PROJECT_CHANGED = {"project": "403 404 403 200 200", "foreign": FOREIGN}
NOTES_CHANGED = SEEN | {"coordinators": "403 404 403 200 200"}
PROJECT_SHOWN = {"project": "403 200- 200+ 200+ 200+", "foreign": "403 200- 200- 200- 200+"}
OPEN = same("200 200 200 200 200")


def site_body(_target: Target) -> dict[str, Any]:
    return {"uid": "{fresh_uid}", "name": "{fresh}", "description": "new"}


def own_site_body(target: Target) -> dict[str, Any]:
    return {"uid": target.uid, "name": "{fresh}", "description": "changed"}


def project_body(target: Target) -> dict[str, Any]:
    return {"name": target.name, "description": "new", "site": target.lead, "tasks": []}


def notes(target: Target) -> dict[str, Any]:
    return {"site": {}, "project": {}, "role": target.role, "notes": "new"}


def event(_target: Target) -> dict[str, Any]:
    return {"id": "{fresh_uid}", "kind": "message", "data": "hello"}


def tus(_target: Target) -> dict[str, str]:
    return {"Tus-Resumable": "1.0.0"}


def wish(target: Target) -> dict[str, str]:
    project = base64.b64encode(str(target.project).encode()).decode()
    return tus(target) | {"Upload-Length": "3", "Upload-Metadata": f"project {project}"}


def piece(target: Target) -> dict[str, str]:
    return tus(target) | {"Upload-Offset": str(target.size), "Content-Type": "application/offset+octet-stream"}


def override(target: Target) -> dict[str, str]:
    return piece(target) | {"X-HTTP-Method-Override": "PATCH"}


def status(code: int, **more: bool) -> Body:
    return lambda _target: {"status": code} | more


def lists(_target: Target) -> dict[str, Any]:
    return {"artifacts": [], "log": []}


def of_project(target: Target) -> dict[str, Any]:
    return {"project": target.project}


def of_batch(target: Target) -> dict[str, Any]:
    return {"project": target.project, "batch": 1}


def of_run(target: Target) -> dict[str, Any]:
    return {"run": target.run}


def of_site(target: Target) -> dict[str, Any]:
    return {"project": target.project, "site": target.uid}


def call(method: str, params: Body, **options: Any) -> Row:
    """A method of `call`. It is asked for a site, and an operator's has no rights in projects of others."""
    return row("POST calls/{method}/", call=method, body=params, **options)


UNKNOWN = "401 404 404 404 404"
MANAGED = {"project": "401 404 403 200 404", "foreign": UNKNOWN}
"""What the coordinator alone may, of those who take part."""
MEMBERS = {"project": "401 404 200 200 404", "foreign": UNKNOWN}
OWN_RUN = {
    "coordinators": "401 404 404 200 404",
    "own": "401 404 200 403 404",
    "fellow": "401 404 404 403 404",
    "foreign": UNKNOWN,
}
PART, RUN = ("participation", "id"), ("run", "id")
_EVENTS = "projects/{project}/events/"

MATRIX = [
    # the beginning, health
    row("GET /", **same("302 302 302 302 302")),
    row("GET /starfish/api/v1/", **OPEN),
    row("GET openapi.yaml", **OPEN),
    row("GET /starfish/api-auth/login/", **OPEN),
    row("GET /health", **OPEN),
    row("GET /health/live", **OPEN),
    row("GET /health/ready", **OPEN),
    row("GET /metrics", **same("401 403 403 403 200")),
    row("GET status/", compared=False, **same("401 403 403 403 200")),
    row("GET /status", compared=False, **same("401 403 403 403 200")),
    row("GET /status/status.css", **OPEN),
    row("GET /status/status.js", **OPEN),
    # sites
    row("GET sites/", query="?page=last", shows=("site", "id"), **listed(sees_coordinators=True)),
    row("POST sites/", body=site_body, compared=False, **same("403 201 201 201 201")),
    row("GET sites/lookup/", query="?uid={uid}", **SEEN),
    row(
        "POST sites/heartbeat/",
        body=lambda target: {"uid": target.uid, "status": 1},
        **changing(202, peers="404"),
    ),
    row("GET sites/{id}/", at="site", **SEEN),
    row("PUT sites/{id}/", at="site", body=own_site_body, **changing(200, peers="403")),
    row("PATCH sites/{id}/", at="site", body=lambda _: {"description": "new"}, **changing(200, peers="403")),
    row("DELETE sites/{id}/", at="site", **changing(204, peers="403")),
    # projects
    row(
        "GET projects/",
        query="?page=last",
        shows=("project", "id"),
        project="403 200- 200+ 200+ 200+",
        foreign="403 200- 200- 200- 200+",
    ),
    row(
        "POST projects/",
        body=lambda target: project_body(target) | {"site": target.site, "name": "{fresh}"},
        coordinators="403 400 400 201 201",
        own="403 400 201 400 201",
        fellow="403 400 400 400 201",
        foreign="403 400 400 400 201",
    ),
    row(
        "POST projects/",
        body=lambda target: project_body(target) | {"site": "{own_site}"},
        compared=False,
        spoils=True,
        **same("403 201 201 201 201"),
    ),
    row("GET projects/lookup/", query="?name={name}", project="403 404 200 200 200", foreign=FOREIGN),
    row("GET projects/lookup/", query="?site_id={site}", shows=PART, **listed(sees_coordinators=True)),
    row("GET projects/{id}/", at="project", project="403 404 200 200 200", foreign=FOREIGN),
    row("PUT projects/{id}/", at="project", body=project_body, **PROJECT_CHANGED),
    row("PATCH projects/{id}/", at="project", body=lambda _: {"description": "new"}, **PROJECT_CHANGED),
    row("DELETE projects/{id}/", at="project", project="403 404 403 204 204", foreign="403 404 404 404 204"),
    # participants
    row("GET project-participants/", query="?page=last", shows=PART, **listed(sees_coordinators=True)),
    row(
        "POST project-participants/",
        body=lambda target: {"site": "{own_site}", "project": target.project, "role": "PA", "notes": "new"},
        spoils=True,
        project="403 400 400 400 201",
        foreign="403 400 400 400 201",
    ),
    row(
        "POST project-participants/",
        body=lambda target: {"site": target.site, "project": target.project, "role": "PA", "notes": "new"},
        coordinators="403 400 400 400 400",
        fellow="403 400 400 400 400",
        foreign="403 400 400 400 400",
    ),
    row(
        "GET project-participants/lookup/",
        query="?project={project}",
        shows=PART,
        **listed(sees_coordinators=True),
    ),
    row("GET project-participants/{id}/", at="participation", **SEEN),
    row("PUT project-participants/{id}/", at="participation", body=notes, **NOTES_CHANGED),
    row("PATCH project-participants/{id}/", at="participation", body=lambda _: {"notes": "new"}, **NOTES_CHANGED),
    row(
        "DELETE project-participants/{id}/",
        at="participation",
        coordinators="403 404 403 409 409",
        own="403 404 204 204 204",
        fellow="403 404 404 204 204",
        foreign="403 404 404 404 409",
    ),
    # runs
    row("GET runs", query="?page=last", shows=RUN, **listed(sees_coordinators=False)),
    row("GET runs/", query="?page=last", shows=RUN, **listed(sees_coordinators=False)),
    row(
        "POST runs",
        body=lambda target: {"project": target.project},
        ended=True,
        spoils=True,
        project="403 400 403 201 201",
        foreign="403 400 400 400 201",
    ),
    row("GET runs/active/", shows=RUN, **listed(sees_coordinators=False)),
    row(
        "GET runs/detail/",
        query="?project={project}&batch=1&site={site}",
        shows=RUN,
        **listed(sees_coordinators=False),
    ),
    row(
        "GET runs/detail/",
        query="?project={project}&batch=1&site_uid={uid}",
        shows=RUN,
        **listed(sees_coordinators=False),
    ),
    row(
        "GET runs/lookup/",
        query="?project={project}&site_uid={uid}",
        shows=RUN,
        **listed(sees_coordinators=False),
    ),
    row("GET runs/lookup/", query="?project={project}", shows=("project", "project"), **PROJECT_SHOWN),
    row("GET runs/{id}/", at="run", **RUN_SEEN),
    row("PUT runs/{id}/", at="run", body=lists, **moving(202)),
    row("PATCH runs/{id}/", at="run", body=lists, **moving(202)),
    row("PUT runs/{id}/status/", at="run", body=status(3), spoils=True, **moving(202)),
    row(
        "PUT runs/{id}/status/",
        at="run",
        body=status(4, update_all=True),
        spoils=True,
        coordinators="403 404 404 202 202",
        own="403 404 403 202 202",
        fellow="403 404 404 202 202",
        foreign="403 404 404 404 202",
    ),
    # files and control
    row("GET runs-action/", **same("403 200 200 200 200")),
    row(
        "POST runs-action/upload/",
        body=lambda target: {"run": str(target.run), "task_seq": "1", "round_seq": "1"},
        files=True,
        **moving(200),
    ),
    row("GET runs-action/download/", query="?run={run}&type=logs", **RUN_SEEN),
    row(
        "PUT runs-action/update/", body=lambda target: {"run": target.run, "action": "stop"}, spoils=True, **moving(202)
    ),
    # users and groups
    row("GET users/", **operators(200)),
    row("POST users/", body=lambda _: {"username": "{fresh}"}, **operators(201)),
    row("GET users/{id}/", at="user", **operators(200)),
    row("PUT users/{id}/", at="user", body=lambda _: {"username": "{fresh}"}, **operators(200)),
    row("PATCH users/{id}/", at="user", body=lambda _: {"email": "new@example.org"}, **operators(200)),
    row("DELETE users/{id}/", at="user", **operators(204)),
    row("GET groups/", **operators(200)),
    row("POST groups/", body=lambda _: {"name": "{fresh}"}, **operators(201)),
    row("GET groups/{id}/", at="group", **operators(200)),
    row("PUT groups/{id}/", at="group", body=lambda _: {"name": "{fresh}"}, **operators(200)),
    row("PATCH groups/{id}/", at="group", body=lambda _: {"name": "{fresh}"}, **operators(200)),
    row("DELETE groups/{id}/", at="group", **operators(204)),
    # events: here a request speaks for a site, an operator's too
    row(f"GET {_EVENTS}", query="?after=0", project="401 404 200 200 404", foreign=UNKNOWN),
    row(f"POST {_EVENTS}", body=event, project="401 404 201 201 404", foreign=UNKNOWN),
    row(f"GET {_EVENTS}{{offset}}/payload/", project="401 404 200 200 404", foreign=UNKNOWN),
    row(
        "POST projects/{project}/ack/",
        body=lambda _: {"offset": 1},
        project="401 404 204 204 404",
        foreign=UNKNOWN,
    ),
    row("POST hello/", body=lambda _: {}, **same("401 200 200 200 200")),
    # the methods of `call`
    call("projects.create", lambda _: {"name": "{fresh}", "tasks": []}, compared=False, **same("401 200 200 200 200")),
    call("projects.join", lambda target: {"project": target.project}, project="401 404 409 409 404", foreign=UNKNOWN),
    call(
        "projects.join",
        lambda target: {"name": target.name},
        compared=False,
        spoils=True,
        project="401 200 409 409 200",
        foreign="401 200 200 200 200",
    ),
    *(
        one
        for policy in ("invitation", "approval")
        for one in (
            call(
                "projects.join",
                lambda target: {"name": target.name},
                policy=policy,
                spoils=True,
                project="401 404 409 409 404",
                foreign=UNKNOWN,
            ),
            row(
                "POST projects/",
                body=lambda target: project_body(target) | {"site": "{own_site}"},
                policy=policy,
                compared=False,
                spoils=True,
                project="403 403 201 201 201",
                foreign="403 403 403 403 201",
            ),
            row(
                "POST project-participants/",
                body=lambda target: {"site": "{own_site}", "project": target.project, "role": "PA", "notes": "new"},
                policy=policy,
                spoils=True,
                project="403 400 400 400 201",
                foreign="403 400 400 400 201",
            ),
        )
    ),
    call("projects.join", lambda _: {"code": "sfi_never-a-code"}, **same(UNKNOWN)),
    call("projects.get", of_project, **MEMBERS),
    call(
        "projects.update",
        lambda target: {"project": target.project, "description": "new", "join_policy": "approval"},
        spoils=True,
        **MANAGED,
    ),
    *(
        call(
            method,
            of_site,
            ended=True,
            spoils=True,
            coordinators="401 404 403 409 404",
            own="401 404 403 200 404",
            fellow="401 404 403 200 404",
            foreign=UNKNOWN,
        )
        for method in ("projects.transfer", "members.remove")
    ),
    *(
        call(
            method,
            of_site,
            own="401 404 403 404 404",
            fellow="401 404 403 404 404",
            foreign=UNKNOWN,
        )
        for method in ("members.unbar", "requests.approve", "requests.reject")
    ),
    call("members.barred", of_project, **MANAGED),
    call("requests.list", of_project, **MANAGED),
    call("invitations.create", of_project, **MANAGED),
    call("invitations.list", of_project, **MANAGED),
    call(
        "invitations.revoke",
        lambda target: {"project": target.project, "invitation": 10**15},
        project="401 404 403 400 404",
        foreign=UNKNOWN,
    ),
    call("projects.leave", of_project, spoils=True, project="401 404 200 409 404", foreign=UNKNOWN),
    call("projects.list", lambda _: {}, **same("401 200 200 200 200")),
    call(
        "projects.participants",
        of_project,
        shows=PART,
        coordinators="401 404 200+ 200+ 404",
        own="401 404 200+ 200+ 404",
        fellow="401 404 200- 200+ 404",
        foreign=UNKNOWN,
    ),
    call("runs.start", of_project, ended=True, spoils=True, project="401 404 403 200 404", foreign=UNKNOWN),
    *(
        one
        for method in ("runs.stop", "runs.restart")
        for one in (
            call(method, of_batch, spoils=True, project="401 404 403 200 404", foreign=UNKNOWN),
            call(method, of_run, spoils=True, **OWN_RUN),
        )
    ),
    call("runs.status", lambda target: {"run": target.run, "status": 3}, spoils=True, **OWN_RUN),
    call(
        "runs.status",
        lambda target: {"run": target.run, "status": "Running", "update_all": True},
        spoils=True,
        coordinators="401 404 404 200 404",
        own="401 404 403 200 404",
        fellow="401 404 404 200 404",
        foreign=UNKNOWN,
    ),
    call(
        "runs.list",
        of_project,
        shows=RUN,
        coordinators="401 404 200- 200+ 404",
        own="401 404 200+ 200+ 404",
        fellow="401 404 200- 200+ 404",
        foreign=UNKNOWN,
    ),
    call("progress.get", of_batch, **MEMBERS),
    call("history.read", of_project, **MEMBERS),
    call("cursors.list", of_project, **MEMBERS),
    call(
        "receipts.get",
        lambda target: {"project": target.project, "offset": target.event},
        project="401 404 403 200 404",
        foreign=UNKNOWN,
    ),
    call("keys.put", lambda _: {"keys": {}}, **same("401 200 200 200 200")),
    call("keys.get", of_project, **MEMBERS),
    # blobs: the coordinator's, to which an event for the participants refers
    row("POST blobs/", headers=wish, project="401 404 201 201 404", foreign=UNKNOWN),
    row("GET blobs/{blob}", **MEMBERS),
    row("PATCH blobs/{blob}", headers=piece, content=b"", project="401 404 403 204 404", foreign=UNKNOWN),
    row("POST blobs/{blob}", headers=override, content=b"", project="401 404 403 204 404", foreign=UNKNOWN),
    row("DELETE blobs/{blob}", headers=tus, project="401 404 403 409 404", foreign=UNKNOWN),
    row("POST blobs/{blob}/link/", body=lambda _: {}, project="401 404 201 201 404", foreign=UNKNOWN),
]
