"""What polls are shown of a run that has just entered Preparing, and what they may be answered late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.core import polls
from relay.core.model import Role, Run
from relay.core.run_states import Status

DWELL_US = 6_000_000
ENTERED_US = 1_000_000_000

RUN = Run(
    id=1,
    project_id=1,
    batch=1,
    participant_id=1,
    site_id=1,
    site_uid="a",
    role=Role.COORDINATOR,
    cur_seq=1,
    status=Status.RUNNING,
    tasks=[],
    logs=[],
    artifacts=[],
    middle_artifacts=[],
    agent_advice={},
    agent_diagnosis={},
    created_us=0,
    updated_us=0,
    preparing_us=ENTERED_US,
)


@pytest.mark.parametrize("status", Status)
def test_only_what_a_batch_goes_on_to_is_shown_late(status: Status) -> None:
    run = replace(RUN, status=status)
    during = polls.shown(run, ENTERED_US + DWELL_US - 1, DWELL_US)
    assert during is (Status.PREPARING if status in polls.LATER else status)
    assert polls.shown(run, ENTERED_US + DWELL_US, DWELL_US) is status


def test_a_run_that_never_prepared_is_shown_as_it_is() -> None:
    assert polls.shown(replace(RUN, preparing_us=None), ENTERED_US, DWELL_US) is Status.RUNNING


def test_a_start_is_known_as_repeated_while_polls_show_preparing_and_a_moment_longer() -> None:
    batch = [RUN, replace(RUN, id=2, status=Status.PENDING_SUCCESS)]
    end_us = ENTERED_US + DWELL_US
    assert polls.repeats_start(batch, ENTERED_US, DWELL_US)
    assert polls.repeats_start(batch, end_us + polls.ON_THE_WAY_US - 1, DWELL_US)
    assert not polls.repeats_start(batch, end_us + polls.ON_THE_WAY_US, DWELL_US)


@pytest.mark.parametrize("status", sorted(set(Status) - polls.LATER))
def test_a_start_is_no_repeat_if_a_run_stands_before_it_or_has_ended(status: Status) -> None:
    assert not polls.repeats_start([RUN, replace(RUN, id=2, status=status)], ENTERED_US, DWELL_US)


def test_who_is_shown_all_at_once_repeats_nothing() -> None:
    assert not polls.repeats_start([RUN], ENTERED_US, 0)
