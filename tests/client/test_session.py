"""Connecting, being refused, losing the connection and coming back, leaving."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time

import pytest

from relay.client import (
    Closed,
    Forbidden,
    Limits,
    NotConnected,
    ProtocolViolation,
    SessionEnded,
    Site,
    Unauthenticated,
    UnknownSite,
)
from relay.protocol.errors import CloseCode
from tests.client.fake import QUICK, TIMEOUT_S, UID, FakeRelay, event, project, until


async def enter(site: Site) -> None:
    async with site:
        pass


async def ending(site: Site) -> SessionEnded:
    """What the application is told when the session ends."""
    with pytest.raises(SessionEnded) as caught:
        async with asyncio.timeout(TIMEOUT_S):
            await anext(site.events())
    return caught.value


# The handshake and the hello


async def test_hello_names_the_client_and_leaves_the_start_to_the_relay(fake: FakeRelay) -> None:
    async with fake.site() as site:
        peer = fake.peers[0]
        assert peer.headers["Authorization"] == "Bearer the-secret-token"
        assert peer.connection.subprotocol == "starfish.v1"
        assert "Sec-WebSocket-Extensions" not in peer.headers
        assert peer.hello["client"].startswith("starfish-py/")
        assert peer.hello["projects"] == {}
        assert (site.uid, site.name, site.connected) == (UID, "here", True)


async def test_basic_credentials_go_with_the_sites_uid(fake: FakeRelay) -> None:
    async with fake.site(user="anna", password="pässword", uid=UID):
        headers = fake.peers[0].headers
        assert headers["Authorization"] == "Basic YW5uYTpww6Rzc3dvcmQ="
        assert headers["X-Starfish-Site"] == UID


async def test_start_says_where_to_go_on_from(fake: FakeRelay) -> None:
    async with fake.site(start={12: "new", 13: 7}):
        assert fake.peers[0].hello["projects"] == {"12": {"offset": "new"}, "13": {"offset": 7}}


@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, ProtocolViolation), (401, Unauthenticated), (403, Forbidden), (404, UnknownSite)],
)
async def test_a_refusal_for_good_is_raised_and_not_tried_again(
    fake: FakeRelay, status: int, raised: type[SessionEnded]
) -> None:
    fake.refusals.append((status, {}, b'{"error":{"code":"because","message":"of this"}}'))
    with pytest.raises(raised, match="because: of this"):
        await enter(fake.new_site())
    assert fake.attempts == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_refusal_that_passes_is_tried_again(fake: FakeRelay, status: int) -> None:
    fake.refusals += [(status, {}, b"not even JSON")] * 2
    async with fake.site():
        assert fake.attempts == 3


async def test_retry_after_of_a_refusal_is_waited_for(fake: FakeRelay) -> None:
    fake.refusals.append((503, {"Retry-After": "1"}, b""))
    began = time.monotonic()
    async with fake.site():
        assert time.monotonic() - began >= 1


async def test_an_unreachable_relay_is_given_up_after_the_time_that_was_set() -> None:
    limits = Limits(connect_s=0.2, backoff_s=0.01)
    with pytest.raises(NotConnected) as caught:
        await enter(Site("http://127.0.0.1:9", token="t", proxy=False, limits=limits))
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_relay_that_never_welcomes_is_left_and_tried_again(fake: FakeRelay) -> None:
    limits = Limits(open_s=0.1, backoff_s=0.01, connect_s=TIMEOUT_S)
    entering = asyncio.create_task(enter(fake.new_site(limits=limits)))
    silent = await fake.accept()
    await silent.hear_hello()
    await fake.welcome()
    await entering


async def test_a_hello_refused_for_good_is_raised(fake: FakeRelay) -> None:
    entering = asyncio.create_task(enter(fake.new_site()))
    peer = await fake.accept()
    await peer.refuse(await peer.hear_hello(), "invalid")
    with pytest.raises(ProtocolViolation, match="invalid"):
        await entering


async def test_a_hello_while_the_storage_is_down_is_tried_again(fake: FakeRelay) -> None:
    entering = asyncio.create_task(enter(fake.new_site()))
    peer = await fake.accept()
    await peer.refuse(await peer.hear_hello(), "unavailable")
    await fake.welcome()
    await entering


async def test_cancelled_while_connecting_leaves_nothing(fake: FakeRelay) -> None:
    entering = asyncio.create_task(enter(fake.new_site()))
    peer = await fake.accept()
    await peer.hear_hello()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await peer.closed() == 1000


async def test_a_site_is_entered_once(fake: FakeRelay) -> None:
    async with fake.site() as site:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        await enter(site)


# Close codes


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4408, 4410, 4429])
async def test_after_a_close_that_passes_the_client_comes_back(fake: FakeRelay, code: int) -> None:
    async with fake.site() as site:
        await fake.peers[0].close(code)
        peer = await fake.welcome()
        await peer.send(event(1))
        assert (await anext(site.events())).offset == 1


@pytest.mark.parametrize(
    ("code", "raised"),
    [(1009, ProtocolViolation), (4400, ProtocolViolation), (4401, Unauthenticated), (4403, Forbidden)],
)
async def test_after_a_close_for_good_everybody_is_told(
    fake: FakeRelay, code: int, raised: type[SessionEnded], caplog: pytest.LogCaptureFixture
) -> None:
    async with fake.site() as site:
        publishing = asyncio.create_task(site.publish(12, "message"))
        await fake.peers[0].expect("publish")
        await fake.peers[0].close(code, "the reason")
        error = await ending(site)
        assert type(error) is raised
        assert "the reason" in str(error)
        with pytest.raises(raised):
            await publishing
        with pytest.raises(raised):
            await site.publish(12, "message")
        assert not site.connected
    assert len(fake.peers) == 1
    assert "the reason" in caplog.text


def test_every_close_code_that_stops_a_client_has_its_error() -> None:
    from relay.client.errors import BY_CLOSE_CODE
    from relay.protocol.errors import RECONNECT

    own = {CloseCode.NORMAL, CloseCode.GOING_AWAY}
    assert set(BY_CLOSE_CODE) == {code for code, again in RECONNECT.items() if not again} - own


async def test_goodbye_says_when_to_come_back(fake: FakeRelay) -> None:
    heard: list[str] = []
    async with fake.site(on_goodbye=lambda goodbye: heard.append(goodbye.code)):
        await fake.peers[0].send({"type": "goodbye", "code": "draining", "retry_after": 0.5})
        await fake.peers[0].close(1012)
        began = time.monotonic()
        await fake.welcome()
        assert 0.5 <= time.monotonic() - began < 2
    assert heard == ["draining"]


async def test_a_frame_that_makes_no_sense_ends_the_session(fake: FakeRelay, caplog: pytest.LogCaptureFixture) -> None:
    async with fake.site() as site:
        await fake.peers[0].connection.send('{"type":"event","project":"twelve"}')
        assert type(await ending(site)) is ProtocolViolation
    assert "cannot be read" in caplog.text


async def test_frames_of_a_later_protocol_are_passed_over(fake: FakeRelay) -> None:
    async with fake.site() as site:
        await fake.peers[0].send({"type": "novelty", "project": "anything"}, event(1, novelty=True))
        assert (await anext(site.events())).offset == 1


# Waiting between attempts


def test_backoff_doubles_up_to_its_ceiling_and_spreads_over_all_of_it() -> None:
    from relay.client.limits import backoff

    limits = Limits(backoff_s=1.0, backoff_max_s=8.0)
    for attempt, ceiling in ((0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (10_000, 8)):
        waits = [backoff(limits, attempt, None) for _ in range(300)]
        assert 0 <= min(waits) < 0.2 * ceiling
        assert 0.8 * ceiling < max(waits) <= ceiling


def test_what_the_relay_asks_for_is_a_lower_bound_of_the_wait() -> None:
    from relay.client.limits import backoff

    waits = [backoff(Limits(backoff_s=1.0), 0, 4.0) for _ in range(300)]
    assert min(waits) >= 4
    assert max(waits) <= 7
    assert max(waits) - min(waits) > 1


# Leaving


async def test_leaving_closes_with_1000(fake: FakeRelay) -> None:
    async with fake.site():
        pass
    assert await fake.peers[0].closed() == 1000


async def test_leaving_while_the_relay_is_away_does_not_wait_for_it(fake: FakeRelay) -> None:
    async with fake.site(limits=Limits(backoff_s=60, connect_s=TIMEOUT_S)) as site:
        fake.peers[0].drop()
        await until(lambda: not site.connected)
        began = time.monotonic()
    assert time.monotonic() - began < 1


async def test_leaving_tells_whoever_still_waits(fake: FakeRelay) -> None:
    async with fake.site() as site:
        reading = asyncio.ensure_future(anext(site.events()))
        publishing = asyncio.create_task(site.publish(12, "message"))
        await fake.peers[0].expect("publish")
    with pytest.raises(Closed):
        await reading
    with pytest.raises(Closed):
        await publishing
    with pytest.raises(Closed):
        await site.runs.list(12)


async def test_a_relay_that_does_not_answer_the_close_holds_nobody_up(fake: FakeRelay) -> None:
    async with fake.site(limits=Limits(close_s=0.2, connect_s=TIMEOUT_S)) as site:
        fake.peers[0].connection.transport.pause_reading()
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert not site.connected


async def test_an_exception_in_the_block_passes_and_everything_is_closed(fake: FakeRelay) -> None:
    with pytest.raises(LookupError):
        async with fake.site():
            raise LookupError
    assert await fake.peers[0].closed() == 1000


async def test_cancelled_in_the_block_leaves_nothing(fake: FakeRelay) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with fake.site() as site:
            inside.set()
            async for _ in site.events():
                pass

    working = asyncio.create_task(work())
    await inside.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await fake.peers[0].closed() == 1000
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if task.get_name().startswith("relay-")]


# Secrets


async def test_secrets_show_in_no_repr_and_no_log(fake: FakeRelay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("relay.client").setLevel(logging.DEBUG)
    async with fake.site() as site:
        shown = [repr(site), repr(vars(site)), str(site)]
        refreshing = asyncio.create_task(site.refresh("the-secret-renewed"))
        frame = await fake.peers[0].expect("refresh")
        await fake.peers[0].ok(frame, expires_at=None)
        await refreshing
        shown.append(repr(vars(site)))
    client_log = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets.server")]
    assert "the-secret" not in " ".join(shown + client_log)


@pytest.mark.parametrize(
    "url",
    ["relay.example", "ftp://relay.example", "http://", "http://anna:secret@relay.example", "http://relay.example?a=b"],
)
def test_a_url_that_cannot_be_used_is_refused_and_shows_no_secret(url: str) -> None:
    with pytest.raises(ValueError, match="a relay's URL") as caught:
        Site(url, token="t")
    assert "secret" not in str(caught.value)


def test_tls_settings_without_tls_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="https or wss"):
        Site("http://relay.example", token="t", ssl=ssl.create_default_context())


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("http://relay.example:8000", "ws://relay.example:8000/starfish/ws/v1"),
        ("https://relay.example/", "wss://relay.example/starfish/ws/v1"),
        ("wss://relay.example/behind/it/", "wss://relay.example/behind/it/starfish/ws/v1"),
        ("ws://[::1]:8000", "ws://[::1]:8000/starfish/ws/v1"),
    ],
)
def test_the_sockets_path_is_added_to_the_url(url: str, socket: str) -> None:
    assert socket in repr(Site(url, token="t"))


@pytest.mark.parametrize(
    "credentials",
    [{}, {"token": "t", "user": "u"}, {"user": "u", "password": "p"}, {"token": "t", "uid": UID}],
)
def test_credentials_are_a_token_or_a_user_with_a_site(credentials: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either token"):
        Site("http://relay.example", **credentials)  # type: ignore[arg-type]


# Memberships and presence


async def test_memberships_and_presence_are_as_last_told(fake: FakeRelay) -> None:
    told: list[tuple[str, str]] = []
    note = lambda presence: told.append((presence.site, presence.state))  # noqa: E731
    async with fake.site({12: project(online=["a"])}, on_presence=note) as site:
        peer = fake.peers[0]
        assert site.presence(12) == {"a"}
        assert site.memberships[12].role == "coordinator"
        at = "2026-11-24T10:00:00.123456Z"
        await peer.send(
            {"type": "presence", "project": 12, "site": "b", "state": "online", "at": at},
            {"type": "presence", "project": 12, "site": "a", "state": "offline", "at": at},
            {"type": "subscribed", "project": 13, **project(5, role="participant", online=["c"])},
            event(6, project=13),
        )
        assert (await anext(site.events())).project == 13
        assert site.presence(12) == {"b"}
        assert site.presence(13) == {"c"}
        assert site.memberships[13].role == "participant"
        await peer.send({"type": "unsubscribed", "project": 13, "reason": "left"}, event(1))
        await anext(site.events())
        assert set(site.memberships) == {12}
        with pytest.raises(Exception, match="unknown_project"):
            site.presence(13)
    assert told == [("b", "online"), ("a", "offline")]


async def test_a_callback_that_fails_is_logged_and_harms_nothing(
    fake: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise LookupError("from the callback")

    async with fake.site(on_receipt=fail) as site:
        await fake.peers[0].send({"type": "receipt", "project": 12, "offset": 1, "site": UID}, event(1))
        await anext(site.events())
    assert "from the callback" in caplog.text


async def test_a_refreshed_token_is_the_one_to_come_back_with(fake: FakeRelay) -> None:
    async with fake.site() as site:
        refreshing = asyncio.create_task(site.refresh("the-new-one"))
        peer = fake.peers[0]
        await peer.ok(await peer.expect("refresh"), expires_at="2026-11-24T10:00:00Z")
        expires = await refreshing
        assert expires is not None
        assert expires.hour == 10
        peer.drop()
        again = await fake.welcome()
        assert again.headers["Authorization"] == "Bearer the-new-one"


async def test_a_token_that_was_refused_is_not(fake: FakeRelay) -> None:
    async with fake.site() as site:
        refreshing = asyncio.create_task(site.refresh("no-good"))
        peer = fake.peers[0]
        await peer.refuse(await peer.expect("refresh"), "unauthenticated")
        with pytest.raises(Exception, match="unauthenticated"):
            await refreshing
        peer.drop()
        again = await fake.welcome()
        assert again.headers["Authorization"] == "Bearer the-secret-token"


async def test_a_token_renewed_while_disconnected_is_used_at_once(fake: FakeRelay) -> None:
    async with fake.site(limits=QUICK) as site:
        fake.refusals.append((503, {"Retry-After": "1"}, b""))
        fake.peers[0].drop()
        await until(lambda: not site.connected)
        refreshing = asyncio.create_task(site.refresh("fresh"))
        again = await fake.welcome()
        assert again.headers["Authorization"] == "Bearer fresh"
        await again.ok(await again.expect("refresh"), expires_at=None)
        assert await refreshing is None
