"""The other tables: what is stored comes back, what is deleted takes along its own, and ids are not used again."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from db.connect import Database
from db.connection import Connection
from relay.core.model import Draft, Entry, Holder, Kind, Role, Site, SiteCertificate, Token
from relay.core.policy import Policy, Standing, Stragglers
from relay.core.ports import AlreadyThere
from relay.core.run_states import Status
from relay.core.together import MOST
from tests.support.postgres import Postgres
from tests.support.world import NOW_US, Team, World, draft

ODD = "a'b\"c%d:e\\f é€𝄞 {} ; -- \t\n"
"""Text that would show if it were ever made part of a statement."""


# Users, sites, tokens


async def test_a_user_is_stored_and_found(world: World) -> None:
    async with world.store.transaction() as tx:
        made = await tx.users.create(username=ODD, email="e", password_hash="h", is_operator=True, now_us=NOW_US)
    assert (made.username, made.is_operator, made.is_active) == (ODD, True, True)
    async with world.store.transaction() as tx:
        assert await tx.users.by_name(ODD) == await tx.users.get(made.id) == made
        assert await tx.users.by_name(ODD.upper()) is None
        await tx.users.set_password(made.id, "other")
        await tx.users.set_active(made.id, active=False)
        assert await tx.users.get(made.id) == replace(made, password_hash="other", is_active=False)
        assert await tx.users.old_iterations() == 0
        for name, iterations in (("first", 26_000), ("second", 390_000)):
            hashed = f"pbkdf2_sha256${iterations}$salt$digest"
            await tx.users.create(username=name, email="e", password_hash=hashed, is_operator=False, now_us=NOW_US)
        assert await tx.users.old_iterations() == 390_000


async def test_a_site_is_stored_and_found(world: World) -> None:
    site, other = await world.site(), await world.site()
    async with world.store.transaction() as tx:
        await tx.sites.update(site.id, name=ODD, description=ODD, now_us=NOW_US + 1)
        changed = replace(site, name=ODD, description=ODD, updated_us=NOW_US + 1)
        assert await tx.sites.get(site.id) == await tx.sites.by_uid(site.uid) == await tx.sites.by_name(ODD) == changed
        assert await tx.sites.by_name(site.name) is None
        assert await tx.sites.ids_of_owner(site.owner_id) == [site.id]
        assert await tx.sites.many([other.id, 404, site.id]) == {site.id: changed, other.id: other}
        assert await tx.sites.many([]) == {}


async def test_certificates_of_sites_are_stored_found_and_removed(world: World) -> None:
    one, two, free = [await world.site() for _ in range(3)]
    bound = [
        SiteCertificate(site_id=site.id, sha256=digit * 64, label=ODD, created_us=NOW_US + at)
        for at, (site, digit) in enumerate(((one, "a"), (two, "a"), (two, "b")))
    ]
    async with world.store.transaction() as tx:
        for certificate in bound:
            await tx.site_certificates.add(certificate)
    with pytest.raises(AlreadyThere):
        async with world.store.transaction() as tx:
            await tx.site_certificates.add(bound[0])
    async with world.store.transaction() as tx:
        assert await tx.site_certificates.all() == bound
        found = await tx.site_certificates.of_sites([one.id, two.id, free.id, 404])
        assert found == {one.id: {"a" * 64}, two.id: {"a" * 64, "b" * 64}}
        assert await tx.site_certificates.of_sites([]) == {}
        assert sorted(await tx.site_certificates.remove("a" * 64)) == [one.id, two.id]
        assert await tx.site_certificates.remove("a" * 64) == []
        await tx.sites.delete(two.id)
        assert await tx.site_certificates.all() == []


@pytest.mark.parametrize("taken", ["uid", "name"])
async def test_a_uid_and_a_name_of_a_site_are_taken_once(world: World, taken: str) -> None:
    site = await world.site()
    values = {"uid": str(uuid.uuid4()), "name": "new"} | {taken: getattr(site, taken)}
    with pytest.raises(AlreadyThere):
        async with world.store.transaction() as tx:
            await tx.sites.create(**values, description="", owner_id=site.owner_id, connected=False, now_us=NOW_US)


async def test_presence_is_recorded_and_changes_only_move_the_time_of_the_update(world: World) -> None:
    site, other = await world.site(), await world.site()
    async with world.store.transaction() as tx:
        await tx.sites.record_presence({site.id: (True, NOW_US + 5), 404: (True, NOW_US)})
        online = await tx.sites.get(site.id)
        assert online == replace(site, connected=True, seen_us=NOW_US + 5, updated_us=NOW_US + 5)
        await tx.sites.record_presence({site.id: (True, NOW_US + 9), other.id: (False, NOW_US + 9)})
        assert await tx.sites.get(site.id) == replace(online, seen_us=NOW_US + 9)
        assert [one.id for one in await tx.sites.present()] == [site.id]


async def test_sites_that_are_gone_or_whose_user_is_disabled_are_unusable(world: World) -> None:
    good, disabled, gone = [await world.site() for _ in range(3)]
    async with world.store.transaction() as tx:
        await tx.users.set_active(disabled.owner_id, active=False)
        await tx.sites.delete(gone.id)
        assert await tx.sites.unusable_among([good.id, disabled.id, gone.id, 404]) == {disabled.id, gone.id, 404}
        assert await tx.sites.unusable_among([]) == set()


def token_of(site: Site, *, expires_us: int | None = None) -> tuple[Token, bytes]:
    key = uuid.uuid4().hex
    token = Token(id=key, site_id=site.id, label=ODD, created_us=NOW_US, expires_us=expires_us, revoked_us=None)
    return token, hashlib.sha256(key.encode()).digest()


async def test_tokens_are_found_by_digest_and_told_apart(world: World) -> None:
    site, other = await world.site(), await world.site()
    good, expiring, revoked = token_of(site), token_of(site, expires_us=NOW_US + 10), token_of(other)
    async with world.store.transaction() as tx:
        for token, digest in (good, expiring, revoked):
            await tx.tokens.create(token, digest)
        assert await tx.tokens.by_digest(good[1]) == good[0]
        assert await tx.tokens.by_digest(b"\0" * 32) is None
        assert await tx.tokens.revoke(revoked[0].id, NOW_US + 1)
        assert not await tx.tokens.revoke(revoked[0].id, NOW_US + 2)
        assert not await tx.tokens.revoke("unknown", NOW_US)
        assert await tx.tokens.by_digest(revoked[1]) == replace(revoked[0], revoked_us=NOW_US + 1)
        assert {token.id for token in await tx.tokens.of_site(site.id)} == {good[0].id, expiring[0].id}
        assert len(await tx.tokens.of_site(None)) == 3
        ids = [good[0].id, expiring[0].id, revoked[0].id, ODD]
        assert await tx.tokens.invalid_among(ids, NOW_US + 9) == {revoked[0].id, ODD}
        assert await tx.tokens.invalid_among(ids, NOW_US + 10) == {expiring[0].id, revoked[0].id, ODD}
        assert await tx.tokens.invalid_among([], NOW_US) == set()


async def test_the_holders_of_many_tokens_are_found_at_once(world: World) -> None:
    good_site, disabled_site = await world.site(), await world.site()
    good, disabled = token_of(good_site, expires_us=NOW_US + 10), token_of(disabled_site)
    async with world.store.transaction() as tx:
        for token, digest in (good, disabled):
            await tx.tokens.create(token, digest)
        await tx.users.set_active(disabled_site.owner_id, active=False)
        await tx.tokens.revoke(disabled[0].id, NOW_US + 1)
        found = await tx.tokens.holders([good[1], b"\0" * 32, disabled[1]])
        assert found == {
            good[1]: Holder(token=good[0], site=good_site, is_active=True),
            disabled[1]: Holder(token=replace(disabled[0], revoked_us=NOW_US + 1), site=disabled_site, is_active=False),
        }
        assert await tx.tokens.holders([hashlib.sha256(b"%d" % n).digest() for n in range(MOST)]) == {}


async def test_keys_are_put_by_name_and_replaced(world: World) -> None:
    site, other = await world.site(), await world.site()
    async with world.store.transaction() as tx:
        await tx.keys.put(site.id, {"sign": "1", ODD: "2"})
        await tx.keys.put(site.id, {"sign": "3"})
        await tx.keys.put(other.id, {})
        assert await tx.keys.of_sites([site.id, other.id]) == {site.id: {"sign": "3", ODD: "2"}, other.id: {}}
        assert await tx.keys.of_sites([]) == {}


# Projects, participants, runs


async def test_a_project_is_stored_and_found(world: World) -> None:
    site = await world.site()
    tasks = [{"seq": 1, "config": {"text": ODD, "null": None, "deep": [[1.5]]}}]
    async with world.store.transaction() as tx:
        made = await tx.projects.create(name=ODD, description=ODD, site_id=site.id, tasks=tasks, now_us=NOW_US)
        assert (made.tasks, made.agent_config, made.agent_log, made.batch) == (tasks, {}, [], 0)
        assert await tx.projects.get(made.id) == await tx.projects.by_name(ODD) == made
        changed = replace(made, name="n", batch=3, agent_config={"a": 1}, agent_log=[1], updated_us=NOW_US + 1)
        await tx.projects.update(changed)
        assert await tx.projects.many([made.id, 404]) == {made.id: changed}
        await tx.projects.set_batch(made.id, 4, NOW_US + 2)
        assert await tx.projects.get(made.id) == replace(changed, batch=4, updated_us=NOW_US + 2)


async def test_a_site_takes_part_in_a_project_once(world: World) -> None:
    site = await world.site()
    team = await world.project(participants=[site])
    with pytest.raises(AlreadyThere):
        await world.member(team.project, site, Role.COORDINATOR)
    async with world.store.transaction() as tx:
        part = team.participants[0]
        await tx.participants.set_notes(part.id, ODD, NOW_US + 1)
        assert await tx.participants.get(part.id) == replace(part, notes=ODD, updated_us=NOW_US + 1)
        assert [one.role for one in await tx.participants.of_project(team.project.id)] == [
            Role.COORDINATOR,
            Role.PARTICIPANT,
        ]
        assert [one.project_id for one in await tx.participants.of_site(site.id)] == [team.project.id]


async def test_runs_of_a_batch(world: World) -> None:
    team = await world.project(participants=[await world.site(), await world.site()])
    first = await world.batch(team, 1)
    assert [(run.status, run.cur_seq, run.tasks) for run in first] == [(Status.STANDBY, 1, [{"seq": 1}])] * 3
    project_id = team.project.id
    async with world.store.transaction() as tx:
        assert await tx.runs.open_batch(project_id) == 1
        for run, status in zip(first, (Status.SUCCESS, Status.FAILED, Status.SUCCESS), strict=True):
            await tx.runs.set_state(run.id, status=status, cur_seq=2, tasks=[{"seq": 2}], now_us=NOW_US + 1)
        assert await tx.runs.open_batch(project_id) is None
    second = await world.batch(team, 2)
    async with world.store.transaction() as tx:
        assert await tx.runs.open_batch(project_id) == 2
        assert [run.id for run in await tx.runs.of_batch(project_id, 2)] == [run.id for run in second]
        assert len(await tx.runs.of_project(project_id)) == 6
        assert [run.batch for run in await tx.runs.of_project(project_id, active=True)] == [2, 2, 2]
        assert [run.batch for run in await tx.runs.of_project(project_id, active=False)] == [1, 1, 1]
        of_site = await tx.runs.of_project(project_id, batch=2, site_id=team.coordinator.site_id, active=True)
        assert [run.site_id for run in of_site] == [team.coordinator.site_id]
        run = second[0]
        await tx.runs.set_fields(run.id, {"logs": [ODD], "agent_advice": {"a": ODD}}, NOW_US + 2)
        assert await tx.runs.get(run.id) == replace(run, logs=[ODD], agent_advice={"a": ODD}, updated_us=NOW_US + 2)
        with pytest.raises(AssertionError):
            await tx.runs.set_fields(run.id, {"status": 0}, NOW_US)


async def test_a_policy_and_how_a_batch_stands_with_it(world: World) -> None:
    team = await world.project()
    project_id = team.project.id
    policy = Policy(
        min_sites=2,
        mandatory_sites=("a", "b"),
        queue_s=0.5,
        deadline_s=3600.0,
        stragglers=Stragglers.LEAVE_OUT,
        late_join=True,
    )
    steps = (
        (policy, Standing(queued=True, since_us=NOW_US)),
        (policy, Standing(since_us=NOW_US + 1, due_us=NOW_US + 2)),
        (policy, Standing(since_us=NOW_US + 3, due_us=NOW_US + 4, lost_us=NOW_US + 5)),
        (Policy(), Standing(since_us=NOW_US)),
    )
    for step in steps:
        async with world.store.transaction() as tx:
            await tx.policies.put(project_id, 1, *step)
        async with world.store.snapshot() as tx:
            assert await tx.policies.get(project_id, 1) == step
            assert await tx.policies.queued(project_id) == (1 if step[1].queued else None)
            assert await tx.policies.get(project_id, 2) is None
    async with world.store.transaction() as tx:
        await tx.policies.drop(project_id, 1)
        assert await tx.policies.get(project_id, 1) is None


async def test_a_policy_is_in_force_while_its_batch_waits_or_runs(world: World) -> None:
    waits, runs, ended, free = [await world.project() for _ in range(4)]
    standing = Standing(since_us=NOW_US, due_us=NOW_US)
    for team in (runs, ended, free):
        await world.batch(team, 2)
    async with world.store.transaction() as tx:
        for run in await tx.runs.of_batch(ended.project.id, 2):
            await tx.runs.set_state(run.id, status=Status.SUCCESS, cur_seq=1, tasks=[], now_us=NOW_US)
        for team in (runs, ended):
            await tx.policies.put(team.project.id, 1, Policy(), standing)
            await tx.policies.put(team.project.id, 2, Policy(), standing)
        await tx.policies.put(waits.project.id, 1, Policy(), replace(standing, queued=True))
        assert await tx.policies.in_force() == [(waits.project.id, 1), (runs.project.id, 2)]


# Cursors and progress


async def test_cursors_never_go_back(world: World) -> None:
    site, other = await world.site(), await world.site()
    one, two = [(await world.project(site)).project.id for _ in range(2)]
    for cursors in (
        {(site.id, one): 5, (site.id, two): 7, (other.id, one): 1},
        {(site.id, one): 4},
        {(site.id, two): 8},
    ):
        async with world.store.transaction() as tx:
            await tx.cursors.advance(cursors, NOW_US)
    async with world.store.snapshot() as tx:
        assert await tx.cursors.of_site(site.id) == {one: 5, two: 8}
        assert await tx.cursors.of_site(other.id) == {one: 1}
        assert await tx.cursors.of_site(404) == {}


async def test_where_many_sites_stand_is_read_at_once(world: World) -> None:
    leads, joins, alone = [await world.site() for _ in range(3)]
    both, own = (await world.project(leads, [joins])).project.id, (await world.project(joins)).project.id
    async with world.store.transaction() as tx:
        await tx.cursors.advance({(joins.id, both): 7, (leads.id, own): 1}, NOW_US)
        assert await tx.participants.standings([leads.id, alone.id, 404, joins.id]) == {
            leads.id: {both: None},
            joins.id: {both: 7, own: None},
        }


async def test_a_cursor_of_what_was_deleted_is_passed_over(world: World) -> None:
    site = await world.site()
    project = (await world.project(site)).project
    async with world.store.transaction() as tx:
        await tx.cursors.advance({(site.id, 404): 1, (404, project.id): 1, (site.id, project.id): 1}, NOW_US)
        assert await tx.cursors.of_site(site.id) == {project.id: 1}


async def test_a_site_that_leaves_has_no_cursor_when_it_comes_back(world: World) -> None:
    site = await world.site()
    team = await world.project(participants=[site])
    async with world.store.transaction() as tx:
        await tx.cursors.advance({(site.id, team.project.id): 9}, NOW_US)
        await tx.participants.delete(team.participants[0].id)
    await world.member(team.project, site)
    async with world.store.snapshot() as tx:
        assert await tx.cursors.of_site(site.id) == {}


def progress(team: Team, run: int, body: str | bytes, at_us: int, **fields: Any) -> Entry:
    site = team.coordinator
    values: dict[str, Any] = {
        "kind": Kind.PROGRESS,
        "run": run,
        "batch": 1,
        "sender_id": site.site_id,
        "sender_uid": site.site_uid,
    }
    one: Draft = draft(body, **(values | fields))
    return Entry(project_id=team.project.id, offset=None, at_us=at_us, draft=one)


async def test_the_newest_progress_of_each_run_and_sender_is_kept(world: World) -> None:
    team = await world.project()
    old, new = progress(team, 1, '"old"', 10), progress(team, 1, b"new", 20, audience=frozenset({2}))
    late, of_other = progress(team, 1, '"late"', 15), progress(team, 2, '"other"', 5)
    for entries in ([old], [new, of_other], [late]):
        async with world.store.transaction() as tx:
            await tx.progress.put(entries)
    async with world.store.snapshot() as tx:
        assert await tx.progress.of_batch(team.project.id, 1) == [new, of_other]
        assert await tx.progress.of_batch(team.project.id, 2) == []


async def test_progress_of_a_deleted_project_is_passed_over(world: World) -> None:
    team = await world.project()
    async with world.store.transaction() as tx:
        await tx.projects.delete(team.project.id)
        await tx.progress.put([progress(team, 1, "1", 1)])
        assert await tx.progress.of_batch(team.project.id, 1) == []


# Deletion


async def fill(world: World, team: Team) -> None:
    """Something in every table that hangs on a project or a site."""
    project_id, site_id = team.project.id, team.coordinator.site_id
    runs = await world.batch(team)
    await world.append(project_id, draft(sender_id=site_id, sender_uid=team.coordinator.site_uid))
    async with world.store.transaction() as tx:
        await tx.cursors.advance({(site_id, project_id): 1}, NOW_US)
        await tx.progress.put([progress(team, runs[0].id, "1", 1)])
        await tx.policies.put(project_id, 1, Policy(), Standing(due_us=1))
        await tx.keys.put(site_id, {"k": "v"})
        site = await tx.sites.get(site_id)
        assert site is not None
        await tx.tokens.create(*token_of(site))


OF_PROJECTS = ("projects", "participants", "runs", "policies", "deadlines", "journals", "events", "cursors", "progress")
OF_SITES = ("users", "sites", "tokens", "site_keys")


async def counts(connection: Connection) -> dict[str, int]:
    """How many rows each table has."""
    rows = {name: await connection.fetch_one(f"SELECT COUNT(*) AS n FROM {name}") for name in OF_PROJECTS + OF_SITES}
    return {name: row["n"] for name, row in rows.items() if row is not None}


async def test_a_deleted_project_takes_along_all_that_is_its_own_and_no_more(world: World) -> None:
    site = await world.site()
    gone, kept = [await world.project(site, [await world.site()]) for _ in range(2)]
    await fill(world, kept)
    async with world.store.database.snapshot() as connection:
        before = await counts(connection)
    async with world.store.transaction() as tx:
        await tx.projects.delete(gone.project.id)
    async with world.store.database.snapshot() as connection:
        emptied = await counts(connection)
    assert emptied == before | {"projects": 1, "journals": 1, "participants": 2}
    async with world.store.transaction() as tx:
        await tx.projects.delete(kept.project.id)
    async with world.store.database.snapshot() as connection:
        after = await counts(connection)
    assert after == dict.fromkeys(after, 0) | {"sites": 3, "users": 3, "tokens": 1, "site_keys": 1}


async def test_a_deleted_site_takes_along_its_projects_and_its_parts(world: World) -> None:
    site, other = await world.site(), await world.site()
    led = await world.project(site, [other])
    joined = await world.project(other, [site])
    await fill(world, led)
    async with world.store.transaction() as tx:
        await tx.sites.delete(site.id)
    async with world.store.database.snapshot() as connection:
        after = await counts(connection)
    left = {"sites": 1, "users": 2, "projects": 1, "journals": 1, "participants": 1}
    assert after == dict.fromkeys(after, 0) | left
    async with world.store.snapshot() as tx:
        assert [one.site_id for one in await tx.participants.of_project(joined.project.id)] == [other.id]


async def test_ids_are_not_used_again(world: World) -> None:
    """A client that remembers a deleted project's id must not meet another one under it."""
    owner = await world.user()
    site = await world.site(owner)
    for _ in range(2):
        team = await world.project(site, [await world.site(owner)])
        runs = await world.batch(team)
        async with world.store.transaction() as tx:
            await tx.projects.delete(team.project.id)
            await tx.sites.delete(team.participants[0].site_id)
        again = await world.project(site, [await world.site(owner)])
        new_runs = await world.batch(again)
        assert again.project.id > team.project.id
        assert again.coordinator.id > team.participants[0].id
        assert again.participants[0].site_id > team.participants[0].site_id
        assert new_runs[0].id > runs[-1].id


async def test_text_that_postgresql_cannot_hold_is_no_passing_fault(postgres: Postgres) -> None:
    """The doors refuse NUL as `invalid`. What slips through must not look as if it were worth sending again."""
    database = Database(postgres.create_database())
    await database.connect()
    try:
        with pytest.raises(asyncpg.CharacterNotInRepertoireError):
            async with database.transaction() as connection:
                await connection.fetch_one("SELECT CAST(:text AS TEXT)", {"text": "a\0b"})
    finally:
        await database.disconnect()
