"""What `tail` does: a project's journal as it grows, read from the database, whether a relay serves it or not."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.text import Text

from db.store import Store
from relay.cli import tables
from relay.cli.follow import bell
from relay.cli.named import project_named
from relay.cli.printed import printable
from relay.cli.run import open_store
from relay.cli.words import between, command
from relay.core import frames
from relay.core.model import Draft, Entry, JsonObject, Kind, Site, rfc3339
from relay.core.ports import Tx
from relay.protocol import codec
from relay.protocol.position import MAX_OFFSET, JournalBounds

LINES = 10
PAGE = 256
PAGE_BYTES = 8 * 1024 * 1024
ADDRESSEES = 3
"""Are called by their names; more are counted."""
SHOWN = 200
"""Characters of an event's data, where no terminal says how many there is room for."""
_STYLES = {
    "command": "bold cyan",
    "update": "magenta",
    "log": "dim",
    "progress": "dim",
    "run": "yellow",
    "batch": "bold yellow",
}


def add_tail(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        tail,
        "starfish-relay tail 12                              the last ten events, and those that come, until Ctrl-C\n"
        "starfish-relay tail diabetes --kind run --kind batch\n"
        "starfish-relay tail 12 --after 0 --no-follow --json  the whole journal, one JSON object a line",
    )
    parser.description = (
        "Show a project's newest events and go on with those that come. Data is shortened to the line, binary payloads "
        "are told by their size; sealed ones can be read by nobody here. Nothing is acknowledged by this."
    )
    parser.add_argument("project", metavar="PROJECT", help="its id or name")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--after", metavar="N", type=between(0, MAX_OFFSET), help="begin after this offset; 0: with the oldest"
    )
    begin.add_argument(
        "--lines", metavar="N", type=between(0, 100_000), default=LINES, help=f"begin N events back (default: {LINES})"
    )
    parser.add_argument(
        "--kind",
        metavar="KIND",
        action="append",
        default=[],
        choices=[kind.value for kind in Kind],
        help=f"of this kind only; may be repeated: {', '.join(Kind)}",
    )
    parser.add_argument("--no-follow", action="store_true", help="end where the journal ends now")
    tables.add_json(parser, "one object a line, with the data whole")


def tail(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store:
            await _Tail(store, options).run()
        return 0

    return asyncio.run(run())


class _Tail:
    """A position in a journal, and who the ids in it are."""

    def __init__(self, store: Store, options: argparse.Namespace) -> None:
        self._store = store
        self._options = options
        self._kinds = frozenset(options.kind)
        self._project_id = 0
        self._position = 0
        self._epoch = ""
        self._sites: dict[int, Site] = {}
        self._console = Console(markup=False, emoji=False, highlight=False)

    async def run(self) -> None:
        """Show what there is and what comes, until the project is deleted."""
        async with self._store.snapshot() as tx:
            self._project_id = (await project_named(tx, self._options.project)).id
            bounds = await tx.journal.bounds(self._project_id)
        assert bounds is not None  # a project has a journal
        after = self._options.after
        self._epoch = bounds.epoch
        self._position = max(bounds.oldest - 1, bounds.head - self._options.lines if after is None else after)
        if self._options.no_follow:
            await self._show_all()
            return
        async with bell(self._store.database) as rung:
            while await self._show_all():
                await rung.wait()
                rung.clear()
        print("the project was deleted", file=sys.stderr)

    async def _show_all(self) -> bool:
        """Show what there is after the position. False: the project is gone."""
        while (page := await self._page()) is not None:
            if not page:
                return True
            for entry in page:
                if not self._kinds or entry.draft.kind in self._kinds:
                    self._show(entry)
            sys.stdout.flush()
        return False

    async def _page(self) -> Sequence[Entry] | None:
        """The next entries, none at the journal's head; None if there is no journal any more. Moves the position."""
        only = next(iter(self._kinds)) if len(self._kinds) == 1 else None
        async with self._store.snapshot() as tx:
            bounds = await tx.journal.bounds(self._project_id)
            if bounds is None:
                return None
            self._heed(bounds)
            page = await tx.journal.read(self._project_id, self._position, limit=PAGE, max_bytes=PAGE_BYTES, kind=only)
            await self._learn(tx, page)
        last = page[-1].offset if page else None
        self._position = max(self._position, bounds.head) if last is None else last  # past what is of other kinds
        return page

    def _heed(self, bounds: JournalBounds) -> None:
        """Say so where the journal is another one, or no longer reaches back."""
        if bounds.epoch != self._epoch:
            print("the journal is another one now (a restored backup?): from its beginning", file=sys.stderr)
            self._epoch, self._position = bounds.epoch, bounds.oldest - 1
        elif self._position < bounds.oldest - 1:
            print(f"events up to {bounds.oldest - 1} are kept no longer", file=sys.stderr)
            self._position = bounds.oldest - 1

    async def _learn(self, tx: Tx, page: Sequence[Entry]) -> None:
        """Who is meant by the ids of these entries. A site that was deleted is told by what the journal has of it."""
        met = {entry.draft.sender_id for entry in page}.union(*(entry.draft.audience or () for entry in page))
        unknown = [site_id for site_id in met if site_id is not None and site_id not in self._sites]
        if unknown:
            self._sites |= await tx.sites.many(unknown)

    # --- one entry

    def _show(self, entry: Entry) -> None:
        if self._options.json:
            tables.print_json(self._object(entry), indent=None)
        elif self._console.is_terminal:
            self._console.print(self._line(entry), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            print(self._line(entry).plain)

    def _object(self, entry: Entry) -> JsonObject:
        shown: JsonObject = msgspec.json.decode(
            codec.encode(codec.event_object(frames.event_of(entry), inline_limit=0))
        )
        audience = entry.draft.audience
        return shown | {"to": None if audience is None else sorted(self._uid(one) for one in audience)}

    def _line(self, entry: Entry) -> Text:
        draft = entry.draft
        sender = "relay" if draft.sender_id is None else self._name(draft.sender_id, draft.sender_uid)
        what = f"run {draft.run}  " if draft.run is not None else f"batch {draft.batch}  " if draft.batch else ""
        line = Text()
        line.append(f"{entry.offset:>6}  ", "bold")
        line.append(f"{rfc3339(entry.at_us)[11:19] if self._console.is_terminal else rfc3339(entry.at_us)}  ", "dim")
        line.append(f"{draft.kind:<11}  ", _STYLES.get(draft.kind, ""))
        line.append(f"{sender}{self._to(draft)}  ")
        line.append(what, "dim")
        line.append(_content(draft))
        return line

    def _to(self, draft: Draft) -> str:
        if draft.sender_id is None or draft.audience is None:
            return ""
        names = sorted(self._name(site_id, None) for site_id in draft.audience if site_id != draft.sender_id)
        return f" → {', '.join(names)}" if len(names) <= ADDRESSEES else f" → {len(names)} sites"

    def _name(self, site_id: int, uid: str | None) -> str:
        site = self._sites.get(site_id)
        return printable(site.name if site is not None else uid or f"site {site_id}")

    def _uid(self, site_id: int) -> str:
        site = self._sites.get(site_id)
        return str(site_id) if site is None else site.uid


def _content(draft: Draft) -> str:
    """What an event carries, in a line."""
    if draft.payload is not None:
        return f"{tables.size(len(draft.payload))} of bytes"
    data = draft.data or b"null"
    if data.startswith(b'{"sealed":'):
        return f"{tables.size(len(data))}, sealed"
    text = printable(data[: 4 * SHOWN].decode(errors="replace"))
    return text if len(text) <= SHOWN and len(data) <= 4 * SHOWN else f"{text[:SHOWN]}… {tables.size(len(data))}"
