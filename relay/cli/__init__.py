"""`starfish-relay`: the command line. Its parser is here; what a command does is in the module of its name.

0   done
1   refused, or something is wrong: the message says what, and what to do
2   the words of the call are off
75  (`send`, `fetch`) the relay was not reached in time
130 interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_EPILOG = """\
a first session:
  starfish-relay serve                                          serve on http://127.0.0.1:8000, SQLite in ./data
  starfish-relay user create anna                               a user, who owns sites (asks for a password)
  starfish-relay site create --owner anna --name "St. Anna"     a site; prints its uid
  starfish-relay token create --site UID                        what the site's controller connects with; shown once
  starfish-relay demo                                           or see it all at work, on real data

Settings come from the environment and from .env; `starfish-relay check-config` lists them. All commands but `serve` may
be run while the relay serves, and take effect there.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    module, _, name = str(options.run).rpartition(".")
    if module in ("identities", "transfers"):
        return _of_the_client(module, name, options)
    try:
        from relay.cli import run

        commands = import_module(f"relay.cli.{module}") if module else run
    except ModuleNotFoundError as missing:
        print(
            f"error: {missing.name} is not installed, so this is the client alone.\n"
            "       To run a relay: pip install 'starfish-relay[server]'",
            file=sys.stderr,
        )
        return 1
    command: Callable[[argparse.Namespace], int] = getattr(commands, name)
    return run.guarded(command, options)


def _of_the_client(module: str, name: str, options: argparse.Namespace) -> int:
    """A command that a site can run, which has no server installed."""
    try:
        commands = import_module(f"relay.cli.{module}")
    except ModuleNotFoundError as missing:
        print(f"error: {missing.name} is not installed: pip install 'starfish-relay[e2e]'", file=sys.stderr)
        return 1
    return int(commands.guarded(name, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starfish-relay",
        description="A WebSocket push relay for federated learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    storage = _storage_options()
    _add_serving(commands, storage)
    _add_people(commands, storage)
    _add_sites(commands, storage)
    _add_journals(commands, storage)
    _add_blobs(commands, storage)
    _add_audit(commands, storage)
    _add_identities(commands)
    _add_transfers(commands)
    _add_others(commands, storage)
    return parser


def _storage_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    group = options.add_argument_group("where the data is")
    group.add_argument(
        "--database-url", metavar="URL", help="sqlite:///file or postgresql://… (default: $DATABASE_URL)"
    )
    group.add_argument("--data-dir", metavar="DIR", type=Path, help="default: $STARFISH_DATA_DIR, or ./data")
    return options


def _add(commands: Any, name: str, run: str, help_: str, parents: Sequence[argparse.ArgumentParser] = ()) -> Any:
    parser = commands.add_parser(
        name, help=help_, description=help_[0].upper() + help_[1:] + ".", parents=list(parents)
    )
    parser.set_defaults(run=run)
    return parser


def _add_serving(commands: Any, storage: argparse.ArgumentParser) -> None:
    serve = _add(commands, "serve", "serve", "serve until SIGTERM or Ctrl-C", [storage])
    serve.add_argument("--host", metavar="H", help="default: $STARFISH_HOST, or 127.0.0.1")
    serve.add_argument("--port", metavar="P", type=int, help="default: $STARFISH_PORT, or 8000")
    serve.add_argument(
        "--migrate", action="store_true", default=None, help="bring an old PostgreSQL schema up to date first"
    )
    _add(commands, "migrate", "migrate", "bring the database's schema up to date", [storage])
    _add(
        commands,
        "check-config",
        "check_config",
        "list the settings, what they are now, and what is wrong with them",
        [storage],
    )
    _add(commands, "version", "version", "print the version")


def _add_people(commands: Any, storage: argparse.ArgumentParser) -> None:
    superuser = _add(
        commands, "createsuperuser", "create_superuser", "make an operator, who sees and may change all", [storage]
    )
    superuser.add_argument("--username", metavar="U", required=True)
    superuser.add_argument("--email", metavar="E", default="")
    superuser.add_argument(
        "--no-input", action="store_true", help="take the password from $STARFISH_SUPERUSER_PASSWORD"
    )
    user = commands.add_parser("user", help="users, who own sites").add_subparsers(required=True, metavar="ACTION")
    create = _add(user, "create", "create_user", "make a user, who owns sites", [storage])
    create.add_argument("username", metavar="NAME")
    create.add_argument("--email", metavar="E", default="")
    create.add_argument("--no-input", action="store_true", help="take the password from $STARFISH_USER_PASSWORD")
    passwd = _add(user, "passwd", "change_password", "give a user another password (asks for it)", [storage])
    passwd.add_argument("username", metavar="NAME")
    passwd.add_argument("--no-input", action="store_true", help="take the password from $STARFISH_USER_PASSWORD")
    enable = _add(user, "enable", "enable_user", "let a disabled user and its sites in again", [storage])
    enable.add_argument("username", metavar="NAME")
    _add(user, "list", "list_users", "list users, operators too, and how many sites each has", [storage])
    disable = _add(user, "disable", "disable_user", "refuse a user and its sites from now on", [storage])
    disable.add_argument("username", metavar="NAME")


def _add_sites(commands: Any, storage: argparse.ArgumentParser) -> None:
    site = commands.add_parser("site", help="sites: the hospitals and labs").add_subparsers(
        required=True, metavar="ACTION"
    )
    create = _add(site, "create", "create_site", "make a site and print its uid", [storage])
    create.add_argument("--owner", metavar="NAME", required=True, help="the user that the site belongs to")
    create.add_argument("--name", metavar="N", required=True, help="unique, at most 100 characters")
    create.add_argument("--description", metavar="D", default="")
    create.add_argument("--uid", metavar="UID", help="a UUID; made if left out")
    token = commands.add_parser("token", help="what sites connect with").add_subparsers(required=True, metavar="ACTION")
    create = _add(token, "create", "create_token", "make a token for a site and print it, this once", [storage])
    create.add_argument("--site", metavar="UID", required=True)
    create.add_argument("--label", metavar="L", default="", help="what it is for, to tell tokens apart")
    create.add_argument(
        "--expires-in",
        metavar="TIME",
        help="such as 12h or 90d, or never; default: $STARFISH_TOKEN_LIFETIME_S, or never",
    )
    create.add_argument(
        "--scope",
        metavar="SCOPE",
        action="append",
        default=[],
        choices=["connect", "publish", "read-only", "metrics"],
        help="what it may be used for; may be repeated (default: connect and publish). connect: everything but to "
        "publish and to upload; publish: that alone, over HTTP; read-only: to look on; metrics: GET /metrics",
    )
    listing = _add(token, "list", "list_tokens", "list tokens, never their secrets", [storage])
    listing.add_argument("--site", metavar="UID", help="of this site only")
    revoke = _add(token, "revoke", "revoke_token", "revoke a token; its open sessions are closed within 2 s", [storage])
    revoke.add_argument("token", metavar="TOKEN_OR_ID")
    _add_site_keys(commands, storage)


def _add_site_keys(commands: Any, storage: argparse.ArgumentParser) -> None:
    key = commands.add_parser("site-key", help="public keys that sites sign in with, in the place of tokens")
    actions = key.add_subparsers(required=True, metavar="ACTION")
    add = _add(actions, "add", "site_keys.add", "register a site's public key and print its id", [storage])
    add.add_argument("--site", metavar="UID", required=True)
    add.add_argument("--label", metavar="L", default="", help="what it is for, to tell keys apart")
    add.add_argument("key", metavar="KEY", help="Ed25519: a PEM file, - for standard input, or its 32 bytes in base64")
    listing = _add(actions, "list", "site_keys.list_keys", "list keys, and when each was last used", [storage])
    listing.add_argument("--site", metavar="UID", help="of this site only")
    revoke = _add(
        actions, "revoke", "site_keys.revoke", "revoke a key; the sessions it began are closed within 2 s", [storage]
    )
    revoke.add_argument("key", metavar="ID")


def _add_blobs(commands: Any, storage: argparse.ArgumentParser) -> None:
    actions = commands.add_parser("blobs", help="blobs: large payloads").add_subparsers(required=True, metavar="ACTION")
    _add(
        actions,
        "gc",
        "blobs.collect",
        "remove what has expired, what nothing refers to, and files of no blob",
        [storage],
    )
    check = _add(
        actions, "fsck", "blobs.check", "say what database and disk disagree on; 1 if bytes are lost", [storage]
    )
    check.add_argument("--quick", action="store_true", help="look at sizes only; do not read all bytes")


def _add_journals(commands: Any, storage: argparse.ArgumentParser) -> None:
    journal = commands.add_parser("journal", help="journals: what is kept of what was sent")
    actions = journal.add_subparsers(required=True, metavar="ACTION")
    _add(
        actions,
        "list",
        "journals.list_journals",
        "list journals, and who has not acknowledged what they keep",
        [storage],
    )
    keep = _add(actions, "keep", "journals.keep", "give a project's journal limits of its own", [storage])
    keep.add_argument("project", metavar="PROJECT", type=int, help="the project's id")
    keep.add_argument("--age", metavar="TIME", default="default", help="such as 30d; or all; default: the settings'")
    keep.add_argument("--size", metavar="BYTES", default="default", help="such as 2G; or all; default: the settings'")


def _add_audit(commands: Any, storage: argparse.ArgumentParser) -> None:
    audit = commands.add_parser("audit", help="the audit record: who did what, when and from where")
    actions = audit.add_subparsers(required=True, metavar="ACTION")
    tail = _add(actions, "tail", "audits.tail", "show the newest entries, the last one at the end", [storage])
    tail.add_argument("--follow", action="store_true", help="go on with those that come, until Ctrl-C")
    tail.add_argument("--lines", metavar="N", type=int, default=20, help="how many (default: 20)")
    export = _add(
        actions, "export", "audits.export", "write entries to standard output, one JSON object a line", [storage]
    )
    export.add_argument(
        "--since", metavar="TIME", help="such as 2026-01-31, 2026-01-31T08:00:00Z, or 90d for back then"
    )
    verify = _add(
        actions, "verify", "audits.verify", "check that no entry was edited, removed or moved; 1 if one was", [storage]
    )
    verify.add_argument(
        "--anchor",
        metavar="SEQ:HASH",
        action="append",
        default=[],
        help="an entry's number and hash, known from elsewhere (`audit_head` in /health); may be repeated",
    )


def _add_identities(commands: Any) -> None:
    keys = commands.add_parser(
        "keys",
        help="a site's identity, by which payloads are sealed, and whom it trusts (on the site's machine)",
        description="A site's identity, and whom it trusts. Fingerprints are to be compared by telephone.",
    )
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--identity",
        metavar="FILE",
        default=os.environ.get("STARFISH_IDENTITY", "identity"),
        help="the key file (default: $STARFISH_IDENTITY, or ./identity); whom it trusts is in FILE.trust",
    )
    _add(actions, "new", "identities.new", "make an identity and print its fingerprint", [which])
    shown = _add(actions, "fingerprint", "identities.fingerprint", "print the fingerprint of this site's key", [which])
    shown.add_argument("site", metavar="UID", nargs="?", help="or of the key that is trusted to be that site's")
    _add(
        actions, "list", "identities.list_sites", "list whose keys are trusted, since when, and how they came", [which]
    )
    trust = _add(actions, "trust", "identities.trust", "trust a site's key, as its people have read it out", [which])
    trust.add_argument("site", metavar="UID")
    trust.add_argument("fingerprint", metavar="FINGERPRINT", nargs="+", help="40 digits; spaces do not matter")
    trust.add_argument("--coordinates", metavar="PROJECT", type=int, help="and that it coordinates this project now")
    _add(actions, "rotate", "identities.rotate", "replace the keys by new ones, which the old ones sign for", [which])


_TRANSFERS_EPILOG = """\
The site's token is taken from $STARFISH_TOKEN, never from the command line, which other users of a machine can read.
SSL_CERT_FILE names a certificate authority of one's own. Broken off, by Ctrl-C too, the same command goes on where it
was. Exit status: 0 done, 1 refused or wrong, 2 the words of the call, 75 the relay was not reached, 130 interrupted.

  export STARFISH_URL=https://relay.example STARFISH_TOKEN=sfr_…
  starfish-relay send weights.bin --project 12                  prints the offset, say 7
  starfish-relay fetch --project 12 --offset 7 -o weights.bin   at another site
"""


def _add_transfers(commands: Any) -> None:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--project", metavar="ID", type=_positive, required=True)
    where.add_argument(
        "--url", metavar="URL", help="the relay's, such as https://relay.example; default: $STARFISH_URL"
    )
    where.add_argument(
        "--identity",
        metavar="FILE",
        default=os.environ.get("STARFISH_IDENTITY"),
        help="the key file of a site that seals its payloads; default: $STARFISH_IDENTITY, or nothing is sealed",
    )
    send = _add(commands, "send", "transfers.send", "send a file to other sites, and print its offset", [where])
    send.add_argument("file", metavar="FILE", type=Path)
    send.add_argument("--run", metavar="N", type=_positive, dest="run_id", help="the run that it belongs to")
    send.add_argument(
        "--to",
        metavar="UID",
        action="append",
        default=[],
        help="a site, or participants, or coordinator; may be repeated (default: a coordinator sends to the "
        "participants, a participant to the coordinator)",
    )
    send.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="where to note how far it is, if not beside the file (files of up to 1 MiB, and sealed ones, begin anew)",
    )
    fetch = _add(commands, "fetch", "transfers.fetch", "fetch a file that another site has sent", [where])
    fetch.add_argument("--offset", metavar="N", type=_positive, required=True, help="as `send` has printed it")
    fetch.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a file or directory; default: payload-PROJECT-OFFSET"
    )
    for parser in (send, fetch):
        parser.epilog, parser.formatter_class = _TRANSFERS_EPILOG, argparse.RawDescriptionHelpFormatter


def _positive(given: str) -> int:
    if not given.isdecimal() or not 1 <= int(given) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {given[:40]!r}")
    return int(given)


def _add_others(commands: Any, storage: argparse.ArgumentParser) -> None:
    job = _add(commands, "runjob", "run_job", "run one of the old router's jobs", [storage])
    job.add_argument(
        "job", choices=["check_site_status"], help="check_site_status: list the sites and who is connected"
    )
    demo = _add(commands, "demo", "demo", "train a model on real data through a relay, with sites as processes")
    demo.add_argument("--rounds", metavar="N", type=int, default=5, help="rounds of federated averaging (default: 5)")
    demo.add_argument("--plain", action="store_true", help="seal nothing: the relay can then read what the sites send")
    demo.add_argument("--json", action="store_true", help="end with one line of JSON")
