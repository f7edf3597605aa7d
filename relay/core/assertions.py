"""What a site signs to sign in: a JWT that its own key has signed, good for minutes and for once (RFC 7523, section 3).

    {"alg": "EdDSA", "kid": <id of the key>}
    {"iss": <uid>, "sub": <uid>, "aud": <the relay's audience>, "iat": …, "exp": at most 5 minutes later, "jti": …}

The relay keeps no secret for it, and the site none but its key: nothing that either could lose lasts.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from relay.core.model import SigningKey, Site, User
from relay.core.ports import AlreadyThere, StorageUnavailable, Store

log = logging.getLogger(__name__)

DEFAULT_AUDIENCE = "starfish-relay"
DEFAULT_SESSION_S = 12 * 3600.0
"""How long what was begun with an assertion goes on without another one."""
ALGORITHM = "EdDSA"
MAX_BYTES = 4096
LIFETIME_S = 300
SKEW_S = 60
"""How far a site's clock may be off."""
PURGE_EVERY_S = 60.0

_jws = jwt.PyJWS(algorithms=[ALGORITHM])


class BadAssertion(Exception):
    """It is not accepted; the message says why, and nothing that the site does not know."""


Seconds = Annotated[float, Meta(ge=0, le=2**40)]


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    iat: Seconds
    exp: Seconds
    jti: Annotated[str, Meta(min_length=8, max_length=128, pattern=r"^[^\x00]*$")]
    nbf: Seconds = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Assertion:
    """What was signed, as far as it matters once it is accepted."""

    jti: str
    expires_us: int


class Assertions:
    """Accepts assertions, each once. `audience` is what they have to be made out to."""

    def __init__(self, store: Store, audience: str, now_us: Callable[[], int]) -> None:
        self._store = store
        self._audience = audience
        self._now_us = now_us
        self._purge_at = 0.0

    async def accept(self, text: str) -> tuple[SigningKey, Site]:
        """The key that has signed, and its site. The same assertion is not accepted again.

        Raises:
            BadAssertion: it cannot be read, its key is unknown or revoked, or what it claims does not hold.
            StorageUnavailable: it could not be looked up.
        """
        key_id = named_key(text)
        async with self._store.snapshot() as tx:
            key = await tx.signing_keys.get(key_id)
            site = None if key is None else await tx.sites.get(key.site_id)
            owner = None if site is None else await tx.users.get(site.owner_id)
        if key is None or site is None or not _is_good(key, owner):
            raise BadAssertion("the key is unknown or was revoked; ask the operator to register a new one")
        now_us = self._now_us()
        assertion = judge(text, key, site.uid, self._audience, now_us)
        await self._use(key, assertion, now_us)
        return key, site

    async def _use(self, key: SigningKey, assertion: Assertion, now_us: int) -> None:
        try:
            async with self._store.transaction() as tx:
                good = await tx.signing_keys.use(
                    key.id, assertion.jti, expires_us=assertion.expires_us + SKEW_S * 1_000_000, now_us=now_us
                )
        except AlreadyThere:
            raise BadAssertion("this assertion has been used; sign a new one each time") from None
        if not good:
            raise BadAssertion("the key was revoked")
        await self._purge(now_us)

    async def _purge(self, now_us: int) -> None:
        """Forget what is expired, now and then. If the storage does not answer, the next time does it."""
        if time.monotonic() < self._purge_at:
            return
        self._purge_at = time.monotonic() + PURGE_EVERY_S
        try:
            async with self._store.transaction() as tx:
                await tx.signing_keys.purge(now_us)
        except StorageUnavailable as error:
            log.warning("used assertions not purged: %s", error.cause)


def is_assertion(credential: str) -> bool:
    """Whether a Bearer credential is one of these; a token has no dots."""
    return credential.count(".") == 2


def named_key(text: str) -> str:
    """The id of the key that an assertion names: not believed yet. Raises `BadAssertion`."""
    if len(text) > MAX_BYTES:
        raise BadAssertion(f"an assertion has at most {MAX_BYTES} bytes, got {len(text)}")
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise BadAssertion("this is no signed JWT") from None
    key_id = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(key_id, str) or "\0" in key_id:
        raise BadAssertion(f"its header has to say alg {ALGORITHM}, and the key's id as kid")
    return key_id


def claimed_key(text: str) -> bytes:
    """A digest of the id of the key that an assertion names, or of nothing if it cannot be read."""
    try:
        return hashlib.sha256(named_key(text).encode("utf-8", "surrogatepass")).digest()
    except BadAssertion:
        return b""


def judge(text: str, key: SigningKey, uid: str, audience: str, now_us: int) -> Assertion:
    """Check the signature, then what is claimed.

    Raises:
        BadAssertion: what of it does not hold. Only who has the key is told more than that it is not good.
    """
    try:
        body = _jws.decode(text, Ed25519PublicKey.from_public_bytes(key.public_key), algorithms=[ALGORITHM])
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise BadAssertion("its signature is not by the key that it names") from None
    try:
        claims = msgspec.json.decode(body, type=_Claims)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAssertion(f"its claims cannot be read: {error}") from None
    _require_names(claims, uid, audience)
    _require_times(claims, now_us / 1e6)
    return Assertion(jti=claims.jti, expires_us=int(claims.exp * 1e6))


def _require_names(claims: _Claims, uid: str, audience: str) -> None:
    if claims.iss.lower() != uid or claims.sub.lower() != uid:
        raise BadAssertion("iss and sub have to be the uid of the site that the key is registered for")
    if audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise BadAssertion(f"aud has to be {audience!r}, got {claims.aud!r:.100}")


def _require_times(claims: _Claims, now_s: float) -> None:
    if claims.exp - claims.iat > LIFETIME_S:
        raise BadAssertion(f"exp is at most {LIFETIME_S} s after iat, got {claims.exp - claims.iat:.0f} s")
    if claims.iat > now_s + SKEW_S or claims.nbf > now_s + SKEW_S:
        early_s = max(claims.iat, claims.nbf) - now_s
        raise BadAssertion(f"it is from {early_s:.0f} s in the future: is the site's clock right?")
    if claims.exp + SKEW_S <= now_s:
        raise BadAssertion(f"it expired {now_s - claims.exp:.0f} s ago: sign a new one, and is the site's clock right?")


def _is_good(key: SigningKey, owner: User | None) -> bool:
    return key.revoked_us is None and owner is not None and owner.is_active
