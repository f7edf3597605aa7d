"""Files of runs: whole or not at all, never in memory, and nowhere but where they belong."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.realm import API, Account, Realm, Team
from tests.legacy import bulk
from tests.legacy.bulk import Bulk
from tests.legacy.conftest import peopled_relay, realm_on
from tests.legacy.test_contract import batch, body_of
from tests.support.relay import RelayProcess

MIB = 1024 * 1024
GROWTH_BYTES = 64 * MIB
STALL_S = 2.0


async def send(
    realm: Realm, account: Account, run: int, place: tuple[Any, Any] = (1, 1), **files: Any
) -> httpx.Response:
    form = {"run": run, "task_seq": place[0], "round_seq": place[1]}
    return await realm.rest("POST", "runs-action/upload/", account, data=form, files=files)


async def stored(realm: Realm, account: Account, run: int, *places: tuple[int, int], **files: Any) -> None:
    for place in places or [(1, 1)]:
        answer = await send(realm, account, run, place, **files)
        assert (answer.status_code, answer.content) == (200, b""), answer.text


async def fetched(realm: Realm, account: Account, run: int, type_: str, **query: Any) -> dict[str, bytes]:
    query = {"run": run, "type": type_, **query}
    answer = await realm.rest("GET", "runs-action/download/", account, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{type_}.zip"'
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


def kept(relay: RelayProcess) -> list[Path]:
    """All files that the relay has on disk, whole or not."""
    return [path for path in (relay.data_dir / "files").rglob("*") if path.is_file()]


def unfinished(relay: RelayProcess) -> list[Path]:
    return [path for path in kept(relay) if path.parent.name == "incoming"]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what shows on the disk alone."""
    async with asyncio.timeout(20):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


# --- who gets what, and under which name


async def test_a_global_model_reaches_all_runs_of_its_batch_and_no_others(realm: Realm) -> None:
    team, other = await realm.team(2), await realm.team()
    ids, others = await batch(realm, team), await batch(realm, other)  # both are batch 1
    co = ids[team.coordinator.uid]
    await stored(realm, realm.owner, co, artifacts=("artifacts", b"the model"))
    for uid, run in ids.items():
        account = realm.owner if uid == team.coordinator.uid else realm.guest
        assert await fetched(realm, account, run, "artifacts") == {f"{run}-1-1-artifacts": b"the model"}
        shown = body_of(await realm.rest("GET", f"runs/{run}/", account), 200)
        assert shown["artifacts"] == [f"{run}-1-1-artifacts"]
    for run in others.values():
        shown = body_of(await realm.rest("GET", f"runs/{run}/", realm.owner), 200)
        assert (shown["artifacts"], shown["logs"], shown["middle_artifacts"]) == ([], [], [])
    await stored(realm, realm.guest, ids[team.participant.uid], artifacts=("artifacts", b"a site's own"))
    answer = await realm.rest("GET", f"runs-action/download/?run={co}&type=artifacts", realm.owner)
    assert b"a site's own" not in answer.content


async def test_all_runs_of_a_batch_are_downloaded_in_all_their_rounds(realm: Realm) -> None:
    team = await realm.team(2)
    ids = await batch(realm, team)
    for site in team.sites:
        content = ("mid-artifacts", site.uid.encode())
        await stored(realm, site.account, ids[site.uid], (1, 1), (1, 2), mid_artifacts=content)
    co, one = ids[team.coordinator.uid], ids[team.participant.uid]
    every = {f"{ids[site.uid]}-1-{round_}-mid-artifacts": site.uid.encode() for site in team.sites for round_ in (1, 2)}
    assert await fetched(realm, realm.owner, co, "mid_artifacts", all_runs=1) == every
    second = {name: content for name, content in every.items() if "-1-2-" in name}
    assert await fetched(realm, realm.owner, co, "mid_artifacts", all_runs=1, task_seq=1, round_seq=2) == second
    own = {name: content for name, content in every.items() if name.startswith(f"{one}-")}
    assert await fetched(realm, realm.guest, one, "mid_artifacts", all_runs=1) == own


async def test_a_file_that_comes_again_stands_beside_the_first(realm: Realm) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    for content in (b"first", b"second"):
        await stored(realm, realm.guest, run, logs=("logs.txt", content))
    files = await fetched(realm, realm.guest, run, "logs")
    first, second = files
    assert list(files.values()) == [b"first", b"second"]
    assert first == f"{run}-1-1-logs.txt"
    assert second.startswith(f"{run}-1-1-logs_") and second.endswith(".txt") and len(second) == len(first) + 8


async def test_files_are_told_to_sessions(realm: Realm) -> None:
    team = await realm.team(2)
    run = (await batch(realm, team))[team.participant.uid]
    await stored(realm, realm.guest, run, mid_artifacts=("mid-artifacts", b"12345"))
    said = {"run": run, "type": "mid_artifacts", "task": 1, "round": 1, "name": f"{run}-1-1-mid-artifacts"}
    for wire in (team.co, team.pa):
        event = await wire.expect("event", kind="file", run=run, data=said)
        assert event["data"]["blob"]["size"] == 5
    assert not [frame for frame in await team.shown(team.pas[1]) if frame.get("kind") == "file"]


async def test_who_is_told_of_a_file_can_read_it_as_a_blob(realm: Realm) -> None:
    team = await realm.team(2)
    ids = await batch(realm, team)
    one = team.participant
    await stored(realm, realm.guest, ids[one.uid], mid_artifacts=("mid-artifacts", b"an update"))
    await stored(realm, realm.owner, ids[team.coordinator.uid], artifacts=("artifacts", b"the model"))
    update = (await team.co.expect("event", kind="file", data={"type": "mid_artifacts"}))["data"]["blob"]
    model = (await team.pas[1].expect("event", kind="file", data={"type": "artifacts"}))["data"]["blob"]
    for blob, content, readers in ((update, b"an update", [team.coordinator, one]), (model, b"the model", team.sites)):
        for site in team.sites:
            answer = await realm.as_site("GET", f"blobs/{blob['id']}", site)
            expected = (200, content) if site in readers else (404, answer.content)
            assert (answer.status_code, answer.content) == expected, site
        assert blob["size"] == len(content)


# --- names that are paths


@pytest.mark.parametrize("number", ["../..", "..", "/etc", "1/../2", "%2e%2e", "a\\b", "1;2", "\n", "x" * 40, "."])
async def test_a_number_that_is_a_path_is_refused(realm: Realm, polled_relay: RelayProcess, number: str) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    before = len(kept(polled_relay))
    for place in ((number, 1), (1, number)):
        answer = await send(realm, realm.guest, run, place, logs=("logs.txt", b"planted"))
        assert body_of(answer, 400) == "Invalid uploaded  params"
        query = {"run": run, "type": "logs", "task_seq": place[0], "round_seq": place[1]}
        answer = await realm.rest("GET", "runs-action/download/", realm.guest, params=query)
        assert answer.status_code in (400, 404)
    assert len(kept(polled_relay)) == before


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ("../../../etc/passwd", "passwd"),
        ("/etc/cron.d/job", "job"),
        ("C:\\Users\\x\\model.bin", "model.bin"),
        ("a b.txt", "a_b.txt"),
        ("ä<script>.txt", "script.txt"),
        ("x" * 300, "x" * 100),
    ],
)
async def test_of_a_file_name_the_harmless_part_is_kept(realm: Realm, given: str, called: str) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    await stored(realm, realm.guest, run, logs=(given, b"content"))
    assert await fetched(realm, realm.guest, run, "logs") == {f"{run}-1-1-{called}": b"content"}


@pytest.mark.parametrize("given", ["..", ".", "///", "ä", "..\\.."])
async def test_a_file_name_of_which_nothing_is_left_is_refused(realm: Realm, given: str) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    assert body_of(await send(realm, realm.guest, run, logs=(given, b"x")), 400) == "Invalid uploaded  params"


# --- uploads that are not to be


async def test_an_upload_that_breaks_off_leaves_nothing(realm: Realm, polled_relay: RelayProcess) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    before = kept(polled_relay)
    head = bulk.head_of({"run": run, "task_seq": 1, "round_seq": 1}, "logs", "logs.txt")
    reader, writer = await begun(polled_relay, realm.guest, head + os.urandom(4 * MIB), of=8 * MIB)
    await until(lambda: bool(unfinished(polled_relay)))
    writer.transport.abort()
    await until(lambda: not unfinished(polled_relay))
    assert await reader.read() == b""
    assert kept(polled_relay) == before
    assert body_of(await realm.rest("GET", f"runs/{run}/", realm.guest), 200)["logs"] == []


async def begun(
    relay: RelayProcess, account: Account, part: bytes, *, of: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the first part of an upload has been sent."""
    request = [
        f"POST {API}/runs-action/upload/ HTTP/1.1",
        "Host: relay",
        f"Authorization: {account.authorization}",
        f"Content-Type: {bulk.MULTIPART['Content-Type']}",
        f"Content-Length: {of}",
    ]
    reader, writer = await asyncio.open_connection(relay.host, relay.port)
    writer.write("\r\n".join([*request, "", ""]).encode() + part)
    await writer.drain()
    return reader, writer


async def test_an_upload_that_ends_too_early_leaves_nothing(realm: Realm, polled_relay: RelayProcess) -> None:
    team = await realm.team()
    run = (await batch(realm, team))[team.participant.uid]
    before = kept(polled_relay)
    content = bulk.head_of({"run": run, "task_seq": 1, "round_seq": 1}, "logs", "logs.txt") + b"half a l"
    answer = await realm.rest("POST", "runs-action/upload/", realm.guest, content=content, headers=bulk.MULTIPART)
    assert body_of(answer, 400)["detail"].startswith("Multipart form parse error")
    assert kept(polled_relay) == before


async def test_an_upload_to_a_run_of_others_leaves_nothing(realm: Realm, polled_relay: RelayProcess) -> None:
    team, other = await realm.team(), await realm.team()
    ids, others = await batch(realm, team), await batch(realm, other)
    before = kept(polled_relay)
    foreign = await send(realm, realm.guest, ids[team.coordinator.uid], logs=("logs.txt", b"x"))
    assert body_of(foreign, 404) == {"detail": "Not found."}
    for_another = await send(realm, realm.owner, others[other.participant.uid], logs=("logs.txt", b"x"))
    assert body_of(for_another, 403) == {"detail": "You do not have permission to perform this action."}
    assert kept(polled_relay) == before


# --- limits


@pytest.fixture(scope="module")
def narrow_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    limits = {"UPLOAD_BYTES": f"{MIB}", "UPLOAD_FILES": "2", "PROJECT_BYTES": f"{MIB}", "UPLOAD_STALL_S": f"{STALL_S}"}
    with peopled_relay(request, "sqlite", {f"STARFISH_{name}": value for name, value in limits.items()}) as relay:
        yield relay


@pytest.fixture
async def narrow(narrow_relay: RelayProcess) -> AsyncIterator[tuple[Realm, Team, int]]:
    """A realm on a relay with narrow limits, a team in it, and a participant's run."""
    async with realm_on(narrow_relay) as realm:
        team = await realm.team()
        yield realm, team, (await batch(realm, team))[team.participant.uid]


async def test_an_upload_has_a_longest(narrow: tuple[Realm, Team, int], narrow_relay: RelayProcess) -> None:
    realm, _, run = narrow
    before = kept(narrow_relay)
    large = Bulk(seed=1, size=2 * MIB)
    answer = await bulk.upload(realm.http, realm.guest.authorization, run, (1, 1), "logs", "logs.txt", large)
    assert body_of(answer, 413) == {"detail": f"Request body exceeds {MIB} bytes."}
    head = bulk.head_of({"run": run, "task_seq": 1, "round_seq": 1}, "logs", "logs.txt")

    async def unsaid() -> AsyncIterator[bytes]:
        yield head
        for piece in large.pieces():
            yield piece

    answer = await realm.rest("POST", "runs-action/upload/", realm.guest, content=unsaid(), headers=bulk.MULTIPART)
    assert body_of(answer, 413) == {"detail": f"Request body exceeds {MIB} bytes."}
    assert kept(narrow_relay) == before


async def test_an_upload_of_which_nothing_more_comes(
    narrow: tuple[Realm, Team, int], narrow_relay: RelayProcess
) -> None:
    """A peer that is gone without a word would hold its file for ever."""
    realm, _, run = narrow
    before = kept(narrow_relay)
    head = bulk.head_of({"run": run, "task_seq": 1, "round_seq": 1}, "logs", "logs.txt")
    reader, writer = await begun(narrow_relay, realm.guest, head + b"half a l", of=MIB)
    async with asyncio.timeout(20):
        answer = await reader.read()  # to its end: the connection is closed
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"detail":"Request body broke off: no byte for 2 s."}')
    assert kept(narrow_relay) == before


async def test_an_upload_has_so_many_files(narrow: tuple[Realm, Team, int], narrow_relay: RelayProcess) -> None:
    realm, _, run = narrow
    before = kept(narrow_relay)
    files = {name: ("file", name.encode()) for name in ("logs", "artifacts", "mid_artifacts")}
    assert body_of(await send(realm, realm.guest, run, **files), 413) == {"detail": "More than 2 files."}
    assert kept(narrow_relay) == before


async def test_a_project_has_room_for_so_much(narrow: tuple[Realm, Team, int], narrow_relay: RelayProcess) -> None:
    realm, team, run = narrow
    for round_ in (1, 2):
        await stored(realm, realm.guest, run, (1, round_), logs=("logs.txt", os.urandom(MIB * 2 // 5)))
    before = kept(narrow_relay)
    answer = await send(realm, realm.guest, run, (1, 3), logs=("logs.txt", os.urandom(MIB // 2)))
    assert body_of(answer, 413) == {"detail": f"the files of the project may take {MIB} bytes"}
    assert kept(narrow_relay) == before
    assert len(body_of(await realm.rest("GET", f"runs/{run}/", realm.guest), 200)["logs"]) == 2
    assert body_of(await realm.rest("GET", f"projects/{team.project}/", realm.guest), 200)


async def test_copies_of_a_model_take_room_once(narrow: tuple[Realm, Team, int]) -> None:
    realm, team, _ = narrow
    model = os.urandom(MIB * 3 // 5)
    await stored(realm, realm.owner, team.run(team.coordinator), artifacts=("artifacts", model))
    for site in team.sites:
        assert list((await fetched(realm, site.account, team.run(site), "artifacts")).values()) == [model]


# --- memory


@pytest.fixture
def own_relay(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    with peopled_relay(request, "sqlite", {}) as relay:
        yield relay


async def test_uploads_and_zips_are_never_in_memory_whole(own_relay: RelayProcess) -> None:
    await exchange(own_relay, sites=3, size=48 * MIB)


@pytest.mark.soak
async def test_eight_times_two_gib_at_once(own_relay: RelayProcess) -> None:
    await exchange(own_relay, sites=8, size=2048 * MIB)


async def exchange(relay: RelayProcess, *, sites: int, size: int) -> None:
    """Each site uploads a file, all at once; then each downloads its own, and the coordinator all, all at once."""
    async with realm_on(relay) as realm:
        team = await realm.team(sites)
        ids = await batch(realm, team)
        runs = [ids[site.uid] for site in team.participants]
        before = relay.rss_bytes()
        async with httpx.AsyncClient(base_url=realm.base_url + API, timeout=900, trust_env=False) as http:
            guest, type_ = realm.guest.authorization, "mid_artifacts"
            bulks = {f"{run}-1-1-mid-artifacts": Bulk(seed=run, size=size) for run in runs}
            sent = zip(runs, bulks.values(), strict=True)
            answers = await asyncio.gather(
                *(bulk.upload(http, guest, run, (1, 1), type_, "mid-artifacts", file) for run, file in sent)
            )
            assert [answer.status_code for answer in answers] == [200] * sites
            uploaded = relay.peak_rss_bytes()
            sizes = dict.fromkeys(bulks, size)
            every, *single = await asyncio.gather(
                bulk.download(
                    http, realm.owner.authorization, f"run={ids[team.coordinator.uid]}&type={type_}&all_runs=1", sizes
                ),
                *(
                    bulk.download(http, guest, f"run={run}&type={type_}", {f"{run}-1-1-mid-artifacts": size})
                    for run in runs
                ),
            )
        wanted = {name: file.sha256 for name, file in bulks.items()}
        assert every == wanted
        assert {name: sha256 for one in single for name, sha256 in one.items()} == wanted
        grown = (uploaded - before) / MIB, (relay.peak_rss_bytes() - before) / MIB
        print(f"{sites} x {size / MIB:.0f} MiB: the relay grew by {grown[0]:.0f} MiB, by {grown[1]:.0f} MiB in all")  # noqa: T201
        assert grown[1] * MIB < GROWTH_BYTES
