"""The composition root: settings in, a running relay out. Here alone the core meets its database and its bus."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import WebSocketRoute

import db.migrate
from db.connect import Database
from db.connect import Limits as DatabaseLimits
from db.store import Store
from relay import __version__
from relay.blobs.local import LocalFiles
from relay.bus.file import FileBus
from relay.bus.postgres import PostgresBus
from relay.config import BadSetting, Settings
from relay.core.blob_care import Collector
from relay.core.node import Node
from relay.core.passwords import Passwords
from relay.core.retention import Trimmer
from relay.core.rounds import Rounds
from relay.protocol.errors import ReplyError
from relay.web import legacy
from relay.web.auth import Authenticator
from relay.web.blobs import BlobDoor
from relay.web.calls import CallDoor
from relay.web.events import KEEP_ALIVE_S, EventDoor
from relay.web.health import Health
from relay.web.metrics import MetricsDoor
from relay.web.replies import Json, error_response
from relay.web.socket import SocketDoor

log = logging.getLogger(__name__)

SOCKET_PATH = "/starfish/ws/v1"


class SchemaTooOld(Exception):
    """The database lacks migrations, and the relay was not told to apply them."""


class Relay:
    """A relay that runs: its core, and the ASGI application in front of it."""

    def __init__(self, node: Node, app: Starlette, door: SocketDoor) -> None:
        self.node = node
        self.app = app
        self.door = door


def open_database(settings: Settings) -> Database:
    """The database of these settings, not connected yet."""
    limits = DatabaseLimits(acquire_timeout_s=settings.database_timeout_s, pg_connections=settings.database_connections)
    return Database(settings.database_url, limits)


def open_files(settings: Settings) -> LocalFiles:
    """Where the bytes of blobs and files are.

    Raises:
        BadSetting: an S3 bucket is configured, and what is needed for it is not installed.
    """
    root = settings.data_dir / "files"
    if not settings.s3_url:
        return LocalFiles(root)
    try:
        from relay.blobs.s3 import S3Files  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as missing:
        raise BadSetting(
            f"STARFISH_S3_URL: {missing.name} is not installed; pip install 'starfish-relay[s3]'"
        ) from missing
    return S3Files(
        root,
        settings.s3_url,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        redirect=settings.s3_redirect,
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Relay]:
    """A relay, from a connected and current database to a clean end.

    Raises:
        SchemaTooOld: on PostgreSQL, unless told to migrate.
        db.migrate.SchemaTooNew: a later release has been at this database.
        StorageUnavailable: the database does not answer.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        await database.connect()
        stack.push_async_callback(database.disconnect)
        await _bring_up_to_date(database, settings)
        passwords = Passwords()
        stack.callback(passwords.close)
        node = Node(Store(database), settings.limits, version=__version__, name=settings.node)
        auth = Authenticator(
            node.store, passwords, node.now_us, audience=settings.audience, key_session_s=settings.key_session_s
        )
        node.on_elsewhere.append(auth.forget)
        await node.start()
        stack.push_async_callback(node.stop)
        await Rounds(node).start()
        Trimmer(node, settings.retention).start()
        bus = _bus(database, settings, node)
        await bus.start()
        stack.push_async_callback(bus.close)
        yield _relay(node, auth, settings)


async def _bring_up_to_date(database: Database, settings: Settings) -> None:
    missing = await db.migrate.pending(database)
    if missing and not (settings.is_sqlite or settings.migrate):
        raise SchemaTooOld(
            f"the database lacks {len(missing)} migrations, from {missing[0].number:04}_{missing[0].name}; "
            "run `starfish-relay migrate`, or set STARFISH_MIGRATE=true"
        )
    for migration in await db.migrate.migrate(database):
        log.info("migrated: %04d_%s", migration.number, migration.name)


def _bus(database: Database, settings: Settings, node: Node) -> FileBus | PostgresBus:
    if settings.is_sqlite:
        return FileBus(database.files, database.changed_elsewhere, node.changed_elsewhere)
    return PostgresBus(settings.database_url, node.changed_elsewhere)


def _relay(node: Node, auth: Authenticator, settings: Settings) -> Relay:
    door = SocketDoor(node, auth, settings)
    health = Health(node, settings, lambda: door.draining)
    files = open_files(settings)
    blobs = BlobDoor(node, auth, settings, files)
    door.on_drain.append(blobs.uploads.stop)
    Collector(node, files, settings.blob_care, blobs.uploads.forget).start()
    app = Starlette(
        routes=[
            WebSocketRoute(SOCKET_PATH, door.serve),
            *health.routes(),
            *EventDoor(node, auth, lambda: door.draining, min(KEEP_ALIVE_S, settings.ping_interval_s)).routes(),
            *CallDoor(node, auth, settings.ping_interval_s).routes(),
            *MetricsDoor(node, auth, settings.metrics_token).routes(),
            *blobs.routes(),
            *legacy.routes(node, auth, settings, files),
        ],
        exception_handlers={ReplyError: _refused},
    )
    return Relay(node, app, door)


async def _refused(_request: Request, error: Exception) -> Json:
    assert isinstance(error, ReplyError)
    return error_response(error)
