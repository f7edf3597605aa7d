"""Where delivery begins: the cases of the contract as a table, and what holds for all of them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.protocol.position import JournalBounds, Resume, judge_resume

JOURNAL = JournalBounds(epoch="now", head=100)
TRIMMED = JournalBounds(epoch="now", head=100, oldest=41)
EMPTY = JournalBounds(epoch="now", head=0)
WIPED = JournalBounds(epoch="now", head=100, oldest=101)


def start(at: int, *, recovered: bool = True) -> Resume:
    return Resume(start=at, recovered=recovered)


@pytest.mark.parametrize(
    ("requested", "epoch", "journal", "cursor", "joined", "expected"),
    [
        # The client says where.
        (60, "now", JOURNAL, 10, 0, start(60)),
        (60, None, JOURNAL, 10, 0, start(60)),
        (0, "now", JOURNAL, 10, 0, start(0)),
        (100, "now", JOURNAL, None, 0, start(100)),
        ("new", None, JOURNAL, 10, 0, start(100)),
        ("new", "other", JOURNAL, 10, 0, start(100)),
        # … but the journal is another one, or does not reach as far.
        (60, "other", JOURNAL, 10, 0, start(0, recovered=False)),
        (101, "now", JOURNAL, 10, 0, start(0, recovered=False)),
        (101, None, JOURNAL, 10, 0, start(0, recovered=False)),
        (60, "other", TRIMMED, None, 0, start(40, recovered=False)),
        # … or no longer reaches back to it.
        (39, "now", TRIMMED, None, 0, start(40, recovered=False)),
        (40, "now", TRIMMED, None, 0, start(40)),
        (99, "now", WIPED, None, 0, start(100, recovered=False)),
        (100, "now", WIPED, None, 0, start(100)),
        # The relay's cursor says where.
        (None, None, JOURNAL, 30, 0, start(30)),
        (None, None, JOURNAL, 0, 0, start(0)),
        (None, None, TRIMMED, 30, 0, start(40, recovered=False)),
        (None, None, JOURNAL, 130, 0, start(0, recovered=False)),
        # Nothing says where: everything that is for this site.
        (None, None, JOURNAL, None, 0, start(0)),
        (None, None, TRIMMED, None, 0, start(40, recovered=False)),
        (None, None, EMPTY, None, 0, start(0)),
        # What was before the site joined is not for it, and not missing.
        (None, None, JOURNAL, None, 70, start(70)),
        (0, "now", JOURNAL, None, 70, start(70)),
        (10, None, TRIMMED, None, 70, start(70)),
        (None, None, TRIMMED, None, 20, start(40, recovered=False)),
        (80, "now", JOURNAL, None, 70, start(80)),
        (80, "other", JOURNAL, None, 70, start(70, recovered=False)),
    ],
)
def test_where_delivery_begins(
    requested: int | Literal["new"] | None,
    epoch: str | None,
    journal: JournalBounds,
    cursor: int | None,
    joined: int,
    expected: Resume,
) -> None:
    assert judge_resume(requested, epoch, journal=journal, cursor=cursor, joined=joined) == expected


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    head = draw(st.integers(0, 20))
    journal = JournalBounds(epoch="now", head=head, oldest=draw(st.integers(1, head + 1)))
    return {
        "requested": draw(st.none() | st.just("new") | st.integers(0, 25)),
        "requested_epoch": draw(st.sampled_from([None, "now", "other"])),
        "journal": journal,
        "cursor": draw(st.none() | st.integers(0, 25)),
        "joined": draw(st.integers(0, head)),
    }


def judge(case: dict[str, Any]) -> Resume:
    return judge_resume(**case)


@given(case=cases())
def test_delivery_begins_within_the_journal_and_not_before_the_site_joined(case: dict[str, Any]) -> None:
    resume, journal = judge(case), case["journal"]
    assert max(journal.oldest - 1, case["joined"]) <= resume.start <= journal.head


@given(case=cases())
def test_recovered_says_that_nothing_between_is_missing(case: dict[str, Any]) -> None:
    """Recovered: every entry after what was asked for, and after joining, is still there to be delivered."""
    resume = judge(case)
    asked = case["cursor"] if case["requested"] is None else case["requested"]
    assume(resume.recovered and asked != "new")
    assert resume.start == max(asked or 0, case["joined"])
    assert case["requested_epoch"] in (None, "now") or asked is None


@given(case=cases())
def test_not_recovered_begins_at_the_oldest_that_is_kept_for_the_site(case: dict[str, Any]) -> None:
    resume = judge(case)
    assume(not resume.recovered)
    assert resume.start == max(case["journal"].oldest - 1, case["joined"])


@given(case=cases())
def test_asking_for_where_one_stands_is_always_good(case: dict[str, Any]) -> None:
    """A client that reconnects with what a welcome told it goes on there."""
    resume = judge(case)
    again = judge(case | {"requested": resume.start, "requested_epoch": case["journal"].epoch})
    assert again == Resume(start=resume.start, recovered=True)


@given(case=cases(), more=st.integers(0, 5))
def test_a_journal_that_grows_does_not_move_where_a_cursor_stands(case: dict[str, Any], more: int) -> None:
    assume(case["requested"] != "new" and judge(case).recovered)
    journal = case["journal"]
    grown = JournalBounds(epoch=journal.epoch, head=journal.head + more, oldest=journal.oldest)
    assert judge(case | {"journal": grown}) == judge(case)
