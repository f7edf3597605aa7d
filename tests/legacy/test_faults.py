"""What the old router did wrong, and the relay does not: each of these tests would fail there."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from relay.core.run_states import Status, may_move
from tests.conformance.realm import Realm, Team, unique
from tests.legacy.conftest import DWELL_S
from tests.legacy.test_contract import batch, body_of, is_empty, set_status

# --- the site that becomes ready last


async def all_prepare(realm: Realm, team: Team) -> dict[str, int]:
    ids = await batch(realm, team)
    for site in team.sites:
        is_empty(await set_status(realm, site.account, ids[site.uid], status=3), 202)
    return ids


async def polled(realm: Realm, team: Team) -> set[str]:
    """The statuses of the batch, in whatever way a controller polls for them."""
    run, query = team.run(team.participant), f"project={team.project}"
    answers = [
        await realm.rest("GET", f"runs/{run}/", realm.guest),
        await realm.rest("GET", "runs/active/", realm.owner),
        await realm.rest("GET", "runs/?page=last", realm.guest),
        await realm.rest("GET", f"runs/lookup/?{query}", realm.guest),
        await realm.rest("GET", f"runs/lookup/?{query}&site_uid={team.participant.uid}", realm.owner),
        await realm.rest("GET", f"runs/detail/?{query}&batch={team.batch}&site={team.coordinator.id}", realm.owner),
    ]
    statuses = set()
    for answer in answers:
        body = body_of(answer, 200)
        runs = body if isinstance(body, list) else body.get("runs") or body.get("results") or [body]
        statuses |= {run["status"] for run in runs if run["id"] in {run["id"] for run in team.runs.values()}}
    return statuses


async def test_a_site_can_see_its_own_preparing_whoever_is_last(realm: Realm) -> None:
    team = await realm.team(2)
    started = time.monotonic()
    ids = await all_prepare(realm, team)
    is_empty(await set_status(realm, realm.owner, ids[team.coordinator.uid], status=4, update_all=True), 202)
    for wire, site in zip([team.co, *team.pas], team.sites, strict=True):
        await wire.expect("event", kind="run", data={"site": site.uid, "status": "Running"})
    while (shown := await polled(realm, team)) == {"Preparing"}:
        pass
    assert time.monotonic() - started > DWELL_S
    assert shown <= {"Preparing", "Running"}
    while await polled(realm, team) != {"Running"}:
        pass


async def test_a_stop_is_shown_at_once(realm: Realm) -> None:
    team = await realm.team()
    ids = await all_prepare(realm, team)
    is_empty(await set_status(realm, realm.owner, ids[team.coordinator.uid], status=4, update_all=True), 202)
    body = {"run": ids[team.coordinator.uid], "project": team.project, "batch": team.batch, "action": "stop"}
    is_empty(await realm.rest("PUT", "runs-action/update/", realm.owner, json=body), 202)
    assert await polled(realm, team) == {"Pending Failed"}


async def test_a_coordinator_that_says_running_again_sets_nobody_back(realm: Realm) -> None:
    team = await realm.team()
    started = time.monotonic()
    ids = await all_prepare(realm, team)
    co, pa = ids[team.coordinator.uid], ids[team.participant.uid]
    is_empty(await set_status(realm, realm.owner, co, status=4, update_all=True), 202)
    is_empty(await set_status(realm, realm.guest, pa, status=5), 202)
    is_empty(await set_status(realm, realm.owner, co, status=4, update_all=True), 202)
    if time.monotonic() - started > DWELL_S:
        pytest.skip("the machine was too busy to say it again within the dwell")
    assert (await team.statuses())[team.participant.uid] == "Pending Success"


# --- what hung


async def test_a_site_that_lacks_the_last_model_can_say_so(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    is_empty(await set_status(realm, realm.guest, ids[team.participant.uid], status=1), 202)
    is_empty(await set_status(realm, realm.guest, ids[team.participant.uid], status=0), 202)
    assert (await team.statuses())[team.participant.uid] == "Failed"


# --- what went wrong when two things happened at once


async def test_starts_at_once_make_one_batch(realm: Realm) -> None:
    team = await realm.team()
    body = {"project": team.project}
    answers = await asyncio.gather(*(realm.rest("POST", "runs", realm.owner, json=body) for _ in range(8)))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert [body_of(answer, 400) for answer in refused] == ["Last round of runs not completed"] * 7
    runs = body_of(
        await realm.rest("GET", f"runs/detail/?batch=1&project={team.project}&site={team.coordinator.id}", realm.owner),
        200,
    )["runs"]
    assert len(runs) == 2
    assert body_of(await realm.rest("GET", f"projects/{team.project}/", realm.owner), 200)["batch"] == 1


async def test_a_refused_start_changes_nothing(realm: Realm) -> None:
    team = await realm.team()
    before = body_of(await realm.rest("GET", f"projects/{team.project}/", realm.owner), 200)
    await realm.unconnected(team.participant, team.pas, team.co)
    answer = await realm.rest("POST", "runs", realm.owner, json={"project": team.project})
    assert body_of(answer, 400) == "Not all sites are connected"
    assert body_of(await realm.rest("GET", f"projects/{team.project}/", realm.owner), 200) == before
    assert body_of(await realm.rest("GET", f"runs/lookup/?project={team.project}", realm.owner), 200) == []


async def test_uploads_at_once_beside_changes_of_status_lose_nothing(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    run = ids[team.participant.uid]

    async def upload(number: int) -> None:
        form = {"run": run, "task_seq": 1, "round_seq": number}
        content = f"update {number}".encode()
        files = {"mid_artifacts": ("mid-artifacts", content), "logs": ("logs.txt", b"log " + content)}
        is_empty_but_typed = await realm.rest("POST", "runs-action/upload/", realm.guest, data=form, files=files)
        assert (is_empty_but_typed.status_code, is_empty_but_typed.content) == (200, b"")

    async def walk() -> None:
        for status in (3, 4, 5, 6):
            is_empty(await set_status(realm, realm.guest, run, status=status), 202)

    await asyncio.gather(*(upload(number) for number in range(1, 9)), walk())
    (stored,) = await team.pa.call("runs.list", project=team.project)
    assert stored["status"] == "Pending Aggregating"
    assert sorted(stored["middle_artifacts"]) == [f"{run}-1-{number}-mid-artifacts" for number in range(1, 9)]
    assert sorted(stored["logs"]) == [f"{run}-1-{number}-logs.txt" for number in range(1, 9)]


# --- what was a 500, or was taken


async def pictured(realm: Realm, team: Team) -> list[Any]:
    """All that the polling API shows of a team."""
    paths = [
        f"projects/{team.project}/",
        f"project-participants/lookup/?project={team.project}",
        f"sites/{team.coordinator.id}/",
        f"runs/detail/?batch=1&project={team.project}&site={team.coordinator.id}",
    ]
    return [body_of(await realm.rest("GET", path, realm.owner), 200) for path in paths]


async def test_a_transition_that_there_is_not_is_refused(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    run = ids[team.participant.uid]
    for now in Status:
        await team.force(now.display)
        for to in Status:
            if not may_move(now, to) and not (now is to is Status.STANDBY):
                answer = await set_status(realm, realm.guest, run, status=int(to))
                assert body_of(answer, 409) == {"detail": f"a run goes from {now.display} to no {to.display}"}
        assert (await team.statuses())[team.participant.uid] == now.display


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**70,
    1.5,
    1e300,
    "",
    " ",
    "abc",
    "\0",
    "٣",
    "../..",
    [],
    [1],
    {},
    {"a": 1},
    "x" * 5000,
    "9" * 5000,
    "\ud83d",
]

BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "sites/", {"uid": "", "name": "", "description": "d"}),
    ("POST", "projects/", {"name": "", "description": "d", "site": 0, "tasks": []}),
    ("POST", "project-participants/", {"site": "{site}", "project": 0, "role": "PA", "notes": "n"}),
    ("POST", "runs", {"project": 0}),
    ("PUT", "runs/{run}/", {"log": "x", "artifacts": None}),
    ("PUT", "runs-action/update/", {"run": 0, "project": 0, "batch": 0, "role": "", "action": "stop"}),
    ("PUT", "runs-action/update/", {"run": "{run}", "project": 0, "batch": 0, "role": "", "action": ""}),
    ("POST", "runs-action/upload/", {"run": "{run}", "task_seq": 1, "round_seq": 1}),
    ("PUT", "sites/{site}/", {"uid": "", "name": "", "description": "d"}),
    ("PUT", "projects/{project}/", {"name": "", "description": "d", "site": 0, "tasks": 0}),
    ("PUT", "project-participants/{participant}/", {"site": {}, "project": {}, "role": 0, "notes": "n"}),
]


@pytest.mark.parametrize("number", range(len(BODIES)), ids=[f"{method} {path}" for method, path, _ in BODIES])
async def test_odd_values_in_bodies_are_refused_and_change_nothing(realm: Realm, number: int) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    numbers = {
        "site": team.coordinator.id,
        "project": team.project,
        "run": ids[team.coordinator.uid],
        "participant": team.runs[team.coordinator.uid]["participant"],
    }
    method, path, template = BODIES[number]
    body = {
        name: numbers[value[1:-1]] if str(value).startswith("{") and value else value
        for name, value in template.items()
    }
    before = await pictured(realm, team)
    for name, kept in body.items():
        if kept == "d" or template[name] == "{run}" or template[name] == "{site}":
            continue
        for odd in ODD:
            if name == "artifacts" and isinstance(odd, list):
                continue  # a list is what it is to be
            content, headers = json.dumps(body | {name: odd}), {"Content-Type": "application/json"}
            answer = await realm.rest(method, path.format(**numbers), realm.owner, content=content, headers=headers)
            assert answer.status_code in (400, 404, 409, 415), f"{name}={odd!r}: {answer.status_code} {answer.text}"
            assert answer.headers["content-type"] == "application/json"
            assert isinstance(answer.json(), str | dict | list)
    for data in ([], [1], "x", 5, None):
        answer = await realm.rest(method, path.format(**numbers), realm.owner, json=data)
        assert answer.status_code == 400, f"{data!r}: {answer.status_code} {answer.text}"
    assert await pictured(realm, team) == before


async def test_odd_statuses_are_refused_and_change_nothing(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    before = await pictured(realm, team)
    statuses: list[Any] = [None, True, -1, 9, 42, 2**63, 2.5, "", "abc", "Running", [], [3], {}]
    for odd in statuses:
        answer = await set_status(realm, realm.owner, ids[team.coordinator.uid], status=odd, update_all=True)
        assert body_of(answer, 400) == "status is invalid"
    for data in ([], [1], "x", 5, None):
        answer = await realm.rest("PUT", f"runs/{ids[team.coordinator.uid]}/status/", realm.owner, json=data)
        assert body_of(answer, 400) == "status is invalid"
    for absent in ("999999999", "abc", "0", "9" * 40):
        answer = await realm.rest("PUT", f"runs/{absent}/status/", realm.owner, json={"status": 3})
        assert body_of(answer, 404) == {"detail": "Not found."}
    assert await pictured(realm, team) == before


QUERIES = [
    ("sites/lookup/", ["uid"]),
    ("projects/lookup/", ["site_id"]),
    ("projects/lookup/", ["name"]),
    ("project-participants/lookup/", ["project"]),
    ("runs/lookup/", ["project", "site_uid", "batch_id"]),
    ("runs/detail/", ["batch", "project", "site", "site_uid"]),
    ("runs-action/download/", ["run", "type", "all_runs", "task_seq", "round_seq"]),
    ("runs/", ["page"]),
]


@pytest.mark.parametrize(("path", "names"), QUERIES)
async def test_odd_values_in_queries_are_answered(realm: Realm, path: str, names: list[str]) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    good = {
        "project": team.project,
        "batch": 1,
        "site": team.coordinator.id,
        "run": ids[team.coordinator.uid],
        "type": "logs",
        "page": 1,
        "task_seq": 1,
        "round_seq": 1,
    }
    for name in names:
        for odd in ["", "abc", "-1", "0", "1.5", "9" * 5000, str(2**63), "\0", "'\";--", "%", "٣", str(uuid.uuid4())]:
            query = {key: value for key, value in good.items() if key in names} | {name: odd}
            answer = await realm.rest("GET", path, realm.owner, params=query)
            assert answer.status_code in (200, 400, 404), f"{name}={odd!r}: {answer.status_code} {answer.text}"
            assert answer.headers["content-type"] == "application/json"
        query = {key: value for key, value in good.items() if key in names and key != name}
        answer = await realm.rest("GET", path, realm.owner, params=query)
        assert answer.status_code in (200, 400, 404)


async def test_a_name_that_is_taken_meanwhile(realm: Realm) -> None:
    """Of sites that register a name at once, one gets it, and the others are told so."""
    name = unique("site")
    bodies = [{"uid": str(uuid.uuid4()), "name": name, "description": "x"} for _ in range(6)]
    answers = await asyncio.gather(*(realm.rest("POST", "sites/", realm.owner, json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 5
    for answer in answers:
        if answer.status_code == 400:
            assert answer.json() == {"name": ["This field must be unique."]}
