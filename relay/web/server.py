"""Serving: uvicorn with the relay's own protocol, and a stop that says goodbye.

On SIGTERM or SIGINT: no new sessions (503 `draining`), goodbye and close 1012 to all open ones, the requests under way
finish, what was published is committed and answered, and the process ends with 0. A second signal does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from relay import __version__
from relay.config import Settings
from relay.web.app import Relay, running
from relay.web.connection import RelayHttp
from relay.web.tls import CLOSE_S, Certificates, Clients
from relay.web.transport import RelayProtocol

log = logging.getLogger(__name__)

_FRAME_HEADER_BYTES = 64 * 1024 + 4


class _Server(uvicorn.Server):
    """uvicorn's server, that lets the relay drain first and leaves the signals to `serve`."""

    def __init__(
        self, config: uvicorn.Config, relay: Relay, settings: Settings, certificates: Certificates | None
    ) -> None:
        super().__init__(config)
        self._relay = relay
        self._settings = settings
        self._certificates = certificates

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if self._certificates is not None:
            loop.add_signal_handler(signal.SIGHUP, self._certificates.reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificates is None:
            await super().startup(sockets)
        else:
            await self._start_tls(self._certificates, sockets or [])
        own, scheme = self._settings, "http" if self._certificates is None else "https"
        log.info("starfish-relay %s on %s://%s:%d, %s", __version__, scheme, own.host, own.port, own.database_shown)

    async def _start_tls(self, certificates: Certificates, sockets: list[socket.socket]) -> None:
        """As uvicorn's `startup`, with a time for TLS handshakes that uvicorn has no word for."""

        def connection() -> asyncio.Protocol:
            return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]

        self.servers = [
            await asyncio.get_running_loop().create_server(
                connection,
                sock=listener,
                ssl=certificates.context,
                ssl_handshake_timeout=self._settings.head_timeout_s,
                ssl_shutdown_timeout=CLOSE_S,
                backlog=self.config.backlog,
            )
            for listener in sockets
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("draining")
        await self._relay.door.drain()
        await super().shutdown(sockets)


async def serve(settings: Settings) -> None:
    """Serve until a signal says to stop.

    Raises:
        OSError: the address cannot be listened on.
        BadCertificate: the TLS certificate or its key cannot be used.
        And what `running` raises.
    """
    certificates = _certificates(settings)
    with _listen(settings.host, settings.port) as listener:
        async with running(settings) as relay, _watched(certificates):
            server = _Server(config_of(settings, relay.front), relay, settings, certificates)
            await server.serve(sockets=[listener])
        log.info("stopped")


def _certificates(settings: Settings) -> Certificates | None:
    """What TLS is served with; None: none is. Raises `BadCertificate`."""
    if not settings.tls_cert:
        return None
    required = settings.tls_client_certs == "required"
    clients = Clients(Path(settings.tls_client_ca), required) if settings.tls_client_ca else None
    return Certificates(Path(settings.tls_cert), Path(settings.tls_key), clients)


@asynccontextmanager
async def _watched(certificates: Certificates | None) -> AsyncIterator[None]:
    """Within the block, the certificates are read anew when they change."""
    if certificates is None:
        yield
        return
    watching = asyncio.create_task(certificates.watch(), name="watch-certificates")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


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
