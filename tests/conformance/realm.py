"""Fresh users, sites and projects on a running relay, for black-box tests.

A test never shares a site or a project with another one, so all of them can run against one relay.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import httpx

from tests.conformance.wire import Frame, Wire

API = "/starfish/api/v1"
SOCKET = "/starfish/ws/v1"

TASKS: list[dict[str, Any]] = [
    {"seq": 1, "model": "LogisticRegression", "config": {"total_round": 2, "current_round": 1}},
    {"seq": 2, "model": "LogisticRegression", "config": {"total_round": 1, "current_round": 1, "extra": "kept"}},
]


MARKER = "all before this has been shown"


class Relay(Protocol):
    """What is needed of the process under test."""

    @property
    def url(self) -> str: ...


def unique(word: str) -> str:
    """A name that no other test uses."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True, kw_only=True)
class Account:
    name: str
    password: str

    @property
    def authorization(self) -> str:
        return "Basic " + base64.b64encode(f"{self.name}:{self.password}".encode()).decode()


OWNER = Account(name="owner", password="the owner's password")
GUEST = Account(name="guest", password="the guest's password")
OPERATOR = Account(name="operator", password="the operator's password")


@dataclass(frozen=True, kw_only=True)
class Site:
    id: int
    uid: str
    name: str
    account: Account

    @property
    def headers(self) -> dict[str, str]:
        """The handshake of a legacy configuration: the user's Basic credentials and the site's uid."""
        return {"Authorization": self.account.authorization, "X-Starfish-Site": self.uid}


@dataclass(kw_only=True)
class Team:
    """A project with its members connected: one session of the coordinator, one of each participant."""

    project: int
    name: str
    coordinator: Site
    participants: list[Site]
    co: Wire
    pas: list[Wire]
    head: int
    """The journal's head when the team was complete."""
    batch: int = 0
    runs: dict[str, Frame] = field(default_factory=dict)
    """The runs of the batch that `start` started, by site uid."""

    @property
    def sites(self) -> list[Site]:
        return [self.coordinator, *self.participants]

    @property
    def pa(self) -> Wire:
        return self.pas[0]

    @property
    def participant(self) -> Site:
        return self.participants[0]

    async def start(self) -> dict[str, Frame]:
        """Starts a batch; its runs by site uid."""
        result = await self.co.call("runs.start", project=self.project)
        self.batch = result["batch"]
        self.runs = {run["site_uid"]: run for run in result["runs"]}
        return self.runs

    def run(self, site: Site) -> int:
        """The id of that site's run in the batch."""
        run_id = self.runs[site.uid]["id"]
        assert isinstance(run_id, int)
        return run_id

    async def force(self, status: str) -> None:
        """Sets the whole batch to a status, whatever each run stands in."""
        await self.co.call("runs.status", run=self.run(self.coordinator), status=status, update_all=True)

    async def shown(self, wire: Wire) -> list[Frame]:
        """Everything that a member's session was sent up to now, but for the markers that find it out; claims it."""
        uid = wire.welcome["site"]["uid"]
        sender = self.pa if uid == self.coordinator.uid else self.co
        marker = await sender.publish(self.project, data=MARKER, to=[uid])
        frames = await wire.until("event", project=self.project, offset=marker["offset"])
        return [frame for frame in frames if frame.get("data") != MARKER]

    async def statuses(self) -> dict[str, str]:
        """Each run's status by site uid, as the coordinator sees them."""
        runs = listed(await self.co.call("runs.list", project=self.project, batch=self.batch), "runs")
        return {run["site_uid"]: run["status"] for run in runs}


def listed(result: Any, name: str) -> list[Frame]:
    """A result that the contract describes as "the runs", "events": the list itself, or under that name."""
    found = result[name] if isinstance(result, Mapping) and name in result else result
    if isinstance(found, Mapping):
        return [dict(found)]
    assert isinstance(found, list), f"not a list of {name}: {result!r:.300}"
    return found


class Realm:
    """Makes sites, sessions and projects on one relay and closes what it opened."""

    def __init__(self, relay: Relay, *, owner: Account, guest: Account, operator: Account) -> None:
        self.base_url = relay.url.rstrip("/")
        self.socket_url = "ws" + self.base_url.removeprefix("http") + SOCKET
        self.owner = owner
        self.guest = guest
        self.operator = operator
        self._wires: list[Wire] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(base_url=self.base_url + API, timeout=30, trust_env=False)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(wire.close() for wire in self._wires))
        await self._stack.aclose()

    async def site(self, account: Account | None = None) -> Site:
        """Registers a new site of that user (the owner's, left out)."""
        account = account or self.owner
        body = {"uid": str(uuid.uuid4()), "name": unique("site"), "description": "made by a test"}
        response = await self.rest("POST", "sites/", account, json=body)
        assert response.status_code == 201, response.text
        made = response.json()
        return Site(id=made["id"], uid=made["uid"], name=made["name"], account=account)

    async def rest(self, method: str, path: str, account: Account | None = None, **options: Any) -> httpx.Response:
        """A request to the REST API with a user's Basic credentials."""
        headers = {"Authorization": account.authorization} if account else {}
        return await self.http.request(method, f"/{path}", headers=headers | options.pop("headers", {}), **options)

    async def as_site(self, method: str, path: str, site: Site, **options: Any) -> httpx.Response:
        """A request to the REST API by a site (section 9's way: Basic with X-Starfish-Site)."""
        return await self.http.request(method, f"/{path}", headers=site.headers | options.pop("headers", {}), **options)

    async def connect(self, headers: Mapping[str, str], **options: Any) -> Wire:
        """An open WebSocket on which nothing has been said yet."""
        wire = await Wire.open(self.socket_url, headers, **options)
        self._wires.append(wire)
        return wire

    async def session(self, site: Site, projects: Mapping[int, Mapping[str, Any]] | None = None) -> Wire:
        """A session of the site that has said hello and been welcomed."""
        wire = await self.connect(site.headers)
        positions = {} if projects is None else {"projects": {str(key): value for key, value in projects.items()}}
        await wire.hello(**positions)
        return wire

    async def resumed(self, site: Site, project: int, **position: Any) -> Wire:
        """A session of the site that goes on in one project from a position."""
        return await self.session(site, {project: position})

    async def team(self, participants: int = 1, tasks: Sequence[Mapping[str, Any]] = ()) -> Team:
        """A project with connected members, whose journal has gone quiet (for all but presence)."""
        sites = await asyncio.gather(self.site(self.owner), *(self.site(self.guest) for _ in range(participants)))
        co, *pas = await asyncio.gather(*(self.session(site) for site in sites))
        name = unique("project")
        project = await co.call("projects.create", name=name, description="", tasks=list(tasks or TASKS))
        await co.expect("subscribed", project=project["id"])
        for pa, site in zip(pas, sites[1:], strict=True):
            await pa.call("projects.join", name=name)
            await pa.expect("subscribed", project=project["id"])
            await co.until("event", kind="participant", data={"site": site.uid, "change": "joined"})
        head = await settle(co, pas, project["id"])
        return Team(
            project=project["id"],
            name=name,
            coordinator=sites[0],
            participants=list(sites[1:]),
            co=co,
            pas=pas,
            head=head,
        )

    async def unconnected(self, site: Site, wires: Iterable[Wire], witness: Wire) -> None:
        """Closes a site's sessions and reports it gone, so that it counts as connected by no measure."""
        for wire in wires:
            await wire.close()
        await witness.expect("presence", site=site.uid, state="offline")
        response = await self.rest("POST", "sites/heartbeat/", site.account, json={"uid": site.uid, "status": 0})
        assert response.status_code == 202, response.text


async def settle(co: Wire, pas: Sequence[Wire], project: int) -> int:
    """Has a message go to all participants and everything before it be claimed; its offset."""
    marker = await co.publish(project, data="settled")
    for pa in pas:
        await pa.until("event", project=project, offset=marker["offset"])
    offset: int = marker["offset"]
    return offset
