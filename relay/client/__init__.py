"""What a site installs: one session with a relay, kept over as many connections as it takes.

    site        the public face: `Site`
    session     connect, reconnect, resume
    requests    what was asked and is not answered yet
    inbox       events to the application, acknowledgements back
    ladder      which way is taken to the relay: the best one that this site's network lets through
    transport   frames out, frames in: what every way is
    websocket   … one of them
    rest        … two others: plain HTTP, with
    feeds       … event streams or long polls, and
    api         … requests
    credentials who this site is, and a new token in time
    proxies     the proxy on the way out
    frames      what the relay sends, as records
    methods     the relay's methods
    limits      every bound and time
    errors      what can be raised, as a tree

It stands on `relay.protocol` alone: no web server and no database is imported.
"""

from relay.client.errors import (
    ClientError,
    Closed,
    Forbidden,
    Interrupted,
    NotConnected,
    ProtocolViolation,
    ProxyRefused,
    RelayError,
    SessionEnded,
    Unauthenticated,
    UnknownSite,
)
from relay.client.frames import Event, Goodbye, Membership, Presence, Published, Receipt
from relay.client.limits import Limits
from relay.client.site import Site

__all__ = [
    "ClientError",
    "Closed",
    "Event",
    "Forbidden",
    "Goodbye",
    "Interrupted",
    "Limits",
    "Membership",
    "NotConnected",
    "Presence",
    "ProtocolViolation",
    "ProxyRefused",
    "Published",
    "Receipt",
    "RelayError",
    "SessionEnded",
    "Site",
    "Unauthenticated",
    "UnknownSite",
]
