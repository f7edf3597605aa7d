"""Whole federated runs of sites that poll, and of such together with sites that are pushed to.

Several batches go on at once on one relay, each in a project of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.realm import Realm, unique
from tests.legacy.controller import POLL_S, Controller, Part, Pushed, Run

WAIT_S = 60.0
"""For a batch to end: far more than it takes."""


def tasks(*rounds: int) -> list[dict[str, Any]]:
    """A task for each number, of so many rounds."""
    return [
        {"seq": seq, "model": "LogisticRegression", "config": {"total_round": total, "current_round": 1}}
        for seq, total in enumerate(rounds, 1)
    ]


@dataclass(kw_only=True)
class Crew:
    """A project, and its sites at work; the first one coordinates."""

    project: int
    parts: Sequence[Part]
    batch: int = 0
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def lead(self) -> Part:
        return self.parts[0]

    async def start(self, *, without: Part | None = None) -> None:
        """The coordinator's person starts a batch, and each site's person hands over the data; but for one."""
        answer = await self.lead.rest.ask("POST", "runs", json={"project": self.project})
        assert (answer.status_code, answer.content) == (201, b""), answer.text
        self.batch += 1
        await self.look()
        await self.hand_over(without=without)

    async def hand_over(self, *, without: Part | None = None) -> None:
        for part in self.parts:
            if part is not without:
                await part.hand_over(self.runs[part.site.uid])

    async def look(self) -> list[str]:
        """The batch's statuses, in the order of the parts."""
        query = {"batch": self.batch, "project": self.project, "site_uid": self.lead.site.uid}
        detail = await self.lead.rest.get("runs/detail/", **query)
        self.runs = {run["site_uid"]: run for run in detail["runs"]}
        return [self.runs[part.site.uid]["status"] for part in self.parts if part.site.uid in self.runs]

    async def until(self, *wanted: str) -> None:
        """Wait for all runs to have come to this status, or one of these."""
        give_up_at = asyncio.get_running_loop().time() + WAIT_S
        while not (found := set(await self.look())) <= set(wanted):
            assert asyncio.get_running_loop().time() < give_up_at, f"{found}; {[part.seen for part in self.parts]}"
            await asyncio.sleep(POLL_S)

    async def control(self, action: str) -> None:
        """The coordinator's person stops the batch, or restarts it."""
        run = self.runs[self.lead.site.uid]
        body = {"run": run["id"], "project": self.project, "batch": self.batch, "role": "coordinator", "action": action}
        answer = await self.lead.rest.ask("PUT", "runs-action/update/", json=body)
        assert (answer.status_code, answer.content) == (202, b""), answer.text

    async def check_files(self, places: list[tuple[int, int]]) -> None:
        """What was uploaded is what each site can download, byte for byte."""
        assert list(self.lead.models) == places
        leader = self.runs[self.lead.site.uid]["id"]
        for task, round_ in places:
            every = await self.lead.rest.download(leader, "mid_artifacts", (task, round_), all_runs=1)
            for part in self.parts:
                run = self.runs[part.site.uid]["id"]
                assert every[f"{run}-{task}-{round_}-mid-artifacts"] == part.updates[task, round_]
                got = await part.rest.download(run, "artifacts", (task, round_))
                assert got == {f"{run}-{task}-{round_}-artifacts": self.lead.models[task, round_]}
                assert part.models.get((task, round_), self.lead.models[task, round_]) == self.lead.models[task, round_]


@asynccontextmanager
async def crew(realm: Realm, kinds: Sequence[type[Controller | Pushed]], *rounds: int) -> AsyncIterator[Crew]:
    """Sites of these kinds at work in a project of tasks of so many rounds."""
    sites = [await realm.site(realm.owner if n == 0 else realm.guest) for n in range(len(kinds))]
    name = unique("project")
    async with AsyncExitStack() as stack:
        for site in sites:
            body = {"name": name, "description": "of a test", "site": site.id, "tasks": tasks(*rounds)}
            answer = await realm.rest("POST", "projects/", site.account, json=body)
            assert (answer.status_code, answer.json()) == (201, body)
        parts: list[Part] = []
        for kind, site in zip(kinds, sites, strict=True):
            parts.append(await stack.enter_async_context(kind.at_work(realm.base_url, site)))
        (project,) = await parts[0].rest.get("projects/lookup/", site_id=sites[0].id)
        yield Crew(project=project["project"]["id"], parts=parts)


POLLING = [Controller] * 3


async def a_run_of_one_round(realm: Realm) -> None:
    async with crew(realm, POLLING, 1) as team:
        await team.start()
        await team.until("Success")
        await team.check_files([(1, 1)])
        await team.start()
        await team.until("Success")
        assert team.batch == 2


async def a_run_of_two_tasks_and_three_rounds(realm: Realm) -> None:
    async with crew(realm, POLLING, 2, 1) as team:
        await team.start()
        await team.until("Success")
        await team.check_files([(1, 1), (1, 2), (2, 1)])


async def a_stop_and_a_restart(realm: Realm) -> None:
    async with crew(realm, POLLING, 1) as team:
        # Not all of them: else the coordinator may send Running just after the stop, and Running it is then.
        await team.start(without=team.parts[2])
        await team.until("Preparing", "Standby")
        await team.control("stop")
        await team.until("Failed")
        await team.control("restart")
        await team.until("Standby")
        await team.hand_over()
        await team.until("Success")


async def a_site_that_fails(realm: Realm) -> None:
    async with crew(realm, POLLING, 2) as team:
        team.parts[1].fails_at = (1, 2)
        await team.start()
        await team.until("Failed")
        assert list(team.lead.models) == [(1, 1)]
        await team.start()  # nothing of the failed batch is in its way


async def a_participant_that_is_deleted(realm: Realm) -> None:
    """The others go on without it, and end."""
    async with crew(realm, POLLING, 1) as team:
        gone = team.parts[2]
        await team.start(without=gone)
        participation = team.runs[gone.site.uid]["participant"]
        answer = await team.lead.rest.ask("DELETE", f"project-participants/{participation}/")
        assert answer.status_code == 204
        await team.until("Success")
        assert gone.site.uid not in team.runs
        assert gone.site.uid not in {run["site_uid"] for run in await gone.rest.get("runs/active/")}


async def a_polling_coordinator(realm: Realm) -> None:
    async with crew(realm, [Controller, Controller, Pushed, Pushed], 2) as team:
        await team.start()
        await team.until("Success")
        await team.check_files([(1, 1), (1, 2)])
        told_of_files(team, [(1, 1), (1, 2)])


async def a_coordinator_with_a_session(realm: Realm) -> None:
    async with crew(realm, [Pushed, Controller, Controller, Pushed], 2) as team:
        await team.start()
        await team.until("Success")
        await team.check_files([(1, 1), (1, 2)])
        told_of_files(team, [(1, 1), (1, 2)])


def told_of_files(team: Crew, places: list[tuple[int, int]]) -> None:
    """A pushed participant hears of each global model, named as its own copy."""
    for part in team.parts[1:]:
        if isinstance(part, Pushed):
            run = team.runs[part.site.uid]["id"]
            told = [(file["task"], file["round"], file["name"]) for file in part.files if file["type"] == "artifacts"]
            assert told == [(task, round_, f"{run}-{task}-{round_}-artifacts") for task, round_ in places]


async def together(realm: Realm, *stories: Callable[[Realm], Awaitable[None]]) -> None:
    """Several batches at once; all end before the first failure is raised."""
    outcomes = await asyncio.gather(*(story(realm) for story in stories), return_exceptions=True)
    failed = {story.__name__: outcome for story, outcome in zip(stories, outcomes, strict=True) if outcome is not None}
    assert not failed, failed


async def test_sites_that_poll(realm: Realm) -> None:
    await together(
        realm,
        a_run_of_one_round,
        a_run_of_two_tasks_and_three_rounds,
        a_stop_and_a_restart,
        a_site_that_fails,
        a_participant_that_is_deleted,
    )


async def test_sites_that_poll_with_sites_that_are_pushed_to(realm: Realm) -> None:
    await together(realm, a_polling_coordinator, a_coordinator_with_a_session)
