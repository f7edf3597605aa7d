"""A crowd in front of the door: let in in order, a few at a time; too many are told when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from relay.protocol.errors import ReplyError
from relay.web.arrivals import RETRY_AFTER_S, Arrivals, Turn
from tests.conformance.realm import OWNER, Realm, Site
from tests.conformance.wire import HandshakeRefused, Wire
from tests.support.relay import RelayProcess

TOKEN = "a scraper's token"


async def test_turns_come_in_order_and_who_gives_up_takes_none() -> None:
    arrivals = Arrivals(at_once=1, waiting=9)
    first = arrivals.turn()
    await first.come()
    came: list[int] = []

    async def wait(number: int) -> Turn:
        turn = arrivals.turn()
        await turn.come()
        came.append(number)
        return turn

    tasks = [asyncio.create_task(wait(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    first.end()
    first.end()  # again: nothing
    (await tasks[0]).end()
    third = await tasks[2]
    await asyncio.sleep(0)
    assert came == [0, 2], "one came before the turn of the one before it had ended"
    third.end()
    (await tasks[3]).end()


async def test_a_turn_that_has_not_come_ends_without_effect() -> None:
    arrivals = Arrivals(at_once=1, waiting=9)
    arrivals.turn().end()
    await arrivals.turn().come()
    second = asyncio.create_task(arrivals.turn().come())
    await asyncio.sleep(0)
    assert not second.done()
    second.cancel()


def test_too_many_are_told_to_come_again_each_at_another_time() -> None:
    arrivals = Arrivals(at_once=1, waiting=1)
    told = []
    with arrivals.in_front():
        for _ in range(20):
            with pytest.raises(ReplyError, match="wait to be let in") as refused, arrivals.in_front():
                pass
            told.append(refused.value.details["retry_after"])
    least, most = RETRY_AFTER_S
    assert all(least <= one <= most for one in told)
    assert len(set(told)) > 10
    with arrivals.in_front():
        assert arrivals.waiting == 1
    assert arrivals.waiting == 0


# On real sockets


@pytest.fixture(scope="module")
def narrow() -> Iterator[RelayProcess]:
    """A relay that lets in one at a time, and has room for two in front of its door."""
    settings = {
        "STARFISH_ARRIVALS_AT_ONCE": "1",
        "STARFISH_ARRIVALS_WAITING": "2",
        "STARFISH_METRICS_TOKEN": TOKEN,
        "STARFISH_HELLO_TIMEOUT_S": "60",
    }
    with RelayProcess(settings=settings) as relay:
        relay.cli("user", "create", OWNER.name, "--no-input", env={"STARFISH_USER_PASSWORD": OWNER.password})
        yield relay


@pytest.fixture
async def realm(narrow: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(narrow, owner=OWNER, guest=OWNER, operator=OWNER) as realm:
        yield realm


async def _waiting(relay: RelayProcess, count: int) -> None:
    """Wait until so many stand in front of the door."""
    async with asyncio.timeout(20), httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        said = ""
        while f"starfish_arrivals_waiting {count}.0" not in said:
            said = (await http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).text


async def _knock(relay: RelayProcess, realm: Realm, site: Site, count: int) -> asyncio.Task[Wire]:
    """A handshake that has to wait, as the `count`th."""
    task = asyncio.create_task(realm.connect(site.headers))
    await _waiting(relay, count)
    return task


async def test_a_crowd_is_let_in_in_order_and_the_rest_comes_again(narrow: RelayProcess, realm: Realm) -> None:
    sites = [await realm.site() for _ in range(4)]
    first = await realm.connect(sites[0].headers)
    second = await _knock(narrow, realm, sites[1], 1)
    third = await _knock(narrow, realm, sites[2], 2)
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect(sites[3].headers)
    assert refused.value.status == 503
    assert refused.value.error["code"] == "unavailable"
    assert RETRY_AFTER_S[0] <= int(refused.value.headers["Retry-After"]) <= RETRY_AFTER_S[1]
    assert not second.done()

    await first.hello()
    wire = await second
    assert not third.done()
    await _waiting(narrow, 1)
    await wire.connection.close()  # without a word: its turn ends with it
    await (await third).hello()
    await first.call("projects.list")
    await _waiting(narrow, 0)


async def test_who_gives_up_in_front_of_the_door_costs_no_turn(narrow: RelayProcess, realm: Realm) -> None:
    site = await realm.site()
    first = await realm.connect(site.headers)
    impatient = await _knock(narrow, realm, site, 1)
    patient = await _knock(narrow, realm, site, 2)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    await first.hello()
    await (await patient).hello()
    assert "Exception" not in narrow.log, narrow.log
