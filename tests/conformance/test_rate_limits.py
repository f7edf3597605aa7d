"""Section 7 of docs/protocol.md: who sends too much at once is told so, and who goes on all the same is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Realm, listed
from tests.conformance.wire import HandshakeRefused, publication
from tests.support.relay import RelayProcess

FRAMES_A_SECOND = 20
BURST = 3 * FRAMES_A_SECOND


@pytest.fixture
async def realm() -> AsyncIterator[Realm]:
    """On a relay that allows little; which database it has makes no difference to that."""
    with RelayProcess(settings={"STARFISH_SESSION_FRAMES": str(FRAMES_A_SECOND)}) as relay:
        async with new_realm(relay) as realm:
            yield realm


async def test_what_is_too_much_gets_rate_limited_and_nothing_of_it_is_done(realm: Realm) -> None:
    team = await realm.team()
    refs = range(BURST + 20)
    for ref in refs:
        await team.co.send(**publication(team.project, {"ref": ref, "data": ref}))
    answers = [await team.co.answer(ref) for ref in refs]
    refused = [answer for answer in answers if answer["type"] == "error"]
    assert refused
    assert {answer["code"] for answer in refused} == {"rate_limited"}
    assert all(0 < answer["details"]["retry_after"] < 10 for answer in refused)
    await asyncio.sleep(refused[-1]["details"]["retry_after"])
    await team.co.publish(team.project, data="in time")
    history = listed(await team.pa.call("history.read", project=team.project, after=team.head, limit=1000), "events")
    done = [ref for ref, answer in zip(refs, answers, strict=True) if answer["type"] == "ok"]
    assert [event["data"] for event in history] == [*done, "in time"]


async def test_who_goes_on_all_the_same_is_closed_4429_and_the_others_are_not(realm: Realm) -> None:
    team = await realm.team()
    for _ in range(BURST + 200):
        await team.co.send(**publication(team.project, {}))
    assert await team.co.closed() == 4429
    assert await team.pa.is_alive()
    assert await (await realm.session(team.coordinator)).is_alive()


@pytest.fixture
async def shared() -> AsyncIterator[Realm]:
    """On a relay that allows a user little, and each of its sites more."""
    settings = {"STARFISH_USER_FRAMES": str(FRAMES_A_SECOND), "STARFISH_SESSIONS_PER_USER": "3"}
    with RelayProcess(settings=settings) as relay:
        async with new_realm(relay) as realm:
            yield realm


async def test_the_sites_of_a_user_share_its_rate_and_its_number_of_sessions(shared: Realm) -> None:
    sites = [await shared.site() for _ in range(4)]
    wires = [await shared.session(site) for site in sites[:3]]
    with pytest.raises(HandshakeRefused) as refused:
        await shared.connect(sites[3].headers)
    assert (refused.value.status, refused.value.error["code"]) == (429, "too_many_sessions")
    assert int(refused.value.headers["Retry-After"]) > 0
    await wires.pop().close()
    wires.append(await shared.session(sites[3]))
    for wire in wires:
        for ref in range(BURST):
            await wire.send(type="call", ref=ref, method="projects.list")
    answers = [await wire.answer(ref) for wire in wires for ref in range(BURST)]
    refusals = [answer["code"] for answer in answers if answer["type"] == "error"]
    assert len(refusals) > BURST, "what one site could send alone is as much as all three may"
    assert set(refusals) == {"rate_limited"}
    asking = (shared.as_site("POST", "calls/projects.list/", sites[0], json={}) for _ in range(2 * BURST))
    too_fast = [response for response in await asyncio.gather(*asking) if response.status_code != 200]
    assert too_fast
    for response in too_fast:
        assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
        assert int(response.headers["Retry-After"]) >= 1


async def test_polls_of_a_user_are_counted_together_and_those_that_come_as_they_should_are_not_refused(
    shared: Realm,
) -> None:
    await shared.site()
    for _ in range(20):
        assert (await shared.rest("GET", "runs/active/", shared.owner)).status_code == 200
    answers = await asyncio.gather(*(shared.rest("GET", "runs/active/", shared.owner) for _ in range(5 * BURST)))
    too_fast = [answer for answer in answers if answer.status_code != 200]
    assert too_fast
    for answer in too_fast:
        assert answer.status_code == 429
        assert answer.json()["detail"].startswith("too much at once")
        assert int(answer.headers["Retry-After"]) >= 1
