"""The composition root: settings in, a running relay out. Here alone the core meets its database and its bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from db.connect import Database
from db.store import Store
from relay import __version__
from relay.bus.file import FileBus
from relay.bus.postgres import PostgresBus
from relay.config import BadSetting, Settings
from relay.core.blob_care import Collector
from relay.core.logins import Logins
from relay.core.node import Node
from relay.core.overview import Overview
from relay.core.passwords import Passwords
from relay.core.retention import Trimmer
from relay.core.rounds import Rounds
from relay.core.throttle import Throttle
from relay.protocol.errors import ReplyError
from relay.serving import sole_server
from relay.storage import bring_up_to_date, make_data_dir, open_database, open_files
from relay.web import legacy
from relay.web.auth import Authenticator
from relay.web.blobs import BlobDoor
from relay.web.calls import CallDoor
from relay.web.events import KEEP_ALIVE_S, EventDoor
from relay.web.headers import CarefulHeaders
from relay.web.health import Health
from relay.web.metrics import MetricsDoor
from relay.web.origin import FromWhere, note_where
from relay.web.pages import PageDoor
from relay.web.replies import Json, error_response
from relay.web.socket import SocketDoor
from relay.web.status import StatusDoor

SOCKET_PATH = "/starfish/ws/v1"


class Relay:
    """A relay that runs: its core, and the ASGI application in front of it."""

    def __init__(self, node: Node, app: Starlette, door: SocketDoor) -> None:
        self.node = node
        self.app = app
        self.door = door

    def front(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """What the server calls. A session goes straight to its door.

        Every middleware and route on the way would hold a coroutine for as long as the session lives.
        """
        if scope["type"] == "websocket" and scope["path"] == SOCKET_PATH:
            note_where(scope)
            return self.door.serve(WebSocket(scope, receive, send))
        return self.app(scope, receive, send)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Relay]:
    """A relay, from a connected and current database to a clean end.

    Raises:
        SchemaTooOld: on PostgreSQL, unless told to migrate.
        db.migrate.SchemaTooNew: a later release has been at this database.
        StorageUnavailable: the database does not answer.
        AlreadyServed: another process serves this SQLite file.
    """
    make_data_dir(settings)
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        _lock(database, settings, stack)
        await database.connect()
        stack.push_async_callback(database.disconnect)
        await bring_up_to_date(database, settings)
        passwords = Passwords()
        stack.callback(passwords.close)
        node = Node(Store(database), settings.limits, version=__version__, name=settings.node)
        auth = Authenticator(
            node.store,
            passwords,
            node.now_us,
            audience=settings.audience,
            key_session_s=settings.key_session_s,
            logins=Logins(node.audit, Throttle(settings.throttle)),
        )
        async with node.store.snapshot() as tx:
            passwords.old_iterations = await tx.users.old_iterations()
        node.on_elsewhere.append(auth.forget)
        if settings.otlp_url:
            stack.push_async_callback(asyncio.to_thread, _trace(node, settings))
        await node.start()
        stack.push_async_callback(node.stop)
        await Rounds(node).start()
        Trimmer(node, settings.retention).start()
        bus = _bus(database, settings, node)
        await bus.start()
        stack.push_async_callback(bus.close)
        yield _relay(node, auth, settings)


def _lock(database: Database, settings: Settings, stack: AsyncExitStack) -> None:
    for file in database.files[:1]:
        file.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(sole_server(file, f"http://{settings.host}:{settings.port}"))


def _trace(node: Node, settings: Settings) -> Callable[[], None]:
    """Have the node trace. Returns what sends, at the end, what waits."""
    try:
        from relay import tracing  # noqa: PLC0415 - its dependencies are an extra
    except ModuleNotFoundError as error:
        raise BadSetting(f"STARFISH_OTLP_URL needs the extra: pip install 'starfish-relay[otel]' ({error})") from None
    traces = tracing.sending(settings.otlp_url, ratio=settings.trace_ratio, version=node.version, node=node.name)
    node.tracer = traces
    node.on_committed.append(traces.committed)
    return traces.close


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
    overview = Overview(node, "sqlite" if settings.is_sqlite else "postgresql")
    status = StatusDoor(node, overview, auth, settings)
    door.on_drain.append(status.stop)
    Collector(node, files, settings.blob_care, blobs.uploads.forget).start()
    app = Starlette(
        routes=[
            *health.routes(),
            *EventDoor(node, auth, lambda: door.draining, min(KEEP_ALIVE_S, settings.ping_interval_s)).routes(),
            *CallDoor(node, auth, settings.ping_interval_s).routes(),
            *MetricsDoor(node, auth, door.arrivals, settings.metrics_token).routes(),
            *status.routes(),
            *PageDoor(auth).routes(),
            *blobs.routes(),
            *legacy.routes(node, auth, settings, files),
        ],
        middleware=[Middleware(FromWhere), Middleware(CarefulHeaders, hsts_s=settings.hsts_s)],
        exception_handlers={ReplyError: _refused},
    )
    return Relay(node, app, door)


async def _refused(_request: Request, error: Exception) -> Json:
    assert isinstance(error, ReplyError)
    return error_response(error)
