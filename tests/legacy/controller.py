"""Controllers as they are in the field, made quicker: what a site's software does, by polling or over a WebSocket.

A controller keeps nothing but what it last saw of its run, and acts when that has changed. It does not look at the
answer to a change of status, and sends none twice. Each request has a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from relay.client import Limits
from relay.client import Site as Session
from tests.conformance.realm import API, Site
from tests.legacy.conftest import DWELL_S

Run = dict[str, Any]
Place = tuple[int, int]
"""Task and round."""

POLL_S = 0.25
"""In the field: 5 s, and twice that for the coordinator's look at all runs."""

FAILED, PENDING_FAILED, STANDBY, PREPARING, RUNNING, PENDING_SUCCESS, PENDING_AGGREGATING, AGGREGATING, SUCCESS = range(
    9
)
BROKEN = {"Failed", "Pending Failed"}
MODEL_BYTES = 64 * 1024


def task_of(run: Run) -> dict[str, Any]:
    task: dict[str, Any] = next(task for task in run["tasks"] if task["seq"] == run["cur_seq"])
    return task


def place_of(run: Run) -> Place:
    """Where a run stands."""
    return run["cur_seq"], task_of(run)["config"]["current_round"]


def is_last(run: Run) -> bool:
    """Whether nothing comes after this round."""
    config: dict[str, int] = task_of(run)["config"]
    cur_seq: int = run["cur_seq"]
    last_task: int = max(task["seq"] for task in run["tasks"])
    return config["current_round"] == config["total_round"] and cur_seq == last_task


class Rest:
    """Requests of one user, each over a connection of its own."""

    def __init__(self, url: str, site: Site) -> None:
        self.site = site
        self._http = httpx.AsyncClient(
            base_url=url + API,
            headers={"Authorization": site.account.authorization},
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            timeout=30,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._http.request(method, f"/{path}", **options)

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.ask("GET", path, params=query)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def upload(self, run: Run, **files: tuple[str, bytes]) -> None:
        task, round_ = place_of(run)
        form = {"run": run["id"], "task_seq": task, "round_seq": round_}
        answer = await self.ask("POST", "runs-action/upload/", data=form, files=files)
        assert (answer.status_code, answer.content) == (200, b""), f"{answer.status_code} {answer.text}"

    async def download(self, run: int, type_: str, place: Place, **more: Any) -> dict[str, bytes]:
        """The files by name; none, if the relay has none."""
        query = {"run": run, "type": type_, "task_seq": place[0], "round_seq": place[1], **more}
        answer = await self.ask("GET", "runs-action/download/", params=query)
        if answer.status_code == 404:
            return {}
        assert answer.headers["content-type"] == "application/zip", answer.text
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}


class Part:
    """A site's part in a project: what it does about what it sees, however it comes to see it."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        self.site = rest.site
        self.fails_at: Place | None = None
        self.seen: dict[int, list[str]] = {}
        """By run: the statuses that it has acted on."""
        self.updates: dict[Place, bytes] = {}
        """What it has uploaded of its own."""
        self.models: dict[Place, bytes] = {}
        """The global models that it has made, or downloaded."""
        self._prepared: tuple[int, Place] | None = None
        self._looked_away = False

    async def say(self, run: Run, status: int, **more: bool) -> None:
        """Set the run's status; what comes of it is not looked at."""
        raise NotImplementedError

    async def act(self, run: Run) -> None:
        """Do what the run's status asks for."""
        self.seen.setdefault(run["id"], []).append(run["status"])
        match run["status"]:
            case "Standby":
                await self._stand_by(run)
            case "Preparing":
                self._prepared = (run["id"], place_of(run))
            case "Running":
                await self._train(run)
            case "Pending Failed":
                await self.say(run, FAILED)

    async def hand_over(self, run: Run) -> None:
        """The site's person has brought the data."""
        await self.say(run, PREPARING)

    async def _stand_by(self, run: Run) -> None:
        task, round_ = place_of(run)
        if (task, round_) == (1, 1):
            return  # a person brings the data
        if round_ > 1:
            got = await self.rest.download(run["id"], "artifacts", (task, round_ - 1))
            if list(got) != [f"{run['id']}-{task}-{round_ - 1}-artifacts"]:
                await self.say(run, PENDING_FAILED)
                return
            (self.models[task, round_ - 1],) = got.values()
        await self.say(run, PREPARING)

    async def _train(self, run: Run) -> None:
        place = place_of(run)
        is_prepared = self._prepared == (run["id"], place) or self._looked_away
        if not is_prepared or self.fails_at == place:
            await self.say(run, PENDING_FAILED)
            return
        await self.say(run, PENDING_SUCCESS)
        update = self.updates[place] = os.urandom(MODEL_BYTES)
        log = f"trained {place}\n".encode()
        await self.rest.upload(run, mid_artifacts=("mid-artifacts", update), logs=("logs.txt", log))
        await self.say(run, PENDING_AGGREGATING)

    async def lead(self, own: Run, runs: list[Run]) -> None:
        """What a coordinator does about its batch."""
        statuses = {run["status"] for run in runs}
        if statuses & BROKEN and own["status"] not in BROKEN:
            await self.say(own, FAILED, update_all=True)
        elif statuses == {"Preparing"}:
            await self.say(own, RUNNING, update_all=True)
        elif statuses == {"Pending Aggregating"}:
            await self._aggregate(own, runs)

    async def _aggregate(self, own: Run, runs: list[Run]) -> None:
        task, round_ = place_of(own)
        updates = await self.rest.download(own["id"], "mid_artifacts", (task, round_), all_runs=1)
        assert set(updates) == {f"{run['id']}-{task}-{round_}-mid-artifacts" for run in runs}, sorted(updates)
        await self.say(own, AGGREGATING, update_all=True)
        model = b"".join(hashlib.sha256(updates[name]).digest() for name in sorted(updates)) + os.urandom(MODEL_BYTES)
        self.models[task, round_] = model
        await self.rest.upload(own, artifacts=("artifacts", model))
        if is_last(own):
            await self.say(own, SUCCESS, update_all=True)
        else:
            await self.say(own, STANDBY, increase_round=True, update_all=True)


class Controller(Part):
    """A site that polls."""

    @classmethod
    @asynccontextmanager
    async def at_work(cls, url: str, site: Site) -> AsyncIterator[Controller]:
        """It polls until the end of the block; then it says that it leaves."""
        rest = Rest(url, site)
        controller = cls(rest)
        work = asyncio.gather(controller._beat(), controller._follow(), controller._watch())
        try:
            yield controller
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            await rest.ask("POST", "sites/heartbeat/", json={"uid": site.uid, "status": 0})
            await rest.close()

    async def say(self, run: Run, status: int, **more: bool) -> None:
        await self.rest.ask("PUT", f"runs/{run['id']}/status/", json={"status": status, **more})

    async def _beat(self) -> None:
        while True:
            answer = await self.rest.ask("POST", "sites/heartbeat/", json={"uid": self.site.uid, "status": 1})
            assert (answer.status_code, answer.content) == (202, b"")
            await asyncio.sleep(POLL_S)

    async def _active(self) -> list[Run]:
        runs = await self.rest.get("runs/active/")
        return [run for run in runs if run["site_uid"] == self.site.uid]

    async def _follow(self) -> None:
        """Acts on its own runs, whenever one's status is another than at the last poll.

        Who polls at least once a dwell sees its own Preparing. On a machine that is too busy for that it may not, and
        then prepares when it is to run.
        """
        last: dict[int, str] = {}
        clock = asyncio.get_running_loop().time
        asked_before = clock()
        while True:
            asked = clock()
            runs = await self._active()
            self._looked_away = clock() - asked_before >= DWELL_S
            asked_before = asked
            for run in runs:
                if last.get(run["id"]) != run["status"]:
                    last[run["id"]] = run["status"]
                    await self.act(run)
            await asyncio.sleep(POLL_S)

    async def _watch(self) -> None:
        """Looks at all runs of the batches that it coordinates."""
        while True:
            for own in await self._active():
                if own["role"] == "coordinator":
                    query = {"batch": own["batch"], "project": own["project"], "site_uid": self.site.uid}
                    detail = await self.rest.get("runs/detail/", **query)
                    await self.lead(own, detail["runs"])
            await asyncio.sleep(2 * POLL_S)


class Pushed(Part):
    """A site with a session: it is told. Files it exchanges as the others do."""

    def __init__(self, rest: Rest, session: Session) -> None:
        super().__init__(rest)
        self.session = session
        self.files: list[Mapping[str, Any]] = []
        """What it was told of files."""

    @classmethod
    @asynccontextmanager
    async def at_work(cls, url: str, site: Site) -> AsyncIterator[Pushed]:
        account, rest = site.account, Rest(url, site)
        limits = Limits(backoff_s=0.05, backoff_max_s=0.2)
        async with Session(
            url, user=account.name, password=account.password, uid=site.uid, proxy=False, limits=limits
        ) as session:
            pushed = cls(rest, session)
            work = asyncio.create_task(pushed._follow())
            try:
                yield pushed
            finally:
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
                await rest.close()

    async def say(self, run: Run, status: int, **more: bool) -> None:
        await self.session.runs.status(run["id"], status, **more)

    async def _follow(self) -> None:
        async for event in self.session.events():
            data = event.data
            if event.kind == "file":
                self.files.append(data)
            elif event.kind == "run" and data["site"] == self.site.uid:
                own = await self._own(event.project, data["batch"])
                await self.act(own | {"status": data["status"]})
            elif event.kind == "batch" and data["status"] not in BROKEN:
                await self._lead(event.project, data)

    async def _own(self, project: int, batch: int) -> Run:
        runs = await self.session.runs.list(project, batch=batch)
        return next(run for run in runs if run["site_uid"] == self.site.uid)

    async def _lead(self, project: int, data: Mapping[str, Any]) -> None:
        runs = await self.session.runs.list(project, batch=data["batch"])
        own = next(run for run in runs if run["site_uid"] == self.site.uid)
        if own["role"] == "coordinator":
            told = [run | {"status": data["status"]} for run in runs]
            await self.lead(own | {"status": data["status"]}, told)
