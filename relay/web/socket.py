"""The WebSocket endpoint: the handshake, then one session until its socket is gone (protocol, sections 2 to 5).

    request ─▶ refused over HTTP
            └▶ accepted ─▶ hello within 10 s ─▶ frames, one after the other ─▶ closed

Frames of a session are acted on in the order in which they came. A publish is offered to the journal's writer and does
not hold up the next frame; a call is awaited, so that what follows it sees its effect. Nothing is read from a socket
whose answers are not taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect

from relay import metrics
from relay.core import access, calls, messaging
from relay.core.access import Right
from relay.core.methods import Caller
from relay.core.node import Node
from relay.core.session import Identity, Session
from relay.core.welcome import welcome
from relay.protocol import session as machine
from relay.protocol.envelope import SUBPROTOCOL, Ack, Call, ClientFrame, Hello, Publish, Ref, Refresh
from relay.protocol.errors import CloseCode, ErrorCode, ReplyError, SessionClosed, forbidden, invalid
from relay.web.arrivals import Arrivals, Turn
from relay.web.auth import Authenticator
from relay.web.peers import shown_in
from relay.web.replies import error_response
from relay.web.transport import SocketLink, link_of

if TYPE_CHECKING:
    from relay.config import Settings

log = logging.getLogger(__name__)

_NAMED_CODES = frozenset((*CloseCode, 1005, 1006))
"""Close codes that are counted by themselves; a client may make up any other."""


class SocketDoor:
    """Serves every WebSocket. `drain` closes them all, spread over time."""

    def __init__(self, node: Node, auth: Authenticator, settings: Settings) -> None:
        self._node = node
        self._auth = auth
        self._settings = settings
        self.arrivals = Arrivals(settings.arrivals_at_once, settings.arrivals_waiting)
        self.draining = False
        self.on_drain: list[Callable[[], None]] = []
        """Called when the relay begins to stop."""

    async def serve(self, websocket: WebSocket) -> None:
        """One WebSocket from its request to its end."""
        seen = self._node.credentials.seen
        turn = self.arrivals.turn()
        try:
            entered = await self._enter(websocket, turn)
            del websocket  # a session may last for weeks: nothing of its request is kept
            if entered is not None:
                await self._run(*entered, seen, turn)
        finally:
            turn.end()

    # --- the handshake

    async def _enter(self, websocket: WebSocket, turn: Turn) -> tuple[SocketLink, Identity] | None:
        """The upgraded connection, and whose it is. None: it was refused, or is gone."""
        try:
            identity = await self._admit(websocket, turn)
            offered = websocket.scope["subprotocols"]
            await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        except WebSocketDisconnect:
            return None
        except ReplyError as error:
            with suppress(WebSocketDisconnect):
                await websocket.send_denial_response(error_response(error))
            return None
        return link_of(websocket), identity

    async def _admit(self, websocket: WebSocket, turn: Turn) -> Identity:
        """Find out who it is, and wait until it is its turn. Raises `ReplyError`, for an answer before the upgrade."""
        await websocket.receive()  # websocket.connect
        self._require_staying()
        offered: Sequence[str] = websocket.scope["subprotocols"]
        if offered and SUBPROTOCOL not in offered:
            raise invalid(**{"Sec-WebSocket-Protocol": f"offer {SUBPROTOCOL}, or none"})
        origin = websocket.headers.get("origin")
        if origin is not None and not self._settings.allows_origin(origin, websocket.headers.get("host", "")):
            raise forbidden("pages of this origin may not connect")
        with self.arrivals.in_front():
            identity = await self._auth.site(websocket.headers, shown_in(websocket.scope))
            access.require_right(identity.principal, Right.READ)
            await turn.come()
        self._require_staying()
        self._node.shares.require_room(identity.site)
        return identity

    def _require_staying(self) -> None:
        if self.draining:
            raise ReplyError(ErrorCode.DRAINING, "the relay restarts; try again", {"retry_after": 1})

    # --- the session

    async def _run(self, link: SocketLink, identity: Identity, seen: int, turn: Turn) -> None:
        session = self._open(link, identity)
        self._node.credentials.heed(seen)
        state = machine.Session(
            max_text_bytes=self._node.limits.text_bytes, max_payload_bytes=self._node.limits.payload_bytes
        )
        log.info("session opened", extra=_about(session))
        code: int | None = None
        try:
            code = await self._frames(link, session, state, turn)
        except SessionClosed as closed:
            session.close(closed)
        except Exception:
            log.exception("session failed", extra={"session": session.id})
            session.close(SessionClosed(CloseCode.OVERLOADED, "internal error; reconnect"))
        finally:
            self._node.remove_session(session, clean=link.left_cleanly)
            code = session.closed.code if session.closed is not None else code
            metrics.CLOSED.labels(code if code in _NAMED_CODES else "other").inc()
            log.info("session closed", extra={"session": session.id, "site": session.site.uid, "code": code})

    def _open(self, link: SocketLink, identity: Identity) -> Session:
        node = self._node
        session = Session(
            secrets.token_hex(8),
            identity,
            link,
            node.store,
            node.limits.outbox,
            node.catch_up,
            asyncio.Semaphore(node.limits.publishes_in_flight),
            node.shares.gate(identity.site),
            lambda closed: link.close(closed.code, closed.reason),
        )
        node.add_session(session)
        return session

    async def _frames(self, link: SocketLink, session: Session, state: machine.Session, turn: Turn) -> int:
        """Read and act until the socket is gone; its close code."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s) as until_hello:
                while True:
                    message = await link.receive()
                    if message["type"] == "websocket.disconnect":
                        return int(message["code"])
                    text: str | None = message.get("text")
                    frame = message["bytes"] if text is None else text
                    now = loop.time()
                    taken = state.receive(frame, now)
                    too_fast = session.gate.admit(len(frame), now)
                    del message, text, frame
                    if isinstance(taken, machine.Refused):
                        session.error(taken.ref, taken.error)
                    elif too_fast is not None:
                        session.error(_ref(taken.frame), too_fast)
                    elif session.closed is None:
                        await self._act(session, state, taken)
                    if session.live and until_hello.when() is not None:
                        until_hello.reschedule(None)
                        turn.end()
                    await session.outbox.room()
        except TimeoutError:
            raise SessionClosed(
                CloseCode.HELLO_TIMEOUT, f"no hello within {self._settings.hello_timeout_s:g} s"
            ) from None

    async def _act(self, session: Session, state: machine.Session, taken: machine.Accepted) -> None:
        """Do what a frame asks for, and answer a refusal. Nothing that a frame says ends the session from here."""
        frame = taken.frame
        try:
            await self._do(session, state, frame, taken.payload)
        except ReplyError as error:
            session.error(_ref(frame), error)
        except Exception:
            incident = uuid.uuid4().hex
            log.exception("request failed", extra={"session": session.id, "incident": incident})
            failure = ReplyError(ErrorCode.INTERNAL, "the relay failed; its log has the id", {"id": incident})
            session.error(_ref(frame), failure)

    async def _do(self, session: Session, state: machine.Session, frame: ClientFrame, payload: bytes | None) -> None:
        match frame:
            case Publish():
                access.require_right(session.principal, Right.PUBLISH)
                await messaging.publish(self._node, session, frame, payload)
            case Ack():
                access.require_right(session.principal, Right.ACT)
                messaging.acknowledge(self._node, session, frame)
            case Call():
                caller = Caller(node=self._node, principal=session.principal, site=session.site)
                result = await calls.perform(caller, frame)
                await self._node.newcomers.are_in(session.site.id)
                session.ok(frame.ref, result=result)
            case Hello():
                await welcome(self._node, session, frame, ping_interval_s=self._settings.ping_interval_s)
                state.welcomed()
            case Refresh():
                await self._refresh(session, frame)

    async def _refresh(self, session: Session, frame: Refresh) -> None:
        if frame.token is None:
            raise invalid(token="required: a new token of the same site")  # noqa: S106 - a reason, not a token
        seen = self._node.credentials.seen
        identity = await self._auth.bearer(frame.token)
        if identity.site.id != session.site.id:
            raise ReplyError(ErrorCode.UNAUTHENTICATED, "the token, or the key, is not one of this site")
        if identity.principal.rights != session.principal.rights:
            raise forbidden("the token has other scopes than the session was begun with; connect anew")
        session.renew(identity, self._node.now_us())
        log.info("session refreshed", extra=_about(session))
        self._node.credentials.heed(seen)
        session.ok(frame.ref, expires_at=session.expires_at)

    # --- the end

    async def drain(self) -> None:
        """Say goodbye to all and close them, a few at a time; wait until they are gone, or the time is up."""
        self.draining = True
        for callback in self.on_drain:
            callback()
        for reader in list(self._node.readers):
            reader.end()
        sessions = list(self._node.all_sessions())
        if not sessions:
            return
        spread_s = min(self._settings.drain_spread_s, len(sessions) / 200)
        pause_s = spread_s / len(sessions)
        for session in sessions:
            session.goodbye("draining", random.uniform(0.5, max(2.0, len(sessions) / 250)))  # noqa: S311
            session.close(SessionClosed(CloseCode.RESTARTING, "the relay restarts"))
            if pause_s > 0.001:
                await asyncio.sleep(pause_s)


def _about(session: Session) -> dict[str, str]:
    """Whose session it is, and by which credential: a token's id, `key:` and a key's, or a password."""
    return {"session": session.id, "site": session.site.uid, "by": session.token_id or "password"}


def _ref(frame: ClientFrame) -> Ref:
    return None if isinstance(frame, Ack) else frame.ref
