"""A flag wakes all who wait for it, and is not disturbed by who stops waiting."""

from __future__ import annotations

import asyncio

from relay.core.flag import Flag


async def test_who_waits_for_a_set_flag_does_not_wait() -> None:
    flag = Flag(is_set=True)
    await flag.wait()
    flag.clear()
    assert not flag.is_set()


async def test_all_who_wait_are_woken_though_it_is_cleared_at_once() -> None:
    flag = Flag(is_set=False)
    tasks = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    flag.set()
    flag.clear()
    await asyncio.gather(*tasks)
    late = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not late.done()
    flag.set()
    await late


async def test_who_stops_waiting_disturbs_nobody() -> None:
    flag = Flag(is_set=False)
    gone, there = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert gone.cancelled()
    flag.set()
    await there
