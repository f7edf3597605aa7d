"""From outside, by the public URL: what the way to the relay, with its proxies, lets through.

Without a token it is found out whether requests, upgrades and addresses arrive. With a site's (a read-only one will
do), a session is held in silence for a ping interval, and an event stream is opened.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from relay.config import Settings
from relay.doctor.database import clock
from relay.doctor.findings import Finding, fault, good, guarded, warning
from relay.protocol.envelope import SUBPROTOCOL

TIMEOUT_S = 10.0
STREAM_TIMEOUT_S = 5.0
SLACK_S = 1.0
EXPIRES_SOON_DAYS = 14
CLAIMED = "192.0.2.77"
"""An address that nobody has (RFC 5737): a relay that believes it believes anybody."""
UPGRADE_MEND = (
    "have it pass WebSockets on; nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    "proxy_set_header Connection upgrade; (deploy/nginx.conf)"
)
BUFFER_MEND = "nginx: proxy_buffering off; elsewhere: no inspection or compression of text/event-stream"


async def look(url: str, token: str, settings: Settings) -> list[Finding]:
    """Everything that can be found out by this URL. `token`: a site's, or empty."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [fault("public URL", f"expected http(s)://host, got {url!r:.100}")]
    base = url.rstrip("/")
    found = (
        await guarded("certificate", lambda: _certificate(parts.hostname or "", parts.port or 443))
        if (parts.scheme == "https")
        else []
    )
    if any(one.mend for one in found if one.state == "fault"):
        return found
    reached = await guarded("public URL", lambda: _reach(base))
    found += reached
    if reached[0].state == "fault":
        return found
    found += await guarded("addresses", lambda: _addresses(base, settings.proxies))
    return found + await guarded("websocket", lambda: _sessions(base, token))


async def _certificate(host: str, port: int) -> list[Finding]:
    """Is it trusted, and for how long?"""
    mend = "renew it (certbot renew), and have the proxy load it and what it is signed by"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        return [fault("certificate", f"that of {host} is not trusted: {error.verify_message}", mend)]
    except ssl.SSLError as error:
        return [fault("certificate", f"no TLS with {host}:{port}: {error.reason}", "is this the right port?")]
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    finally:
        writer.close()
    days = (ends - datetime.now(UTC)).days
    said = f"that of {host} is good until {ends:%Y-%m-%d}, for {days} days"
    return [warning("certificate", said, mend) if days < EXPIRES_SOON_DAYS else good("certificate", said)]


async def _reach(base: str) -> list[Finding]:
    begin = time.time()
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
            answer = await http.get(f"{base}/health/ready")
    except httpx.HTTPError as error:
        mend = "is the name in DNS, is the proxy up, is there a firewall before it?"
        return [fault("public URL", f"{base} is not reached: {str(error) or type(error).__name__}", mend)]
    if answer.status_code != 200:
        mend = "502 to 504: the proxy does not reach the relay; 404: it sends this path elsewhere"
        return [fault("public URL", f"{base}/health/ready answers {answer.status_code}", mend)]
    found = [good("public URL", f"{base} reaches a relay that is ready")]
    if date := answer.headers.get("date"):
        there = parsedate_to_datetime(date).timestamp() + 0.5
        found.append(clock(base, (begin + time.time()) / 2 - there))
    return found


async def _addresses(base: str, proxies: str) -> list[Finding]:
    """Whom the relay takes us for: the audit record and the throttling of logins rest on that."""
    plain = await _seen_as(base, {})
    if plain is None:
        return [warning("addresses", "the relay does not say which address it sees", "is it of this release?")]
    own = await asyncio.to_thread(_own_address, base)
    if await _seen_as(base, {"X-Forwarded-For": CLAIMED}) == CLAIMED:
        if _is_among(own, proxies):
            said = f"this machine ({own}) is one of STARFISH_PROXIES: whether others are believed shows from elsewhere"
            return [good("addresses", said)]
        mend = "have the outermost proxy set X-Forwarded-For (not pass it on), and name no others in STARFISH_PROXIES"
        return [fault("addresses", "the relay believes whatever address a client says it has", mend)]
    if plain in ("127.0.0.1", "::1") and own != plain:
        said = f"the relay takes everybody for {plain}, its proxy (this machine is {own})"
        mend = "have the proxy set X-Forwarded-For, and name its address in STARFISH_PROXIES"
        return [warning("addresses", said, mend)]
    return [good("addresses", f"the relay sees this machine as {plain}, and believes no claim of another one")]


async def _seen_as(base: str, headers: dict[str, str]) -> str | None:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        try:
            said = (await http.get(f"{base}/health", headers=headers)).json()
        except (httpx.HTTPError, ValueError):
            return None
    client = said.get("client") if isinstance(said, dict) else None
    return client if isinstance(client, str) else None


def _own_address(base: str) -> str:
    """Which of this machine's addresses the way to there begins with."""
    parts = urlsplit(base)
    with socket.create_connection((parts.hostname or "", parts.port or 80), TIMEOUT_S) as trial:
        return str(trial.getsockname()[0])


def _is_among(address: str, proxies: str) -> bool:
    """Whether it is a proxy's. A network of all addresses names none."""
    for proxy in proxies.split(","):
        with suppress(ValueError):
            network = ipaddress.ip_network(proxy.strip(), strict=False)
            if network.prefixlen and ipaddress.ip_address(address) in network:
                return True
    return False


# --- sessions


async def _sessions(base: str, token: str) -> list[Finding]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection = await _connect(base, headers)
    except InvalidStatus as refused:
        return [_refused(refused, bool(token))]
    except (InvalidHandshake, InvalidMessage) as error:
        return [fault("websocket", f"the upgrade did not come through: {error}", UPGRADE_MEND)]
    async with connection:
        found, projects = await _hold(connection)
    if projects:
        events = f"{base}/starfish/api/v1/projects/{projects[0]}/events/"
        found += await guarded("event streams", lambda: _stream(events, headers))
    return found


async def _connect(base: str, headers: dict[str, str]) -> ClientConnection:
    return await connect(
        "ws" + base.removeprefix("http") + "/starfish/ws/v1",
        additional_headers=headers,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        open_timeout=TIMEOUT_S,
        close_timeout=2,
        ping_interval=None,
    )


def _refused(refused: InvalidStatus, has_token: bool) -> Finding:
    """A relay asks for credentials only if the upgrade has reached it: a plain GET of this path is a 404."""
    status, body = refused.response.status_code, bytes(refused.response.body or b"")
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, LookupError, TypeError):
        code = ""
    if code == "unauthenticated" and not has_token:
        said = "the upgrade reaches the relay; to have frames, silence and event streams tried, "
        return good("websocket", said + "set STARFISH_TOKEN to a site's token (--scope read-only will do)")
    if code == "unauthenticated":
        return fault("websocket", "the relay does not take the token in STARFISH_TOKEN", "make one: token create")
    if code:
        return warning("websocket", f"the upgrade reaches the relay, which refuses it now: {code}")
    return fault("websocket", f"the proxy does not pass the upgrade on: the answer was {status}", UPGRADE_MEND)


async def _hold(connection: ClientConnection) -> tuple[list[Finding], list[int]]:
    """Frames both ways, then silence but for the relay's pings, then frames again. Also the site's projects."""
    silence_s = 0.0
    try:
        welcome = await _ask(connection, {"type": "hello"})
        if welcome.get("type") != "welcome":
            return [fault("websocket", f"hello was answered by {str(welcome)[:200]}")], []
        found = [good("websocket", "frames pass both ways")]
        silence_s = 1.25 * welcome["ping_interval"] + SLACK_S
        await asyncio.sleep(silence_s)
        await _ask(connection, {"type": "call", "ref": 1, "method": "projects.list", "params": {}})
    except ConnectionClosed as closed:
        said = f"the session was cut within {silence_s:g} s of silence ({closed})"
        mend = "have the proxy wait for longer than STARFISH_PING_INTERVAL_S; nginx: proxy_read_timeout 75s"
        return [fault("websocket", said, mend)], []
    except TimeoutError:
        return [fault("websocket", "the upgrade passes, and frames do not", "is there inspection on the way?")], []
    found.append(good("websocket", f"a session is kept over {silence_s:g} s of silence"))
    return found, [int(project) for project in welcome["projects"]]


async def _ask(connection: ClientConnection, frame: dict[str, object]) -> dict[str, Any]:
    """The next answer; events that come first are passed over."""
    async with asyncio.timeout(TIMEOUT_S):
        await connection.send(json.dumps(frame))
        while True:
            message = await connection.recv()
            said: dict[str, Any] = json.loads(message) if isinstance(message, str) else {}
            if said.get("type") in ("welcome", "ok", "error"):
                return said


async def _stream(url: str, headers: dict[str, str]) -> list[Finding]:
    """The first thing on an event stream is a comment, at once: a proxy that collects answers holds it back."""
    held = fault("event streams", "the proxy holds them back: nothing of one came", BUFFER_MEND)
    try:
        async with httpx.AsyncClient(timeout=STREAM_TIMEOUT_S) as http, asyncio.timeout(STREAM_TIMEOUT_S):
            asked = http.stream("GET", url, headers=headers | {"Accept": "text/event-stream"})
            async with asked as answer:
                if answer.status_code != 200:
                    return [warning("event streams", f"refused: {answer.status_code}")]
                async for _ in answer.aiter_raw():
                    return [good("event streams", "come as they are sent")]
    except (httpx.TimeoutException, TimeoutError):
        return [held]
    except httpx.HTTPError as error:
        return [fault("event streams", f"broken off: {type(error).__name__}", BUFFER_MEND)]
    return [held]
