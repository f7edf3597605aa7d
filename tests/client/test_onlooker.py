"""`relay.client.onlooker` against a real relay: by an event stream, and by long polls where that is held back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from relay.client import Limits, RelayError, Unauthenticated, feeds, onlooker
from relay.client.errors import NotConnected
from relay.client.onlooker import Onlooker, merged
from relay.client.transport import HeldBack
from relay.protocol.errors import ErrorCode
from tests.conformance.own import ACCOUNT
from tests.conformance.realm import Realm
from tests.support.ports import free_port
from tests.support.relay import RelayProcess

LIMITS = Limits(backoff_s=0.05, backoff_max_s=0.5, poll_s=2)


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProcess]:
    with RelayProcess() as process:
        process.cli("user", "create", ACCOUNT.name, "--no-input", env={"STARFISH_USER_PASSWORD": ACCOUNT.password})
        yield process


@pytest.fixture
async def realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(relay, owner=ACCOUNT, guest=ACCOUNT, operator=ACCOUNT) as realm:
        yield realm


def token_of(relay: RelayProcess, uid: str) -> str:
    return relay.cli("token", "create", "--site", uid, "--scope", "read-only").stdout.strip()


async def held_back(*_: object) -> None:
    raise HeldBack(1006, "nothing came for too long")


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "poll"])
async def test_it_follows_over_a_restart_of_the_relay_and_shows_each_event_once(
    relay: RelayProcess, realm: Realm, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    if not streams:
        monkeypatch.setattr(feeds, "stream", held_back)
    team = await realm.team()
    token = await asyncio.to_thread(token_of, relay, team.participant.uid)
    async with Onlooker(relay.url, token=token, limits=LIMITS, proxy=False) as looker, asyncio.timeout(60):
        shown = looker.follow(team.project, after=team.head)
        await team.co.publish(team.project, data="first")
        assert (await anext(shown)).data == "first"
        await asyncio.to_thread(relay.restart)
        co = await realm.session(team.coordinator)
        await co.publish_binary(team.project, b"second", kind="command")
        second = await anext(shown)
        assert (second.payload, second.offset) == (b"second", team.head + 2)
        await shown.aclose()


async def test_histories_of_several_kinds_are_shown_in_the_order_of_the_journal(
    relay: RelayProcess, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onlooker, "PAGE", 2)
    team = await realm.team()
    kinds = ["log", "message", "log", "log", "message", "update", "log"]
    for number, kind in enumerate(kinds):
        await team.pa.publish(team.project, kind=kind, data=number)
    token = await asyncio.to_thread(token_of, relay, team.coordinator.uid)
    async with Onlooker(relay.url, token=token, limits=LIMITS, proxy=False) as looker:
        through = team.head + 6
        histories = [
            looker.history(team.project, kind, after=team.head, through=through) for kind in ("message", "log")
        ]
        assert [event.data async for event in merged(*histories)] == [0, 1, 2, 3, 4]


async def test_what_will_not_pass_is_raised(relay: RelayProcess, realm: Realm) -> None:
    team = await realm.team()
    token = await asyncio.to_thread(token_of, relay, team.participant.uid)
    async with Onlooker(relay.url, token=token, limits=LIMITS, proxy=False) as looker, asyncio.timeout(30):
        shown = looker.follow(team.project, after=team.head)
        await team.pa.call("projects.leave", project=team.project)
        with pytest.raises(RelayError) as refused:
            [_ async for _ in shown]
        assert refused.value.code is ErrorCode.UNKNOWN_PROJECT
    with pytest.raises(Unauthenticated):
        await Onlooker(relay.url, token="sfr_none", limits=LIMITS, proxy=False).__aenter__()
    with pytest.raises(NotConnected):
        await Onlooker(f"http://127.0.0.1:{free_port()}", token="sfr_any", limits=LIMITS, proxy=False).__aenter__()
