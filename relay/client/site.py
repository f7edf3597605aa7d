"""A site at its relay: the public face of this client.

    async with Site("https://relay.example", token=token) as site:
        await site.publish(12, "message", data={"hello": "everybody"})
        async for event in site.events():
            print(event.kind, event.sender, event.data)

A lost connection is not an error. The session comes back by itself (backoff, full jitter), goes on where it was, and
publishes that were not answered are sent again under the same id. What ends it for good is raised: `SessionEnded`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import ssl as ssl_module
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from uuid import UUID

from relay.client import feeds, frames, updates
from relay.client.api import Api
from relay.client.credentials import Credentials, TokenSource
from relay.client.errors import ClientError, RelayError, SessionEnded
from relay.client.frames import Event, Goodbye, Membership, Presence, Published, Receipt
from relay.client.ladder import Ladder
from relay.client.limits import Limits, backoff
from relay.client.members import Invitations, Members, Requests
from relay.client.methods import JsonObject, JsonObjects, Keys, Projects, Runs
from relay.client.payloads import Payloads
from relay.client.proxies import Proxy, proxy_for
from relay.client.rest import RestRung
from relay.client.session import Session
from relay.client.sources import Sendable
from relay.client.transport import Rung, api_url, socket_url
from relay.client.updates import Address, Update
from relay.client.uploads import OnProgress
from relay.client.websocket import WebSocketRung
from relay.protocol.errors import ErrorCode, unknown_project

if TYPE_CHECKING:
    from relay.client.sealed import Identity, SealError, Trust
    from relay.client.sealed.desk import Desk

log = logging.getLogger(__name__)

TransportName = Literal["websocket", "sse", "poll"]
T = TypeVar("T")
TRANSPORTS: tuple[TransportName, ...] = ("websocket", "sse", "poll")
"""The ladder, from the top. All carry the same events, from the same offsets."""


class Site:
    """One site's session with a relay. Made by `async with`, once; safe for use by many tasks of one event loop.

    Entering connects and says hello; it goes on trying for `Limits.connect_s`. Leaving sends the acknowledgements that
    wait and closes with 1000; no task and no socket is left.

    Args:
        url: `http(s)://host:port` or `ws(s)://host:port`, with a path if the relay is behind one.
        token: the site's token; or a function, or coroutine function, that gives one whenever one is needed: for each
            connection (without a WebSocket, for each request), and before the last one expires. Or else:
        user: a user's name, who owns the site,
        password: with the password,
        uid: and the site's uid.
        ssl: for a certificate of one's own (`ssl.create_default_context(cafile=…)`), or a client certificate.
        proxy: a proxy's URL, `http://user:password@host:port`; True: as the environment says (`HTTPS_PROXY`,
            `HTTP_PROXY`, `NO_PROXY`); False: none.
        transports: which ways to the relay may be used: `websocket`; `sse` where a network blocks that; `poll` where it
            holds back event streams too.
        start: by project, the offset after which to go on instead of this site's own cursor; `"new"` skips the past.
        on_receipt: called when an addressee has acknowledged an event that was published with `receipts=True`.
        on_presence: called when another site comes or goes.
        on_goodbye: called before the relay ends the connection, and a minute before the token expires
            (`code` is `token_expiring`: time to `refresh`, unless `token` is a function). Callbacks must not wait.
        limits: every bound and every time.
        identity: seal all that is published for its addressees, and take nothing from other sites but what they have
            sealed for this one (`relay.client.sealed`; docs/security.md). `events` and `history` then raise
            `SealError` for what is not; with
        on_refused: called with that error instead, and the event is passed over.
        trust: whom this site trusts. Left out: a file beside the identity's, named `….trust`.

    Raises:
        ValueError: the URL, the proxy, the transports or the combination of credentials is none that can be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource | None = None,
        user: str | None = None,
        password: str | None = None,
        uid: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool = True,
        transports: Sequence[TransportName] = TRANSPORTS,
        start: Mapping[int, int | Literal["new"]] | None = None,
        on_receipt: Callable[[Receipt], None] | None = None,
        on_presence: Callable[[Presence], None] | None = None,
        on_goodbye: Callable[[Goodbye], None] | None = None,
        limits: Limits | None = None,
        identity: Identity | None = None,
        trust: Trust | None = None,
        on_refused: Callable[[SealError], None] | None = None,
    ) -> None:
        self._url = socket_url(url)
        if ssl is not None and not self._url.startswith("wss:"):
            raise ValueError("ssl goes with an https or wss URL")
        self._limits = limits or Limits()
        self._credentials = Credentials(token, user, password, uid, self._limits)
        if ssl is None and self._url.startswith("wss:"):
            ssl = ssl_module.create_default_context()
        way_out = proxy_for(self._url, proxy)
        rungs = self._rungs(transports, ssl, way_out)
        self._payloads = Payloads(
            lambda: Api(api_url(self._url), self._credentials, self._limits, ssl=ssl, proxy=way_out),
            self._limits,
            renewable=self._credentials.renewable,
        )
        # Ids count up behind a random beginning, so that an event of one's own is known by its id, however many there
        # were: version 8 of RFC 9562, 60 random bits.
        self._id_prefix = f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-8{secrets.token_hex(2)[1:]}-"
        self._ids = itertools.count(1)
        self._session = Session(
            Ladder(rungs, self._limits),
            self._credentials,
            self._limits,
            is_own=lambda event: event.sender == self.uid and event.id.startswith(self._id_prefix),
            start={str(project): {"offset": offset} for project, offset in (start or {}).items()},
            on_receipt=on_receipt,
            on_presence=on_presence,
            on_goodbye=on_goodbye,
        )
        self._untold: Event | None = None
        self._desk = None if identity is None else self._new_desk(identity, trust, on_refused, start)
        self.projects = Projects(self._call, None if self._desk is None else self._desk.handed_on)
        self.invitations = Invitations(self._call)
        self.requests = Requests(self._call)
        self.members = Members(self._call)
        self.runs = Runs(self._call)
        self.keys = Keys(self._call)

    def __repr__(self) -> str:
        return f"<Site {self._session.site.name or '?'} at {self._url}>"

    async def __aenter__(self) -> Self:
        """
        Raises:
            SessionEnded: the relay refused it for good (`Unauthenticated`, `Forbidden`, `UnknownSite`, …).
            NotConnected: the relay was not reached within `Limits.connect_s`.
            SealError: the identity is another site's.
        """
        await self._session.start()
        try:
            if self._desk is not None:
                await self._desk.enter(self.uid)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._session.inbox.settle()
        if error is None and self._desk is not None:
            self._desk.settle()
        try:
            await self._payloads.close()
        finally:
            try:
                await self._session.stop()
            finally:
                if self._desk is not None:
                    self._desk.close()

    def _new_desk(
        self,
        identity: Identity,
        trust: Trust | None,
        on_refused: Callable[[SealError], None] | None,
        start: Mapping[int, int | Literal["new"]] | None,
    ) -> Desk:
        from relay.client.sealed.desk import Desk  # noqa: PLC0415 - its parts are an extra

        def epoch(project: int) -> str:
            membership = self._session.memberships.get(project)
            return "" if membership is None else membership.epoch

        return Desk(identity, trust, self._call, on_refused=on_refused, epoch=epoch, rewound=frozenset(start or ()))

    def _rungs(
        self, transports: Sequence[TransportName], ssl: ssl_module.SSLContext | None, proxy: Proxy | None
    ) -> list[Rung]:
        if not transports or not set(transports) <= set(TRANSPORTS):
            raise ValueError(f"transports are one or more of {', '.join(TRANSPORTS)}")
        credentials, limits, api = self._credentials, self._limits, api_url(self._url)
        ladder: list[Rung] = [
            WebSocketRung(self._url, credentials, limits, ssl=ssl, proxy=proxy),
            RestRung("sse", feeds.stream, api, credentials, limits, ssl=ssl, proxy=proxy),
            RestRung("poll", feeds.poll, api, credentials, limits, ssl=ssl, proxy=proxy),
        ]
        return [rung for rung in ladder if rung.name in transports]

    # --- who and where

    @property
    def uid(self) -> str:
        return self._session.site.uid

    @property
    def name(self) -> str:
        return self._session.site.name

    @property
    def connected(self) -> bool:
        """There is a connection right now. Nothing has to wait for one: requests do so by themselves."""
        return self._session.connected

    @property
    def transport(self) -> str:
        """What carries the frames now, or will be tried next: `websocket`, `sse` or `poll`."""
        return self._session.transport

    @property
    def memberships(self) -> Mapping[int, Membership]:
        """The projects that this site takes part in, by id, as last told."""
        return self._session.memberships

    def presence(self, project: int) -> frozenset[str]:
        """Uids of who else is online in a project, as last told. A participant is told of the coordinator only.

        Raises:
            RelayError: `unknown_project`: this site does not take part in it.
        """
        membership = self._session.memberships.get(project)
        if membership is None:
            refusal = unknown_project()
            raise RelayError(refusal.code, refusal.message)
        return membership.online

    # --- events

    def events(self) -> AsyncIterator[Event]:
        """All projects' events, in the order of their journals; `async for event in site.events()`.

        An event counts as processed, and is acknowledged, when the next one is asked for, or when the `async with`
        block is left without an exception. A site that is killed in between is shown it again. Otherwise no event comes
        twice and none is left out, however often the connection is lost; what cannot be made good is told by an event
        of the kind `resync`, which brings the runs as they are now (see `Event`).

        What is published through this object is not shown to it, live or later, unless it was given an `id`. What other
        processes of the same site publish is, and so is what an earlier process did, if it comes after the cursor.

        Events are read ahead up to `Limits.buffer_events` and `Limits.buffer_bytes`; then the socket is not read
        further, and the relay holds what follows. Only one task may read at a time.

        Raises, while iterating:
            SessionEnded: there is no session any more; `Closed` if the block was left.
        """
        return _Events(self._next_event)

    async def _next_event(self) -> Event:
        while True:
            if self._untold is None:
                if self._desk is not None:
                    self._desk.settle()
                self._untold = await self._session.inbox.next()
            try:  # it is kept until it has been told, should the application stop waiting
                told = await self._told(self._untold)
            except SessionEnded:
                raise
            except ClientError:
                self._untold = None
                raise
            self._untold = None
            if told is not None:
                return told

    async def _told(self, event: Event) -> Event | None:
        """The event as the application is shown it; None if it is not."""
        if event.kind == "resync" and event.sender is None:
            runs = await self._patiently(lambda: self.runs.list(event.project))
            data = event.data if isinstance(event.data, dict) else {}
            return replace(event, data=data | {"runs": runs or []})
        desk, event = self._desk, replace(event, origin=self._payloads)
        return event if desk is None else await self._patiently(lambda: desk.shown(event))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What the relay answers, however often it has to be asked; None if the site has left the project meanwhile."""
        attempt = 0
        while True:
            try:
                return await ask()
            except RelayError as error:
                if error.code == ErrorCode.UNKNOWN_PROJECT:
                    return None
                log.warning("the relay could not be asked: %s; trying again", error)
            await asyncio.sleep(backoff(self._limits, attempt, None))
            attempt += 1

    # --- publishing

    async def publish(
        self,
        project: int,
        kind: str,
        *,
        data: Any = None,
        payload: bytes | None = None,
        to: str | Sequence[str] | None = None,
        run: int | None = None,
        transient: bool | None = None,
        receipts: bool | None = None,
        id: str | UUID | None = None,  # noqa: A002 - the protocol's name
        round: int | None = None,  # noqa: A002 - the field's word
    ) -> Published:
        """Publish an event; returns once it is durable.

        It is sent again, under the same id and in the same order, on every new connection until it is answered. To give
        up, cancel it (`asyncio.timeout`): whether it was stored is then not known, and publishing again with the same
        `id` stores it once. (A transient event's id is not remembered: one may come twice.) When `Limits.in_flight`
        requests wait for their answers, this waits for one of them.

        Args:
            kind: `command` (coordinator only), `update`, `progress`, `log`, `key`, `message`.
            data: any JSON.
            payload: bytes, in place of data.
            to: `"participants"`, `"coordinator"`, or site uids. Left out: a coordinator speaks to the participants, a
                participant to the coordinator.
            run: the run that it belongs to.
            transient: not stored, only for who is online. `progress` is transient unless this is False.
            receipts: have `on_receipt` called when an addressee has acknowledged it.
            id: a UUID, the idempotency key: for an event that is to be stored once even if this process is killed and
                publishes it again.
            round: (with an identity) the round that it belongs to, sealed with it; `Event.round` at the other end.

        Raises:
            ValueError: both data and payload are given; or a round, and there is no identity to seal it.
            SealError: (with an identity) an addressee has no key, or none that this site trusts.
            RelayError: the relay refused it.
            SessionEnded: there is no session any more.
        """
        if data is not None and payload is not None:
            raise ValueError("an event has either data or a payload")
        to = to if to is None or isinstance(to, str) else list(to)
        options = {"run": run, "transient": transient, "receipts": receipts}
        frame = {"type": "publish", "id": str(id or self._new_id()).lower(), "project": project, "kind": kind}
        frame |= {name: value for name, value in options.items() if value is not None}
        if self._desk is not None:
            return await self._desk.sealer.publish(self._send, frame, data, payload, to, round)
        if round is not None:
            raise ValueError("a round is sealed with the event: that needs an identity")
        return await self._send(frame, data, payload, to)

    async def _send(self, frame: JsonObject, data: Any, payload: bytes | None, to: str | list[str] | None) -> Published:
        frame = frame if to is None else frame | {"to": to}
        if payload is None:
            frame = frame | {"data": data}
        ok = await self._session.requests.ask("publish", frame, payload)
        return Published(offset=ok.offset, duplicate=ok.duplicate)

    async def send_update(
        self,
        project: int,
        content: Sendable,
        *,
        kind: str = "update",
        to: str | Sequence[str] | None = None,
        run: int | None = None,
        receipts: bool | None = None,
        id: str | UUID | None = None,  # noqa: A002 - the protocol's name
        filename: str | None = None,
        media_type: str | None = None,
        state: str | os.PathLike[str] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Published:
        """Publish a payload of any length; returns once the event is durable. `Event.open` and `Event.save` read it.

        What is short (`Limits.inline_bytes`) goes into the event. The rest is uploaded first, long ones in parts,
        several at a time; the event then refers to the blob. Memory is flat. It goes on where it was after every lost
        connection, and the relay's every restart, until it is cancelled. A later call with the same content to the
        same place, from another process too, goes on where this one was: a small file remembers what was begun, and
        the event's id, until it is published. With an identity it is sealed into a file beside that one first.

        Args:
            content: bytes, a path, or an open binary file that can seek.
            kind, to, run, receipts: as for `publish`.
            id: as for `publish`; left out, it is kept in that small file.
            filename: for who downloads it with other tools; left out, the file's own.
            media_type: the same.
            state: a directory for the small file. Left out: beside the path, if that can be written; for bytes and open
                files it is kept in memory alone.
            on_progress: is told how many bytes of how many were sent. It must not wait.

        Raises:
            RelayError: the relay refused it (`too_large`: more than a blob, the project or the site may have).
            SourceChanged: the file was written to meanwhile; nothing was published.
            Corrupted: it has arrived damaged, several times.
            InUse: another task or process is sending the same.
            OSError: the file cannot be read.
            SessionEnded: there is no session any more.
        """
        address = Address(
            project=project,
            kind=kind,
            to=to if to is None or isinstance(to, str) else list(to),
            run=run,
            receipts=receipts,
            id=None if id is None else str(id),
        )
        update = Update(
            address=address,
            content=content,
            filename=filename,
            media_type=media_type,
            state=state,
            on_progress=on_progress,
            new_id=self._new_id,
        )
        inline_bytes = min(self._limits.inline_bytes, self._session.inline_bytes)
        whose, by_blob = f"{self._url} {self.uid}", None
        if self._desk is not None:
            by_blob = self._desk.sealer.by_blob(update, self._payloads, self._send, whose)
            inline_bytes -= self._desk.sealer.SPARE_BYTES
        return await updates.send(
            update, self.publish, self._payloads, whose=whose, inline_bytes=inline_bytes, by_blob=by_blob
        )

    def _new_id(self) -> str:
        tail = f"{2**63 + next(self._ids):016x}"
        return f"{self._id_prefix}{tail[:4]}-{tail[4:]}"

    # --- calls

    async def progress(self, project: int, batch: int) -> JsonObjects:
        """The newest progress of each run in a batch.

        Raises:
            RelayError: the relay refused it.
            SealError: (with an identity, without `on_refused`) one of them is not what a site has sealed for this one.
            SessionEnded: there is no session any more.
        """
        newest: JsonObjects = await self._call("progress.get", project=project, batch=batch)
        return newest if self._desk is None else await self._desk.opened_progress(newest)

    async def history(
        self, project: int, *, after: int = 0, limit: int | None = None, kind: str | None = None
    ) -> list[Event]:
        """Events of the journal after an offset, oldest first, at most `limit` (and at most 1000) of them.

        Raises:
            RelayError: the relay refused it.
            SealError: (with an identity, without `on_refused`) one of them is not what a site has sealed for this one.
            SessionEnded: there is no session any more.
        """
        found = await self._call("history.read", project=project, after=after, limit=limit, kind=kind)
        events = [replace(frames.event_of(event), origin=self._payloads) for event in found]
        return events if self._desk is None else await self._desk.looked_up(events)

    async def cursors(self, project: int) -> JsonObjects:
        """How far each site has acknowledged, how many events lie after that, and how many of them are for it.

        Each has `site`, `offset`, `behind` and `unread`.

        Raises:
            RelayError: the relay refused it.
            SessionEnded: there is no session any more.
        """
        cursors: JsonObjects = await self._call("cursors.list", project=project)
        return cursors

    async def receipts(self, project: int, offset: int) -> JsonObject:
        """Who of an event's addressees has acknowledged it: uids in `acknowledged` and in `waiting`.

        Raises:
            RelayError: the relay refused it.
            SessionEnded: there is no session any more.
        """
        receipts: JsonObject = await self._call("receipts.get", project=project, offset=offset)
        return receipts

    async def refresh(self, token: str) -> datetime | None:
        """Go on with a new token of the same site, without a reconnect. Returns when it expires.

        Raises:
            RelayError: `unauthenticated`; the session goes on with what it had.
            SessionEnded: there is no session any more.
        """
        if not self.connected:  # the old one may not be good enough to connect again
            self._credentials.renew(token)
        ok = await self._session.requests.ask("refresh", {"type": "refresh", "token": token})
        self._credentials.renew(token)
        return ok.expires_at

    async def _call(self, method: str, /, **params: Any) -> Any:
        given = {name: value for name, value in params.items() if value is not None}
        return (await self._session.requests.ask(method, {"type": "call", "method": method, "params": given})).result


class _Events(AsyncIterator[Event]):
    """What `Site.events` returns. Every one of them reads from the same place."""

    def __init__(self, next_event: Callable[[], Awaitable[Event]]) -> None:
        self._next_event = next_event

    async def __anext__(self) -> Event:
        return await self._next_event()
