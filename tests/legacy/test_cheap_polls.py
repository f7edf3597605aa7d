"""A poll that learns nothing new costs neither a password hash nor a query, and is as long as the caller's own runs."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from db.connect import Database
from relay.config import Settings
from relay.core import accounts
from relay.core.passwords import Passwords, hash_now
from relay.web.app import Relay, running
from tests.conformance.realm import API, TASKS, Account

POLLS = 25
DWELL_S = 0.4

ANNA = Account(name="anna", password="a good password")
BERT = Account(name="bert", password="another good password")


class Costs:
    """What was done since the last look."""

    def __init__(self) -> None:
        self.hashes = 0
        self.queries = 0

    def take(self) -> tuple[int, int]:
        taken = self.hashes, self.queries
        self.hashes = self.queries = 0
        return taken


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Counts every check of a password, and everything that is asked of the database."""
    counted = Costs()
    verify = Passwords.verify

    async def counting_verify(self: Passwords, password: str, hashed: str | None, *, is_active: bool = True) -> bool:
        counted.hashes += 1
        return await verify(self, password, hashed, is_active=is_active)

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            counted.queries += 1
            return real(*args, **kwargs)

        return asked

    monkeypatch.setattr(Passwords, "verify", counting_verify)
    for name in ("transaction", "snapshot", "autocommit", "transact"):
        monkeypatch.setattr(Database, name, counting(getattr(Database, name)))
    return counted


@pytest.fixture
async def relay(costs: Costs, database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    settings = Settings(database_url=database_url, data_dir=tmp_path, legacy_dwell_s=DWELL_S)
    async with running(settings) as relay:
        for account in (ANNA, BERT):
            await accounts.create_user(
                relay.node.store,
                username=account.name,
                email="",
                password_hash=hash_now(account.password),
                is_operator=False,
                now_us=relay.node.now_us(),
            )
        yield relay


class Poller:
    """A user's controllers."""

    def __init__(self, http: httpx.AsyncClient, account: Account) -> None:
        self._http = http
        self._account = account

    async def ask(self, method: str, path: str, *, status: int = 200, **options: Any) -> httpx.Response:
        headers = {"Authorization": self._account.authorization} | options.pop("headers", {})
        answer = await self._http.request(method, f"/{path}", headers=headers, **options)
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text}"
        return answer

    async def project(self, name: str, sites: int = 1) -> tuple[int, list[dict[str, Any]]]:
        """A project with so many of the user's sites, and a batch of it: its id, and the runs."""
        for number in range(sites):
            body = {"uid": str(uuid.uuid4()), "name": f"{name}-{number}", "description": "x"}
            site = (await self.ask("POST", "sites/", status=201, json=body)).json()
            await self.ask(
                "POST",
                "projects/",
                status=201,
                json={"name": name, "description": "x", "site": site["id"], "tasks": TASKS},
            )
        project = (await self.ask("GET", f"projects/lookup/?name={name}")).json()
        await self.ask("POST", "runs", status=201, json={"project": project["id"]})
        runs = [run for run in (await self.ask("GET", "runs/active/")).json() if run["project"] == project["id"]]
        return project["id"], runs


@asynccontextmanager
async def pollers(relay: Relay) -> AsyncIterator[tuple[Poller, Poller]]:
    transport = httpx.ASGITransport(relay.app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://relay{API}") as http:
        yield Poller(http, ANNA), Poller(http, BERT)


def polled(project: int, runs: list[dict[str, Any]]) -> list[str]:
    """What controllers ask for again and again."""
    run = runs[0]
    return [
        "runs/active/",
        f"runs/detail/?batch={run['batch']}&project={project}&site_uid={run['site_uid']}",
        f"runs/lookup/?project={project}&site_uid={run['site_uid']}",
        f"runs/{run['id']}/",
        f"sites/lookup/?uid={run['site_uid']}",
        f"projects/{project}/",
        f"project-participants/lookup/?project={project}",
    ]


async def settled(poller: Poller, paths: list[str], costs: Costs) -> dict[str, httpx.Response]:
    """The answers, once all of them are kept: presence is written down a moment after it has changed."""
    async with asyncio.timeout(20):
        while True:
            answers = {path: await poller.ask("GET", path) for path in paths}
            costs.take()
            for path in paths:
                await poller.ask("GET", path)
            if costs.take() == (0, 0):
                return answers
            await asyncio.sleep(0.1)


async def test_polls_that_learn_nothing_cost_no_hash_and_no_query(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, _):
        project, runs = await anna.project("p", sites=2)
        beat = {"uid": runs[0]["site_uid"], "status": 1}
        paths = polled(project, runs)
        await anna.ask("POST", "sites/heartbeat/", status=202, json=beat)
        before = await settled(anna, paths, costs)
        for _ in range(POLLS):
            await anna.ask("POST", "sites/heartbeat/", status=202, json=beat)
            for path in paths:
                assert (await anna.ask("GET", path)).content == before[path].content
        assert costs.take() == (0, 0)


async def test_who_has_an_answer_already_is_told_so(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, _):
        project, runs = await anna.project("p")
        for path in polled(project, runs):
            answer = await anna.ask("GET", path)
            again = await anna.ask("GET", path, status=304, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.content, again.headers["etag"]) == (b"", answer.headers["etag"])
        path = f"runs/{runs[0]['id']}/"
        etag = (await anna.ask("GET", path)).headers["etag"]
        await anna.ask("PUT", f"{path}status/", status=202, json={"status": 3})
        changed = await anna.ask("GET", path, headers={"If-None-Match": etag})
        assert changed.json()["status"] == "Preparing" and changed.headers["etag"] != etag


async def test_the_runs_of_others_make_a_poll_no_longer_and_no_dearer(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, bert):
        project, runs = await anna.project("hers")
        paths = polled(project, runs)
        alone = {path: (await anna.ask("GET", path)).content for path in paths[:4]}
        others = [run for number in range(3) for run in (await bert.project(f"his-{number}", sites=2))[1]]
        await settled(anna, paths, costs)
        for run in others:
            await bert.ask("PUT", f"runs/{run['id']}/status/", status=202, json={"status": 3})
        costs.take()
        assert {path: (await anna.ask("GET", path)).content for path in alone} == alone
        assert costs.take() == (0, 0)


async def test_what_changes_is_shown_by_the_next_poll(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, _):
        project, runs = await anna.project("p", sites=2)
        run, uid = runs[1]["id"], runs[1]["site_uid"]
        await settled(anna, polled(project, runs), costs)

        async def shown() -> list[str]:
            return [one["status"] for one in (await anna.ask("GET", "runs/active/")).json() if one["id"] == run]

        for status, display in ((3, "Preparing"), (1, "Pending Failed"), (2, "Standby")):
            await anna.ask("PUT", f"runs/{run}/status/", status=202, json={"status": status})
            assert await shown() == [display]
        await anna.ask("POST", "sites/heartbeat/", status=202, json={"uid": uid, "status": 0})
        assert (await anna.ask("GET", f"sites/lookup/?uid={uid}")).json()["status"] == "Disconnected"
        site = (await anna.ask("GET", f"sites/lookup/?uid={uid}")).json()
        await anna.ask("PATCH", f"sites/{site['id']}/", json={"description": "new"})
        assert (await anna.ask("GET", f"sites/lookup/?uid={uid}")).json()["description"] == "new"


async def test_the_end_of_a_dwell_is_shown_though_nothing_happens_then(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, _):
        _, (run,) = await anna.project("p")
        started = time.monotonic()
        for status in (3, 4):
            await anna.ask("PUT", f"runs/{run['id']}/status/", status=202, json={"status": status})
        async with asyncio.timeout(20):
            while True:
                (shown,) = (await anna.ask("GET", "runs/active/")).json()
                if shown["status"] != "Preparing":
                    break
                await asyncio.sleep(0.02)
        assert shown["status"] == "Running"
        assert time.monotonic() - started >= DWELL_S


async def test_a_deleted_site_has_no_heartbeat(relay: Relay, costs: Costs) -> None:
    async with pollers(relay) as (anna, bert):
        body = {"uid": str(uuid.uuid4()), "name": "s", "description": "x"}
        site = (await anna.ask("POST", "sites/", status=201, json=body)).json()
        beat = {"uid": body["uid"], "status": 1}
        await anna.ask("POST", "sites/heartbeat/", status=202, json=beat)
        await bert.ask("POST", "sites/heartbeat/", status=404, json=beat)
        await anna.ask("DELETE", f"sites/{site['id']}/", status=204)
        await anna.ask("POST", "sites/heartbeat/", status=404, json=beat)
