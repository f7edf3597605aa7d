"""What `createsuperuser` and `user` do: who may change what, and who owns sites."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os

from rich.table import Table

from relay.cli.run import open_store, show
from relay.cli.words import action, actions, command
from relay.core import accounts
from relay.core.model import rfc3339
from relay.core.node import Node
from relay.core.passwords import hash_now
from relay.protocol.errors import invalid

_NO_INPUT = "take the password from $STARFISH_USER_PASSWORD"


def add_createsuperuser(parser: argparse.ArgumentParser) -> None:
    command(parser, create_superuser, "starfish-relay createsuperuser --username root")
    parser.add_argument("--username", metavar="U", required=True)
    parser.add_argument("--email", metavar="E", default="")
    parser.add_argument("--no-input", action="store_true", help="take the password from $STARFISH_SUPERUSER_PASSWORD")


def add_user(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    create = action(among, "create", create_user, "make a user, who owns sites", "starfish-relay user create anna")
    create.add_argument("username", metavar="NAME")
    create.add_argument("--email", metavar="E", default="")
    create.add_argument("--no-input", action="store_true", help=_NO_INPUT)
    passwd = action(
        among,
        "passwd",
        change_password,
        "give a user another password (asks for it)",
        "starfish-relay user passwd anna",
    )
    passwd.add_argument("username", metavar="NAME")
    passwd.add_argument("--no-input", action="store_true", help=_NO_INPUT)
    enable = action(
        among,
        "enable",
        enable_user,
        "let a disabled user and its sites in again",
        "starfish-relay user enable anna",
    )
    enable.add_argument("username", metavar="NAME")
    action(
        among,
        "list",
        list_users,
        "list users, operators too, and how many sites each has",
        "starfish-relay user list",
    )
    disable = action(
        among, "disable", disable_user, "refuse a user and its sites from now on", "starfish-relay user disable anna"
    )
    disable.add_argument("username", metavar="NAME")


def create_superuser(options: argparse.Namespace) -> int:
    return _create_user(options, "STARFISH_SUPERUSER_PASSWORD", is_operator=True)


def create_user(options: argparse.Namespace) -> int:
    return _create_user(options, "STARFISH_USER_PASSWORD", is_operator=False)


def _create_user(options: argparse.Namespace, variable: str, *, is_operator: bool) -> int:
    accounts.check_username(options.username)
    password = _password(options.no_input, variable)
    accounts.check_password(password, options.username)
    password_hash = hash_now(password)

    async def run() -> int:
        async with open_store(options) as store:
            user = await accounts.create_user(
                store,
                username=options.username,
                email=options.email,
                password_hash=password_hash,
                is_operator=is_operator,
                now_us=Node.now_us(),
            )
        print(f"created {'operator' if is_operator else 'user'} {user.username}")
        return 0

    return asyncio.run(run())


def _password(no_input: bool, variable: str) -> str:
    if no_input:
        password = os.environ.get(variable, "")
        if not password:
            raise invalid(**{variable: "with --no-input the password is expected in this variable"})
        return password
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise invalid(password="the two are not the same")  # noqa: S106 - a reason
    return password


def disable_user(options: argparse.Namespace) -> int:
    return _set_active(options, False, f"disabled {options.username}; its sites' sessions are being closed")


def enable_user(options: argparse.Namespace) -> int:
    return _set_active(options, True, f"enabled {options.username}")


def _set_active(options: argparse.Namespace, active: bool, said: str) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            await accounts.set_active(store, options.username, active=active, now_us=Node.now_us())
        print(said)
        return 0

    return asyncio.run(run())


def change_password(options: argparse.Namespace) -> int:
    password = _password(options.no_input, "STARFISH_USER_PASSWORD")
    accounts.check_password(password, options.username)
    password_hash = hash_now(password)

    async def run() -> int:
        async with open_store(options) as store:
            await accounts.set_password(store, options.username, password_hash, Node.now_us())
        print(f"changed the password of {options.username}")
        return 0

    return asyncio.run(run())


def list_users(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store:
            users = await accounts.list_users(store)
        table = Table("name", "email", "role", "sites", "created", "state")
        for user, sites in users:
            role = "operator" if user.is_operator else "user"
            state = "active" if user.is_active else "disabled"
            created = rfc3339(user.created_us)[:19] + "Z"
            table.add_row(user.username, user.email, role, str(sites), created, state)
        show(table)
        return 0

    return asyncio.run(run())
