"""`starfish-relay`: the command line. Here is the list of its commands; each has a module, which knows its words and
what it does, and which is imported when the command is called: what one call does not need, it does not load.

0   done
1   refused, or something is wrong: the message says what, and what to do
2   the words of the call are off
75  (`send`, `fetch`, `logs`) the relay was not reached in time
130 interrupted
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from relay import __version__
from relay.cli import words

_EPILOG = """\
a first session:
  starfish-relay serve                                          serve on http://127.0.0.1:8000, SQLite in ./data
  starfish-relay user create anna                               a user, who owns sites (asks for a password)
  starfish-relay site create --owner anna --name "St. Anna"     a site; prints its uid
  starfish-relay token create --site UID                        what the site's controller connects with; shown once
  starfish-relay demo                                           or see it all at work, on real data

Settings come from the environment and from .env; `starfish-relay check-config` lists them. All commands but `serve` may
be run while the relay serves, and take effect there. `starfish-relay COMMAND --help` has an example of each.
"""


class Command(NamedTuple):
    """A command. Its module has `add_NAME(parser)`, `-` being `_`, which adds the words and says what is run."""

    name: str
    module: str
    help: str
    alias: str = ""
    at_site: bool = False
    """A site runs it, which has no server installed: its module says itself what is wrong, by `guarded`."""


COMMANDS = (
    Command("serve", "serving", "serve until SIGTERM or Ctrl-C"),
    Command("migrate", "serving", "bring the database's schema up to date"),
    Command("check-config", "serving", "list the settings, what they are now, and what is wrong with them"),
    Command("doctor", "doctor", "look for what is wrong with the relay and around it, and say what mends it"),
    Command("backup", "backups", "copy all data, as it is at one moment, while the relay serves"),
    Command("restore", "backups", "put a backup back; no relay serves meanwhile"),
    Command("import-starfish", "imports", "take over from the old router: users, sites, projects, runs and files"),
    Command("version", "versions", "print the version", at_site=True),
    Command("status", "statuses", "how a relay is: sites, projects and runs, as they change", at_site=True),
    Command("createsuperuser", "people", "make an operator, who sees and may change all"),
    Command("user", "people", "users, who own sites", "users"),
    Command("site", "sites", "sites: the hospitals and labs", "sites"),
    Command("token", "tokens", "what sites connect with", "tokens"),
    Command("site-key", "site_keys", "public keys that sites sign in with, in the place of tokens", "site-keys"),
    Command("site-cert", "site_certs", "TLS client certificates that sites are bound to", "site-certs"),
    Command("project", "projects", "projects: who trains together, and how it stands", "projects"),
    Command("member", "members", "members: who takes part in a project, asks to, or was removed", "members"),
    Command("run", "runs", "runs: what each site does in a batch; stop and restart", "runs"),
    Command("tail", "tails", "follow a project's journal as it grows"),
    Command("journal", "journals", "journals: what is kept of what was sent", "journals"),
    Command("blobs", "blobs", "blobs: large payloads"),
    Command("audit", "audits", "the audit record: who did what, when and from where"),
    Command(
        "keys",
        "identities",
        "a site's identity, by which payloads are sealed, and whom it trusts (on the site's machine)",
        at_site=True,
    ),
    Command("send", "transfers", "send a file to other sites, and print its offset", at_site=True),
    Command("fetch", "transfers", "fetch a file that another site has sent", at_site=True),
    Command("logs", "logs", "the logs of a training, as a site may see them (with the site's token)", at_site=True),
    Command("runjob", "sites", "run one of the old router's jobs"),
    Command("demo", "demos", "train a model on real data through a relay, with sites as processes"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    called = next((one for one in COMMANDS if given and given[0] in (one.name, one.alias)), None)
    try:
        options = parser(*([called] if called else [])).parse_args(given)
        assert called is not None  # or the parser had refused it
        guarded = _module(called).guarded if called.at_site else import_module("relay.cli.run").guarded
    except ModuleNotFoundError as missing:
        return _say_what_lacks(missing, at_site=called is not None and called.at_site)
    guard: Callable[[words.Run, argparse.Namespace], int] = guarded
    return guard(options.run, options)


def parser(*called: Command) -> argparse.ArgumentParser:
    """The parser of all commands, with the words of those that are `called`.

    Raises:
        ModuleNotFoundError: what one of them needs is not installed.
    """
    tree = argparse.ArgumentParser(
        prog="starfish-relay",
        description="A WebSocket push relay for federated learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tree.add_argument("--version", action="version", version=f"starfish-relay {__version__}")
    branches = tree.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        branch = branches.add_parser(
            command.name,
            help=command.help,
            description=words.sentence(command.help),
            aliases=[command.alias] if command.alias else [],
        )
        if command in called:
            add: Callable[[argparse.ArgumentParser], None] = getattr(
                _module(command), f"add_{command.name.replace('-', '_')}"
            )
            add(branch)
    return tree


def _module(command: Command) -> ModuleType:
    return import_module(f"relay.cli.{command.module}")


def _say_what_lacks(missing: ModuleNotFoundError, *, at_site: bool) -> int:
    if at_site:
        print(f"error: {missing.name} is not installed: pip install 'starfish-relay[e2e]'", file=sys.stderr)
    else:
        print(
            f"error: {missing.name} is not installed, so this is the client alone.\n"
            "       To run a relay: pip install 'starfish-relay[server]'",
            file=sys.stderr,
        )
    return 1
