"""The two clients of docs/protocol.md, taken out of it as a reader would, and run against a relay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.realm import Account, Realm, Site, unique
from tests.conformance.wire import Frame, Wire, new_id
from tests.docs.documents import PROTOCOL, block
from tests.support.node import node_with_ws
from tests.support.relay import RelayProcess

COORDINATOR = Account(name="coordinator", password="the coordinator's password")
PARTICIPANT = Account(name="participant", password="the participant's password")
EXIT_TIMEOUT_S = 20


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    """A relay that these tests may restart."""
    with RelayProcess() as relay:
        for account in (COORDINATOR, PARTICIPANT):
            relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
        yield relay


@pytest.fixture(scope="module", params=["client.py", "client.mjs"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs a client of the document."""
    home = tmp_path_factory.mktemp("client")
    file = home / request.param
    file.write_text(block(PROTOCOL, f"run: {request.param}"))
    if file.suffix == ".py":
        return [sys.executable, "-W", "error", str(file)]
    return [node_with_ws(home), str(file)]


class Client:
    """A running client. What it prints, a frame a line, is in `frames`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.frames: list[Frame] = []

    async def until(self, type_: str) -> Frame:
        """The next frame of this type that it was sent."""
        assert self.process.stdout is not None
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            while line := await self.process.stdout.readline():
                frame: Frame = json.loads(line)
                self.frames.append(frame)
                if frame["type"] == type_:
                    return frame
        raise AssertionError(f"it ended before any {type_}: {self.frames}")

    async def ended(self) -> int:
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            await self.process.communicate()
        code = self.process.returncode
        assert code is not None
        return code


@asynccontextmanager
async def running(command: list[str], relay: RelayProcess, token: str) -> AsyncIterator[Client]:
    environment = os.environ | {"STARFISH_URL": relay.ws_url, "STARFISH_TOKEN": token}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def realm_on(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(relay, owner=COORDINATOR, guest=PARTICIPANT, operator=COORDINATOR) as realm:
        yield realm


async def project_with(realm: Realm, participant: Site) -> tuple[Site, int]:
    """A project in which the site takes part, and its coordinator's site."""
    coordinator = await realm.site()
    co = await realm.session(coordinator)
    project = await co.call("projects.create", name=unique("project"), description="", tasks=[])
    await co.expect("subscribed", project=project["id"])
    pa = await realm.session(participant)
    await pa.call("projects.join", name=project["name"])
    for wire in (pa, co):
        await wire.close()
    return coordinator, project["id"]


async def commanded(co: Wire, project: int) -> str:
    """The id of a new command to the participants."""
    id_ = new_id()
    await co.publish(project, kind="command", data={"op": "train"}, id=id_, receipts=True)
    return id_


async def answered(co: Wire, id_: str) -> None:
    """Wait for the answer to a command, and for its acknowledgement, which the client sends after it."""
    event = await co.expect("event", kind="update", id=id_)
    assert event["payload"] == b"the weights"
    await co.expect("receipt")


async def test_a_client_answers_every_command_once_over_kills_and_restarts(
    command: list[str], own_relay: RelayProcess
) -> None:
    async with realm_on(own_relay) as realm:
        site = await realm.site(PARTICIPANT)
        token = own_relay.cli("token", "create", "--site", site.uid).stdout.strip()
        coordinator, project = await project_with(realm, site)
        co = await realm.session(coordinator)
        ids = [await commanded(co, project)]  # before the client ever runs

        async with running(command, own_relay, token) as client:
            await answered(co, ids[-1])
            ids.append(await commanded(co, project))
            await answered(co, ids[-1])
            client.process.kill()
        ids.append(await commanded(co, project))  # while it does not run
        async with running(command, own_relay, token) as client:
            await answered(co, ids[-1])
            own_relay.restart()
            assert await co.closed() == 1012
            co = await realm.resumed(coordinator, project, offset="new")
            ids.append(await commanded(co, project))
            await answered(co, ids[-1])

            updates = await co.call("history.read", project=project, after=0, limit=100, kind="update")
            assert [event["id"] for event in updates] == ids

            own_relay.cli("token", "revoke", token)
            assert await client.ended() == 1


async def test_a_command_that_was_answered_but_not_acknowledged_is_not_answered_twice(
    command: list[str], own_relay: RelayProcess
) -> None:
    async with realm_on(own_relay) as realm:
        site = await realm.site(PARTICIPANT)
        token = own_relay.cli("token", "create", "--site", site.uid).stdout.strip()
        coordinator, project = await project_with(realm, site)
        co = await realm.session(coordinator)
        id_ = await commanded(co, project)
        pa = await realm.session(site)
        await pa.publish_binary(project, b"the weights", kind="update", id=id_)  # and no ack: it was killed there
        await pa.close()

        async with running(command, own_relay, token) as client:
            ok = await client.until("ok")
            assert ok["duplicate"] is True
            await co.expect("receipt")
        updates = await co.call("history.read", project=project, after=0, limit=100, kind="update")
        assert [event["id"] for event in updates] == [id_]


async def test_a_client_ends_when_its_token_is_wrong(command: list[str], own_relay: RelayProcess) -> None:
    async with running(command, own_relay, "no-token-of-this-relay") as client:
        assert await client.ended() == 1


async def test_a_client_outlives_a_relay_that_is_killed(command: list[str], own_relay: RelayProcess) -> None:
    async with realm_on(own_relay) as realm:
        site = await realm.site(PARTICIPANT)
        token = own_relay.cli("token", "create", "--site", site.uid).stdout.strip()
        async with running(command, own_relay, token) as client:
            first = await client.until("welcome")
            own_relay.kill()
            own_relay.start()
            again = await client.until("welcome")
            assert again["session"] != first["session"]
            client.process.send_signal(signal.SIGTERM)
