"""docs/legacy-api.md: its tables are the code's, and every text that it quotes is what a running relay answers."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from relay.config import Settings
from relay.core.run_states import Status
from relay.web.legacy.runs import PATIENCE_S
from tests.conformance.realm import TASKS, Account, Realm, Team
from tests.docs.documents import DOCS
from tests.support.relay import RelayProcess

DOCUMENT = DOCS / "legacy-api.md"
OWNER = Account(name="owner", password="the owner's password")
GUEST = Account(name="guest", password="the guest's password")
OPERATOR = Account(name="operator", password="the operator's password")


@pytest.fixture(scope="module")
def own_relay() -> Iterator[RelayProcess]:
    with RelayProcess() as relay:
        for account in (OWNER, GUEST):
            relay.cli("user", "create", account.name, "--no-input", env={"STARFISH_USER_PASSWORD": account.password})
        operator = ["--username", OPERATOR.name, "--email", "operator@example.org", "--no-input"]
        relay.cli("createsuperuser", *operator, env={"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password})
        yield relay


@pytest.fixture
async def realm(own_relay: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(own_relay, owner=OWNER, guest=GUEST, operator=OPERATOR) as realm:
        yield realm


def quoted() -> set[str]:
    """The bare strings and the details that the document quotes as answers."""
    text = DOCUMENT.read_text()
    bare = re.findall(r'`"([^"`]+)"`', text)
    details = re.findall(r'`\{"detail": "([^"…`]+)"\}`', text)
    return {*bare, *details}


async def test_every_quoted_refusal_is_answered_word_for_word(realm: Realm) -> None:
    team = await realm.team(tasks=TASKS)
    answers = [
        *await refused_logins(realm),
        *await refused_sites(realm),
        *await refused_runs(realm, team),
        await realm.rest("GET", "projects/lookup/?name=no-such-project", OWNER),
        await realm.rest("GET", "sites/?page=1000", OWNER),
    ]
    said = {text_of(answer) for answer in answers}
    assert said == {text.replace("{type}", "logs") for text in quoted()}
    statuses = {text_of(answer): answer.status_code for answer in answers}
    for text, status in statuses.items():
        if status in (400, 404):
            assert re.search(rf"{status}[^.|;]*{re.escape(text.replace('logs', '{type}'))}", flat()), text


def flat() -> str:
    return DOCUMENT.read_text().replace("\n", " ")


def text_of(answer: httpx.Response) -> str:
    body = answer.json()
    return str(body["detail"] if isinstance(body, dict) else body)


async def refused_logins(realm: Realm) -> list[httpx.Response]:
    nobody = await realm.rest("GET", "sites/")
    wrong = await realm.rest("GET", "sites/", Account(name=OWNER.name, password="not the owner's"))
    for answer in (nobody, wrong):
        assert answer.status_code == 403
        assert "WWW-Authenticate" not in answer.headers
    return [nobody, wrong]


async def refused_sites(realm: Realm) -> list[httpx.Response]:
    site = await realm.site()
    return [
        await realm.rest("GET", "sites/lookup/?uid=x", OWNER),
        await realm.rest("GET", f"sites/lookup/?uid={uuid.uuid4()}", OWNER),
        await realm.rest("POST", "sites/heartbeat/", OWNER, json={"uid": site.uid, "status": 5}),
    ]


async def refused_runs(realm: Realm, team: Team) -> list[httpx.Response]:
    started = await realm.rest("POST", "runs", OWNER, json={"project": team.project})
    assert (started.status_code, started.content) == (201, b"")
    again = await realm.rest("POST", "runs", OWNER, json={"project": team.project})
    absent = await realm.rest("POST", "runs", OWNER, json={"project": 2**40})
    (run,) = await team.pa.call("runs.list", project=team.project)
    own = f"run={run['id']}"
    actions = [
        await realm.rest("GET", f"runs-action/download/?{own}&type=logs", GUEST),
        await realm.rest("GET", f"runs-action/download/?{own}", GUEST),
        await realm.rest("POST", "runs-action/upload/", GUEST, json={"run": run["id"]}),
        await realm.rest("POST", "runs-action/upload/", GUEST, json={"run": run["id"], "task_seq": 1, "round_seq": 1}),
        await realm.rest("PUT", "runs-action/update/", GUEST, json={"run": run["id"], "action": "pause"}),
        await realm.rest("PUT", "runs-action/update/", GUEST, json={"run": "x", "action": "stop"}),
        await realm.rest("PUT", f"runs/{run['id']}/status/", GUEST, json={"status": 42}),
    ]
    other = await realm.team()
    await realm.unconnected(other.participant, other.pas, other.co)
    offline = await realm.rest("POST", "runs", OWNER, json={"project": other.project})
    return [again, absent, *actions, offline]


def test_the_statuses_stand_beside_their_codes() -> None:
    table = {int(code): name for code, name in re.findall(r"\| (\d) \| (\w[\w ]*?) (?=\|)", DOCUMENT.read_text())}
    assert table == {int(status): status.display for status in Status}


def test_the_numbers_are_the_defaults() -> None:
    settings = Settings()
    assert f"Connected for {settings.heartbeat_s:.0f} s" in flat()
    assert f"{settings.upload_bytes // 2**30} GiB (`STARFISH_UPLOAD_BYTES`)" in flat()
    assert f"{settings.upload_stall_s:.0f} s (`STARFISH_UPLOAD_STALL_S`)" in flat()
    assert f"{settings.upload_files} files (`STARFISH_UPLOAD_FILES`)" in flat()
    assert f"tries again for {PATIENCE_S:.0f} s" in flat()
    assert f"(`STARFISH_LEGACY_DWELL_S`, {settings.legacy_dwell_s:.0f} s unless set)" in flat()
