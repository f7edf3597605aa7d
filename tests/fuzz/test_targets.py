"""A short turn of every fuzz target, by a seed of its own each time. `make fuzz` is the long one, led by coverage."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from tests.fuzz import targets
from tests.fuzz.mutate import inputs
from tests.fuzz.targets import TARGETS

INPUTS = 400
DEADLINE_S = 5.0
"""Of the processor's time, for one input: ten times what the slowest takes on a busy machine."""


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    targets.close()


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_read_or_refused_and_in_time(name: str, rng: random.Random) -> None:
    target = TARGETS[name]
    for data in itertools.islice(inputs(target, rng), INPUTS):
        began = time.process_time()
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for {data!r}") from error
        assert time.process_time() - began < DEADLINE_S, f"too long for {data!r}"
