"""The audit record's entries, and the chain that their hashes make. Pure: no storage, no clock.

An entry's hash is SHA-256 over the hash of the entry before (its 32 bytes; 32 zero bytes before the first) and the
entry's canonical form: the JSON object of its other fields, in RFC 8785 form, as UTF-8. So whoever knows the hash of
one entry can tell whether any entry up to it was edited, removed, added or moved (docs/audit.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

OK = "ok"
"""The result of what was done; of what was not, it is the code of the refusal."""
TEXT_LENGTH = 300
"""Characters of a field at most; what is longer is cut."""
Details = Mapping[str, str | int | None]


class Deed(StrEnum):
    """What is recorded."""

    LOGIN = "login"
    USER_CREATE = "user.create"
    USER_UPDATE = "user.update"
    USER_PASSWORD = "user.password"  # noqa: S105 - the name of a deed
    USER_DISABLE = "user.disable"
    USER_ENABLE = "user.enable"
    USER_DELETE = "user.delete"
    GROUP_CREATE = "group.create"
    GROUP_UPDATE = "group.update"
    GROUP_DELETE = "group.delete"
    TOKEN_CREATE = "token.create"  # noqa: S105 - the name of a deed
    TOKEN_REVOKE = "token.revoke"  # noqa: S105 - the name of a deed
    KEY_ADD = "key.add"
    KEY_REVOKE = "key.revoke"
    CERT_ADD = "cert.add"
    CERT_REMOVE = "cert.remove"
    SITE_CREATE = "site.create"
    SITE_UPDATE = "site.update"
    SITE_DELETE = "site.delete"
    SITE_KEYS = "site.keys"
    PROJECT_CREATE = "project.create"
    PROJECT_UPDATE = "project.update"
    PROJECT_DELETE = "project.delete"
    PROJECT_TRANSFER = "project.transfer"
    MEMBER_JOIN = "member.join"
    MEMBER_LEAVE = "member.leave"
    MEMBER_NOTES = "member.notes"
    MEMBER_UNBAR = "member.unbar"
    REQUEST_ASK = "request.ask"
    REQUEST_APPROVE = "request.approve"
    REQUEST_REJECT = "request.reject"
    INVITATION_CREATE = "invitation.create"
    INVITATION_REVOKE = "invitation.revoke"
    JOURNAL_KEEP = "journal.keep"
    RUNS_START = "runs.start"
    RUNS_STOP = "runs.stop"
    RUNS_RESTART = "runs.restart"
    RUNS_SET_ALL = "runs.set_all"
    RUNS_POLICY = "runs.policy"
    FILE_WRITE = "file.write"
    FILE_READ = "file.read"
    BLOB_CREATE = "blob.create"
    BLOB_READ = "blob.read"
    BLOB_LINK = "blob.link"
    BLOB_DELETE = "blob.delete"
    BACKUP = "storage.backup"
    RESTORE = "storage.restore"
    IMPORT = "storage.import"
    LEFT_OUT = "audit.left_out"
    PRUNE = "audit.prune"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What is to be recorded.

    Attributes:
        actor: `user:NAME`, `site:UID`, `shell:NAME` (the command line), `relay` (its own doing), or `unknown`.
        target: what it was done to: `project:7`, `site:UID`, `user:NAME` …; empty if it is the actor itself.
        result: `ok`, or the code of the refusal.
        origin: the client's address; `local` for the command line; empty for the relay's own doing.
        details: what else there is to say. Never a payload or a secret.
    """

    at_us: int
    actor: str
    action: str
    target: str = ""
    result: str = OK
    origin: str = ""
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Note):
    """A note in its place in the chain."""

    seq: int
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainHead:
    """The last entry: its number, from 1, and its hash in hexadecimal digits."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


GENESIS = ChainHead(seq=0, hash="00" * 32)
"""The head of a chain that has no entries."""

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def plain(text: str) -> str:
    """Text that any database and JSON can hold: nothing that is not Unicode, no NUL, and not without end."""
    cut = text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"
    return cut.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


_FIELDS = ("at_us", "actor", "action", "target", "result", "origin", "details")
_quote = json.encoder.encode_basestring


def encode_details(details: Details) -> str:
    return _encode(dict(details)) if details else "{}"


class ChainLink(NamedTuple):
    """An entry as it is stored, for hashing: its details are the text that they are stored as."""

    seq: int
    at_us: int
    actor: str
    action: str
    target: str
    result: str
    origin: str
    details: str
    hash: str


def hash_after(previous: str, link: ChainLink) -> str:
    """The hash of an entry that comes after one whose hash is `previous`.

    The canonical form is put together by hand: a million of them are to be hashed in seconds. With all strings quoted,
    no two entries have the same one, whatever stands in their columns.

    Raises:
        TypeError, ValueError: a column holds what no entry has.
    """
    seq, at_us, actor, action, target, result, origin, details, _ = link
    form = (
        f'{{"action":{_quote(action)},"actor":{_quote(actor)},"at_us":{at_us:d},"details":{details},'
        f'"origin":{_quote(origin)},"result":{_quote(result)},"seq":{seq:d},"target":{_quote(target)}}}'
    )
    return hashlib.sha256(bytes.fromhex(previous) + form.encode("utf-8", "surrogatepass")).hexdigest()


def follow(head: ChainHead, notes: Iterable[Note]) -> list[Record]:
    """The notes as the entries that come after the head."""
    records = []
    seq, previous = head.seq, head.hash
    for note in notes:
        seq += 1
        words = (note.actor, note.action, note.target, note.result, note.origin)
        previous = hash_after(previous, ChainLink(seq, note.at_us, *words, encode_details(note.details), ""))
        fields = {name: getattr(note, name) for name in _FIELDS}
        records.append(Record(seq=seq, hash=previous, **fields))
    return records


class ChainBroken(Exception):
    """The record is not what was recorded. The message names the first entry at which that shows."""


class Verifier:
    """Goes along a chain, page by page. `anchors`: hashes of entries that are known from elsewhere, by number."""

    def __init__(self, anchors: Mapping[int, str] | None = None) -> None:
        self._anchors = dict(anchors or {})
        self.start = self.head = GENESIS

    def begin(self, checkpoint: ChainHead) -> None:
        """Begin after an entry up to which all were removed. Raises `ChainBroken`: an anchor says otherwise, or names
        an entry of which nothing can be told any more.
        """
        oldest = min(self._anchors, default=checkpoint.seq)
        if oldest < checkpoint.seq:
            raise ChainBroken(
                f"an anchor names entry {oldest}, and all up to {checkpoint.seq} were pruned: use a newer one"
            )
        if self._anchors.get(checkpoint.seq, checkpoint.hash) != checkpoint.hash:
            raise ChainBroken(f"entry {checkpoint.seq} is not the one that the anchor names: the chain was made anew")
        self.start = self.head = checkpoint

    def take(self, links: Sequence[ChainLink]) -> None:
        """The next entries. Raises `ChainBroken`."""
        seq, previous = self.head.seq, self.head.hash
        for link in links:
            if link.seq != seq + 1:
                raise ChainBroken(f"entry {seq + 1} is missing: after {seq} comes {link.seq}")
            seq, hash_ = link.seq, _hash_of(previous, link)
            if hash_ is None or link.hash != hash_:
                raise ChainBroken(f"entry {seq} is not what was recorded, or not what followed entry {seq - 1}")
            previous = hash_
            if self._anchors.get(seq, previous) != previous:
                raise ChainBroken(f"entry {seq} is not the one that the anchor names: the chain was made anew")
        self.head = ChainHead(seq=seq, hash=previous)

    def end(self, stored: ChainHead) -> None:
        """There are no more entries, and `stored` is what is noted as the last. Raises `ChainBroken`."""
        beyond = max(self._anchors, default=0)
        if beyond > self.head.seq:
            raise ChainBroken(f"the record ends at entry {self.head.seq}, and an anchor names entry {beyond}")
        if stored != self.head:
            raise ChainBroken(f"the record ends at entry {self.head.seq}, and {stored.seq} is noted as the last")


def _hash_of(previous: str, link: ChainLink) -> str | None:
    try:
        return hash_after(previous, link)
    except (TypeError, ValueError):
        return None
