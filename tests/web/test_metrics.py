"""`/metrics`: true numbers, in Prometheus' own format, for those who may see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import metrics
from tests.conformance.realm import OPERATOR, OWNER, Realm
from tests.support.relay import RelayProcess

TOKEN = "a scraper's token"


@pytest.fixture(scope="module")
def relay_with_token() -> Iterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_METRICS_TOKEN": TOKEN}) as relay:
        relay.cli("user", "create", OWNER.name, "--no-input", env={"STARFISH_USER_PASSWORD": OWNER.password})
        operator = {"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password}
        relay.cli("createsuperuser", "--username", OPERATOR.name, "--no-input", env=operator)
        yield relay


@pytest.fixture
async def realm(relay_with_token: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(relay_with_token, owner=OWNER, guest=OWNER, operator=OPERATOR) as realm:
        yield realm


async def scrape(url: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        "".join([sample.name, *(f" {name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_what_happens_is_counted(relay_with_token: RelayProcess, realm: Realm) -> None:
    before = await scrape(relay_with_token.url)
    team = await realm.team()
    for number in range(3):
        await team.co.publish(team.project, data=number)
        await team.pa.expect("event", project=team.project, data=number)
    await team.pa.refused("runs.start", project=team.project)
    after = await scrape(relay_with_token.url)

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grown("starfish_events_total kind=message") >= 3
    assert grown("starfish_publish_seconds_count") >= 3
    assert grown("starfish_delivery_seconds_count") >= 3
    assert grown("starfish_refused_total code=forbidden") == 1
    assert after["starfish_sessions"] == 2
    assert after["starfish_database_connections state=in_use"] + after["starfish_database_connections state=idle"] > 0
    assert after["starfish_database_waiting"] >= 0
    assert after["starfish_blob_bytes state=complete"] == 0
    assert after[f"starfish_lag_events project={team.project}"] == 0


async def test_sessions_that_end_are_counted_by_their_code(relay_with_token: RelayProcess, realm: Realm) -> None:
    team = await realm.team()
    await team.pa.connection.close(4999, "made up")
    await team.co.expect("presence", site=team.participant.uid, state="offline")
    assert (await scrape(relay_with_token.url))["starfish_sessions_closed_total code=other"] >= 1


@pytest.mark.parametrize(("authorization", "status"), [(None, 401), ("Bearer wrong", 401), ("Basic", 401)])
async def test_nobody_else_sees_them(relay_with_token: RelayProcess, authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx.AsyncClient(base_url=relay_with_token.url, trust_env=False) as http:
        assert (await http.get("/metrics", headers=headers)).status_code == status


async def test_operators_see_them_and_users_do_not(relay_with_token: RelayProcess) -> None:
    async with httpx.AsyncClient(base_url=relay_with_token.url, trust_env=False) as http:
        for account, status in ((OPERATOR, 200), (OWNER, 403)):
            answer = await http.get("/metrics", auth=(account.name, account.password))
            assert answer.status_code == status


def test_every_metric_is_the_relays_and_says_what_it_is() -> None:
    for family in metrics.REGISTRY.collect():
        assert family.name.startswith("starfish_")
        assert family.documentation
