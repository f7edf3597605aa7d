"""Payloads that the relay can neither read nor alter: sealed by one site for others (docs/security.md).

    identity   who a site is: its keys, and how it announces them
    trust      what a site holds to be true of the others, kept in a file
    circle     who takes part in a project, and with which keys, as the relay says and `trust` allows
    envelope   the sealed form
    blobs      … of what is too long for an event
    desk       what leaves a site and what comes in: sealed, opened, or refused
    errors     what can be wrong, as a tree

Needs the extra `e2e`: `pip install 'starfish-relay[e2e]'`.
"""

from relay.client.sealed.errors import (
    Altered,
    BadAnnouncement,
    BadIdentity,
    CoordinatorChanged,
    KeyChanged,
    Misplaced,
    NoKey,
    NotAddressed,
    NotSealed,
    Replayed,
    SealError,
    Unacceptable,
    Untrusted,
    WrongSender,
)
from relay.client.sealed.identity import Identity
from relay.client.sealed.trust import Trust

__all__ = [
    "Altered",
    "BadAnnouncement",
    "BadIdentity",
    "CoordinatorChanged",
    "Identity",
    "KeyChanged",
    "Misplaced",
    "NoKey",
    "NotAddressed",
    "NotSealed",
    "Replayed",
    "SealError",
    "Trust",
    "Unacceptable",
    "Untrusted",
    "WrongSender",
]
