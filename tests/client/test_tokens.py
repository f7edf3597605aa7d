"""Tokens from a source: asked for when one is needed, renewed before they expire, given up on when it is no use."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from relay.client import Limits, NotConnected, Site, Unauthenticated
from relay.client.keys import SiteKey
from relay.client.site import TRANSPORTS
from tests.client.fake import QUICK, TIMEOUT_S, FakeRelay, event
from tests.client.test_relay import TASKS, Clinic, first, user_on
from tests.client.test_session import ending, enter
from tests.support.relay import RelayProcess


class Source:
    """Gives token-1, token-2, …"""

    def __init__(self) -> None:
        self.given = 0

    async def __call__(self) -> str:
        await asyncio.sleep(0)
        self.given += 1
        return f"token-{self.given}"


def refusal() -> tuple[int, dict[str, str], bytes]:
    return 401, {}, b'{"error":{"code":"unauthenticated","message":"expired"}}'


async def test_each_connection_has_a_token_of_its_own(fake: FakeRelay) -> None:
    async with fake.site(token=Source()) as site:
        assert fake.peers[0].headers["Authorization"] == "Bearer token-1"
        fake.peers[0].drop()
        assert (await fake.welcome()).headers["Authorization"] == "Bearer token-2"
        assert "token-" not in repr(vars(site))


async def test_a_plain_function_will_do(fake: FakeRelay) -> None:
    async with fake.site(token=lambda: "from a file"):
        assert fake.peers[0].headers["Authorization"] == "Bearer from a file"


async def test_a_token_that_is_about_to_expire_is_renewed_on_the_same_connection(fake: FakeRelay) -> None:
    told: list[str] = []
    async with fake.site(token=Source(), on_goodbye=lambda goodbye: told.append(goodbye.code)):
        peer = fake.peers[0]
        await peer.send(*[{"type": "goodbye", "code": "token_expiring"}] * 2)
        frame = await peer.expect("refresh")
        assert frame["token"] == "token-2"
        await peer.refuse(frame, "unauthenticated")
        frame = await peer.expect("refresh")
        assert frame["token"] == "token-3"
        await peer.ok(frame, expires_at=None)
    assert told == ["token_expiring"] * 2
    assert len(fake.peers) == 1


async def test_tokens_that_live_for_less_than_their_notice_are_no_busy_loop(fake: FakeRelay) -> None:
    async with fake.site(token=Source()) as site:
        peer = fake.peers[0]
        await peer.send({"type": "goodbye", "code": "token_expiring"})
        await peer.ok(await peer.expect("refresh"), expires_at=None)
        await peer.send({"type": "goodbye", "code": "token_expiring"}, event(1))
        assert (await anext(site.events())).offset == 1
        publishing = asyncio.create_task(site.publish(12, "message"))
        await peer.ok(await peer.expect("publish"), offset=2)  # and not another refresh
        await publishing


async def test_a_notice_that_comes_with_the_answer_to_a_renewal_is_heeded(
    fake: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.renewal.PAUSE_S", 0.0)
    async with fake.site(token=Source()):
        peer = fake.peers[0]
        await peer.send({"type": "goodbye", "code": "token_expiring"})
        first = await peer.expect("refresh")
        await peer.send({"type": "ok", "ref": first["ref"]}, {"type": "goodbye", "code": "token_expiring"})
        assert (await peer.expect("refresh"))["token"] == "token-3"


async def test_without_a_source_the_application_is_told_and_nothing_else_happens(fake: FakeRelay) -> None:
    told: list[str] = []
    async with fake.site(on_goodbye=lambda goodbye: told.append(goodbye.code)) as site:
        await fake.peers[0].send({"type": "goodbye", "code": "token_expiring"}, event(1))
        await anext(site.events())
        assert told == ["token_expiring"]
        await fake.peers[0].close(4401)
        assert type(await ending(site)) is Unauthenticated


async def test_a_session_that_expired_goes_on_with_another_token(fake: FakeRelay) -> None:
    async with fake.site(token=Source()) as site:
        await fake.peers[0].close(4401)
        peer = await fake.welcome()
        assert peer.headers["Authorization"] == "Bearer token-2"
        fake.refusals.append(refusal())
        peer.drop()
        peer = await fake.welcome()
        assert peer.headers["Authorization"] == "Bearer token-4"
        await peer.send(event(1))
        assert (await anext(site.events())).offset == 1


async def test_a_source_whose_tokens_are_refused_twice_is_given_up(fake: FakeRelay) -> None:
    async with fake.site(token=Source()) as site:
        fake.refusals += [refusal(), refusal()]
        await fake.peers[0].close(4401)
        assert type(await ending(site)) is Unauthenticated
    fake.refusals.append(refusal())
    with pytest.raises(Unauthenticated):
        await enter(fake.new_site(token=Source()))


async def test_a_source_that_fails_is_asked_again_and_what_it_says_is_not_told(
    fake: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    failing = itertools.chain([LookupError("a secret of the vault")], itertools.repeat(None))

    def source() -> str:
        error = next(failing)
        if error is not None:
            raise error
        return "at last"

    entering = asyncio.create_task(enter(fake.new_site(token=source)))
    assert (await fake.welcome()).headers["Authorization"] == "Bearer at last"
    await entering
    assert "LookupError" in caplog.text
    assert "secret of the vault" not in caplog.text


async def test_a_source_that_takes_too_long_or_says_never() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    def never() -> str:
        raise Unauthenticated("the account is closed")

    limits = Limits(token_s=0.05, connect_s=0.3, backoff_s=0.01)
    began = time.monotonic()
    with pytest.raises(NotConnected):
        await enter(Site("http://127.0.0.1:9", token=hang, proxy=False, limits=limits))
    assert time.monotonic() - began < TIMEOUT_S
    with pytest.raises(Unauthenticated, match="the account is closed"):
        await enter(Site("http://127.0.0.1:9", token=never, proxy=False, limits=QUICK))


# Against the real relay


@pytest.fixture(scope="module")
def clinic() -> Iterator[Clinic]:
    with RelayProcess() as relay:
        user_on(relay)
        yield Clinic(relay=relay)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_site_lives_longer_than_its_tokens(clinic: Clinic, transport: Any) -> None:
    """The first token is about to expire from the beginning: the client goes on with the next, and the first goes."""
    uid = await clinic.register()
    tokens = [await asyncio.to_thread(clinic.token, uid, "--expires-in", life) for life in ("30s", "1h")]
    given = iter([tokens[0], *[tokens[1]] * 1000])
    renewed = asyncio.Event()

    def source() -> str:
        token = next(given)
        if token == tokens[1]:
            renewed.set()
        return token

    limits = Limits(connect_s=TIMEOUT_S, backoff_s=0.05)
    async with (
        Site(clinic.relay.url, token=source, proxy=False, limits=limits, transports=[transport]) as site,
        asyncio.timeout(4 * TIMEOUT_S),
    ):
        await renewed.wait()
        project = (await site.projects.create(f"project-{uuid.uuid4()}", tasks=TASKS))["id"]
        await asyncio.to_thread(clinic.relay.cli, "token", "revoke", tokens[0])
        sent = await site.publish(project, "command", data="still here", id=uuid.uuid4())
        assert sent.offset
        assert (await first(site, lambda event: event.kind == "participant")).project == project


async def test_a_sites_own_key_signs_for_each_request(clinic: Clinic) -> None:
    """What a key signs is good once: on the lower rungs each request brings its own."""
    uid, key = await clinic.register(), SiteKey.generate()
    await asyncio.to_thread(clinic.relay.cli, "site-key", "add", "--site", uid, key.public)
    options: dict[str, Any] = {"token": key.token("starfish-relay", site=uid), "proxy": False}
    options["limits"] = Limits(connect_s=TIMEOUT_S, backoff_s=0.05, poll_s=1, look_s=0.3)
    async with asyncio.timeout(4 * TIMEOUT_S), AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(Site(clinic.relay.url, transports=[transport], **options))
            for transport in TRANSPORTS
        ]
        project = (await sites[0].projects.create(f"project-{uuid.uuid4()}", tasks=TASKS))["id"]
        await first(sites[0], lambda event: event.kind == "participant")
        told = [(await site.publish(project, "command", id=uuid.uuid4())).offset for site in sites]
        assert [event.offset for event in await sites[1].history(project, kind="command")] == told
        await asyncio.to_thread(clinic.relay.cli, "site-key", "revoke", key.id)
        for site in sites:
            with pytest.raises(Unauthenticated):
                await first(site, lambda event: False)
