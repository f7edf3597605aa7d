"""`backup` and `restore`: what comes out is one moment, also while sites write; what goes in is checked, or nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import dumps
from db.connect import Database
from db.migrate import migrate
from db.store import Store
from relay.blobs.local import LocalFiles
from relay.core.model import Blob
from tests.blobs.test_s3 import KEY_ID, SECRET, Bucket
from tests.blobs.tus import Client, publish, reference, sha256
from tests.conformance.own import ACCOUNT, new_realm
from tests.conformance.realm import Realm, Team
from tests.conformance.wire import TIMEOUT_S
from tests.conftest import DATABASES
from tests.operate.shell import run
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess
from tests.support.world import NOW_US, World, draft

LATEST = 10**9


@asynccontextmanager
async def opened(url: str, *, through: int = LATEST) -> AsyncIterator[Database]:
    """A database, with the schema up to a migration."""
    database = Database(url)
    await database.connect()
    try:
        if through == LATEST:
            await migrate(database)
        else:
            async with database.transaction() as connection:
                await dumps.rebuild(connection, through)
        yield database
    finally:
        await database.disconnect()


async def rows_of(url: str, *, after: bool = False) -> dict[str, list[list[Any]]]:
    """All rows, by table; without epochs, and `after` a restore without what that adds to the audit record."""
    found = {}
    async with opened(url) as database, database.snapshot() as connection:
        for table in dumps.tables(LATEST):
            columns = await dumps.columns(connection, table)
            found[table] = [row async for page in dumps.pages(connection, table, columns) for row in page]
    found["journals"] = [[row[0], *row[2:]] for row in found["journals"]]
    found["audit"] = found["audit"][:-1] if after else found["audit"]
    del found["audit_head"]
    return found


def url_in(data_dir: Path) -> str:
    return f"sqlite:///{data_dir}/relay.db"


def file_names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=DATABASES)
def source(request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """A relay to take a backup of."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    with RelayProcess(server.create_database() if server else None) as relay:
        yield relay


@pytest.fixture
def target(source: RelayProcess, tmp_path: Path, postgres: Postgres) -> Iterator[RelayProcess]:
    """A relay of the other kind of database, with nothing in it, not started."""
    relay = RelayProcess(None if source.database_url else postgres.create_database(empty=True))
    yield relay
    relay.remove()


async def write_on(realm: Realm, team: Team, answered: list[int], warm: asyncio.Event, stop: asyncio.Event) -> None:
    """Publish, and every few events a blob with an event that refers to it, until told to stop."""
    client = Client(realm, team.coordinator)
    while not stop.is_set():
        for _ in range(5):
            ok = await team.co.publish(team.project, data={"padding": "x" * 500})
            answered.append(ok["offset"])
        data = os.urandom(3000)
        path = await client.upload(data, team.project)
        said = await publish(team, team.coordinator, realm, reference(path, data))
        assert said.status_code == 201, said.text
        answered.append(said.json()["offset"])
        if len(answered) > 10:
            warm.set()


async def test_taken_while_sites_write_and_restored_into_the_other_kind(
    source: RelayProcess, target: RelayProcess, tmp_path: Path
) -> None:
    backup = tmp_path / ("backup.tar" if source.database_url else "backup")
    async with new_realm(source) as realm:
        team = await realm.team()
        await team.co.publish_binary(team.project, b"\0\xff" * 1000)
        answered: list[int] = []
        warm, stop = asyncio.Event(), asyncio.Event()
        writing = asyncio.create_task(write_on(realm, team, answered, warm, stop))
        await asyncio.wait_for(warm.wait(), TIMEOUT_S)
        before = answered[-1]
        await asyncio.to_thread(source.cli, "backup", str(backup))
        during = answered[-1]
        stop.set()
        await writing
        assert during > before, "nothing was written during the backup"
        ahead = await realm.session(team.participant)
        epoch = ahead.welcome["projects"][str(team.project)]["epoch"]
    said = await asyncio.to_thread(target.cli, "restore", str(backup))
    assert "1 journals have a new epoch" in said.stdout
    await asyncio.to_thread(target.cli, "blobs", "fsck")
    await asyncio.to_thread(target.cli, "audit", "verify")
    assert "storage.backup" in (tail := await asyncio.to_thread(target.cli, "audit", "tail")).stdout
    assert "storage.restore" in tail.stdout.splitlines()[-1]
    await asyncio.to_thread(target.start)
    async with Realm(target, owner=ACCOUNT, guest=ACCOUNT, operator=ACCOUNT) as realm:
        await goes_on(realm, team, {"epoch": epoch, "offset": answered[-1]}, before)


async def goes_on(realm: Realm, team: Team, position: dict[str, Any], before: int) -> None:
    """A participant that was ahead of the backup is told so, is shown all that there is, and then what is new."""
    project = team.project
    wire = await realm.resumed(team.participant, project, **position)
    described = wire.welcome["projects"][str(project)]
    assert described["recovered"] is False
    assert described["epoch"] != position["epoch"]
    head = described["offset"]
    assert before <= head <= position["offset"]
    co = await realm.session(team.coordinator)
    fresh = await co.publish(project, data="after the restore")
    assert fresh["offset"] > head
    shown = await wire.until("event", project=project, offset=fresh["offset"])
    events = [frame for frame in shown if frame["type"] == "event"]
    numbers = [event["offset"] for event in events]
    assert numbers == sorted(set(numbers))
    assert set(range(team.head + 1, head + 1)) <= set(numbers)
    blobs = [event["data"]["blob"] for event in events if event["kind"] == "update"]
    assert blobs
    for blob in blobs:
        got = await Client(realm, team.participant).get(f"/starfish/api/v1/blobs/{blob['id']}")
        assert sha256(got.content) == blob["sha256"]


async def filled(url: str, files: LocalFiles) -> World:
    """Users, a project with events and runs, and a content of 100 kB."""
    async with opened(url) as database:
        world = World(Store(database))
        team = await world.project(participants=[await world.site()])
        await world.batch(team)
        await world.append(team.project.id, draft(b"\0binary\xff"), draft('"text"'), *(draft() for _ in range(20)))
        incoming = files.begin()
        incoming.write(b"content" * 15_000)
        content = incoming.keep()
        blob = Blob(id="b", project_id=team.project.id, site_id=None, filename="", size=content.size, created_us=NOW_US)
        async with Store(database).transaction() as tx:
            await tx.blobs.create(replace(blob, sha256=content.sha256, is_complete=True))
    return world


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A data directory with something of each kind in it."""
    home = tmp_path / "home"
    await filled(url_in(home), LocalFiles(home / "files"))
    return home


@pytest.fixture
def backup(home: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    assert run("backup", tmp_path / "backup", data_dir=home).status == 0
    return tmp_path / "backup"


def test_row_by_row_the_same_there_and_back(home: Path, backup: Path, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    assert run("restore", backup, url=url, data_dir=tmp_path / "other").status == 0
    assert run("backup", tmp_path / "again.tar", url=url, data_dir=tmp_path / "other").status == 0
    done = run("restore", tmp_path / "again.tar", data_dir=tmp_path / "third")
    assert done.status == 0, done.err
    first, last = asyncio.run(rows_of(url_in(home))), asyncio.run(rows_of(url_in(tmp_path / "third"), after=True))
    assert first["audit"] == last["audit"][: len(first["audit"])]
    assert {action for _, _, _, action, *_ in last["audit"][len(first["audit"]) :]} == {
        "storage.backup",
        "storage.restore",
    }
    del first["audit"], last["audit"]
    assert first == last
    contents = {name for name in file_names(home / "files") if "/" in name}
    assert contents == {name for name in file_names(tmp_path / "third" / "files") if "/" in name}
    postgres.drop_database(url)


def test_ids_that_were_given_since_are_not_given_again(backup: Path, tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    for where, data_dir in ((None, tmp_path / "a"), (url, tmp_path / "b")):
        assert run("restore", backup, url=where, data_dir=data_dir).status == 0
        assert asyncio.run(_next_user(where or url_in(data_dir))) == 2 + dumps.COUNTER_GAP + 1
    postgres.drop_database(url)


async def _next_user(url: str) -> int:
    async with opened(url) as database, Store(database).transaction() as tx:
        made = await tx.users.create(username="next", email="", password_hash="", is_operator=False, now_us=NOW_US)
    return made.id


def test_an_audit_record_that_was_pruned_goes_on(home: Path, backup: Path, tmp_path: Path) -> None:
    pruned = run("audit", "prune", "--before", "2100-01-01", data_dir=home)
    assert (pruned.status, pruned.out[:17]) == (0, "1 entries removed")
    assert run("backup", tmp_path / "b.tar", data_dir=home).status == 0
    done = run("restore", tmp_path / "b.tar", data_dir=tmp_path / "other")
    assert done.status == 0, done.err
    assert run("audit", "verify", data_dir=tmp_path / "other").status == 0


def test_a_backup_is_whole_closed_to_others_and_linked(home: Path, backup: Path) -> None:
    assert backup.stat().st_mode & 0o077 == 0
    assert (backup / "manifest.json").stat().st_mode & 0o077 == 0
    (content,) = (backup / "contents").rglob("??*/*")
    assert content.stat().st_nlink == 2, "on one file system a content takes no room again"
    again = run("backup", backup, data_dir=home)
    assert again.status == 1
    assert "a backup is never written over" in again.err


def test_what_is_there_is_not_written_over_unless_told_so(home: Path, backup: Path) -> None:
    before = asyncio.run(rows_of(url_in(home)))
    refused = run("restore", backup, data_dir=home)
    assert refused.status == 1
    assert "--force removes all that is there" in refused.err
    assert asyncio.run(rows_of(url_in(home))) == before
    assert run("user", "list", data_dir=home).status == 0
    assert run("restore", backup, "--force", data_dir=home).status == 0
    after = asyncio.run(rows_of(url_in(home), after=True))
    assert after == before


def test_nothing_is_restored_below_a_relay_that_serves(backup: Path, tmp_path: Path, postgres: Postgres) -> None:
    for url in (None, postgres.create_database()):
        with RelayProcess(url, data_dir=tmp_path / f"served-{url is None}") as relay:
            done = run("restore", backup, "--force", url=url, data_dir=relay.data_dir)
            assert done.status == 1
            assert ("is served already" if url is None else "uses this database") in done.err
            assert relay.health("ready") == 200


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda at: (at / "manifest.json").unlink(), "it is no backup, or one that was cut off"),
        (lambda at: change(at / "manifest.json", b'"schema": ', b'"schema": 9'), "use the later release"),
        (lambda at: change(at / "manifest.json", b'"format": 1', b'"format": 7'), "its format is 7"),
        (lambda at: change(at / "manifest.json", b'"rows": 22', b'"rows": 23'), "22 rows instead of 23"),
        (lambda at: change(at / "tables/users.jsonl", b"user-1", b"user-X"), "tables/users.jsonl is damaged"),
        (lambda at: (at / "tables/sites.jsonl").unlink(), "lacks tables/sites.jsonl"),
        (lambda at: change(next((at / "contents").rglob("??*/*")), b"content", b"CONTENT"), "is damaged: its bytes"),
    ],
    ids=["no manifest", "later schema", "later format", "a row is missing", "rows changed", "no table", "content"],
)
def test_a_damaged_backup_changes_nothing(home: Path, backup: Path, spoil: Any, named: str) -> None:
    before = asyncio.run(rows_of(url_in(home)))
    spoil(backup)
    done = run("restore", backup, "--force", data_dir=home)
    assert done.status == 1
    assert named in done.err
    assert asyncio.run(rows_of(url_in(home))) == before


def change(path: Path, old: bytes, new: bytes) -> None:
    """Put other bytes in the place of some, in a file of its own: what links to the same one stays as it was."""
    data = path.read_bytes()
    assert old in data
    path.unlink()
    path.write_bytes(data.replace(old, new, 1))


def test_a_backup_that_is_cut_off_leaves_nothing(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "files")
    (home / "files").write_text("no directory")
    for name in ("cut", "cut.tar"):
        assert run("backup", tmp_path / name, data_dir=home).status == 1
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_contents_that_are_lost_are_named_and_the_rest_is_kept(home: Path, tmp_path: Path) -> None:
    (content,) = (path for path in (home / "files").glob("??/*") if path.is_file())
    content.write_bytes(b"damaged")
    done = run("backup", tmp_path / "b.tar", data_dir=home)
    assert done.status == 1
    assert "LOST" in done.err
    restored = run("restore", tmp_path / "b.tar", data_dir=tmp_path / "other")
    assert restored.status == 0
    assert "was not in the backup" in restored.err


def test_nothing_is_dropped_as_long_as_a_backup_reads(home: Path) -> None:
    files, elsewhere = LocalFiles(home / "files"), LocalFiles(home / "files")
    (content,) = files.contents()
    with elsewhere.all_kept(), files.all_kept():
        assert not files.drop(content.name, 2**62)
    assert files.drop(content.name, 2**62)


async def test_an_older_backup_goes_through_the_migrations_since(tmp_path: Path) -> None:
    """Files of runs were given blobs by a migration: so are those of a backup from before it."""
    old = tmp_path / "old"
    files = LocalFiles(old / "files")
    incoming = files.begin()
    incoming.write(b"a file of a run")
    content = incoming.keep()
    async with opened(url_in(old), through=5) as database, database.transaction() as connection:
        for statement in OLD_ROWS:
            await connection.execute(statement.format(sha256=content.sha256, size=content.size))
    done = await asyncio.to_thread(run, "backup", tmp_path / "b", data_dir=old)
    assert done.status == 0, done.err
    done = await asyncio.to_thread(run, "restore", tmp_path / "b", data_dir=tmp_path / "new")
    assert done.status == 0, done.err
    rows = await rows_of(url_in(tmp_path / "new"))
    assert [row[0] for row in rows["blobs"]] == ["upload-1"]
    assert len(rows["blob_refs"]) == 1
    assert [row[3] for row in rows["audit"]] == ["storage.restore"]
    assert json.loads((tmp_path / "b" / "manifest.json").read_bytes())["schema"] == 5
    assert next((tmp_path / "new" / "files").glob("??/*")).read_bytes() == b"a file of a run"


OLD_ROWS = (
    "INSERT INTO users VALUES (1, 'anna', '', '!', FALSE, TRUE, 1)",
    "INSERT INTO sites VALUES (1, 'uid', 'A', '', 1, FALSE, 1, 1, 1)",
    "INSERT INTO projects VALUES (1, 'p', '', 1, 1, '[]', '{{}}', '[]', 1, 1)",
    "INSERT INTO journals (project_id, epoch, head, oldest) VALUES (1, 'e', 0, 1)",
    "INSERT INTO participants VALUES (1, 1, 1, 'CO', '', 0, 1, 1)",
    """INSERT INTO runs (id, project_id, batch, participant_id, site_id, site_uid, role, cur_seq, status, tasks, logs,
        artifacts, middle_artifacts, agent_advice, agent_diagnosis, created_us, updated_us)
        VALUES (1, 1, 1, 1, 1, 'uid', 'CO', 1, 1, '[]', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', 1, 1)""",
    "INSERT INTO files VALUES (1, 1, 1, 'logs', '1', '1', 'log.txt', 'upload-1', '{sha256}', {size}, 1)",
)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    try:
        bucket.start()
        yield bucket
    finally:
        bucket.stop()


def test_from_a_directory_into_a_bucket_and_back(backup: Path, tmp_path: Path, bucket: Bucket) -> None:
    env = {
        "STARFISH_S3_URL": "s3://starfish/blobs",
        "STARFISH_S3_ENDPOINT": bucket.url,
        "STARFISH_S3_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    assert run("restore", backup, data_dir=tmp_path / "s3", env=env).status == 0
    assert not list((tmp_path / "s3" / "files").glob("??/*"))
    assert bucket.get(b"content" * 15_000) == b"content" * 15_000
    done = run("backup", tmp_path / "b.tar", data_dir=tmp_path / "s3", env=env)
    assert done.status == 0, done.err
    assert run("restore", tmp_path / "b.tar", data_dir=tmp_path / "back").status == 0
    (content,) = (tmp_path / "back" / "files").glob("??/*")
    assert content.read_bytes() == b"content" * 15_000
