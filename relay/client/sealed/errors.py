"""What can be wrong with a sealed event or with a key.

ClientError                  (relay.client.errors)
└── SealError                its `event` is the event in question, without its content, or None
    ├── BadIdentity          the key file, or what is asked of it, is not right
    ├── Untrusted            whose key it is, is not certain
    │   ├── NoKey            a site announces no key, so nothing can be sealed for it
    │   ├── BadAnnouncement  the relay shows keys that their owner has not signed
    │   ├── KeyChanged       a site's key is another one than before
    │   └── CoordinatorChanged   a project's coordinator is another site than before
    └── Unacceptable         an event is not shown, since it is not what a site has sealed for this one
        ├── NotSealed        it is not sealed at all
        ├── Altered          it is not what its sender has signed
        ├── Misplaced        it was sealed as another event: project, kind, run, batch, id or sender differ
        ├── Replayed         it was shown before, in another place of the journal
        ├── NotAddressed     it was not sealed for this site
        └── WrongSender      its sender has no business to send it to this site
"""

from __future__ import annotations

from relay.client.errors import ClientError
from relay.client.frames import Event


class SealError(ClientError):
    """See the module."""

    event: Event | None = None


class BadIdentity(SealError):
    """An identity that cannot be used: the message says why."""


class Untrusted(SealError):
    """Whose key it is, is not certain."""


class NoKey(Untrusted):
    """A site announces no key: it has no identity, or the relay holds its announcement back."""

    def __init__(self, site: str) -> None:
        super().__init__(f"site {site} announces no key: it has no identity yet, or the relay holds it back")
        self.site = site


class BadAnnouncement(Untrusted):
    """The relay shows keys for a site that are not signed as they should be."""

    def __init__(self, site: str, why: str) -> None:
        super().__init__(f"the keys that the relay shows for site {site} are not its own: {why}")
        self.site = site


class KeyChanged(Untrusted):
    """A site's key is another one than this site has trusted until now, and the old one has not signed for it.

    `pinned` and `shown` are fingerprints. It is refused until somebody says otherwise: `starfish-relay keys trust`.
    """

    def __init__(self, site: str, pinned: str, shown: str) -> None:
        super().__init__(
            f"the key of site {site} has changed: trusted is {pinned}, the relay shows {shown}. Ask that site for its "
            f"fingerprint, by telephone; if it is the new one: starfish-relay keys trust {site} FINGERPRINT"
        )
        self.site, self.pinned, self.shown = site, pinned, shown


class CoordinatorChanged(Untrusted):
    """A project's coordinator is another site than before, as the relay tells it."""

    def __init__(self, project: int, pinned: str, shown: str) -> None:
        super().__init__(
            f"the coordinator of project {project} was site {pinned}, and the relay says that it is {shown}. If so: "
            f"starfish-relay keys trust {shown} FINGERPRINT --coordinates {project}"
        )
        self.project, self.pinned, self.shown = project, pinned, shown


class Unacceptable(SealError):
    """An event is not shown, since it is not what a site has sealed for this one."""


class NotSealed(Unacceptable):
    """It is not sealed at all, though all sites are expected to seal."""


class Altered(Unacceptable):
    """It is not what its sender has signed."""


class Misplaced(Unacceptable):
    """It was sealed as another event: its project, kind, run, batch, id or sender was another."""


class Replayed(Unacceptable):
    """It was shown before, in another place of the journal."""


class NotAddressed(Unacceptable):
    """It was not sealed for this site."""


class WrongSender(Unacceptable):
    """Its sender has no business to send it to this site: commands are the coordinator's."""
