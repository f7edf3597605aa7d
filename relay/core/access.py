"""Who may see and do what. Everything that is not allowed here is refused; nothing is decided elsewhere.

Pure: no storage, no clock. A caller that is in no relation to a project gets the same answer as for one that does
not exist (`unknown_project`), so nothing leaks through an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from relay.core.model import BlobRef, Draft, Kind, Role, Scope
from relay.protocol.errors import forbidden, unknown_project, unknown_run, unknown_site


class Right(Enum):
    """What a credential may be used for at all, whatever its site's role allows."""

    READ = "connect, or read"
    ACT = "change anything, or acknowledge"
    PUBLISH = "publish, or upload"
    METRICS = "read the metrics"


SITES_RIGHTS = frozenset({Right.READ, Right.ACT, Right.PUBLISH})
"""Of a key, of a password, and of a token that was made without a word about it."""

_SCOPES: Mapping[Scope, frozenset[Right]] = {
    Scope.CONNECT: frozenset({Right.READ, Right.ACT}),
    Scope.PUBLISH: frozenset({Right.PUBLISH}),
    Scope.READ_ONLY: frozenset({Right.READ}),
    Scope.METRICS: frozenset({Right.METRICS}),
}


def rights_of(scopes: Iterable[Scope]) -> frozenset[Right]:
    """What a token of these scopes may be used for."""
    return frozenset(right for scope in scopes for right in _SCOPES[scope])


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who asks. `sites` are the ids of the sites that it acts for: one for a session, all of its own for a user."""

    user_id: int
    sites: frozenset[int]
    is_operator: bool = False
    name: str = ""
    site_uid: str = ""
    """Of the site, for a principal that is one."""
    is_local: bool = False
    """At the relay's own command line; `name` is the operating system's."""
    rights: frozenset[Right] = SITES_RIGHTS

    @property
    def takes_part(self) -> bool:
        """Whether it can do the site's part, so that the site counts as online by it. Who only looks on cannot."""
        return Right.ACT in self.rights

    def acts_for(self, site_id: int) -> bool:
        return self.is_operator or site_id in self.sites

    @property
    def actor(self) -> str:
        """Its name in the audit record."""
        if self.is_local:
            return f"shell:{self.name}"
        return f"site:{self.site_uid}" if self.site_uid else f"user:{self.name}"

    @property
    def viewer(self) -> int | None:
        """The user with whose eyes lists are read; None sees everything. Only for a principal that is a user."""
        return None if self.is_operator else self.user_id


class Member(Protocol):
    """What the rules need to know of a participation."""

    @property
    def site_id(self) -> int: ...
    @property
    def role(self) -> Role: ...


class Action(Enum):
    SEE_PROJECT = auto()
    CHANGE_PROJECT = auto()
    MANAGE_MEMBERS = auto()
    CONTROL_BATCH = auto()
    SEE_ALL_RUNS = auto()
    PUBLISH = auto()
    COMMAND = auto()


_ROLES: Mapping[Action, frozenset[Role]] = {
    Action.SEE_PROJECT: frozenset({Role.COORDINATOR, Role.PARTICIPANT}),
    Action.CHANGE_PROJECT: frozenset({Role.COORDINATOR}),
    Action.MANAGE_MEMBERS: frozenset({Role.COORDINATOR}),
    Action.CONTROL_BATCH: frozenset({Role.COORDINATOR}),
    Action.SEE_ALL_RUNS: frozenset({Role.COORDINATOR}),
    Action.PUBLISH: frozenset({Role.COORDINATOR, Role.PARTICIPANT}),
    Action.COMMAND: frozenset({Role.COORDINATOR}),
}
"""Action → the roles that may. An operator may all of them but PUBLISH and COMMAND: it has no part in a training."""

_OPERATOR_MAY = frozenset(Action) - {Action.PUBLISH, Action.COMMAND}


def roles_of(principal: Principal, members: Iterable[Member]) -> frozenset[Role]:
    """The roles that the principal's sites have in a project; empty if none takes part."""
    return frozenset(member.role for member in members if member.site_id in principal.sites)


def may(principal: Principal, action: Action, members: Iterable[Member]) -> bool:
    """Whether the principal may, given the project's members."""
    if principal.is_operator and action in _OPERATOR_MAY:
        return True
    return bool(_ROLES[action] & roles_of(principal, members))


def require(principal: Principal, action: Action, members: Iterable[Member]) -> None:
    """Refuse what the principal may not.

    Raises:
        ReplyError: `unknown_project` if it has no part in the project, `forbidden` if its role does not allow it.
    """
    members = list(members)
    if may(principal, action, members):
        return
    if not may(principal, Action.SEE_PROJECT, members):
        raise unknown_project()
    raise forbidden(f"only the coordinator may {action.name.lower().replace('_', ' ')}")


def require_right(principal: Principal, right: Right) -> None:
    """Refuse what the credential was not made for.

    Raises:
        ReplyError: `forbidden`.
    """
    if right not in principal.rights:
        raise forbidden(f"the token's scope does not allow to {right.value}")


def require_site(principal: Principal, site_id: int) -> None:
    """Refuse to act for a site that is not the principal's.

    Raises:
        ReplyError: `unknown_site`, the same as for one that does not exist.
    """
    if not principal.acts_for(site_id):
        raise unknown_site()


def require_operator(principal: Principal) -> None:
    """Refuse everybody but operators.

    Raises:
        ReplyError: `forbidden`.
    """
    if not principal.is_operator:
        raise forbidden("this is for operators only")


def may_see_run(principal: Principal, run_site_id: int, members: Iterable[Member]) -> bool:
    """A participant sees its own run, a coordinator all of the project, an operator all."""
    return principal.acts_for(run_site_id) or may(principal, Action.SEE_ALL_RUNS, members)


def require_own_run(principal: Principal, run_site_id: int, members: Iterable[Member]) -> None:
    """Refuse to change a run that is another site's, by itself (a batch is another matter).

    Raises:
        ReplyError: `forbidden` if the principal may see it, `unknown_run` otherwise.
    """
    if principal.acts_for(run_site_id):
        return
    if may_see_run(principal, run_site_id, members):
        raise forbidden("a run is moved by its own site; a coordinator moves the whole batch (update_all)")
    raise unknown_run()


def may_see_member(principal: Principal, member: Member, members: Iterable[Member]) -> bool:
    """A coordinator sees all members, a participant itself and the coordinator, an operator all."""
    members = list(members)
    if may(principal, Action.SEE_ALL_RUNS, members) or principal.acts_for(member.site_id):
        return True
    return member.role is Role.COORDINATOR and may(principal, Action.SEE_PROJECT, members)


def sees(site_id: int, role: Role, event: Draft) -> bool:
    """Whether a member may be shown an event (protocol, section 6).

    A coordinator sees all of the project. A participant sees what goes to everybody, what names it among its
    addressees, and what it sent itself.
    """
    if role is Role.COORDINATOR:
        return True
    return event.audience is None or site_id in event.audience or event.sender_id == site_id


def reads_blob(member: Member, joined: int, uploader: int | None, refs: Iterable[BlobRef]) -> bool:
    """Whether a member may read a blob of its project: its uploader, and whoever sees an event that refers to it.

    Args:
        joined: the offset from which on the member sees events.
        uploader: the site that uploaded it, if there still is one.
    """
    if uploader is not None and member.site_id == uploader:
        return True
    return any(
        member.role is Role.COORDINATOR
        or (ref.position > joined and (ref.audience is None or member.site_id in ref.audience))
        for ref in refs
    )


def sees_presence_of(role: Role, other: Role) -> bool:
    """A coordinator sees who is online of all; a participant sees the coordinator's presence."""
    return role is Role.COORDINATOR or other is Role.COORDINATOR


def require_publish(role: Role, kind: Kind) -> None:
    """Refuse a kind of event that the role may not send.

    Raises:
        ReplyError: `forbidden`.
    """
    action = Action.COMMAND if kind is Kind.COMMAND else Action.PUBLISH
    if role not in _ROLES[action]:
        raise forbidden(f"a {role.display} may not send a {kind}; only the coordinator may")
