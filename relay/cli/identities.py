"""What the commands of `keys` do: a site's identity, and whom it trusts. They need the client alone, and no relay."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from relay.cli.words import Run, action, actions
from relay.client.sealed import Identity, SealError, Trust
from relay.client.sealed.trust import Pinned, beside


def add_keys(parser: argparse.ArgumentParser) -> None:
    parser.description = "A site's identity, and whom it trusts. Fingerprints are to be compared by telephone."
    among = actions(parser)
    _add(among, "new", new, "make an identity and print its fingerprint", "starfish-relay keys new")
    shown = _add(
        among,
        "fingerprint",
        fingerprint,
        "print the fingerprint of this site's key",
        "starfish-relay keys fingerprint --identity /etc/starfish/identity",
    )
    shown.add_argument("site", metavar="UID", nargs="?", help="or of the key that is trusted to be that site's")
    _add(
        among,
        "list",
        list_sites,
        "list whose keys are trusted, since when, and how they came",
        "starfish-relay keys list",
    )
    trusting = _add(
        among,
        "trust",
        trust,
        "trust a site's key, as its people have read it out",
        "starfish-relay keys trust 0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01 \\\n"
        "  12345 67890 12345 67890 12345 67890 12345 67890",
    )
    trusting.add_argument("site", metavar="UID")
    trusting.add_argument("fingerprint", metavar="FINGERPRINT", nargs="+", help="40 digits; spaces do not matter")
    trusting.add_argument("--coordinates", metavar="PROJECT", type=int, help="and that it coordinates this project now")
    _add(
        among,
        "rotate",
        rotate,
        "replace the keys by new ones, which the old ones sign for",
        "starfish-relay keys rotate",
    )


def _add(among: Any, name: str, run: Run, help_: str, example: str) -> argparse.ArgumentParser:
    parser = action(among, name, run, help_, example, storage=False)
    parser.add_argument(
        "--identity",
        metavar="FILE",
        default=os.environ.get("STARFISH_IDENTITY", "identity"),
        help="the key file (default: $STARFISH_IDENTITY, or ./identity); whom it trusts is in FILE.trust",
    )
    return parser


def new(options: argparse.Namespace) -> int:
    identity = Identity.generate()
    identity.save(options.identity)
    print(identity.fingerprint)
    return 0


def fingerprint(options: argparse.Namespace) -> int:
    identity = Identity.load(options.identity)
    if options.site is None:
        print(identity.fingerprint)
        return 0
    with _trust(options) as trust:
        pinned = trust.site(options.site)
    if pinned is None:
        raise SealError(f"site {options.site} is not known here; `starfish-relay keys list` says who is")
    print(pinned.keys.fingerprint)
    return 0


def list_sites(options: argparse.Namespace) -> int:
    with _trust(options) as trust:
        for site in trust.sites():
            print(_line(site))
            if site.offered is not None:
                print(f"{'':36}  {site.offered.fingerprint}  refused: the relay shows this key since")
        for uid, keys in trust.strangers():
            print(f"{uid}  {keys.fingerprint}  refused: not trusted yet")
    return 0


def _line(site: Pinned) -> str:
    return f"{site.uid}  {site.keys.fingerprint}  {site.how}, {site.since[:10]}"


def trust(options: argparse.Namespace) -> int:
    with _trust(options) as known:
        print(_line(known.trust(options.site, " ".join(options.fingerprint))))
        if options.coordinates is not None:
            known.trust_coordinator(options.coordinates, options.site)
            print(f"it coordinates project {options.coordinates}")
    return 0


def rotate(options: argparse.Namespace) -> int:
    print(Identity.load(options.identity).rotate().fingerprint)
    print("the site announces it when it connects next: start its controller again", file=sys.stderr)
    return 0


def _trust(options: argparse.Namespace) -> Trust:
    """What is kept beside the identity.

    Raises:
        SealError: there is nothing yet.
    """
    path = beside(Path(options.identity))
    if not path.exists():
        raise SealError(f"{path} is not there: this site has not been connected with its identity yet")
    return Trust(path)


def guarded(command: Run, options: argparse.Namespace) -> int:
    """Run a command; what people can act on is told in words."""
    try:
        return command(options)
    except SealError as error:
        message = str(error)
    except FileExistsError:
        message = (
            f"{options.identity} is there already, and an identity is never overwritten; `keys rotate` replaces it"
        )
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    print(f"error: {message}", file=sys.stderr)
    return 1
