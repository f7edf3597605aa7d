"""`doctor` on staged faults: each is named by its cause, and ends in 1; a relay that is well is said to be."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

from db.connect import Database
from db.migrate import migrate
from db.store import Store
from relay.blobs.local import LocalFiles, place
from relay.cli import main
from relay.core.model import Blob
from tests.conformance.own import new_realm
from tests.proxies.programs import HOLD_BACK, UPGRADE, Program
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

CLOCK_AHEAD = Path(__file__).parents[1] / "support" / "clock_ahead"


@dataclass(frozen=True)
class Report:
    """What the doctor has said."""

    exit_status: int
    checks: list[dict[str, str]]

    def of(self, check: str, state: str) -> str:
        return "\n".join(
            f"{one['said']} {one['mend']}" for one in self.checks if (one["check"], one["state"]) == (check, state)
        )

    @property
    def faults(self) -> set[str]:
        return {one["check"] for one in self.checks if one["state"] == "fault"}


def doctor(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Report:
    """Call it, in this process, on a data directory below `home`; its port is free unless the call names one."""
    output = io.StringIO()
    environment = mock.patch.dict(os.environ, _environment(home, env), clear=True)
    with contextlib.chdir(home), environment, contextlib.redirect_stdout(output):
        status = main(["doctor", "--json", *arguments])
    return _report(status, output.getvalue())


def doctor_apart(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, file_bytes: int = resource.RLIM_INFINITY
) -> Report:
    """The same in a process of its own, whose files cannot grow past `file_bytes`."""
    done = subprocess.run(
        [sys.executable, "-m", "relay", "doctor", "--json", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=home,
        env=_environment(home, env),
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY)),
    )
    assert done.stdout, done.stderr
    return _report(done.returncode, done.stdout)


def _environment(home: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STARFISH_", "DATABASE_"))}
    own = {"STARFISH_DATA_DIR": str(home / "data"), "STARFISH_PORT": str(free_port())}
    return inherited | own | dict(env or {})


def _report(exit_status: int, output: str) -> Report:
    said = json.loads(output)
    assert said["ok"] is (exit_status == 0)
    return Report(exit_status, said["checks"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With a data directory in which a relay has been."""
    (tmp_path / "data").mkdir(mode=0o700)
    asyncio.run(_make(f"sqlite:///{tmp_path}/data/relay.db"))
    return tmp_path


async def _make(url: str) -> None:
    database = Database(url)
    await database.connect()
    try:
        await migrate(database)
    finally:
        await database.disconnect()


def test_all_is_well_and_said_in_lines(home: Path) -> None:
    report = doctor(home)
    assert report.exit_status == 0
    assert {one["state"] for one in report.checks} == {"good"}, report.checks
    assert {
        "configuration",
        "disk",
        "database",
        "schema",
        "database file",
        "writers",
        "blobs",
        "permissions",
        "port",
    } <= {one["check"] for one in report.checks}
    shell = RelayProcess(data_dir=home / "data", settings={"STARFISH_PORT": str(free_port())})
    said = shell.cli("doctor").stdout
    shell.remove()
    assert said.startswith("✓ configuration")
    assert "✗" not in said


def test_an_empty_directory_is_no_fault_and_nothing_is_made(tmp_path: Path) -> None:
    report = doctor(tmp_path)
    assert report.exit_status == 0
    assert "serve` makes it" in report.of("database", "warning")
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_cannot_be_used(home: Path) -> None:
    report = doctor(home, env={"STARFISH_PING_INTERVAL_S": "soon"})
    assert "STARFISH_PING_INTERVAL_S: expected a number, got 'soon'" in report.of("configuration", "fault")


# --- the database


@pytest.fixture
def with_password(postgres: Postgres) -> Iterator[str]:
    """The URL of a user who needs a password, with the wrong one."""
    url = postgres.create_database()
    name = url.rpartition("/")[2]
    rules = postgres.home / "data" / "pg_hba.conf"
    before = rules.read_text()
    postgres.execute("CREATE ROLE needs_password LOGIN PASSWORD 'the right one'")
    rules.write_text(f"host all needs_password 127.0.0.1/32 scram-sha-256\n{before}")
    postgres.execute("SELECT pg_reload_conf()")
    yield f"postgresql://needs_password:wrong-one@127.0.0.1:{postgres.port}/{name}"
    rules.write_text(before)
    postgres.execute("SELECT pg_reload_conf()")
    postgres.execute("DROP ROLE needs_password")
    postgres.drop_database(url)


def test_a_wrong_database_password(home: Path, with_password: str) -> None:
    report = doctor(home, env={"DATABASE_URL": with_password})
    assert report.faults == {"database"}
    assert "refuses the password, or the name, of user needs_password" in report.of("database", "fault")
    assert "wrong-one" not in str(report)


def test_a_database_host_that_is_not_there(home: Path) -> None:
    unknown = doctor(home, env={"DATABASE_URL": "postgresql://relay:pw@database.invalid/starfish"})
    assert "the host database.invalid is not known" in unknown.of("database", "fault")
    port = free_port()
    nobody = doctor(home, env={"DATABASE_URL": f"postgresql://relay:pw@127.0.0.1:{port}/starfish"})
    assert f"nothing listens on 127.0.0.1:{port}" in nobody.of("database", "fault")


def test_a_database_that_is_not_there(home: Path, postgres: Postgres) -> None:
    report = doctor(home, env={"DATABASE_URL": postgres.url("nowhere")})
    assert "has no database nowhere" in report.of("database", "fault")


def test_an_old_schema_and_one_of_a_later_release(home: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    name = url.rpartition("/")[2]
    postgres.execute("DELETE FROM schema_migrations WHERE number >= 6", database=name)
    old = doctor(home, env={"DATABASE_URL": url})
    assert "from 0006_blobs" in old.of("schema", "fault")
    assert "run `starfish-relay migrate`" in old.of("schema", "fault")
    postgres.execute("INSERT INTO schema_migrations VALUES (9999, 'of_tomorrow')", database=name)
    assert "it has migration 9999" in doctor(home, env={"DATABASE_URL": url}).of("schema", "fault")
    postgres.drop_database(url)


def test_a_clock_that_is_an_hour_off(home: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    env = {"DATABASE_URL": url, "PYTHONPATH": str(CLOCK_AHEAD)}
    ahead = doctor_apart(home, env=env | {"CLOCK_AHEAD_S": "3600"})
    assert ahead.faults == {"clock"}
    assert "1 h ahead of that of the database server" in ahead.of("clock", "fault")
    behind = doctor_apart(home, env=env | {"CLOCK_AHEAD_S": "-3600"})
    assert "1 h behind that of the database server" in behind.of("clock", "fault")
    postgres.drop_database(url)


def test_a_database_server_that_forgets(home: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    assert "synchronous_commit is off" in doctor(home, env={"DATABASE_URL": url}).of("database server", "fault")
    crowded = doctor(home, env={"DATABASE_URL": url, "STARFISH_DATABASE_CONNECTIONS": "900"})
    assert "one may take 903" in crowded.of("database server", "warning")
    postgres.drop_database(url)


def test_a_file_that_is_no_database(home: Path) -> None:
    (home / "data" / "relay.db").write_bytes(b"no database " * 1000)
    assert "is damaged, or no SQLite database" in doctor(home).of("database", "fault")


def test_two_writers_of_one_sqlite_file(home: Path) -> None:
    with RelayProcess(data_dir=home / "data") as relay:
        assert doctor(home, "--port", str(relay.port)).exit_status == 0
        report = doctor(home)
        assert report.faults == {"writers"}
        assert f"by process {relay.pid} " in report.of("writers", "fault")
        assert relay.url in report.of("writers", "fault")


# --- the machine


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on files is of Linux")
def test_a_full_disk(home: Path) -> None:
    report = doctor_apart(home, file_bytes=600_000)
    assert report.faults == {"disk"}
    assert report.of("disk", "fault").startswith("full: no room for 1 MiB in ")
    few = doctor(home, env={"STARFISH_MIN_FREE_BYTES": str(2**60)})
    assert "fewer than STARFISH_MIN_FREE_BYTES" in few.of("disk", "fault")


def test_a_key_file_that_others_can_read(home: Path) -> None:
    key = home / "site.key"
    key.write_text("a key")
    key.chmod(0o644)
    report = doctor(home, env={"STARFISH_IDENTITY": str(key)})
    assert report.faults == {"permissions"}
    assert f"chmod 600 {key}" in report.of("permissions", "fault")
    key.chmod(0o600)
    (home / ".env").write_text("DATABASE_PASSWORD=secret\n")
    (home / ".env").chmod(0o640)
    assert "its mode is 0640" in doctor(home, env={"STARFISH_IDENTITY": str(key)}).of("permissions", "fault")


def test_data_that_others_can_read(home: Path) -> None:
    (home / "data").chmod(0o755)
    report = doctor(home)
    assert report.exit_status == 0
    assert "is open to other users" in report.of("permissions", "warning")


def test_a_port_that_something_else_has(home: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        report = doctor(home, "--port", str(server.server_port))
    finally:
        server.shutdown()
        server.server_close()
    assert report.faults == {"port"}
    assert "is no relay" in report.of("port", "fault")
    if sys.platform.startswith("linux"):
        assert f"process {os.getpid()} " in report.of("port", "fault")


async def test_a_blob_that_is_missing_and_one_that_is_damaged(home: Path) -> None:
    database = Database(f"sqlite:///{home}/data/relay.db")
    await database.connect()
    files = LocalFiles(home / "data" / "files")
    contents = [_kept(files, data) for data in (b"there", b"missing", b"damaged")]
    async with Store(database).transaction() as tx:
        for number, (sha256, size) in enumerate(contents):
            blob = Blob(id=f"{number}", project_id=None, site_id=None, filename="", size=size, created_us=1)
            await tx.blobs.create(replace(blob, sha256=sha256, is_complete=True))
    await database.disconnect()
    place(home / "data" / "files", contents[1][0]).unlink()
    place(home / "data" / "files", contents[2][0]).write_bytes(b"DAMAGED")
    quick = await asyncio.to_thread(doctor_apart, home)
    assert quick.faults == {"blobs"}
    assert "of 3 contents, 1 are missing or damaged" in quick.of("blobs", "fault")
    assert contents[1][0] in quick.of("blobs", "fault")
    full = await asyncio.to_thread(doctor_apart, home, "--full")
    assert "of 3 contents, 2 are missing or damaged" in full.of("blobs", "fault")


def _kept(files: LocalFiles, data: bytes) -> tuple[str, int]:
    incoming = files.begin()
    incoming.write(data)
    content = incoming.keep()
    return content.sha256, content.size


# --- by the public URL


@dataclass(frozen=True, kw_only=True)
class Public:
    """A relay with a site that has a project."""

    relay: RelayProcess
    token: str

    def doctor(self, port: int, *, token: bool = True, env: Mapping[str, str] | None = None) -> Report:
        own = {"STARFISH_TOKEN": self.token} if token else {}
        arguments = ("--url", f"http://127.0.0.1:{port}", "--port", str(self.relay.port))
        home = self.relay.data_dir.parent
        return doctor_apart(home, *arguments, env=own | dict(self.relay.settings) | dict(env or {}))


@pytest.fixture(scope="module")
def public() -> Iterator[Public]:
    with RelayProcess(settings={"STARFISH_PING_INTERVAL_S": "1.5"}) as relay:
        relay.data_dir.chmod(0o700)
        made = relay.cli("token", "create", "--site", asyncio.run(_participant(relay)))
        yield Public(relay=relay, token=made.stdout.strip())


async def _participant(relay: RelayProcess) -> str:
    """The uid of a site that has a project."""
    async with new_realm(relay) as realm:
        return (await realm.team()).participant.uid


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A port that takes requests and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_proxies_that_let_everything_through_cut_silence_or_hold_streams_back(
    public: Public, silent: int
) -> None:
    target = public.relay.port
    hold_back = HOLD_BACK.format(silent=silent) + UPGRADE
    impatient = f"proxy_read_timeout 1s; proxy_send_timeout 1s; {UPGRADE}"
    with (
        Program("nginx", target=target, listen="", location=UPGRADE) as well,
        Program("nginx", target=target, listen="", location=impatient) as cutting,
        Program("nginx", target=target, listen="", location=hold_back) as holding,
    ):
        said = await asyncio.gather(
            *(asyncio.to_thread(public.doctor, program.port) for program in (well, cutting, holding))
        )
    assert said[0].exit_status == 0, said[0].checks
    assert "frames pass both ways" in said[0].of("websocket", "good")
    assert "is kept over" in said[0].of("websocket", "good")
    assert "as they are sent" in said[0].of("event streams", "good")
    assert "agrees with that of http://" in said[0].of("clock", "good")
    assert "was cut within" in said[1].of("websocket", "fault")
    assert "the proxy holds them back" in said[2].of("event streams", "fault")


async def test_a_proxy_that_does_not_pass_the_upgrade_on(public: Public) -> None:
    with Program("nginx", target=public.relay.port, listen="", location="") as nginx:
        with_token, without = await asyncio.gather(
            asyncio.to_thread(public.doctor, nginx.port), asyncio.to_thread(public.doctor, nginx.port, token=False)
        )
    for report in (with_token, without):
        assert report.faults == {"websocket"}
        assert "the proxy does not pass the upgrade on" in report.of("websocket", "fault")
        assert "proxy_set_header Upgrade" in report.of("websocket", "fault")


def test_without_a_token_the_upgrade_is_seen_to_arrive(public: Public) -> None:
    report = public.doctor(public.relay.port, token=False)
    assert report.exit_status == 0, report.checks
    assert "set STARFISH_TOKEN" in report.of("websocket", "good")
    wrong = public.doctor(public.relay.port, env={"STARFISH_TOKEN": "sfr_" + "x" * 43})
    assert "does not take the token" in wrong.of("websocket", "fault")


def test_a_relay_that_believes_any_address(public: Public) -> None:
    with RelayProcess(settings={"STARFISH_PROXIES": "0.0.0.0/0"}) as gullible:
        report = doctor(
            gullible.data_dir.parent,
            *("--url", gullible.url, "--port", str(gullible.port)),
            env=gullible.settings,
        )
    assert report.faults == {"addresses"}
    assert "believes whatever address" in report.of("addresses", "fault")


def test_a_public_url_that_leads_nowhere(public: Public) -> None:
    assert "is not reached" in public.doctor(free_port()).of("public URL", "fault")
