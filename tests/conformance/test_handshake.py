"""Section 2 of docs/protocol.md: who gets a WebSocket, and how the others are refused."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable

import pytest

from tests.conformance.realm import Realm, Site
from tests.conformance.wire import SUBPROTOCOL, HandshakeRefused


async def refusal(realm: Realm, headers: dict[str, str], **options: object) -> HandshakeRefused:
    """The HTTP response that a handshake gets instead of a WebSocket."""
    with pytest.raises(HandshakeRefused) as caught:
        await realm.connect(headers, **options)
    return caught.value


def assert_refused(response: HandshakeRefused, status: int, code: str) -> None:
    assert response.status == status, response
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.error["code"] == code
    assert isinstance(response.error["message"], str)
    assert response.error["message"]


async def test_a_client_that_offers_the_subprotocol_gets_it(realm: Realm) -> None:
    site = await realm.site()
    wire = await realm.connect(site.headers, subprotocols=["other.v9", SUBPROTOCOL])
    assert wire.connection.subprotocol == SUBPROTOCOL
    await wire.hello()


async def test_a_client_that_offers_no_subprotocol_is_served(realm: Realm) -> None:
    site = await realm.site()
    wire = await realm.connect(site.headers, subprotocols=None)
    assert wire.connection.subprotocol is None
    await wire.hello()


async def test_a_client_that_offers_only_other_subprotocols_gets_400_invalid(realm: Realm) -> None:
    site = await realm.site()
    response = await refusal(realm, site.headers, subprotocols=["starfish.v2", "other"])
    assert_refused(response, 400, "invalid")


async def test_bearer_token_names_the_site(realm: Realm, make_token: Callable[[Site], str]) -> None:
    site = await realm.site()
    wire = await realm.connect({"Authorization": f"Bearer {make_token(site)}"})
    welcome = await wire.hello()
    assert welcome["site"]["uid"] == site.uid


async def test_basic_with_the_site_header_is_served(realm: Realm) -> None:
    site = await realm.site()
    wire = await realm.connect(site.headers)
    welcome = await wire.hello()
    assert welcome["site"]["uid"] == site.uid


async def test_the_authorization_scheme_is_read_in_any_case(realm: Realm) -> None:
    """RFC 9110, section 11.1: the scheme is case-insensitive."""
    site = await realm.site()
    credentials = site.headers["Authorization"].removeprefix("Basic ")
    wire = await realm.connect(site.headers | {"Authorization": f"basic {credentials}"})
    await wire.hello()


async def test_no_credentials_get_401_unauthenticated_with_www_authenticate(realm: Realm) -> None:
    response = await refusal(realm, {})
    assert_refused(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"]


async def test_an_unknown_token_gets_401_unauthenticated_with_www_authenticate(realm: Realm) -> None:
    response = await refusal(realm, {"Authorization": "Bearer not-a-token-of-this-relay"})
    assert_refused(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"]


async def test_a_wrong_password_gets_401_unauthenticated_with_www_authenticate(realm: Realm) -> None:
    site = await realm.site()
    wrong = base64.b64encode(f"{site.account.name}:wrong".encode()).decode()
    response = await refusal(realm, site.headers | {"Authorization": f"Basic {wrong}"})
    assert_refused(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer", "Digest abc", "nonsense"])
async def test_an_unreadable_authorization_header_gets_401(realm: Realm, header: str) -> None:
    site = await realm.site()
    response = await refusal(realm, site.headers | {"Authorization": header})
    assert_refused(response, 401, "unauthenticated")


async def test_credentials_in_the_url_are_not_read(realm: Realm, make_token: Callable[[Site], str]) -> None:
    token = make_token(await realm.site())
    realm.socket_url += f"?token={token}&access_token={token}&authorization=Bearer%20{token}"
    assert_refused(await refusal(realm, {}), 401, "unauthenticated")


async def test_basic_without_the_site_header_gets_400_invalid(realm: Realm) -> None:
    response = await refusal(realm, {"Authorization": realm.owner.authorization})
    assert_refused(response, 400, "invalid")


async def test_basic_with_an_unknown_site_gets_404_unknown_site(realm: Realm) -> None:
    headers = {"Authorization": realm.owner.authorization, "X-Starfish-Site": str(uuid.uuid4())}
    assert_refused(await refusal(realm, headers), 404, "unknown_site")


async def test_basic_with_another_users_site_gets_403_forbidden(realm: Realm) -> None:
    site = await realm.site(realm.owner)
    response = await refusal(realm, site.headers | {"Authorization": realm.guest.authorization})
    assert_refused(response, 403, "forbidden")


async def test_an_origin_that_is_not_allowed_gets_403_forbidden(realm: Realm) -> None:
    site = await realm.site()
    response = await refusal(realm, site.headers, origin="https://elsewhere.example")
    assert_refused(response, 403, "forbidden")


async def test_a_site_may_hold_several_sessions(realm: Realm) -> None:
    site = await realm.site()
    sessions = [await realm.session(site) for _ in range(3)]
    assert len({wire.welcome["session"] for wire in sessions}) == 3
    for wire in sessions:
        assert await wire.is_alive()
