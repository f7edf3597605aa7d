"""What commands share that a site runs: they need the client alone. What goes wrong is told in words."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from typing import Any

from relay.client import (
    Forbidden,
    InUse,
    NotConnected,
    SessionEnded,
    SourceChanged,
    Unauthenticated,
    UnknownSite,
)

TEMPORARY = 75
INTERRUPTED = 130
GOES_ON = "goes on where this one was"
SEALED = b"SFS1"
"""What a sealed payload begins with: `relay.client.sealed.envelope`, which may not be installed."""
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (Unauthenticated, "STARFISH_TOKEN is wrong, expired or revoked; `starfish-relay token create` makes another"),
    (Forbidden, "is the token's site there, its user enabled, and has the token the scope connect?"),
    (UnknownSite, "is there a relay at this URL?"),
    (InUse, "wait for the other one, or end it"),
    (SourceChanged, "nothing was published: once it is written, send it again"),
    (SessionEnded, f"the same command {GOES_ON}"),
)


class Wrong(Exception):
    """What was asked for cannot be done. `hint`: what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The words that say which relay, and who asks."""
    parser.add_argument(
        "--url", metavar="URL", help="the relay's, such as https://relay.example; default: $STARFISH_URL"
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        help="PEM file of the authority that has signed the relay's certificate, if of one's own",
    )
    parser.add_argument(
        "--cert", metavar="FILE", help="PEM file of the client certificate that the site is bound to, if it is"
    )
    parser.add_argument("--key", metavar="FILE", help="PEM file of its key, unless it is in the same file")
    parser.add_argument(
        "--identity",
        metavar="FILE",
        default=os.environ.get("STARFISH_IDENTITY"),
        help="the key file of a site that seals its payloads; default: $STARFISH_IDENTITY, or nothing is sealed",
    )


def url_and_token(options: argparse.Namespace) -> tuple[str, str]:
    """Raises `Wrong`: one of them is missing."""
    url, token = options.url or os.environ.get("STARFISH_URL"), os.environ.get("STARFISH_TOKEN", "").strip()
    if not url:
        raise Wrong("which relay?", "give --url https://relay.example, or set STARFISH_URL")
    if not token:
        raise Wrong("STARFISH_TOKEN is not set", "it is what `starfish-relay token create --site UID` prints")
    return url, token


def tls_of(options: argparse.Namespace) -> ssl.SSLContext | None:
    """What trusts the authority of `--ca` and no other, or else those that the machine trusts, and shows `--cert`.

    None for the machine's, and nothing to show.

    Raises:
        Wrong: a file cannot be read, or is not what it should be.
    """
    if options.key and not options.cert:
        raise Wrong("--key without --cert", "give the certificate that it belongs to")
    if options.ca is None and options.cert is None:
        return None
    given = f"--ca {options.ca}"
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert:
            given = f"--cert {options.cert}" + (f" --key {options.key}" if options.key else "")
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:  # an SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "no PEM certificate"
        raise Wrong(f"{given}: {reason}") from None
    return context


def identity_of(path: str) -> Any:
    """Raises `Wrong`: what it takes is not installed."""
    try:
        from relay.client.sealed import Identity
    except ModuleNotFoundError as missing:
        raise Wrong(f"{missing.name} is not installed", "pip install 'starfish-relay[e2e]'") from None
    return Identity.load(path)


def told(error: Exception) -> int:
    """Say what went wrong; the exit status."""
    if isinstance(error, Wrong):
        return fail(str(error), error.hint)
    if isinstance(error, NotConnected):
        fail(f"the relay was not reached: {error}", "is the URL right, and the relay up? Then call it again")
        return TEMPORARY
    if isinstance(error, OSError):
        return fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return fail(str(error), hint_for(error))


def hint_for(error: Exception) -> str:
    return next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")


def fail(what: str, hint: str = "") -> int:
    print(f"error: {what}" + (f"\n       {hint}" if hint else ""), file=sys.stderr)
    return 1
