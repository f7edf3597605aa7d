"""What a site without a WebSocket does: event streams, where it stands, calls (protocol, "Without a WebSocket")."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.conformance.realm import API, Account, Realm, Site
from tests.conformance.wire import TIMEOUT_S, Frame, new_id
from tests.support.relay import RelayProcess

COORDINATOR = Account(name="coordinator", password="the coordinator's password")
PARTICIPANT = Account(name="participant", password="the participant's password")


class Stream:
    """An event stream as a client reads it: `next` is the next event's id (None without one) and its object."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        waiting = b""
        async for piece in self.response.aiter_raw():
            *lines, waiting = (waiting + piece).split(b"\n")
            for line in lines:
                yield line

    async def next(self) -> tuple[str | None, Frame]:
        id_, data = None, []
        async with asyncio.timeout(TIMEOUT_S):
            async for line in self._lines:
                field, _, value = line.partition(b": ")
                if field == b"data":
                    data.append(value)
                elif field == b"id":
                    id_ = value.decode()
                elif not line and data:
                    return id_, json.loads(b"\n".join(data))
        raise AssertionError("the stream has ended")

    async def until(self, **fields: Any) -> tuple[str | None, Frame]:
        while True:
            id_, found = await self.next()
            if fields.items() <= found.items():
                return id_, found

    async def comments(self, count: int) -> None:
        """Wait for so many comments, with nothing else before them."""
        async with asyncio.timeout(TIMEOUT_S):
            async for line in self._lines:
                assert not line or line.startswith(b":"), line
                count -= line.startswith(b":")
                if not count:
                    return

    async def ended(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            async for _ in self._lines:
                pass


@contextlib.asynccontextmanager
async def streaming(realm: Realm, project: int, headers: Mapping[str, str], query: str = "") -> AsyncIterator[Stream]:
    headers = {**headers, "Accept": "text/event-stream"}
    async with realm.http.stream("GET", f"/projects/{project}/events/{query}", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


# Streams


async def test_a_stream_shows_the_past_and_then_what_comes_and_says_where_it_is(realm: Realm) -> None:
    team = await realm.team()
    first = await team.co.publish(team.project, kind="command", data={"past": True})
    async with streaming(realm, team.project, team.participant.headers, f"?after={team.head}") as stream:
        id_, event = await stream.next()
        epoch = stream.response.headers["X-Starfish-Epoch"]
        assert stream.response.headers["X-Starfish-From"] == str(team.head)
        assert (id_, event["data"]) == (f"{epoch}:{first['offset']}", {"past": True})
        second = await team.co.publish(team.project, kind="command", data="live")
        assert (await stream.next())[0] == f"{epoch}:{second['offset']}"
    resumed = team.participant.headers | {"Last-Event-ID": f"{epoch}:{first['offset']}"}
    async with streaming(realm, team.project, resumed) as stream:
        assert (await stream.next())[1]["data"] == "live"


async def test_a_stream_of_another_journal_begins_where_that_begins(realm: Realm) -> None:
    team = await realm.team()
    resumed = team.coordinator.headers | {"Last-Event-ID": f"another:{team.head}"}
    async with streaming(realm, team.project, resumed) as stream:
        assert stream.response.headers["X-Starfish-From"] == "0"
        assert (await stream.next())[1]["offset"] == 1


async def test_json_with_line_ends_passes_a_stream_unharmed(realm: Realm) -> None:
    team = await realm.team()
    data = '{\n  "a": [1,\r\n 2],\r "b": "\u2028\u0085 c"}'
    async with streaming(realm, team.project, team.participant.headers, f"?after={team.head}") as stream:
        frame = {"type": "publish", "ref": 1, "id": new_id(), "project": team.project, "kind": "command"}
        await team.co.send_text(json.dumps(frame)[:-1] + f', "data": {data}}}')
        _, event = await stream.next()
        assert event["data"] == {"a": [1, 2], "b": "\u2028\u0085 c"}


async def test_receipts_and_presence_come_on_a_stream_without_an_id(realm: Realm) -> None:
    team = await realm.team()
    await team.co.close()
    async with streaming(realm, team.project, team.coordinator.headers, f"?after={team.head}") as stream:
        body = {"id": new_id(), "kind": "command", "data": 1, "receipts": True}
        path = f"projects/{team.project}/"
        published = await realm.as_site("POST", path + "events/", team.coordinator, json=body)
        offset = published.json()["offset"]
        acked = await realm.as_site("POST", path + "ack/", team.participant, json={"offset": offset})
        assert acked.status_code == 204
        id_, receipt = await stream.until(type="receipt")
        assert (id_, receipt["offset"], receipt["site"]) == (None, offset, team.participant.uid)
        await team.pa.close()
        id_, presence = await stream.until(type="presence")
        assert (id_, presence["site"], presence["state"]) == (None, team.participant.uid, "offline")


async def test_a_revoked_token_ends_a_stream_and_a_long_poll(
    realm: Realm, relay: RelayProcess, make_token: Callable[[Site], str]
) -> None:
    team = await realm.team()
    token = await asyncio.to_thread(make_token, team.participant)
    bearer = {"Authorization": f"Bearer {token}"}
    async with streaming(realm, team.project, bearer, f"?after={team.head}") as stream:
        path = f"/projects/{team.project}/events/?after={team.head}&wait=60"
        polling = asyncio.create_task(realm.http.get(path, headers=bearer, timeout=TIMEOUT_S))
        await team.co.publish(team.project, kind="command", data=1)
        await stream.next()
        await polling
        polling = asyncio.create_task(realm.http.get(path.replace("after=", "after=1"), headers=bearer, timeout=60))
        await asyncio.to_thread(relay.cli, "token", "revoke", token)
        await stream.ended()
        assert (await polling).status_code in (200, 401)
    again = await realm.http.get(f"/projects/{team.project}/events/", headers=bearer)
    assert again.status_code == 401


# A relay with settings of its own


@pytest.fixture
def own_relay() -> Iterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_PING_INTERVAL_S": "0.5"}) as relay:
        for account in (COORDINATOR, PARTICIPANT):
            relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
        yield relay


async def test_a_stream_is_never_silent_and_ends_with_the_relay(own_relay: RelayProcess) -> None:
    """Also where much happens that the site may not see: a proxy cuts what is idle."""
    async with Realm(own_relay, owner=COORDINATOR, guest=PARTICIPANT, operator=COORDINATOR) as realm:
        team = await realm.team(participants=2)
        async with streaming(realm, team.project, team.participants[1].headers, f"?after={team.head}") as stream:
            busy = asyncio.create_task(publish_steadily(realm, team.project, team.participants[0]))
            await stream.comments(3)
            busy.cancel()
            terminating = asyncio.create_task(asyncio.to_thread(own_relay.terminate))
            await stream.ended()
            assert await terminating == 0


async def publish_steadily(realm: Realm, project: int, site: Site) -> None:
    while True:
        body = {"id": new_id(), "kind": "log", "data": "for the coordinator alone"}
        await realm.as_site("POST", f"projects/{project}/events/", site, json=body)
        await asyncio.sleep(0.1)


# Where a site stands, and calls


async def test_hello_says_what_a_welcome_says(realm: Realm) -> None:
    team = await realm.team()
    position = {str(team.project): {"offset": team.head - 1}}
    wire = await realm.resumed(team.participant, team.project, offset=team.head - 1)
    answer = await realm.as_site("POST", "hello/", team.participant, json={"projects": position})
    assert answer.status_code == 200
    own = {"type", "ref", "session"}
    assert answer.json() == {key: value for key, value in wire.welcome.items() if key not in own}
    lost = {str(team.project): {"offset": 1, "epoch": "another"}}
    answer = await realm.as_site("POST", "hello/", team.coordinator, json={"projects": lost})
    assert (
        answer.json()["projects"][str(team.project)] | {"from": 0, "recovered": False}
        == answer.json()["projects"][str(team.project)]
    )


async def test_a_call_over_rest_is_the_call_of_a_session(realm: Realm) -> None:
    team = await realm.team()
    for method, params in (("projects.participants", {"project": team.project}), ("projects.list", {})):
        answer = await realm.as_site("POST", f"calls/{method}/", team.coordinator, json=params)
        assert answer.status_code == 200
        assert answer.json() == {"result": await team.co.call(method, **params)}
    started = await realm.as_site("POST", "calls/runs.start/", team.coordinator, json={"project": team.project})
    assert {run["status"] for run in started.json()["result"]["runs"]} == {"Standby"}
    await team.pa.expect("event", kind="run")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("calls/no.such/", "{}", 404, "unknown_method"),
        ("calls/runs.list/", "{}", 400, "invalid"),
        ("calls/runs.list/", '{"project": 999999999}', 404, "unknown_project"),
        ("calls/runs.list/", "[]", 400, "invalid"),
        ("calls/runs.list/", "{", 400, "invalid"),
        ("hello/", '{"projects": 7}', 400, "invalid"),
        ("hello/", '{"projects": {"x": {}}}', 400, "invalid"),
        ("hello/", '{"client": "' + "x" * 2**20 + '"}', 413, "too_large"),
    ],
)
async def test_what_cannot_be_is_refused(realm: Realm, path: str, body: str, status: int, code: str) -> None:
    site = await realm.site()
    answer = await realm.as_site("POST", path, site, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_nobody_is_served_without_credentials(realm: Realm) -> None:
    for path in ("hello/", "calls/projects.list/"):
        answer = await realm.http.post(f"{realm.base_url}{API}/{path}", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
