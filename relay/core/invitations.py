"""Invitations: codes that a coordinator makes for one site each, hands on by whatever way it trusts, and can take back.

A code has 192 random bits. It is shown once, when it is made; stored is its SHA-256.
"""

from __future__ import annotations

import secrets

from relay.core import access
from relay.core.access import Action, Principal
from relay.core.accounts import digest_of
from relay.core.admission_ports import Invitation
from relay.core.audit_chain import Deed
from relay.core.node import Node
from relay.protocol.errors import ErrorCode, ReplyError, invalid

PREFIX = "sfi_"
OPEN = 200
"""Codes of a project that are good at once."""
SHOWN = 1000
KEPT_S = 90 * 86400
"""How long an invitation is listed after it has expired."""


async def create(
    node: Node, principal: Principal, project_id: int, *, label: str, expires_s: float
) -> tuple[Invitation, str]:
    """Make a code. Returns its record and the code itself, which is nowhere else.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `conflict`, with as many open ones as there may be.
    """
    code = PREFIX + secrets.token_urlsafe(24)
    async with node.change(project_id) as change:
        change.note(Deed.INVITATION_CREATE, principal, f"project:{project_id}", label=label)
        access.require(principal, Action.MANAGE_MEMBERS, await change.tx.participants.of_project(project_id))
        invitations = change.tx.invitations
        await invitations.purge(project_id, change.now_us - KEPT_S * 1_000_000)
        if await invitations.count_open(project_id, change.now_us) >= OPEN:
            raise ReplyError(
                ErrorCode.CONFLICT, f"a project has at most {OPEN} open invitations; revoke one", {"limit": OPEN}
            )
        invitation = await invitations.create(
            project_id=project_id,
            digest=digest_of(code),
            label=label,
            now_us=change.now_us,
            expires_us=change.now_us + int(expires_s * 1_000_000),
        )
    return invitation, code


async def listing(node: Node, principal: Principal, project_id: int) -> list[Invitation]:
    """The project's invitations, by age, without their codes; for the coordinator and operators.

    Raises:
        ReplyError: `unknown_project`, `forbidden`.
    """
    async with node.store.snapshot() as tx:
        access.require(principal, Action.MANAGE_MEMBERS, await tx.participants.of_project(project_id))
        return await tx.invitations.of_project(project_id, limit=SHOWN)


async def revoke(node: Node, principal: Principal, project_id: int, invitation_id: int) -> None:
    """Take a code back, before it is used. Again: nothing.

    Raises:
        ReplyError: `unknown_project`; `forbidden`; `invalid`, if the project has no such invitation, or it was used.
    """
    async with node.change(project_id) as change:
        change.note(Deed.INVITATION_REVOKE, principal, f"project:{project_id}", invitation=invitation_id)
        access.require(principal, Action.MANAGE_MEMBERS, await change.tx.participants.of_project(project_id))
        if not await change.tx.invitations.revoke(project_id, invitation_id, change.now_us):
            raise invalid(invitation="none of this project, or it was used: then remove the site that it let in")
