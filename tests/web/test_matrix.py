"""Every endpoint, for every kind of caller, as `matrix` says; and what is foreign answers as what does not exist."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.config import Settings
from relay.core import accounts
from relay.core.calls import METHODS
from relay.core.node import Node
from relay.core.passwords import hash_now
from relay.web import app
from tests.conformance.realm import Account
from tests.docs.test_openapi import served
from tests.web.matrix import CALLERS, MATRIX, Row, Target

API = "/starfish/api/v1/"
USERS = ("outsider", "participant", "coordinator", "operator", "fellow", "stranger")
ABSENT = 10**15
HIDDEN = {
    "outsider": {"coordinators", "own", "fellow", "foreign", "project"},
    "participant": {"fellow", "foreign"},
    "coordinator": {"foreign"},
}
"""Caller → the targets that it must not be able to tell from what does not exist."""
FOR_A_SITE = ("projects/{project}/", "hello/", "calls/", "blobs/")
"""Paths below which a request speaks for one of the caller's sites."""
_numbers = itertools.count(1)


def fresh(word: str) -> str:
    return f"{word}-{next(_numbers)}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Two projects that know nothing of each other, and whose site is which."""

    sites: Mapping[str, tuple[int, str]]
    """User → its site's id and uid."""
    targets: Mapping[str, Target]

    def absent(self, caller: str, block: str) -> Target:
        """A target that does not exist; in the caller's project, if the target's is the caller's."""
        target = self.targets[block]
        nowhere = replace(
            target,
            site=ABSENT,
            uid=str(uuid.uuid4()),
            project=ABSENT,
            name=fresh("absent"),
            lead=ABSENT,
            participation=ABSENT,
            run=ABSENT,
            user=ABSENT,
            group=ABSENT,
            blob=str(uuid.uuid4()),
        )
        if (caller, block) == ("participant", "fellow"):
            nowhere = replace(nowhere, project=target.project, name=target.name, lead=target.lead)
        return nowhere


class World:
    """A relay, its users, and a stage that is set up anew once something on it has been changed."""

    def __init__(self, http: httpx.AsyncClient, users: Mapping[str, int]) -> None:
        self.http = http
        self.users = users
        self._accounts = {name: Account(name=name, password=f"password of {name}") for name in USERS}
        self._stages: dict[tuple[bool, str], Stage] = {}

    async def stage(self, row: Row) -> Stage:
        key = (row.ended, row.policy)
        if key not in self._stages:
            self._stages[key] = await self._set_up(*key)
        return self._stages[key]

    def used_up(self) -> None:
        self._stages.clear()

    async def send(
        self,
        caller: str,
        method: str,
        path: str,
        *,
        body: Any = None,
        uid: str = "",
        headers: Mapping[str, str] | None = None,
        **given: Any,
    ) -> httpx.Response:
        own = {} if caller == "nobody" else {"Authorization": self._accounts[caller].authorization}
        own |= {"X-Starfish-Site": uid} if uid else {}
        given |= {} if body is None else {"data" if "files" in given else "json": body}
        where = path if path.startswith("/") else API + path
        return await self.http.request(method, where, headers=own | dict(headers or {}), **given)

    async def made(self, caller: str, method: str, path: str, **given: Any) -> Any:
        response = await self.send(caller, method, path, **given)
        assert response.is_success, (method, path, response.text)
        return response.json() if response.headers.get("content-type") == "application/json" else None

    async def _set_up(self, ended: bool, policy: str) -> Stage:
        sites = {name: await self._site(name) for name in USERS}
        group = await self.made("operator", "POST", "groups/", body={"name": fresh("group")})
        spare = await self.made("operator", "POST", "users/", body={"username": fresh("spare")})
        ids = {"group": _number_in(group["url"]), "user": _number_in(spare["url"])}
        targets = {
            **await self._project("coordinator", ["participant", "fellow"], sites, ids, ended, policy),
            **await self._project("stranger", [], sites, ids, ended, policy),
        }
        blocks = {"coordinators": "coordinator", "own": "participant", "fellow": "fellow", "foreign": "stranger"}
        found = {block: targets[name] for block, name in blocks.items()}
        return Stage(sites=sites, targets=found | {"project": found["coordinators"]})

    async def _site(self, user: str) -> tuple[int, str]:
        uid = str(uuid.uuid4())
        made = await self.made(user, "POST", "sites/", body={"uid": uid, "name": fresh(user), "description": "a site"})
        return made["id"], uid

    async def _project(
        self,
        lead: str,
        others: list[str],
        sites: Mapping[str, tuple[int, str]],
        ids: Mapping[str, int],
        ended: bool,
        policy: str,
    ) -> dict[str, Target]:
        """A project with a batch, a file of each run, and a binary event; the target of each of its users."""
        name = fresh("project")
        body = {"name": name, "description": "a project", "tasks": [{"seq": 1, "model": "m", "config": {}}]}
        for user in (lead, *others):
            await self.made(user, "POST", "projects/", body=body | {"site": sites[user][0]})
        project = (await self.made(lead, "GET", f"projects/lookup/?name={name}"))["id"]
        parts = await self.made(lead, "GET", f"project-participants/lookup/?project={project}")
        await self.made(lead, "POST", "runs", body={"project": project})
        runs = await self.made(lead, "GET", f"runs/detail/?project={project}&batch=1&site={sites[lead][0]}")
        by_uid = {run["site_uid"]: run["id"] for run in runs["runs"]}
        for user in (lead, *others):
            form = {"run": str(by_uid[sites[user][1]]), "task_seq": "1", "round_seq": "1"}
            await self.made(user, "POST", "runs-action/upload/", body=form, files={"logs": ("logs.txt", b"log")})
        sent = {"id": str(uuid.uuid4()), "kind": "update", "payload": "AAEC"}
        event = await self.made(lead, "POST", f"projects/{project}/events/", body=sent, uid=sites[lead][1])
        blob, size = await self._blob(lead, project, sites[lead][1])
        if ended:
            done = {"status": 8, "update_all": True}
            await self.made(lead, "PUT", f"runs/{by_uid[sites[lead][1]]}/status/", body=done)
        if policy != "open":
            changed = {"project": project, "join_policy": policy}
            await self.made(lead, "POST", "calls/projects.update/", body=changed, uid=sites[lead][1])
        part_of = {part["site"]["id"]: part["id"] for part in parts}
        return {
            user: Target(
                site=sites[user][0],
                uid=sites[user][1],
                project=project,
                name=name,
                lead=sites[lead][0],
                participation=part_of[sites[user][0]],
                role="CO" if user == lead else "PA",
                run=by_uid[sites[user][1]],
                event=event["offset"],
                blob=blob,
                size=size,
                **ids,
            )
            for user in (lead, *others)
        }

    async def _blob(self, lead: str, project: int, uid: str) -> tuple[str, int]:
        """A blob to which an event for the participants refers; its id and its size."""
        content = b"a model"
        metadata = base64.b64encode(str(project).encode()).decode()
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(len(content)),
            "Upload-Metadata": f"project {metadata}",
            "Content-Type": "application/offset+octet-stream",
        }
        response = await self.send(lead, "POST", "blobs/", uid=uid, headers=headers, content=content)
        assert response.status_code == 201, response.text
        blob = response.headers["location"].rpartition("/")[2]
        data = {"blob": {"id": blob, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
        sent = {"id": str(uuid.uuid4()), "kind": "update", "data": data}
        await self.made(lead, "POST", f"projects/{project}/events/", body=sent, uid=uid)
        return blob, len(content)


def _number_in(url: str) -> int:
    return int(url.rstrip("/").rpartition("/")[2])


@asynccontextmanager
async def running(home: Path, database_url: str) -> AsyncIterator[World]:
    async with app.running(Settings(data_dir=home, database_url=database_url)) as relay:
        ids = {}
        for name in USERS:
            user = await accounts.create_user(
                relay.node.store,
                username=name,
                email="",
                password_hash=hash_now(f"password of {name}"),
                is_operator=name == "operator",
                now_us=Node.now_us(),
            )
            ids[name] = user.id
        transport = httpx.ASGITransport(relay.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://relay.example.org") as http:
            yield World(http, ids)


async def ask(world: World, row: Row, caller: str, stage: Stage, target: Target) -> httpx.Response:
    own_site, own_uid = stage.sites.get(caller, (ABSENT, ""))
    numbers = {"id": getattr(target, row.at) if row.at else "", "project": target.project, "offset": target.event}
    numbers |= {"method": row.call, "blob": target.blob}
    path = row.path.format_map(numbers) + row.query.format_map(vars(target))
    body = None if row.body is None else _filled(row.body(target), own_site)
    given: dict[str, Any] = {"files": {"logs": ("more.txt", b"more")}} if row.files else {}
    given |= {} if row.content is None else {"content": row.content}
    headers = None if row.headers is None else row.headers(target)
    uid = own_uid if any(row.path.startswith(path) for path in FOR_A_SITE) else ""
    return await world.send(caller, row.method, path, body=body, uid=uid, headers=headers, **given)


def _filled(body: Mapping[str, Any], own_site: int) -> dict[str, Any]:
    words = {"{fresh}": fresh("new"), "{fresh_uid}": str(uuid.uuid4()), "{own_site}": own_site}
    return {name: words.get(value, value) if isinstance(value, str) else value for name, value in body.items()}


def cell(row: Row, target: Target, response: httpx.Response) -> str:
    """What the answer would be in the table."""
    if row.shows is None or response.status_code != 200:
        return str(response.status_code)
    ours, theirs = row.shows
    body = response.json()
    entries = body if isinstance(body, list) else next((body[name] for name in _ENTRIES if name in body), [])
    return f"200{'+' if getattr(target, ours) in [entry[theirs] for entry in entries] else '-'}"


_ENTRIES = ("results", "runs", "result")


def told(response: httpx.Response, target: Target) -> tuple[Any, ...]:
    """Everything that an answer says, but for the words that it was asked with."""
    text = re.sub(r'pk \\"\d+\\"', "pk #", response.text)
    text = re.sub(r'"uptime_s":[\d.]+', "", text)
    for word in (target.uid, target.name, target.blob):
        text = text.replace(word, "#")
    varying = {"date", "etag", "content-length", "x-request-id"}
    return response.status_code, text, {name: value for name, value in response.headers.items() if name not in varying}


async def test_every_route_has_a_row(tmp_path: Path) -> None:
    async with app.running(Settings(data_dir=tmp_path)) as relay:
        routes = served(relay.app.routes)
    rows = {(row.path if row.path.startswith("/") else API + row.path, row.method) for row in MATRIX}
    assert sorted(routes - rows) == [], "served, and not in the matrix"
    assert sorted(rows - routes) == [], "in the matrix, and not served"
    assert {row.call for row in MATRIX} - {""} == set(METHODS)


# The rules know nothing of the database: the short turn is on one.
ONE_DATABASE = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)], indirect=True
)


@ONE_DATABASE
async def test_every_cell(tmp_path: Path, database_url: str) -> None:
    wrong = []
    async with running(tmp_path, database_url) as world:
        for row in MATRIX:
            for block, expected in row.cells.items():
                for caller, wanted in zip(CALLERS, expected.split(), strict=True):
                    stage = await world.stage(row)
                    target = stage.targets[block]
                    response = await ask(world, row, caller, stage, target)
                    if (found := cell(row, target, response)) != wanted:
                        asked = f"{row.method} {row.path}{row.query}{row.call} {block} {caller}"
                        wrong.append(f"{asked}: {found}, not {wanted}; {response.text:.150}")
                    if row.spoils and response.is_success:
                        world.used_up()
    assert not wrong, "\n".join(wrong)


@ONE_DATABASE
async def test_what_is_foreign_answers_as_what_does_not_exist(tmp_path: Path, database_url: str) -> None:
    wrong, compared = [], 0
    async with running(tmp_path, database_url) as world:
        for row in MATRIX:
            for caller, block in (
                (caller, block) for caller in HIDDEN for block in row.cells if block in HIDDEN[caller]
            ):
                stage = await world.stage(row)
                target, absent = stage.targets[block], stage.absent(caller, block)
                foreign = told(await ask(world, row, caller, stage, target), target)
                nothing = told(await ask(world, row, caller, stage, absent), absent)
                compared += 1
                if foreign != nothing and row.compared:
                    wrong.append(
                        f"{row.method} {row.path}{row.query}{row.call} {block} {caller}:\n  {foreign}\n  {nothing}"
                    )
                if row.spoils and foreign[0] < 300:
                    world.used_up()
    assert compared > 200
    assert not wrong, "\n".join(wrong)
