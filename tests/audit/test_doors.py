"""What a running relay records, whichever door it is done through; and the commands that read it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.blobs.tus import STREAM, TUS, metadata, path_of
from tests.conformance.own import new_realm
from tests.conformance.realm import Realm
from tests.conformance.wire import HandshakeRefused
from tests.support.relay import RelayProcess

Entry = dict[str, Any]
WRITTEN_WITHIN_S = 10.0


@pytest.fixture
def relay(database_url: str) -> Iterator[RelayProcess]:
    """A relay that nobody else uses: its record has what the test does, and no more."""
    url = None if database_url.startswith("sqlite") else database_url
    with RelayProcess(url, settings={"STARFISH_MIGRATE": "true"}) as process:
        yield process


@pytest.fixture
async def realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with new_realm(relay) as realm:
        yield realm


async def exported(relay: RelayProcess) -> list[Entry]:
    done = await asyncio.to_thread(relay.cli, "audit", "export")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def settled_head(relay: RelayProcess, more_than: int) -> dict[str, Any]:
    """The head in /health, once entries that are written a moment later are there."""
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        async with asyncio.timeout(WRITTEN_WITHIN_S):
            while (head := (await http.get("/health")).json()["audit_head"])["seq"] < more_than:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert isinstance(head, dict)
    return head


async def test_runs_members_blobs_and_refusals_are_recorded_and_the_record_verifies(
    realm: Realm, relay: RelayProcess
) -> None:
    before = len(await exported(relay))
    team = await realm.team()
    await team.start()
    await team.force("Running")
    await team.co.call("runs.stop", project=team.project, batch=team.batch)
    assert (await team.pa.error(type="call", method="runs.start", params={"project": team.project}))[
        "code"
    ] == "forbidden"
    body = b"weights that nobody else may see"
    headers = TUS | {"Upload-Length": str(len(body)), "Upload-Metadata": metadata(project=team.project)}
    made = await realm.as_site(
        "POST", "blobs/", team.coordinator, headers=headers | {"Content-Type": STREAM}, content=body
    )
    assert made.status_code == 201, made.text
    blob = path_of(made).removeprefix("/starfish/api/v1/")
    for _ in range(2):
        assert (await realm.as_site("GET", blob, team.coordinator)).content == body
    secret = (await asyncio.to_thread(relay.cli, "token", "create", "--site", team.participant.uid)).stdout.strip()
    with pytest.raises(HandshakeRefused):
        await realm.connect({"Authorization": "Bearer sfr_never-a-token"})
    head = await settled_head(relay, before + 13)

    entries = (await exported(relay))[before:]
    mine = [(one["actor"], one["action"], one["target"], one["result"]) for one in entries]
    co, pa, project = f"site:{team.coordinator.uid}", f"site:{team.participant.uid}", f"project:{team.project}"
    for expected in (
        (co, "login", "", "ok"),
        (pa, "login", "", "ok"),
        (co, "project.create", project, "ok"),
        (pa, "member.join", project, "ok"),
        (co, "runs.start", project, "ok"),
        (co, "runs.set_all", project, "ok"),
        (co, "runs.stop", project, "ok"),
        (pa, "runs.start", project, "forbidden"),
        (co, "blob.create", f"blob:{blob.rpartition('/')[2]}", "ok"),
        (co, "blob.read", f"blob:{blob.rpartition('/')[2]}", "ok"),
        ("unknown", "login", "", "unauthenticated"),
    ):
        assert mine.count(expected) == 1, (expected, mine)
    assert {one["origin"] for one in entries} == {"127.0.0.1", "local"}
    assert sum(one["action"] == "token.create" and one["target"] == pa for one in entries) == 1
    text = json.dumps(entries)
    for hidden in (secret, "sfr_never-a-token", body.decode(), realm.owner.password):
        assert hidden not in text
    done = await asyncio.to_thread(relay.cli, "audit", "verify", "--anchor", f"{head['seq']}:{head['hash']}")
    assert "none edited, removed or moved" in done.stdout


async def test_what_decides_who_takes_part_is_recorded_and_no_code_with_it(realm: Realm, relay: RelayProcess) -> None:
    team = await realm.team()
    asking_site = await realm.site()
    asking = await realm.session(asking_site)
    before = len(await exported(relay))
    co, pa, third = (f"site:{site.uid}" for site in (team.coordinator, team.participant, asking_site))
    of_project = {"project": team.project}
    code = (await team.co.call("invitations.create", **of_project, label="north"))["code"]
    made = (await team.co.call("invitations.create", **of_project))["id"]
    await team.co.call("invitations.revoke", **of_project, invitation=made)
    await team.co.call("members.remove", **of_project, site=team.participant.uid)
    await team.co.call("members.unbar", **of_project, site=team.participant.uid)
    await team.pa.call("projects.join", code=code)
    await team.co.call("projects.update", **of_project, join_policy="approval")
    for _ in range(3):
        await asking.refused("projects.join", name=team.name)
    await team.pa.refused("requests.approve", **of_project, site=asking_site.uid)
    await team.co.call("requests.reject", **of_project, site=asking_site.uid)
    part = (await team.pa.call("projects.list"))[0]["id"]
    await realm.rest("PATCH", f"project-participants/{part}/", realm.owner, json={"notes": "with 3 machines"})
    await team.co.call("projects.transfer", **of_project, site=team.participant.uid)
    await asyncio.to_thread(relay.cli, "journal", "keep", str(team.project), "--age", "30d")

    entries = (await exported(relay))[before:]
    mine = [(one["actor"], one["action"], one["result"]) for one in entries if one["action"] != "login"]
    user = f"user:{realm.owner.name}"
    shell = next(one["actor"] for one in entries if one["action"] == "journal.keep")
    for expected in (
        (co, "invitation.revoke", "ok"),
        (co, "member.leave", "ok"),
        (co, "member.unbar", "ok"),
        (pa, "member.join", "ok"),
        (co, "project.update", "ok"),
        (third, "request.ask", "ok"),
        (pa, "request.approve", "forbidden"),
        (co, "request.reject", "ok"),
        (user, "member.notes", "ok"),
        (co, "project.transfer", "ok"),
        (shell, "journal.keep", "ok"),
    ):
        assert mine.count(expected) == 1, (expected, mine)
    assert mine.count((co, "invitation.create", "ok")) == 2
    (policy,) = (one["details"] for one in entries if one["action"] == "project.update")
    assert policy == {"fields": "join_policy", "join_policy": "approval"}
    assert code not in json.dumps(entries) and code.removeprefix("sfi_") not in json.dumps(entries)


async def test_a_password_that_is_wrong_names_the_user_and_one_in_the_place_of_a_name_is_not_kept(
    realm: Realm, relay: RelayProcess
) -> None:
    before = len(await exported(relay))
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        for pair in ((realm.owner.name, "wrong"), ("Tr0ub4dor&3", "")):
            assert (await http.get("/metrics", auth=pair)).status_code == 401
    await settled_head(relay, before + 2)
    refused = [one for one in (await exported(relay))[before:] if one["result"] == "unauthenticated"]
    assert [one["actor"] for one in refused] == [f"user:{realm.owner.name}", "unknown"]
    assert "Tr0ub4dor" not in json.dumps(refused)
