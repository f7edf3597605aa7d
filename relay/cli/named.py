"""What people name on the command line: a project by its id or name, a site by its uid or name, a user by its name."""

from __future__ import annotations

from relay.core.model import Project, Run, Site, User
from relay.core.ports import Tx
from relay.protocol.errors import ErrorCode, ReplyError


async def project_named(tx: Tx, given: str) -> Project:
    """Raises `ReplyError` with `unknown_project`."""
    project = await tx.projects.get(int(given)) if _is_id(given) else None
    project = project or await tx.projects.by_name(given)
    if project is None:
        raise _absent(ErrorCode.UNKNOWN_PROJECT, "project", given)
    return project


async def site_named(tx: Tx, given: str) -> Site:
    """Raises `ReplyError` with `unknown_site`."""
    site = await tx.sites.by_uid(given.lower()) or await tx.sites.by_name(given)
    if site is None:
        raise _absent(ErrorCode.UNKNOWN_SITE, "site", given)
    return site


async def user_named(tx: Tx, given: str) -> User:
    """Raises `ReplyError` with `invalid`."""
    user = await tx.users.by_name(given)
    if user is None:
        raise _absent(ErrorCode.INVALID, "user", given)
    return user


async def run_numbered(tx: Tx, given: str) -> Run:
    """Raises `ReplyError` with `unknown_run`."""
    run = await tx.runs.get(int(given)) if _is_id(given) else None
    if run is None:
        raise _absent(ErrorCode.UNKNOWN_RUN, "run", given)
    return run


def _is_id(given: str) -> bool:
    return given.isascii() and given.isdecimal() and len(given) < 19 and int(given) > 0


def _absent(code: ErrorCode, what: str, given: str) -> ReplyError:
    return ReplyError(code, f"there is no {what} {given[:100]!r}; `starfish-relay {what} list` has them")
