"""What a site installs: one session with a relay, kept over as many connections as it takes.

    site        the public face: `Site`
    onlooker    who only looks on, and moves no cursor: `Onlooker`
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
    payloads    payloads of any length: into an event, or over HTTP as blobs; and back, with
    updates     … an event with what it refers to,
    uploads     … one content on its way to the relay, from
    sources     … a file or bytes, and
    notes       … what is remembered of it across processes;
    downloads   … one payload on its way from the relay, into
    partfile    … a file
    retries     what passes, and how long to wait for it
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
    Corrupted,
    Forbidden,
    Interrupted,
    InUse,
    NotConnected,
    ProtocolViolation,
    ProxyRefused,
    RelayError,
    SessionEnded,
    SourceChanged,
    TooLong,
    Unauthenticated,
    UnknownSite,
)
from relay.client.frames import Event, Goodbye, Membership, PayloadStream, Presence, Published, Receipt
from relay.client.limits import Limits
from relay.client.onlooker import Onlooker
from relay.client.site import Site

__all__ = [
    "ClientError",
    "Closed",
    "Corrupted",
    "Event",
    "Forbidden",
    "Goodbye",
    "InUse",
    "Interrupted",
    "Limits",
    "Membership",
    "NotConnected",
    "Onlooker",
    "PayloadStream",
    "Presence",
    "ProtocolViolation",
    "ProxyRefused",
    "Published",
    "Receipt",
    "RelayError",
    "SessionEnded",
    "Site",
    "SourceChanged",
    "TooLong",
    "Unauthenticated",
    "UnknownSite",
]
