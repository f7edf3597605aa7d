"""Sites that sign in with a key of their own: wherever a token does, once an assertion, until the key is revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from relay.client import Site as RelaySite
from relay.client.keys import SiteKey
from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, Site
from tests.conformance.wire import HandshakeRefused, Wire
from tests.support.relay import RelayProcess

NOTICED_WITHIN_S = 2.0
AUDIENCE = "starfish-relay"


async def registered(relay: RelayProcess, site: Site) -> SiteKey:
    key = SiteKey.generate()
    done = await asyncio.to_thread(relay.cli, "site-key", "add", "--site", site.uid, key.public)
    assert done.stdout.strip() == key.id
    return key


async def signed_in(realm: Realm, credential: str) -> Wire:
    wire = await realm.connect({"Authorization": f"Bearer {credential}"})
    await wire.hello()
    return wire


async def refusal(realm: Realm, credential: str) -> str:
    with pytest.raises(HandshakeRefused) as refused:
        await realm.connect({"Authorization": f"Bearer {credential}"})
    assert (refused.value.status, refused.value.error["code"]) == (401, "unauthenticated")
    return str(refused.value.error["message"])


async def test_a_site_signs_in_with_what_its_key_signs(realm: Realm, relay: RelayProcess) -> None:
    site = await realm.site()
    key = await registered(relay, site)
    wire = await signed_in(realm, key.assertion(AUDIENCE, site=site.uid))
    assert wire.welcome["site"]["uid"] == site.uid
    left = datetime.fromisoformat(wire.welcome["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11) < left <= timedelta(hours=12)
    listed = (await asyncio.to_thread(relay.cli, "site-key", "list", "--site", site.uid)).stdout
    assert key.id in listed
    assert f"site={site.uid}  by=key:{key.id}" in relay.log
    assert "never" not in listed


async def test_an_assertion_opens_one_session_and_no_other(realm: Realm, relay: RelayProcess) -> None:
    site = await realm.site()
    credential = (await registered(relay, site)).assertion(AUDIENCE, site=site.uid)
    headers = {"Authorization": f"Bearer {credential}"}
    results = await asyncio.gather(*(realm.connect(headers) for _ in range(5)), return_exceptions=True)
    assert len([result for result in results if isinstance(result, Wire)]) == 1
    assert "has been used" in await refusal(realm, credential)


async def test_what_is_made_out_to_another_relay_or_for_another_site_is_refused(
    realm: Realm, relay: RelayProcess
) -> None:
    site, sibling = await realm.site(), await realm.site()
    key = await registered(relay, site)
    assert "aud" in await refusal(realm, key.assertion("https://other.example", site=site.uid))
    assert "iss and sub" in await refusal(realm, key.assertion(AUDIENCE, site=sibling.uid))
    assert "unknown" in await refusal(realm, SiteKey.generate().assertion(AUDIENCE, site=site.uid))


async def test_rest_takes_an_assertion_as_it_takes_a_token(realm: Realm, relay: RelayProcess) -> None:
    team = await realm.team()
    key = await registered(relay, team.participant)
    path = f"/projects/{team.project}/events/?after={team.head - 1}"
    credential = key.assertion(AUDIENCE, site=team.participant.uid)
    for status in (200, 401):
        response = await realm.http.get(path, headers={"Authorization": f"Bearer {credential}"})
        assert response.status_code == status, response.text


async def test_keys_are_changed_while_sessions_go_on(realm: Realm, relay: RelayProcess) -> None:
    """Two keys are good at once; the session moves to the new one, and the old one is revoked."""
    site = await realm.site()
    old, new = await registered(relay, site), await registered(relay, site)
    moved, left = [await signed_in(realm, old.assertion(AUDIENCE, site=site.uid)) for _ in range(2)]
    answer = await moved.ok(type="refresh", token=new.assertion(AUDIENCE, site=site.uid))
    assert datetime.fromisoformat(answer["expires_at"]) > datetime.now(UTC)
    await asyncio.to_thread(relay.cli, "site-key", "revoke", old.id)
    since = time.monotonic()
    assert await left.closed() == 4401
    assert time.monotonic() - since < NOTICED_WITHIN_S
    assert await moved.is_alive()
    assert "revoked" in await refusal(realm, old.assertion(AUDIENCE, site=site.uid))
    assert await (await signed_in(realm, new.assertion(AUDIENCE, site=site.uid))).is_alive()


async def test_a_revoked_credential_ends_event_streams_too(
    realm: Realm, relay: RelayProcess, make_token: Callable[[Site], str]
) -> None:
    team = await realm.team()
    key = await registered(relay, team.participant)
    token = make_token(team.participant)
    for credential, revoke in (
        (key.assertion(AUDIENCE, site=team.participant.uid), ("site-key", "revoke", key.id)),
        (token, ("token", "revoke", token)),
    ):
        headers = {"Authorization": f"Bearer {credential}", "Accept": "text/event-stream"}
        async with realm.http.stream(
            "GET", f"/projects/{team.project}/events/?after={team.head}", headers=headers
        ) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == ": welcome"
            await asyncio.to_thread(relay.cli, *revoke)
            async with asyncio.timeout(NOTICED_WITHIN_S):
                assert not [line async for line in lines if line.startswith("data:")]


async def test_a_refresh_with_another_sites_key_changes_nothing(realm: Realm, relay: RelayProcess) -> None:
    site, sibling = await realm.site(), await realm.site()
    key = await registered(relay, sibling)
    wire = await realm.session(site)
    error = await wire.error(type="refresh", token=key.assertion(AUDIENCE, site=sibling.uid))
    assert error["code"] == "unauthenticated"
    assert (await wire.call("projects.list")) == []


async def test_settings_say_for_whom_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that a key began is told of its end and closed, unless it is refreshed; tokens expire by default."""
    monkeypatch.setattr("relay.client.renewal.PAUSE_S", 0.0)
    audience = "https://relay.example"
    settings = {
        "STARFISH_AUDIENCE": audience,
        "STARFISH_KEY_SESSION_S": "12",
        "STARFISH_TOKEN_LIFETIME_S": "3600",
    }
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm, AsyncExitStack() as stack:
            site, unattended = await realm.site(), await realm.site()
            key, its_key = await registered(relay, site), await registered(relay, unattended)
            tokens = [await new_token(relay, site), await new_token(relay, site, "--expires-in", "never")]
            assert "aud" in await refusal(realm, key.assertion(AUDIENCE, site=site.uid))
            credential = its_key.token(audience, site=unattended.uid)
            client = await stack.enter_async_context(RelaySite(relay.url, token=credential))
            refreshed, ended = [await signed_in(realm, key.assertion(audience, site=site.uid)) for _ in range(2)]
            for wire in (refreshed, ended):
                assert (await wire.expect("goodbye"))["code"] == "token_expiring"
            expiries = [(await refreshed.ok(type="refresh", token=token))["expires_at"] for token in tokens]
            assert [expires_at is None for expires_at in expiries] == [False, True]
            async with asyncio.timeout(30):
                await ended.connection.wait_closed()
            assert ended.connection.close_code == 4401
            assert await refreshed.is_alive()
            assert client.connected
            opened = [line for line in relay.log.splitlines() if "session opened" in line and unattended.uid in line]
            assert len(opened) == 1, "the client has renewed its session by itself, on one connection"


async def new_token(relay: RelayProcess, site: Site, *life: str) -> str:
    return (await asyncio.to_thread(relay.cli, "token", "create", "--site", site.uid, *life)).stdout.strip()
