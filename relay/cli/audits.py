"""What the commands of `audit` do."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime

from relay.cli.run import fail, open_store, seconds
from relay.cli.words import action, actions
from relay.core import audit
from relay.core.audit_chain import ChainBroken, ChainHead, Deed, Record, Verifier
from relay.core.model import rfc3339
from relay.core.node import Node
from relay.core.ports import Store
from relay.protocol.errors import invalid

PAGE = 5_000
FOLLOW_S = 1.0
_ANCHOR = re.compile(r"([1-9]\d{0,17}):([0-9a-f]{64})")


def add_audit(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    tailing = action(
        among,
        "tail",
        tail,
        "show the newest entries, the last one at the end",
        "starfish-relay audit tail --follow --lines 50",
    )
    tailing.add_argument("--follow", action="store_true", help="go on with those that come, until Ctrl-C")
    tailing.add_argument("--lines", metavar="N", type=int, default=20, help="how many (default: 20)")
    exporting = action(
        among,
        "export",
        export,
        "write entries to standard output, one JSON object a line",
        "starfish-relay audit export --since 90d > audit.jsonl",
    )
    exporting.add_argument(
        "--since", metavar="TIME", help="such as 2026-01-31, 2026-01-31T08:00:00Z, or 90d for back then"
    )
    verifying = action(
        among,
        "verify",
        verify,
        "check that no entry was edited, removed or moved; 1 if one was",
        "starfish-relay audit verify --anchor 5120:9f86d081…      a number and a hash noted down earlier",
    )
    verifying.add_argument(
        "--anchor",
        metavar="SEQ:HASH",
        action="append",
        default=[],
        help="an entry's number and hash, known from elsewhere (`audit_head` in /health); may be repeated",
    )
    pruning = action(
        among,
        "prune",
        prune,
        "remove the oldest entries; the record then begins with a checkpoint, and goes on to verify",
        "starfish-relay audit prune --before 730d      after an export",
    )
    pruning.add_argument(
        "--before",
        metavar="TIME",
        required=True,
        help="what is older goes: 2026-01-31, 2026-01-31T08:00:00Z, or 730d for back then",
    )


def tail(options: argparse.Namespace) -> int:
    if not 0 <= options.lines <= 100_000:
        raise invalid(lines=f"0 to 100000, got {options.lines}")

    async def run() -> int:
        async with open_store(options) as store:
            async with store.snapshot() as tx:
                after = max(0, (await tx.audit.head()).seq - options.lines)
            while True:
                async for page in _pages(store, after):
                    print("\n".join(_line(record) for record in page), flush=True)
                    after = page[-1].seq
                if not options.follow:
                    return 0
                await asyncio.sleep(FOLLOW_S)

    return asyncio.run(run())


def export(options: argparse.Namespace) -> int:
    since_us = 0 if options.since is None else _time(options.since, Node.now_us())

    async def run() -> int:
        async with open_store(options) as store:
            async for page in _pages(store, 0, since_us):
                sys.stdout.writelines(
                    json.dumps(asdict(record), ensure_ascii=False, sort_keys=True) + "\n" for record in page
                )
        return 0

    return asyncio.run(run())


def verify(options: argparse.Namespace) -> int:
    verifier = Verifier(dict(_anchor(given) for given in options.anchor))

    async def run() -> int:
        async with open_store(options) as store:
            await check(store, verifier)
        count = verifier.head.seq - verifier.start.seq
        pruned = f"; those up to {verifier.start} were pruned" if verifier.start.seq else ""
        print(f"{count} entries, none edited, removed or moved; the last is {verifier.head}{pruned}")
        return 0

    try:
        return asyncio.run(run())
    except ChainBroken as broken:
        return fail(str(broken))


async def check(store: Store, verifier: Verifier) -> None:
    """Go along the whole record, hashing beside the event loop.

    Raises:
        ChainBroken: it is not what was recorded.
    """
    async with store.snapshot() as tx:
        stored = await tx.audit.head()
        verifier.begin(await tx.audit.checkpoint())
        while page := await tx.audit.links(verifier.head.seq, limit=PAGE):
            await asyncio.to_thread(verifier.take, page)
        verifier.end(stored)


def prune(options: argparse.Namespace) -> int:
    before_us = _time(options.before, Node.now_us(), "before")

    async def run() -> int:
        async with open_store(options) as store:
            checkpoint = await mark(store, before_us, Node.now_us())
            count = await clear(store)
        print(f"{count} entries removed; the record begins after {checkpoint}")
        return 0

    try:
        return asyncio.run(run())
    except ChainBroken as broken:
        return fail(f"{broken}; nothing was removed")


async def mark(store: Store, before_us: int, now_us: int) -> ChainHead:
    """Record which entries are to go: the oldest ones, as far as all of them are from before a time. The entry that
    says so has the number and the hash of the last of them, and is in the chain itself.

    Raises:
        ChainBroken: the record is not what was recorded: what would show it is not removed.
    """
    await check(store, Verifier())
    async with store.transaction() as tx:
        known = await tx.audit.checkpoint()
        later = await tx.audit.read(known.seq, limit=1, since_us=before_us)
        through = later[0].seq - 1 if later else (await tx.audit.head()).seq
        if through <= known.seq:
            return known
        last = (await tx.audit.links(through - 1, limit=1))[0]
        await audit.record(tx, now_us, Deed.PRUNE, None, through=last.seq, hash=last.hash)
        return ChainHead(seq=last.seq, hash=last.hash)


async def clear(store: Store) -> int:
    """Remove what is marked, in short transactions; what a crash leaves of it, the next time does. How many."""
    removed = 0
    while True:
        async with store.transaction() as tx:
            count = await tx.audit.remove((await tx.audit.checkpoint()).seq, limit=PAGE)
        if not count:
            return removed
        removed += count


async def _pages(store: Store, after: int, since_us: int = 0) -> AsyncIterator[list[Record]]:
    while True:
        async with store.snapshot() as tx:
            page = await tx.audit.read(after, limit=PAGE, since_us=since_us)
        if not page:
            return
        yield page
        after = page[-1].seq


def _line(record: Record) -> str:
    details = " ".join(f"{name}={value}" for name, value in record.details.items() if value is not None)
    words = (
        str(record.seq),
        rfc3339(record.at_us),
        record.origin or "-",
        record.actor,
        record.action,
        record.target or "-",
        record.result,
        details,
    )
    return _printable("  ".join(word for word in words if word))


def _printable(text: str) -> str:
    """Names come from outside: nothing in them moves the cursor or ends the line."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _anchor(given: str) -> tuple[int, str]:
    match = _ANCHOR.fullmatch(given.lower())
    if match is None:
        raise invalid(anchor=f"an entry's number, a colon and its hash of 64 digits; got {given[:100]!r}")
    return int(match[1]), match[2]


def _time(given: str, now_us: int, name: str = "since") -> int:
    if re.fullmatch(r"\d+[smhd]", given):
        return now_us - seconds(given) * 1_000_000
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise invalid(**{name: f"a date, a time of RFC 3339, or such as 90d; got {given[:100]!r}"}) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)
