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
    SITE_CREATE = "site.create"
    SITE_UPDATE = "site.update"
    SITE_DELETE = "site.delete"
    SITE_KEYS = "site.keys"
    PROJECT_CREATE = "project.create"
    PROJECT_UPDATE = "project.update"
    PROJECT_DELETE = "project.delete"
    MEMBER_JOIN = "member.join"
    MEMBER_LEAVE = "member.leave"
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
    LEFT_OUT = "audit.left_out"


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


def encode_details(details: Details) -> str:
    return _encode(dict(details)) if details else "{}"


def canonical(seq: int, note: Note) -> bytes:
    """The form of an entry that is hashed (RFC 8785; all keys are ASCII, and all numbers whole ones below 2^53)."""
    fields = {
        "action": note.action,
        "actor": note.actor,
        "at_us": note.at_us,
        "details": dict(note.details),
        "origin": note.origin,
        "result": note.result,
        "seq": seq,
        "target": note.target,
    }
    return _encode(fields).encode("utf-8", "surrogatepass")


def hash_of(previous: str, seq: int, note: Note) -> str:
    return hashlib.sha256(bytes.fromhex(previous) + canonical(seq, note)).hexdigest()


def follow(head: ChainHead, notes: Iterable[Note]) -> list[Record]:
    """The notes as the entries that come after the head."""
    records = []
    seq, previous = head.seq, head.hash
    for note in notes:
        seq += 1
        previous = hash_of(previous, seq, note)
        records.append(
            Record(
                seq=seq,
                hash=previous,
                at_us=note.at_us,
                actor=note.actor,
                action=note.action,
                target=note.target,
                result=note.result,
                origin=note.origin,
                details=note.details,
            )
        )
    return records


class ChainBroken(Exception):
    """The record is not what was recorded. The message names the first entry at which that shows."""


class Verifier:
    """Goes along a chain, page by page. `anchors`: hashes of entries that are known from elsewhere, by number."""

    def __init__(self, anchors: Mapping[int, str] | None = None) -> None:
        self._anchors = dict(anchors or {})
        self.head = GENESIS

    def take(self, records: Sequence[Record]) -> None:
        """The next entries. Raises `ChainBroken`."""
        seq, previous = self.head.seq, self.head.hash
        for record in records:
            if record.seq != seq + 1:
                raise ChainBroken(f"entry {seq + 1} is missing: after {seq} comes {record.seq}")
            seq, previous = record.seq, hash_of(previous, record.seq, record)
            if record.hash != previous:
                raise ChainBroken(f"entry {seq} is not what was recorded, or not what followed entry {seq - 1}")
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
