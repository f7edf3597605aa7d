"""What the demo calls a success."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from relay.demo import main
from relay.demo.play import Outcome
from relay.demo.yardstick import Yardstick

GOOD = Outcome(
    accuracy=0.96,
    rounds=2,
    statuses={"Registry": "Success", "St. Anna": "Success"},
    push_ms=[float(number) for number in range(1, 201)],
    resumed=True,
    yardstick=Yardstick(central=0.97, alone={"St. Anna": 0.9, "Lakeside": 0.8}),
    sealed=400,
    readable=0,
)


def test_all_well() -> None:
    assert GOOD.faults == []
    shown = json.loads(GOOD.as_json())
    assert shown["ok"] is True
    assert (shown["accuracy"], shown["accuracy_central"], shown["accuracy_alone"]) == (0.96, 0.97, 0.85)
    assert (shown["rounds"], shown["sites"]) == (2, 2)
    assert (shown["push_ms_p50"], shown["push_ms_p99"]) == (101.0, 199.0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"statuses": {"Registry": "Success", "St. Anna": "Failed"}}, "St. Anna ended in Failed"),
        ({"accuracy": 0.93}, "0.040 less accurate"),
        ({"resumed": False}, "did not go on"),
        ({"readable": 3}, "should not have been able to read"),
    ],
)
def test_what_did_not_go_well_is_a_fault(change: dict[str, object], fault: str) -> None:
    outcome = replace(GOOD, **change)  # type: ignore[arg-type]
    assert len(outcome.faults) == 1
    assert fault in outcome.faults[0]
    assert json.loads(outcome.as_json())["ok"] is False


def test_a_better_model_than_the_central_one_is_no_fault() -> None:
    assert replace(GOOD, accuracy=1.0).faults == []


def test_no_rounds_are_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(rounds=0) == 2
    assert "at least 1 round" in capsys.readouterr().err
