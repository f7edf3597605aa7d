"""What a token may be used for, by its scopes, through every door."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.blobs.tus import TUS, metadata
from tests.conformance.own import new_realm
from tests.conformance.realm import API, Realm, Team
from tests.conformance.wire import HandshakeRefused
from tests.support.relay import RelayProcess


@pytest.fixture
def relay(database_url: str) -> Iterator[RelayProcess]:
    url = None if database_url.startswith("sqlite") else database_url
    with RelayProcess(url, settings={"STARFISH_MIGRATE": "true"}) as process:
        yield process


@pytest.fixture
async def realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with new_realm(relay) as realm:
        yield realm


async def token(relay: RelayProcess, site: str, *scopes: str) -> dict[str, str]:
    words = [word for scope in scopes for word in ("--scope", scope)]
    made = await asyncio.to_thread(relay.cli, "token", "create", "--site", site, *words)
    return {"Authorization": f"Bearer {made.stdout.strip()}"}


def event() -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "kind": "message", "data": "hello"}


async def rest_statuses(realm: Realm, team: Team, headers: dict[str, str]) -> dict[str, int]:
    """What is answered through each door over HTTP."""
    project = f"{API}/projects/{team.project}"
    name = {"name": f"made-{uuid.uuid4().hex[:8]}", "tasks": []}
    upload = TUS | {"Upload-Length": "4", "Upload-Metadata": metadata(project=team.project)}
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "hello": ("POST", f"{API}/hello/", {"json": {}}),
        "poll": ("GET", f"{project}/events/", {}),
        "publish": ("POST", f"{project}/events/", {"json": event()}),
        "ack": ("POST", f"{project}/ack/", {"json": {"offset": 1}}),
        "list": ("POST", f"{API}/calls/projects.list/", {"json": {}}),
        "members": ("POST", f"{API}/calls/members.barred/", {"json": {"project": team.project}}),
        "invite": ("POST", f"{API}/calls/invitations.create/", {"json": {"project": team.project}}),
        "create": ("POST", f"{API}/calls/projects.create/", {"json": name}),
        "upload": ("POST", f"{API}/blobs/", {"headers": upload}),
        "metrics": ("GET", "/metrics", {}),
    }
    statuses = {}
    async with httpx.AsyncClient(base_url=realm.base_url, trust_env=False) as http:
        for what, (method, path, options) in requests.items():
            more = options.pop("headers", {})
            answer = await http.request(method, path, headers=headers | more, **options)
            statuses[what] = answer.status_code
            if answer.status_code == 403:
                assert answer.json()["error"]["code"] == "forbidden"
        async with http.stream("GET", f"{project}/events/", headers=headers | {"Accept": "text/event-stream"}) as sse:
            statuses["stream"] = sse.status_code
    return statuses


SAID = {
    ("connect", "publish"): {"metrics"},
    ("connect",): {"publish", "upload", "metrics"},
    ("publish",): {"hello", "poll", "ack", "list", "members", "invite", "create", "metrics", "stream"},
    ("read-only",): {"publish", "ack", "invite", "create", "upload", "metrics"},
    ("metrics",): {"hello", "poll", "publish", "ack", "list", "members", "invite", "create", "upload", "stream"},
}
"""Scopes → the doors that are closed to them; all others are open."""


async def test_each_scope_opens_its_doors_and_no_others_over_http(realm: Realm, relay: RelayProcess) -> None:
    team = await realm.team()
    for scopes, closed in SAID.items():
        statuses = await rest_statuses(realm, team, await token(relay, team.coordinator.uid, *scopes))
        assert {what for what, status in statuses.items() if status == 403} == closed, (scopes, statuses)
        assert all(status in (200, 201, 204, 403) for status in statuses.values()), (scopes, statuses)


async def test_who_looks_on_is_shown_events_and_changes_nothing_nor_counts_as_online(
    realm: Realm, relay: RelayProcess
) -> None:
    team = await realm.team()
    looking_on = await realm.connect(await token(relay, team.coordinator.uid, "read-only"))
    await looking_on.hello()
    sent = await team.pa.publish(team.project, data="seen")
    await looking_on.until("event", project=team.project, offset=sent["offset"])
    assert (await looking_on.error(type="publish", project=team.project, **event()))["code"] == "forbidden"
    refused = await looking_on.error(type="call", method="runs.start", params={"project": team.project})
    assert refused["code"] == "forbidden"
    assert await looking_on.call("projects.list")
    await looking_on.send(type="ack", project=team.project, offset=sent["offset"])
    assert (await looking_on.expect("error"))["code"] == "forbidden"
    other = (await token(relay, team.coordinator.uid))["Authorization"].removeprefix("Bearer ")
    assert (await looking_on.error(type="refresh", token=other))["code"] == "forbidden"
    await realm.unconnected(team.coordinator, [team.co], team.pa)
    assert await looking_on.is_alive()


@pytest.mark.parametrize("scope", ["publish", "metrics"])
async def test_a_token_that_is_not_made_to_connect_is_refused_before_the_upgrade(
    realm: Realm, relay: RelayProcess, scope: str
) -> None:
    headers = await token(relay, (await realm.site()).uid, scope)
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect(headers)
    assert (refused.value.status, refused.value.error["code"]) == (403, "forbidden")
