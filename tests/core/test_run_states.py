"""The states of a run: every pair, as the controllers in the field know them."""

from __future__ import annotations

import itertools

import pytest

from relay.core.run_states import BY_DISPLAY, TERMINAL, TRANSITIONS, Status, common, may_move

S = Status

ALLOWED = {
    (S.PENDING_FAILED, S.FAILED),
    (S.STANDBY, S.PREPARING),
    (S.STANDBY, S.PENDING_FAILED),
    (S.PREPARING, S.RUNNING),
    (S.PREPARING, S.PENDING_FAILED),
    (S.RUNNING, S.PENDING_SUCCESS),
    (S.RUNNING, S.PENDING_FAILED),
    (S.PENDING_SUCCESS, S.PENDING_AGGREGATING),
    (S.PENDING_SUCCESS, S.SUCCESS),
    (S.PENDING_AGGREGATING, S.AGGREGATING),
    (S.PENDING_AGGREGATING, S.FAILED),
    (S.AGGREGATING, S.SUCCESS),
    (S.AGGREGATING, S.FAILED),
} | {(status, S.STANDBY) for status in Status}
"""Written out by itself: the table in the code must say the same."""


@pytest.mark.parametrize(("now", "to"), list(itertools.product(Status, repeat=2)), ids=lambda status: status.name)
def test_every_pair(now: Status, to: Status) -> None:
    assert may_move(now, to) is ((now, to) in ALLOWED)


def test_the_table_has_every_status() -> None:
    assert set(TRANSITIONS) == set(Status)


def test_every_status_can_be_reached_from_standby() -> None:
    reached = {Status.STANDBY}
    while more := {to for now in reached for to in TRANSITIONS[now]} - reached:
        reached |= more
    assert reached == set(Status)


def test_the_codes_are_those_of_the_polling_api() -> None:
    assert {int(status): status.display for status in Status} == {
        0: "Failed",
        1: "Pending Failed",
        2: "Standby",
        3: "Preparing",
        4: "Running",
        5: "Pending Success",
        6: "Pending Aggregating",
        7: "Aggregating",
        8: "Success",
    }


def test_a_display_string_names_its_status() -> None:
    assert {display: status for status in Status for display in [status.display]} == BY_DISPLAY


def test_a_run_ends_in_failed_or_success_alone() -> None:
    assert {status for status in Status if status.is_terminal} == {Status.FAILED, Status.SUCCESS} == TERMINAL


def test_the_common_status_of_a_batch() -> None:
    assert common([Status.RUNNING, Status.RUNNING]) is Status.RUNNING
    assert common([Status.FAILED]) is Status.FAILED
    assert common([Status.RUNNING, Status.STANDBY]) is None
    assert common([]) is None
