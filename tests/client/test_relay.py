"""The client against the real relay, on both databases."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from relay.client import Event, Forbidden, Limits, Receipt, RelayError, Site, Unauthenticated, UnknownSite
from relay.protocol.errors import ErrorCode
from tests.support.proxy import Proxy
from tests.support.relay import RelayProcess

USER, PASSWORD = "client-anna", "a password of hers"
TIMEOUT_S = 20.0
LIMITS = Limits(backoff_s=0.05, backoff_max_s=0.2, connect_s=TIMEOUT_S)
TASKS = [{"seq": 1, "model": "m", "config": {"total_round": 2, "current_round": 1}}]


@dataclass(kw_only=True)
class Clinic:
    """Makes sites on one relay."""

    relay: RelayProcess
    proxy: Proxy | None = None

    async def register(self) -> str:
        """A new site; its uid."""
        name = f"site-{uuid.uuid4()}"
        done = await asyncio.to_thread(self.relay.cli, "site", "create", "--owner", USER, "--name", name)
        return done.stdout.strip()

    def site(self, uid: str, **options: Any) -> Site:
        url = self.relay.url if self.proxy is None else f"http://127.0.0.1:{self.proxy.port}"
        return Site(url, user=USER, password=PASSWORD, uid=uid, proxy=False, **({"limits": LIMITS} | options))

    def token(self, uid: str, *more: str) -> str:
        return self.relay.cli("token", "create", "--site", uid, *more).stdout.strip()

    @asynccontextmanager
    async def team(self, **options: Any) -> AsyncIterator[tuple[Site, Site, int]]:
        """A coordinator, a participant and their project; nothing of it waits to be read."""
        uids = await asyncio.gather(self.register(), self.register())
        co, pa = self.site(uids[0], **options), self.site(uids[1])
        async with asyncio.timeout(3 * TIMEOUT_S), co, pa:
            name = f"project-{uuid.uuid4()}"
            project = (await co.projects.create(name, tasks=TASKS))["id"]
            await pa.projects.join(name)
            await first(co, lambda event: event.kind == "participant" and event.data["site"] == pa.uid)
            yield co, pa, project


def user_on(relay: RelayProcess) -> None:
    relay.cli("user", "create", USER, "--no-input", env={"STARFISH_USER_PASSWORD": PASSWORD})


@pytest.fixture(scope="session")
def anna(relay: RelayProcess) -> None:
    user_on(relay)


@pytest.fixture
def clinic(relay: RelayProcess, anna: None) -> Clinic:
    return Clinic(relay=relay)


async def first(site: Site, wanted: Callable[[Event], bool]) -> Event:
    """The next event like this; those before it are passed over."""
    async with asyncio.timeout(TIMEOUT_S):
        async for event in site.events():
            if wanted(event):
                return event
    raise AssertionError("events end with an exception")


# Who may come in


async def test_wrong_credentials_are_told_apart(clinic: Clinic) -> None:
    uid = await clinic.register()
    with pytest.raises(Unauthenticated):
        async with Site(clinic.relay.url, token="no token of this relay", proxy=False):
            pass
    with pytest.raises(Unauthenticated):
        async with Site(clinic.relay.url, user=USER, password="wrong", uid=uid, proxy=False):
            pass
    with pytest.raises((UnknownSite, Forbidden)):
        async with clinic.site(str(uuid.uuid4())):
            pass


async def test_a_token_comes_in_until_it_is_revoked(clinic: Clinic) -> None:
    uid = await clinic.register()
    token = clinic.token(uid)
    async with Site(clinic.relay.url, token=token, proxy=False, limits=LIMITS) as site:
        assert site.uid == uid
        await asyncio.to_thread(clinic.relay.cli, "token", "revoke", token)
        with pytest.raises(Unauthenticated):
            await first(site, lambda event: False)
        with pytest.raises(Unauthenticated):
            await site.projects.list()


async def test_a_refreshed_token_takes_the_place_of_the_old_one(clinic: Clinic) -> None:
    uid = await clinic.register()
    old, new = clinic.token(uid), clinic.token(uid, "--expires-in", "1h")
    async with Site(clinic.relay.url, token=old, proxy=False, limits=LIMITS) as site:
        with pytest.raises(RelayError, match="unauthenticated"):
            await site.refresh("nonsense")
        assert await site.refresh(new) is not None
        await asyncio.to_thread(clinic.relay.cli, "token", "revoke", old)
        assert await site.projects.list() == []


# Talking


async def test_commands_go_out_and_updates_come_back(clinic: Clinic) -> None:
    async with clinic.team() as (co, pa, project):
        sent = await co.publish(project, "command", data={"op": "train"})
        command = await first(pa, lambda event: event.kind == "command")
        assert (command.offset, command.sender, command.data) == (sent.offset, co.uid, {"op": "train"})
        weights = random.Random(1).randbytes(300_000)
        await pa.publish(project, "update", payload=weights)
        update = await first(co, lambda event: event.kind == "update")
        assert (update.sender, update.payload, update.data) == (pa.uid, weights, None)


async def test_the_same_id_is_stored_once(clinic: Clinic) -> None:
    async with clinic.team() as (co, _, project):
        id_ = uuid.uuid4()
        one = await co.publish(project, "message", data=1, id=id_)
        two = await co.publish(project, "message", data=1, id=id_)
        assert (one.duplicate, two.duplicate, one.offset) == (False, True, two.offset)


async def test_a_receipt_tells_that_an_event_was_processed(clinic: Clinic) -> None:
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()
    async with clinic.team(on_receipt=receipts.put_nowait) as (co, pa, project):
        sent = await co.publish(project, "command", data=1, receipts=True)
        await first(pa, lambda event: event.offset == sent.offset)
        assert receipts.empty()
        asking = asyncio.create_task(first(pa, lambda event: False))
        async with asyncio.timeout(TIMEOUT_S):
            receipt = await receipts.get()
        assert (receipt.project, receipt.offset, receipt.site) == (project, sent.offset, pa.uid)
        told = await co.receipts(project, receipt.offset)
        assert told == {"offset": sent.offset, "acknowledged": [pa.uid], "waiting": []}
        cursors = {one["site"]: one["offset"] for one in await co.cursors(project)}
        assert cursors[pa.uid] == sent.offset
        asking.cancel()


async def test_presence_is_told(clinic: Clinic) -> None:
    changed = asyncio.Event()
    async with clinic.team(on_presence=lambda _: changed.set()) as (co, pa, project):
        assert pa.presence(project) == {co.uid}
        await pa.__aexit__(None, None, None)
        await changed.wait()
        assert co.presence(project) == frozenset()
        changed.clear()
        async with clinic.site(pa.uid):
            await changed.wait()
            assert co.presence(project) == {pa.uid}


async def test_runs_go_their_way_and_both_sides_see_it(clinic: Clinic) -> None:
    async with clinic.team() as (co, pa, project):
        batch = await co.runs.start(project)
        own = {run["site_uid"]: run["id"] for run in batch["runs"]}
        with pytest.raises(RelayError) as caught:
            await pa.runs.status(own[pa.uid], "Success")
        assert caught.value.code is ErrorCode.CONFLICT
        assert caught.value.details == {"from": "Standby", "to": "Success"}
        await pa.runs.status(own[pa.uid], "Preparing")
        moved = await first(co, lambda event: event.kind == "run" and event.data["status"] == "Preparing")
        assert (moved.run, moved.data["site"]) == (own[pa.uid], pa.uid)
        await pa.publish(project, "progress", run=own[pa.uid], data={"loss": 0.5})
        await first(co, lambda event: event.kind == "progress")
        (newest,) = await co.progress(project, batch["batch"])
        assert newest["data"] == {"loss": 0.5}
        assert {run["status"] for run in await co.runs.list(project, active=True)} == {"Standby", "Preparing"}
        await co.runs.stop(project=project, batch=batch["batch"])
        assert {run["status"] for run in await pa.runs.list(project)} == {"Pending Failed"}
        await pa.runs.restart(run=own[pa.uid])
        assert [run["status"] for run in await pa.runs.list(project)] == ["Standby"]


async def test_the_other_methods_answer_as_they_are_described(clinic: Clinic) -> None:
    async with clinic.team() as (co, pa, project):
        (participation,) = await pa.projects.list()
        assert (participation["project"]["id"], participation["role"]) == (project, "participant")
        members = {one["site"]["uid"]: one["online"] for one in await co.projects.participants(project)}
        assert members == {co.uid: True, pa.uid: True}
        await pa.keys.put({"hpke": "AAAA"})
        assert (await co.keys.get(project))[pa.uid]["hpke"] == "AAAA"
        await pa.publish(project, "update", payload=b"\x00\x01")
        await pa.publish(project, "update", data=[2])
        found = await co.history(project, kind="update")
        assert [(event.payload, event.data) for event in found] == [(b"\x00\x01", None), (None, [2])]
        await pa.projects.leave(project)
        assert await pa.projects.list() == []
        with pytest.raises(RelayError, match="unknown_project"):
            await pa.publish(project, "message")


# Resuming


async def test_a_site_goes_on_from_what_it_has_processed(clinic: Clinic) -> None:
    async with clinic.team() as (co, pa, project):
        sent = [await co.publish(project, "command", data=number) for number in range(6)]
        await first(pa, lambda event: event.offset == sent[2].offset)
        await pa.__aexit__(None, None, None)
        async with clinic.site(pa.uid) as again:
            assert (await first(again, lambda event: True)).offset == sent[3].offset


async def test_the_past_can_be_skipped(clinic: Clinic) -> None:
    async with clinic.team() as (co, pa, project):
        await co.publish(project, "command", data="past")
        async with clinic.site(pa.uid, start={project: "new"}) as other:
            await co.publish(project, "command", data="new")
            assert (await first(other, lambda event: True)).data == "new"


@pytest.mark.parametrize("database", ["sqlite"])
async def test_nothing_is_lost_or_repeated_while_the_relay_is_killed_and_started(database: str) -> None:
    """Both sides publish all the while; every event arrives once, in order, on the other side."""
    count, kills = 300, 3
    with RelayProcess() as relay:
        user_on(relay)
        async with Clinic(relay=relay).team() as (co, pa, project):
            talking = [
                asyncio.create_task(tell(co, project, "command", count)),
                asyncio.create_task(tell(pa, project, "update", count)),
            ]
            hearing = [
                asyncio.create_task(hear(pa, "command", count)),
                asyncio.create_task(hear(co, "update", count)),
            ]
            for _ in range(kills):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(relay.kill)
                await asyncio.to_thread(relay.start)
            offsets = await asyncio.gather(*talking)
            heard = await asyncio.gather(*hearing)
            journal = await everything(co, project)
    for kind, told, events in zip(("command", "update"), offsets, heard, strict=True):
        assert [event.data for event in events] == list(range(count))
        assert [event.offset for event in events] == told
        assert [event.offset for event in journal if event.kind == kind] == told


async def tell(site: Site, project: int, kind: str, count: int) -> list[int | None]:
    """Publishes numbers, a few at a time, over at least two seconds; their offsets."""
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(site.publish(project, kind, data=number)))
        await asyncio.sleep(2 / count)
    return [published.offset for published in await asyncio.gather(*tasks)]


async def hear(site: Site, kind: str, count: int) -> list[Event]:
    """The events of a kind; a resync would be a loss."""
    heard: list[Event] = []
    async for event in site.events():
        assert event.kind != "resync"
        if event.kind == kind:
            heard.append(event)
        if len(heard) == count:
            break
    return heard


async def everything(site: Site, project: int) -> list[Event]:
    journal: list[Event] = []
    while page := await site.history(project, after=(journal[-1].offset or 0) if journal else 0, limit=1000):
        journal += page
    return journal


async def test_a_drained_relay_is_come_back_to() -> None:
    goodbyes: list[str] = []
    with RelayProcess() as relay:
        user_on(relay)
        async with Clinic(relay=relay).team(on_goodbye=lambda one: goodbyes.append(one.code)) as (co, pa, project):
            await asyncio.to_thread(relay.restart)
            sent = await co.publish(project, "command", data="after the restart")
            assert (await first(pa, lambda event: event.kind == "command")).offset == sent.offset
        assert goodbyes == ["draining"]


async def test_a_full_buffer_against_the_real_relay(clinic: Clinic) -> None:
    """A participant that answers each of many commands from its loop, with room for few of them."""
    count = 2000
    async with clinic.team() as (co, pa, project):
        await pa.__aexit__(None, None, None)
        for _ in range(count // 50):
            await asyncio.gather(*(co.publish(project, "command", data="x" * 1000) for _ in range(50)))
        tight = Limits(buffer_events=8, buffer_excess=2, connect_s=TIMEOUT_S, backoff_s=0.05)
        seen = []
        async with clinic.site(pa.uid, limits=tight) as again, asyncio.timeout(2 * TIMEOUT_S):
            async for event in again.events():
                seen.append(event.offset)
                if len(seen) % 100 == 0:
                    await again.publish(project, "log", data=len(seen))
                if len(seen) == count:
                    break
        commands = [event.offset for event in await everything(co, project) if event.kind == "command"]
        assert seen == commands


async def test_a_network_that_fails_again_and_again(relay: RelayProcess, anna: None) -> None:
    """Connections are cut off under the clients, in the middle of whatever they are at."""
    count = 200
    async with Proxy(relay.port) as proxy, Clinic(relay=relay, proxy=proxy).team() as (co, pa, project):
        hearing = asyncio.create_task(hear(pa, "command", count))
        telling = asyncio.create_task(tell(co, project, "command", count))
        for _ in range(8):
            await asyncio.sleep(0.2)
            proxy.cut()
        told, heard = await telling, await hearing
        assert [event.offset for event in heard] == told
        assert [event.data for event in heard] == list(range(count))
