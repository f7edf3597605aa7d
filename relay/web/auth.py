"""Who asks: Basic credentials of a user, or the token or the signed assertion of a site, out of a request's headers.
Never out of its URL.

A password is checked with argon2id, which takes 20 ms on purpose. So a pair that was good is remembered for a while, as
an HMAC under a key of this process: the next request with it costs microseconds. What is remembered holds only as long
as the user's password hash is the one it was checked against. Failures are throttled (`relay.core.throttle`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from starlette.requests import Request

from relay.core import access, accounts, site_certificates
from relay.core.access import SITES_RIGHTS, Principal, Right
from relay.core.assertions import (
    DEFAULT_AUDIENCE,
    DEFAULT_SESSION_S,
    Assertions,
    BadAssertion,
    claimed_key,
    is_assertion,
)
from relay.core.logins import Logins
from relay.core.model import Holder, Site, Token, User
from relay.core.passwords import Passwords, needs_rehash
from relay.core.ports import Store
from relay.core.session import Identity
from relay.core.shares import Shares
from relay.core.signing_keys import CREDENTIAL_PREFIX
from relay.core.together import Together
from relay.protocol.errors import ErrorCode, ReplyError, forbidden, invalid, unavailable, unknown_site
from relay.web.peers import shown_in

SITE_HEADER = "x-starfish-site"
REMEMBER_S = 600.0
REMEMBER_USERS = 10_000
CHECKS_WAITING = 2_000
"""Pairs whose passwords wait to be checked; the next one is refused: 503."""
KNOWN_FOR_S = 30.0
"""How long a user's sites and rights are taken as known; whatever changes them through this relay is seen at once."""


class BadCredentials(ReplyError):
    """No credentials, or not good ones; which of both, and why, is in `message`."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAUTHENTICATED, message)


@dataclass(frozen=True, slots=True)
class _Verified:
    user_id: int
    password_hash: str
    until: float


@dataclass(frozen=True, slots=True)
class _Known:
    user: User
    principal: Principal
    until: float
    bound: Mapping[int, frozenset[str]]
    """Those of its sites that are bound to certificates, and to which."""


@dataclass(frozen=True, slots=True)
class _Bearer:
    holder: Holder
    bound: frozenset[str]


class Authenticator:
    """See the module. One per process.

    Args:
        audience: what sites make out their assertions to.
        key_session_s: how long what was begun with an assertion goes on without another.
        logins: where they are recorded.
    """

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        now_us: Callable[[], int],
        *,
        audience: str = DEFAULT_AUDIENCE,
        key_session_s: float = DEFAULT_SESSION_S,
        logins: Logins | None = None,
    ) -> None:
        self._store = store
        self._holders = Together(self._look_up, "tokens")
        self._logins = logins or Logins()
        self._assertions = Assertions(store, audience, now_us)
        self._key_session_s = key_session_s
        self._passwords = passwords
        self._now_us = now_us
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._known: dict[int, _Known] = {}
        self._changes = 0
        """How often what is known has been forgotten: what was read before that is not to be known after it."""
        self._checking: dict[bytes, asyncio.Task[_Verified]] = {}

    def forget(self) -> None:
        """Users, sites or rights have changed: look at them anew. Passwords need no new check for it."""
        self._changes += 1
        self._known.clear()

    # --- users

    async def user(self, authorization: str | None) -> Principal:
        """The user of a Basic `Authorization` header, whatever certificates its sites are bound to.

        Raises:
            BadCredentials: the header is missing, is no Basic one, or the pair is not good.
            TooOften: too many logins have failed; the pair was not looked at.
            StorageUnavailable: the pair could not be looked up.
        """
        return (await self._user(authorization)).principal

    async def owner(self, authorization: str | None, certificate: str | None) -> Principal:
        """The same, acting for all sites that it owns over a connection that has shown this certificate.

        Raises:
            ReplyError: as `user`; `forbidden`, one of its sites is bound to others.
        """
        known = await self._user(authorization)
        with self._noting(known.principal):
            site_certificates.require_all(known.bound, certificate)
        return known.principal

    async def _user(self, authorization: str | None) -> _Known:
        credentials = basic_credentials(authorization)
        digest = hmac.digest(self._key, credentials.encode("utf-8", "surrogatepass"), "sha256")
        verified = self._verified.get(digest)
        if verified is None or verified.until < time.monotonic():
            verified = await self._verify(digest, credentials)
        known = await self._know(verified.user_id)
        if known is None or known.user.password_hash != verified.password_hash or not known.user.is_active:
            self._verified.pop(digest, None)
            raise self._refused(None if known is None else known.user, "password", "Invalid username/password.")
        self._logins.succeeded(known.principal, "password")
        return known

    def _refused(self, user: User | None, credential: str, message: str) -> BadCredentials:
        self._logins.refused(None if user is None else f"user:{user.username}", credential, ErrorCode.UNAUTHENTICATED)
        return BadCredentials(message)

    async def _verify(self, digest: bytes, credentials: str) -> _Verified:
        """Check a pair once, however many requests wait for it."""
        task = self._checking.get(digest)
        if task is None:
            if len(self._checking) >= CHECKS_WAITING:
                raise unavailable("too many passwords wait to be checked; try again")
            task = asyncio.create_task(self._check(digest, credentials), name="password-check")
            self._checking[digest] = task
            task.add_done_callback(lambda done: self._checked(digest, done))
        return await asyncio.shield(task)

    def _checked(self, digest: bytes, task: asyncio.Task[_Verified]) -> None:
        del self._checking[digest]
        if not task.cancelled():
            task.exception()  # whoever waits has it; when nobody does any more, it is no news

    async def _check(self, digest: bytes, credentials: str) -> _Verified:
        username, _, password = credentials.partition(":")
        account = hmac.digest(self._key, username.encode("utf-8", "surrogatepass"), "sha256")
        async with self._logins.trying("password", digest, account=account):
            verified = await self._check_pair(username, password)
        self._verified[digest] = verified
        if len(self._verified) > REMEMBER_USERS:
            self._verified.popitem(last=False)
        return verified

    async def _check_pair(self, username: str, password: str) -> _Verified:
        async with self._store.snapshot() as tx:
            user = await tx.users.by_name(username) if "\0" not in username else None
        hashed = None if user is None else user.password_hash
        good = await self._passwords.verify(password, hashed, is_active=user is not None and user.is_active)
        if user is None or not good:
            raise self._refused(user, "password", "Invalid username/password.")
        hashed = user.password_hash
        if needs_rehash(hashed):
            hashed = await self._passwords.hash(password)
            async with self._store.transaction() as tx:
                await tx.users.set_password(user.id, hashed)
            self.forget()
        return _Verified(user.id, hashed, time.monotonic() + REMEMBER_S)

    async def _know(self, user_id: int) -> _Known | None:
        known = self._known.get(user_id)
        if known is not None and known.until > time.monotonic():
            return known
        changes = self._changes
        async with self._store.snapshot() as tx:
            user = await tx.users.get(user_id)
            sites = [] if user is None else await tx.sites.ids_of_owner(user_id)
            bound = await tx.site_certificates.of_sites(sites)
        if user is None:
            return None
        principal = Principal(user_id=user.id, sites=frozenset(sites), is_operator=user.is_operator, name=user.username)
        known = _Known(user, principal, time.monotonic() + KNOWN_FOR_S, bound)
        if len(self._known) > REMEMBER_USERS:
            self._known.clear()
        if changes == self._changes:
            self._known[user_id] = known
        return known

    # --- sites

    async def site(self, headers: Mapping[str, str], certificate: str | None) -> Identity:
        """The site that a request speaks for: by its token, or by its user's credentials and `X-Starfish-Site`.

        `certificate` is the fingerprint of the one that the connection has shown (`relay.web.peers`).

        Raises:
            BadCredentials: 401.
            TooOften: 429: too many logins have failed.
            ReplyError: `invalid` (Basic without the site), `unknown_site`, `forbidden` (another user's site, or one
                that is bound to other certificates).
            StorageUnavailable: it could not be looked up.
        """
        identity = await self._identity(headers)
        with self._noting(identity.principal):
            site_certificates.require(identity.bound, certificate)
        return replace(identity, certificate=certificate)

    @contextmanager
    def _noting(self, principal: Principal) -> Iterator[None]:
        """A refusal within the block is recorded as one of a login."""
        try:
            yield
        except ReplyError as refusal:
            self._logins.refused(principal.actor, "certificate", refusal.code)
            raise

    async def _identity(self, headers: Mapping[str, str]) -> Identity:
        authorization = headers.get("authorization")
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            return await self.bearer(value.strip())
        user = await self.user(authorization)
        uid = headers.get(SITE_HEADER)
        if uid is None:
            raise invalid(**{"X-Starfish-Site": "required with Basic: the uid of the site to speak for"})
        async with self._store.snapshot() as tx:
            site = await tx.sites.by_uid(uid.lower()) if "\0" not in uid else None
            bound = {} if site is None else await tx.site_certificates.of_sites([site.id])
        if site is None:
            raise unknown_site()
        if not user.acts_for(site.id) and site.owner_id != user.user_id:
            self._logins.refused(user.actor, f"site:{site.uid}", ErrorCode.FORBIDDEN)
            raise forbidden("this site belongs to another user")
        principal = _as_site(site)
        self._logins.succeeded(principal, "password")
        return Identity(site=site, principal=principal, bound=bound.get(site.id, site_certificates.NONE))

    async def bearer(self, credential: str) -> Identity:
        """The site of a token, or of an assertion that its key has signed. Raises as both do."""
        return await (self.assertion(credential) if is_assertion(credential) else self.token(credential))

    async def assertion(self, text: str) -> Identity:
        """The site whose key has signed. It goes on for `key_session_s`, long after the assertion itself is void.

        Raises:
            BadCredentials: it is not accepted; the message says why.
        """
        async with self._logins.trying("key", claimed_key(text), is_once=True):
            try:
                key, site = await self._assertions.accept(text)
            except BadAssertion as error:
                raise self._refused(None, "key", str(error)) from None
        async with self._store.snapshot() as tx:
            bound = await tx.site_certificates.of_sites([site.id])
        principal = _as_site(site)
        self._logins.succeeded(principal, CREDENTIAL_PREFIX + key.id)
        return Identity(
            site=site,
            principal=principal,
            token_id=CREDENTIAL_PREFIX + key.id,
            expires_us=self._now_us() + int(self._key_session_s * 1e6),
            bound=bound.get(site.id, site_certificates.NONE),
        )

    async def token(self, secret: str) -> Identity:
        """The site of a token.

        Raises:
            BadCredentials: it is unknown, expired or revoked, or its user is disabled.
        """
        digest = accounts.digest_of(secret)
        async with self._logins.trying("token", digest):
            found = await self._holders.get(digest)
            holder = None if found is None else found.holder
            if found is None or holder is None or not holder.is_active or not self._is_good(holder.token):
                raise self._bad_token(holder)
        site, token = holder.site, holder.token
        principal = _as_site(site, access.rights_of(token.scopes))
        self._logins.succeeded(principal, f"token:{token.id}")
        return Identity(
            site=site, principal=principal, token_id=token.id, expires_us=token.expires_us, bound=found.bound
        )

    def _bad_token(self, holder: Holder | None) -> BadCredentials:
        account = None if holder is None else f"site:{holder.site.uid}"
        credential = "token" if holder is None else f"token:{holder.token.id}"
        self._logins.refused(account, credential, ErrorCode.UNAUTHENTICATED)
        return BadCredentials("the token is unknown, has expired or was revoked; ask the operator for a new one")

    async def _look_up(self, digests: Sequence[bytes]) -> Mapping[bytes, _Bearer]:
        async with self._store.snapshot() as tx:
            holders = await tx.tokens.holders(digests)
            bound = await tx.site_certificates.of_sites(list({one.site.id for one in holders.values()}))
        none = site_certificates.NONE
        return {digest: _Bearer(one, bound.get(one.site.id, none)) for digest, one in holders.items()}

    def _is_good(self, token: Token) -> bool:
        return token.revoked_us is None and (token.expires_us is None or token.expires_us > self._now_us())


async def asking(auth: Authenticator, shares: Shares, request: Request, right: Right | None) -> Identity:
    """The site that a REST request speaks for, if it may do such a thing, and does not come too fast.

    Raises:
        ReplyError: as `Authenticator.site` does; `forbidden`; `rate_limited`.
    """
    identity = await auth.site(request.headers, shown_in(request.scope))
    if right is not None:
        access.require_right(identity.principal, right)
    length = request.headers.get("content-length", "0")
    shares.admit(identity.site, int(length) if length.isdigit() else 0, asyncio.get_running_loop().time())
    return identity


def _as_site(site: Site, rights: frozenset[Right] = SITES_RIGHTS) -> Principal:
    """Whoever speaks for a site has that site's rights, and no more: an operator too."""
    return Principal(
        user_id=site.owner_id, sites=frozenset({site.id}), name=site.name, site_uid=site.uid, rights=rights
    )


def basic_credentials(authorization: str | None) -> str:
    """`user:password` of a Basic header.

    Raises:
        BadCredentials: there is none. The words are those that polling controllers know.
    """
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        raise BadCredentials("Authentication credentials were not provided.")
    if not value:
        raise BadCredentials("Invalid basic header. No credentials provided.")
    if " " in value.strip():
        raise BadCredentials("Invalid basic header. Credentials string should not contain spaces.")
    try:
        raw = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BadCredentials("Invalid username/password.") from None
    try:
        credentials = raw.decode("utf-8")
    except UnicodeDecodeError:
        credentials = raw.decode("latin-1")
    if ":" not in credentials:
        raise BadCredentials("Invalid username/password.")
    return credentials
