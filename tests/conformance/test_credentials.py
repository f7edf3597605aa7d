"""Sections 2, 4 (`refresh`) and 7 of docs/protocol.md: what becomes of a session when its credentials do not last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.conformance.realm import Account, Realm, Site, unique
from tests.conformance.shapes import TIMESTAMP
from tests.conformance.wire import HandshakeRefused, Wire
from tests.support.relay import RelayProcess

NOTICED_WITHIN_S = 2.0
PASSWORD = "a password of its own"

MakeToken = Callable[[Site], str]


async def with_token(realm: Realm, token: str) -> Wire:
    wire = await realm.connect({"Authorization": f"Bearer {token}"})
    await wire.hello()
    return wire


async def in_thread(relay: RelayProcess, *arguments: str) -> None:
    """A command beside the running relay; sessions go on being read meanwhile."""
    await asyncio.to_thread(relay.cli, *arguments)


async def closed_soon(wire: Wire, since: float) -> int:
    code = await wire.closed()
    assert time.monotonic() - since < NOTICED_WITHIN_S
    return code


@pytest.fixture
async def account(relay: RelayProcess) -> Account:
    """A user that nobody else uses, and that a test may spoil."""
    account = Account(name=unique("user"), password=PASSWORD)
    environment = {"STARFISH_USER_PASSWORD": account.password}
    await asyncio.to_thread(relay.cli, "user", "create", account.name, "--no-input", env=environment)
    return account


# Revoked, deleted, disabled


async def test_a_revoked_token_closes_its_sessions_4401_and_no_others(
    realm: Realm, relay: RelayProcess, make_token: MakeToken
) -> None:
    site = await realm.site()
    token = make_token(site)
    revoked = [await with_token(realm, token) for _ in range(2)]
    others = [await with_token(realm, make_token(site)), await realm.session(site)]
    await in_thread(relay, "token", "revoke", token)
    since = time.monotonic()
    for wire in revoked:
        assert await closed_soon(wire, since) == 4401
    for wire in others:
        assert await wire.is_alive()
    with pytest.raises(HandshakeRefused) as refused:
        await with_token(realm, token)
    assert (refused.value.status, refused.value.error["code"]) == (401, "unauthenticated")


async def test_a_deleted_site_is_closed_4403(realm: Realm, make_token: MakeToken) -> None:
    team = await realm.team()
    by_token = await with_token(realm, make_token(team.participant))
    response = await realm.rest("DELETE", f"sites/{team.participant.id}/", realm.guest)
    since = time.monotonic()
    assert response.status_code == 204, response.text
    for wire in (team.pa, by_token):
        assert await closed_soon(wire, since) == 4403
    event = await team.co.expect("event", kind="participant", data={"change": "left"})
    assert event["data"]["site"] == team.participant.uid
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect(team.participant.headers)
    assert (refused.value.status, refused.value.error["code"]) == (404, "unknown_site")


async def test_a_disabled_users_sites_are_closed_4403_and_stay_out(
    realm: Realm, relay: RelayProcess, account: Account, make_token: MakeToken
) -> None:
    site = await realm.site(account)
    token = make_token(site)
    wires = [await realm.session(site), await with_token(realm, token)]
    bystander = await realm.session(await realm.site())
    await in_thread(relay, "user", "disable", account.name)
    since = time.monotonic()
    for wire in wires:
        assert await closed_soon(wire, since) == 4403
    for headers in (site.headers, {"Authorization": f"Bearer {token}"}):
        with pytest.raises(HandshakeRefused) as refused:
            await realm.connect(headers)
        assert (refused.value.status, refused.value.error["code"]) == (401, "unauthenticated")
    assert await bystander.is_alive()


# Tokens that expire


async def expiring_token(relay: RelayProcess, site: Site, seconds: int) -> str:
    made = await asyncio.to_thread(relay.cli, "token", "create", "--site", site.uid, "--expires-in", f"{seconds}s")
    return made.stdout.strip()


async def test_an_expiring_token_is_announced_and_then_closed_4401(realm: Realm, relay: RelayProcess) -> None:
    token = await expiring_token(relay, await realm.site(), 5)
    wire = await with_token(realm, token)
    expires_at = wire.welcome["expires_at"]
    assert TIMESTAMP.fullmatch(expires_at)
    assert (await wire.expect("goodbye"))["code"] == "token_expiring"
    assert await wire.closed() == 4401
    assert abs(datetime.fromisoformat(expires_at) - datetime.now(UTC)) < timedelta(seconds=1)


async def test_a_refreshed_session_outlives_its_first_token(
    realm: Realm, relay: RelayProcess, make_token: MakeToken
) -> None:
    site = await realm.site()
    wire = await with_token(realm, await expiring_token(relay, site, 8))
    answer = await wire.ok(type="refresh", token=make_token(site))
    assert answer["expires_at"] is None
    until = datetime.fromisoformat(wire.welcome["expires_at"])
    await asyncio.sleep((until - datetime.now(UTC)).total_seconds() + 0.5)
    assert await wire.is_alive()


# refresh


async def test_refresh_is_answered_with_when_the_new_token_expires(
    realm: Realm, relay: RelayProcess, make_token: MakeToken
) -> None:
    site = await realm.site()
    wire = await with_token(realm, make_token(site))
    unlimited = await wire.ask(type="refresh", ref="a", token=make_token(site))
    assert unlimited == {"type": "ok", "ref": "a", "expires_at": None}
    limited = await wire.ask(type="refresh", ref="b", token=await expiring_token(relay, site, 3600))
    assert set(limited) == {"type", "ref", "expires_at"}
    assert TIMESTAMP.fullmatch(limited["expires_at"])
    assert await wire.is_alive()


async def test_a_refreshed_session_depends_on_the_new_token_alone(
    realm: Realm, relay: RelayProcess, make_token: MakeToken
) -> None:
    site = await realm.site()
    old, new = make_token(site), make_token(site)
    wire, witness = await with_token(realm, old), await with_token(realm, old)
    await wire.ok(type="refresh", token=new)
    await in_thread(relay, "token", "revoke", old)
    assert await closed_soon(witness, time.monotonic()) == 4401
    assert await wire.is_alive()
    await in_thread(relay, "token", "revoke", new)
    assert await closed_soon(wire, time.monotonic()) == 4401


async def test_a_session_by_password_may_be_refreshed_with_a_token(realm: Realm, make_token: MakeToken) -> None:
    site = await realm.site()
    wire = await realm.session(site)
    assert (await wire.ok(type="refresh", token=make_token(site)))["expires_at"] is None


async def test_a_token_of_another_site_is_unauthenticated_and_the_session_goes_on_as_it_was(
    realm: Realm, make_token: MakeToken
) -> None:
    site, sibling = await realm.site(), await realm.site()
    wire = await with_token(realm, make_token(site))
    error = await wire.error(type="refresh", token=make_token(sibling))
    assert error["code"] == "unauthenticated"
    made = await wire.call("projects.create", name=unique("project"), description="", tasks=[])
    assert made["site"] == site.id


@pytest.mark.parametrize("token", ["", "nonsense", "sfr_" + "A" * 43, "\u0000", "x" * 10_000], ids=lambda t: t[:12])
async def test_a_nonsense_token_is_unauthenticated_and_the_session_goes_on(realm: Realm, token: str) -> None:
    wire = await realm.session(await realm.site())
    assert (await wire.error(type="refresh", token=token))["code"] == "unauthenticated"
    assert await wire.is_alive()


async def test_a_revoked_token_refreshes_nothing(realm: Realm, relay: RelayProcess, make_token: MakeToken) -> None:
    site = await realm.site()
    token = make_token(site)
    await in_thread(relay, "token", "revoke", token)
    wire = await realm.session(site)
    assert (await wire.error(type="refresh", token=token))["code"] == "unauthenticated"
    assert await wire.is_alive()


async def test_refresh_without_a_token_is_invalid(realm: Realm) -> None:
    wire = await realm.session(await realm.site())
    error = await wire.error(type="refresh")
    assert error["code"] == "invalid"
    assert "token" in error["details"]


# Too many sessions

SESSIONS_PER_SITE = 16


async def test_too_many_sessions_of_a_site_are_refused_429_with_retry_after(realm: Realm) -> None:
    site = await realm.site()
    wires = [await realm.session(site) for _ in range(SESSIONS_PER_SITE)]
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect(site.headers)
    assert (refused.value.status, refused.value.error["code"]) == (429, "too_many_sessions")
    assert int(refused.value.headers["Retry-After"]) > 0
    assert await wires[0].is_alive()
    assert await (await realm.session(await realm.site())).is_alive()
    await wires[0].close()
    assert await (await realm.session(site)).is_alive()


async def test_handshakes_at_once_do_not_pass_the_bound_together(realm: Realm) -> None:
    site = await realm.site()
    handshakes = [realm.connect(site.headers) for _ in range(SESSIONS_PER_SITE + 8)]
    results = await asyncio.gather(*handshakes, return_exceptions=True)
    refused = [result for result in results if isinstance(result, HandshakeRefused)]
    assert len(refused) == 8, [repr(result) for result in results if not isinstance(result, Wire)]
    assert {refusal.error["code"] for refusal in refused} == {"too_many_sessions"}
