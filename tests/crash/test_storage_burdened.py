"""A database that is slow, or has no room: publishes are refused while it lasts, nothing piles up, nothing is lost."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Sequence

import pytest

from tests.conformance.own import new_realm
from tests.conformance.realm import Team
from tests.conformance.wire import Frame, new_id, publication
from tests.crash.test_database_lost import answer_within
from tests.crash.truth import journal
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

MAX_GROWTH_BYTES = 48 * 1024 * 1024

SLOW = """CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$"""
ON_EVENTS = "CREATE TRIGGER slowly AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION slowly()"


async def answers(team: Team, ids: Sequence[str]) -> list[Frame]:
    """The answers to publishes of the coordinator, each exactly one."""
    return [await answer_within(team.co, id_) for id_ in ids]


async def assert_what_was_said_is_so(team: Team, said: Sequence[Frame]) -> None:
    """Stored is what was answered `ok`, at its offset; nothing else, and each refusal was `unavailable`."""
    stored = {entry["id"]: entry["offset"] for entry in await journal(team.co, team.project, team.head)}
    assert stored == {answer["ref"]: answer["offset"] for answer in said if answer["type"] == "ok"}
    assert {answer["code"] for answer in said if answer["type"] == "error"} <= {"unavailable"}


async def test_a_slow_database_gets_what_it_can_take_and_the_rest_is_refused(postgres: Postgres) -> None:
    url = postgres.create_database()
    for sql in (SLOW, ON_EVENTS):
        postgres.execute(sql, database=url.rpartition("/")[2])
    settings = {"STARFISH_QUEUE_ENTRIES": "100", "STARFISH_PUBLISHES_IN_FLIGHT": "5000"}
    with RelayProcess(url, settings=settings) as relay:
        async with new_realm(relay) as realm:
            team = await realm.team()
            before = relay.rss_bytes()
            ids = [new_id() for _ in range(600)]
            for id_ in ids:
                await team.co.send(**publication(team.project, {"id": id_, "ref": id_, "data": "x" * 30_000}))
            said = await answers(team, ids)
            assert {answer["type"] for answer in said} == {"ok", "error"}
            assert relay.rss_bytes() - before < MAX_GROWTH_BYTES
            await assert_what_was_said_is_so(team, said)
            for id_ in [answer["ref"] for answer in said if answer["type"] == "error"][:3]:
                assert (await team.co.publish(team.project, id=id_))["duplicate"] is False
            assert await team.pa.is_alive()


def limit_files(pid: int, size: int) -> None:
    """From now on no file of the process grows past `size`: what a full disk is to it."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is of Linux")
async def test_a_full_disk_is_said_and_there_is_room_again_when_there_is() -> None:
    with RelayProcess() as relay:
        async with new_realm(relay) as realm:
            team = await realm.team()
            largest = max(file.stat().st_size for file in relay.data_dir.rglob("*") if file.is_file())
            limit_files(relay.pid, largest + 200_000)
            said: list[Frame] = []
            while not said or said[-1]["type"] == "ok":
                assert len(said) < 1000
                id_ = new_id()
                said.append(
                    await team.co.ask(**publication(team.project, {"id": id_, "ref": id_, "data": "x" * 5_000}))
                )
            assert said[-1]["code"] == "unavailable"
            assert await asyncio.to_thread(relay.health, "live") == 200
            assert await team.pa.is_alive()
            assert (await team.pa.refused("projects.create", name="no room", description="", tasks=[]))["code"] == (
                "unavailable"
            )
            limit_files(relay.pid, resource.RLIM_INFINITY)
            said.append(await team.co.ask(**publication(team.project, {"id": said[-1]["ref"], "ref": said[-1]["ref"]})))
            assert said[-1]["type"] == "ok"
            await assert_what_was_said_is_so(team, said)
            await asyncio.to_thread(relay.restart)
            team.co = await realm.session(team.coordinator)
            await assert_what_was_said_is_so(team, said)
