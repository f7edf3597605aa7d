"""What a client has shown of itself in TLS: its certificate, looked at once for each connection, never at a header."""

from __future__ import annotations

import hashlib
import ssl
from asyncio.transports import BaseTransport
from collections.abc import Mapping
from typing import Any

CERTIFICATE = "starfish.certificate"
"""In an ASGI scope's extensions: its SHA-256, or None."""


def shown_on(transport: BaseTransport) -> str | None:
    """SHA-256 of the certificate that the peer has shown, over its DER, 64 hex digits. None: it has shown none.

    TLS has checked that the peer has its key, and that an authority of `STARFISH_TLS_CLIENT_CA` has signed it.
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None or tls.context.verify_mode is ssl.CERT_NONE:
        return None
    certificate = tls.getpeercert(binary_form=True)
    return None if certificate is None else hashlib.sha256(certificate).hexdigest()


def shown_in(scope: Mapping[str, Any]) -> str | None:
    """What has been shown on the connection of an ASGI scope; of one that another server has made, nothing."""
    shown: str | None = scope.get("extensions", {}).get(CERTIFICATE)
    return shown
