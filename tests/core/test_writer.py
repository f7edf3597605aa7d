"""The journal's writer: group commit, order, and exactly one answer to each publish, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import pytest

from relay.core.model import Appended, Draft, Entry, Site
from relay.core.ports import StorageUnavailable
from relay.core.writer import JournalWriter, WriterLimits
from relay.protocol.errors import ErrorCode, ReplyError
from tests.support.clock import settle
from tests.support.fakes import FakeStore
from tests.support.world import NOW_US, World, draft, offsets


class Desk:
    """A writer, and all that it says: `said` has commits and answers in the order in which they came."""

    def __init__(self, store: FakeStore, **limits: int) -> None:
        self.said: list[str] = []
        self.answers: dict[str, list[Appended | ReplyError]] = {}
        self.committed: dict[int, list[Entry]] = {}
        self.doubts: list[set[int]] = []
        self.writer = JournalWriter(
            store.port, WriterLimits(**limits), lambda: NOW_US, self._on_committed, self._on_doubt
        )

    def _on_committed(self, project_id: int, entries: Sequence[Entry]) -> None:
        self.said.append(f"commit {len(entries)}")
        self.committed.setdefault(project_id, []).extend(entries)

    def _on_doubt(self, project_ids: Iterable[int]) -> None:
        self.doubts.append(set(project_ids))

    def offer(self, project_id: int, one: Draft) -> None:
        def answer(outcome: Appended | ReplyError) -> None:
            self.said.append("answer")
            self.answers.setdefault(one.id, []).append(outcome)

        self.writer.offer(project_id, one, answer)

    def outcome(self, one: Draft) -> Appended | ReplyError:
        """The answer to it: exactly one."""
        (outcome,) = self.answers[one.id]
        return outcome

    def refusal(self, one: Draft) -> ReplyError:
        outcome = self.outcome(one)
        assert isinstance(outcome, ReplyError), outcome
        return outcome


@pytest.fixture
async def site(world: World) -> Site:
    return await world.site()


@pytest.fixture
async def project(world: World, site: Site) -> int:
    return (await world.project(site)).project.id


@pytest.fixture
def desk(store: FakeStore) -> Desk:
    return Desk(store)


def ok(offset: int, *, duplicate: bool = False) -> Appended:
    return Appended(offset=offset, duplicate=duplicate)


# Group commit


async def test_a_publish_is_answered_with_its_offset_after_the_commit(
    store: FakeStore, desk: Desk, project: int, site: Site
) -> None:
    one = draft(sender=site, origin="a session")
    store.gate.clear()
    desk.offer(project, one)
    await settle()
    assert desk.said == []
    store.gate.set()
    await desk.writer.drain()
    assert desk.outcome(one) == ok(1)
    assert desk.said == ["commit 1", "answer"]
    assert desk.committed == {project: [Entry(project_id=project, offset=1, at_us=NOW_US, draft=one)]}


async def test_what_is_offered_while_a_commit_is_in_flight_goes_into_the_next_one_together(
    store: FakeStore, desk: Desk, project: int, site: Site
) -> None:
    before = store.commits
    drafts = [draft(sender=site) for _ in range(21)]
    store.gate.clear()
    desk.offer(project, drafts[0])
    await settle()
    for one in drafts[1:]:
        desk.offer(project, one)
    store.gate.set()
    await desk.writer.drain()
    assert store.commits - before == 2
    assert [desk.outcome(one) for one in drafts] == [ok(offset) for offset in range(1, 22)]
    assert desk.said == ["commit 1", "answer", "commit 20", *["answer"] * 20]


async def test_the_journal_has_publishes_in_the_order_of_offering(
    store: FakeStore, project: int, site: Site, world: World
) -> None:
    desk = Desk(store, batch_entries=7)
    drafts = [draft(sender=site) for _ in range(50)]
    for number, one in enumerate(drafts):
        desk.offer(project, one)
        if number % 9 == 0:
            await asyncio.sleep(0)
    await desk.writer.drain()
    assert [entry.draft.id for entry in await world.read(project)] == [one.id for one in drafts]
    assert offsets(desk.committed[project]) == list(range(1, 51))


async def test_projects_share_a_commit_and_count_apart(store: FakeStore, desk: Desk, world: World, site: Site) -> None:
    projects = [(await world.project(site)).project.id for _ in range(3)]
    before = store.commits
    drafts = [(project_id, draft(sender=site)) for _ in range(4) for project_id in projects]
    for project_id, one in drafts:
        desk.offer(project_id, one)
    await desk.writer.drain()
    assert store.commits - before == 1
    for project_id in projects:
        own = [one for of, one in drafts if of == project_id]
        assert [desk.outcome(one) for one in own] == [ok(offset) for offset in range(1, 5)]


@pytest.mark.parametrize(("limits", "sizes"), [({"batch_entries": 4}, [4, 4, 2]), ({"batch_bytes": 30}, [3, 3, 3, 1])])
async def test_a_commit_is_bounded(
    store: FakeStore, project: int, site: Site, limits: dict[str, int], sizes: list[int]
) -> None:
    desk = Desk(store, **limits)
    for _ in range(10):
        desk.offer(project, draft(bytes(10), sender=site))
    await desk.writer.drain()
    assert [said for said in desk.said if said != "answer"] == [f"commit {size}" for size in sizes]


async def test_what_is_larger_than_a_commit_goes_alone(store: FakeStore, project: int, site: Site) -> None:
    desk = Desk(store, batch_bytes=30)
    for size in (10, 1000, 10):
        desk.offer(project, draft(bytes(size), sender=site))
    await desk.writer.drain()
    assert [said for said in desk.said if said != "answer"] == ["commit 1", "commit 1", "commit 1"]


async def test_when_nothing_is_offered_nothing_runs(desk: Desk, project: int, site: Site) -> None:
    desk.offer(project, draft(sender=site))
    await desk.writer.drain()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await desk.writer.drain()


# Bounds


@pytest.mark.parametrize("limits", [{"queue_entries": 5}, {"queue_bytes": 50}])
async def test_a_publish_past_the_queues_bound_is_unavailable_and_not_taken(
    store: FakeStore, project: int, site: Site, limits: dict[str, int]
) -> None:
    desk = Desk(store, **limits)
    store.gate.clear()
    desk.offer(project, draft(bytes(10), sender=site))
    await settle()  # in flight, and no longer in the queue
    waiting = [draft(bytes(10), sender=site) for _ in range(5)]
    for one in waiting:
        desk.offer(project, one)
    refused = draft(bytes(10), sender=site)
    with pytest.raises(ReplyError) as caught:
        desk.offer(project, refused)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    store.gate.set()
    await desk.writer.drain()
    assert refused.id not in desk.answers
    assert [desk.outcome(one) for one in waiting] == [ok(offset) for offset in range(2, 7)]
    desk.offer(project, refused)
    await desk.writer.drain()
    assert desk.outcome(refused) == ok(7)


# Idempotency


async def test_an_id_that_is_there_is_answered_with_its_offset_and_shown_to_nobody(
    desk: Desk, project: int, site: Site
) -> None:
    known, new = draft(sender=site), draft(sender=site)
    desk.offer(project, known)
    await desk.writer.drain()
    for one in (draft(sender=site), known, new):
        desk.offer(project, one)
    await desk.writer.drain()
    assert desk.answers[known.id] == [ok(1), ok(1, duplicate=True)]
    assert desk.outcome(new) == ok(3)
    assert offsets(desk.committed[project]) == [1, 2, 3]


async def test_an_id_twice_in_one_commit_is_stored_once(desk: Desk, project: int, site: Site, world: World) -> None:
    twice = draft(sender=site)
    for one in (draft(sender=site), twice, twice, draft(sender=site)):
        desk.offer(project, one)
    await desk.writer.drain()
    assert desk.answers[twice.id] == [ok(2), ok(2, duplicate=True)]
    assert offsets(await world.read(project)) == offsets(desk.committed[project]) == [1, 2, 3]


async def test_duplicates_and_unknown_projects_do_not_disturb_the_others(desk: Desk, world: World, site: Site) -> None:
    one, two = [(await world.project(site)).project.id for _ in range(2)]
    known = draft(sender=site)
    await world.append(one, known)
    fresh = {project_id: [draft(sender=site) for _ in range(3)] for project_id in (one, two)}
    lost = draft(sender=site)
    for number in range(3):
        desk.offer(one, fresh[one][number])
        desk.offer(404, lost) if number == 1 else desk.offer(one, known)
        desk.offer(two, fresh[two][number])
    await desk.writer.drain()
    assert [desk.outcome(each) for each in fresh[one]] == [ok(2), ok(3), ok(4)]
    assert [desk.outcome(each) for each in fresh[two]] == [ok(1), ok(2), ok(3)]
    assert desk.answers[known.id] == [ok(1, duplicate=True)] * 2
    assert desk.refusal(lost).code is ErrorCode.UNKNOWN_PROJECT


async def test_the_same_id_by_two_sites_is_two_events(desk: Desk, project: int, site: Site, world: World) -> None:
    mine, other = draft(sender=site, id="same"), draft(sender=await world.site(), id="same")
    desk.offer(project, mine)
    desk.offer(project, other)
    await desk.writer.drain()
    assert desk.answers["same"] == [ok(1), ok(2)]


# Failure


async def test_a_project_that_is_not_there_is_unknown(desk: Desk, project: int, site: Site) -> None:
    good, lost = draft(sender=site), draft(sender=site)
    desk.offer(404, lost)
    desk.offer(project, good)
    await desk.writer.drain()
    assert desk.refusal(lost).code is ErrorCode.UNKNOWN_PROJECT
    assert desk.outcome(good) == ok(1)


async def test_while_the_storage_is_down_each_is_told_so_and_the_hubs_are_to_look(
    store: FakeStore, desk: Desk, project: int, site: Site
) -> None:
    store.down = True
    drafts = [draft(sender=site) for _ in range(3)]
    for one in drafts:
        desk.offer(project, one)
    await desk.writer.drain()
    assert {desk.refusal(one).code for one in drafts} == {ErrorCode.UNAVAILABLE}
    assert desk.doubts == [{project}]
    assert desk.committed == {}
    store.down = False
    desk.offer(project, drafts[1])
    await desk.writer.drain()
    assert desk.answers[drafts[1].id][1:] == [ok(1)]


async def test_a_commit_that_was_cut_off_is_found_when_it_is_sent_again(
    store: FakeStore, desk: Desk, project: int, site: Site
) -> None:
    store.doubtful = True
    one = draft(sender=site)
    desk.offer(project, one)
    await desk.writer.drain()
    assert desk.refusal(one).code is ErrorCode.UNAVAILABLE
    assert desk.doubts == [{project}]
    store.doubtful = False
    desk.offer(project, one)
    await desk.writer.drain()
    assert desk.answers[one.id][1:] == [ok(1, duplicate=True)]


async def test_an_outage_in_the_middle_of_looking_for_duplicates_is_an_outage(
    store: FakeStore, desk: Desk, project: int, site: Site
) -> None:
    known = draft(sender=site)
    desk.offer(project, known)
    await desk.writer.drain()
    store.gate.clear()
    desk.offer(project, known)
    fresh = draft(sender=site)
    desk.offer(project, fresh)
    await settle()
    store.down = True
    store.gate.set()
    await desk.writer.drain()
    assert desk.refusal(fresh).code is ErrorCode.UNAVAILABLE
    assert isinstance(desk.answers[known.id][1], StorageUnavailable)
    assert len(desk.answers[known.id]) == 2


async def test_one_that_no_database_takes_is_an_internal_error_and_the_others_are_stored(
    store: FakeStore, desk: Desk, world: World, project: int, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    drafts = [draft(sender=site) for _ in range(5)]
    store.poison = lambda one: one.id == drafts[2].id
    for one in drafts:
        desk.offer(project, one)
    with caplog.at_level(logging.CRITICAL, "relay.core.writer"):
        await desk.writer.drain()
    assert desk.refusal(drafts[2]).code is ErrorCode.INTERNAL
    assert desk.refusal(drafts[2]).details["id"]
    assert [desk.outcome(one) for one in drafts if one is not drafts[2]] == [ok(offset) for offset in range(1, 5)]
    assert offsets(await world.read(project)) == [1, 2, 3, 4]


async def test_an_internal_errors_id_is_in_the_log(
    store: FakeStore, desk: Desk, project: int, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    store.poison = lambda _one: True
    one = draft(sender=site)
    desk.offer(project, one)
    await desk.writer.drain()
    (record,) = caplog.records
    assert record.__dict__["incident"] == desk.refusal(one).details["id"]


# append()


async def test_append_returns_what_became_of_it(store: FakeStore, desk: Desk, project: int, site: Site) -> None:
    one = draft(sender=site)
    assert await desk.writer.append(project, one) == ok(1)
    assert await desk.writer.append(project, one) == ok(1, duplicate=True)
    with pytest.raises(ReplyError, match="unknown_project"):
        await desk.writer.append(404, draft(sender=site))
    store.down = True
    with pytest.raises(StorageUnavailable):
        await desk.writer.append(project, draft(sender=site))


async def test_who_gives_up_waiting_leaves_its_publish_to_be_stored(
    store: FakeStore, desk: Desk, project: int, site: Site, world: World
) -> None:
    store.gate.clear()
    waiting = [asyncio.create_task(desk.writer.append(project, draft(sender=site))) for _ in range(3)]
    await settle()
    waiting[1].cancel()
    store.gate.set()
    assert list(await asyncio.gather(waiting[0], waiting[2])) == [ok(1), ok(3)]
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert offsets(await world.read(project)) == [1, 2, 3]
