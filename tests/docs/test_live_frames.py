"""What a running relay sends is what docs/asyncapi.yaml describes: every frame, every result, no field more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from relay.core.calls import METHODS
from relay.core.model import Kind
from tests.conformance.realm import TASKS, Account, Realm, Team, unique
from tests.conformance.wire import PAYLOAD, Frame, Wire, new_id, publication
from tests.docs.documents import asyncapi, properties, schemas, violations
from tests.support.relay import RelayProcess

OWNER = Account(name="owner", password="the owner's password")
GUEST = Account(name="guest", password="the guest's password")

RESULTS = {branch["properties"]["method"]["const"]: branch["x-result"] for branch in schemas()["Call"]["oneOf"]}


class Recorder:
    """What came in on all wires, and which methods were called."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.methods: set[str] = set()


class RecordingWire(Wire):
    """Checks the result of each call by its method's schema, and keeps every frame."""

    def __init__(self, connection: ClientConnection, recorder: Recorder) -> None:
        self.recorder = recorder
        super().__init__(connection)

    async def call(self, method: str, **params: Any) -> Any:
        result = await super().call(method, **params)
        assert violations(RESULTS[method], result) == [], (method, result)
        self.recorder.methods.add(method)
        return result

    async def _note(self, frame: Frame) -> None:
        self.recorder.frames.append(frame)
        await super()._note(frame)


class RecordingRealm(Realm):
    recorder: Recorder

    async def connect(self, headers: Mapping[str, str], **options: Any) -> Wire:
        plain = await Wire.open(self.socket_url, headers, **options)
        plain._reader.cancel()
        wire = RecordingWire(plain.connection, self.recorder)
        self._wires.append(wire)
        return wire


@pytest.fixture
def own_relay() -> Iterator[RelayProcess]:
    """A relay that the test ends."""
    with RelayProcess() as relay:
        for account in (OWNER, GUEST):
            relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
        yield relay


def schema_of(frame: Frame) -> str:
    match frame["type"]:
        case "ok":
            return "Result" if "result" in frame else "Refreshed" if "expires_at" in frame else "Published"
        case "event":
            return "EventHeader" if PAYLOAD in frame else "Event"
        case other:
            return str(other).capitalize()


async def events_receipts_and_membership(realm: RecordingRealm) -> None:
    team = await realm.team(participants=2)
    command = await team.co.publish(team.project, kind="command", data={"op": "train"}, receipts=True)
    await team.pa.ack(team.project, command["offset"])
    await team.co.expect("receipt")
    await team.co.call("receipts.get", project=team.project, offset=command["offset"])
    await team.co.call("cursors.list", project=team.project)
    await team.pa.publish_binary(team.project, b"\0weights", kind="update")
    await team.co.expect("event", kind="update")
    for kind in ("log", "key", "message"):
        await team.pa.publish(team.project, kind=kind, data=[kind])
        await team.co.expect("event", kind=kind)
    await team.co.call("projects.list")
    await team.co.call("projects.participants", project=team.project)
    await team.pa.call("keys.put", keys={"hpke": "AAAA"})
    assert await team.co.call("keys.get", project=team.project)
    history = await team.co.call("history.read", project=team.project)
    assert {"data", "payload"} <= {key for event in history for key in event}
    await team.pas[1].call("projects.leave", project=team.project)
    await team.pas[1].expect("unsubscribed", reason="left")
    await team.co.expect("event", kind="participant", data={"change": "left"})
    await team.pa.close()
    await team.co.expect("presence", state="offline")


async def a_batch(realm: RecordingRealm) -> None:
    team = await realm.team(tasks=TASKS)
    started = await team.co.call("runs.start", project=team.project, policy={"min_sites": 1, "deadline_s": 3600})
    team.batch, team.runs = started["batch"], {run["site_uid"]: run for run in started["runs"]}
    run = next(run["id"] for run in started["runs"] if run["site_uid"] == team.participant.uid)
    own = next(run["id"] for run in started["runs"] if run["site_uid"] == team.coordinator.uid)
    await team.pa.call("runs.status", run=run, status="Preparing")
    await team.pa.publish(team.project, kind="progress", run=run, data={"step": 1})
    await team.co.expect("event", kind="progress")
    assert await team.co.call("progress.get", project=team.project, batch=started["batch"])
    await team.co.call("runs.status", run=own, status=4, update_all=True)
    await team.co.call("runs.status", run=own, status="Standby", update_all=True, increase_round=True)
    await team.co.call("runs.stop", project=team.project, batch=started["batch"])
    await team.co.expect("event", kind="batch", data={"reason": "stopped"})
    await team.co.call("runs.restart", project=team.project, batch=started["batch"])
    await team.co.expect("event", kind="batch", data={"reason": "restarted"})
    await team.pa.call("runs.list", project=team.project, active=True)
    await assert_refusals_of_runs(team, run)
    form = {"run": str(run), "task_seq": "1", "round_seq": "1"}
    await realm.rest("POST", "runs-action/upload/", GUEST, data=form, files={"logs": ("logs.txt", b"epoch 1")})
    await team.co.expect("event", kind="file")
    await realm.rest("PATCH", f"projects/{team.project}/", OWNER, json={"description": "another"})
    await team.pa.expect("event", kind="project")
    await a_queued_batch(team)


async def a_queued_batch(team: Team) -> None:
    await team.co.call("runs.stop", project=team.project, batch=team.batch)
    await team.force("Failed")
    await team.pa.close()
    await team.co.expect("presence", state="offline")
    policy = {"queue_s": 60, "mandatory_sites": [team.participant.uid], "stragglers": "leave_out", "late_join": True}
    queued = await team.co.call("runs.start", project=team.project, policy=policy)
    assert queued["queued"] is True
    await team.co.call("runs.stop", project=team.project, batch=queued["batch"])


async def assert_refusals_of_runs(team: Team, run: int) -> None:
    refused = [
        await team.co.refused("runs.start", project=team.project),
        await team.pa.refused("runs.start", project=team.project),
        await team.pa.refused("runs.status", run=run, status="Success"),
        await team.pa.refused("runs.status", run=2**40, status="Success"),
    ]
    assert [error["code"] for error in refused] == ["conflict", "forbidden", "conflict", "unknown_run"]


async def who_takes_part(realm: RecordingRealm) -> None:
    team = await realm.team()
    name = unique("closed")
    project = (await team.co.call("projects.create", name=name, tasks=[], join_policy="invitation"))["id"]
    unused = await team.co.call("invitations.create", project=project, label="for nobody")
    await team.co.call("invitations.revoke", project=project, invitation=unused["id"])
    code = (await team.co.call("invitations.create", project=project, expires_in=600))["code"]
    await team.pa.call("projects.join", code=code)
    assert {one["state"] for one in await team.co.call("invitations.list", project=project)} == {"revoked", "used"}
    pa = team.participant.uid
    await team.co.call("members.remove", project=project, site=pa)
    await team.pa.expect("unsubscribed", reason="removed")
    assert await team.co.call("members.barred", project=project)
    await team.co.call("members.unbar", project=project, site=pa)
    await team.co.call("projects.update", project=project, join_policy="approval")
    for method in ("requests.reject", "requests.approve"):
        if method == "requests.approve":
            asking, site = await realm.session(other := await realm.site()), other.uid
        else:
            asking, site = team.pa, pa
        assert (await asking.refused("projects.join", name=name))["code"] == "unknown_project"
        await team.co.expect("event", kind="request", data={"change": "asked", "site": site})
        assert await team.co.call("requests.list", project=project)
        await team.co.call(method, project=project, site=site)
    await team.co.expect("event", kind="request", data={"change": "rejected"})
    await team.co.call("projects.transfer", project=project, site=other.uid)
    await asking.expect("event", kind="participant", data={"change": "transferred"})
    assert (await asking.call("projects.get", project=project))["join_policy"] == "approval"


async def refusals(realm: RecordingRealm) -> None:
    team = await realm.team()
    assert (await team.co.refused("projects.create", name=team.name, tasks=[]))["code"] == "exists"
    assert (await team.co.refused("projects.create", name=7))["code"] == "invalid"
    assert (await team.co.refused("no.such"))["code"] == "unknown_method"
    assert (await team.co.error(type="nonsense"))["code"] == "unknown_type"
    assert (await team.co.publish_refused(2**40))["code"] == "unknown_project"
    large = "x" * team.co.welcome["limits"]["frame"]
    assert (await team.co.error(**publication(team.project, {"data": large})))["code"] == "too_large"
    await team.co.send_text("{")
    assert (await team.co.expect("error"))["code"] == "bad_frame"
    await realm.unconnected(team.participant, team.pas, team.co)
    assert (await team.co.refused("runs.start", project=team.project))["code"] == "not_all_connected"


async def without_a_websocket(realm: RecordingRealm) -> None:
    team = await realm.team()
    await team.pa.publish_binary(team.project, b"weights", kind="update")
    path = f"projects/{team.project}/events/"
    body = {"id": new_id(), "kind": "message", "data": None}
    first, again = [await realm.as_site("POST", path, team.participant, json=body) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"duplicate": True}
    polled = await realm.as_site("GET", path + "?after=0&limit=1000", team.coordinator)
    shown = polled.json()["events"]
    assert {"data", "payload"} <= {key for event in shown for key in event}
    assert [problem for event in shown for problem in violations("EventObject", event)] == []
    assert polled.headers["X-Starfish-Offset"] == str(first.json()["offset"])
    assert polled.headers["X-Starfish-Epoch"] == (await epoch_of(realm, team))
    refused = await realm.as_site("GET", "projects/999999/events/", team.coordinator)
    assert refused.status_code == 404
    assert violations("Refusal", refused.json()) == []


async def epoch_of(realm: RecordingRealm, team: Team) -> str:
    again = await realm.resumed(team.coordinator, team.project, offset="new")
    epoch: str = again.welcome["projects"][str(team.project)]["epoch"]
    return epoch


async def a_new_token_and_a_goodbye(realm: RecordingRealm, own_relay: RelayProcess) -> None:
    site = await realm.site()
    token = own_relay.cli("token", "create", "--site", site.uid).stdout.strip()
    wire = await realm.connect({"Authorization": f"Bearer {token}"})
    await wire.hello(client="documents/1.0")
    assert (await wire.ok(type="refresh", token=token))["expires_at"] is None
    assert (await wire.error(type="refresh", token=unique("no-token")))["code"] == "unauthenticated"
    own_relay.terminate()
    goodbye = await wire.expect("goodbye")
    assert goodbye["code"] == "draining"
    assert await wire.closed() == 1012


async def test_a_relay_sends_and_answers_what_is_described(own_relay: RelayProcess) -> None:
    recorder = Recorder()
    async with RecordingRealm(own_relay, owner=OWNER, guest=GUEST, operator=OWNER) as realm:
        realm.recorder = recorder
        await events_receipts_and_membership(realm)
        await a_batch(realm)
        await who_takes_part(realm)
        await refusals(realm)
        await without_a_websocket(realm)
        await a_new_token_and_a_goodbye(realm, own_relay)

    for frame in recorder.frames:
        described = {key: value for key, value in frame.items() if key != PAYLOAD}
        assert violations(schema_of(frame), described) == [], frame

    assert {frame["type"] for frame in recorder.frames} == types_to_the_client()
    assert recorder.methods == set(METHODS)
    kinds = {frame["kind"] for frame in recorder.frames if frame["type"] == "event"}
    assert kinds == set(Kind)


def types_to_the_client() -> set[str]:
    """The types of the frames that the relay sends, by docs/asyncapi.yaml."""
    operations = asyncapi()["operations"].values()
    sent = [operation["messages"] for operation in operations if operation["action"] == "send"]
    answers = [operation["reply"]["messages"] for operation in operations if "reply" in operation]
    names = {message["$ref"].rpartition("/")[2] for messages in sent + answers for message in messages}
    messages = asyncapi()["components"]["messages"]
    described = {messages[name].get("headers", messages[name]["payload"])["$ref"].rpartition("/")[2] for name in names}
    return {properties(name)["type"]["const"] for name in described}
