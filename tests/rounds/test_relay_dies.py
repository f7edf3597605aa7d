"""The relay itself is killed: what a policy has promised is kept by the next one on the same data."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime

from tests.conformance.realm import Realm, Team
from tests.rounds.conftest import realm_on
from tests.rounds.crew import ENDED, STATUSES, crew, kill, start, told
from tests.rounds.test_end import SLACK_S, halfway, reasons, statuses
from tests.support.relay import RelayProcess

HOUR_S = 3600.0


async def kill_and_start(relay: RelayProcess) -> None:
    await asyncio.to_thread(relay.kill)
    await asyncio.to_thread(relay.start)


async def return_of_the_coordinator(realm: Realm, team: Team) -> None:
    """It goes on from the start of the batch."""
    team.co = await realm.resumed(team.coordinator, team.project, offset=team.head)


async def test_what_fell_due_while_no_relay_ran_is_done_at_the_start(own_relay: RelayProcess) -> None:
    async with realm_on(own_relay) as realm:
        by_deadline, queued, straggling = [await crew(realm, 2) for _ in range(3)]
        await start(by_deadline, deadline_s=HOUR_S)
        for team in (queued, straggling):
            kill(team.pas[1])
            await team.co.expect("presence", site=team.participants[1].uid, state="offline")
        await start(queued, queue_s=HOUR_S)
        await start(straggling, min_sites=1, round_deadline_s=HOUR_S)
        await asyncio.to_thread(own_relay.kill)
        own_relay.set_clock(ahead_s=HOUR_S)
        started = time.time() + HOUR_S
        await asyncio.to_thread(own_relay.start)
        for team, reason in ((by_deadline, "deadline"), (queued, "queue_expired"), (straggling, "round_deadline")):
            await return_of_the_coordinator(realm, team)
            event = await team.co.expect("event", kind="batch", data={"reason": reason, "status": "Failed"})
            assert datetime.fromisoformat(event["at"]).timestamp() < started + SLACK_S
            assert await team.co.call("runs.list", project=team.project, active=True) == []


async def test_what_is_due_later_is_due_later(own_relay: RelayProcess) -> None:
    async with realm_on(own_relay) as realm:
        team = await crew(realm)
        await start(team, deadline_s=4)
        due = datetime.now(UTC).timestamp() + 4
        await kill_and_start(own_relay)
        await return_of_the_coordinator(realm, team)
        event = await team.co.expect("event", kind="batch", data={"reason": "deadline"})
        assert due - 1 < datetime.fromisoformat(event["at"]).timestamp() < due + SLACK_S
        assert await reasons(team) == ["started", "deadline"]


async def test_a_lost_coordinator_has_its_whole_grace_again_after_a_restart(own_relay: RelayProcess) -> None:
    """It could not have come back while there was nothing to come back to."""
    async with realm_on(own_relay) as realm:
        team = await halfway(realm, 1, coordinator_grace_s=HOUR_S)
        kill(team.co)
        await told(team.pa, team, "paused")
        await asyncio.to_thread(own_relay.kill)
        own_relay.set_clock(ahead_s=2 * HOUR_S)
        await asyncio.to_thread(own_relay.start)
        await return_of_the_coordinator(realm, team)
        await told(team.co, team, "resumed")
        assert await statuses(team) == ["Pending Success"] * 2
        await team.force("Success")
        assert await reasons(team) == ["started", "all_runs", "paused", "resumed", "all_runs"]


async def test_whoever_dies_every_run_ends_in_time(own_relay: RelayProcess, rng: random.Random) -> None:
    async with realm_on(own_relay) as realm:
        teams = [await crew(realm, 2) for _ in range(4)]
        due = {}
        for team in teams:
            await start(team, deadline_s=5, **policy(rng))
            due[team.project] = time.time() + 5
            await team.force(rng.choice(STATUSES))
        victims = [wire for team in teams for wire in (team.co, *team.pas)]
        ready = 0.0
        for wire in rng.sample(victims, len(victims)):
            kill(wire)
            if rng.random() < 0.2:
                await kill_and_start(own_relay)
                ready = time.time()  # on a busy machine, later than the deadline
        for team in teams:
            await return_of_the_coordinator(realm, team)
            await ends_in_time(team, max(due[team.project], ready))


def policy(rng: random.Random) -> dict[str, object]:
    drawn: dict[str, object] = {
        "round_deadline_s": rng.choice([0.5, 2.0, 60.0]),
        "stragglers": rng.choice(["fail", "leave_out"]),
        "min_sites": rng.choice([0, 1, 2]),
        "late_join": rng.random() < 0.5,
    }
    if rng.random() < 0.5:
        drawn["coordinator_grace_s"] = rng.choice([0.5, 2.0])
    return drawn


async def ends_in_time(team: Team, due: float) -> None:
    while await team.co.call("runs.list", project=team.project, active=True):
        await team.co.until("event", kind="batch")
        assert time.time() < due + SLACK_S
    runs = await team.co.call("runs.list", project=team.project)
    assert len(runs) == 3 and {run["status"] for run in runs} <= ENDED
    events = await team.co.call("history.read", project=team.project, after=team.head, limit=1000)
    assert max(datetime.fromisoformat(event["at"]).timestamp() for event in events) < due + SLACK_S
    assert next(event for event in events if event["kind"] == "batch")["data"]["reason"] == "started"
