"""The status: what it shows is so, for operators alone, bounded, cheap, and live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.config import Settings
from relay.core import overview as overview_module
from relay.core.meter import HISTORY_S, RATE_S, Meter
from relay.core.model import Role
from relay.core.node import Node
from relay.core.overview import Overview, fraction
from relay.core.overview_ports import Most, RunRow
from relay.core.ports import StorageUnavailable, Store
from relay.core.run_states import Status
from relay.web import app
from relay.web.status import VIEWERS
from tests.conformance.realm import API, OPERATOR, Account, Realm
from tests.support.relay import RelayProcess

PATH = f"{API}/status/"
LIVE = {"Accept": "text/event-stream"}

Seen = dict[str, Any]


@pytest.fixture
async def realm(relay: RelayProcess, accounts: tuple[Account, Account, Account]) -> AsyncIterator[Realm]:
    owner, guest, operator = accounts
    async with Realm(relay, owner=owner, guest=guest, operator=operator) as realm:
        yield realm


async def look(realm: Realm) -> Seen:
    answer = await realm.rest("GET", "status/", realm.operator)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    seen: Seen = answer.json()
    return seen


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[AsyncIterator[tuple[str, Seen]]]:
    """The stream: each message's event and data."""
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
        http.stream("GET", PATH, headers=LIVE, auth=(OPERATOR.name, OPERATOR.password)) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        messages = messages_of(answer)
        async with aclosing(messages):
            yield messages


async def messages_of(answer: httpx.Response) -> AsyncGenerator[tuple[str, Seen], None]:
    event = "message"
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
            event = "message"


async def until(messages: AsyncIterator[tuple[str, Seen]], is_so: Callable[[Seen], object]) -> Seen:
    async with asyncio.timeout(20):
        async for event, seen in messages:
            if event == "message" and is_so(seen):
                return seen
    raise AssertionError("the stream ended")


def project_in(seen: Seen, project_id: int) -> Seen:
    (found,) = [one for one in seen["projects"] if one["id"] == project_id]
    return dict(found)


def site_in(seen: Seen, uid: str) -> Seen:
    (found,) = [one for one in seen["sites"] if one["uid"] == uid]
    return dict(found)


async def test_it_shows_sites_projects_and_runs_as_they_are(relay: RelayProcess, realm: Realm) -> None:
    async with watching(relay.url) as messages:
        team = await realm.team(participants=2)
        await team.start()
        await team.force("Running")
        run = team.run(team.participant)
        await team.pa.publish(team.project, kind="progress", run=run, data={"epoch": 3, "epochs": 4, "loss": 0.5})

        def is_told(seen: Seen) -> bool:
            shown = [one for one in seen["projects"] if one["id"] == team.project and one["events_per_s"] > 0]
            return any(one["id"] == run and one["progress"] for project in shown for one in project["runs"])

        seen = await until(messages, is_told)
    project = project_in(seen, team.project)
    assert project["coordinator"] == {"uid": team.coordinator.uid, "name": team.coordinator.name}
    assert (project["members"], project["online"], project["lag_max"]) == (3, 3, 0)
    assert project["head"] > team.head
    assert project["batch"] == {
        "id": team.batch,
        "queued": False,
        "status": "Running",
        "round": 1,
        "rounds": 2,
        "standing": {"Running": 3},
    }
    assert project["runs"][0]["role"] == "coordinator"
    (shown,) = [one for one in project["runs"] if one["id"] == run]
    assert (shown["site"], shown["site_name"]) == (team.participant.uid, team.participant.name)
    assert (shown["status"], shown["round"], shown["cur_seq"]) == ("Running", 1, 1)
    assert shown["progress"]["fraction"] == 0.75
    assert "loss" not in json.dumps(seen)
    site = site_in(seen, team.participant.uid)
    assert (site["online"], site["sessions"], site["transport"], site["last_seen"]) == (True, 1, "websocket", None)
    assert seen["database"]["ok"] and seen["database"]["latency_ms"] > 0
    assert sum(seen["events"]) > 0


async def test_a_site_that_goes_and_what_it_misses_is_seen(relay: RelayProcess, realm: Realm) -> None:
    async with watching(relay.url) as messages:
        team = await realm.team()
        head = team.head
        await team.pa.send(type="ack", project=team.project, offset=head)
        await until(messages, lambda seen: any(one["id"] == team.project for one in seen["projects"]))
        await realm.unconnected(team.participant, team.pas, team.co)
        for number in range(3):
            offset = (await team.co.publish(team.project, data=number))["offset"]

        def has_gone(seen: Seen) -> bool:
            return any(one["uid"] == team.participant.uid and one["lag"] == offset - head for one in seen["sites"])

        seen = await until(messages, has_gone)
    site = site_in(seen, team.participant.uid)
    assert (site["online"], site["sessions"], site["transport"]) == (False, 0, None)
    assert site["last_seen"] == site["since"] is not None
    assert (project_in(seen, team.project)["online"], project_in(seen, team.project)["lag_max"]) == (1, offset - head)


async def test_how_a_site_is_connected(realm: Realm) -> None:
    site = await realm.site()
    beat = await realm.rest("POST", "sites/heartbeat/", site.account, json={"uid": site.uid, "status": 1})
    assert beat.status_code == 202
    seen = await look(realm)
    while site.uid not in [one["uid"] for one in seen["sites"]]:  # what was seen a moment ago may be shown once more
        seen = await look(realm)
    assert (site_in(seen, site.uid)["online"], site_in(seen, site.uid)["transport"]) == (True, "poll")


@pytest.mark.parametrize("headers", [{}, LIVE])
async def test_others_may_not_look(realm: Realm, headers: dict[str, str]) -> None:
    for account, status in ((None, 401), (realm.owner, 403)):
        assert (await realm.rest("GET", "status/", account, headers=headers)).status_code == status
    foreign = headers | {"Origin": "https://elsewhere.example"}
    answer = await realm.rest("GET", "status/", realm.operator, headers=foreign)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_a_stream_ends_when_the_relay_stops_and_no_more_look_than_may() -> None:
    with RelayProcess() as relay:
        operator = {"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password}
        relay.cli("createsuperuser", "--username", OPERATOR.name, "--no-input", env=operator)
        async with AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(watching(relay.url)) for _ in range(VIEWERS)]
            await asyncio.gather(*(until(messages, bool) for messages in viewers))
            async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
                refused = await http.get(PATH, headers=LIVE, auth=(OPERATOR.name, OPERATOR.password))
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_sessions")
            assert await asyncio.to_thread(relay.terminate) == 0
            for messages in viewers:
                assert {event async for event, _ in messages} <= {"message", "still"}


# --- its parts


def test_a_meter_counts_by_the_second_and_forgets() -> None:
    now = 100.5
    meter = Meter(lambda: now)
    meter.count(1, 20)
    assert meter.rates() == (0.0, {})
    now = 101.0
    meter.count(2, 10)
    now = 102.9
    assert meter.rates() == (30 / RATE_S, {1: 20 / RATE_S, 2: 10 / RATE_S})
    assert meter.history() == [0] * (HISTORY_S - 2) + [20, 10]
    now += RATE_S
    assert meter.rates() == (0.0, {})
    now += 10**9
    assert meter.history() == [0] * HISTORY_S


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b'{"epoch": 3, "epochs": 4, "loss": 1}', 0.75),
        (b'{"done": 9, "total": 3}', 1.0),
        (b'{"step": -1, "steps": 3}', 0.0),
        (b'{"percent": 12.5}', 0.125),
        (b'{"fraction": 0.5}', 0.5),
        (b'{"done": 1, "total": 0}', None),
        (b'{"done": true, "total": "3"}', None),
        (b'{"done": 1e400, "total": 1}', None),
        (b'{"done": 1' + b"0" * 400 + b', "total": 1}', None),
        (b"[" * 4000, None),
        (b"not JSON", None),
        (None, None),
    ],
)
def test_of_what_a_site_tells_of_its_progress_only_how_far_it_is_is_read(
    said: bytes | None, expected: float | None
) -> None:
    run = RunRow(
        id=1,
        project_id=1,
        batch=1,
        site_uid="",
        site_name="",
        role=Role.PARTICIPANT,
        status=Status.RUNNING,
        cur_seq=1,
        round=None,
        rounds=None,
        progress=(0, said),
    )
    assert fraction(run) == expected
    assert fraction(replace(run, progress=None)) is None


async def test_it_is_bounded_and_says_what_is_left_off(tmp_path: Path) -> None:
    async with app.running(Settings(data_dir=tmp_path)) as relay:
        store = relay.node.store
        async with store.transaction() as tx:
            owner = await tx.users.create(username="o", email="", password_hash="", is_operator=False, now_us=1)
            sites = [
                await tx.sites.create(
                    uid=f"u{n}", name=f"site {n}", description="", owner_id=owner.id, connected=n == 0, now_us=n
                )
                for n in range(5)
            ]
            for n in range(3):
                project = await tx.projects.create(
                    name=f"project {n}", description="", site_id=sites[n].id, tasks=[], now_us=n
                )
                await tx.journal.create(project.id, "epoch")
                members = [
                    await tx.participants.create(
                        project_id=project.id,
                        site_id=site.id,
                        role=Role.COORDINATOR if site is sites[n] else Role.PARTICIPANT,
                        notes="",
                        joined=0,
                        now_us=n,
                    )
                    for site in sites
                ]
                await tx.runs.create(members, batch=1, tasks=[], now_us=n)
                await tx.projects.set_batch(project.id, 1, n)
        seen = await Overview(relay.node, "sqlite", Most(sites=2, projects=2, runs=3)).look()
    assert [site["name"] for site in seen["sites"]] == ["site 0", "site 4"]
    assert [project["name"] for project in seen["projects"]] == ["project 2", "project 1"]
    assert [len(project["runs"]) for project in seen["projects"]] == [3, 0]
    assert [project["batch"]["standing"] for project in seen["projects"]] == [{"Standby": 5}, {"Standby": 5}]
    assert seen["left_off"] == {"sites": 3, "projects": 1, "runs": 7}


async def test_many_who_look_at_once_cost_one_look_and_an_outage_shows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.transaction() as tx:
        owner = await tx.users.create(username="o", email="", password_hash="", is_operator=False, now_us=1)
        await tx.sites.create(uid="u", name="site", description="", owner_id=owner.id, connected=True, now_us=1)
    overview = Overview(Node(store, Settings().limits, version="0", name="test"), "sqlite")
    looks = await asyncio.gather(*(overview.look() for _ in range(50)))
    assert all(seen is looks[0] for seen in looks) and looks[0]["database"]["ok"]

    def out(_self: object) -> None:
        raise StorageUnavailable("gone")

    monkeypatch.setattr(type(store), "snapshot", out)
    monkeypatch.setattr(overview_module, "GOOD_FOR_S", 0.0)
    seen = await overview.look()
    assert (seen["database"]["ok"], seen["database"]["latency_ms"]) == (False, None)
    assert [site["name"] for site in seen["sites"]] == ["site"]
