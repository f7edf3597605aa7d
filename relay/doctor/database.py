"""The database: does it answer, has it this release's schema, is it durable, and whose clock is right."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

import db.facts
import db.migrate
from db.connect import Database
from relay.config import Settings
from relay.core.ports import StorageUnavailable
from relay.doctor.findings import Finding, fault, good, guarded, warning
from relay.serving import server_of
from relay.storage import open_database

CLOCK_WARN_S = 2.0
CLOCK_FAULT_S = 30.0
SPARE_CONNECTIONS = 3
"""For what is not in the relay's pool: LISTEN, and a command beside it."""
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "afs", "ceph"}
)
TIME_MEND = "set the clock of the machine that is off, and have it kept: chrony, or systemd-timesyncd"


@contextlib.asynccontextmanager
async def opened(settings: Settings, found: list[Finding]) -> AsyncIterator[Database | None]:
    """The database, or None and why not in `found`. A SQLite file that is not there is not made."""
    database = open_database(settings)
    if database.files and not database.files[0].exists():
        found.append(warning("database", f"{database.files[0]} is not there yet", "`starfish-relay serve` makes it"))
        yield None
        return
    try:
        await database.connect()
    except (StorageUnavailable, sqlite3.DatabaseError, asyncpg.PostgresError, ValueError) as error:
        found.append(_refusal(settings, error))
        yield None
        return
    try:
        found.append(good("database", f"{settings.database_shown} answers"))
        yield database
    finally:
        with contextlib.suppress(StorageUnavailable, TimeoutError, OSError):
            await database.disconnect()


def _refusal(settings: Settings, error: Exception) -> Finding:
    """Why the database could not be opened: what the driver raised says more than what is made of it."""
    cause = error.__cause__ or error
    parts = urlsplit(settings.database_url)
    where = f"{parts.hostname}:{parts.port or 5432}"
    if settings.is_sqlite:
        return _file_refusal(settings, cause)
    match cause:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return fault(
                "database",
                f"{where} refuses the password, or the name, of user {parts.username}: {cause}",
                "set the right one in DATABASE_URL (DATABASE_PASSWORD), or the server's with ALTER ROLE … PASSWORD",
            )
        case asyncpg.InvalidCatalogNameError():
            return fault("database", f"{where} has no database {parts.path[1:]}", f"createdb {parts.path[1:]}")
        case asyncpg.TooManyConnectionsError() | asyncpg.CannotConnectNowError():
            return fault("database", f"{where} takes no more connections now: {cause}", "raise max_connections")
        case socket.gaierror():
            return fault("database", f"the host {parts.hostname} is not known", "is DATABASE_URL right, does DNS work?")
        case ConnectionRefusedError():
            return fault("database", f"nothing listens on {where}", "start PostgreSQL, or correct DATABASE_URL")
        case TimeoutError():
            return fault("database", f"no answer from {where}", "is there a firewall between, is the host up?")
    return fault("database", f"{where} is not reached: {cause}", "is DATABASE_URL right?")


def _file_refusal(settings: Settings, cause: BaseException) -> Finding:
    if isinstance(cause, PermissionError):
        mend = "have the file and its directory belong to the user that the relay runs as"
        return fault("database", f"{settings.database_shown} may not be opened by this user", mend)
    if isinstance(cause, sqlite3.DatabaseError) and "not a database" in str(cause):
        return fault("database", f"{settings.database_shown} is damaged, or no SQLite database", "restore a backup")
    return fault("database", f"{settings.database_shown} cannot be opened: {cause}")


async def look(database: Database, settings: Settings, *, full: bool) -> list[Finding]:
    """Everything but whether it answers."""
    found = await guarded("schema", lambda: _schema(database, settings))
    if settings.is_sqlite:
        found += await guarded("database file", lambda: _file(database, full=full))
        found += await guarded("writers", lambda: _writers(database, settings))
    else:
        found += await guarded("database server", lambda: _server(database, settings))
    if all(one.check != "schema" or not one.mend for one in found):
        found += await guarded("clock", lambda: _past(database))
    return found


async def _schema(database: Database, settings: Settings) -> list[Finding]:
    applied = await db.facts.applied(database)
    known = {migration.number: migration for migration in db.migrate.all_migrations()}
    if ahead := applied - set(known):
        said = f"it has migration {max(ahead):04}, and this release ends at {max(known):04}"
        return [fault("schema", said, "run the later release that has been at this database, or restore a backup")]
    missing = sorted(set(known) - applied)
    if not missing:
        return [good("schema", f"as this release has it: migration {max(known):04}")]
    said = f"old: it lacks {len(missing)} migrations, from {missing[0]:04}_{known[missing[0]].name}"
    if settings.is_sqlite or settings.migrate:
        return [warning("schema", said, "`starfish-relay serve` brings it up to date; back it up before")]
    return [fault("schema", said, "back it up, and run `starfish-relay migrate`")]


async def _file(database: Database, *, full: bool) -> list[Finding]:
    file = database.files[0]
    found = []
    mode = await db.facts.journal_mode(database)
    if mode == "wal":
        found.append(good("database file", "write-ahead log, each commit flushed (synchronous = FULL)"))
    else:
        mend = "have it on a local disk: readers and the writer hold each other up like this"
        found.append(fault("database file", f"its journal mode is {mode}, and cannot be wal here", mend))
    kind = filesystem_of(file)
    if kind in NETWORK_FILESYSTEMS:
        said = f"it lies on {kind}, whose locks and flushes SQLite cannot rely on"
        found.append(fault("database file", said, "move the data directory to a local disk, or use PostgreSQL"))
    if full and (damage := await db.facts.damage(database)):
        found.append(fault("database file", f"damaged: {damage[:200]}", "restore a backup"))
    return found


async def _writers(database: Database, settings: Settings) -> list[Finding]:
    server = await asyncio.to_thread(server_of, database.files[0])
    if server is None:
        return [good("writers", "no relay serves this file now")]
    own = f"http://{settings.host}:{settings.port}"
    if server.endswith(f", {own}"):
        return [good("writers", f"served by one relay: {server}")]
    said = f"served already, by {server}; a relay with these settings ({own}) would be a second one"
    return [fault("writers", said, "stop one of the two, or give this one a data directory of its own")]


async def _server(database: Database, settings: Settings) -> list[Finding]:
    before_us = _now_us()
    server = await db.facts.server(database)
    ahead_s = ((before_us + _now_us()) / 2 - server.clock_us) / 1e6
    found = [good("database server", f"PostgreSQL {server.version}"), clock("the database server", ahead_s)]
    if server.is_replica:
        found.append(
            fault("database server", "it is a replica, and takes no change", "name the primary in DATABASE_URL")
        )
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if getattr(server, name) == "off":
            said = f"{name} is off: what the relay has answered ok can be lost in a power cut"
            found.append(fault("database server", said, f"ALTER SYSTEM SET {name} = on"))
    needed = settings.database_connections + SPARE_CONNECTIONS
    left = server.connections - server.in_use + server.ours
    if left < needed:
        said = f"it has {left} of {server.connections} connections left for relays, and one may take {needed}"
        mend = "raise max_connections, or lower STARFISH_DATABASE_CONNECTIONS"
        found.append(warning("database server", said, mend))
    return found


async def _past(database: Database) -> list[Finding]:
    """Nothing was done in the future, or the clock has gone back."""
    ahead_s = (await db.facts.newest_us(database) - _now_us()) / 1e6
    if ahead_s < CLOCK_FAULT_S:
        return []
    said = f"the newest entry of the audit record is {span(ahead_s)} in the future"
    return [fault("clock", f"{said}: this machine's clock was ahead, or is behind", TIME_MEND)]


def clock(whose: str, ahead_s: float) -> Finding:
    """What to say of this machine's clock, which is `ahead_s` ahead of another one's."""
    if abs(ahead_s) < CLOCK_WARN_S:
        return good("clock", f"agrees with that of {whose}")
    said = f"this machine's clock is {span(ahead_s)} {'ahead of' if ahead_s > 0 else 'behind'} that of {whose}"
    return (fault if abs(ahead_s) >= CLOCK_FAULT_S else warning)("clock", said, TIME_MEND)


def span(seconds: float) -> str:
    """Without its sign: `3 s`, `12 min`, `1 h`."""
    length = abs(seconds)
    if length < 120:
        return f"{length:.0f} s"
    return f"{length / 60:.0f} min" if length < 3570 else f"{length / 3600:.3g} h"


def filesystem_of(path: Path) -> str:
    """The kind of file system that a path is on, as Linux has it; empty elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    whole = str(path.resolve())
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if len(point) >= len(best) and (whole == point or whole.startswith(point.rstrip("/") + "/")):
            best, kind = point, rest.split()[0]
    return kind


def _now_us() -> int:
    return time.time_ns() // 1000
