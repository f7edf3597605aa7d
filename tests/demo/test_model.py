"""The mathematics: pooled moments, training, averaging, and what travels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.demo import data, model
from relay.demo.data import SHARES


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e6]))
def test_pooled_moments_are_those_of_all_cases_together(sizes: list[int], offset: float) -> None:
    rng = np.random.default_rng(len(sizes))
    parts = [offset + rng.normal(size=(size, 3)) * [1, 10, 0.1] for size in sizes]
    together = np.concatenate(parts)
    pooled = model.pool([model.moments(part) for part in parts])
    assert pooled.n == len(together)
    np.testing.assert_allclose(pooled.mean, together.mean(axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(pooled.m2 / pooled.n, together.var(axis=0), rtol=1e-6, atol=1e-9)


def test_a_feature_that_does_not_vary_is_left_as_it_is() -> None:
    constant = model.moments(np.full((5, 1), 7.0))
    assert constant.scale.tolist() == [1.0]


def test_standardised_features_have_mean_0_deviation_1_and_an_intercept() -> None:
    cases = data.of_all()
    whole = model.moments(cases.x)
    x = model.standardised(cases.x, whole.mean, whole.scale)
    np.testing.assert_allclose(x[:, :-1].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(x[:, :-1].std(axis=0), 1)
    assert set(x[:, -1]) == {1.0}


def test_sites_count_by_their_cases() -> None:
    averaged = model.average([(1, np.array([0.0, 4.0])), (3, np.array([4.0, 0.0]))])
    assert averaged.tolist() == [3.0, 1.0]


def test_one_epoch_everywhere_averages_to_one_epoch_on_all_cases() -> None:
    """With a single step a round, federated averaging is gradient descent on the pooled data (McMahan et al., 3)."""
    parts = [data.of_site(share.site) for share in SHARES]
    pooled = model.pool([model.moments(part.x) for part in parts])

    def stepped(cases: data.Cases) -> tuple[int, data.Floats]:
        x = model.standardised(cases.x, pooled.mean, pooled.scale)
        (step,) = model.train(np.zeros(x.shape[1]), x, cases.y, 1)
        return len(cases), step.weights

    _, central = stepped(data.of_all())
    np.testing.assert_allclose(model.average([stepped(part) for part in parts]), central, rtol=1e-9)


def test_training_lowers_the_loss_and_learns() -> None:
    cases = data.of_site(SHARES[0].site)
    mine = model.moments(cases.x)
    x = model.standardised(cases.x, mine.mean, mine.scale)
    steps = list(model.train(np.zeros(x.shape[1]), x, cases.y, 30))
    losses = [step.loss for step in steps]
    assert [step.epoch for step in steps] == list(range(1, 31))
    assert losses == sorted(losses, reverse=True)
    assert steps[-1].accuracy > 0.95


def test_probabilities_stand_extremes() -> None:
    assert model.probabilities(np.array([1e6]), np.array([[1.0], [-1.0]])).tolist() == pytest.approx([1.0, 0.0])


def test_arrays_travel_unchanged() -> None:
    weights = np.array([1.5, -np.pi])
    arrays = model.unpack(model.pack(n=3, weights=weights))
    assert int(arrays["n"]) == 3
    assert np.array_equal(arrays["weights"], weights)


def test_nothing_pickled_is_read() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, evil=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        model.unpack(buffer.getvalue())
