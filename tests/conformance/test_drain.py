"""Sections 2, 5 and 7 of docs/protocol.md: a relay that is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm
from tests.conformance.wire import HandshakeRefused, Wire, events, publication
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess


@pytest.fixture(params=["sqlite", "postgresql"])
async def own(request: pytest.FixtureRequest) -> AsyncIterator[tuple[RelayProcess, Realm]]:
    """A relay to be ended, and a realm on it."""
    url = None
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create_database()
    with RelayProcess(url) as relay:
        async with new_realm(relay) as realm:
            yield relay, realm


async def terminated(relay: RelayProcess) -> int:
    """The exit code after SIGTERM; sessions are read meanwhile."""
    return await asyncio.to_thread(relay.terminate)


async def test_a_drain_says_goodbye_closes_1012_and_ends_with_0(own: tuple[RelayProcess, Realm]) -> None:
    relay, realm = own
    team = await realm.team(participants=2)
    assert await terminated(relay) == 0
    for wire in (team.co, *team.pas):
        goodbye = await wire.expect("goodbye")
        assert set(goodbye) == {"type", "code", "retry_after"}
        assert goodbye["code"] == "draining"
        assert isinstance(goodbye["retry_after"], int | float)
        assert 0 < goodbye["retry_after"] < 60
        assert await wire.closed() == 1012


async def test_retry_after_is_spread(own: tuple[RelayProcess, Realm]) -> None:
    relay, realm = own
    wires = [await realm.session(await realm.site()) for _ in range(8)]
    assert await terminated(relay) == 0
    assert len({(await wire.expect("goodbye"))["retry_after"] for wire in wires}) > 1


async def test_while_it_drains_new_handshakes_get_503_draining(own: tuple[RelayProcess, Realm]) -> None:
    """Many sessions are closed over some time; in that time somebody knocks."""
    relay, realm = own
    sites = [await realm.site() for _ in range(8)]
    wires = await asyncio.gather(*(realm.session(site) for site in sites for _ in range(16)))
    ending = asyncio.create_task(terminated(relay))
    await wires[0].expect("goodbye")
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect(sites[0].headers)
    assert (refused.value.status, refused.value.error["code"]) == (503, "draining")
    assert int(refused.value.headers["Retry-After"]) > 0
    assert await ending == 0


async def test_what_was_answered_before_a_drain_is_there_after_it(own: tuple[RelayProcess, Realm]) -> None:
    relay, realm = own
    team = await realm.team()
    publishing = asyncio.create_task(publish_until_closed(team.co, team.project))
    await team.pa.expect("event", data=50)
    assert await terminated(relay) == 0
    answered = await publishing
    await asyncio.to_thread(relay.start)
    wire = await realm.resumed(team.participant, team.project, offset=team.head)
    described = wire.welcome["projects"][str(team.project)]
    assert described["recovered"] is True
    shown = events(await wire.until("event", project=team.project, offset=described["offset"]), "message")
    assert [event["data"] for event in shown] == list(range(len(shown)))
    assert answered <= {event["offset"] for event in shown}


async def publish_until_closed(wire: Wire, project: int) -> set[int]:
    """Publishes numbers one after the other; the offsets that were answered when the relay closed."""
    offsets: set[int] = set()
    while not any(frame["type"] == "goodbye" for frame in wire.unclaimed):
        try:
            answer = await wire.ask(**publication(project, {"data": len(offsets)}))
        except (AssertionError, ConnectionClosed):  # closed in between: not answered
            break
        offsets.add(answer["offset"])
    return offsets


async def test_a_drain_of_a_relay_without_sessions_ends_at_once(own: tuple[RelayProcess, Realm]) -> None:
    relay, _ = own
    async with asyncio.timeout(5):
        assert await terminated(relay) == 0
