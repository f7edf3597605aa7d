"""Guessing is slowed down at every door, and costs no hash meanwhile; who was let in before notices nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from relay.core import accounts
from relay.core.audit import SOURCE, Source
from relay.core.logins import Logins
from relay.core.model import User
from relay.core.passwords import hash_now
from relay.core.ports import Store
from relay.core.throttle import Throttle, ThrottleLimits, TooOften
from relay.web.auth import Authenticator, BadCredentials
from tests.conformance.own import ACCOUNT, new_realm
from tests.conformance.realm import Realm
from tests.conformance.wire import HandshakeRefused
from tests.support.relay import RelayProcess
from tests.web.test_auth import NOW_US, CountingPasswords, basic

FREE = 3
ATTACKER, HOME = {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "198.51.100.4"}
"""Addresses as a proxy on this machine reports them, whose word is taken."""


@pytest.fixture
async def anna(store: Store) -> User:
    return await accounts.create_user(
        store, username="anna", email="", password_hash=hash_now("a good password"), is_operator=False, now_us=NOW_US
    )


async def test_guesses_cost_no_hash_once_they_are_throttled_whether_or_not_there_is_such_a_user(
    store: Store, anna: User
) -> None:
    passwords = CountingPasswords()
    logins = Logins(throttle=Throttle(ThrottleLimits(failures=FREE)))
    auth = Authenticator(store, passwords, lambda: NOW_US, logins=logins)
    for name in ("anna", "nobody"):
        before, said = passwords.verified, []
        for number in range(10):
            with pytest.raises((BadCredentials, TooOften)) as refused:
                await auth.user(basic(name, f"guess {number}"))
            said.append(refused.type)
        assert said == [BadCredentials] * FREE + [TooOften] * (10 - FREE)
        assert passwords.verified - before == FREE
    SOURCE.set(Source(origin="198.51.100.4"))
    assert (await auth.user(basic("anna", "a good password"))).user_id == anna.id


@pytest.fixture
def relay() -> Iterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_LOGIN_FAILURES": str(FREE)}) as process:
        yield process


@pytest.fixture
async def realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with new_realm(relay) as realm:
        yield realm


async def test_every_door_says_429_and_when_to_come_again_and_the_site_itself_gets_in(
    realm: Realm, relay: RelayProcess
) -> None:
    site = await realm.site()
    uid = {"X-Starfish-Site": site.uid}
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        assert (
            await http.get("/starfish/api/v1/sites/", auth=_pair(ACCOUNT.password), headers=HOME)
        ).status_code == 200
        for number in range(FREE):
            said = await http.get("/metrics", auth=_pair(f"guess {number}"), headers=ATTACKER)
            assert said.status_code == 401
        for method, path, more in (
            ("GET", "/metrics", {}),
            ("GET", "/starfish/api/v1/projects/1/events/", uid),
            ("GET", "/starfish/api/v1/projects/1/events/", uid | {"Accept": "text/event-stream"}),
            ("POST", "/starfish/api/v1/calls/projects.list/", uid),
            ("POST", "/starfish/api/v1/blobs/", uid | {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}),
        ):
            refused = await http.request(method, path, auth=_pair("a guess more"), headers=ATTACKER | more)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited"), path
            assert int(refused.headers["Retry-After"]) >= refused.json()["error"]["details"]["retry_after"] > 0
        old = await http.get("/starfish/api/v1/sites/", auth=_pair("a guess more"), headers=ATTACKER)
        assert (old.status_code, set(old.json())) == (429, {"detail"})
        assert int(old.headers["Retry-After"]) > 0
        with pytest.raises(HandshakeRefused) as handshake:
            await realm.connect({"Authorization": basic(ACCOUNT.name, "a guess more")} | uid | ATTACKER)
        assert (handshake.value.status, handshake.value.error["code"]) == (429, "rate_limited")
        assert int(handshake.value.headers["Retry-After"]) > 0

        # What was good before passes everywhere, and so does another account from where the guesses come.
        for headers in (HOME, ATTACKER):
            await (await realm.connect(site.headers | headers)).close()
        nobody = await http.get("/metrics", auth=("nobody", "x"), headers=ATTACKER)
        assert nobody.status_code == 401

    done = await asyncio.to_thread(_record, relay)
    entries = [json.loads(line) for line in done]
    throttled = [one for one in entries if one["result"] == "rate_limited"]
    assert [(one["action"], one["actor"], one["origin"]) for one in throttled] == [
        ("login", "unknown", ATTACKER["X-Forwarded-For"])
    ]


def _record(relay: RelayProcess) -> list[str]:
    """The audit record, once the relay has written all of it: at its stop."""
    relay.terminate()
    return relay.cli("audit", "export").stdout.splitlines()


def _pair(password: str) -> tuple[str, str]:
    return ACCOUNT.name, password
