"""The use cases on both databases do to a stored batch what the policy's pure functions do to its picture."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from db.store import Store
from relay.core import admission, batches, membership, runs
from relay.core.access import Principal
from relay.core.batches import Batch
from relay.core.model import Role, Run, Site
from relay.core.node import Limits, Node
from relay.core.policy import (
    Picture,
    Policy,
    Stragglers,
    decide,
    dequeued,
    fresh,
    next_due,
    restarted,
    set_all,
    stopped,
)
from relay.core.rounds import Rounds
from relay.core.run_states import Status
from relay.protocol.errors import ErrorCode, ReplyError
from tests.core.test_run_states import ALLOWED
from tests.support.world import NOW_US, Team, World

SECOND = 1_000_000
TASKS = [
    {"seq": 1, "model": "m", "config": {"total_round": 3, "current_round": 1}},
    {"seq": 2, "model": "m", "config": {"total_round": 9, "current_round": 1}},
]


class Clock:
    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
async def node(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    clock = Clock()
    monkeypatch.setattr(Node, "now_us", clock)
    node = Node(store, Limits(), version="0", name="test")
    yield node
    await node.stop()


class Walk:
    """One project on a node, driven at random; each step is checked against the picture that it should leave."""

    def __init__(self, node: Node, team: Team, sites: list[Site], seed: int) -> None:
        self.node = node
        self.rounds = Rounds(node)
        self.team = team
        self.sites = sites
        self.random = random.Random(seed)
        self.everybody = Principal(user_id=0, sites=frozenset(site.id for site in sites), is_operator=True)
        self.number = 0
        self.steps = {"refused": 0, "moved": 0}

    @property
    def clock(self) -> Clock:
        clock: Clock = self.node.now_us  # type: ignore[assignment]
        return clock

    async def found(self) -> Batch:
        async with self.node.store.snapshot() as tx:
            return await batches.find(tx, self.team.project.id, self.number, self.node.presence.is_online)

    async def step(self) -> None:
        before = await self.found()
        is_over = not before.picture.is_open and not before.is_queued
        if is_over and self.random.random() < 0.5:
            await self.start()
            return
        event: Callable[[Batch], Awaitable[Picture]] = self.random.choices(
            [self.move_alone, self.set_all, self.control, self.presence, self.time, self.membership],
            weights=[50, 15, 5, 8, 12, 2],
        )[0]
        expected = await event(before)
        await self.check(self.reopened(before.picture, expected))

    async def check(self, expected: Picture) -> None:
        await self.rounds._look(self.team.project.id)
        while (decision := decide(expected, self.clock())) is not None:
            expected = decision.after
        after = await self.found()
        if expected.is_open or expected.standing.queued:
            assert after.picture == expected
        else:
            assert after.picture.seats == expected.seats
        self.rounds_agree(after)

    def reopened(self, before: Picture, after: Picture) -> Picture:
        """A batch that comes back to life has its policy's clocks set anew."""
        if before.is_open or before.standing.queued or not after.is_open or before.policy == Policy():
            return after
        return replace(after, standing=fresh(after.policy, self.clock()))

    @staticmethod
    def rounds_agree(batch: Batch) -> None:
        """Who came late is where the coordinator is. (A run that restarted itself keeps what it had.)"""
        lead = next((run for run in batch.runs if run.role is Role.COORDINATOR), None)
        for run in batch.runs:
            if lead is not None and run.status is not Status.FAILED and run.created_us > lead.created_us:
                assert (run.cur_seq, run.round) <= (lead.cur_seq, lead.round)

    # --- what happens

    async def start(self) -> None:
        choose = self.random.choice
        policy = Policy(
            min_sites=choose([None, 0, 1, 2]),
            mandatory_sites=choose([(), (self.sites[1].uid,)]),
            queue_s=choose([None, 30.0]),
            deadline_s=choose([None, 30.0]),
            round_deadline_s=choose([None, 3.0, 30.0]),
            stragglers=choose([None, *Stragglers]),
            late_join=choose([True, False]),
            coordinator_grace_s=choose([None, 10.0]),
        )
        try:
            batch = await runs.start(self.node, self.everybody, self.team.project.id, policy)
        except ReplyError as error:
            if error.code not in (ErrorCode.NOT_ALL_CONNECTED, ErrorCode.INVALID):
                raise
            return
        self.number = batch.number
        stored = await self.found()
        assert batch.picture.seats == stored.picture.seats
        if policy != Policy():
            assert batch.picture == stored.picture
        await self.check(batch.picture)

    async def move_alone(self, before: Batch) -> Picture:
        if not before.runs:
            return before.picture
        run: Run = self.random.choice(before.runs)
        legal = sorted(to for now, to in ALLOWED if now is run.status)
        to = self.random.choice(legal if self.random.random() < 0.8 else list(Status))
        moving = runs.move(self.node, self.everybody, run.id, to, update_all=False, increase_round=False)
        if (run.status, to) not in ALLOWED:
            with pytest.raises(ReplyError, match="goes from"):
                await moving
            self.steps["refused"] += 1
            return before.picture
        await moving
        self.steps["moved"] += 1
        seats = (replace(seat, status=to) if seat.site_id == run.site_id else seat for seat in before.picture.seats)
        return replace(before.picture, seats=tuple(seats))

    async def set_all(self, before: Batch) -> Picture:
        if not before.runs:
            return before.picture
        lead = before.runs[0]
        to, counted = self.random.choice(list(Status)), self.random.random() < 0.3
        found = await runs.move(self.node, self.everybody, lead.id, to, update_all=True, increase_round=counted)
        expected = set_all(before.picture, to, new_round=counted or to is Status.STANDBY, now_us=self.clock())
        assert len(found) == sum(seat.status is not None for seat in expected.seats)
        return expected

    async def control(self, before: Batch) -> Picture:
        key = (self.node, self.everybody, self.team.project.id, self.number)
        if before.is_queued:
            assert await runs.stop(*key) == []
            return dequeued(before.picture)
        if not before.runs:
            return before.picture
        if self.random.random() < 0.5:
            await runs.stop(*key)
            return stopped(before.picture)
        await runs.restart(*key)
        return restarted(before.picture, self.clock())

    async def presence(self, before: Batch) -> Picture:
        site = self.random.choice(self.sites)
        online = not self.node.presence.is_online(site.id)
        self.node.presence.heartbeat(site.id, alive=online)
        return replace(
            before.picture,
            seats=tuple(
                replace(seat, online=online) if seat.site_id == site.id else seat for seat in before.picture.seats
            ),
        )

    async def time(self, before: Batch) -> Picture:
        self.clock.now_us += self.random.choice([1, SECOND, 10 * SECOND])
        return before.picture

    async def membership(self, before: Batch) -> Picture:
        """A participant leaves, with its run; or it takes part again."""
        site = self.random.choice(self.sites[1:])
        project_id = self.team.project.id
        part = next((one for one in before.members if one.site_id == site.id), None)
        if part is None:
            await admission.join(self.node, self.everybody, site.id, project_id=project_id, name=None, notes="")
        else:
            await membership.end(self.node, self.everybody, part.id)
        return replace(before.picture, seats=(await self.found()).picture.seats)

    async def end(self) -> None:
        """Nobody does anything any more: what has an end comes to it."""
        for _ in range(6):
            due_us = next_due((await self.found()).picture)
            if due_us is None:
                break
            self.clock.now_us = due_us
            await self.rounds._look(self.team.project.id)
        assert next_due((await self.found()).picture) is None


@pytest.mark.parametrize("steps", [150, pytest.param(5000, marks=pytest.mark.soak)])
async def test_what_is_stored_follows_what_is_decided(node: Node, steps: int) -> None:
    world = World(node.store)  # type: ignore[arg-type]
    sites = [await world.site() for _ in range(4)]
    team = await world.project(sites[0], sites[1:])
    async with node.store.transaction() as tx:
        await tx.projects.update(replace(team.project, tasks=TASKS))
    walk = Walk(node, team, sites, seed=steps)
    for site in sites:
        node.presence.heartbeat(site.id, alive=True)
    for _ in range(steps):
        await walk.step()
    await walk.end()
    assert walk.number > 1 and all(walk.steps.values())
