"""Authentication: one hash per pair however many ask, none while it is remembered, and nothing after it has changed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from relay.core import accounts
from relay.core.model import User
from relay.core.passwords import Passwords, hash_now
from relay.core.ports import Store, Tx
from relay.web.auth import Authenticator, BadCredentials

NOW_US = 1_764_000_000_000_000


class CountingPasswords(Passwords):
    verified = 0

    async def verify(self, password: str, hashed: str | None, *, is_active: bool = True) -> bool:
        self.verified += 1
        return await super().verify(password, hashed, is_active=is_active)


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.fixture
async def anna(store: Store) -> User:
    return await accounts.create_user(
        store, username="anna", email="", password_hash=hash_now("a good password"), is_operator=False, now_us=NOW_US
    )


@pytest.fixture
def passwords() -> CountingPasswords:
    return CountingPasswords()


@pytest.fixture
def auth(store: Store, passwords: CountingPasswords) -> Authenticator:
    return Authenticator(store, passwords, lambda: NOW_US)


async def test_a_crowd_with_one_pair_costs_one_hash_and_a_repeat_costs_none(
    auth: Authenticator, passwords: CountingPasswords, anna: User
) -> None:
    header = basic("anna", "a good password")
    found = await asyncio.gather(*(auth.user(header) for _ in range(50)))
    assert {principal.user_id for principal in found} == {anna.id}
    await auth.user(header)
    assert passwords.verified == 1


async def test_a_wrong_password_and_an_unknown_user_get_the_same_words_and_cost_a_hash_each_time(
    auth: Authenticator, passwords: CountingPasswords, anna: User
) -> None:
    said = set()
    for header in (basic("anna", "wrong"), basic("nobody", "wrong"), basic("anna", "wrong")):
        with pytest.raises(BadCredentials) as refused:
            await auth.user(header)
        said.add(refused.value.message)
    assert said == {"Invalid username/password."}
    assert passwords.verified == 3


async def test_a_changed_password_ends_what_was_remembered(auth: Authenticator, store: Store, anna: User) -> None:
    header = basic("anna", "a good password")
    await auth.user(header)
    async with store.transaction() as tx:
        await tx.users.set_password(anna.id, hash_now("another password"))
    auth.forget()
    with pytest.raises(BadCredentials):
        await auth.user(header)
    assert (await auth.user(basic("anna", "another password"))).user_id == anna.id


async def test_a_disabled_user_is_refused_even_while_remembered(auth: Authenticator, store: Store, anna: User) -> None:
    header = basic("anna", "a good password")
    await auth.user(header)
    await accounts.set_active(store, "anna", active=False, now_us=NOW_US)
    auth.forget()
    with pytest.raises(BadCredentials):
        await auth.user(header)


async def test_what_changes_while_a_user_is_looked_up_is_not_missed(
    auth: Authenticator, store: Store, anna: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up shows what was before the change; who asks after the change is not shown it."""
    header = basic("anna", "a good password")
    await auth.user(header)
    auth.forget()
    snapshot, sites = store.snapshot, []

    @asynccontextmanager
    async def overtaken() -> AsyncIterator[Tx]:
        async with snapshot() as tx:
            yield tx
        sites.append(await accounts.create_site(store, owner="anna", uid=None, name="A", description="", now_us=NOW_US))
        auth.forget()

    monkeypatch.setattr(store, "snapshot", overtaken)
    assert (await auth.user(header)).sites == frozenset()
    monkeypatch.undo()
    assert (await auth.user(header)).sites == {site.id for site in sites}


async def test_a_hash_of_the_old_router_is_verified_and_made_anew(
    auth: Authenticator, passwords: CountingPasswords, store: Store
) -> None:
    digest = base64.b64encode(hashlib.pbkdf2_hmac("sha256", b"old password", b"salt", 1000)).decode()
    await accounts.create_user(
        store,
        username="old",
        email="",
        password_hash=f"pbkdf2_sha256$1000$salt${digest}",
        is_operator=False,
        now_us=NOW_US,
    )
    header = basic("old", "old password")
    await auth.user(header)
    async with store.snapshot() as tx:
        user = await tx.users.by_name("old")
    assert user is not None
    assert user.password_hash.startswith("$argon2id$")
    await auth.user(header)
    assert passwords.verified == 1


async def test_tokens_expire_and_are_revoked(auth: Authenticator, store: Store, anna: User) -> None:
    site = await accounts.create_site(store, owner="anna", uid=None, name="A", description="", now_us=NOW_US)
    _, good = await accounts.create_token(store, site_uid=site.uid, label="", expires_us=NOW_US + 1, now_us=NOW_US)
    _, expired = await accounts.create_token(store, site_uid=site.uid, label="", expires_us=NOW_US, now_us=NOW_US)
    identity = await auth.token(good)
    assert identity.site.uid == site.uid
    assert identity.principal.sites == frozenset({site.id})
    for secret in (expired, "nonsense", "", "sfr_" + "x" * 43, "\0"):
        with pytest.raises(BadCredentials):
            await auth.token(secret)
    assert await accounts.revoke_token(store, good, NOW_US)
    with pytest.raises(BadCredentials):
        await auth.token(good)
