"""PostgreSQL goes away while the relay serves: it says so, keeps its sessions, and heals by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, Team
from tests.conformance.wire import Frame, Wire, events, new_id, publication
from tests.crash.truth import journal
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

NOT_READY_WITHIN_S = 5.0
HEALED_WITHIN_S = 15.0
ANSWERED_WITHIN_S = 20.0


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A database server of the test's own, to be stopped."""
    with Postgres() as server:
        yield server


async def health(relay: RelayProcess) -> int | None:
    return await asyncio.to_thread(relay.health, "ready")


async def health_is(relay: RelayProcess, status: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (found := await health(relay)) != status:
        assert time.monotonic() < deadline, f"/health/ready: {found} and not {status} after {within_s} s"
        await asyncio.sleep(0.05)


class Publisher:
    """Publishes one numbered message after the other, whatever it is answered, and keeps the answers by id."""

    def __init__(self, wire: Wire, project: int) -> None:
        self.wire = wire
        self.project = project
        self.answers: dict[str, Frame] = {}
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            id_ = new_id()
            await self.wire.send(**publication(self.project, {"id": id_, "ref": id_, "data": len(self.answers)}))
            self.answers[id_] = await answer_within(self.wire, id_)
            await asyncio.sleep(0.01)

    def ids(self, type_: str) -> list[str]:
        return [id_ for id_, answer in self.answers.items() if answer["type"] == type_]


async def answer_within(wire: Wire, ref: str) -> Frame:
    """The answer, for which a failing storage may need its time-out."""
    deadline = time.monotonic() + ANSWERED_WITHIN_S
    while True:
        try:
            return await wire.answer(ref)
        except AssertionError:
            if time.monotonic() > deadline:
                raise


async def lose_the_database(relay: RelayProcess, server: Postgres) -> None:
    await asyncio.to_thread(server.stop, "immediate")
    await health_is(relay, 503, NOT_READY_WITHIN_S)


async def bring_it_back(relay: RelayProcess, server: Postgres) -> None:
    await asyncio.to_thread(server.start)
    await health_is(relay, 200, HEALED_WITHIN_S)


async def test_a_lost_database_is_said_and_nothing_is_acknowledged_that_was_not_stored(server: Postgres) -> None:
    with RelayProcess(server.create_database()) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team()
            publisher = Publisher(team.co, team.project)
            publishing = asyncio.create_task(publisher.run())
            shown = await team.pa.until("event", data=20)
            await lose_the_database(relay, server)
            assert await asyncio.to_thread(relay.health, "live") == 200
            refused = await answer_to_a_publish(team)
            assert (refused["type"], refused.get("code")) == ("error", "unavailable")
            await bring_it_back(relay, server)
            healed = len(publisher.ids("ok"))
            while len(publisher.ids("ok")) < healed + 5:
                assert not publishing.done()
                await asyncio.sleep(0.05)
            publisher.stopping = True
            await publishing
            await assert_truth(realm, team, publisher, shown)


async def answer_to_a_publish(team: Team) -> Frame:
    """While the database is away."""
    await team.pa.send(**publication(team.project, {"ref": "while away", "data": "while away"}))
    return await answer_within(team.pa, "while away")


async def assert_truth(realm: Realm, team: Team, publisher: Publisher, shown: list[Frame]) -> None:
    """`shown` is what the participant had been sent before; the rest is still unclaimed."""
    entries = await journal(await realm.session(team.coordinator), team.project, team.head)
    by_id = {entry["id"]: entry["offset"] for entry in entries}
    assert len(by_id) == len(entries)
    assert {id_: by_id.get(id_) for id_ in publisher.ids("ok")} == {
        id_: publisher.answers[id_]["offset"] for id_ in publisher.ids("ok")
    }
    assert {publisher.answers[id_]["code"] for id_ in publisher.ids("error")} == {"unavailable"}
    assert "while away" not in [entry["data"] for entry in entries]
    shown += await team.pa.until("event", offset=entries[-1]["offset"])
    assert [event["offset"] for event in events(shown, "message")] == [entry["offset"] for entry in entries]


async def test_what_was_unavailable_is_stored_once_when_it_is_sent_again(server: Postgres) -> None:
    with RelayProcess(server.create_database()) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team()
            await lose_the_database(relay, server)
            ids = [new_id() for _ in range(10)]
            for id_ in ids:
                await team.co.send(**publication(team.project, {"id": id_, "ref": id_}))
            for id_ in ids:
                assert (await answer_within(team.co, id_)).get("code") == "unavailable"
            await bring_it_back(relay, server)
            for id_ in ids:
                assert (await team.co.publish(team.project, id=id_))["duplicate"] is False
            entries = await journal(team.co, team.project, team.head)
            assert [entry["id"] for entry in entries] == ids


async def test_calls_and_handshakes_say_so_too_and_sessions_outlive_it(server: Postgres) -> None:
    with RelayProcess(server.create_database()) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team()
            await lose_the_database(relay, server)
            await team.co.send(type="call", ref="list", method="projects.list", params={})
            assert (await answer_within(team.co, "list")).get("code") == "unavailable"
            response = await realm.rest("GET", "sites/", realm.owner)
            assert response.status_code == 503, response.text
            await bring_it_back(relay, server)
            assert await team.co.is_alive()
            assert await team.pa.is_alive()
            await team.co.publish(team.project, data="healed")
            await team.pa.expect("event", data="healed")
            await (await realm.session(team.participant)).expect("event", data="healed")
