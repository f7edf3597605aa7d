"""The recorder: what waits is written in batches, is bounded, and survives a storage that is away."""

from __future__ import annotations

import pytest

from db.store import Store
from relay.core import access, audit, users
from relay.core.access import Principal
from relay.core.audit import SOURCE, Source
from relay.core.audit_chain import Deed, Record
from relay.core.node import Limits, Node
from relay.core.ports import StorageUnavailable
from relay.protocol.errors import ErrorCode, ReplyError, forbidden
from tests.support.fakes import FakeStore

ANNA = Principal(user_id=1, sites=frozenset(), name="anna")
OPERATOR = Principal(user_id=2, sites=frozenset(), name="root", is_operator=True)


@pytest.fixture
def node(store: Store) -> Node:
    SOURCE.set(Source(origin="192.0.2.7"))
    return Node(store, Limits(), version="0", name="test")


async def recorded(node: Node) -> list[Record]:
    await node.audit.flush()
    async with node.store.snapshot() as tx:
        return await tx.audit.read(0, limit=100_000)


async def test_a_change_and_its_entry_are_one_transaction(node: Node) -> None:
    await users.create(node, OPERATOR, username="bert", email="", groups=[])
    (entry,) = await recorded(node)
    assert (entry.actor, entry.action, entry.target) == ("user:root", "user.create", "user:bert")
    assert (entry.result, entry.origin, entry.details) == ("ok", "192.0.2.7", {"role": "user"})


async def test_a_change_that_fails_is_recorded_as_refused_and_not_as_done(node: Node) -> None:
    with pytest.raises(ReplyError):  # noqa: PT012
        async with node.change() as change:
            change.note(Deed.RUNS_STOP, ANNA, "project:7", batch=1)
            await change.tx.groups.create("not to be there")
            raise forbidden("not for anna")
    (entry,) = await recorded(node)
    assert (entry.action, entry.result, entry.details) == ("runs.stop", ErrorCode.FORBIDDEN, {"batch": 1})
    async with node.store.snapshot() as tx:
        assert (await tx.groups.page(limit=1, skip=0))[0] == 0


async def test_nothing_is_changed_that_cannot_be_recorded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> None:
        raise StorageUnavailable("no room")

    monkeypatch.setattr("db.audit.Audit.append", full)
    with pytest.raises(StorageUnavailable):
        await users.create_group(node, OPERATOR, "night shift")
    async with node.store.snapshot() as tx:
        assert (await tx.groups.page(limit=1, skip=0))[0] == 0


async def test_a_flood_is_cut_at_the_bound_and_one_entry_says_by_how_much(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "WAITING", 700)
    for number in range(1000):
        node.audit.later(Deed.LOGIN, audit.UNKNOWN, result="unauthenticated", number=number)
    entries = await recorded(node)
    kept = [entry.details["number"] for entry in entries if entry.action == Deed.LOGIN]
    left_out = [entry.details["count"] for entry in entries if entry.action == Deed.LEFT_OUT]
    assert kept == list(range(700))
    assert left_out == [300]


async def test_what_is_done_again_and_again_is_one_entry_a_while(node: Node) -> None:
    for _ in range(3):
        node.audit.once_in(60, Deed.LOGIN, ANNA, credential="password")
    SOURCE.set(Source(origin="192.0.2.8"))
    node.audit.once_in(60, Deed.LOGIN, ANNA, credential="password")
    assert [entry.origin for entry in await recorded(node)] == ["192.0.2.7", "192.0.2.8"]


async def test_entries_wait_for_a_storage_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "GATHER_S", 0.0)
    monkeypatch.setattr(audit, "RETRY_S", 0.0)
    store = FakeStore()
    node = Node(store.port, Limits(), version="0", name="test")
    store.down = True
    node.audit.later(Deed.LOGIN, ANNA)
    await node.audit.flush()
    assert store.commits == 0
    store.down = False
    assert [entry.actor for entry in await recorded(node)] == ["user:anna"]


def test_a_site_and_a_user_are_told_apart() -> None:
    assert ANNA.actor == "user:anna"
    assert access.Principal(user_id=1, sites=frozenset({3}), name="St. Anna", site_uid="u-1").actor == "site:u-1"
