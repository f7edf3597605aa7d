"""The public keys that sites sign in with: register them, list them, revoke them.

A key is Ed25519, and its id is made from itself: both sides can work it out, and the same key is never two
sites'. A site may have several that are good, so that a new one is in use before the old one is revoked. What a key
signs to sign in is judged in `relay.core.assertions`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from relay.core import audit
from relay.core.audit_chain import Deed
from relay.core.model import SigningKey, Site
from relay.core.ports import AlreadyThere, Store, Tx
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_site

PER_SITE = 8
"""Keys of one site that are good at once: enough to change them one by one, and no store for what is forgotten."""
KEY_BYTES = 32
CREDENTIAL_PREFIX = "key:"
"""What the id of a key begins with where a session's credential may be a token or a key."""


def thumbprint(public_key: bytes) -> str:
    """The id of a public key: the first half of its thumbprint (RFC 7638, over the JWK of RFC 8037), 32 hex digits."""
    x = base64.urlsafe_b64encode(public_key).rstrip(b"=").decode("ascii")
    jwk = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return hashlib.sha256(jwk.encode()).hexdigest()[:32]


def read_public_key(text: str) -> bytes:
    """The 32 bytes of a public key, given as PEM or as their base64.

    Raises:
        ReplyError: `invalid`.
    """
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise invalid(
            public_key="this is a private key: it stays with the site, and should be replaced if it has left it"
        )
    if text.startswith("-----BEGIN"):
        return _from_pem(text)
    try:
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid(public_key="a PEM file, or 32 bytes in base64") from None
    if len(raw) != KEY_BYTES:
        raise invalid(public_key=f"an Ed25519 key has {KEY_BYTES} bytes, got {len(raw)}")
    return raw


def _from_pem(text: str) -> bytes:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise invalid(public_key="this PEM cannot be read") from None
    if not isinstance(key, Ed25519PublicKey):
        raise invalid(public_key=f"an Ed25519 key, got {type(key).__name__.strip('_')}")
    return key.public_bytes_raw()


async def add(store: Store, *, site_uid: str, public_key: bytes, label: str, now_us: int) -> SigningKey:
    """Register a key for a site.

    Raises:
        ReplyError: `unknown_site`; `exists`, if it is registered; `invalid`, if the site has too many.
    """
    try:
        async with store.transaction() as tx:
            site = await _site(tx, site_uid)
            good = [key for key in await tx.signing_keys.of_site(site.id) if key.revoked_us is None]
            if len(good) >= PER_SITE:
                raise invalid(site=f"it has {len(good)} keys that are good; revoke one first")
            key = SigningKey(
                id=thumbprint(public_key),
                site_id=site.id,
                label=label,
                public_key=public_key,
                created_us=now_us,
                used_us=None,
                revoked_us=None,
            )
            await tx.signing_keys.create(key)
            await audit.record(tx, now_us, Deed.KEY_ADD, None, f"site:{site.uid}", key=key.id)
    except AlreadyThere:
        raise ReplyError(
            ErrorCode.EXISTS, "this key is registered, or was; a site that lost its key makes a new one"
        ) from None
    return key


async def listing(store: Store, site_uid: str | None) -> list[tuple[SigningKey, Site]]:
    """All keys, or those of one site, each with its site.

    Raises:
        ReplyError: `unknown_site`.
    """
    async with store.snapshot() as tx:
        site_id = None if site_uid is None else (await _site(tx, site_uid)).id
        keys = await tx.signing_keys.of_site(site_id)
        sites = await tx.sites.many(list({key.site_id for key in keys}))
    return [(key, sites[key.site_id]) for key in keys]


async def revoke(store: Store, key_id: str, now_us: int) -> bool:
    """Revoke a key by its id. False if there is none such that is still good."""
    async with store.transaction() as tx:
        done = await tx.signing_keys.revoke(key_id, now_us)
        if done:
            await audit.record(tx, now_us, Deed.KEY_REVOKE, None, f"key:{key_id}")
        return done


async def _site(tx: Tx, uid: str) -> Site:
    site = await tx.sites.by_uid(uid.lower())
    if site is None:
        raise unknown_site()
    return site
