"""What the commands of `blobs` do. Both may run while a relay serves."""

from __future__ import annotations

import argparse
import asyncio

from relay.cli.run import open_store, settings_of
from relay.cli.words import action, actions
from relay.core import blob_care
from relay.core.node import Node
from relay.storage import open_files


def add_blobs(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    action(
        among,
        "gc",
        collect,
        "remove what has expired, what nothing refers to, and files of no blob",
        "starfish-relay blobs gc",
    )
    checking = action(
        among,
        "fsck",
        check,
        "say what database and disk disagree on; 1 if bytes are lost",
        "starfish-relay blobs fsck --quick",
    )
    checking.add_argument("--quick", action="store_true", help="look at sizes only; do not read all bytes")


def collect(options: argparse.Namespace) -> int:
    settings = settings_of(options)

    async def run() -> int:
        async with open_store(options) as store:
            done = await blob_care.collect(store, open_files(settings), settings.blob_care, Node.now_us())
        print(f"{done.expired} unfinished uploads whose time was over, {done.idle} blobs that nothing refers to")
        print(f"{done.files} files that no blob had, {done.bytes} bytes")
        return 0

    return asyncio.run(run())


def check(options: argparse.Namespace) -> int:
    settings = settings_of(options)

    async def run() -> int:
        lost = others = 0
        async with open_store(options, changes=False) as store:
            async for fault in blob_care.check(store, open_files(settings), deep=not options.quick):
                print(f"{'LOST ' if fault.is_loss else 'spare'} {fault.name}: {fault.what}")
                lost, others = lost + fault.is_loss, others + (not fault.is_loss)
        print(f"{lost} contents lost or damaged, {others} files that no blob has")
        if others:
            print("spare files go by themselves, an hour after they were written: `starfish-relay blobs gc`")
        return 1 if lost else 0

    return asyncio.run(run())
