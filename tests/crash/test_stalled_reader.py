"""Sites that stop reading while much passes: they cost the relay lag and no memory, and are shown all of it later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, Team
from tests.conformance.wire import Frame, Wire, new_id
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

READERS = 2
MAX_GROWTH_BYTES = 32 * 1024 * 1024
STEP = 500
SMALL, LARGE = "x" * 900, "x" * 10_000
"""Bodies of events of about 1 KB and 10 KB. A frame that waits for many readers may be in memory once for all of them:
what waits has to be more than MAX_GROWTH_BYTES in itself."""


@asynccontextmanager
async def stalled_readers(relay: RelayProcess, count: int) -> AsyncIterator[tuple[Realm, Team, Proxy, list[Wire]]]:
    """A project whose participants are connected through a proxy that has stopped to pass anything on."""
    async with new_realm(relay) as realm, Proxy(relay.port) as proxy:
        team = await realm.team(participants=count)
        for wire in team.pas:
            await wire.close()
        direct, realm.socket_url = realm.socket_url, realm.socket_url.replace(str(relay.port), str(proxy.port))
        readers = []
        for site in team.participants:
            readers.append(await realm.resumed(site, team.project, offset=team.head))
            await team.co.until("presence", site=site.uid, state="online")
        realm.socket_url = direct
        proxy.stall()
        try:
            yield realm, team, proxy, readers
        finally:
            proxy.resume()


async def publish_many(wire: Wire, project: int, total: int, filling: str = SMALL) -> list[int]:
    """Publishes that many numbered events as fast as they are answered; their offsets."""
    window = asyncio.Semaphore(200)

    async def send() -> None:
        for number in range(total):
            await window.acquire()
            body = {"n": number, "x": filling}
            await wire.send(type="publish", ref=number, id=new_id(), project=project, kind="message", data=body)

    sending = asyncio.create_task(send())
    offsets = []
    for _ in range(total):
        offsets.append((await wire.expect("ok"))["offset"])
        window.release()
    await sending
    return offsets


async def read_all(wire: Wire, offsets: list[int]) -> list[int]:
    """The offsets of the messages that a session is shown, up to the last of these."""
    shown: list[int] = []
    for last in (*offsets[STEP:-1:STEP], offsets[-1]):  # in steps: a search from the front of all that came is slow
        shown += messages(await wire.until("event", offset=last))
    return shown


def messages(frames: list[Frame]) -> list[int]:
    return [frame["offset"] for frame in frames if frame["type"] == "event" and frame["kind"] == "message"]


@pytest.mark.parametrize(
    ("total", "filling"),
    [pytest.param(5_000, LARGE, id="5000"), pytest.param(100_000, SMALL, id="100000", marks=pytest.mark.soak)],
)
async def test_stalled_readers_cost_no_memory_and_are_shown_everything_when_they_wake(
    fresh_database: str | None, total: int, filling: str
) -> None:
    patience = {"STARFISH_OUTBOX_PATIENCE_S": "600", "STARFISH_PING_TIMEOUT_S": "600"}
    with RelayProcess(fresh_database, settings=patience) as relay:
        async with stalled_readers(relay, READERS) as (_, team, proxy, readers):
            await publish_many(team.co, team.project, 500, filling)  # so that what any load allocates is there already
            before = relay.rss_bytes()
            offsets = await publish_many(team.co, team.project, total, filling)
            grown = relay.rss_bytes() - before
            assert grown < MAX_GROWTH_BYTES, f"grown by {grown / 2**20:.0f} MiB for {total} events"
            proxy.resume()
            for reader in readers:
                await reader.until("event", offset=offsets[0] - 1)
                assert await read_all(reader, offsets) == offsets


async def test_a_reader_that_stays_stalled_is_closed_4410_and_goes_on_where_it_was(fresh_database: str | None) -> None:
    settings = {"STARFISH_OUTBOX_PATIENCE_S": "1", "STARFISH_PRESENCE_GRACE_S": "0"}
    with RelayProcess(fresh_database, settings=settings) as relay:
        async with stalled_readers(relay, 1) as (realm, team, proxy, (reader,)):
            offsets = await publish_many(team.co, team.project, 1_000, LARGE)
            await team.co.expect("presence", site=team.participant.uid, state="offline")
            proxy.resume()
            assert await reader.closed() == 4410
            first = messages(reader.unclaimed)
            assert first == offsets[: len(first)]
            again = await realm.resumed(team.participant, team.project, offset=first[-1] if first else team.head)
            assert await read_all(again, offsets[len(first) :]) == offsets[len(first) :]


async def test_a_stalled_reader_holds_up_nobody_else(fresh_database: str | None, rng: random.Random) -> None:
    with RelayProcess(fresh_database) as relay:
        async with stalled_readers(relay, 2) as (realm, team, _, _):
            other = await realm.session(team.participants[rng.randrange(2)])
            offsets = await publish_many(team.co, team.project, 3_000)
            assert (await read_all(other, offsets))[-3_000:] == offsets


async def test_an_event_stream_that_is_not_read_is_cut_off(fresh_database: str | None) -> None:
    settings = {"STARFISH_OUTBOX_PATIENCE_S": "1", "STARFISH_PRESENCE_GRACE_S": "0"}
    with RelayProcess(fresh_database, settings=settings) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team(participants=1)
            site = team.participant
            await team.pas[0].close()
            await team.co.until("presence", site=site.uid, state="offline")
            reader, writer = await asyncio.open_connection(relay.host, relay.port, limit=1024)
            headers = {"Host": "relay", "Accept": "text/event-stream", **site.headers}
            lines = [f"GET /starfish/api/v1/projects/{team.project}/events/ HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await reader.readuntil(b": welcome")
            await team.co.until("presence", site=site.uid, state="online")
            await publish_many(team.co, team.project, 2_000, LARGE)
            await team.co.until("presence", site=site.uid, state="offline")
            writer.close()
