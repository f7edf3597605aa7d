"""Who may what: every action for every kind of caller, and what each is shown of an event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relay.core import access
from relay.core.access import Action, Principal
from relay.core.hub import Member
from relay.core.model import PUBLISHABLE, Kind, Role
from relay.protocol.errors import ErrorCode, ReplyError
from tests.support.world import draft

COORDINATOR = Member(site_id=1, uid="co", role=Role.COORDINATOR, participant_id=1, joined=0)
PARTICIPANT = Member(site_id=2, uid="pa", role=Role.PARTICIPANT, participant_id=2, joined=0)
OTHER = Member(site_id=3, uid="other", role=Role.PARTICIPANT, participant_id=3, joined=0)
MEMBERS = [COORDINATOR, PARTICIPANT, OTHER]
NOT_A_MEMBER = 9


def principal(*sites: int, operator: bool = False) -> Principal:
    return Principal(user_id=1, sites=frozenset(sites), is_operator=operator)


CALLERS = {
    "coordinator": principal(1),
    "participant": principal(2),
    "both": principal(1, 2),
    "stranger": principal(NOT_A_MEMBER),
    "nobody": principal(),
    "operator": principal(operator=True),
    "operator that coordinates": principal(1, operator=True),
    "operator that takes part": principal(2, operator=True),
}

A = Action
EVERYTHING = set(Action)
ADMINISTRATION = EVERYTHING - {A.PUBLISH, A.COMMAND}
MAY: dict[str, set[Action]] = {
    "coordinator": EVERYTHING,
    "participant": {A.SEE_PROJECT, A.PUBLISH},
    "both": EVERYTHING,
    "stranger": set(),
    "nobody": set(),
    "operator": ADMINISTRATION,
    "operator that coordinates": EVERYTHING,
    "operator that takes part": ADMINISTRATION | {A.PUBLISH},
}


def refusal(call: Callable[[], None]) -> ErrorCode | None:
    """The code with which it is refused, if it is."""
    try:
        call()
    except ReplyError as error:
        return error.code
    return None


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("action", Action, ids=lambda action: action.name)
def test_every_action_of_every_caller(caller: str, action: Action) -> None:
    who = CALLERS[caller]
    allowed = action in MAY[caller]
    assert access.may(who, action, iter(MEMBERS)) is allowed
    refused = refusal(lambda: access.require(who, action, iter(MEMBERS)))
    sees_it = A.SEE_PROJECT in MAY[caller]
    assert refused == (None if allowed else ErrorCode.FORBIDDEN if sees_it else ErrorCode.UNKNOWN_PROJECT)


@pytest.mark.parametrize("action", Action, ids=lambda action: action.name)
def test_a_project_without_members_is_nobodys(action: Action) -> None:
    assert refusal(lambda: access.require(principal(1), action, [])) is ErrorCode.UNKNOWN_PROJECT


def test_absent_and_foreign_are_refused_in_the_same_words() -> None:
    said = []
    for members in ([], MEMBERS):
        with pytest.raises(ReplyError) as caught:
            access.require(principal(NOT_A_MEMBER), A.SEE_PROJECT, members)
        said.append((caught.value.code, caught.value.message, caught.value.details))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("who", "site", "expected"),
    [
        (principal(1, 2), 2, None),
        (principal(1), 2, ErrorCode.UNKNOWN_SITE),
        (principal(), 404, ErrorCode.UNKNOWN_SITE),
        (principal(operator=True), 2, None),
    ],
)
def test_acting_for_a_site(who: Principal, site: int, expected: ErrorCode | None) -> None:
    assert refusal(lambda: access.require_site(who, site)) == expected


RUNS = {
    # caller: (own run, another participant's run)
    "coordinator": (True, True),
    "participant": (True, False),
    "stranger": (False, False),
    "nobody": (False, False),
    "operator": (True, True),
}


@pytest.mark.parametrize("caller", RUNS)
def test_who_sees_a_run(caller: str) -> None:
    who = CALLERS[caller]
    runs = (PARTICIPANT.site_id, OTHER.site_id)
    assert tuple(access.may_see_run(who, site, MEMBERS) for site in runs) == RUNS[caller]


@pytest.mark.parametrize(
    ("caller", "site", "expected"),
    [
        ("coordinator", 1, None),
        ("coordinator", 2, ErrorCode.FORBIDDEN),
        ("participant", 2, None),
        ("participant", 1, ErrorCode.UNKNOWN_RUN),
        ("participant", 3, ErrorCode.UNKNOWN_RUN),
        ("stranger", 2, ErrorCode.UNKNOWN_RUN),
        ("operator", 2, None),
    ],
)
def test_who_moves_a_run_by_itself(caller: str, site: int, expected: ErrorCode | None) -> None:
    assert refusal(lambda: access.require_own_run(CALLERS[caller], site, MEMBERS)) == expected


@pytest.mark.parametrize(
    ("caller", "seen"),
    [
        ("coordinator", {1, 2, 3}),
        ("participant", {1, 2}),
        ("stranger", set()),
        ("nobody", set()),
        ("operator", {1, 2, 3}),
    ],
)
def test_who_sees_a_member(caller: str, seen: set[int]) -> None:
    assert {one.site_id for one in MEMBERS if access.may_see_member(CALLERS[caller], one, MEMBERS)} == seen


# Events

AUDIENCES = {
    "everybody": None,
    "nobody": frozenset[int](),
    "the coordinator": frozenset({1}),
    "the participant": frozenset({2}),
    "the other": frozenset({3}),
}
SENDERS = {"the relay": None, "the coordinator": 1, "the participant": 2, "the other": 3}


@pytest.mark.parametrize("audience", AUDIENCES)
@pytest.mark.parametrize("sender", SENDERS)
def test_who_sees_an_event(audience: str, sender: str) -> None:
    event = draft(audience=AUDIENCES[audience], sender_id=SENDERS[sender])
    for member in MEMBERS:
        to = AUDIENCES[audience]
        addressed = to is None or member.site_id in to
        expected = member is COORDINATOR or addressed or SENDERS[sender] == member.site_id
        assert access.sees(member.site_id, member.role, event) is expected, member


@pytest.mark.parametrize(
    ("role", "other", "expected"),
    [
        (Role.COORDINATOR, Role.COORDINATOR, True),
        (Role.COORDINATOR, Role.PARTICIPANT, True),
        (Role.PARTICIPANT, Role.COORDINATOR, True),
        (Role.PARTICIPANT, Role.PARTICIPANT, False),
    ],
)
def test_who_sees_whose_presence(role: Role, other: Role, expected: bool) -> None:
    assert access.sees_presence_of(role, other) is expected


@pytest.mark.parametrize("kind", sorted(PUBLISHABLE))
@pytest.mark.parametrize("role", Role)
def test_who_publishes_which_kind(role: Role, kind: Kind) -> None:
    allowed = role is Role.COORDINATOR or kind is not Kind.COMMAND
    refused = refusal(lambda: access.require_publish(role, kind))
    assert refused == (None if allowed else ErrorCode.FORBIDDEN)


def test_an_operator_has_no_part_in_a_training() -> None:
    """It sees and administers, and speaks for no site by being an operator."""
    for action in (A.PUBLISH, A.COMMAND):
        assert not access.may(principal(operator=True), action, MEMBERS)
