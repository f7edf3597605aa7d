"""What the commands of `token` do."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from rich.table import Column, Table

from relay.cli.run import fail, open_store, seconds, settings_of, show
from relay.cli.words import action, actions
from relay.core import accounts
from relay.core.model import DEFAULT_SCOPES, Scope, rfc3339
from relay.core.node import Node

_UID = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01"


def add_token(parser: argparse.ArgumentParser) -> None:
    among = actions(parser)
    _add_create(among)
    listing = action(
        among, "list", list_tokens, "list tokens, never their secrets", f"starfish-relay token list --site {_UID}"
    )
    listing.add_argument("--site", metavar="UID", help="of this site only")
    revoke = action(
        among,
        "revoke",
        revoke_token,
        "revoke a token; its open sessions are closed within 2 s",
        "starfish-relay token revoke 5f2c9a1e77b0      its id, as `token list` shows it",
    )
    revoke.add_argument("token", metavar="TOKEN_OR_ID")


def _add_create(among: Any) -> None:
    create = action(
        among,
        "create",
        create_token,
        "make a token for a site and print it, this once",
        f"starfish-relay token create --site {_UID} --label controller --expires-in 90d\n"
        f"starfish-relay token create --site {_UID} --scope read-only",
    )
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


def create_token(options: argparse.Namespace) -> int:
    now_us = Node.now_us()
    given = options.expires_in
    life_s = settings_of(options).token_lifetime_s if given is None else 0 if given == "never" else seconds(given)
    expires_us = now_us + int(life_s * 1e6) if life_s else None
    scopes = [Scope(name) for name in options.scope] or DEFAULT_SCOPES

    async def run() -> int:
        async with open_store(options) as store:
            _, secret = await accounts.create_token(
                store,
                site_uid=options.site,
                label=options.label,
                expires_us=expires_us,
                now_us=now_us,
                scopes=scopes,
            )
        print(secret)
        return 0

    return asyncio.run(run())


def list_tokens(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options, changes=False) as store:
            tokens = await accounts.list_tokens(store, options.site)
        table = Table("id", "site", Column("uid", no_wrap=True), "label", "scopes", "created", "expires", "state")
        for token, site in tokens:
            expired = token.expires_us is not None and token.expires_us <= Node.now_us()
            state = "revoked" if token.revoked_us is not None else "expired" if expired else "good"
            expires = "never" if token.expires_us is None else rfc3339(token.expires_us)[:19] + "Z"
            created = rfc3339(token.created_us)[:19] + "Z"
            scopes = ", ".join(token.scopes)
            table.add_row(token.id, site.name, site.uid, token.label, scopes, created, expires, state)
        show(table)
        return 0

    return asyncio.run(run())


def revoke_token(options: argparse.Namespace) -> int:
    async def run() -> int:
        async with open_store(options) as store:
            done = await accounts.revoke_token(store, options.token, Node.now_us())
        if not done:
            return fail("no such token, or it was revoked before", "`starfish-relay token list` has the ids")
        print("revoked")
        return 0

    return asyncio.run(run())
