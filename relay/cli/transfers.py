"""What `send` and `fetch` do: a file to other sites, and back. They need the client alone.

75 is their exit status if the relay was not reached in time (EX_TEMPFAIL of sysexits.h), 130 if they were interrupted:
the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

from relay.cli import at_site, bars, words
from relay.cli.at_site import GOES_ON, Wrong, identity_of
from relay.cli.words import Run
from relay.client import (
    ClientError,
    Event,
    Limits,
    RelayError,
    Site,
)

_ROLES = ("participants", "coordinator")


_EPILOG = """\
The site's token is taken from $STARFISH_TOKEN, never from the command line, which other users of a machine can read.
--ca, or SSL_CERT_FILE, names a certificate authority of one's own. Broken off, by Ctrl-C too, the same command goes on
where it was. Exit status: 0 done, 1 refused or wrong, 2 the words of the call, 75 the relay was not reached,
130 interrupted.

  export STARFISH_URL=https://relay.example STARFISH_TOKEN=sfr_…
  starfish-relay send weights.bin --project 12                  prints the offset, say 7
  starfish-relay fetch --project 12 --offset 7 -o weights.bin   at another site
"""


def add_send(parser: argparse.ArgumentParser) -> None:
    _add_connection(parser, send)
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--run", metavar="N", type=words.positive, dest="run_id", help="the run that it belongs to")
    parser.add_argument(
        "--to",
        metavar="UID",
        action="append",
        default=[],
        help="a site, or participants, or coordinator; may be repeated (default: a coordinator sends to the "
        "participants, a participant to the coordinator)",
    )
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="where to note how far it is, if not beside the file (files of up to 1 MiB begin anew)",
    )


def add_fetch(parser: argparse.ArgumentParser) -> None:
    _add_connection(parser, fetch)
    parser.add_argument("--offset", metavar="N", type=words.positive, required=True, help="as `send` has printed it")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a file or directory; default: payload-PROJECT-OFFSET"
    )


def _add_connection(parser: argparse.ArgumentParser, run: Run) -> None:
    words.command(parser, run, "", storage=False)
    parser.epilog = _EPILOG
    parser.add_argument("--project", metavar="ID", type=words.positive, required=True)
    at_site.add_connection(parser)


def send(options: argparse.Namespace) -> int:
    path: Path = options.file
    if not path.is_file():
        raise Wrong(f"{path} is no file")
    with bars.shown(path.name) as show:
        offset = asyncio.run(_sent(options, _site(options), show))
    print(offset)
    return 0


async def _sent(options: argparse.Namespace, site: Site, show: bars.Show) -> int | None:
    to: list[str] = options.to
    async with site:
        _require_member(site, options.project)
        sent = await site.send_update(
            options.project,
            options.file,
            run=options.run_id,
            to=to[0] if len(to) == 1 and to[0] in _ROLES else to or None,
            state=options.state,
            on_progress=show,
        )
        return sent.offset


def fetch(options: argparse.Namespace) -> int:
    name = f"payload-{options.project}-{options.offset}"
    path: Path = options.output or Path(name)
    path = path / name if path.is_dir() else path
    with bars.shown(path.name) as show:
        asyncio.run(_fetched(options, _site(options), path, show))
    print(path)
    return 0


async def _fetched(options: argparse.Namespace, site: Site, path: Path, show: bars.Show) -> None:
    project, offset = options.project, options.offset
    async with site:
        _require_member(site, project)
        found = await site.history(project, after=offset - 1, limit=1)
        if not found or found[0].offset != offset:
            raise Wrong(
                f"project {project} has no event at offset {offset}, or none for this site",
                "`starfish-relay send` prints the offset; events older than the journal's limits are gone",
            )
        if not options.identity and _is_sealed(found[0]):
            raise Wrong(
                f"the event at offset {offset} is sealed, so that only its addressees can open it",
                "give this site's identity: --identity FILE (`starfish-relay keys --help` tells of it)",
            )
        try:
            await found[0].save(path, on_progress=show)
        except ValueError as error:
            raise Wrong(str(error), "fetch takes what was sent by `starfish-relay send`, or as a payload") from None
        if (payload := found[0].payload) is not None:  # it has come with the event
            show(len(payload), len(payload))


def _is_sealed(event: Event) -> bool:
    if isinstance(event.data, dict) and "sealed" in event.data:
        return True
    return event.payload is not None and event.payload.startswith(at_site.SEALED)


def _site(options: argparse.Namespace) -> Site:
    url, token = at_site.url_and_token(options)
    more: dict[str, Any] = {"start": {options.project: "new"}}  # what waits for the site is for its controller
    if options.identity:
        more = {"identity": identity_of(options.identity)}
    try:
        return Site(url, token=token, ssl=at_site.tls_of(options), **more)
    except ValueError as error:
        raise Wrong(str(error), "--url is such as https://relay.example, or http://127.0.0.1:8000") from None


def _require_member(site: Site, project: int) -> None:
    if project not in site.memberships:
        known = ", ".join(str(known) for known in sorted(site.memberships)) or "none"
        raise Wrong(f"{site.name} does not take part in project {project}", f"its projects: {known}")


def guarded(command: Run, options: argparse.Namespace) -> int:
    """Run a command; what people can act on is told in words."""
    logging.getLogger("relay.client.session").addFilter(_is_told_by_log_alone)
    try:
        return command(options)
    except KeyboardInterrupt:
        goes_on = command is fetch or _is_resumable(options)
        print(f"interrupted: the same command {GOES_ON if goes_on else 'begins anew'}", file=sys.stderr)
        return at_site.INTERRUPTED
    except (Wrong, RelayError, ClientError, OSError) as error:
        return at_site.told(error)


def _is_told_by_log_alone(record: logging.LogRecord) -> bool:
    """The end of a session is raised too, and told by `guarded`."""
    return record.levelno < logging.ERROR or record.exc_info is not None


def _is_resumable(options: argparse.Namespace) -> bool:
    """Of what goes into the event itself, or has no place for a note, nothing is remembered."""
    path: Path = options.file
    notes: Path = options.state or path.parent
    return os.access(notes, os.W_OK) and path.stat().st_size > Limits().inline_bytes
