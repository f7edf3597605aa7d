"""The journals as they are in the end, and what must hold between them and the workers' own records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.chaos.worker import Worker, content_of
from tests.conformance.realm import Realm
from tests.conformance.wire import Frame
from tests.crash.truth import journal

Leaders = dict[int, Worker]
"""The coordinator of each project."""


async def conclude(realm: Realm, workers: Sequence[Worker], leaders: Leaders) -> int:
    """Has everything answered and processed, and compares; to be called while the workers live, in calm weather.

    Returns how many messages the journals hold.
    """
    for worker in workers:
        worker.stop_publishing()
    for worker in workers:
        await worker.all_answered()
    total = 0
    for project, leader in leaders.items():
        wire = await realm.session(leader.site, {project: {"offset": "new"}})
        entries = await journal(wire, project, leader.began[project])
        await wire.close()
        assert_stored(project, entries, workers)
        for worker in workers:
            await assert_processed(project, entries, worker, leader)
        total += len(entries)
    return total


def assert_stored(project: int, entries: Sequence[Frame], workers: Sequence[Worker]) -> None:
    """Nothing is lost, nothing is there twice, and each lane's messages are in the order in which it sent them."""
    offsets = [entry["offset"] for entry in entries]
    assert offsets == sorted(set(offsets))
    assert max(Counter(entry["id"] for entry in entries).values(), default=1) == 1
    by_id = {entry["id"]: entry["offset"] for entry in entries}
    for worker in workers:
        answered = worker.record.answered[project]
        lost = {id_: offset for id_, offset in answered.items() if by_id.get(id_) != offset}
        assert not lost, f"{worker}: answered, but not stored, or elsewhere: {lost}"
    assert len(entries) == sum(len(worker.record.answered[project]) for worker in workers)
    lanes: Counter[tuple[str, int]] = Counter()
    for entry in entries:
        content = content_of(entry)
        lane = (entry["from"], content["lane"])
        assert content["n"] == lanes[lane], f"{lane} of project {project}: {content['n']} stands at {entry['offset']}"
        lanes[lane] += 1


async def assert_processed(project: int, entries: Sequence[Frame], worker: Worker, leader: Worker) -> None:
    """All that it may see, of others, once, in the journal's order, and nothing else."""
    expected = [(entry["offset"], entry["id"]) for entry in entries if is_for(worker, entry, leader)]
    last = expected[-1][0] if expected else 0
    await worker.until(lambda: worker.record.position[project] >= last)
    processed = worker.record.processed[project]
    assert processed == expected, f"{worker}: {difference(processed, expected)}"


def is_for(worker: Worker, entry: Frame, leader: Worker) -> bool:
    uid = worker.site.uid
    if entry["from"] == uid:
        return False
    return worker is leader or (entry["from"] == leader.site.uid and uid in (content_of(entry)["to"] or [uid]))


def difference(found: Sequence[tuple[int, str]], expected: Sequence[tuple[int, str]]) -> str:
    lost, foreign = set(expected) - set(found), set(found) - set(expected)
    return f"{len(found)} processed, {len(expected)} expected; lost {sorted(lost)[:5]}, foreign {sorted(foreign)[:5]}"
