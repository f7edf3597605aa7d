"""The chain of the audit record: whoever meddles with it by SQL is found out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict

import pytest

from db.connect import Database
from db.store import Store
from relay.cli.audits import check, clear, mark
from relay.core.audit_chain import GENESIS, ChainBroken, ChainHead, Deed, Note, Verifier, follow, plain

NOW_US = 1_764_064_800_123_456
ODD = "a'b\"c%d:e\\f é€𝄞 {} \t\n\x01\x7f\u2028"


def notes(count: int) -> list[Note]:
    return [
        Note(
            at_us=NOW_US + number,
            actor="user:anna",
            action=Deed.RUNS_STOP,
            target=f"project:{number}",
            origin="192.0.2.1",
            details={"batch": number, "odd": ODD, "none": None},
        )
        for number in range(1, count + 1)
    ]


async def write(store: Store, count: int = 5) -> ChainHead:
    async with store.transaction() as tx:
        await tx.audit.append(notes(count))
        return await tx.audit.head()


async def verified(store: Store, anchor: ChainHead | None = None) -> ChainHead:
    verifier = Verifier({} if anchor is None else {anchor.seq: anchor.hash})
    await check(store, verifier)
    return verifier.head


async def test_what_was_recorded_is_read_as_it_was_and_verifies(store: Store) -> None:
    assert await verified(store) == GENESIS
    async with store.transaction() as tx:
        await tx.audit.append(notes(2))
        await tx.audit.append(notes(3)[2:])
        await tx.audit.append([])
    async with store.snapshot() as tx:
        found = await tx.audit.read(0, limit=10)
        assert found == follow(GENESIS, notes(3))
        assert await tx.audit.read(1, limit=1) == found[1:2]
        assert await tx.audit.read(0, limit=10, since_us=NOW_US + 3) == found[2:]
    assert await verified(store) == ChainHead(seq=3, hash=found[-1].hash)


async def test_the_hash_is_the_documented_one(store: Store) -> None:
    """Worked out from an entry as `audit export` writes it, with nothing of the relay's."""
    await write(store, 2)
    async with store.snapshot() as tx:
        first, second = await tx.audit.read(0, limit=2)
    entry = asdict(second)
    expected = entry.pop("hash")
    canonical = json.dumps(entry, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(bytes.fromhex(first.hash) + canonical).hexdigest() == expected


async def test_entries_of_a_transaction_that_fails_are_not_there(store: Store) -> None:
    with pytest.raises(RuntimeError):  # noqa: PT012
        async with store.transaction() as tx:
            await tx.audit.append(notes(1))
            raise RuntimeError
    assert await verified(store) == GENESIS


@pytest.mark.parametrize(
    ("tampering", "says"),
    [
        ("UPDATE audit SET actor = 'user:eve' WHERE seq = 3", "entry 3 is not what was recorded"),
        ("UPDATE audit SET at_us = at_us + 1 WHERE seq = 1", "entry 1 is not what was recorded"),
        ("UPDATE audit SET details = '{}' WHERE seq = 5", "entry 5 is not what was recorded"),
        ("UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 2) WHERE seq = 4", "entry 4"),
        ("DELETE FROM audit WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM audit WHERE seq = 1", "entry 1 is missing"),
        ("DELETE FROM audit WHERE seq = 5", "ends at entry 4, and 5 is noted as the last"),
        ("UPDATE audit SET target = target || ' ' WHERE seq = 2", "entry 2 is not what was recorded"),
        ("UPDATE audit SET details = details || ' ' WHERE seq = 2", "entry 2 is not what was recorded"),
        ("UPDATE audit_head SET seq = 6", "6 is noted as the last"),
    ],
)
async def test_an_edited_or_removed_entry_is_found(store: Store, database: Database, tampering: str, says: str) -> None:
    await write(store)
    async with database.transaction() as connection:
        await connection.execute(tampering)
    with pytest.raises(ChainBroken, match=says):
        await verified(store)


async def test_reordered_entries_are_found(store: Store, database: Database) -> None:
    await write(store)
    async with database.transaction() as connection:
        for before, after in ((2, 99), (3, 2), (99, 3)):
            await connection.execute(f"UPDATE audit SET seq = {after} WHERE seq = {before}")
    with pytest.raises(ChainBroken, match="entry 2 is not what was recorded"):
        await verified(store)


async def test_a_chain_that_was_cut_short_or_made_anew_fits_no_anchor(store: Store, database: Database) -> None:
    """Whoever can write all of the database can make a chain that fits itself: an anchor kept elsewhere shows it."""
    anchor = await write(store)
    shorter = follow(GENESIS, notes(4))
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM audit WHERE seq = 5")
        await connection.execute("UPDATE audit_head SET seq = 4, hash = :hash", {"hash": shorter[-1].hash})
    assert (await verified(store)).seq == 4
    with pytest.raises(ChainBroken, match="ends at entry 4, and an anchor names entry 5"):
        await verified(store, anchor)
    async with store.transaction() as tx:
        await tx.audit.append(notes(1))
    with pytest.raises(ChainBroken, match="entry 5 is not the one that the anchor names"):
        await verified(store, anchor)


async def test_a_pruned_record_verifies_from_its_checkpoint_and_shows_whoever_removes_more(
    store: Store, database: Database
) -> None:
    await write(store, 9)
    before = await head_at(store, 6)
    assert await mark(store, NOW_US + 7, NOW_US + 100) == before
    assert await clear(store) == 6
    assert await verified(store, before) == await head_at(store, 10)
    assert await mark(store, NOW_US + 7, NOW_US + 100) == before  # nothing more to do
    assert await clear(store) == 0
    async with store.snapshot() as tx:
        (kept,) = await tx.audit.read(9, limit=5)
    assert (kept.action, kept.details) == ("audit.prune", {"through": 6, "hash": before.hash})
    with pytest.raises(ChainBroken, match="up to 6 were pruned"):
        await verified(store, ChainHead(seq=5, hash=before.hash))
    with pytest.raises(ChainBroken, match="the anchor names"):
        await verified(store, ChainHead(seq=6, hash="00" * 32))
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM audit WHERE seq = 7")
    with pytest.raises(ChainBroken, match="entry 7 is missing"):
        await verified(store)
    with pytest.raises(ChainBroken):
        await mark(store, NOW_US + 9, NOW_US + 200)


async def test_a_pruning_that_was_interrupted_is_gone_on_with_and_all_may_go(store: Store) -> None:
    last = await write(store, 5)
    assert await mark(store, NOW_US + 1000, NOW_US + 1000) == last
    assert (await verified(store)).seq == 6
    assert await clear(store) == 5
    assert (await verified(store, last)).seq == 6


async def head_at(store: Store, seq: int) -> ChainHead:
    async with store.snapshot() as tx:
        return ChainHead(seq=seq, hash=(await tx.audit.links(seq - 1, limit=1))[0].hash)


def test_text_from_outside_is_made_fit_to_be_stored() -> None:
    assert plain("a\0b\ud800") == "a\ufffdb?"
    assert len(plain("x" * 1000)) == 300


@pytest.mark.soak
async def test_a_million_entries_verify_within_ten_seconds(store: Store) -> None:
    for _ in range(100):
        await write(store, 10_000)
    began, busy_since = time.perf_counter(), time.process_time()
    assert (await verified(store)).seq == 1_000_000
    took_s, busy_s = time.perf_counter() - began, time.process_time() - busy_since
    sys.stdout.write(f"1,000,000 entries verified in {took_s:.1f} s, {busy_s:.1f} s of them at work\n")
    assert busy_s < 10  # the rest of the time is other processes'
