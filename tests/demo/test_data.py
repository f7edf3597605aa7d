"""How cases are dealt out to the sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.demo import data
from relay.demo.data import SHARES, Share


def shares_of(benign: list[int], malignant: list[int]) -> list[Share]:
    """Shares in proportion to these numbers."""
    return [
        Share(site=str(number), benign=b / sum(benign), malignant=m / sum(malignant))
        for number, (b, m) in enumerate(zip(benign, malignant, strict=True))
    ]


@given(
    labels=st.lists(st.integers(0, 1), max_size=80),
    parts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
)
def test_every_case_goes_to_exactly_one_site(labels: list[int], parts: list[tuple[int, int]]) -> None:
    y = np.array(labels, dtype=np.int64)
    shares = shares_of([b for b, _ in parts], [m for _, m in parts])
    dealt = data.deal(y, shares, np.random.default_rng(0))
    assert len(dealt) == len(shares)
    assert sorted(index for part in dealt for index in part.tolist()) == list(range(len(y)))


def test_sites_get_their_shares_of_each_class() -> None:
    y = np.array([0] * 100 + [1] * 50, dtype=np.int64)
    dealt = data.deal(y, shares_of([6, 3, 1], [1, 1, 8]), np.random.default_rng(0))
    assert [(int(np.sum(y[part] == 0)), int(np.sum(y[part] == 1))) for part in dealt] == [(60, 5), (30, 5), (10, 40)]


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        data.deal(np.array([0, 1]), [Share(site="a", benign=0.5, malignant=1.0)], np.random.default_rng(0))


def test_the_sites_of_the_demo_share_out_the_training_cases_and_no_test_case() -> None:
    parts = [data.of_site(share.site) for share in SHARES]
    everything, test = data.of_all(), data.for_test()
    assert sum(len(part) for part in parts) == len(everything)
    assert len(everything) + len(test) == 569
    rows = {row.tobytes() for part in parts for row in part.x}
    assert rows == {row.tobytes() for row in everything.x}
    assert not rows & {row.tobytes() for row in test.x}


def test_the_sites_differ_in_size_and_in_kind() -> None:
    parts = [data.of_site(share.site) for share in SHARES]
    assert max(len(part) for part in parts) > 2 * min(len(part) for part in parts)
    malignant = [float(part.y.mean()) for part in parts]
    assert max(malignant) > 2 * min(malignant)


def test_every_process_sees_the_same_split() -> None:
    first = data.of_site(SHARES[0].site)
    data._indices.cache_clear()
    again = data.of_site(SHARES[0].site)
    assert np.array_equal(first.x, again.x)
