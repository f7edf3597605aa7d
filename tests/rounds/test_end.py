"""Rounds that end: whoever is late, lost or gone, a batch comes to a named end, and says why."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from tests.conformance.realm import Realm, Site, Team
from tests.conformance.wire import Frame, events
from tests.rounds.crew import ENDED, back, crew, kill, move, offline, start, told

ROUND_S = 1.5
"""For a round in which somebody delivers: two calls are far quicker, on a busy machine too."""
SLACK_S = 5.0
"""What has an end comes to it at most so much later."""


async def halfway(realm: Realm, participants: int, **policy: Any) -> Team:
    """A batch under a policy, in which all stand in Pending Success."""
    team = await crew(realm, participants)
    await start(team, **policy)
    await team.force("Pending Success")
    return team


async def next_round(team: Team, status: str = "Standby") -> None:
    await team.co.call(
        "runs.status", run=team.run(team.coordinator), status=status, update_all=True, increase_round=True
    )


async def deliver(team: Team, *sites: Site) -> None:
    for site in sites:
        await move(team, site, "Pending Aggregating")


async def at(team: Team, reason: str) -> datetime:
    """When the participants were told."""
    event = await team.pa.expect("event", project=team.project, kind="batch", data={"reason": reason})
    return datetime.fromisoformat(event["at"])


async def reasons(team: Team) -> list[str]:
    """Of all `batch` events up to now, as the journal has them."""
    entries = await team.co.call("history.read", project=team.project, after=team.head, limit=1000, kind="batch")
    return [entry["data"]["reason"] for entry in entries]


async def statuses(team: Team) -> list[str]:
    """The coordinator's run's, then the participants', in their order; `-` for a site without a run."""
    found = await team.statuses()
    return [found.get(site.uid, "-") for site in team.sites]


async def side_by_side(*cases: Any) -> None:
    """What waits for its deadlines waits together."""
    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(case)


# Stragglers


async def test_what_becomes_of_a_straggler_is_what_the_policy_says(realm: Realm) -> None:
    await side_by_side(
        all_are_waited_for(realm),
        at_least_k_of_n_are_enough(realm),
        fewer_than_k_are_not(realm),
        a_mandatory_site_is_never_left_out(realm),
        a_round_is_to_be_closed(realm),
    )


async def all_are_waited_for(realm: Realm) -> None:
    team = await halfway(realm, 2, round_deadline_s=ROUND_S)
    await deliver(team, team.participant)
    for wire in (team.co, *team.pas):
        assert (await told(wire, team, "round_deadline"))["status"] == "Failed"
    assert await statuses(team) == ["Failed"] * 3
    assert (await start(team))["batch"] == 2


async def at_least_k_of_n_are_enough(realm: Realm) -> None:
    team = await halfway(realm, 3, round_deadline_s=ROUND_S, stragglers="leave_out", min_sites=2)
    await deliver(team, *team.participants[:2])
    for wire in (team.co, *team.pas):
        assert (await told(wire, team, "left_out"))["status"] == "Pending Success"
    assert await statuses(team) == ["Pending Success", "Pending Aggregating", "Pending Aggregating", "Failed"]
    await team.pas[2].expect("event", kind="run", data={"site": team.participants[2].uid, "status": "Failed"})
    await team.force("Success")
    assert await statuses(team) == ["Success", "Success", "Success", "Failed"]
    await team.pas[2].expect("event", kind="batch", data={"status": "Success", "reason": "all_runs"})


async def fewer_than_k_are_not(realm: Realm) -> None:
    team = await halfway(realm, 2, round_deadline_s=ROUND_S, stragglers="leave_out", min_sites=2)
    await deliver(team, team.participant)
    await told(team.pa, team, "left_out")
    assert (await told(team.pa, team, "too_few_sites"))["status"] == "Failed"
    assert await statuses(team) == ["Failed"] * 3


async def a_mandatory_site_is_never_left_out(realm: Realm) -> None:
    team = await crew(realm, 2)
    needed = team.participants[1]
    await start(team, round_deadline_s=ROUND_S, stragglers="leave_out", mandatory_sites=[needed.uid])
    await team.force("Pending Success")
    await deliver(team, team.participant)
    assert (await told(team.pa, team, "mandatory_site_lost"))["status"] == "Failed"
    assert await statuses(team) == ["Failed"] * 3


async def a_round_is_to_be_closed(realm: Realm) -> None:
    """All have delivered, and the coordinator does nothing with it."""
    team = await halfway(realm, 1, round_deadline_s=ROUND_S / 2, stragglers="leave_out")
    await deliver(team, team.participant)
    assert (await told(team.pa, team, "round_deadline"))["status"] == "Failed"


async def test_a_new_round_has_its_own_deadline(realm: Realm) -> None:
    team = await halfway(realm, 1, round_deadline_s=ROUND_S)
    began = datetime.fromisoformat((await team.pa.expect("event", kind="batch", data={"reason": "started"}))["at"])
    await deliver(team, team.participant)
    await next_round(team)
    anew = await team.pa.until("event", kind="run", data={"status": "Standby", "round": 2})
    ended = await at(team, "round_deadline")
    assert ROUND_S <= (ended - datetime.fromisoformat(anew[-1]["at"])).total_seconds() <= ROUND_S + SLACK_S
    assert (ended - began).total_seconds() > ROUND_S


# The whole batch


async def test_a_batch_ends_at_its_deadline_whoever_is_there(realm: Realm) -> None:
    team = await crew(realm, 2)
    lost, _ = team.participants
    await start(team, deadline_s=1, round_deadline_s=60, stragglers="leave_out", min_sites=0)
    kill(team.pas[0])
    kill(team.co)
    event = await team.pas[1].expect("event", kind="batch", data={"reason": "deadline"})
    batch = [one for one in events(team.pas[1].unclaimed, "batch") if one["data"]["batch"] == team.batch]
    assert [one["data"]["reason"] for one in batch] == ["started"]
    elapsed = datetime.fromisoformat(event["at"]) - datetime.fromisoformat(batch[0]["at"])
    assert 1 <= elapsed.total_seconds() <= 1 + SLACK_S
    team.co = await realm.session(team.coordinator)
    assert await statuses(team) == ["Failed"] * 3
    again = await realm.session(lost)
    assert (await told(again, team, "deadline"))["status"] == "Failed"


async def test_a_mandatory_site_that_gives_up_or_goes_ends_the_batch(realm: Realm) -> None:
    gives_up, goes = await crew(realm, 2), await crew(realm, 2)
    for team in (gives_up, goes):
        await start(team, mandatory_sites=[team.participant.uid], min_sites=1)
    await move(gives_up, gives_up.participant, "Pending Failed", "Failed")
    await goes.pa.call("projects.leave", project=goes.project)
    for team in (gives_up, goes):
        for wire in (team.co, team.pas[1]):
            assert (await told(wire, team, "mandatory_site_lost"))["status"] == "Failed"
        assert set((await team.statuses()).values()) == {"Failed"}
    assert await reasons(gives_up) == ["started", "mandatory_site_lost"]


async def test_a_batch_that_was_stopped_ends_by_its_deadline_too(realm: Realm) -> None:
    """Its controllers would have to say Failed, and may be gone."""
    team = await crew(realm)
    await start(team, deadline_s=1)
    await team.co.call("runs.stop", project=team.project, batch=team.batch)
    assert (await told(team.pa, team, "stopped"))["status"] == "Pending Failed"
    assert (await told(team.pa, team, "deadline"))["status"] == "Failed"


async def test_a_batch_that_begins_again_has_its_deadline_again(realm: Realm) -> None:
    team = await crew(realm)
    await start(team, deadline_s=0.5)
    await told(team.pa, team, "deadline")
    await team.co.call("runs.restart", project=team.project, batch=team.batch)
    await told(team.pa, team, "reopened")
    await told(team.pa, team, "deadline")
    assert await reasons(team) == ["started", "deadline", "reopened", "restarted", "deadline"]


# Who comes late


async def test_a_late_site_joins_the_next_round(realm: Realm) -> None:
    team = await crew(realm, 2)
    late = team.participants[1]
    await offline(team, late)
    await start(team, min_sites=1, late_join=True)
    wire = await back(realm, team, late)
    assert await wire.call("runs.list", project=team.project) == []
    await team.force("Aggregating")
    assert await statuses(team) == ["Aggregating", "Aggregating", "-"]
    await next_round(team)
    for each in (team.co, *team.pas):
        assert (await told(each, team, "late_joined"))["status"] == "Standby"
    (run,) = await wire.call("runs.list", project=team.project)
    assert (run["status"], run["tasks"][0]["config"]["current_round"]) == ("Standby", 2)
    team.runs[late.uid] = run
    await move(team, late, "Preparing", "Running")
    assert await statuses(team) == ["Standby", "Standby", "Running"]


async def test_who_was_left_out_is_back_in_the_next_round_and_not_before(realm: Realm) -> None:
    team = await halfway(realm, 2, round_deadline_s=ROUND_S, stragglers="leave_out", late_join=True)
    straggler = team.participants[1]
    await deliver(team, team.participant)
    await told(team.co, team, "left_out")
    await team.force("Aggregating")
    assert await statuses(team) == ["Aggregating", "Aggregating", "Failed"]
    await next_round(team)
    assert (await told(team.pas[1], team, "late_joined"))["status"] == "Standby"
    assert await statuses(team) == ["Standby"] * 3
    await move(team, straggler, "Preparing")
    assert [run["round"] for run in await runs_told(team, straggler)][-1] == 2


async def runs_told(team: Team, site: Site) -> list[Frame]:
    entries = await team.co.call("history.read", project=team.project, after=team.head, limit=1000, kind="run")
    return [entry["data"] for entry in entries if entry["data"]["site"] == site.uid]


async def test_who_comes_late_stays_out_unless_the_policy_lets_it_in(realm: Realm) -> None:
    team = await crew(realm, 2)
    late = team.participants[1]
    await offline(team, late)
    await start(team, min_sites=1)
    await back(realm, team, late)
    await next_round(team)
    assert await statuses(team) == ["Standby", "Standby", "-"]
    assert "late_joined" not in await reasons(team)


# The coordinator


async def test_a_coordinator_that_comes_back_in_time_goes_on_where_it_was(realm: Realm) -> None:
    team = await crew(realm)
    await start(team, coordinator_grace_s=60)
    await move(team, team.participant, "Preparing", "Running")
    kill(team.co)
    assert (await told(team.pa, team, "paused"))["status"] == "Standby"
    await move(team, team.participant, "Pending Success")
    team.co = await realm.session(team.coordinator)
    assert (await told(team.pa, team, "resumed"))["status"] == "Standby"
    assert await statuses(team) == ["Standby", "Pending Success"]
    await team.force("Success")
    assert await reasons(team) == ["started", "paused", "resumed", "all_runs"]


async def test_a_coordinator_that_stays_away_fails_the_batch(realm: Realm) -> None:
    team = await crew(realm, 2)
    await start(team, coordinator_grace_s=0.5)
    kill(team.co)
    paused = await at(team, "paused")
    assert 0.5 <= (await at(team, "coordinator_lost") - paused).total_seconds() <= 0.5 + SLACK_S
    team.co = await realm.session(team.coordinator)
    assert set(await statuses(team)) == {"Failed"}
    assert (await start(team))["batch"] == 2


async def test_the_rounds_clock_stands_while_the_coordinator_is_away(realm: Realm) -> None:
    team = await crew(realm)
    await start(team, round_deadline_s=0.5, coordinator_grace_s=1.5)
    kill(team.co)
    await told(team.pa, team, "paused")
    assert (await told(team.pa, team, "coordinator_lost"))["status"] == "Failed"
    team.co = await realm.session(team.coordinator)
    assert await reasons(team) == ["started", "paused", "coordinator_lost"]


async def test_every_run_has_ended_when_its_batch_has(realm: Realm) -> None:
    """And each end of a run that a policy made was told to the site whose run it is."""
    team = await crew(realm, 2)
    await start(team, deadline_s=0.5)
    for wire, site in zip((team.co, *team.pas), team.sites, strict=True):
        run = await wire.expect("event", kind="run", data={"site": site.uid, "status": "Failed"})
        assert run["data"]["status"] in ENDED
        await told(wire, team, "deadline")
    assert await team.co.call("runs.list", project=team.project, active=True) == []
