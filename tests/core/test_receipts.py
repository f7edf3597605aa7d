"""Who has acknowledged what its sender wanted to hear of: each once, and only what the site was shown."""

from __future__ import annotations

import pytest

from relay.core.hub import Member
from relay.core.model import Entry, Role
from relay.core.receipts import Receipts
from tests.support.world import NOW_US, draft

PROJECT = 1
COORDINATOR = Member(site_id=1, uid="co", role=Role.COORDINATOR, participant_id=1, joined=0)
ONE = Member(site_id=2, uid="one", role=Role.PARTICIPANT, participant_id=2, joined=0)
TWO = Member(site_id=3, uid="two", role=Role.PARTICIPANT, participant_id=3, joined=0)


def entry(offset: int, *, sender: Member = COORDINATOR, to: frozenset[int] | None = None) -> Entry:
    one = draft(sender_id=sender.site_id, sender_uid=sender.uid, audience=to, receipts=True)
    return Entry(project_id=PROJECT, offset=offset, at_us=NOW_US, draft=one)


@pytest.fixture
def receipts() -> Receipts:
    made = Receipts()
    for offset in (2, 4, 6):
        made.expect(PROJECT, entry(offset))
    return made


def settled(receipts: Receipts, member: Member, offset: int) -> list[int | None]:
    return [one.offset for one in receipts.settle(PROJECT, member, offset)]


def test_an_acknowledgement_settles_everything_up_to_it_once(receipts: Receipts) -> None:
    assert settled(receipts, ONE, 1) == []
    assert settled(receipts, ONE, 4) == [2, 4]
    assert settled(receipts, ONE, 4) == []
    assert settled(receipts, ONE, 3) == []
    assert settled(receipts, ONE, 5) == []
    assert settled(receipts, ONE, 99) == [6]


def test_each_site_settles_for_itself(receipts: Receipts) -> None:
    assert settled(receipts, ONE, 6) == [2, 4, 6]
    assert settled(receipts, TWO, 6) == [2, 4, 6]


def test_a_sender_gives_itself_no_receipt(receipts: Receipts) -> None:
    receipts.expect(PROJECT, entry(7, sender=ONE, to=frozenset({COORDINATOR.site_id})))
    assert settled(receipts, COORDINATOR, 9) == [7]
    assert settled(receipts, ONE, 9) == [2, 4, 6]


def test_what_a_site_may_not_see_it_does_not_acknowledge(receipts: Receipts) -> None:
    receipts.expect(PROJECT, entry(7, to=frozenset({TWO.site_id})))
    assert settled(receipts, ONE, 9) == [2, 4, 6]
    assert settled(receipts, TWO, 9) == [2, 4, 6, 7]


def test_what_was_before_a_site_joined_it_does_not_acknowledge(receipts: Receipts) -> None:
    late = Member(site_id=4, uid="late", role=Role.PARTICIPANT, participant_id=4, joined=4)
    assert settled(receipts, late, 9) == [6]


def test_what_lies_before_a_stored_cursor_has_had_its_receipt(receipts: Receipts) -> None:
    receipts.starts_from(PROJECT, ONE.site_id, 4)
    assert settled(receipts, ONE, 9) == [6]
    receipts.starts_from(PROJECT, ONE.site_id, 0)
    assert settled(receipts, ONE, 9) == []


def test_projects_are_apart(receipts: Receipts) -> None:
    assert list(receipts.settle(PROJECT + 1, ONE, 9)) == []
    assert settled(receipts, ONE, 9) == [2, 4, 6]


def test_what_was_loaded_and_what_comes_after_are_one_row_without_repetition(receipts: Receipts) -> None:
    receipts.load(PROJECT, [entry(10), entry(12)], {})
    for offset in (11, 12, 13):
        receipts.expect(PROJECT, entry(offset))
    assert settled(receipts, ONE, 99) == [10, 12, 13]


def test_what_was_acknowledged_before_it_was_loaded_is_settled(receipts: Receipts) -> None:
    receipts.drop(PROJECT)
    receipts.load(PROJECT, [entry(2), entry(4), entry(6)], {ONE.site_id: 4})
    assert settled(receipts, ONE, 6) == [6]
    assert settled(receipts, TWO, 6) == [2, 4, 6]


def test_a_project_that_was_let_go_is_forgotten(receipts: Receipts) -> None:
    assert settled(receipts, ONE, 4) == [2, 4]
    receipts.drop(PROJECT)
    assert settled(receipts, ONE, 9) == []
    receipts.drop(PROJECT)


def test_the_newest_are_remembered(receipts: Receipts) -> None:
    for offset in range(10, 10 + Receipts.PER_PROJECT):
        receipts.expect(PROJECT, entry(offset))
    found = settled(receipts, ONE, 10**6)
    assert found == list(range(10, 10 + Receipts.PER_PROJECT))
