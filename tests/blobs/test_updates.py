"""Updates of sites that hold a WebSocket are files for controllers that poll, and files are blobs for those sites."""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import Any

from tests.blobs.tus import Client, reference
from tests.conformance.realm import Account, Realm, Team

MODEL = os.urandom(300_000)


async def _zip(realm: Realm, account: Account, run: int, type_: str, **query: Any) -> dict[str, bytes]:
    query = {"run": run, "type": type_, **query}
    answer = await realm.rest("GET", "runs-action/download/", account, params=query)
    if answer.status_code == 404:
        return {}
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def _next_round(team: Team) -> None:
    run = team.run(team.coordinator)
    await team.co.call("runs.status", run=run, status=2, update_all=True, increase_round=True)


async def test_a_coordinator_that_polls_gets_the_updates_of_the_round(realm: Realm) -> None:
    team = await realm.team(participants=3)
    await team.start()
    runs = [team.run(site) for site in team.participants]
    path = await Client(realm, team.participants[0]).upload(MODEL, team.project, run=runs[0])
    await team.pas[0].publish(team.project, kind="update", run=runs[0], data=reference(path, MODEL))
    for payload in (b"first try", b"second try"):
        await team.pas[1].publish_binary(team.project, payload, kind="update", run=runs[1])
    await team.pas[2].publish(team.project, kind="update", run=runs[2], data={"weights": [1, 2]})
    await team.pas[2].publish(team.project, kind="update", data="of no run")

    coordinator, run = team.coordinator.account, team.run(team.coordinator)
    expected = {
        f"{runs[0]}-1-1-mid-artifacts": MODEL,
        f"{runs[1]}-1-1-mid-artifacts": b"second try",
        f"{runs[2]}-1-1-mid-artifacts": json.dumps({"weights": [1, 2]}).encode(),
    }
    got = await _zip(realm, coordinator, run, "mid_artifacts", all_runs=1, task_seq=1, round_seq=1)
    assert got.keys() == expected.keys()
    assert json.loads(got.pop(f"{runs[2]}-1-1-mid-artifacts")) == {"weights": [1, 2]}
    assert got.items() <= expected.items()

    await _next_round(team)
    assert await _zip(realm, coordinator, run, "mid_artifacts", all_runs=1, task_seq=1, round_seq=2) == {}
    await team.pas[1].publish_binary(team.project, b"round 2", kind="update", run=runs[1])
    got = await _zip(realm, coordinator, run, "mid_artifacts", all_runs=1, task_seq=1, round_seq=2)
    assert got == {f"{runs[1]}-1-2-mid-artifacts": b"round 2"}
    assert len(await _zip(realm, coordinator, run, "mid_artifacts", all_runs=1)) == 4


async def test_participants_that_poll_get_the_coordinators_update_and_no_others(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    run = team.run(team.coordinator)
    first, second = (team.run(site) for site in team.participants)
    await team.co.publish_binary(team.project, b"the global model", kind="update", run=run)
    await team.pas[0].publish_binary(team.project, b"the first one's", kind="update", run=first)
    guest = team.participants[0].account
    assert await _zip(realm, guest, first, "artifacts") == {f"{first}-1-1-artifacts": b"the global model"}
    assert await _zip(realm, guest, second, "artifacts") == {f"{second}-1-1-artifacts": b"the global model"}
    assert await _zip(realm, guest, first, "mid_artifacts") == {f"{first}-1-1-mid-artifacts": b"the first one's"}
    assert await _zip(realm, guest, second, "mid_artifacts") == {}

    await team.co.publish_binary(team.project, b"for one", to=[team.participants[1].uid], kind="update", run=run)
    still = await _zip(realm, guest, first, "artifacts", task_seq=1, round_seq=1)
    assert still == {f"{first}-1-1-artifacts": b"the global model"}
    assert await _zip(realm, guest, second, "artifacts") == {f"{second}-1-1-artifacts": b"for one"}


async def test_what_a_polling_site_uploads_comes_with_a_blob(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    run = team.run(team.participants[0])
    form = {"run": run, "task_seq": 1, "round_seq": 1}
    answer = await realm.rest(
        "POST",
        "runs-action/upload/",
        team.participants[0].account,
        data=form,
        files={"mid_artifacts": ("mid-artifacts", MODEL)},
    )
    assert answer.status_code == 200, answer.text
    blob = (await team.co.expect("event", kind="file"))["data"]["blob"]
    path = f"blobs/{blob['id']}"
    assert (await Client(realm, team.coordinator).get(path)).content == MODEL
    assert (await Client(realm, team.participants[0]).get(path)).content == MODEL
    assert (await Client(realm, team.participants[1]).get(path)).status_code == 404
