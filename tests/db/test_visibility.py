"""What a user's sites may see of each other: the lists that the REST doors show, against a small world.

    project   coordinator      participants
    one       alice's A        bob's B, carol's C
    two       bob's B          alice's A2

Dave's D takes part in nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest

from relay.core.model import Run, Site, User
from relay.core.run_states import Status
from tests.support.world import NOW_US, Team, World

EVERYTHING = 100


@dataclass(kw_only=True)
class Cast:
    users: Mapping[str, User]
    sites: Mapping[str, Site]
    one: Team
    two: Team
    runs: Mapping[str, Run]
    """By project and site: `one A`."""

    def names(self, ids: Iterable[int], records: Mapping[str, Site] | Mapping[str, Run]) -> set[str]:
        wanted = list(ids)
        found = {name for name, record in records.items() if record.id in wanted}
        assert len(found) == len(wanted), "something is there twice, or is not known"
        return found


@pytest.fixture
async def cast(world: World) -> Cast:
    users = {name: await world.user() for name in ("alice", "bob", "carol", "dave")}
    owners = {"A": "alice", "A2": "alice", "B": "bob", "C": "carol", "D": "dave"}
    sites = {name: await world.site(users[owner]) for name, owner in owners.items()}
    one = await world.project(sites["A"], [sites["B"], sites["C"]])
    two = await world.project(sites["B"], [sites["A2"]])
    by_id = {site.id: name for name, site in sites.items()}
    runs = {
        f"{name} {by_id[run.site_id]}": run
        for name, team in (("one", one), ("two", two))
        for run in await world.batch(team)
    }
    return Cast(users=users, sites=sites, one=one, two=two, runs=runs)


SITES = {"alice": "A A2 B C", "bob": "A A2 B", "carol": "A C", "dave": "D"}
PROJECTS = {"alice": "one two", "bob": "one two", "carol": "one", "dave": ""}
PARTICIPANTS = {
    "alice": {("one", "A"), ("one", "B"), ("one", "C"), ("two", "B"), ("two", "A2")},
    "bob": {("one", "A"), ("one", "B"), ("two", "B"), ("two", "A2")},
    "carol": {("one", "A"), ("one", "C")},
    "dave": set(),
}
RUNS = {
    "alice": {"one A", "one B", "one C", "two A2"},
    "bob": {"one B", "two B", "two A2"},
    "carol": {"one C"},
    "dave": set(),
}


@pytest.mark.parametrize("name", SITES)
async def test_sites(world: World, cast: Cast, name: str) -> None:
    expected, user = set(SITES[name].split()), cast.users[name]
    async with world.store.snapshot() as tx:
        total, page = await tx.sites.visible_to(user.id, limit=EVERYTHING, skip=0)
        one_by_one = {key for key, site in cast.sites.items() if await tx.sites.visible(user.id, site.id)}
    assert cast.names([site.id for site in page], cast.sites) == expected
    assert total == len(expected)
    assert one_by_one == expected


@pytest.mark.parametrize("name", PROJECTS)
async def test_projects(world: World, cast: Cast, name: str) -> None:
    by_id = {cast.one.project.id: "one", cast.two.project.id: "two"}
    async with world.store.snapshot() as tx:
        total, page = await tx.projects.visible_to(cast.users[name].id, limit=EVERYTHING, skip=0)
    assert [by_id[project.id] for project in page] == PROJECTS[name].split()
    assert total == len(page)


@pytest.mark.parametrize("name", PARTICIPANTS)
async def test_participants(world: World, cast: Cast, name: str) -> None:
    projects = {cast.one.project.id: "one", cast.two.project.id: "two"}
    sites = {site.id: key for key, site in cast.sites.items()}
    async with world.store.snapshot() as tx:
        total, page = await tx.participants.visible_to(cast.users[name].id, limit=EVERYTHING, skip=0)
    assert {(projects[one.project_id], sites[one.site_id]) for one in page} == PARTICIPANTS[name]
    assert total == len(page) == len(PARTICIPANTS[name])


@pytest.mark.parametrize("name", RUNS)
async def test_runs(world: World, cast: Cast, name: str) -> None:
    user = cast.users[name]
    async with world.store.transaction() as tx:
        ended = cast.runs["one C"]
        await tx.runs.set_state(ended.id, status=Status.SUCCESS, cur_seq=1, tasks=[], now_us=NOW_US)
    async with world.store.snapshot() as tx:
        total, page = await tx.runs.visible_to(user.id, limit=EVERYTHING, skip=0)
        active = await tx.runs.active_for(user.id)
    assert cast.names([run.id for run in page], cast.runs) == RUNS[name]
    assert total == len(page)
    assert cast.names([run.id for run in active], cast.runs) == RUNS[name] - {"one C"}


async def test_an_operator_sees_all(world: World, cast: Cast) -> None:
    async with world.store.snapshot() as tx:
        assert (await tx.sites.visible_to(None, limit=EVERYTHING, skip=0))[0] == 5
        assert (await tx.projects.visible_to(None, limit=EVERYTHING, skip=0))[0] == 2
        assert (await tx.participants.visible_to(None, limit=EVERYTHING, skip=0))[0] == 5
        assert (await tx.runs.visible_to(None, limit=EVERYTHING, skip=0))[0] == 5
        assert len(await tx.runs.active_for(None)) == 5
        assert (await tx.users.page(limit=EVERYTHING, skip=0))[0] == 4


@pytest.mark.parametrize("user", ["alice", None])
async def test_pages_are_in_order_and_say_how_many_there_are(world: World, cast: Cast, user: str | None) -> None:
    user_id = None if user is None else cast.users[user].id
    async with world.store.snapshot() as tx:
        for table in (tx.sites, tx.projects, tx.participants, tx.runs):
            total, whole = await table.visible_to(user_id, limit=EVERYTHING, skip=0)
            ids = [record.id for record in whole]
            assert ids == sorted(ids) and len(ids) == total
            pages = [await table.visible_to(user_id, limit=2, skip=skip) for skip in range(0, total + 2, 2)]
            assert [record.id for _, page in pages for record in page] == ids
            assert {of_page for of_page, _ in pages} == {total}


async def test_who_leaves_a_project_sees_no_more_of_it(world: World, cast: Cast) -> None:
    carol = cast.users["carol"]
    async with world.store.transaction() as tx:
        (participation,) = await tx.participants.of_site(cast.sites["C"].id)
        await tx.participants.delete(participation.id)
    async with world.store.snapshot() as tx:
        assert (await tx.projects.visible_to(carol.id, limit=EVERYTHING, skip=0))[0] == 0
        assert not await tx.sites.visible(carol.id, cast.sites["A"].id)
        assert await tx.sites.visible(carol.id, cast.sites["C"].id)
