"""What comes in to a site is opened here, or refused; what leaves it is sealed: `sealer`.

An event that comes in is shown if all of this holds, in the order in which it is looked at:

    it is sealed                                                      else NotSealed
    its header names the event that the relay says it is              else Misplaced
    the sender may speak to this site: see `_require_sender`          else WrongSender
    the key is the sender's, as this site trusts it                   else Untrusted
    every byte is what that key has signed                            else Altered
    it is for this site                                               else NotAddressed
    its body is the header's, and whole                               else Altered
    it does not stand in another place than when it was shown before  else Replayed; as it is
                                                                      for what is older than is remembered

The relay's own events (runs, participants, batches, …) are the relay's word, and pass as they are.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec

from relay.client import frames
from relay.client.downloads import Reference
from relay.client.errors import RelayError
from relay.client.frames import Event
from relay.client.methods import Call, JsonObject, JsonObjects
from relay.client.offloop import aside
from relay.client.sealed import blobs, envelope
from relay.client.sealed.circle import Circle, Circles
from relay.client.sealed.envelope import Envelope, Header
from relay.client.sealed.errors import (
    Altered,
    Misplaced,
    NotAddressed,
    NotSealed,
    Replayed,
    SealError,
    Untrusted,
    WrongSender,
)
from relay.client.sealed.identity import Identity, PublicKeys
from relay.client.sealed.sealer import Sealer
from relay.client.sealed.trust import SEEN_S, Trust, beside
from relay.protocol.errors import ErrorCode

log = logging.getLogger(__name__)

OF_SITES = frozenset({"command", "update", "progress", "log", "key", "message"})
"""The kinds of events that sites publish. The others are the relay's."""


class Desk:
    """One site's.

    Args:
        on_refused: told of what is refused, which is then passed over; without it, it is raised.
        epoch: the incarnation of a project's journal.
        rewound: projects that the application has asked to be shown from an offset of its own.
    """

    def __init__(
        self,
        identity: Identity,
        trust: Trust | None,
        call: Call,
        *,
        on_refused: Callable[[SealError], None] | None,
        epoch: Callable[[int], str],
        rewound: AbstractSet[int],
    ) -> None:
        self._identity = identity
        self._given = trust
        self._opened_trust: Trust | None = None
        self._call = call
        self._known_circles: Circles | None = None
        self._known_sealer: Sealer | None = None
        self._on_refused = on_refused
        self._epoch = epoch
        self._rewound = rewound
        self._in_hand: Event | None = None
        self._began = time.time()
        self._me = ""

    async def enter(self, me: str) -> None:
        """The session is there: announce the keys.

        Raises:
            BadIdentity: the identity is another site's.
            RelayError, SessionEnded: the keys could not be put at the relay.
        """
        path = self._identity.path
        self._opened_trust = self._given or Trust(None if path is None else beside(path))
        self._known_circles = Circles(self._call, self._trust)
        self._known_sealer = Sealer(self._identity, me, self._known_circles, self._call)
        self._trust.is_me(me, self._identity.chain)
        self._me = me
        try:
            await self._circles.announce(me, self._identity.announcement(me))
        except RelayError as error:
            if error.code is not ErrorCode.FORBIDDEN:
                raise
            log.warning("these credentials may only read: the keys are not announced")

    def close(self) -> None:
        self._in_hand = None
        if self._given is None and self._opened_trust is not None:
            self._opened_trust.close()

    @property
    def _trust(self) -> Trust:
        if self._opened_trust is None:
            raise RuntimeError("nothing can be sealed or opened before the site is entered")
        return self._opened_trust

    @property
    def sealer(self) -> Sealer:
        """Seals what this site publishes."""
        if self._known_sealer is None:
            raise RuntimeError("nothing can be sealed or opened before the site is entered")
        return self._known_sealer

    @property
    def _circles(self) -> Circles:
        if self._known_circles is None:
            raise RuntimeError("nothing can be sealed or opened before the site is entered")
        return self._known_circles

    # --- in

    async def open(self, event: Event, *, live: bool = False) -> Event:
        """The event with what was sealed in it. `live`: it came by itself, and not because it was looked up.

        Raises:
            SealError: it is refused: see the module. Its `event` is this one, without the content.
            RelayError, SessionEnded: the relay could not be asked for keys.
        """
        if event.kind in ("participant", "project"):
            self._circles.forget(event.project)
        if event.sender is None and event.kind not in OF_SITES:
            return event
        if event.payload is None and event.size is not None and not live:
            return self._too_long(event)
        with _told_of(event):
            return await self._opened(event, live)

    async def _opened(self, event: Event, live: bool) -> Event:
        sealed = _sealed_in(event)
        header = sealed.header
        _require_place(header, event)
        if live and event.project not in self._rewound:
            _require_remembered(header)
        await self._require_sender(header)
        signer = await self._signer(header)
        shown = replace(event, data=None, payload=None, size=None, round=header.round, to=header.to)
        reference = None if sealed.body or not isinstance(event.data, dict) else Reference.of(event.data)
        if reference is not None:
            return self._with_blob(shown, event.data["blob"], sealed, signer, reference)
        content = await aside(len(sealed.body), self._checked, sealed, signer)
        if header.content == "bytes":
            return replace(shown, payload=content)
        try:
            return replace(shown, data=msgspec.json.decode(content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Altered("its content is no JSON, as its sender says it is") from None

    def _with_blob(
        self, shown: Event, blob: JsonObject, sealed: Envelope, signer: PublicKeys, reference: Reference
    ) -> Event:
        """An event whose body travels apart: it is opened by `Event.open` and `Event.save`."""
        if reference.sha256 is None or shown.origin is None:
            raise Altered("the hash of its body is missing")
        envelope.check(sealed, signer, bytes.fromhex(reference.sha256))
        self._require_addressed(sealed.header)
        origin = blobs.SealedBlob(shown.origin, sealed, self._identity, signer)
        return replace(shown, data={"blob": blob}, origin=origin)

    def _too_long(self, event: Event) -> Event:
        """An event whose payload is not here: `Event.open` and `Event.save` fetch it, and open it then."""
        if event.origin is None:
            return replace(event, data=None)
        return replace(event, data=None, origin=blobs.SealedPayload(event.origin, event, self.open))

    def _checked(self, sealed: Envelope, signer: PublicKeys) -> bytes:
        envelope.check(sealed, signer)
        self._require_addressed(sealed.header)
        return envelope.open_body(sealed, self._identity)

    def _require_addressed(self, header: Header) -> None:
        if self._me not in (*header.to, header.sender):
            raise NotAddressed(f"it was sealed for {', '.join(header.to[:5])}")

    async def _require_sender(self, header: Header) -> None:
        """A participant hears the coordinator and itself; a coordinator hears all, but commands are its own.

        Who coordinates was pinned when the project was first seen: the relay cannot make a participant speak as one.
        """
        coordinator = self._trust.coordinator(header.project)
        if coordinator is None:
            coordinator = (await self._circles.of(header.project)).coordinator
        if header.sender == coordinator:
            return
        if header.kind == "command" or (coordinator != self._me and header.sender != self._me):
            raise WrongSender(f"site {header.sender} does not coordinate project {header.project}")

    async def _signer(self, header: Header) -> PublicKeys:
        """The key that has signed, if it is trusted to be the sender's."""
        if header.sender == self._me and header.key == self._identity.public.id:
            return self._identity.public
        known = self._trust.signer(header.sender, header.key)
        if known is not None:
            return known
        self._circles.forget(header.project)
        circle: Circle = await self._circles.of(header.project)
        current = circle.keys(header.sender)
        known = self._trust.signer(header.sender, header.key)
        if known is None:
            raise Untrusted(
                f"it was signed by key {header.key}, which is none that site {header.sender} is trusted with: "
                f"its key is {current.id}"
            )
        return known

    def handed_on(self, project: int, site: str) -> None:
        """This site has made another one the coordinator: it need not be told so by anybody."""
        self._trust.trust_coordinator(project, site.lower())
        self._circles.forget(project)

    # --- shown, and processed

    async def shown(self, event: Event) -> Event | None:
        """An event as the application is to be shown it; None if it is passed over.

        Raises: as `open`, and
            Replayed: it stands in another place than when it was shown before.
        """
        shown: list[Event] = []
        with self._told():
            opened = await self.open(event, live=True)
            shown += [opened] if self._take(opened) else []
        return shown[0] if shown else None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A refusal is told to `on_refused`, and what was refused is passed over; without it, it is raised."""
        try:
            yield
        except SealError as refusal:
            if self._on_refused is None:
                raise
            log.warning("an event is refused: %s", refusal)
            self._on_refused(refusal)

    def _take(self, event: Event) -> bool:
        """Whether an opened event is to be shown: it was not processed before."""
        if event.sender is None:
            return True
        with _told_of(event):
            sight = self._trust.see(
                event.project,
                event.sender,
                event.id,
                epoch=self._epoch(event.project),
                offset=event.offset,
                since=self._began,
            )
        if sight != "first" and (event.offset is None or (sight == "done" and event.project not in self._rewound)):
            log.info("event %s of project %d was processed before", event.id, event.project)
            return False
        self._in_hand = event
        return True

    def settle(self) -> None:
        """What the application has in hand is processed."""
        event, self._in_hand = self._in_hand, None
        if event is not None and event.sender is not None:
            self._trust.processed(event.project, event.sender, event.id)

    # --- looked up

    async def looked_up(self, events: list[Event]) -> list[Event]:
        """Events of the history, opened.

        Raises: as `open`, and
            Replayed: one stands in another place than when it was shown.
        """
        found = []
        for event in events:
            with self._told():
                opened = await self.open(event)
                self._require_place_known(opened)
                found.append(opened)
        return found

    def _require_place_known(self, event: Event) -> None:
        if event.sender is not None and event.offset is not None:
            epoch = self._epoch(event.project)
            with _told_of(event):
                self._trust.require_place(event.project, event.sender, event.id, epoch=epoch, offset=event.offset)

    async def opened_progress(self, newest: JsonObjects) -> JsonObjects:
        """What `progress.get` answers, opened. Raises as `open`."""
        found = []
        for event in newest:
            with self._told():
                clear = await self.open(frames.event_of(event))
                shown = {name: value for name, value in event.items() if name not in ("payload", "size")}
                found.append(shown | {"data": clear.data})
        return found


@contextmanager
def _told_of(event: Event) -> Iterator[None]:
    """A refusal says of which event, and shows nothing of it."""
    try:
        yield
    except SealError as refusal:
        refusal.event = replace(event, data=None, payload=None)
        raise


def _sealed_in(event: Event) -> Envelope:
    if event.payload is not None and envelope.is_sealed(event.payload):
        return envelope.read(event.payload)
    if isinstance(event.data, dict) and isinstance(event.data.get("sealed"), str):
        try:
            return envelope.read(base64.b64decode(event.data["sealed"], validate=True))
        except ValueError as error:  # what is not ASCII, too
            raise Altered(f"it is no base64: {error}") from None
    raise NotSealed(f"a {event.kind} of site {event.sender} is not sealed")


def _require_place(header: Header, event: Event) -> None:
    for name in ("project", "kind", "run", "batch", "id", "sender"):
        sealed, shown = getattr(header, name), getattr(event, name)
        if sealed != shown:
            raise Misplaced(f"its {name} is {shown} as the relay says, and {sealed} as its sender says")


def _require_remembered(header: Header) -> None:
    """Whether it was shown before is known of what is not too old."""
    if header.at < datetime.now(UTC) - timedelta(seconds=SEEN_S):
        days = SEEN_S / 86400
        raise Replayed(f"it was sealed more than {days:.0f} days ago: whether it was shown before is not remembered")
