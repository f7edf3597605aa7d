"""The numbers that docs/delivery.md and docs/glossary.md name are the code's defaults; its SQL does what it says."""

from __future__ import annotations

from db.connect import Database
from db.store import Store
from relay.core.node import Limits
from tests.docs.documents import DOCS, blocks

MIB = 2**20


def one_line(name: str) -> str:
    return " ".join((DOCS / name).read_text().split())


def test_the_bounds_under_overload() -> None:
    limits = Limits()
    text = one_line("delivery.md")
    for said in (
        f"after {limits.outbox.patience_s:.0f} s without a byte taken",
        f"at {limits.outbox.replies:,} waiting answers, or {limits.publishes_in_flight} publishes",
        f"up to {limits.writer.batch_entries:,} or {limits.writer.batch_bytes // MIB} MiB at a time",
        f"When {limits.writer.queue_entries:,} publishes or {limits.writer.queue_bytes // MIB} MiB wait",
        f"the newest {limits.tail.entries:,} events or {limits.tail.bytes // MIB} MiB of each project",
    ):
        assert said in text, said
    assert limits.catch_up_reads == 3
    assert "three sessions read a backlog at a time" in text


def test_the_words_with_a_number() -> None:
    limits = Limits()
    text = one_line("glossary.md")
    assert f"| lease | how long a heartbeat counts: {limits.presence.heartbeat_s:.0f} s |" in text
    assert f"before its session is closed: {limits.outbox.patience_s:.0f} s |" in text


async def test_the_sql_after_a_restored_backup_gives_every_journal_a_new_epoch(
    database: Database, store: Store
) -> None:
    (sql,) = (block.text for block in blocks(DOCS / "delivery.md") if block.language == "sql")
    by_dialect = {line.partition("-- ")[2].lower(): line.partition(";")[0] for line in sql.splitlines()}
    async with store.transaction() as tx:
        user = await tx.users.create(username="u", email="", password_hash="", is_operator=False, now_us=0)
        site = await tx.sites.create(uid="u", name="s", description="", owner_id=user.id, connected=False, now_us=0)
        projects = [
            await tx.projects.create(name=name, description="", site_id=site.id, tasks=[], now_us=0) for name in "ab"
        ]
        for project in projects:
            await tx.journal.create(project.id, "old")
    async with database.transaction() as connection:
        await connection.execute(by_dialect[database.dialect], {})
    async with store.snapshot() as tx:
        bounds = [await tx.journal.bounds(project.id) for project in projects]
    epochs = [bound.epoch for bound in bounds if bound is not None]
    assert len({*epochs, "old"}) == 3
    assert all(len(epoch) == 8 for epoch in epochs)
