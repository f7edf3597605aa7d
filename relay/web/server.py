"""Serving: uvicorn with the relay's own protocol, and a stop that says goodbye.

On SIGTERM or SIGINT: no new sessions (503 `draining`), goodbye and close 1012 to all open ones, the requests under way
finish, what was published is committed and answered, and the process ends with 0. A second signal does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from relay import __version__
from relay.config import Settings
from relay.web.app import Relay, running
from relay.web.connection import RelayHttp
from relay.web.transport import RelayProtocol

log = logging.getLogger(__name__)

_FRAME_HEADER_BYTES = 64 * 1024 + 4


class _Server(uvicorn.Server):
    """uvicorn's server, that lets the relay drain first and leaves the signals to `serve`."""

    def __init__(self, config: uvicorn.Config, relay: Relay, settings: Settings) -> None:
        super().__init__(config)
        self._relay = relay
        self._settings = settings

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        own = self._settings
        log.info("starfish-relay %s on http://%s:%d, %s", __version__, own.host, own.port, own.database_shown)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("draining")
        await self._relay.door.drain()
        await super().shutdown(sockets)


async def serve(settings: Settings) -> None:
    """Serve until a signal says to stop.

    Raises:
        OSError: the address cannot be listened on.
        And what `running` raises.
    """
    with _listen(settings.host, settings.port) as listener:
        async with running(settings) as relay:
            server = _Server(config_of(settings, relay.front), relay, settings)
            await server.serve(sockets=[listener])
        log.info("stopped")


def _http(settings: Settings) -> type[RelayHttp]:
    class Http(RelayHttp):
        head_timeout_s = settings.head_timeout_s

    return Http


def config_of(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn is to serve: the relay, or what its conformance is tested with."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        loop="none",
        http=_http(settings),
        ws=RelayProtocol,
        ws_max_size=settings.inline_bytes + _FRAME_HEADER_BYTES,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        ws_per_message_deflate=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout_s)),
        backlog=4096,
    )


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, before anything else: a port that is taken is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        yield listener
    finally:
        listener.close()
