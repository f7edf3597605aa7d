"""One session, over as many connections as it takes.

    connect ─▶ hello (where each project goes on from) ─▶ welcome ─▶ read and write ─▶ the connection is lost ─┐
       ▲                                                                                                      │
       └── wait: full jitter, and at least what the relay asked for ◀── the code says: come back ◀────────────┘

A single task does this, and ends when the code says not to come back (`relay.protocol.errors.RECONNECT`), when the
handshake is refused for good, or when the application leaves. What carries the frames is the ladder's business. On a
connection, one task reads and one writes, others see to a better way and to a new token; who asks for something only
puts it into `Requests` and wakes the writer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from relay import __version__
from relay.client import frames
from relay.client.credentials import Credentials
from relay.client.errors import (
    BY_CLOSE_CODE,
    BY_STATUS,
    Closed,
    NotConnected,
    ProtocolViolation,
    RelayError,
    SessionEnded,
)
from relay.client.frames import Event, FrameLimits, Goodbye, Membership, Presence, ProjectState, Receipt, SiteInfo
from relay.client.inbox import Inbox
from relay.client.ladder import Ladder
from relay.client.limits import Limits, backoff
from relay.client.renewal import Renewal
from relay.client.requests import Requests
from relay.client.transport import Disconnected, HeldBack, Refused, Transport
from relay.protocol import codec
from relay.protocol.errors import RECONNECT, CloseCode, ErrorCode

log = logging.getLogger(__name__)

_PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL})
"""What a hello may be refused with, and be welcomed a moment later."""


class Session:
    """See the module. `on_receipt`, `on_presence`, `on_goodbye` are called from the session's task: they must not wait.

    Args:
        is_own: whether an event was published through this session.
        start: where projects go on from in the first hello, instead of the relay's own cursor.
    """

    def __init__(
        self,
        ladder: Ladder,
        credentials: Credentials,
        limits: Limits,
        *,
        is_own: Callable[[Event], bool],
        start: dict[str, dict[str, Any]],
        on_receipt: Callable[[Receipt], None] | None,
        on_presence: Callable[[Presence], None] | None,
        on_goodbye: Callable[[Goodbye], None] | None,
    ) -> None:
        self.site = SiteInfo(0, "", "")
        self.memberships: dict[int, Membership] = {}
        self.requests = Requests(limits.in_flight, self._new_request)
        self.inbox = Inbox(limits, is_own=is_own, on_ack=self._new_ack, on_drained=self._resume)
        self._ladder = ladder
        self._credentials = credentials
        self._renewal = Renewal(credentials, self.requests, limits)
        self._limits = limits
        self._start = start
        self._hooks: dict[type, Callable[[Any], None] | None] = {
            Receipt: on_receipt,
            Presence: on_presence,
            Goodbye: on_goodbye,
        }
        self._frame_limits = FrameLimits()
        self._wake = asyncio.Event()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] | None = None
        self._connected = False
        self._connected_at = math.inf
        self._leaving = False
        self._resuming = False
        self._tasks: asyncio.TaskGroup | None = None
        self._retry_after_s: float | None = None
        self._last_error: Exception = ConnectionError("no attempt has been made")
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """There is a connection, and the relay has welcomed it."""
        return self._connected

    @property
    def transport(self) -> str:
        """What carries the frames, or will be tried next."""
        return self._ladder.name

    @property
    def inline_bytes(self) -> int:
        """The longest payload that the relay takes within an event."""
        return self._frame_limits.inline

    # --- from the first connection to the last

    async def start(self) -> None:
        """Connect, and stay connected until `stop`.

        Raises:
            SessionEnded: the relay refused it for good.
            NotConnected: it did not come about in time.
            RuntimeError: it was started before.
        """
        if self._task is not None:
            raise RuntimeError("a site is entered once; make another one")
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="relay-session")
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await self._ready
        except TimeoutError:
            await self.stop()
            message = f"no session within {self._limits.connect_s:g} s: {self._last_error}"
            raise NotConnected(message) from self._last_error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Send the acknowledgements that wait, close with 1000, and end. Nothing is left afterwards."""
        assert self._task is not None
        self._leaving = True
        self.inbox.let_go()
        self._wake.set()
        try:
            if self._connected:
                await asyncio.wait({self._task}, timeout=self._limits.close_s)
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if self._ack_timer is not None:
                self._ack_timer.cancel()

    async def _run(self) -> None:
        """Whatever ends it, everybody who waits for something is told."""
        ended: SessionEnded = Closed("the site's `async with` block has been left")
        try:
            await self._stay_connected()
        except SessionEnded as error:
            ended = error
            log.error("the session has ended: %s", error)
        except Exception as error:
            ended = ProtocolViolation(f"internal error: {error!r}")
            log.exception("the session has failed")
        finally:
            self.requests.end(ended)
            self.inbox.end(ended)
            self._settle_start(ended)

    def _settle_start(self, failure: SessionEnded | None) -> None:
        """Let `start` go on; only the first welcome, or the end before it, is news to it."""
        assert self._ready is not None
        if self._ready.done():
            return
        if failure is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(failure.again())
            self._ready.exception()  # seen: `start` may have been cancelled

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            self._connected_at = math.inf
            error = await self._one_connection()
            if self._leaving:
                return
            resuming, self._resuming = self._resuming, False
            was_welcomed = self._connected_at < math.inf and not isinstance(error, HeldBack)
            if not was_welcomed and self._ladder.failed(error):
                self._retry_after_s = None
                continue
            if resuming and self._retry_after_s is None:
                continue
            attempt = 0 if time.monotonic() - self._connected_at >= self._limits.stable_s else attempt
            wait_s = backoff(self._limits, attempt, self._retry_after_s)
            self._retry_after_s = None
            attempt += 1
            log.warning("not connected: %s; trying again in %.1f s", str(error) or type(error).__name__, wait_s)
            await asyncio.sleep(wait_s)

    async def _one_connection(self) -> Exception:
        """Connect and serve until the connection is lost. Returns why, if that may pass.

        Raises:
            SessionEnded: it will not pass.
        """
        try:
            await self._serve(await self._ladder.open())
        except Refused as refused:
            self._raise_if_refused_for_good(refused)
            self._retry_after_s = refused.retry_after_s
            self._last_error = refused
        except Disconnected as closed:
            if closed.code != CloseCode.UNAUTHENTICATED or not self._credentials.refused():
                _raise_if_final(closed)
            self._last_error = closed
        except OSError as failure:
            self._last_error = failure
        return self._last_error

    def _raise_if_refused_for_good(self, refused: Refused) -> None:
        """What something between says, and not the relay, is no reason to end a session that there has been once."""
        if refused.status not in BY_STATUS:
            return
        by_relay = refused.code is not None
        if by_relay and refused.status == 401 and self._credentials.refused():
            return
        if by_relay or refused.status == 407 or (self._ladder.at_bottom and not self.site.uid):
            raise BY_STATUS[refused.status](str(refused)) from None

    async def _serve(self, transport: Transport) -> None:
        """One connection's life. Whatever ends it, is raised."""
        try:
            async with asyncio.timeout(self._limits.open_s):
                await self._hello(transport)
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._write(transport), name="relay-writer")
                self._tasks.create_task(self._read(transport), name="relay-reader")
                if self._ladder.may_climb:
                    self._tasks.create_task(self._climb(), name="relay-climb")
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._connected = False
            self._tasks = None
            self.requests.disconnected()
            await transport.close(CloseCode.NORMAL)

    # --- hello and welcome

    async def _hello(self, transport: Transport) -> None:
        await transport.send(_hello(self._start | self.inbox.resume_points()))
        while not self._connected:
            match frames.decode(await transport.receive()):
                case frames.Welcome() as welcome:
                    self._take_welcome(welcome)
                case frames.Error(ref=0, code=code, message=message):
                    if code not in _PASSING:
                        raise ProtocolViolation(f"the relay refused the hello: {code}: {message}")
                    raise Disconnected(CloseCode.OVERLOADED, message)
                case Goodbye() as goodbye:
                    self._take(goodbye)
                case other:
                    log.debug("before the welcome: %s", type(other).__name__)

    def _take_welcome(self, welcome: frames.Welcome) -> None:
        self.site = welcome.site
        self._frame_limits = welcome.limits
        self.memberships = {project: _membership(project, state) for project, state in welcome.projects.items()}
        self.inbox.welcomed(welcome.projects)
        self._start = {}
        self._connected = True
        self._connected_at = time.monotonic()
        self._ladder.welcomed()
        self._credentials.accepted()
        self._settle_start(None)
        self._wake.set()
        log.info("connected as site %s by %s, session %s", welcome.site.uid, self.transport, welcome.session or "-")

    async def _climb(self) -> None:
        """Go on by a better way as soon as there is one."""
        await self._ladder.climb(lambda: _hello({str(project): {"offset": "new"} for project in self.memberships}))
        self._reconnect()

    # --- reading

    async def _read(self, transport: Transport) -> None:
        while True:
            await self.inbox.room(lambda: len(self.requests) > 0)
            frame = await transport.receive()
            shown = frames.decode(frame)
            if isinstance(shown, Event):
                self.inbox.put(shown, len(frame))
            elif shown is not None:
                self._take(shown)

    def _take(self, shown: frames.Shown) -> None:
        match shown:
            case frames.Ok() | frames.Error():
                if not self.requests.answered(shown) and isinstance(shown, frames.Error):
                    log.warning("the relay reports %s: %s", shown.code, shown.message)
                if self._resuming:
                    self._wake.set()
            case Presence(project=project, site=site, state=state) if project in self.memberships:
                self._take_presence(project, site, online=state == "online")
            case frames.Subscribed(project=project, state=state):
                self.memberships[project] = _membership(project, state)
                self.inbox.subscribed(project, state)
            case frames.Unsubscribed(project=project):
                self.memberships.pop(project, None)
                self.inbox.unsubscribed(project)
            case Goodbye():
                self._take_goodbye(shown)
            case _:
                pass
        self._tell(shown)

    def _take_presence(self, project: int, site: str, *, online: bool) -> None:
        known = self.memberships[project]
        others = known.online | {site} if online else known.online - {site}
        self.memberships[project] = Membership(project=project, role=known.role, epoch=known.epoch, online=others)

    def _take_goodbye(self, goodbye: Goodbye) -> None:
        log.info("the relay says goodbye: %s", goodbye.code)
        self._retry_after_s = goodbye.retry_after
        if goodbye.code == "token_expiring" and self._tasks is not None and self._renewal.is_due():
            self._tasks.create_task(self._renewal.run(), name="relay-renewal")

    def _tell(self, shown: frames.Shown) -> None:
        hook = self._hooks.get(type(shown))
        if hook is None:
            return
        try:
            hook(shown)
        except Exception:
            log.exception("a callback for %s failed", type(shown).__name__)

    # --- writing

    async def _write(self, transport: Transport) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_acks(transport)
            if self._leaving:
                await transport.close(CloseCode.NORMAL)
            elif not self._resuming:
                await self._send_requests(transport)
            elif not self.requests.fragile:
                transport.drop()  # no closing handshake: the site is not leaving, and nobody need think so

    async def _send_requests(self, transport: Transport) -> None:
        while (request := self.requests.next_to_send()) is not None:
            try:
                frame = request.frame(self._frame_limits)
            except RelayError as error:
                request.fail(error)
            else:
                await transport.send(frame, binary=request.payload is not None)

    async def _send_acks(self, transport: Transport) -> None:
        if self._ack_timer is not None and not self._leaving:
            return  # it wakes this again
        for project, offset in self.inbox.take_acks():
            await transport.send(codec.encode({"type": "ack", "project": project, "offset": offset}))

    def _new_request(self) -> None:
        self.inbox.look_again()
        self._wake.set()

    def _new_ack(self) -> None:
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(self._limits.ack_delay_s, self._acks_due)

    def _acks_due(self) -> None:
        self._ack_timer = None
        self._wake.set()

    def _resume(self) -> None:
        if self._connected and not self._resuming:
            log.info("the buffer is empty again: asking for the events that did not fit")
            self._reconnect()

    def _reconnect(self) -> None:
        """Go on over a new connection, once nothing is under way that would not survive it."""
        self._resuming = True
        self._wake.set()


def _hello(projects: dict[str, dict[str, Any]]) -> bytes:
    client = f"starfish-py/{__version__}"
    return codec.encode({"type": "hello", "ref": 0, "client": client, "projects": projects})


def _membership(project: int, state: ProjectState) -> Membership:
    return Membership(project=project, role=state.role, epoch=state.epoch, online=state.online)


def _raise_if_final(closed: Disconnected) -> None:
    """A close after which the same would only happen again. 1000 and 1001 are the client's own, when it leaves: from
    the other side they come of something between that is being stopped, and the session goes on."""
    code = closed.code
    if code in BY_CLOSE_CODE and not RECONNECT[CloseCode(code)]:
        raise BY_CLOSE_CODE[code](f"the relay closed the session: {closed}") from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a connection: of several errors at once, one that is no mere consequence of it."""
    errors = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return min(errors, key=lambda error: isinstance(error, Disconnected))
