"""Who a site is to other sites: an Ed25519 key to sign with, an X25519 key (age) to be sealed for.

    identity = Identity.generate()
    identity.save("/var/lib/site/identity")      # readable by its owner alone
    print(identity.fingerprint)                  # to be read to the others, by telephone

    site = Site(url, token=token, identity=Identity.load("/var/lib/site/identity"))

The public halves travel through the relay as an *announcement*: a chain of links, one for each time that the keys were
replaced. Each link is signed by its own key and by the one before it, so that who trusts any key of the chain can
trust the last one; and the whole is signed by the last, together with the site's uid. Nothing in it needs the relay
to be honest. The format is in docs/security.md.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from relay.client import keyfiles
from relay.client.keyfiles import BadKeyFile
from relay.client.sealed.errors import BadAnnouncement, BadIdentity

ANNOUNCED_AS = "starfish-seal-v1"
"""The name of the announcement among a site's keys at the relay."""
MAX_LINKS = 8
"""Keys in a chain: who has not looked for longer than that has to trust by hand again."""
_LINK = b"starfish-seal-v1 link\0"
_ANNOUNCEMENT = b"starfish-seal-v1 announcement\0"
_FINGERPRINT = b"starfish-seal-v1 fingerprint\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKeys:
    """The public halves: 32 bytes of Ed25519, and an age recipient (`age1…`)."""

    sign: bytes
    seal: str

    @property
    def id(self) -> str:
        """Names the signing key in what it has signed."""
        return hashlib.sha256(self.sign).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """Eight groups of five digits: for people to compare, and to type."""
        digest = hashlib.sha256(_FINGERPRINT + self.sign + self.seal.encode("ascii")).digest()
        groups = (int.from_bytes(digest[at : at + 4], "big") % 100_000 for at in range(0, 32, 4))
        return " ".join(f"{group:05}" for group in groups)


class _Link(msgspec.Struct, frozen=True):
    """`body` is what is signed: a `_Body` as JSON. `by` is the signature of the key before; none in the first link."""

    body: bytes
    sig: bytes
    by: bytes | None = None


class _Body(msgspec.Struct, frozen=True):
    sign: bytes
    seal: str
    at: datetime


class _Announcement(msgspec.Struct, frozen=True):
    site: str
    chain: list[_Link]
    sig: bytes


class _File(msgspec.Struct, frozen=True, tag_field="type", tag="starfish-identity"):
    """What is in the key file. `sign` and `seal` are secret; the first of `seal` is the present one."""

    sign: bytes
    seal: list[str]
    chain: list[_Link]
    v: int = 1


@dataclass(frozen=True, eq=False)
class Identity:
    """See the module. Its private halves are shown by nothing but `save`.

    `path` is the file that it was loaded from or saved to; what is trusted is kept beside it.
    """

    _sign: Ed25519PrivateKey = field(repr=False)
    _seal: tuple[str, ...] = field(repr=False)
    _chain: tuple[_Link, ...] = field(repr=False)
    public: PublicKeys
    path: Path | None = None

    @property
    def fingerprint(self) -> str:
        return self.public.fingerprint

    # --- made, kept and replaced

    @classmethod
    def generate(cls) -> Identity:
        sign, seal = Ed25519PrivateKey.generate(), pyrage.x25519.Identity.generate()
        return cls._of(sign, (str(seal),), (_link(sign, seal, before=None),))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """
        Raises:
            BadIdentity: somebody else may read or write the file (expected mode 0600), or it holds no identity.
            OSError: it cannot be read.
        """
        try:
            content = keyfiles.read(path)
            file = msgspec.json.decode(content, type=_File)
            if file.v != 1 or not file.seal:
                raise ValueError(f"version {file.v}")
            sign = Ed25519PrivateKey.from_private_bytes(file.sign)
            return cls._of(sign, tuple(file.seal), tuple(file.chain), Path(path))
        except BadKeyFile as error:
            raise BadIdentity(str(error)) from None
        except (msgspec.DecodeError, ValueError, pyrage.IdentityError):  # what is in it is not to be shown
            raise BadIdentity(f"{path}: expected an identity of version 1, as Identity.save writes it") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file of mode 0600, all of it or nothing.

        Raises:
            FileExistsError: there is one; an identity is never overwritten.
            OSError: it cannot be written.
        """
        keyfiles.write_new(path, self._content())
        object.__setattr__(self, "path", Path(path))

    def rotate(self) -> Identity:
        """New keys, signed for by these, in the place of these: in the file too, if there is one.

        The new identity still opens what was sealed for the old one.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        sign, seal = Ed25519PrivateKey.generate(), pyrage.x25519.Identity.generate()
        chain = (*self._chain, _link(sign, seal, before=self._sign))[-MAX_LINKS:]
        new = Identity._of(sign, (str(seal), *self._seal)[:MAX_LINKS], chain, self.path)
        if self.path is not None:
            keyfiles.replace(self.path, new._content())
        return new

    @classmethod
    def _of(
        cls, sign: Ed25519PrivateKey, seal: tuple[str, ...], chain: tuple[_Link, ...], path: Path | None = None
    ) -> Identity:
        recipient = str(pyrage.x25519.Identity.from_str(seal[0]).to_public())
        public = PublicKeys(sign=sign.public_key().public_bytes_raw(), seal=recipient)
        if not chain or _keys_in(chain[-1]) != public:
            raise ValueError("the chain ends with other keys")
        return cls(sign, seal, chain, public, path)

    def _content(self) -> bytes:
        file = _File(sign=self._sign.private_bytes_raw(), seal=list(self._seal), chain=list(self._chain))
        return msgspec.json.encode(file) + b"\n"

    # --- what it does

    @property
    def chain(self) -> list[PublicKeys]:
        """The public keys that this identity has had, oldest first; each has signed for the next one."""
        return [_keys_in(link) for link in self._chain]

    def sign(self, message: bytes) -> bytes:
        return self._sign.sign(message)

    def opening(self) -> list[pyrage.x25519.Identity]:
        """What opens that which is sealed for this identity, or was for the ones before it."""
        return [pyrage.x25519.Identity.from_str(secret) for secret in self._seal]

    def announcement(self, site: str) -> str:
        """What is put at the relay, as base64: these are the keys of the site with this uid."""
        chain = list(self._chain)
        announcement = _Announcement(site=site, chain=chain, sig=self._sign.sign(_announced(site, chain)))
        return base64.b64encode(msgspec.json.encode(announcement)).decode("ascii")


def read_announcement(site: str, text: object) -> list[PublicKeys]:
    """The keys that a site has announced, oldest first; each has signed for the next one.

    Raises:
        BadAnnouncement: it is not what the site with this uid has signed.
    """
    try:
        if not isinstance(text, str):
            raise ValueError(f"expected a string, got {type(text).__name__}")
        announcement = msgspec.json.decode(base64.b64decode(text, validate=True), type=_Announcement)
        if announcement.site != site:
            raise ValueError(f"they were announced by site {announcement.site[:40]}")
        if not 1 <= len(announcement.chain) <= MAX_LINKS:
            raise ValueError(f"expected 1 to {MAX_LINKS} keys in a chain, got {len(announcement.chain)}")
        keys = [_keys_in(link) for link in announcement.chain]
        for at, link in enumerate(announcement.chain):
            verify(keys[at].sign, link.sig, _LINK + link.body)
            if at:
                verify(keys[at - 1].sign, link.by or b"", _LINK + link.body)
        verify(keys[-1].sign, announcement.sig, _announced(site, announcement.chain))
    except (msgspec.DecodeError, ValueError, RecursionError, pyrage.RecipientError) as error:
        raise BadAnnouncement(site, str(error)) from None
    except InvalidSignature:
        raise BadAnnouncement(site, "a signature is wrong") from None
    return keys


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Raises `InvalidSignature`, or `ValueError` for what is no key."""
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


def _link(sign: Ed25519PrivateKey, seal: pyrage.x25519.Identity, *, before: Ed25519PrivateKey | None) -> _Link:
    public = sign.public_key().public_bytes_raw()
    body = msgspec.json.encode(_Body(sign=public, seal=str(seal.to_public()), at=datetime.now(UTC)))
    by = None if before is None else before.sign(_LINK + body)
    return _Link(body=body, sig=sign.sign(_LINK + body), by=by)


def _keys_in(link: _Link) -> PublicKeys:
    body = msgspec.json.decode(link.body, type=_Body)
    if len(body.sign) != 32:
        raise ValueError(f"expected a key of 32 bytes, got {len(body.sign)}")
    pyrage.x25519.Recipient.from_str(body.seal)
    return PublicKeys(sign=body.sign, seal=body.seal)


def _announced(site: str, chain: Sequence[_Link]) -> bytes:
    """What the announcement's signature is over."""
    return _ANNOUNCEMENT + site.encode() + b"\0" + hashlib.sha256(chain[-1].body).digest()
