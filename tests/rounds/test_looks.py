"""What happens while a project is looked at is not missed, though the look has not seen it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from db.store import Store
from relay.core import runs
from relay.core.access import Principal
from relay.core.node import Limits, Node
from relay.core.policy import Policy
from relay.core.ports import Tx
from relay.core.rounds import Rounds
from tests.support.world import World


@pytest.mark.parametrize("what", ["a site goes", "a run changes"])
async def test_what_happens_during_a_look_is_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    node = Node(store, Limits(), version="0", name="test")
    world = World(store)
    coordinator, participant = await world.site(), await world.site()
    project = (await world.project(coordinator, [participant])).project
    for site in (coordinator, participant):
        node.presence.heartbeat(site.id, alive=True)
    everybody = Principal(user_id=0, sites=frozenset({coordinator.id, participant.id}), is_operator=True)
    policy = Policy(coordinator_grace_s=60, mandatory_sites=(participant.uid,))
    batch = await runs.start(node, everybody, project.id, policy)
    rounds, snapshot = Rounds(node), store.snapshot
    poked: list[int] = []
    monkeypatch.setattr(rounds, "poke", poked.append)
    overtaken = False

    @asynccontextmanager
    async def overtaking() -> AsyncIterator[Tx]:
        nonlocal overtaken
        async with snapshot() as tx:
            yield tx
        if not overtaken:
            overtaken = True
            if what == "a site goes":
                node.presence.heartbeat(coordinator.id, alive=False)
            else:
                await runs.set_lists(node, everybody, batch.runs[1].id, logs=[])

    monkeypatch.setattr(store, "snapshot", overtaking)
    await rounds._look_soon(project.id)
    assert poked == [project.id]
    await node.stop()
