"""Section 4, `call`, of docs/protocol.md: runs, their transitions, and the events that tell of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conformance.realm import TASKS, Realm, Site, Team, listed
from tests.conformance.shapes import BATCH_DATA, EVENT, RUN_DATA, STATUSES, TERMINAL, assert_run
from tests.conformance.wire import Frame, Wire, events

ABSENT = 2**40

ALLOWED: dict[str, set[str]] = {
    "Failed": {"Standby"},
    "Pending Failed": {"Standby", "Failed"},
    "Standby": {"Standby", "Preparing", "Pending Failed"},
    "Preparing": {"Standby", "Running", "Pending Failed"},
    "Running": {"Standby", "Pending Success", "Pending Failed"},
    "Pending Success": {"Standby", "Pending Aggregating", "Success"},
    "Pending Aggregating": {"Standby", "Aggregating", "Failed"},
    "Aggregating": {"Standby", "Success", "Failed"},
    "Success": {"Standby"},
}
"""The transitions of a run alone."""

STOPPABLE = ("Standby", "Preparing", "Running")


async def started(realm: Realm, participants: int = 1, status: str = "Standby") -> Team:
    """A team with a batch whose runs all stand in that status, and whose sessions have nothing unclaimed."""
    team = await realm.team(participants)
    await team.start()
    if status != "Standby":
        await team.force(status)
    for wire in (team.co, *team.pas):
        await team.shown(wire)
    return team


async def run_of(wire: Wire, run_id: int, project: int) -> Frame:
    runs = listed(await wire.call("runs.list", project=project), "runs")
    return next(run for run in runs if run["id"] == run_id)


async def move(team: Team, site: Site, status: str | int) -> None:
    """Has a site's own run make a transition that must be allowed."""
    wire = team.co if site == team.coordinator else team.pas[team.participants.index(site)]
    await wire.call("runs.status", run=team.run(site), status=status)


def told(frames: list[Frame], kind: str) -> list[Frame]:
    return [event["data"] for event in events(frames, kind)]


def run_data(team: Team, site: Site, status: str, *, cur_seq: int = 1, round_: int = 1) -> Frame:
    return {
        "run": team.run(site),
        "site": site.uid,
        "batch": team.batch,
        "role": "coordinator" if site == team.coordinator else "participant",
        "status": status,
        "status_code": STATUSES.index(status),
        "cur_seq": cur_seq,
        "round": round_,
    }


# runs.start


async def test_start_answers_with_the_batch_and_its_runs(realm: Realm) -> None:
    team = await realm.team(participants=2)
    result = await team.co.call("runs.start", project=team.project)
    assert result["batch"] == 1
    assert {run["site_uid"]: run["role"] for run in result["runs"]} == {
        team.coordinator.uid: "coordinator",
        team.participants[0].uid: "participant",
        team.participants[1].uid: "participant",
    }
    for run in result["runs"]:
        assert_run(run, project=team.project, batch=1, status="Standby", cur_seq=1, tasks=TASKS)
        assert (run["logs"], run["artifacts"], run["middle_artifacts"]) == ([], [], [])
        assert (run["agent_advice"], run["agent_diagnosis"]) == ({}, {})


async def test_a_runs_participant_is_the_participations_id(realm: Realm) -> None:
    team = await realm.team()
    await team.start()
    (participation,) = listed(await team.pa.call("projects.list"), "participations")
    assert team.runs[team.participant.uid]["participant"] == participation["id"]
    assert participation["project"]["batch"] == 1


async def test_start_tells_the_coordinator_of_all_runs_and_a_participant_of_its_own(realm: Realm) -> None:
    team = await realm.team(participants=2)
    await team.start()
    of_all = events(await team.shown(team.co), "run")
    assert sorted(event["data"]["run"] for event in of_all) == sorted(team.run(site) for site in team.sites)
    for event in of_all:
        assert set(event) == EVENT
        assert set(event["data"]) == RUN_DATA
        assert (event["from"], event["project"]) == (None, team.project)
        assert (event["run"], event["batch"]) == (event["data"]["run"], 1)
    for site, pa in zip(team.participants, team.pas, strict=True):
        assert told(await team.shown(pa), "run") == [run_data(team, site, "Standby")]


async def test_start_while_a_batch_is_open_is_a_conflict_and_changes_nothing(realm: Realm) -> None:
    team = await started(realm)
    for status in [status for status in STATUSES if status not in TERMINAL]:
        await team.force(status)
        error = await team.co.refused("runs.start", project=team.project)
        assert (error["code"], error["details"]) == ("conflict", {"batch": 1})
    assert len(listed(await team.co.call("runs.list", project=team.project), "runs")) == 2
    (participation,) = listed(await team.co.call("projects.list"), "participations")
    assert participation["project"]["batch"] == 1


@pytest.mark.parametrize("status", TERMINAL)
async def test_a_batch_is_open_until_all_its_runs_are_failed_or_success(realm: Realm, status: str) -> None:
    team = await started(realm, status="Aggregating")
    await move(team, team.participant, status)
    assert (await team.co.refused("runs.start", project=team.project))["code"] == "conflict"
    await move(team, team.coordinator, "Success")
    result = await team.co.call("runs.start", project=team.project)
    assert result["batch"] == 2
    assert {run["status"] for run in result["runs"]} == {"Standby"}
    assert not {run["id"] for run in result["runs"]} & {team.run(site) for site in team.sites}


async def test_two_starts_at_once_make_one_batch(realm: Realm) -> None:
    team = await realm.team()
    sessions = [team.co, *[await realm.session(team.coordinator) for _ in range(3)]]
    frame = {"type": "call", "method": "runs.start", "params": {"project": team.project}}
    answers = await asyncio.gather(*(session.ask(**frame) for session in sessions))
    assert sorted(answer.get("code", "ok") for answer in answers) == ["conflict", "conflict", "conflict", "ok"]
    assert all(answer["details"] == {"batch": 1} for answer in answers if answer["type"] == "error")
    assert len(listed(await team.co.call("runs.list", project=team.project), "runs")) == 2


async def test_a_participant_starts_nothing(realm: Realm) -> None:
    team = await realm.team()
    assert (await team.pa.refused("runs.start", project=team.project))["code"] == "forbidden"
    assert listed(await team.co.call("runs.list", project=team.project), "runs") == []


async def test_tasks_are_copied_when_the_batch_starts(realm: Realm) -> None:
    team = await started(realm)
    body = {"tasks": [{"seq": 1, "model": "Other", "config": {"total_round": 9, "current_round": 1}}]}
    response = await realm.rest("PATCH", f"projects/{team.project}/", realm.owner, json=body)
    assert response.status_code == 200, response.text
    assert (await run_of(team.pa, team.run(team.participant), team.project))["tasks"] == TASKS


# runs.start: who has to be there


async def one_absent(realm: Realm, participants: int = 2) -> tuple[Team, Site]:
    """A team whose last participant is not connected."""
    team = await realm.team(participants)
    absent = team.participants[-1]
    await realm.unconnected(absent, [team.pas[-1]], team.co)
    return team, absent


async def test_a_site_that_is_offline_stops_the_start_and_nothing_changes(realm: Realm) -> None:
    team, absent = await one_absent(realm)
    error = await team.co.refused("runs.start", project=team.project)
    assert (error["code"], error["details"]) == ("not_all_connected", {"offline": [absent.uid]})
    assert listed(await team.co.call("runs.list", project=team.project), "runs") == []
    await realm.session(absent)
    assert (await team.co.call("runs.start", project=team.project))["batch"] == 1


async def test_a_heartbeat_counts_as_connected(realm: Realm) -> None:
    team, absent = await one_absent(realm)
    response = await realm.rest("POST", "sites/heartbeat/", absent.account, json={"uid": absent.uid, "status": 1})
    assert response.status_code == 202, response.text
    assert len((await team.co.call("runs.start", project=team.project))["runs"]) == 3


async def test_with_min_sites_the_others_start_without_the_absent_one(realm: Realm) -> None:
    team, absent = await one_absent(realm)
    result = await team.co.call("runs.start", project=team.project, policy={"min_sites": 1})
    assert {run["site_uid"] for run in result["runs"]} == {team.coordinator.uid, team.participant.uid}
    assert (await team.co.refused("runs.start", project=team.project))["code"] == "conflict"
    late = await realm.session(absent)
    assert listed(await late.call("runs.list", project=team.project), "runs") == []


async def test_min_sites_counts_participants_and_not_the_coordinator(realm: Realm) -> None:
    team, absent = await one_absent(realm)
    error = await team.co.refused("runs.start", project=team.project, policy={"min_sites": 2})
    assert (error["code"], error["details"]) == ("not_all_connected", {"offline": [absent.uid]})
    assert listed(await team.co.call("runs.list", project=team.project), "runs") == []


async def test_at_its_deadline_a_batch_fails_what_has_not_ended_and_says_why(realm: Realm) -> None:
    team = await realm.team(participants=2)
    result = await team.co.call("runs.start", project=team.project, policy={"deadline_s": 1.0})
    team.batch, team.runs = result["batch"], {run["site_uid"]: run for run in result["runs"]}
    await team.force("Pending Success")
    await move(team, team.participant, "Success")
    for wire in (team.co, *team.pas):
        event = await wire.expect("event", kind="batch", data={"status": "Failed"})
        assert event["data"] == {"batch": 1, "status": "Failed", "status_code": 0, "reason": "deadline"}
    ended = await team.statuses()
    assert ended.pop(team.participant.uid) == "Success"
    assert set(ended.values()) == {"Failed"}
    assert (await team.co.call("runs.start", project=team.project))["batch"] == 2


async def test_a_batch_that_has_ended_in_time_has_no_deadline_any_more(realm: Realm) -> None:
    team = await realm.team()
    result = await team.co.call("runs.start", project=team.project, policy={"deadline_s": 0.5})
    team.batch, team.runs = result["batch"], {run["site_uid"]: run for run in result["runs"]}
    await team.force("Success")
    await asyncio.sleep(0.7)
    assert set((await team.statuses()).values()) == {"Success"}
    assert [data["status"] for data in told(await team.shown(team.pa), "batch")][-1] == "Success"


@pytest.mark.parametrize(
    "policy",
    [
        7,
        [],
        "all",
        {"min_sites": "two"},
        {"min_sites": -1},
        {"min_sites": 1.5},
        {"deadline_s": "soon"},
        {"deadline_s": -1},
    ],
    ids=repr,
)
async def test_a_policy_that_is_none_is_invalid(realm: Realm, policy: object) -> None:
    team = await realm.team()
    error = await team.co.refused("runs.start", project=team.project, policy=policy)
    assert error["code"] == "invalid"
    assert any(name.split(".")[0] in ("policy", "min_sites", "deadline_s") for name in error["details"])
    assert listed(await team.co.call("runs.list", project=team.project), "runs") == []


# runs.status: a run alone


@pytest.mark.parametrize("now", STATUSES)
async def test_every_transition_of_a_run_alone(realm: Realm, now: str) -> None:
    team = await started(realm, participants=2)
    run = team.run(team.participant)
    for to in STATUSES:
        await team.force(now)
        await team.shown(team.co)
        answer = await team.pa.ask(type="call", method="runs.status", params={"run": run, "status": to})
        after = await team.statuses()
        if to in ALLOWED[now]:
            assert answer["type"] == "ok", answer
            (changed,) = listed(answer["result"], "runs")
            assert_run(changed, id=run, status=to)
        else:
            assert (answer.get("code"), answer.get("details")) == ("conflict", {"from": now, "to": to})
            assert told(await team.shown(team.co), "run") == []
        assert after.pop(team.participant.uid) == (to if to in ALLOWED[now] else now)
        assert set(after.values()) == {now}


async def test_a_status_is_a_code_or_a_display_string(realm: Realm) -> None:
    team = await started(realm)
    for status in ("Preparing", STATUSES.index("Running"), "Pending Success", STATUSES.index("Success")):
        (run,) = listed(await team.pa.call("runs.status", run=team.run(team.participant), status=status), "runs")
        assert run["status"] == (STATUSES[status] if isinstance(status, int) else status)


@pytest.mark.parametrize("status", ["Sleeping", "", "3", -1, 9, 42, 1.5, True, None, [3], {"status": 3}], ids=repr)
async def test_an_unknown_status_is_invalid_and_nothing_changes(realm: Realm, status: object) -> None:
    team = await started(realm)
    error = await team.pa.refused("runs.status", run=team.run(team.participant), status=status)
    assert error["code"] == "invalid"
    assert "status" in error["details"]
    assert set((await team.statuses()).values()) == {"Standby"}


@pytest.mark.parametrize("missing", ["run", "status"])
async def test_a_missing_parameter_is_invalid(realm: Realm, missing: str) -> None:
    team = await started(realm)
    params: dict[str, Any] = {"run": team.run(team.participant), "status": "Preparing"}
    del params[missing]
    error = await team.pa.refused("runs.status", **params)
    assert error["code"] == "invalid"
    assert missing in error["details"]


async def test_a_transition_is_told_to_the_coordinator_and_to_the_runs_own_site(realm: Realm) -> None:
    team = await started(realm, participants=2)
    other = await realm.resumed(team.participant, team.project, offset="new")
    await move(team, team.participant, "Preparing")
    expected = run_data(team, team.participant, "Preparing")
    (event,) = events(await team.shown(team.co), "run")
    assert set(event) == EVENT
    assert (event["data"], event["from"]) == (expected, None)
    assert (event["run"], event["batch"]) == (team.run(team.participant), team.batch)
    assert told(await team.shown(other), "run") == [expected]
    assert events(await team.shown(team.pas[1])) == []


async def test_a_run_is_moved_by_its_own_site_only(realm: Realm) -> None:
    team = await started(realm, participants=2)
    run = team.run(team.participant)
    error = await team.pas[1].refused("runs.status", run=run, status="Preparing")
    absent = await team.pas[1].refused("runs.status", run=ABSENT, status="Preparing")
    assert error["code"] == absent["code"] == "unknown_run"
    assert (error["message"], error["details"]) == (absent["message"], absent["details"])
    assert (await team.co.refused("runs.status", run=run, status="Preparing"))["code"] == "forbidden"
    assert set((await team.statuses()).values()) == {"Standby"}


async def test_a_run_of_a_foreign_project_is_unknown(realm: Realm) -> None:
    team, other = await started(realm), await realm.team()
    for wire in (other.co, other.pa):
        for extra in ({}, {"update_all": True}):
            error = await wire.refused("runs.status", run=team.run(team.participant), status="Preparing", **extra)
            assert error["code"] == "unknown_run"
    assert set((await team.statuses()).values()) == {"Standby"}


async def test_transitions_at_once_do_not_overtake_each_other(realm: Realm) -> None:
    team = await started(realm)
    frame = {
        "type": "call",
        "method": "runs.status",
        "params": {"run": team.run(team.participant), "status": "Preparing"},
    }
    sessions = [team.pa, *[await realm.session(team.participant) for _ in range(3)]]
    answers = await asyncio.gather(*(session.ask(**frame) for session in sessions))
    assert sorted(answer.get("code", "ok") for answer in answers) == ["conflict", "conflict", "conflict", "ok"]
    assert len(told(await team.shown(team.co), "run")) == 1


# The batch


async def test_a_batch_event_comes_when_the_last_run_has_arrived(realm: Realm) -> None:
    team = await started(realm, participants=2)
    for site in team.sites[:2]:
        await move(team, site, "Preparing")
    for wire in (team.co, *team.pas):
        assert events(await team.shown(wire), "batch") == []
    await move(team, team.participants[1], "Preparing")
    for wire in (team.co, *team.pas):
        (event,) = events(await team.shown(wire), "batch")
        assert set(event) == EVENT
        assert set(event["data"]) == BATCH_DATA
        assert (event["from"], event["batch"]) == (None, team.batch)
        told_status = {name: event["data"][name] for name in ("batch", "status", "status_code")}
        assert told_status == {"batch": team.batch, "status": "Preparing", "status_code": 3}


async def test_a_batch_event_comes_after_the_run_event_that_completed_it(realm: Realm) -> None:
    team = await started(realm)
    await move(team, team.coordinator, "Preparing")
    await move(team, team.participant, "Preparing")
    frames = events(await team.shown(team.pa))
    assert [frame["kind"] for frame in frames] == ["run", "batch"]
    assert frames[1]["offset"] == frames[0]["offset"] + 1


async def test_a_run_that_leaves_the_common_status_makes_no_batch_event(realm: Realm) -> None:
    team = await started(realm, status="Preparing")
    await move(team, team.participant, "Running")
    assert events(await team.shown(team.pa), "batch") == []
    await move(team, team.coordinator, "Running")
    assert [data["status"] for data in told(await team.shown(team.pa), "batch")] == ["Running"]


# runs.status: the whole batch


async def test_update_all_sets_the_batch_whatever_each_run_stands_in(realm: Realm) -> None:
    team = await started(realm, participants=2)
    await move(team, team.participant, "Preparing")
    await team.shown(team.co)
    changed = await team.co.call("runs.status", run=team.run(team.coordinator), status="Aggregating", update_all=True)
    runs = listed(changed, "runs")
    assert {run["site_uid"]: run["status"] for run in runs} == {site.uid: "Aggregating" for site in team.sites}
    for run in runs:
        assert_run(run, batch=team.batch, project=team.project)
    frames = await team.shown(team.co)
    assert sorted(data["run"] for data in told(frames, "run")) == sorted(team.run(site) for site in team.sites)
    assert [data["status"] for data in told(frames, "batch")] == ["Aggregating"]
    for site, pa in zip(team.participants, team.pas, strict=True):
        assert told(await team.shown(pa), "run")[-1:] == [run_data(team, site, "Aggregating")]


@pytest.mark.parametrize("status", STATUSES)
async def test_update_all_reaches_every_status(realm: Realm, status: str) -> None:
    team = await started(realm)
    await team.force(status)
    assert set((await team.statuses()).values()) == {status}


async def test_update_all_leaves_other_batches_alone(realm: Realm) -> None:
    team = await started(realm, status="Success")
    await team.start()
    await team.force("Running")
    runs = listed(await team.co.call("runs.list", project=team.project), "runs")
    assert {(run["batch"], run["status"]) for run in runs} == {(1, "Success"), (2, "Running")}


async def test_update_all_is_the_coordinators(realm: Realm) -> None:
    team = await started(realm)
    error = await team.pa.refused("runs.status", run=team.run(team.participant), status="Preparing", update_all=True)
    assert error["code"] == "forbidden"
    assert set((await team.statuses()).values()) == {"Standby"}


@pytest.mark.parametrize("name", ["update_all", "increase_round"])
async def test_a_switch_that_is_no_boolean_is_invalid(realm: Realm, name: str) -> None:
    team = await started(realm)
    error = await team.co.refused("runs.status", run=team.run(team.coordinator), status="Preparing", **{name: "yes"})
    assert error["code"] == "invalid"
    assert name in error["details"]
    assert set((await team.statuses()).values()) == {"Standby"}


async def test_increase_round_counts_rounds_and_then_tasks(realm: Realm) -> None:
    """TASKS: the first has two rounds, the second one."""
    team = await started(realm)
    for cur_seq, round_ in ((1, 2), (2, 1), (2, 1)):
        await team.co.call(
            "runs.status", run=team.run(team.coordinator), status="Standby", increase_round=True, update_all=True
        )
        for wire, site in ((team.co, team.coordinator), (team.pa, team.participant)):
            run = await run_of(wire, team.run(site), team.project)
            assert run["cur_seq"] == cur_seq
            task = next(task for task in run["tasks"] if task["seq"] == cur_seq)
            assert task["config"]["current_round"] == round_
    assert run["tasks"][1] == TASKS[1]


async def test_run_events_carry_the_task_and_the_round(realm: Realm) -> None:
    team = await started(realm, status="Aggregating")
    for cur_seq, round_ in ((1, 2), (2, 1)):
        await team.co.call(
            "runs.status", run=team.run(team.coordinator), status="Standby", increase_round=True, update_all=True
        )
        expected = run_data(team, team.participant, "Standby", cur_seq=cur_seq, round_=round_)
        assert told(await team.shown(team.pa), "run") == [expected]
        await team.force("Aggregating")
        await team.shown(team.pa)


async def test_without_increase_round_the_round_stays(realm: Realm) -> None:
    team = await started(realm, status="Aggregating")
    await team.force("Standby")
    run = await run_of(team.pa, team.run(team.participant), team.project)
    assert (run["cur_seq"], run["tasks"]) == (1, TASKS)


# runs.stop, runs.restart


async def in_various(realm: Realm) -> Team:
    """Five sites in one batch: Running, Success, Failed, Pending Aggregating and Standby."""
    team = await started(realm, participants=4, status="Running")
    first, second, third, fourth = team.participants
    for status in ("Pending Success", "Success"):
        await move(team, first, status)
    for status in ("Pending Failed", "Failed"):
        await move(team, second, status)
    for status in ("Pending Success", "Pending Aggregating"):
        await move(team, third, status)
    await move(team, fourth, "Standby")
    await team.shown(team.co)
    return team


async def test_stop_of_a_batch_leaves_what_is_over_and_stops_the_rest_from_wherever_it_stands(realm: Realm) -> None:
    team = await in_various(realm)
    runs = listed(await team.co.call("runs.stop", project=team.project, batch=team.batch), "runs")
    for run in runs:
        assert_run(run, batch=team.batch)
    first, second, third, fourth = team.participants
    assert await team.statuses() == {
        team.coordinator.uid: "Pending Failed",
        first.uid: "Success",
        second.uid: "Failed",
        third.uid: "Pending Failed",
        fourth.uid: "Pending Failed",
    }
    stopped = told(await team.shown(team.co), "run")
    assert {data["site"] for data in stopped} == {team.coordinator.uid, third.uid, fourth.uid}
    assert {data["status"] for data in stopped} == {"Pending Failed"}


async def test_restart_of_a_batch_brings_all_to_standby(realm: Realm) -> None:
    team = await in_various(realm)
    runs = listed(await team.co.call("runs.restart", project=team.project, batch=team.batch), "runs")
    assert {run["site_uid"]: run["status"] for run in runs} == {site.uid: "Standby" for site in team.sites}
    assert set((await team.statuses()).values()) == {"Standby"}
    assert [data["status"] for data in told(await team.shown(team.co), "batch")] == ["Standby"]


@pytest.mark.parametrize("now", STATUSES)
async def test_a_participant_stops_its_own_run_where_the_table_allows_it(realm: Realm, now: str) -> None:
    team = await started(realm, participants=2, status=now)
    params = {"project": team.project, "run": team.run(team.participant)}
    answer = await team.pa.ask(type="call", method="runs.stop", params=params)
    after = await team.statuses()
    if now in STOPPABLE:
        (run,) = listed(answer["result"], "runs")
        assert_run(run, id=team.run(team.participant), status="Pending Failed")
        assert after.pop(team.participant.uid) == "Pending Failed"
    else:
        assert (answer.get("code"), answer.get("details")) == ("conflict", {"from": now, "to": "Pending Failed"})
    assert set(after.values()) == {now}


@pytest.mark.parametrize("now", STATUSES)
async def test_a_participant_restarts_its_own_run_from_anywhere(realm: Realm, now: str) -> None:
    team = await started(realm, participants=2, status=now)
    await team.pa.call("runs.restart", project=team.project, run=team.run(team.participant))
    after = await team.statuses()
    assert after.pop(team.participant.uid) == "Standby"
    assert set(after.values()) == {now}


@pytest.mark.parametrize("method", ["runs.stop", "runs.restart"])
async def test_a_participant_controls_no_batch_and_no_other_run(realm: Realm, method: str) -> None:
    team = await started(realm, participants=2, status="Preparing")
    batch = await team.pa.refused(method, project=team.project, batch=team.batch)
    assert batch["code"] == "forbidden"
    for run in (team.run(team.participants[1]), ABSENT):
        assert (await team.pa.refused(method, project=team.project, run=run))["code"] == "unknown_run"
    assert set((await team.statuses()).values()) == {"Preparing"}


@pytest.mark.parametrize("method", ["runs.stop", "runs.restart"])
async def test_a_coordinator_controls_its_own_run_alone_and_others_only_as_a_batch(realm: Realm, method: str) -> None:
    team = await started(realm, status="Preparing")
    error = await team.co.refused(method, project=team.project, run=team.run(team.participant))
    assert error["code"] == "forbidden"
    await team.co.call(method, project=team.project, run=team.run(team.coordinator))
    expected = "Pending Failed" if method == "runs.stop" else "Standby"
    assert await team.statuses() == {team.coordinator.uid: expected, team.participant.uid: "Preparing"}


@pytest.mark.parametrize("method", ["runs.stop", "runs.restart"])
async def test_neither_batch_nor_run_is_invalid_and_an_unknown_batch_refused(realm: Realm, method: str) -> None:
    team = await started(realm, status="Preparing")
    error = await team.co.refused(method, project=team.project)
    assert error["code"] == "invalid"
    assert {"batch", "run"} & set(error["details"])
    assert (await team.co.refused(method, project=team.project, batch=99))["code"] in ("invalid", "unknown_run")
    assert (await team.co.refused(method, project=team.project, batch="1"))["code"] == "invalid"
    assert set((await team.statuses()).values()) == {"Preparing"}


@pytest.mark.parametrize("method", ["runs.stop", "runs.restart"])
async def test_a_run_of_another_project_is_unknown_in_this_one(realm: Realm, method: str) -> None:
    team, other = await started(realm, status="Preparing"), await realm.team()
    error = await team.pa.refused(method, project=other.project, run=team.run(team.participant))
    assert error["code"] == "unknown_project"
    await team.pa.call("projects.join", name=other.name)
    error = await team.pa.refused(method, project=other.project, run=team.run(team.participant))
    assert error["code"] == "unknown_run"
    assert set((await team.statuses()).values()) == {"Preparing"}


# runs.list


async def test_a_coordinator_lists_all_runs_and_a_participant_its_own(realm: Realm) -> None:
    team = await started(realm, participants=2, status="Failed")
    await team.start()
    of_all = listed(await team.co.call("runs.list", project=team.project), "runs")
    assert sorted((run["batch"], run["site_uid"]) for run in of_all) == sorted(
        (batch, site.uid) for batch in (1, 2) for site in team.sites
    )
    own = listed(await team.pa.call("runs.list", project=team.project), "runs")
    assert [(run["batch"], run["site_uid"]) for run in own] == [(batch, team.participant.uid) for batch in (1, 2)]
    for run in own:
        assert_run(run)
        assert run in of_all


async def test_list_takes_a_batch_and_whether_active(realm: Realm) -> None:
    team = await started(realm, status="Failed")
    await team.start()
    await move(team, team.participant, "Preparing")

    async def batches(**params: Any) -> list[int]:
        runs = listed(await team.co.call("runs.list", project=team.project, **params), "runs")
        return sorted(run["batch"] for run in runs)

    assert await batches(batch=1) == [1, 1]
    assert await batches(batch=3) == []
    assert await batches(active=True) == [2, 2]
    assert await batches(batch=1, active=True) == []


async def test_pending_failed_is_still_active(realm: Realm) -> None:
    team = await started(realm, status="Pending Failed")
    assert len(listed(await team.co.call("runs.list", project=team.project, active=True), "runs")) == 2


@pytest.mark.parametrize("params", [{"batch": "1"}, {"active": "yes"}, {"project": "7"}], ids=repr)
async def test_list_with_wrong_parameters_is_invalid(realm: Realm, params: dict[str, Any]) -> None:
    team = await realm.team()
    error = await team.co.refused("runs.list", **{"project": team.project, **params})
    assert error["code"] == "invalid"
    assert set(error["details"]) == set(params)
