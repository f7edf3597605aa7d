"""What the commands of `journal` do."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Callable

from rich.table import Column, Table

from relay.cli.run import open_store, seconds, settings_of, show
from relay.cli.words import action, actions
from relay.core import journals
from relay.core.journals import Journal
from relay.core.node import Node
from relay.core.retention import RetentionLimits
from relay.protocol.errors import invalid

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def add_journal(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    action(
        among,
        "list",
        list_journals,
        "list journals, and who has not acknowledged what they keep",
        "starfish-relay journal list",
    )
    keeping = action(
        among,
        "keep",
        keep,
        "give a project's journal limits of its own",
        "starfish-relay journal keep 12 --age 30d --size 2G",
    )
    keeping.add_argument("project", metavar="PROJECT", type=int, help="the project's id")
    keeping.add_argument("--age", metavar="TIME", default="default", help="such as 30d; or all; default: the settings'")
    keeping.add_argument(
        "--size", metavar="BYTES", default="default", help="such as 2G; or all; default: the settings'"
    )


def list_journals(options: argparse.Namespace) -> int:
    limits = settings_of(options).retention

    async def run() -> int:
        async with open_store(options, changes=False) as store:
            found = await journals.overview(store)
        table = Table("project", "name", "from", "to", "bytes", "keeps", Column("slowest", no_wrap=True), "behind")
        for journal in found:
            table.add_row(*_row(journal, limits.of(journal.holding)))
        show(table)
        return 0

    return asyncio.run(run())


def _row(journal: Journal, limits: RetentionLimits) -> list[str]:
    holding = journal.holding
    age = f"{limits.age_s / 86400:g} d" if limits.age_s else ""
    size = f"{_size(limits.bytes)}" if limits.bytes else ""
    return [
        str(holding.project_id),
        journal.project.name,
        str(holding.oldest),
        str(holding.head),
        _size(journal.bytes),
        ", ".join(filter(None, (age, size))) or "all",
        journal.slowest or "",
        str(journal.behind),
    ]


def keep(options: argparse.Namespace) -> int:
    age_s = _own(options.age, seconds)
    bytes_ = _own(options.size, _bytes)

    async def run() -> int:
        async with open_store(options) as store:
            await journals.keep(store, options.project, age_s=age_s, bytes_=bytes_, now_us=Node.now_us())
        print(f"set for project {options.project}; the relay looks at it within a minute")
        return 0

    return asyncio.run(run())


def _own(given: str, read: Callable[[str], int]) -> int | None:
    return None if given == "default" else 0 if given == "all" else read(given)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)", text)
    if match is None or int(match[1]) == 0:
        raise invalid(size=f"a number of bytes, with K, M, G or T, such as 2G; got {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _size(size: int) -> str:
    unit = next(unit for unit in reversed(_UNITS) if size >= _UNITS[unit] or not unit)
    return f"{size / _UNITS[unit]:.4g}{unit}"
