"""Sealing when somebody is put out, or the coordination is handed on: what holds although only the relay says so."""

from __future__ import annotations

import asyncio

import pytest

from relay.client import Site
from relay.client.sealed import CoordinatorChanged, Trust, WrongSender
from relay.client.sealed.trust import beside
from tests.e2e.conftest import TIMEOUT_S, Ward, first
from tests.e2e.hostile import HostileRelay


async def test_who_is_removed_is_sealed_for_no_more(ward: Ward, hostile: HostileRelay) -> None:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as pa, ward.site(uids[2], by=hostile.url) as other:
        project = await ward.found(co, pa, other)
        await co.publish(project, "message", data="all three")
        assert (await first(pa)).to == tuple(sorted([pa.uid, other.uid]))
        await co.members.remove(project, other.uid)
        async with asyncio.timeout(TIMEOUT_S):
            while project in other.memberships:  # noqa: ASYNC110 - nothing else tells of it
                await asyncio.sleep(0.01)
        seen = len(hostile.said)
        await co.publish(project, "message", data="two")  # though it has not read that the other is out
        event = await first(pa)
        assert (event.data, event.to) == ("two", (pa.uid,))
        assert not [said for said in hostile.said[seen:] if b'"message"' in said]


async def test_the_new_coordinator_is_believed_when_a_person_has_said_so(ward: Ward) -> None:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    async with ward.site(uids[0]) as co, ward.site(uids[1]) as heir, ward.site(uids[2]) as pa:
        project = await ward.found(co, heir, pa)
        await co.publish(project, "message", data="by the first")
        assert (await first(heir)).data == (await first(pa)).data == "by the first"
        await co.projects.transfer(project, heir.uid)
        for site in (heir, pa):
            await first(site, lambda event: event.kind == "participant" and event.data["change"] == "transferred")
        for site in (heir, pa):
            with pytest.raises(CoordinatorChanged):
                await site.publish(project, "message", data="to whoever the relay names")
        trusts(ward, heir, heir, project)
        await heir.publish(project, "message", data="by the second")
        assert (await first(co)).data == "by the second", "who has handed it on knows it already"
        with pytest.raises(WrongSender):
            await first(pa)
        trusts(ward, pa, heir, project)
        await heir.publish(project, "command", data="train")
        assert [(event.kind, event.data) for event in [await first(pa), await first(co)]] == [("command", "train")] * 2
        for site in (pa, co):
            await site.publish(project, "update", data=f"by {site.uid}")
            assert (await first(heir)).data == f"by {site.uid}"


def trusts(ward: Ward, site: Site, coordinator: Site, project: int) -> None:
    """As `starfish-relay keys trust … --coordinates` does, at that site."""
    with Trust(beside(ward.home / site.uid)) as trust:
        trust.trust(coordinator.uid, ward.identity(coordinator.uid).fingerprint)
        trust.trust_coordinator(project, coordinator.uid)
