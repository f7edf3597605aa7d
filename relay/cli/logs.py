"""What `logs` does: a training's logs as a site may see them, past ones and those that come. It needs the client alone.

Two things are logs: events of the kind `log`, and the log files that polling controllers upload, which `file` events
tell of. Their text is fetched, shown line by line under the site's name, and obeyed in nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from typing import Any

from relay.cli import at_site, words
from relay.cli.at_site import Wrong
from relay.cli.printed import escaped, printable
from relay.client import ClientError, RelayError
from relay.client.frames import Event
from relay.client.onlooker import Onlooker, merged

TEXT_BYTES = 16 * 1024 * 1024
"""The longest log file that is shown."""
_COLOURS = (36, 33, 35, 32, 34, 31, 96, 93, 95, 92, 94)
_EPILOG = """\
examples:
  export STARFISH_URL=https://relay.example STARFISH_TOKEN=sfr_…
  starfish-relay logs 12                       what there is
  starfish-relay logs 12 --follow --run 88     one run's, and what comes, until Ctrl-C
  starfish-relay logs diabetes --json | jq -r 'select(.site_name == "St. Anna").text'

A coordinator is shown the logs of all sites, a participant its own. Nothing is acknowledged by looking. A token of the
scope read-only is enough (`starfish-relay token create --scope read-only`), and does not make the site count as online.
"""


def add_logs(parser: argparse.ArgumentParser) -> None:
    words.command(parser, logs, "", storage=False)
    parser.description = "Show the logs of a training as a site may see them: a coordinator all, a participant its own."
    parser.epilog = _EPILOG
    parser.add_argument("project", metavar="PROJECT", help="its id or name")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with those that come, until Ctrl-C")
    parser.add_argument(
        "--after", metavar="N", type=words.between(0, 2**63 - 1), default=0, help="after this offset only"
    )
    parser.add_argument("--run", metavar="N", type=words.positive, dest="run_id", help="of this run only")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for programs")
    at_site.add_connection(parser)


def logs(options: argparse.Namespace) -> int:
    url, token = at_site.url_and_token(options)
    identity = at_site.identity_of(options.identity) if options.identity else None
    try:
        onlooker = Onlooker(url, token=token, ssl=at_site.tls_of(options), identity=identity)
    except ValueError as error:
        raise Wrong(str(error), "--url is such as https://relay.example, or http://127.0.0.1:8000") from None
    asyncio.run(_show(options, onlooker))
    return 0


async def _show(options: argparse.Namespace, onlooker: Onlooker) -> None:
    async with onlooker:
        project = await _project(onlooker, options.project)
        writers = _Writers(onlooker, project)
        printer = _Printer(as_json=options.json)
        async for event in _logs(onlooker, project, options):
            if event.kind == "resync":
                print("events may be missing here: the journal does not reach back, or is another one", file=sys.stderr)
            elif options.run_id in (None, event.run):
                printer.show(event, await writers.of(event), await _text(event))


async def _project(onlooker: Onlooker, given: str) -> int:
    if given.isascii() and given.isdecimal() and int(given[:18]) in onlooker.projects:
        return int(given)
    parts = await onlooker.call("projects.list")
    found = [part["project"]["id"] for part in parts if part["project"]["name"] == given]
    if not found or found[0] not in onlooker.projects:
        known = ", ".join(str(known) for known in sorted(onlooker.projects)) or "none"
        raise Wrong(f"{onlooker.site.name} does not take part in project {given[:100]}", f"its projects: {known}")
    return int(found[0])


async def _logs(onlooker: Onlooker, project: int, options: argparse.Namespace) -> AsyncIterator[Event]:
    head = onlooker.projects[project].offset
    past = [onlooker.history(project, kind, after=options.after, through=head) for kind in ("log", "file")]
    async for event in merged(*past):
        if _is_log(event):
            yield event
    if options.follow:
        async for event in onlooker.follow(project, after=max(head, options.after)):
            if _is_log(event) or event.kind == "resync":
                yield event


def _is_log(event: Event) -> bool:
    is_file = event.kind == "file" and isinstance(event.data, dict) and event.data.get("type") == "logs"
    return is_file or event.kind == "log"


async def _text(event: Event) -> str | None:
    """A log file's text. None: it is no file, or there is nothing to be shown of it."""
    try:
        if event.payload is None and (event.size is not None or event.kind == "file"):
            async with event.open(max_bytes=TEXT_BYTES) as stream:
                return (await stream.read()).decode(errors="replace")
    except (RelayError, ClientError, ValueError) as error:
        return f"({event.kind} at offset {event.offset} cannot be shown: {error})"
    return None


class _Writers:
    """Who has written what: sites by their uids and names. Read again whenever somebody is met who is not known."""

    def __init__(self, onlooker: Onlooker, project: int) -> None:
        self._onlooker = onlooker
        self._project = project
        self._names: dict[str, str] = {}
        self._uids: dict[int, str] = {}
        """Run → its site."""

    async def of(self, event: Event) -> tuple[str, str]:
        uid = event.sender
        if uid is None and event.run is not None:
            if event.run not in self._uids:
                runs = await self._onlooker.call("runs.list", project=self._project)
                self._uids = {event.run: ""} | {run["id"]: run["site_uid"] for run in runs}
            uid = self._uids[event.run]
        if uid and uid not in self._names:
            parts = await self._onlooker.call("projects.participants", project=self._project)
            self._names |= {uid: uid} | {part["site"]["uid"]: part["site"]["name"] for part in parts}
        return (uid, self._names[uid]) if uid else ("", "unknown")


class _Printer:
    """Lines under the names of their sites: each in a colour of its own on a terminal."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._has_colours = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self._colours: dict[str, int] = {}

    def show(self, event: Event, writer: tuple[str, str], text: str | None) -> None:
        lines = _lines(event.data, event.payload) if text is None else text.splitlines()
        if self._as_json:
            print(escaped(json.dumps(_object(event, writer, lines), ensure_ascii=False)), flush=True)
            return
        name = self._coloured(printable(writer[1]))
        at = event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        begin = f"{self._styled(2, at)}  {name}  "
        if event.kind == "file":
            begin += f"{self._styled(2, printable(str(event.data.get('name'))))}  "
        for line in lines:
            print(f"{begin}{printable(line.expandtabs(4))}")
        sys.stdout.flush()

    def _coloured(self, name: str) -> str:
        return self._styled(self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)]), name)

    def _styled(self, style: int, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._has_colours else text


def _object(event: Event, writer: tuple[str, str], lines: Sequence[str]) -> dict[str, Any]:
    return {
        "offset": event.offset,
        "at": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "site": writer[0],
        "site_name": writer[1],
        "run": event.run,
        "batch": event.batch,
        "file": event.data.get("name") if event.kind == "file" else None,
        "data": event.data if event.kind == "log" else None,
        "text": "\n".join(lines),
    }


def _lines(data: Any, payload: bytes | None) -> Sequence[str]:
    """What is logged, in lines: `{"level": …, "message": …, more}` in words, anything else as it is."""
    if _is_sealed(data, payload):
        return ["(sealed: this site's --identity FILE opens it)"]
    if payload is not None:
        return payload.decode(errors="replace").splitlines()
    if data is None:
        return ["(nothing that can be shown)"]
    if isinstance(data, dict):
        name = next((name for name in _MESSAGES if isinstance(data.get(name), str)), None)
        if name is not None:
            more = [f"{key}={_word(value)}" for key, value in data.items() if key not in (name, "level")]
            return " ".join([*([str(data["level"])] if "level" in data else []), data[name], *more]).splitlines()
    return (data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)).splitlines() or [""]


def _is_sealed(data: Any, payload: bytes | None) -> bool:
    return isinstance(data, dict) and "sealed" in data if payload is None else payload.startswith(at_site.SEALED)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_MESSAGES = ("message", "msg", "text")


def guarded(command: words.Run, options: argparse.Namespace) -> int:
    """Run the command; what people can act on is told in words."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return command(options)
    except KeyboardInterrupt:
        return at_site.INTERRUPTED
    except (Wrong, RelayError, ClientError, OSError) as error:
        return at_site.told(error)
