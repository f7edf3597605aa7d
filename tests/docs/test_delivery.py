"""The numbers that docs/delivery.md and docs/glossary.md name are the code's defaults."""

from __future__ import annotations

from relay.core.node import Limits
from tests.docs.documents import DOCS

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
