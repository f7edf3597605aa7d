"""`site`, `project` and `run`: lists, records and changes, beside a relay that serves the same database."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys

import pytest

from relay.cli import tables
from tests.cli.conftest import Shell
from tests.conformance.realm import Realm
from tests.support.relay import RelayProcess


async def test_sites_are_listed_by_project_owner_and_presence(realm: Realm, sh: Shell) -> None:
    team = await realm.team(participants=2)
    first, second = team.participants
    await realm.unconnected(second, [team.pas[1]], team.co)
    expected = {site.uid: "online" for site in team.sites} | {second.uid: "offline"}
    listed: dict[str, str] = {}
    async with asyncio.timeout(20):  # presence is written down a moment later
        while listed != expected:
            of_project = (await sh("sites", "list", "--project", team.name, "--json")).json
            listed = {site["uid"]: site["state"] for site in of_project}
    there = await sh("site", "list", "--project", str(team.project), "--active", "--owner", "guest", "--json")
    assert [(site["uid"], site["owner"], site["projects"]) for site in there.json] == [(first.uid, "guest", 1)]
    one = await sh("site", "list", "--project", team.name, "--limit", "1")
    assert sum(site.uid in one.out for site in team.sites) == 1
    assert one.err == "the newest 1 of 3; --limit shows more\n"


async def test_a_site_shows_where_it_is_and_what_it_connects_with(realm: Realm, sh: Shell) -> None:
    team = await realm.team()
    token = (await sh("token", "create", "--site", team.participant.uid, "--label", "first")).out.strip()
    await team.co.publish(team.project, data="one more")
    shown = await sh("site", "show", team.participant.name, "--json")
    (part,) = shown.json["projects"]
    assert (part["name"], part["role"], part["head"]) == (team.name, "participant", team.head + 1)
    assert part["behind"] == part["head"] - part["acknowledged"]
    assert [(one["label"], one["state"]) for one in shown.json["tokens"]] == [("first", "good")]
    table = await sh("site", "show", team.participant.uid)
    assert team.name in table.out
    assert token not in shown.out + table.out


async def test_projects_are_listed_and_shown_with_their_members_and_runs(realm: Realm, sh: Shell) -> None:
    idle, busy = await realm.team(), await realm.team()
    await busy.start()
    both = (await sh("projects", "list", "--owner", "owner", "--json")).json
    by_id = {project["id"]: project for project in both}
    assert by_id[busy.project]["status"] == "Standby"
    assert by_id[idle.project]["batch"] is None
    active = {project["id"] for project in (await sh("project", "list", "--active", "--json")).json}
    assert busy.project in active
    assert idle.project not in active
    shown = (await sh("project", "show", busy.name, "--json")).json
    assert [(one["uid"], one["role"]) for one in shown["members"]] == [
        (busy.coordinator.uid, "coordinator"),
        (busy.participant.uid, "participant"),
    ]
    assert {run["id"] for run in shown["runs"]} == {run["id"] for run in busy.runs.values()}
    assert busy.participant.name in (await sh("project", "show", str(busy.project))).out


async def test_runs_are_listed_and_shown(realm: Realm, sh: Shell) -> None:
    team = await realm.team()
    await team.start()
    mine = team.run(team.participant)
    listed = await sh("runs", "list", "--project", team.name, "--owner", "guest", "--active", "--json")
    assert [(run["id"], run["status"], run["round"]) for run in listed.json] == [(mine, "Standby", 1)]
    newest = await sh("run", "list", "--limit", "2", "--json")
    assert [run["id"] for run in newest.json] == sorted(run["id"] for run in team.runs.values())
    assert (await sh("run", "list", "--project", team.name, "--batch", "2", "--json")).json == []
    shown = (await sh("run", "show", str(mine), "--json")).json
    assert (shown["site_uid"], shown["tasks"][0]["seq"]) == (team.participant.uid, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["site", "show", "nowhere"], "there is no site 'nowhere'; `starfish-relay site list` has them"),
        (["site", "list", "--owner", "nobody"], "there is no user 'nobody'"),
        (["project", "show", "999999999"], "there is no project '999999999'"),
        (["run", "list", "--project", "none"], "there is no project 'none'"),
        (["run", "show", "9" * 30], "there is no run"),
        (["run", "stop", "none", "--yes"], "there is no project 'none'"),
        (["tail", "none"], "there is no project 'none'"),
    ],
)
async def test_what_is_not_there_is_said(sh: Shell, words: list[str], says: str) -> None:
    done = await sh(*words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"error: {says}")


def test_names_are_shown_and_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold red]A\x1b[2J\x9b1m:smile:\n"
    tables.print_rows([{"name": name}], ["name"], title="[blink]all")
    tables.print_json({"name": name})
    shown = capsys.readouterr().out
    assert "[bold red]A\ufffd[2J\ufffd1m:smile:\ufffd" in shown
    assert not {"\x1b", "\x9b"} & set(shown)
    assert json.loads(shown[shown.index("{") :]) == {"name": name}


@pytest.mark.parametrize(("width", "is_table"), [(100, True), (80, True), (60, False), (20, False)])
def test_a_terminal_that_is_too_narrow_for_a_table_is_shown_field_by_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, is_table: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    uid, name = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01", "a hospital with quite a long name"
    tables.print_rows([{"name": name, "uid": uid, "state": "online"}] * 2, ["name", "uid", "state"])
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert any(line.startswith("┏") for line in lines) is is_table
    assert sum(uid in line for line in lines) == 2
    assert is_table or lines.count(f"name   {name}") == 2
    assert not is_table or all(len(line) <= width for line in lines)


async def test_a_batch_is_stopped_and_restarted_and_its_sites_hear_at_once(realm: Realm, sh: Shell) -> None:
    team = await realm.team()
    await team.start()
    stopped = await sh("runs", "stop", team.name, "--yes")
    assert stopped.out == f"stopped batch 1 of project {team.project} ({team.name}): 2 Pending Failed\n"
    told = await team.pa.expect("event", kind="run", data={"status": "Pending Failed"})
    assert told["run"] == team.run(team.participant)
    await team.co.expect("event", kind="batch", data={"reason": "stopped"})
    assert set((await team.statuses()).values()) == {"Pending Failed"}
    assert (await sh("run", "restart", str(team.project), "--batch", "1", "--yes")).out.endswith(": 2 Standby\n")
    await team.pa.expect("event", kind="run", data={"status": "Standby"})
    recorded = (await sh("audit", "tail", "--lines", "40")).out.splitlines()
    mine = [line.split() for line in recorded if f"project:{team.project}" in line and "shell:" in line]
    assert [words[4] for words in mine] == ["runs.stop", "runs.restart"]


async def test_a_serving_relay_keeps_to_the_policy_of_a_batch_that_was_restarted_here(realm: Realm, sh: Shell) -> None:
    team = await realm.team()
    await team.co.call("runs.start", project=team.project, policy={"deadline_s": 1})
    await team.co.expect("event", kind="batch", data={"reason": "deadline"})
    assert (await sh("run", "restart", team.name, "--yes")).status == 0
    await team.co.expect("event", kind="batch", data={"reason": "restarted"})
    await team.co.expect("event", kind="batch", data={"reason": "deadline"})


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("", 1), ("y\n", 0)])
async def test_who_sits_at_a_terminal_is_asked(
    realm: Realm, sh: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    team = await realm.team()
    await team.start()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = await sh("run", "stop", team.name)
    assert done.status == status
    assert done.out.startswith(f"Stop batch 1 of project {team.project} ({team.name})? [y/N] ")
    assert set((await team.statuses()).values()) == {"Pending Failed" if status == 0 else "Standby"}


async def test_who_takes_part_is_listed_and_decided_and_the_sites_hear_at_once(realm: Realm, sh: Shell) -> None:
    team = await realm.team(participants=2)
    first, second = team.participants
    assert (await sh("project", "policy", team.name)).out == "open\n"
    assert (await sh("project", "policy", str(team.project), "approval")).out == "approval\n"
    assert (await sh("project", "show", team.name, "--json")).json["join_policy"] == "approval"
    assert (await sh("member", "remove", team.name, first.uid, "--yes")).out == (
        f"removed {first.name} from project {team.project} ({team.name})\n"
    )
    assert (await team.pa.expect("unsubscribed"))["reason"] == "removed"
    assert (await team.pa.refused("projects.join", name=team.name))["code"] == "unknown_project"
    listed = (await sh("members", "list", team.name, "--json")).json
    standings = {(one["uid"], one["standing"]) for one in listed}
    here = {(team.coordinator.uid, "coordinator"), (second.uid, "participant")}
    assert standings == here | {(first.uid, "asks to join"), (first.uid, "removed")}
    assert (await sh("member", "approve", team.name, first.name, "--yes")).status == 0
    await team.pa.expect("subscribed")
    assert (await sh("member", "promote", team.name, second.uid, "--yes")).status == 0
    assert (await team.pas[1].expect("subscribed", role="coordinator"))["project"] == team.project
    again = await sh("member", "unbar", team.name, first.uid, "--yes")
    assert (again.status, again.err.startswith("error: ")) == (1, True)


async def test_tail_shows_the_newest_events_and_those_that_come(realm: Realm, relay: RelayProcess, sh: Shell) -> None:
    team = await realm.team()
    await team.co.publish(team.project, data="on\u202e\n")
    await team.co.publish_binary(team.project, b"\0" * 2048, kind="update")
    last = await sh("tail", team.name, "--lines", "2", "--no-follow")
    first, second = last.out.splitlines()
    assert first.endswith(r'"on\u202e\n"')
    assert team.coordinator.name in first
    assert second.endswith("2.0 KiB of bytes")
    whole = await sh(
        "tail", team.name, "--after", "0", "--no-follow", "--json", "--kind", "update", "--kind", "message"
    )
    shown = [json.loads(line) for line in whole.out.splitlines()]
    assert {event["kind"] for event in shown} == {"update", "message"}
    assert shown[-1] | {"id": "", "at": ""} == {
        "type": "event",
        "project": team.project,
        "offset": team.head + 2,
        "id": "",
        "kind": "update",
        "from": team.coordinator.uid,
        "run": None,
        "batch": None,
        "at": "",
        "payload": None,
        "size": 2048,
        "to": None,
    }
    environment = {"STARFISH_DATA_DIR": str(relay.data_dir)}
    environment |= {"DATABASE_URL": relay.database_url} if relay.database_url else {}
    follower = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", "tail", team.name, "--json", "--lines", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert follower.stdout is not None
        async with asyncio.timeout(20):
            assert json.loads(await follower.stdout.readline())["offset"] == team.head + 2
            sent = await team.pa.publish(team.project, kind="log", data="it goes on")
            assert json.loads(await follower.stdout.readline())["offset"] == sent["offset"]
            follower.send_signal(2)
            out, err = await follower.communicate()
        assert (follower.returncode, out, err) == (130, b"", b"")
    finally:
        if follower.returncode is None:
            follower.kill()
