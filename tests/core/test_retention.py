"""What has to go of a journal: the oldest, in order, never what somebody lacks, unless a hard limit says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import retention
from relay.core.model import Aged, Holding
from relay.core.retention import RetentionLimits, cut
from tests.support.world import NOW_US

S = 1_000_000


def aged(*ages_s: float, size: int = 10, first: int = 1) -> list[Aged]:
    """Events of these ages, from the oldest on."""
    return [
        Aged(offset=offset, at_us=NOW_US - int(age_s * S), size=size)
        for offset, age_s in enumerate(ages_s, start=first)
    ]


def go(
    entries: list[Aged], limits: RetentionLimits, *, acknowledged: int = 1_000, total: int | None = None
) -> int | None:
    size = sum(entry.size for entry in entries) if total is None else total
    step = cut(entries, total=size, acknowledged=acknowledged, limits=limits, now_us=NOW_US)
    return None if step is None else step[0]


def test_what_is_too_old_goes_and_what_is_not_stays() -> None:
    assert go(aged(9, 8, 7, 3, 2), RetentionLimits(age_s=5)) == 3
    assert go(aged(4, 3), RetentionLimits(age_s=5)) is None
    assert go(aged(9, 8), RetentionLimits(age_s=5)) == 2
    assert go([], RetentionLimits(age_s=5)) is None


def test_the_oldest_go_until_the_rest_fits() -> None:
    assert go(aged(1, 1, 1, 1), RetentionLimits(bytes=25)) == 2
    assert go(aged(1, 1, 1, 1), RetentionLimits(bytes=40)) is None
    assert go(aged(1, 1), RetentionLimits(bytes=25), total=10_000) == 2
    assert go(aged(1, size=50), RetentionLimits(bytes=25)) == 1


def test_what_a_member_lacks_stays_unless_a_hard_limit_says_so() -> None:
    entries = aged(9, 8, 7, 3, 2)
    assert go(entries, RetentionLimits(age_s=5), acknowledged=1) == 1
    assert go(entries, RetentionLimits(age_s=5), acknowledged=0) is None
    assert go(entries, RetentionLimits(age_s=5, hard_age_s=8.5), acknowledged=0) == 1
    assert go(entries, RetentionLimits(bytes=10, hard_bytes=30), acknowledged=1) == 2
    assert go(entries, RetentionLimits(hard_bytes=1), acknowledged=0) == 5


def test_an_event_that_stays_keeps_all_after_it() -> None:
    """A clock that was set back makes later events look older."""
    assert go(aged(9, 2, 8), RetentionLimits(age_s=5)) == 1


def test_a_step_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_BYTES", 25)
    assert cut(aged(9, 9, 9, 9), total=40, acknowledged=9, limits=RetentionLimits(age_s=1), now_us=NOW_US) == (3, 30)


def test_a_projects_own_limits_go_before_the_relays_but_for_the_hard_ones() -> None:
    limits = RetentionLimits(age_s=5, bytes=7, hard_age_s=50, hard_bytes=70)
    own = Holding(project_id=1, oldest=1, head=9, age_s=0, bytes=None)
    assert limits.of(own) == RetentionLimits(age_s=0, bytes=7, hard_age_s=50, hard_bytes=70)
    assert not RetentionLimits(age_s=5).of(own).any


@given(
    ages=st.lists(st.integers(0, 100), max_size=20),
    limits=st.builds(
        RetentionLimits,
        age_s=st.integers(0, 100),
        bytes=st.integers(0, 200),
        hard_age_s=st.integers(0, 100),
        hard_bytes=st.integers(0, 200),
    ),
    acknowledged=st.integers(0, 25),
)
def test_repeated_steps_end_within_the_hard_limits_and_touch_nothing_that_is_lacked_otherwise(
    ages: list[int], limits: RetentionLimits, acknowledged: int
) -> None:
    entries = aged(*ages)
    while (through := go(entries, limits, acknowledged=acknowledged)) is not None:
        assert through >= entries[0].offset
        if not limits.hard_age_s and not limits.hard_bytes:
            assert through <= acknowledged
        entries = [entry for entry in entries if entry.offset > through]
    if limits.hard_bytes:
        assert sum(entry.size for entry in entries) <= limits.hard_bytes
    if limits.hard_age_s and entries:
        assert entries[0].at_us >= NOW_US - limits.hard_age_s * S
