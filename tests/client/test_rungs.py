"""The lower rungs against the real relay: what a session does on a WebSocket, it does by streams and by polls."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from relay.client import Event, Limits, Receipt, RelayError, Site, Unauthenticated
from relay.client.site import TransportName
from relay.protocol.errors import ErrorCode
from tests.client.fake import until
from tests.client.test_relay import PASSWORD, TASKS, TIMEOUT_S, USER, Clinic, first, hear, tell, user_on
from tests.support.relay import RelayProcess

QUICK = Limits(backoff_s=0.05, backoff_max_s=0.2, connect_s=TIMEOUT_S, poll_s=1, look_s=0.3)


@pytest.fixture(params=["sse", "poll"])
def rung(request: pytest.FixtureRequest) -> TransportName:
    name: TransportName = request.param
    return name


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    """A relay that these tests may restart. What both databases do is tested above the rungs."""
    with RelayProcess(settings={"STARFISH_PRESENCE_GRACE_S": "0.2"}) as relay:
        user_on(relay)
        yield relay


class QuickClinic(Clinic):
    """Registers sites over REST: a command line for each would take longer than the tests."""

    async def register(self) -> str:
        site = {"uid": str(uuid.uuid4()), "name": f"site-{uuid.uuid4()}", "description": "of a test"}
        async with httpx.AsyncClient(base_url=self.relay.url, auth=(USER, PASSWORD), trust_env=False) as http:
            (await http.post("/starfish/api/v1/sites/", json=site)).raise_for_status()
        return site["uid"]


@pytest.fixture
def clinic(own_relay: RelayProcess) -> Clinic:
    return QuickClinic(relay=own_relay)


@asynccontextmanager
async def team(clinic: Clinic, rung: TransportName, **options: Any) -> AsyncIterator[tuple[Site, Site, int]]:
    """Both sides by this rung; the project is made and joined over it too."""
    uids = await asyncio.gather(clinic.register(), clinic.register())
    fixed = {"transports": [rung], "limits": QUICK}
    co, pa = clinic.site(uids[0], **fixed, **options), clinic.site(uids[1], **fixed)
    async with asyncio.timeout(3 * TIMEOUT_S), co, pa:
        assert (co.uid, co.transport, pa.transport) == (uids[0], rung, rung)
        name = f"project-{uuid.uuid4()}"
        project = (await co.projects.create(name, tasks=TASKS))["id"]
        assert co.memberships[project].role == "coordinator"
        await pa.projects.join(name)
        await first(co, lambda event: event.kind == "participant" and event.data["site"] == pa.uid)
        yield co, pa, project


async def test_events_of_every_size_go_both_ways_and_none_is_ones_own(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, rung) as (co, pa, project):
        sent = await co.publish(project, "command", data={"op": "train", "text": "\u2028 \x85 ü"})
        command = await first(pa, lambda event: event.kind == "command")
        assert (command.offset, command.sender) == (sent.offset, co.uid)
        assert command.data == {"op": "train", "text": "\u2028 \x85 ü"}
        for size in (0, 300_000, 2_000_000):  # the last is too long to be shown inline
            weights = random.Random(1).randbytes(size)
            await pa.publish(project, "update", payload=weights)
            update = await first(co, lambda event: event.kind != "log")
            assert (update.kind, update.sender, update.data, update.payload) == ("update", pa.uid, None, weights)


async def test_calls_are_answered_and_refused(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, rung) as (co, pa, project):
        batch = await co.runs.start(project)
        own = {run["site_uid"]: run["id"] for run in batch["runs"]}
        with pytest.raises(RelayError) as caught:
            await pa.runs.status(own[pa.uid], "Success")
        assert (caught.value.code, caught.value.details["from"]) == (ErrorCode.CONFLICT, "Standby")
        await pa.runs.status(own[pa.uid], "Preparing")
        await first(co, lambda event: event.kind == "run" and event.data["status"] == "Preparing")
        await pa.publish(project, "progress", run=own[pa.uid], data={"loss": 0.5})
        (newest,) = await co.progress(project, batch["batch"])
        assert newest["data"] == {"loss": 0.5}
        with pytest.raises(RelayError) as caught:
            await pa.publish(project, "command", data="not for a participant")
        assert caught.value.code is ErrorCode.FORBIDDEN
        await pa.keys.put({"hpke": "AAAA"})
        assert (await co.keys.get(project))[pa.uid]["hpke"] == "AAAA"
        assert [event.kind for event in await co.history(project, kind="participant")]


async def test_publishes_keep_their_order_and_ids(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, rung) as (co, pa, project):
        told = await asyncio.gather(*(co.publish(project, "command", data=number) for number in range(30)))
        heard = await hear(pa, "command", 30)
        assert [event.data for event in heard] == list(range(30))
        assert [event.offset for event in heard] == [published.offset for published in told]
        id_ = uuid.uuid4()
        one, two = [await co.publish(project, "message", data=1, id=id_) for _ in range(2)]
        assert (one.duplicate, two.duplicate, one.offset) == (False, True, two.offset)


async def test_what_was_processed_is_acknowledged_and_gone_on_from(clinic: Clinic, rung: TransportName) -> None:
    receipts: asyncio.Queue[Receipt] = asyncio.Queue()
    async with team(clinic, rung, on_receipt=receipts.put_nowait) as (co, pa, project):
        sent = [await co.publish(project, "command", data=number, receipts=True) for number in range(4)]
        await first(pa, lambda event: event.offset == sent[1].offset)
        await pa.__aexit__(None, None, None)
        assert (await co.receipts(project, sent[1].offset or 0))["acknowledged"] == [pa.uid]
        if rung == "sse":
            async with asyncio.timeout(TIMEOUT_S):
                assert (await receipts.get()).offset == sent[0].offset
        async with clinic.site(pa.uid, transports=[rung]) as again:
            assert (await first(again, lambda event: True)).offset == sent[2].offset


async def test_who_is_there_and_what_is_joined_elsewhere_is_noticed(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, rung) as (co, pa, project):
        await until(lambda: co.presence(project) == {pa.uid})
        async with clinic.site(pa.uid) as elsewhere:
            made = (await elsewhere.projects.create(f"project-{uuid.uuid4()}", tasks=TASKS))["id"]
            event = await first(pa, lambda event: event.project == made)
            assert (event.kind, pa.memberships[made].role) == ("participant", "coordinator")
            await elsewhere.projects.leave(project)
            await until(lambda: project not in pa.memberships)


async def test_nothing_is_lost_or_repeated_while_the_relay_is_killed_and_drained(
    clinic: Clinic, rung: TransportName
) -> None:
    count = 60
    async with team(clinic, rung) as (co, pa, project):
        telling = [
            asyncio.create_task(tell(*who, count)) for who in ((co, project, "command"), (pa, project, "update"))
        ]
        hearing = [asyncio.create_task(hear(*who, count)) for who in ((pa, "command"), (co, "update"))]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(clinic.relay.kill)
        await asyncio.to_thread(clinic.relay.start)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(clinic.relay.restart)
        told = await asyncio.gather(*telling)
        heard = await asyncio.gather(*hearing)
    for offsets, events in zip(told, heard, strict=True):
        assert [event.data for event in events] == list(range(count))
        assert [event.offset for event in events] == offsets


async def test_a_full_buffer_holds_the_relay_back(clinic: Clinic, rung: TransportName) -> None:
    async with team(clinic, rung) as (co, pa, project):
        await pa.__aexit__(None, None, None)
        sent = [await co.publish(project, "command", data="x" * 50_000) for _ in range(100)]
        tight = Limits(buffer_events=4, buffer_excess=2, connect_s=TIMEOUT_S, poll_s=1)
        seen: list[Event] = []
        async with clinic.site(pa.uid, limits=tight, transports=[rung]) as again, asyncio.timeout(2 * TIMEOUT_S):
            async for event in again.events():
                seen.append(event)
                if len(seen) == 50:
                    await again.publish(project, "log", data="half")
                if len(seen) == 100:
                    break
        assert [event.offset for event in seen] == [published.offset for published in sent]


# Tokens


async def test_a_new_token_takes_the_place_of_the_old_one_until_it_is_revoked(
    clinic: Clinic, rung: TransportName
) -> None:
    async with team(clinic, rung) as (co, pa, project):
        old, new = [await asyncio.to_thread(clinic.token, pa.uid, *more) for more in ((), ("--expires-in", "1h"))]
        async with Site(clinic.relay.url, token=old, proxy=False, limits=QUICK, transports=[rung]) as site:
            with pytest.raises(RelayError, match="unauthenticated"):
                await site.refresh("nonsense")
            assert await site.refresh(new) is not None
            await asyncio.to_thread(clinic.relay.cli, "token", "revoke", old)
            sent = await co.publish(project, "command", data="after it")
            assert (await first(site, lambda event: event.kind == "command")).offset == sent.offset
            await asyncio.to_thread(clinic.relay.cli, "token", "revoke", new)
            with pytest.raises(Unauthenticated):
                await first(site, lambda event: False)


async def test_a_restored_backup_is_told_with_the_state_on_every_rung() -> None:
    """The journal falls back behind what the sites have seen; they read the state anew and go on."""
    with RelayProcess() as relay:
        user_on(relay)
        clinic = QuickClinic(relay=relay)
        rungs: tuple[TransportName, ...] = ("websocket", "sse", "poll")
        async with asyncio.timeout(4 * TIMEOUT_S), AsyncExitStack() as stack:
            uids = await asyncio.gather(*(clinic.register() for _ in rungs))
            sites = [
                await stack.enter_async_context(clinic.site(uid, transports=[rung], limits=QUICK))
                for uid, rung in zip(uids, rungs, strict=True)
            ]
            co, name = sites[0], f"project-{uuid.uuid4()}"
            project = (await co.projects.create(name, tasks=TASKS))["id"]
            for site in sites[1:]:
                await site.projects.join(name)
            runs = (await co.runs.start(project))["runs"]
            await asyncio.to_thread(relay.terminate)
            backup = {path: path.read_bytes() for path in relay.data_dir.glob("relay.db*")}
            await asyncio.to_thread(relay.start)
            last = [await co.publish(project, "command", data=number) for number in range(5)][-1]
            for site in sites[1:]:
                await first(site, lambda event: event.offset == last.offset)
            await asyncio.to_thread(relay.terminate)
            for path in relay.data_dir.glob("relay.db*"):
                path.unlink()
            for path, content in backup.items():
                path.write_bytes(content)
            await asyncio.to_thread(relay.start)
            for site in sites[1:]:
                resync = await first(site, lambda event: event.kind == "resync")
                own = [run["id"] for run in runs if run["site_uid"] == site.uid]
                assert [run["id"] for run in resync.data["runs"]] == own
            again = await co.publish(project, "command", data="after the restore")
            assert (again.offset or 0) < (last.offset or 0)
            for site in sites[1:]:
                assert (await first(site, lambda event: event.kind == "command")).data == "after the restore"
