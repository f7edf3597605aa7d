"""The sealed form of a payload: encrypted by age (C2SP) to its addressees, signed by its sender (Ed25519, RFC 8032).

    "SFS1"   4 bytes
    N        4 bytes, big-endian: the length of
    header   a JSON object: which event this is, by whom, and for whom
    sig      64 bytes, by the sender, over: context ‖ SHA-256(header) ‖ SHA-256(body)
    body     an age file; in it: SHA-256(header) ‖ content

What holds: the signature covers every byte that is not in itself. It is checked before anything is decrypted, and
nothing is shown before it was. The header's hash inside the body keeps somebody else from passing off a body, which
they cannot read, under a header and a signature of their own. The body of a large payload may travel apart from the
rest (`seal_file`, `open_file`): the signature is over its hash.

No cipher is written here: age chunks, encrypts and authenticates, for all recipients at once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, BinaryIO, Literal, Protocol

import msgspec
import pyrage
from cryptography.exceptions import InvalidSignature
from msgspec import Meta

from relay.client.sealed import identity as keys
from relay.client.sealed.errors import Altered, NotAddressed
from relay.client.sealed.identity import Identity, PublicKeys

MAGIC = b"SFS1"
MAX_HEADER_BYTES = 1024 * 1024
SIGNATURE_BYTES = 64
HASH_BYTES = 32
PIECE_BYTES = 256 * 1024
_CONTEXT = b"starfish-seal-v1 event\0"

Uid = Annotated[str, Meta(min_length=1, max_length=100)]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Which event it is: all that the relay could otherwise exchange. The relay can read it.

    `to` are the uids that it is sealed for, besides the sender; `key` names the key that has signed; `at` is the
    sender's clock; `content` says what is inside: JSON, or bytes.
    """

    v: Literal[1] = 1
    project: int
    kind: str
    id: str
    sender: Uid = msgspec.field(name="from")
    to: Annotated[tuple[Uid, ...], Meta(max_length=10_000)]
    key: Annotated[str, Meta(min_length=16, max_length=16)]
    at: Annotated[datetime, Meta(tz=True)]
    content: Literal["json", "bytes"]
    run: int | None = None
    batch: int | None = None
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A sealed payload, read but not checked yet. Without a body, it is the head of one that travels apart."""

    header: Header
    raw_header: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    body: memoryview = field(repr=False)


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def seal(header: Header, content: bytes, identity: Identity, recipients: Iterable[PublicKeys]) -> bytes:
    """The sealed form. `header.key` and `header.sender` are the identity's; it is a recipient by itself."""
    out = io.BytesIO()
    raw = msgspec.json.encode(header)
    _encrypt(raw, io.BytesIO(content), out, identity, recipients)
    body = out.getbuffer()
    return b"".join((_head(raw, hashlib.sha256(body).digest(), identity), body))


def seal_file(
    header: Header, source: Reader, target: BinaryIO, identity: Identity, recipients: Iterable[PublicKeys]
) -> tuple[bytes, str]:
    """Seal a stream in flat memory: the body goes into `target`. Returns the head, and the body's SHA-256 in hex."""
    raw = msgspec.json.encode(header)
    hashing = _Hashing(target.write)
    _encrypt(raw, source, hashing, identity, recipients)
    return _head(raw, hashing.sha256.digest(), identity), hashing.sha256.hexdigest()


def is_sealed(payload: bytes) -> bool:
    return payload[:4] == MAGIC


def read(sealed: bytes) -> Envelope:
    """
    Raises:
        Altered: it is not the form above.
    """
    length = int.from_bytes(sealed[4:8], "big")
    body_at = 8 + length + SIGNATURE_BYTES
    if not is_sealed(sealed) or length > MAX_HEADER_BYTES or len(sealed) < body_at:
        raise Altered("it is no envelope, or one that was cut off")
    raw = bytes(sealed[8 : 8 + length])
    try:
        header = msgspec.json.decode(raw, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Altered(f"its header cannot be read: {error}") from None
    return Envelope(header, raw, bytes(sealed[8 + length : body_at]), memoryview(sealed)[body_at:])


def check(envelope: Envelope, sender: PublicKeys, body_sha256: bytes | None = None) -> None:
    """Whether every byte is what the sender has signed. `body_sha256` is of a body that travels apart.

    Raises:
        Altered: it is not.
    """
    digest = hashlib.sha256(envelope.body).digest() if body_sha256 is None else body_sha256
    try:
        keys.verify(sender.sign, envelope.signature, _signed(envelope.raw_header, digest))
    except (InvalidSignature, ValueError):
        raise Altered("its signature is not its sender's") from None


def open_body(envelope: Envelope, identity: Identity) -> bytes:
    """The content. `check` has been called.

    Raises:
        NotAddressed: it was not sealed for this identity.
        Altered: the body is not the header's.
    """
    out = io.BytesIO()
    _decrypt(envelope, io.BytesIO(envelope.body), out, identity)
    return out.getvalue()


def open_file(envelope: Envelope, source: BinaryIO, target: BinaryIO, identity: Identity, sender: PublicKeys) -> None:
    """Open a body that has travelled apart, in flat memory. Nothing is written before all of it has been checked.

    Args:
        source: the body, whole; it is read twice.

    Raises:
        Altered: it is not what the sender has signed. What `target` holds is to be thrown away.
        NotAddressed: it was not sealed for this identity.
    """
    hashing = hashlib.sha256()
    while piece := source.read(PIECE_BYTES):
        hashing.update(piece)
    check(envelope, sender, hashing.digest())
    source.seek(0)
    _decrypt(envelope, source, target, identity)


def _head(raw_header: bytes, body_sha256: bytes, identity: Identity) -> bytes:
    signature = identity.sign(_signed(raw_header, body_sha256))
    return b"".join((MAGIC, len(raw_header).to_bytes(4, "big"), raw_header, signature))


def _signed(raw_header: bytes, body_sha256: bytes) -> bytes:
    return _CONTEXT + hashlib.sha256(raw_header).digest() + body_sha256


def _encrypt(
    raw_header: bytes, source: Reader, target: object, identity: Identity, recipients: Iterable[PublicKeys]
) -> None:
    for_whom = {identity.public.seal, *(recipient.seal for recipient in recipients)}
    ages = [pyrage.x25519.Recipient.from_str(one) for one in sorted(for_whom)]
    pyrage.encrypt_io(_Led(hashlib.sha256(raw_header).digest(), source), target, ages)


def _decrypt(envelope: Envelope, source: Reader, target: BinaryIO, identity: Identity) -> None:
    led = _Unled(hashlib.sha256(envelope.raw_header).digest(), target.write)
    try:
        pyrage.decrypt_io(source, led, identity.opening())
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise NotAddressed("it was not sealed for this site's key") from None
        raise Altered(f"its body cannot be opened: {error}") from None
    except OSError as error:
        if error.errno is not None:  # a disk that is full, say
            raise
        raise Altered(f"its body cannot be opened: {error}") from None
    led.end()


class _Led:
    """A stream with something before it."""

    def __init__(self, lead: bytes, source: Reader) -> None:
        self._lead = lead
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        if self._lead:
            taken = len(self._lead) if size < 0 else size
            first, self._lead = self._lead[:taken], self._lead[taken:]
            return first if size >= 0 else first + self._source.read()
        return self._source.read(size)


class _Unled:
    """Takes a stream whose first bytes have to be `lead`, and passes on what comes after them."""

    def __init__(self, lead: bytes, write: Callable[[bytes], object]) -> None:
        self._lead = lead
        self._write = write

    def write(self, piece: bytes, /) -> int:
        if self._lead:
            length = min(len(self._lead), len(piece))
            if piece[:length] != self._lead[:length]:
                raise Altered("its body belongs to another header")
            self._lead = self._lead[length:]
            self._write(piece[length:])
        else:
            self._write(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back here."""

    def end(self) -> None:
        if self._lead:
            raise Altered("its body is cut off")


class _Hashing:
    """Passes on what is written, and hashes it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.sha256 = hashlib.sha256()
        self._write = write

    def write(self, piece: bytes, /) -> int:
        self.sha256.update(piece)
        self._write(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back here."""
