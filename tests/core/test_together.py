"""Look-ups that are made together: in order, each from after its asking, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from relay.core import together
from relay.core.ports import StorageUnavailable
from relay.core.together import Together


class Storage:
    """Answers when told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.answers = asyncio.Semaphore(0)
        self.was_asked = asyncio.Event()
        self.failure: Exception | None = None

    async def look(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.asked.append(list(keys))
        self.was_asked.set()
        await self.answers.acquire()
        if self.failure is not None:
            raise self.failure
        return {key: f"value {key}" for key in keys if key >= 0}


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def lookups(storage: Storage) -> Together[int, str]:
    return Together(storage.look, "look")


async def _asked(storage: Storage) -> None:
    """Wait for the next question."""
    async with asyncio.timeout(5):
        await storage.was_asked.wait()
    storage.was_asked.clear()


async def test_what_is_asked_meanwhile_is_one_question(storage: Storage, lookups: Together[int, str]) -> None:
    first = asyncio.create_task(lookups.get(1))
    await _asked(storage)
    later = [asyncio.create_task(lookups.get(key)) for key in (1, 2, 2, -3)]
    await asyncio.sleep(0)
    storage.answers.release()
    assert await first == "value 1"
    await _asked(storage)
    assert not any(task.done() for task in later), "what was asked meanwhile was answered from before its asking"
    storage.answers.release()
    assert await asyncio.gather(*later) == ["value 1", "value 2", "value 2", None]
    assert storage.asked == [[1], [1, 2, -3]]


async def test_questions_are_bounded_and_put_in_order(storage: Storage, lookups: Together[int, str]) -> None:
    tasks = [asyncio.create_task(lookups.get(key)) for key in range(together.MOST + 1)]
    storage.answers.release()
    storage.answers.release()
    await asyncio.gather(*tasks)
    assert storage.asked == [list(range(together.MOST)), [together.MOST]]


async def test_a_failure_is_told_to_all_who_share_the_question_and_to_nobody_else(
    storage: Storage, lookups: Together[int, str]
) -> None:
    storage.failure = StorageUnavailable("down")
    tasks = [asyncio.create_task(lookups.get(key)) for key in (1, 2)]
    storage.answers.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageUnavailable, StorageUnavailable]
    storage.failure = None
    storage.answers.release()
    assert await lookups.get(1) == "value 1"


async def test_who_goes_away_is_not_asked_for(storage: Storage, lookups: Together[int, str]) -> None:
    first = asyncio.create_task(lookups.get(1))
    await _asked(storage)
    gone, there = asyncio.create_task(lookups.get(2)), asyncio.create_task(lookups.get(3))
    await asyncio.sleep(0)
    gone.cancel()
    storage.answers.release()
    storage.answers.release()
    assert await first == "value 1"
    assert await there == "value 3"
    assert storage.asked == [[1], [3]]


async def test_the_end_of_the_task_is_the_end_of_all_who_wait(storage: Storage, lookups: Together[int, str]) -> None:
    first = asyncio.create_task(lookups.get(1))
    await _asked(storage)
    second = asyncio.create_task(lookups.get(2))
    await asyncio.sleep(0)
    [task] = [one for one in asyncio.all_tasks() if one.get_name() == "look"]
    task.cancel()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2
