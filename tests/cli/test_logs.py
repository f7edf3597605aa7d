"""`logs`: what a site may see of a training's logs; nothing of its own standing changes by looking."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

from relay.client import Site as Client
from relay.client.sealed import Identity
from tests.cli.conftest import Done, Shell, called
from tests.conformance.realm import Realm, Site
from tests.support.relay import RelayProcess


class Looking:
    """Looks on for sites of a relay, each with a read-only token."""

    def __init__(self, relay: RelayProcess, sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sh = sh
        self._patch = monkeypatch
        monkeypatch.setenv("STARFISH_URL", relay.url)

    async def as_site(self, site: Site) -> str:
        token = (await self._sh("token", "create", "--site", site.uid, "--scope", "read-only")).out.strip()
        self._patch.setenv("STARFISH_TOKEN", token)
        return token

    async def logs(self, site: Site, *words: str) -> Done:
        await self.as_site(site)
        return await called("logs", *words)


@pytest.fixture
def looking(relay: RelayProcess, sh: Shell, monkeypatch: pytest.MonkeyPatch) -> Looking:
    return Looking(relay, sh, monkeypatch)


async def test_a_coordinator_sees_all_logs_and_a_participant_its_own(realm: Realm, looking: Looking) -> None:
    team = await realm.team(participants=2)
    await team.start()
    first, second = team.participants
    run = team.run(first)
    await team.pas[0].publish(team.project, kind="log", run=run, data={"level": "INFO", "message": "loss", "at": 0.5})
    await team.pas[1].publish(team.project, kind="log", data="two\x1b[2J\nlines")
    await team.pas[0].publish_binary(team.project, b"of bytes", kind="log")
    await team.pas[0].publish(team.project, kind="message", data="no log")
    everything = await looking.logs(team.coordinator, team.name)
    assert [line.split("  ", 1)[1] for line in everything.out.splitlines()] == [
        f"{first.name}  INFO loss at=0.5",
        f"{second.name}  two\ufffd[2J",
        f"{second.name}  lines",
        f"{first.name}  of bytes",
    ]
    assert (everything.status, everything.err) == (0, "")
    own = await looking.logs(second, str(team.project), "--json")
    assert [json.loads(line)["text"] for line in own.out.splitlines()] == ["two\x1b[2J\nlines"]
    of_run = await looking.logs(team.coordinator, team.name, "--run", str(run), "--json")
    (shown,) = [json.loads(line) for line in of_run.out.splitlines()]
    assert (shown["site"], shown["site_name"], shown["run"], shown["file"]) == (first.uid, first.name, run, None)
    assert shown["data"] == {"level": "INFO", "message": "loss", "at": 0.5}


async def test_log_files_of_polling_controllers_are_fetched(realm: Realm, looking: Looking) -> None:
    team = await realm.team()
    await team.start()
    own = team.participant
    answer = await realm.rest(
        "POST",
        "runs-action/upload/",
        own.account,
        data={"run": str(team.run(own)), "task_seq": "1", "round_seq": "1"},
        files={"logs": ("train.log", b"epoch 1\nepoch 2\n"), "mid_artifacts": ("weights.bin", b"\0")},
    )
    assert answer.status_code == 200, answer.text
    done = await looking.logs(team.coordinator, team.name, "--json")
    (shown,) = [json.loads(line) for line in done.out.splitlines()]
    assert (shown["site"], shown["text"]) == (own.uid, "epoch 1\nepoch 2")
    assert shown["file"].endswith("train.log")
    assert f"{own.name}  {shown['file']}  epoch 2" in (await looking.logs(own, team.name)).out


async def test_looking_moves_no_cursor_and_makes_no_site_online(realm: Realm, looking: Looking) -> None:
    team = await realm.team()
    await team.co.publish(team.project, kind="log", data="one")
    await realm.unconnected(team.participant, [team.pa], team.co)
    before = await team.co.call("cursors.list", project=team.project)
    assert "one" in (await looking.logs(team.participant, team.name)).out
    assert await team.co.call("cursors.list", project=team.project) == before
    (part,) = [
        part
        for part in await team.co.call("projects.participants", project=team.project)
        if part["site"]["uid"] == team.participant.uid
    ]
    assert part["online"] is False


async def test_what_comes_is_followed(realm: Realm, looking: Looking, relay: RelayProcess) -> None:
    team = await realm.team()
    await team.pa.publish(team.project, kind="log", data="before")
    follower = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", "logs", team.name, "--follow", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"STARFISH_URL": relay.url, "STARFISH_TOKEN": await looking.as_site(team.coordinator)},
    )
    try:
        assert follower.stdout is not None
        async with asyncio.timeout(30):
            assert json.loads(await follower.stdout.readline())["text"] == "before"
            await team.pa.publish(team.project, kind="log", data="then")
            assert json.loads(await follower.stdout.readline())["text"] == "then"
            follower.send_signal(2)
            out, err = await follower.communicate()
        assert (follower.returncode, out, err) == (130, b"", b"")
    finally:
        if follower.returncode is None:
            follower.kill()


async def test_sealed_logs_are_opened_with_the_identity_alone(
    realm: Realm, looking: Looking, relay: RelayProcess, sh: Shell, tmp_path: Path
) -> None:
    team = await realm.team()
    identities, tokens = {}, {}
    for site in team.sites:
        identities[site.uid] = Identity.generate()
        identities[site.uid].save(tmp_path / site.uid)
        tokens[site.uid] = (await sh("token", "create", "--site", site.uid)).out.strip()
    async with contextlib.AsyncExitStack() as stack:
        _, pa = [
            await stack.enter_async_context(
                Client(relay.url, token=tokens[uid], identity=Identity.load(tmp_path / uid), proxy=False)
            )
            for uid in tokens
        ]
        await pa.publish(team.project, "log", data={"message": "the loss is small"})
    without = await looking.logs(team.coordinator, team.name)
    assert without.out.endswith("(sealed: this site's --identity FILE opens it)\n")
    given = await looking.logs(team.coordinator, team.name, "--identity", str(tmp_path / team.coordinator.uid))
    assert given.out.endswith("the loss is small\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [(["999999"], "does not take part in project 999999"), (["--url", "ftp://relay", "1"], "http(s)://host:port")],
)
async def test_what_cannot_be_is_said(realm: Realm, looking: Looking, words: list[str], says: str) -> None:
    done = await looking.logs(await realm.site(), *words)
    assert (done.status, done.out) == (1, "")
    assert says in done.err


async def test_who_is_not_let_in_is_told_what_to_do(
    realm: Realm, looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STARFISH_TOKEN", raising=False)
    assert "STARFISH_TOKEN is not set" in (await called("logs", "1")).err
    monkeypatch.setenv("STARFISH_TOKEN", "sfr_none")
    refused = await called("logs", "1")
    assert (refused.status, "wrong, expired or revoked" in refused.err) == (1, True)
    nobody = await called("logs", "1", "--url", "http://127.0.0.1:1")
    assert (nobody.status, "was not reached" in nobody.err) == (75, True)
