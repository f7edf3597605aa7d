"""TLS by the relay itself: its certificate and key, read anew when they change, without a restart.

Connections that are open keep what they began with. A new certificate that is not good is logged, and the one before
goes on: a renewal that went wrong is no outage, until the old certificate expires.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from relay.config import BadSetting

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
CLOSE_S = 5.0
"""How long a peer may take to answer the end of TLS."""


class BadCertificate(BadSetting):
    """The certificate or its key cannot be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The authorities of the certificates that clients may show, a PEM file; and whether they have to."""

    authorities: Path
    required: bool


@dataclass(frozen=True, slots=True)
class _State:
    """By what it is seen that a file was replaced or written."""

    inode: int
    modified_ns: int
    size: int


class Certificates:
    """The certificate that new connections are shown. `context` is to be listened with.

    Raises:
        BadCertificate: they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, clients: Clients | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._clients = clients
        self._seen = self._look()
        self._current = self.context = load(certificate, key, clients)
        self.context.sni_callback = self._show_current

    def _show_current(self, tls: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        tls.context = self._current

    def reload(self) -> bool:
        """Read them anew. False: they are not good, and those before go on."""
        self._seen = self._look()
        try:
            self._current = load(self._certificate, self._key, self._clients)
        except BadCertificate as error:
            log.error("the TLS certificate was not replaced, the one before goes on: %s", error)
            return False
        log.info("TLS certificate read anew: %s", self._certificate)
        return True

    async def watch(self) -> None:
        """Read them anew when they change, for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._look() != self._seen:
                self.reload()

    def _look(self) -> tuple[_State | None, ...]:
        authorities = [] if self._clients is None else [self._clients.authorities]
        return tuple(_state(path) for path in (self._certificate, self._key, *authorities))


def load(certificate: Path, key: Path, clients: Clients | None = None) -> ssl.SSLContext:
    """A server's context of TLS 1.2 or later; of 1.3, if clients may show certificates.

    Raises:
        BadCertificate: a file cannot be read or is no PEM, they do not belong together, or others can read the key.
    """
    _require_private(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise BadCertificate(f"{certificate} with {key}: {reason}") from None
    if clients is not None:
        _ask_for_certificates(context, clients)
    return context


def _ask_for_certificates(context: ssl.SSLContext, clients: Clients) -> None:
    """A session that is resumed would not be checked against authorities that have changed: there are none to resume.

    Before 1.3 that cannot be said, and the client's certificate would be sent in the clear.

    Raises:
        BadCertificate: the authorities cannot be used.
    """
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if clients.required else ssl.CERT_OPTIONAL
    try:
        context.load_verify_locations(clients.authorities)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "no PEM certificate"
        raise BadCertificate(f"{clients.authorities}: {reason}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _require_private(key: Path) -> None:
    """Only its owner may read it; of root's, a group as well: so an administrator shares one with a service."""
    try:
        status = key.stat()
    except OSError as error:
        raise BadCertificate(f"{key}: {error.strerror}") from None
    shared = 0o027 if status.st_uid == 0 else 0o077
    if status.st_mode & shared:
        mode, most = stat.S_IMODE(status.st_mode), "0640" if status.st_uid == 0 else "0600"
        raise BadCertificate(f"{key}: expected mode {most} or less, got {mode:04o}: others can read it")


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()  # of what a link points to: a renewal moves the link
    except OSError:
        return None
    return _State(status.st_ino, status.st_mtime_ns, status.st_size)
