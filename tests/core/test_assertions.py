"""What a site signs: whose key, for whom, for how long, and once."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from db.store import Store
from relay.core import signing_keys
from relay.core.assertions import LIFETIME_S, SKEW_S, Assertions, BadAssertion, is_assertion, judge, named_key
from relay.core.model import SigningKey, Site
from relay.protocol.errors import ErrorCode, ReplyError
from tests.support.world import World

NOW_S = 1_764_064_800
NOW_US = NOW_S * 1_000_000
AUDIENCE = "https://relay.example"
UID = "5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10"
PRIVATE = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
KEY = SigningKey(
    id=signing_keys.thumbprint(PRIVATE.public_key().public_bytes_raw()),
    site_id=1,
    label="",
    public_key=PRIVATE.public_key().public_bytes_raw(),
    created_us=NOW_US,
    used_us=None,
    revoked_us=None,
)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(
    claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, by: Ed25519PrivateKey = PRIVATE
) -> str:
    """A good assertion, but for what is given; a claim that is None is left out."""
    good = {"iss": UID, "sub": UID, "aud": AUDIENCE, "iat": NOW_S, "exp": NOW_S + 300, "jti": "a-unique-name"}
    all_claims = {name: value for name, value in (good | (claims or {})).items() if value is not None}
    text = f"{part({'alg': 'EdDSA', 'kid': KEY.id} | (header or {}))}.{part(all_claims)}"
    signature = base64.urlsafe_b64encode(by.sign(text.encode())).rstrip(b"=").decode()
    return f"{text}.{signature}"


def test_what_is_in_order_is_accepted() -> None:
    text = signed()
    assert is_assertion(text)
    assert named_key(text) == KEY.id
    found = judge(text, KEY, UID, AUDIENCE, NOW_US)
    assert (found.jti, found.expires_us) == ("a-unique-name", NOW_US + 300_000_000)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["https://other.example", AUDIENCE]},
        {"iss": UID.upper(), "sub": UID.upper()},
        {"iat": NOW_S + SKEW_S, "exp": NOW_S + SKEW_S + LIFETIME_S},
        {"iat": NOW_S - 300, "exp": NOW_S - SKEW_S + 1},
        {"nbf": NOW_S + SKEW_S},
        {"extra": {"nested": [1]}},
    ],
)
def test_a_clock_may_be_a_minute_off(claims: dict[str, Any]) -> None:
    judge(signed(claims), KEY, UID, AUDIENCE, NOW_US)


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": None}, "iss"),
        ({"sub": None}, "sub"),
        ({"aud": None}, "aud"),
        ({"exp": None}, "exp"),
        ({"iat": None}, "iat"),
        ({"jti": None}, "jti"),
        ({"jti": "short"}, "jti"),
        ({"jti": "x" * 129}, "jti"),
        ({"jti": "with\0nothing"}, "jti"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"iss": "somebody else"}, "iss and sub"),
        ({"sub": "6f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10"}, "iss and sub"),
        ({"aud": "https://other.example"}, "aud"),
        ({"aud": []}, "aud"),
        ({"exp": NOW_S + LIFETIME_S + 1}, "at most 300 s"),
        ({"iat": NOW_S - 300 - SKEW_S, "exp": NOW_S - SKEW_S}, "expired 60 s ago"),
        ({"iat": NOW_S + SKEW_S + 1, "exp": NOW_S + 100}, "in the future"),
        ({"nbf": NOW_S + SKEW_S + 1}, "in the future"),
    ],
)
def test_what_is_claimed_has_to_hold(claims: dict[str, Any], says: str) -> None:
    with pytest.raises(BadAssertion, match=says):
        judge(signed(claims), KEY, UID, AUDIENCE, NOW_US)


def test_a_signature_by_another_key_is_none() -> None:
    with pytest.raises(BadAssertion, match="signature"):
        judge(signed(by=OTHER), KEY, UID, AUDIENCE, NOW_US)


def test_claims_that_were_changed_after_signing_are_not_signed() -> None:
    header, _, signature = signed().split(".")
    body = part({"iss": UID, "sub": UID, "aud": AUDIENCE, "iat": NOW_S, "exp": NOW_S + 300, "jti": "another-name"})
    with pytest.raises(BadAssertion, match="signature"):
        judge(f"{header}.{body}.{signature}", KEY, UID, AUDIENCE, NOW_US)


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS256"}, {"kid": None}, {"kid": 7}, {"kid": "\0"}])
def test_a_header_names_the_algorithm_and_the_key(header: dict[str, Any]) -> None:
    with pytest.raises(BadAssertion):
        named_key(signed(header=header))


@given(st.text(max_size=200) | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_whatever_is_sent_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadAssertion):
        named_key(text)
    with pytest.raises(BadAssertion):
        judge(text, KEY, UID, AUDIENCE, NOW_US)


def test_what_is_too_long_is_not_even_read() -> None:
    with pytest.raises(BadAssertion, match="at most 4096"):
        named_key("x" * 5000)


def test_a_public_key_is_read_from_pem_and_from_base64() -> None:
    public = PRIVATE.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    raw = public.public_bytes_raw()
    for text in (pem, base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("=") + "\n"):
        assert signing_keys.read_public_key(text) == raw


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", "-----BEGIN PUBLIC KEY-----\nAAAA\n", "é" * 44])
def test_what_is_no_public_key_is_invalid(text: str) -> None:
    with pytest.raises(ReplyError) as refused:
        signing_keys.read_public_key(text)
    assert refused.value.code is ErrorCode.INVALID


def test_a_private_key_is_refused_with_a_warning() -> None:
    pem = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(ReplyError, match="private key"):
        signing_keys.read_public_key(pem)


def test_a_key_of_another_kind_is_refused() -> None:
    pem = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ReplyError, match="Ed25519"):
        signing_keys.read_public_key(pem.decode())


def test_the_id_is_the_thumbprint_of_rfc_8037() -> None:
    """The key of RFC 8037, appendix A, and the thumbprint that it gives in A.3."""
    x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    expected = base64.urlsafe_b64decode("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k=")
    assert signing_keys.thumbprint(x) == expected.hex()[:32]


# In the storage


@pytest.fixture
async def site(world: World) -> Site:
    return await world.site()


async def registered(store: Store, site: Site, key: Ed25519PrivateKey = PRIVATE) -> SigningKey:
    raw = key.public_key().public_bytes_raw()
    return await signing_keys.add(store, site_uid=site.uid.upper(), public_key=raw, label="one", now_us=NOW_US)


class TestStored:
    """On the real databases."""

    @pytest.fixture
    def store(self, database: Any) -> Store:
        return Store(database)

    @pytest.fixture
    def world(self, store: Store) -> World:
        return World(store)

    async def test_an_assertion_is_good_once(self, store: Store, site: Site) -> None:
        key = await registered(store, site)
        assertions = Assertions(store, AUDIENCE, lambda: NOW_US)
        text = signed({"iss": site.uid, "sub": site.uid})
        assert await assertions.accept(text) == (key, site)
        with pytest.raises(BadAssertion, match="has been used"):
            await assertions.accept(text)
        await assertions.accept(signed({"iss": site.uid, "sub": site.uid, "jti": "another-name"}))
        ((listed, _),) = await signing_keys.listing(store, site.uid)
        assert listed.used_us == NOW_US

    async def test_what_has_been_used_is_remembered_while_it_could_be_used_and_no_longer(
        self, store: Store, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("relay.core.assertions.PURGE_EVERY_S", 0.0)
        now_us = NOW_US
        await registered(store, site)
        assertions = Assertions(store, AUDIENCE, lambda: now_us)
        text = signed({"iss": site.uid, "sub": site.uid})
        await assertions.accept(text)
        now_us = NOW_US + (300 + SKEW_S) * 1_000_000 - 1
        with pytest.raises(BadAssertion, match="has been used"):
            await assertions.accept(text)
        now_us += 1
        later = {"iss": site.uid, "sub": site.uid, "iat": NOW_S + 360, "exp": NOW_S + 400, "jti": "another-name"}
        await assertions.accept(signed(later))
        async with store.snapshot() as tx:
            rows = await tx._db.fetch_all("SELECT jti FROM used_assertions")
        assert [row["jti"] for row in rows] == ["another-name"]

    async def test_a_key_that_is_revoked_unknown_or_of_a_disabled_user_signs_nobody_in(
        self, store: Store, world: World
    ) -> None:
        owner = await world.user()
        site = await world.site(owner)
        assertions = Assertions(store, AUDIENCE, lambda: NOW_US)
        text = signed({"iss": site.uid, "sub": site.uid})
        for spoil in ("unknown", "disabled", "revoked"):
            if spoil == "disabled":
                await registered(store, site)
                async with store.transaction() as tx:
                    await tx.users.set_active(owner.id, active=False)
            if spoil == "revoked":
                async with store.transaction() as tx:
                    await tx.users.set_active(owner.id, active=True)
                assert await signing_keys.revoke(store, KEY.id, NOW_US)
                assert not await signing_keys.revoke(store, KEY.id, NOW_US)
            with pytest.raises(BadAssertion, match="unknown or was revoked"):
                await assertions.accept(text)

    async def test_a_key_is_one_sites_and_never_twice(self, store: Store, world: World, site: Site) -> None:
        await registered(store, site)
        for other in (site, await world.site()):
            with pytest.raises(ReplyError, match="registered"):
                await registered(store, other)

    async def test_a_site_has_a_few_keys_and_no_store_of_them(self, store: Store, site: Site) -> None:
        made = [await registered(store, site, Ed25519PrivateKey.generate()) for _ in range(signing_keys.PER_SITE)]
        with pytest.raises(ReplyError, match="revoke one first"):
            await registered(store, site)
        await signing_keys.revoke(store, made[0].id, NOW_US)
        await registered(store, site)

    async def test_an_unknown_site_has_no_key(self, store: Store) -> None:
        with pytest.raises(ReplyError) as refused:
            await signing_keys.add(store, site_uid=UID, public_key=b"x" * 32, label="", now_us=NOW_US)
        assert refused.value.code is ErrorCode.UNKNOWN_SITE
