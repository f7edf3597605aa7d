"""What leaves a site is sealed here for those who take part now; anew, if one of them has left meanwhile."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec

from relay.client.errors import RelayError
from relay.client.frames import Published
from relay.client.methods import Call, JsonObject
from relay.client.offloop import aside
from relay.client.payloads import Payloads
from relay.client.sealed import blobs, envelope
from relay.client.sealed.circle import Circles
from relay.client.sealed.envelope import Header
from relay.client.sealed.identity import Identity, PublicKeys
from relay.client.sources import Source, hashed
from relay.client.updates import Update, noted
from relay.protocol.errors import ErrorCode, unknown_run

JSON_BYTES = 64 * 1024
"""A sealed JSON that is longer travels as bytes: in `data` it would have to be base64."""
MEMBERS_CHANGE = 4
"""How often an event is sealed anew, since members have left while it was."""


class Send(Protocol):
    """Publishes a frame with this content, for these addressees."""

    async def __call__(
        self, frame: JsonObject, data: Any, payload: bytes | None, to: str | list[str] | None
    ) -> Published: ...


class Sealer:
    """One site's.

    Args:
        me: the site's uid.
    """

    SPARE_BYTES = 64 * 1024
    """Of what an event may carry, for what sealing adds."""

    def __init__(self, identity: Identity, me: str, circles: Circles, call: Call) -> None:
        self._identity = identity
        self._me = me
        self._circles = circles
        self._call = call
        self._turn = asyncio.Lock()
        self._batches: dict[int, int] = {}

    async def publish(
        self,
        send: Send,
        frame: JsonObject,
        data: Any,
        payload: bytes | None,
        to: str | list[str] | None,
        round_: int | None,
    ) -> Published:
        """Seal for those who take part now; anew, if one of them has left meanwhile.

        Raises:
            Untrusted: an addressee has no key, or none that this site trusts.
            RelayError: the relay refused it, or has refused to say who takes part.
        """

        async def attempt() -> Published:
            async with self._turn:  # publishes keep their order
                sealed = await self._seal(frame, data, payload, to, round_)
            return await send(frame, *sealed)

        return await self._while_members_change(frame["project"], to, attempt)

    async def _while_members_change(
        self, project: int, to: str | list[str] | None, attempt: Callable[[], Awaitable[Published]]
    ) -> Published:
        """Seal and send, again if the relay says that one of those who were meant by a word has left."""
        for left in range(MEMBERS_CHANGE, -1, -1):
            try:
                return await attempt()
            except RelayError as error:
                gone = error.code is ErrorCode.INVALID and "to" in error.details and not isinstance(to, list)
                if not gone or not left:
                    raise
                self._circles.forget(project)
        raise AssertionError("the last attempt returns or raises")

    def by_blob(
        self, update: Update, payloads: Payloads, send: Send, whose: str
    ) -> Callable[[Source], Awaitable[Published]]:
        """How a payload goes out that is too long for an event."""
        address = update.address
        options = {"run": address.run, "receipts": address.receipts}
        frame: JsonObject = {"type": "publish", "project": address.project, "kind": address.kind}
        frame |= {name: value for name, value in options.items() if value is not None}

        async def sent(source: Source) -> Published:
            clear = await hashed(source, 0, source.size)
            about = [whose, "sealed", address.project, address.kind, address.to, address.run, clear]
            async with noted(update, about, address.id or update.new_id()) as note:
                named = frame | {"id": (address.id or note.event).lower()}

                async def attempt() -> Published:
                    header, keys = await self._header(named, "bytes", address.to, None)
                    head, blob = await blobs.upload(update, source, payloads, note, header, self._identity, keys)
                    data = {"sealed": base64.b64encode(head).decode("ascii"), "blob": blob}
                    return await send(named, data, None, list(header.to))

                return await self._while_members_change(address.project, address.to, attempt)

        return sent

    async def _seal(
        self, frame: JsonObject, data: Any, payload: bytes | None, to: str | list[str] | None, round_: int | None
    ) -> tuple[JsonObject | None, bytes | None, list[str]]:
        """What takes the place of the content: data, or a payload; and the addressees by uid."""
        header, keys = await self._header(frame, "json" if payload is None else "bytes", to, round_)
        content = msgspec.json.encode(data) if payload is None else payload
        sealed = await aside(len(content), envelope.seal, header, content, self._identity, keys)
        if payload is None and len(sealed) <= JSON_BYTES:
            return {"sealed": base64.b64encode(sealed).decode("ascii")}, None, list(header.to)
        return None, sealed, list(header.to)

    async def _header(
        self, frame: JsonObject, content: Literal["json", "bytes"], to: str | list[str] | None, round_: int | None
    ) -> tuple[Header, list[PublicKeys]]:
        circle = await self._circles.of(frame["project"])
        addressees = circle.addressees(self._me, to)
        keys = [circle.keys(uid) for uid in addressees if uid != self._me]
        run = frame.get("run")
        header = Header(
            project=frame["project"],
            kind=frame["kind"],
            id=frame["id"],
            sender=self._me,
            to=tuple(addressees),
            key=self._identity.public.id,
            at=datetime.now(UTC),
            content=content,
            run=run,
            batch=None if run is None else await self._batch_of(frame["project"], run),
            round=round_,
        )
        return header, keys

    async def _batch_of(self, project: int, run: int) -> int:
        for active in (True, None):
            if run not in self._batches:
                params = {"project": project} if active is None else {"project": project, "active": active}
                self._batches |= {one["id"]: one["batch"] for one in await self._call("runs.list", **params)}
        if run not in self._batches:
            refusal = unknown_run()
            raise RelayError(refusal.code, refusal.message)
        return self._batches[run]
