"""Users and site tokens: make them, list them, revoke them. The command line's side of authentication.

A token is shown once, when it is made; what is stored is its SHA-256. It is random enough (256 bits) that a plain hash
protects it as well as a slow one would.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterable

from relay.core import audit
from relay.core.audit_chain import Deed
from relay.core.model import DEFAULT_SCOPES, Scope, Site, Token, User
from relay.core.passwords import MAX_BYTES, MIN_LENGTH
from relay.core.ports import AlreadyThere, Store
from relay.protocol.errors import ErrorCode, ReplyError, invalid, unknown_site

TOKEN_PREFIX = "sfr_"  # noqa: S105 - a prefix, not a secret
"""So that a token is known for what it is wherever it turns up: in a log, in a leaked file."""


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


_COMMON = frozenset(
    """
    00000000 11111111 12341234 12344321 12345678 123123123 123456789 1234567890 87654321 987654321 0123456789
    a1b2c3d4 aa123456 aaaaaaaa abc12345 abcd1234 abcdefgh admin123 admin1234 administrator asdfasdf asdfghjk
    asdfghjkl baseball basketball changeit changeme computer corvette default1 dragon12 football hospital hospital1
    iloveyou internet jennifer letmein1 letmein123 liverpool login123 master12 mercedes metallica michelle monkey123
    nothing1 passw0rd pass1234 password password! password1 password12 password123 password1234 p@ssw0rd p@ssword
    princess qazwsxedc q1w2e3r4 q1w2e3r4t5 qwer1234 qwerty12 qwerty123 qwertyui qwertyuiop rush2112 samantha
    secret12 secret123 security starfish starfish1 starwars sunshine superman test1234 testtest trustno1 welcome1
    welcome123 whatever x1y2z3w4 xxxxxxxx zaq12wsx zxcvbnm1
    """.split()  # noqa: SIM905 - a list of words reads better
)
"""What is tried first, as far as it is long enough; in lower case."""


def check_password(password: str, username: str = "") -> None:
    """Refuse a password that is too short, absurdly long, the user's own name, or what everybody tries first.

    Raises:
        ReplyError: `invalid`.
    """
    if len(password) < MIN_LENGTH:
        raise invalid(password=f"at least {MIN_LENGTH} characters, got {len(password)}")
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise invalid(password=f"at most {MAX_BYTES} bytes")
    if username and password.casefold() == username.casefold():
        raise invalid(password="it is the username")  # noqa: S106 - a reason
    if password.casefold() in _COMMON:
        raise invalid(password="it is among those that are tried first")  # noqa: S106 - a reason


def check_username(username: str) -> None:
    """Refuse a name that cannot stand in a Basic header, or in a table.

    Raises:
        ReplyError: `invalid`.
    """
    if not 1 <= len(username) <= 150 or ":" in username or not username.isprintable():
        raise invalid(username="1 to 150 printable characters, without a colon")


async def create_user(
    store: Store, *, username: str, email: str, password_hash: str, is_operator: bool, now_us: int
) -> User:
    """Raises `ReplyError` with `exists` if the name is taken."""
    check_username(username)
    try:
        async with store.transaction() as tx:
            user = await tx.users.create(
                username=username,
                email=email,
                password_hash=password_hash,
                is_operator=is_operator,
                now_us=now_us,
            )
            role = "operator" if is_operator else "user"
            await audit.record(tx, now_us, Deed.USER_CREATE, None, f"user:{username}", role=role)
            return user
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, f"a user {username!r} exists") from None


async def create_site(store: Store, *, owner: str, uid: str | None, name: str, description: str, now_us: int) -> Site:
    """Make a site for a user, by the command line. It counts as disconnected until it is seen.

    Raises:
        ReplyError: `invalid`, `exists`.
    """
    uid = str(uuid.uuid4()) if uid is None else uid.lower()
    try:
        uuid.UUID(uid)
    except ValueError:
        raise invalid(uid=f"a UUID, got {uid!r}") from None
    if not 1 <= len(name) <= 100:
        raise invalid(name="1 to 100 characters")
    try:
        async with store.transaction() as tx:
            user = await tx.users.by_name(owner)
            if user is None:
                raise invalid(owner=f"there is no user {owner!r}; make one with `starfish-relay user create {owner}`")
            site = await tx.sites.create(
                uid=uid, name=name, description=description, owner_id=user.id, connected=False, now_us=now_us
            )
            await audit.record(tx, now_us, Deed.SITE_CREATE, None, f"site:{uid}", owner=owner)
            return site
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, f"a site of the name {name!r} or the uid {uid} exists") from None


async def create_token(
    store: Store,
    *,
    site_uid: str,
    label: str,
    expires_us: int | None,
    now_us: int,
    scopes: Iterable[Scope] = DEFAULT_SCOPES,
) -> tuple[Token, str]:
    """Make a token for a site. Returns its record and the secret, which is nowhere else.

    Raises:
        ReplyError: `unknown_site`.
    """
    scopes = tuple(sorted(set(scopes)))
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    async with store.transaction() as tx:
        site = await tx.sites.by_uid(site_uid.lower())
        if site is None:
            raise unknown_site()
        token = Token(
            id=secrets.token_hex(6),
            site_id=site.id,
            label=label,
            created_us=now_us,
            expires_us=expires_us,
            revoked_us=None,
            scopes=scopes,
        )
        await tx.tokens.create(token, digest_of(secret))
        await audit.record(
            tx,
            now_us,
            Deed.TOKEN_CREATE,
            None,
            f"site:{site.uid}",
            token=token.id,
            expires_us=expires_us,
            scopes=",".join(scopes),
        )
    return token, secret


async def list_tokens(store: Store, site_uid: str | None) -> list[tuple[Token, Site]]:
    """All tokens, or those of one site, each with its site.

    Raises:
        ReplyError: `unknown_site`.
    """
    async with store.snapshot() as tx:
        site_id = None
        if site_uid is not None:
            site = await tx.sites.by_uid(site_uid.lower())
            if site is None:
                raise unknown_site()
            site_id = site.id
        tokens = await tx.tokens.of_site(site_id)
        sites = await tx.sites.many(list({token.site_id for token in tokens}))
    return [(token, sites[token.site_id]) for token in tokens]


async def revoke_token(store: Store, token_or_id: str, now_us: int) -> bool:
    """Revoke a token, named by itself or by its id. False if there is none such that is still good."""
    async with store.transaction() as tx:
        known = await tx.tokens.by_digest(digest_of(token_or_id))
        token_id = known.id if known is not None else token_or_id
        done = await tx.tokens.revoke(token_id, now_us)
        if done:  # else it is no id, and may be a secret
            await audit.record(tx, now_us, Deed.TOKEN_REVOKE, None, f"token:{token_id}")
        return done


async def set_active(store: Store, username: str, *, active: bool, now_us: int) -> None:
    """Enable or disable a user. The sessions of a disabled one's sites are closed.

    Raises:
        ReplyError: `invalid`, if there is no such user.
    """
    async with store.transaction() as tx:
        user = await tx.users.by_name(username)
        if user is None:
            raise invalid(username=f"there is no user {username!r}")
        await tx.users.set_active(user.id, active)
        deed = Deed.USER_ENABLE if active else Deed.USER_DISABLE
        await audit.record(tx, now_us, deed, None, f"user:{username}")


async def set_password(store: Store, username: str, password_hash: str, now_us: int) -> None:
    """Give a user another password. From then on the one before lets nobody in.

    Raises:
        ReplyError: `invalid`, if there is no such user.
    """
    async with store.transaction() as tx:
        user = await tx.users.by_name(username)
        if user is None:
            raise invalid(username=f"there is no user {username!r}")
        await tx.users.set_password(user.id, password_hash)
        await audit.record(tx, now_us, Deed.USER_PASSWORD, None, f"user:{username}")


async def list_users(store: Store) -> list[tuple[User, int]]:
    """All users, by id, and how many sites each has."""
    found: list[tuple[User, int]] = []
    while True:
        async with store.snapshot() as tx:
            _, users = await tx.users.page(limit=1000, skip=len(found))
            found += [(user, len(await tx.sites.ids_of_owner(user.id))) for user in users]
        if not users:
            return found
