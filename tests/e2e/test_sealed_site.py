"""Sites with identities at an honest relay: all works as without, and the relay reads nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any

import pytest

from relay.client import RelayError, Site
from relay.client.sealed import BadIdentity, Identity, KeyChanged, NoKey, NotSealed, SealError, Trust
from relay.client.sealed.sealer import JSON_BYTES
from relay.client.sealed.trust import beside
from relay.protocol.errors import ErrorCode
from tests.e2e.conftest import LIMITS, Ward, first
from tests.e2e.hostile import HostileRelay

LONG = {"text": "x" * 2 * JSON_BYTES}


async def test_what_is_published_arrives_and_the_wire_does_not_show_it(ward: Ward, hostile: HostileRelay) -> None:
    async with ward.team(by=hostile.url) as (co, pa, project):
        batch = await co.runs.start(project)
        run = next(run["id"] for run in batch["runs"] if run["site_uid"] == pa.uid)
        own = next(run["id"] for run in batch["runs"] if run["site_uid"] == co.uid)
        for sent in ({"data": {"op": "MARKER"}}, {"payload": b"MARKER"}, {"data": None}, {"data": LONG}):
            await co.publish(project, "command", round=2, run=own, **sent)
            event = await first(pa)
            assert (event.data, event.payload) == (sent.get("data"), sent.get("payload"))
            assert (event.kind, event.run, event.batch, event.round) == ("command", own, batch["batch"], 2)
            assert (event.sender, event.to) == (co.uid, (pa.uid,))
            await pa.publish(project, "update", run=run, **sent)
            event = await first(co)
            assert (event.data, event.payload) == (sent.get("data"), sent.get("payload"))
            assert (event.sender, event.run, event.round, event.to) == (pa.uid, run, None, (co.uid,))
        await pa.publish(project, "progress", run=run, data={"loss": "MARKER"})
        assert (await first(co)).data == {"loss": "MARKER"}
        (newest,) = await co.progress(project, batch["batch"])
        assert (newest["data"], newest["run"]) == ({"loss": "MARKER"}, run)
        found = await pa.history(project, kind="command")
        assert [event.data or event.payload for event in found] == [{"op": "MARKER"}, b"MARKER", None, LONG]
    said = b"".join(hostile.said)
    assert b"MARKER" not in said
    assert base64.b64encode(b"MARKER") not in said
    assert b"xxxxxxxxxxxxxxxx" not in said


async def test_publishes_keep_their_order_whatever_their_size(ward: Ward) -> None:
    async with ward.team() as (co, pa, project):
        sizes = [300_000, 10, 500_000, 1, 100_000, 0]
        async with asyncio.TaskGroup() as tasks:
            for number, size in enumerate(sizes):
                tasks.create_task(co.publish(project, "message", data=[number, "x" * size]))
        assert [(await first(pa)).data[0] for _ in sizes] == list(range(len(sizes)))


async def test_each_addressee_can_open_and_nobody_else(ward: Ward) -> None:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as pa, ward.site(uids[2]) as other:
        project = await ward.found(co, pa, other)
        await co.publish(project, "message", data="for all")
        assert (await first(pa)).data == (await first(other)).data == "for all"
        await co.publish(project, "message", data="for one", to=[pa.uid])
        await co.publish(project, "message", data="for all again")
        assert (await first(pa)).data == "for one"
        assert (await first(other)).data == "for all again"
        with pytest.raises(RelayError) as caught:
            await pa.publish(project, "message", data="no", to="participants")
        assert caught.value.code is ErrorCode.FORBIDDEN


async def test_who_leaves_gets_nothing_from_then_on_and_who_comes_gets_all(ward: Ward, hostile: HostileRelay) -> None:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as pa, ward.site(uids[2], by=hostile.url) as other:
        project = await ward.found(co, pa, other)
        await co.publish(project, "message", data="all three")
        assert (await first(pa)).to == (await first(other)).to == tuple(sorted([pa.uid, other.uid]))
        await other.projects.leave(project)
        seen = len(hostile.said)
        await co.publish(project, "message", data="two")  # though it has not read that the other left
        assert (await first(pa)).to == (pa.uid,)
        name = (await co.projects.list())[0]["project"]["name"]
        await other.projects.join(name)
        await first(co, lambda event: event.kind == "participant" and event.data["change"] == "joined")
        await co.publish(project, "message", data="three again")
        assert (await first(other)).data == "three again"
        assert not [said for said in hostile.said[seen:] if b'"message"' in said][:-1]


async def test_a_site_without_an_identity_is_neither_sealed_for_nor_listened_to(ward: Ward) -> None:
    async with ward.team(sealed=False) as (co, pa, project):
        with pytest.raises(NoKey, match=pa.uid):
            await co.publish(project, "message", data="for whom?")
        await pa.publish(project, "message", data="in the clear")
        with pytest.raises(NotSealed) as caught:
            await first(co)
        event = caught.value.event
        assert event is not None
        assert (event.sender, event.data, event.payload) == (pa.uid, None, None)
        await co.publish(project, "message", data="to myself", to="coordinator")


async def test_a_round_needs_an_identity(ward: Ward) -> None:
    async with ward.team(sealed=False) as (_, pa, project):
        with pytest.raises(ValueError, match="identity"):
            await pa.publish(project, "message", data=1, round=2)


async def test_what_is_refused_is_told_and_passed_over(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    refused: list[SealError] = []
    async with ward.site(uids[0], on_refused=refused.append) as co, ward.site(uids[1], sealed=False) as pa:
        project = await ward.found(co, pa)
        await pa.publish(project, "message", data="in the clear")
        pa_sealed = ward.site(uids[1])
        async with pa_sealed:
            await pa_sealed.publish(project, "message", data="sealed")
        assert (await first(co)).data == "sealed"
        assert [event.data for event in await co.history(project, kind="message")] == ["sealed"]
    assert [type(error) for error in refused] == [NotSealed, NotSealed]


async def test_a_run_that_is_not_there_is_refused_before_anything_is_sent(ward: Ward) -> None:
    async with ward.team() as (co, _, project):
        with pytest.raises(RelayError) as caught:
            await co.publish(project, "message", data=1, run=10**9)
        assert caught.value.code is ErrorCode.UNKNOWN_RUN


async def test_a_site_that_was_killed_is_shown_again_what_it_had_not_done_and_no_more(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]) as co:
        with contextlib.suppress(KeyError):
            async with ward.site(uids[1]) as pa:
                project = await ward.found(co, pa)
                for number in range(3):
                    await co.publish(project, "message", data=number)
                assert [(await first(pa)).data for _ in range(2)] == [0, 1]
                raise KeyError  # the second is in hand
        async with ward.site(uids[1]) as pa:
            assert [(await first(pa)).data for _ in range(2)] == [1, 2]
        async with ward.site(uids[1], start={project: 0}) as pa:  # as the application wants
            assert [(await first(pa)).data for _ in range(3)] == [0, 1, 2]


async def test_two_sessions_of_one_site_are_shown_the_same(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as one, ward.site(uids[1]) as other:
        project = await ward.found(co, one)
        await co.publish(project, "message", data=1)
        assert (await first(one)).data == 1
        one_more = asyncio.create_task(first(one))
        assert (await first(other)).data == 1
        await other.publish(project, "message", data="mine")
        assert (await one_more).data == "mine"  # sealed for itself, too


async def test_a_rotation_is_followed(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]) as co:
        async with ward.site(uids[1]) as pa:
            project = await ward.found(co, pa)
            await co.publish(project, "message", data="for the old key")
            await pa.publish(project, "message", data="by the old key")
        ward.identity(uids[1]).rotate()
        async with ward.site(uids[1]) as pa:
            assert (await first(pa)).data == "for the old key"
            await pa.publish(project, "message", data="by the new key")
            assert [(await first(co)).data for _ in range(2)] == ["by the old key", "by the new key"]
            await co.publish(project, "message", data="for the new key")
            assert [(await first(pa)).data for _ in range(2)] == ["by the old key", "for the new key"]


async def test_another_key_is_refused_until_somebody_trusts_it(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]) as co:
        async with ward.site(uids[1]) as pa:
            project = await ward.found(co, pa)
            await pa.publish(project, "message", data="first use")
            assert (await first(co)).data == "first use"
        (ward.home / uids[1]).unlink()
        new = Identity.generate()
        new.save(ward.home / uids[1])
        async with ward.site(uids[1]) as pa:
            await pa.publish(project, "message", data="by an unknown key")
            with pytest.raises(KeyChanged, match=new.fingerprint):
                await first(co)
            with Trust(beside(ward.home / uids[0])) as trust:
                trust.trust(uids[1], new.fingerprint)
            await pa.publish(project, "message", data="by the new key")
            assert (await first(co)).data == "by the new key"


async def test_an_identity_is_one_sites(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]):
        pass
    with pytest.raises(BadIdentity, match="is that of site"):
        async with ward.site(uids[1], identity=ward.identity(uids[0])):
            pass


async def test_an_identity_given_by_the_application_needs_no_file(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    trust = Trust()
    co, pa = (ward.site(uid, identity=Identity.generate(), trust=trust if uid == uids[1] else None) for uid in uids)
    async with co, pa:
        project = await ward.found(co, pa)
        await co.publish(project, "message", data=1)
        assert (await first(pa)).data == 1
    assert {site.uid: site.how for site in trust.sites()} == {uids[0]: "first use", uids[1]: "own"}


async def test_nothing_is_sealed_before_the_site_is_entered(ward: Ward) -> None:
    site = ward.site(await ward.register())
    with pytest.raises(RuntimeError, match="before the site is entered"):
        await site.publish(12, "message", data="?")


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_the_lower_rungs_carry_it_too(ward: Ward, transport: Any) -> None:
    async with ward.team(transports=[transport]) as (co, pa, project):
        for sent in ({"data": {"op": 1}}, {"payload": bytes(1_500_000)}):
            await co.publish(project, "command", **sent)
            event = await first(pa)
            assert (event.data, event.payload) == (sent.get("data"), sent.get("payload"))
            await pa.publish(project, "update", **sent)
            event = await first(co)
            assert (event.data, event.payload) == (sent.get("data"), sent.get("payload"))


async def test_who_may_only_read_is_let_in_and_reads(ward: Ward) -> None:
    uids = await asyncio.gather(ward.register(), ward.register())
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as pa:
        project = await ward.found(co, pa)
        made = await asyncio.to_thread(
            ward.relay.cli, "token", "create", "--site", uids[1], "--scope", "read-only", "--label", "looks on"
        )
        identity = ward.identity(uids[1])
        async with Site(
            ward.relay.url, token=made.stdout.strip(), proxy=False, limits=LIMITS, identity=identity
        ) as reader:
            await co.publish(project, "message", data="to be read")
            assert (await first(reader)).data == "to be read"
