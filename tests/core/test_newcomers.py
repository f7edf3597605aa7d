"""Who joins a project while connected is subscribed, whatever the relay is at with the project at that moment."""

from __future__ import annotations

import asyncio

import pytest

from relay.core import membership
from relay.core.access import Principal
from relay.core.change import own_event
from relay.core.model import Kind, Role, Site
from relay.core.node import Limits, Node
from relay.core.ports import StorageUnavailable
from relay.core.session import Identity, Session
from relay.core.welcome import welcome
from relay.protocol.envelope import Hello
from tests.support.clock import settle
from tests.support.fakes import FakeLink, FakeStore
from tests.support.world import World

LIMITS = Limits()


async def connected(node: Node, store: FakeStore, site: Site) -> Session:
    """A session that has been welcomed."""
    identity = Identity(site=site, principal=Principal(user_id=site.owner_id, sites=frozenset({site.id})))
    in_flight, gate = asyncio.Semaphore(1), node.shares.gate(site)
    session = Session(
        site.uid, identity, FakeLink(), store.port, LIMITS.outbox, node.catch_up, in_flight, gate, lambda closed: None
    )
    node.add_session(session)
    await welcome(node, session, Hello(), ping_interval_s=20)
    return session


@pytest.mark.parametrize("loaded", ["not at all", "before it is told", "before it is told, and let go of", "before"])
async def test_a_newcomer_is_subscribed(store: FakeStore, world: World, loaded: str) -> None:
    node = Node(store.port, LIMITS, version="0", name="node")
    coordinator, newcomer = await world.site(), await world.site()
    project = (await world.project(coordinator, [])).project
    if loaded == "before":
        await connected(node, store, coordinator)
    session = await connected(node, store, newcomer)
    part = await world.member(project, newcomer)
    joined = {"site": newcomer.uid, "participant": part.id, "role": "participant", "change": "joined"}
    entries = await world.append(project.id, own_event(Kind.PARTICIPANT, joined, subject_id=newcomer.id))
    if loaded == "before it is told":
        await connected(node, store, coordinator)
    elif loaded == "before it is told, and let go of":
        async with node.use_hub(project.id):
            pass
    node.committed(project.id, entries)
    await settle()
    assert set(session.outbox.lanes) == {project.id}
    await node.stop()


@pytest.mark.parametrize("stored", [True, False])
async def test_who_has_joined_by_a_commit_that_was_not_answered_is_subscribed(
    store: FakeStore, world: World, stored: bool
) -> None:
    """No hub is loaded: there is none that would look for itself."""
    node = Node(store.port, LIMITS, version="0", name="node")
    coordinator, newcomer = await world.site(), await world.site()
    project = (await world.project(coordinator, [])).project
    session = await connected(node, store, newcomer)

    async def join() -> None:
        async with node.change(project.id) as change:
            await membership.add(change, project.id, newcomer, Role.PARTICIPANT, "")
            store.doubtful, store.down = stored, not stored

    with pytest.raises(StorageUnavailable):
        await join()
    store.doubtful = store.down = False
    await settle()
    assert set(session.outbox.lanes) == ({project.id} if stored else set())
    await node.stop()
